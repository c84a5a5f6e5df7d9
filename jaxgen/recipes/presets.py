"""What runs when no config file is named: the quickstart, or a model for any folder of sound or of written music."""

import collections
import contextlib
import dataclasses
import operator
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxgen.audio import AudioError
from jaxgen.config import AutoregressiveEvaluation, Config, Train, load, parse, split_values
from jaxgen.core.errors import UserError
from jaxgen.core.names import display_name, expand
from jaxgen.data.clips import Dataset
from jaxgen.data.folder import Folder
from jaxgen.data.ingest import AudioPolicy
from jaxgen.data.public import PublicDataset
from jaxgen.data.scores import Scores, is_written_music
from jaxgen.data.synthetic import PluckedStrings
from jaxgen.evaluation.melody import Melody
from jaxgen.evaluation.score_evaluation import ScoreEvaluation
from jaxgen.features import Countdown, LogMel, PianoRoll
from jaxgen.models.mel_rnn import MelRNN
from jaxgen.models.score_rnn import ScoreRNN
from jaxgen.nn.distributions import NormalMixture, Sampling
from jaxgen.nn.note_heads import SortedKeys
from jaxgen.nn.recurrent import LSTM
from jaxgen.objectives.likelihood import Likelihood
from jaxgen.objectives.optimizer import AdamW
from jaxgen.storage import is_remote

_HIGHEST_RATE = 22_050
_MOST_OPENED = 1_000  # recordings
_USAGE = """Starts from --config FILE (a Python file with CONFIG), --data.root DIR (any folder of sound, or of written music),
--data.name NAME (a public data set), or with none of them from the quickstart; each option overrides one value. An option
that holds a class takes another class by name: --model.cell GRU; one that holds several takes any number: --train.loggers
TensorBoard WandB.

What most people change, and its default here:

{common}

Below are all options, by the part that they belong to."""
_COMMON = {
    "config": "start from this Python file; it is code: run only one that you trust",
    "data.root": "learn from the sound in this folder, or from MIDI, ABC and MusicXML files",
    "workdir": "folder of the run: checkpoints, clips, report",
    "train.steps": "updates; more take longer and learn more",
    "train.batch_size": "clips side by side; more are steadier, and take more time and memory",
    "train.seq_len": "samples or frames that an update looks back; more take more memory",
    "train.seed": "another seed draws everything anew",
    "model.cell.hidden_size": "width of the model; a wider one learns more and is slower",
    "model.num_layers": "depth of the model; a deeper one learns more and is slower",
    "model.labels": "label fields that clips can be asked for",
    "objective.optimizer.learning_rate": "higher learns faster, until it diverges",
}


_SHORT = {"--num-clips": "--evaluation.num-clips"}  # what the other verbs call it


def load_config(argv: Sequence[str], program: str) -> Config:
    """The config that a command line asks for: `--config FILE`, else `--data.root DIR` or `--data.name NAME`, else the
    quickstart; every other option overrides one value of it. Raises UserError for what cannot be understood.
    """
    args = [_SHORT.get(word, word) for word in split_values(argv)]
    path, root = config_file(argv), (value := _value(args, "--data.root")) and expand(value)
    name = _value(args, "--data.name")
    cache_dir = _value(args, "--cache-dir") or Config.cache_dir
    if path is not None:
        at = args.index("--config")
        args = args[:at] + args[at + 2 :]
        default, stem = load(path), Path(path).stem
    elif name is not None:
        default, stem = any_sound(PublicDataset(name=name, root=root or ""), cache_dir), name
    elif root is not None:
        default = any_music(Scores(root=root)) if is_written_music(root) else any_sound(Folder(root=root), cache_dir)
        stem = display_name(Path(root).resolve().name) or "data"
    else:
        default, stem = quickstart(), "quickstart"
    config = parse(Config, default, args, program, _usage(default, {"config": path or "", "data.root": root or ""}))
    data: Any = config.data
    if (root := getattr(data, "root", "")) and not is_remote(root):  # so that a run finds its data from any folder
        config = dataclasses.replace(config, data=dataclasses.replace(data, root=os.path.abspath(root)))
    return config if config.workdir else dataclasses.replace(config, workdir=str(Path("runs") / stem))


def config_file(argv: Sequence[str]) -> str | None:
    """The config file that a command line names; None where it names none."""
    path = _value(split_values(argv), "--config")
    return None if path is None else expand(path)


def quickstart() -> Config:
    """Plucked-string melodies that the project synthesises: under 3 minutes on 2 cores, no network."""
    data = PluckedStrings(num_clips=800)
    return Config(
        data=data,
        features=LogMel(sample_rate=data.sample_rate, n_fft=800, hop_length=400, n_mels=40, fmin=300.0, floor=1e-4),
        model=MelRNN(
            cell=LSTM(hidden_size=256),
            num_layers=1,
            input_noise=0.2,
            labels=("timbre", "tempo"),
            position_frequencies=7,  # lasts for 6.4 s
            distribution=NormalMixture(num_components=16, min_scale=0.4),
        ),
        objective=Likelihood(optimizer=AdamW(learning_rate=3e-3, warmup_steps=50), ema_decay=0.99),
        train=Train(steps=2_400, batch_size=16, seq_len=70, steps_per_call=5, eval_every=600, checkpoint_every=600),
        evaluation=AutoregressiveEvaluation(
            num_clips=32,
            clips_per_value=11,  # of three values: 32 in all, by the program that is compiled already
            sampling=Sampling(temperature=0.7, noise_scale=0.2),
            metrics=(Melody(scale_hz=data.scale_hz()),),
        ),
    )


def any_sound(data: Dataset, cache_dir: str = Config.cache_dir) -> Config:
    """A start for any kind of sound: an LSTM, log-mel frames at the rate of most recordings, at most 22,050 Hz."""
    rate = min(_usual_rate(data.fetch(cache_dir)), _HIGHEST_RATE)
    n_fft = 1 << (rate // 20).bit_length() - 1  # 32 to 50 ms
    return Config(
        data=data,
        features=LogMel(sample_rate=rate, n_fft=n_fft, hop_length=rate // 80, n_mels=64 if rate < 16_000 else 80),
        model=MelRNN(cell=LSTM(hidden_size=384), num_layers=2, dropout=0.1),
        train=Train(steps=4_000, batch_size=32, seq_len=96, steps_per_call=5),
    )


def any_music(data: Scores) -> Config:
    """A start for any written music: which of 88 keys sound, and which are struck, in as many bars as are asked for."""
    return Config(
        data=data,
        features=PianoRoll(),
        streams={"left": Countdown()},
        model=ScoreRNN(cell=LSTM(hidden_size=256), output=SortedKeys(), aligned_streams=("left",), dropout=0.2),
        objective=Likelihood(optimizer=AdamW(learning_rate=3e-3, warmup_steps=100, weight_decay=5e-2)),
        train=Train(steps=3_000, batch_size=16, seq_len=128, steps_per_call=5, eval_every=500, checkpoint_every=500),
        evaluation=ScoreEvaluation(num_clips=16, sampling=Sampling(temperature=0.9)),
    )


def _usual_rate(data: Dataset) -> int:
    """The sample rate in Hz that most hours of the recordings have, by the headers of at most `_MOST_OPENED` of them."""
    clips = data.clips()
    seconds = collections.defaultdict[int, float](float)
    for clip in clips[:: -(-len(clips) // _MOST_OPENED)]:
        with contextlib.suppress(AudioError), clip.open() as recording:
            seconds[recording.sample_rate] += min(recording.stated_seconds, AudioPolicy.max_seconds)
    # where nothing can be opened, preparing the data will say so, file by file
    return max(seconds, key=lambda rate: (seconds[rate], rate), default=_HIGHEST_RATE)


def _usage(default: Config, asked: Mapping[str, str]) -> str:
    """What --help says above the options. asked: values that are not the config's own."""
    rows = []
    for name, meaning in _COMMON.items():
        with contextlib.suppress(AttributeError):  # another model has other options
            value = asked[name] if name in asked else operator.attrgetter(name)(default)
            shown = " ".join(map(str, value)) if isinstance(value, tuple) else str(value)
            rows.append((f"--{name.replace('_', '-')} {shown}", meaning))
    width = max(len(option) for option, _ in rows)
    return _USAGE.format(common="\n".join(f"  {option:{width}}  {meaning}" for option, meaning in rows))


def _value(args: Sequence[str], option: str) -> str | None:
    if option not in args:
        return None
    at = args.index(option)
    if at + 1 == len(args):
        raise UserError(f"{option} needs a value.")
    return args[at + 1]
