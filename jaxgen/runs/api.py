"""jaxgen from Python: `jaxgen.train(...)`, `jaxgen.load(...).generate(...)`, `.evaluate(...)`.

They do what the commands do, with the same defaults, and raise the same `UserError`.
"""

import base64
import dataclasses
import functools
import html
import io
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np
import soundfile
from numpy.typing import NDArray

from jaxgen.config import Config, instances_by_name, parse
from jaxgen.config import load as load_config_file
from jaxgen.core.errors import ExitCode, Preempted, UserError
from jaxgen.core.names import check_no_link_out, expand
from jaxgen.core.numerics import fix_settings
from jaxgen.core.options import check_one_code
from jaxgen.evaluation.audio_metric import AudioMetric
from jaxgen.features import Decoder
from jaxgen.inference.sampler import ClipRequest, ClipSampler, check_size, parse_bars
from jaxgen.inference.score_files import write_beside
from jaxgen.inference.vocoder_run import open_vocoder
from jaxgen.recipes.presets import load_config
from jaxgen.runs.evaluation import EvaluationRequest, evaluate_run
from jaxgen.runs.run import Run, enable_compilation_cache
from jaxgen.runs.training import train as train_run
from jaxgen.scores.score import Score
from jaxgen.storage import is_remote, open_run_copy, output_folder


def train(
    config: Config | str | os.PathLike[str] | None = None,
    *,
    data: str | os.PathLike[str] | None = None,
    workdir: str | os.PathLike[str] | None = None,
    overrides: Mapping[str, Any] | None = None,
    cache_dir: str = Config.cache_dir,
) -> "TrainedRun":
    """Trains a model, or goes on with a run that was stopped, as `python -m jaxgen.train` does; then opens the run.

    config: a config file or a `Config`; none takes a start for any sound in `data`, or without it the quickstart. data: folder
    of sound, as --data.root. workdir: folder of the run; none takes runs/ and the name of the config file or data folder.
    overrides: options of the command line by name, as {"train.steps": 3_000, "model.cell": "GRU"}.

    Raises UserError for what the user can mend, Diverged where training cannot go on, and Preempted, a KeyboardInterrupt,
    where it was interrupted: the same call goes on.
    """
    asked = dict(overrides or {}) | {"cache-dir": cache_dir}
    asked |= {} if data is None else {"data.root": os.fspath(data)}
    asked |= {} if workdir is None else {"workdir": os.fspath(workdir)}
    words = [word for name, value in asked.items() for word in _words(name, value)]
    if isinstance(config, Config):
        full = parse(Config, config, words, "jaxgen.train")
        if not full.workdir:
            raise UserError("the config names no workdir; pass jaxgen.train(config, workdir=FOLDER).")
    else:
        full = load_config([*([] if config is None else ["--config", os.fspath(config)]), *words], "jaxgen.train")
    code = train_run(full, None if config is None or isinstance(config, Config) else expand(os.fspath(config)))
    if code == ExitCode.PREEMPTED:
        raise Preempted("a signal")
    if code != ExitCode.DONE:
        raise UserError(f"the run in '{full.workdir}' is trained, but its report could not be made; see above.")
    return load(full.workdir, cache_dir=full.cache_dir)


def load(
    workdir: str | os.PathLike[str],
    *,
    step: int | None = None,
    config: str | os.PathLike[str] | None = None,
    cache_dir: str = Config.cache_dir,
    trust_code: bool = False,
) -> "TrainedRun":
    """Opens the best checkpoint of a run by validation, or that of `step`.

    workdir: its folder, also in an object store. config: Python file that defines classes of its config; it is code: pass only
    one that you trust. trust_code: run the code that the run holds, which defines these classes; it runs with your rights.
    Raises UserError where there is no such run, or it needs code that you have not allowed.
    """
    check_one_code(config, trust_code)
    fix_settings()
    enable_compilation_cache(cache_dir)
    if config is not None:
        load_config_file(os.fspath(config))
    name = expand(os.fspath(workdir))
    with open_run_copy(name, cache_dir) as folder:
        return TrainedRun(Run.open(folder, step, trust_code=trust_code), name, cache_dir)


@dataclasses.dataclass(frozen=True)
class TrainedRun:
    """A trained model. What it compiles is kept from call to call."""

    run: Run
    """What its folder holds: `config`, `spec` of the data, `params`, `step`."""
    workdir: str
    cache_dir: str

    def generate(
        self,
        num_clips: int = 8,
        *,
        labels: Mapping[str, str] | None = None,
        seconds: float | None = None,
        bars: int | None = None,
        prompt: NDArray[np.float32] | str | os.PathLike[str] | None = None,
        infill: str | None = None,
        melody: str | os.PathLike[str] | None = None,
        inputs: Mapping[str, str] | None = None,
        interpolate: int | None = None,
        seed: int = 0,
        soundfont: str | os.PathLike[str] | None = None,
        vocoder: str | os.PathLike[str] | None = None,
        **sampling: Any,
    ) -> "Waveforms":
        """New clips, those of `python -m jaxgen.generate` with the same options.

        labels: name to value, as {"digit": "3"}. seconds: longest clip. bars: length of clips of written music. prompt: the path
        of a file that every clip continues, or samples float32 [nsamp], of a stereo run [nsamp, 2], at its sample rate. infill:
        bars of that file, such as "5-8", that are written anew. melody: path of a file of written music, which is accompanied.
        inputs: streams that the model reads by name, each a text or the path of a file. interpolate: of a model of noise, one
        more clip on the way through all. vocoder: folder of the run of a vocoder that makes sound of frames. soundfont: file
        that plays written music. sampling: settings of how clips are drawn, as temperature=0.8.
        Raises UserError for an option that the model does not have, or a label never seen in training.
        """
        decoder, vocoder_run = self._vocoder(None if vocoder is None else os.fspath(vocoder))
        evaluation, sampler = self.run.config.evaluation.with_sampling(sampling), self._sampler(decoder)
        said = dict(inputs or {}) | ({} if melody is None else {"melody": expand(os.fspath(melody))})
        start, path = self._prompt(sampler, prompt)
        request = ClipRequest(
            num_clips=num_clips,
            labels={name: str(value) for name, value in (labels or {}).items()},
            seed=seed,
            seconds=seconds,
            prompt=start,
            interpolate=interpolate,
            input=self.run.spec.parse_inputs(said) if said else None,
            bars=bars,
            infill=None if infill is None else parse_bars(infill),
            timing=sampler.read_timing(path, said),
            soundfont=None if soundfont is None else expand(os.fspath(soundfont)),
        )
        check_size(sampler.max_samples(request), self.run.spec.features)
        rows, clips, scores = sampler.clips(self.run.params, request, evaluation.sampling)
        return Waveforms(
            tuple(clips),
            self.run.spec.features.sample_rate,
            tuple(rows),
            self.run,
            seed,
            vocoder_run,
            path or ("" if prompt is None else "samples that were given"),
            soundfont=request.soundfont,
            scores=tuple(scores) or None,
        )

    def _prompt(
        self, sampler: ClipSampler, prompt: NDArray[np.float32] | str | os.PathLike[str] | None
    ) -> tuple[NDArray[Any] | None, str | None]:
        """What clips begin with, and the path of its file; None for what is not there."""
        if prompt is None:
            return None, None
        if not isinstance(prompt, np.ndarray):
            path = expand(os.fspath(prompt))
            return sampler.read_prompt(path), path
        features = self.run.spec.features
        if features.is_symbolic:
            raise UserError(
                "the prompt is an array, and the run writes music; pass prompt the path of a file of written music."
            )
        if prompt.shape[1:] != features.sample_shape:
            expected = "[nsamp, 2], left and right" if features.sample_shape else "[nsamp]"
            raise UserError(f"the prompt has the shape {list(prompt.shape)}, expected samples {expected}.")
        return prompt, None

    def evaluate(
        self,
        data: str | os.PathLike[str] | None = None,
        *,
        pattern: str | None = None,
        metrics: Sequence[AudioMetric | str] = (),
        num_clips: int | None = None,
        seed: int = 0,
        vocoder: str | os.PathLike[str] | None = None,
        out: str | os.PathLike[str] | None = None,
        **sampling: Any,
    ) -> "Evaluation":
        """Figures of the run, as `python -m jaxgen.evaluate` reports them.

        data: folder whose every clip is test data; none takes the run's own validation clips. metrics: further ones, or their
        names. out: folder of the report; none takes evaluation in the run's folder. Raises UserError as the command does.
        """
        named = [metric for metric in metrics if isinstance(metric, str)]
        decoder, _ = self._vocoder(None if vocoder is None else os.fspath(vocoder))
        request = EvaluationRequest(
            root=None if data is None else expand(os.fspath(data)),
            pattern=pattern,
            metrics=(
                *(metric for metric in metrics if not isinstance(metric, str)),
                *instances_by_name(AudioMetric, named, "metrics"),
            ),
            num_clips=num_clips,
            sampling=sampling,
            seed=seed,
            decoder=decoder,
            cache_dir=self.cache_dir,
            about={"run": self.workdir, **sampling},
        )
        place = expand(os.fspath(out)) if out is not None else f"{self.workdir.rstrip('/')}/evaluation"
        if out is None and not is_remote(self.workdir):
            check_no_link_out(Path(self.workdir), ["evaluation"])
        with output_folder(place) as folder:
            result, _ = evaluate_run(self.run, request, folder)
        return Evaluation(result.metrics, result.table, f"{place}/report.html")

    @functools.cached_property
    def module(self) -> Any:
        """The Flax NNX module with the averaged parameters of the checkpoint."""
        return self.run.task.module(self.run.params)

    def _vocoder(self, name: str | None) -> tuple[Decoder | None, Run | None]:
        if name is None:
            return None, None
        run, decoder = _open_vocoder(expand(name), self.cache_dir, self.run.spec.features)
        return decoder, run

    def _sampler(self, decoder: Decoder | None) -> ClipSampler:
        if decoder not in self._samplers:
            config = self.run.config
            self._samplers[decoder] = config.evaluation.sampler(self.run.task, config.model, self.run.spec, decoder)
        return self._samplers[decoder]

    @functools.cached_property
    def _samplers(self) -> dict[Decoder | None, ClipSampler]:
        return {}


_open_vocoder = functools.lru_cache(8)(open_vocoder)


class Evaluation(Mapping[str, float]):
    """Figures of the model by unit-bearing name (docs/reference/metrics.md)."""

    def __init__(self, metrics: Mapping[str, float], table: Mapping[str, Mapping[str, float]], report: str):
        self._metrics, self.table, self.report = dict(metrics), table, report
        # table: figures of training data, held-out data, generated clips ..., by name of the group; report: path of the page

    def __getitem__(self, name: str) -> float:
        return self._metrics[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._metrics)

    def __len__(self) -> int:
        return len(self._metrics)

    def __repr__(self) -> str:
        figures = ", ".join(f"{name}={value}" for name, value in self._metrics.items())
        return f"Evaluation({figures}; report: {self.report})"


@dataclasses.dataclass(frozen=True)
class Waveforms(Sequence["Waveforms"]):
    """Generated clips. A notebook shows a player of each."""

    samples: tuple[NDArray[np.float32], ...]
    """[nsamp] each, or [nsamp, 2] of stereo sound; full scale 1.0."""
    sample_rate: int
    """Hz."""
    labels: tuple[Mapping[str, str], ...]
    """What each clip was asked to be."""
    run: Run = dataclasses.field(repr=False)
    seed: int
    vocoder: Run | None = dataclasses.field(default=None, repr=False)
    prompt: str = ""
    """What they continue, as the mark of what is synthetic says; empty for nothing."""
    first: int = 0
    """Place of the first clip among those that were made together."""
    soundfont: str | None = None
    """SoundFont file that played them; None for none."""
    scores: tuple[Score, ...] | None = dataclasses.field(default=None, repr=False)
    """Written music of each clip; None for models of sound."""

    def save(self, folder: str | os.PathLike[str]) -> list[Path]:
        """Writes a wav file of each clip, marked as synthetic inside and in a JSON file beside it; their paths. Of written
        music a MIDI file and a picture stand beside each.
        """
        wavs = self.run.save_clips(
            Path(expand(os.fspath(folder))),
            self.samples,
            self.labels,
            seed=self.seed,
            prompt=self.prompt,
            vocoder=self.vocoder,
            soundfont=self.soundfont,
            first=self.first,
            total=self.first + len(self),
        )
        if self.scores is not None:
            for wav, score in zip(wavs, self.scores, strict=True):
                write_beside(wav, score)
        return wavs

    def __len__(self) -> int:
        return len(self.samples)

    @overload
    def __getitem__(self, place: int) -> "Waveforms": ...
    @overload
    def __getitem__(self, place: slice) -> "Waveforms": ...
    def __getitem__(self, place: int | slice) -> "Waveforms":
        """One clip, or some that follow one another."""
        chosen = range(len(self))[place]
        chosen = range(chosen, chosen + 1) if isinstance(chosen, int) else chosen
        if chosen.step != 1:
            raise ValueError("clips are taken one after another, without a step")
        return dataclasses.replace(
            self,
            samples=tuple(self.samples[i] for i in chosen),
            labels=tuple(self.labels[i] for i in chosen),
            scores=None if self.scores is None else tuple(self.scores[i] for i in chosen),
            first=self.first + chosen.start,
        )

    def _repr_html_(self) -> str:
        return "".join(map(self._player, self.samples, self.labels))

    def _player(self, samples: NDArray[np.float32], labels: Mapping[str, str]) -> str:
        content = io.BytesIO()
        soundfile.write(content, samples, self.sample_rate, format="WAV", subtype="PCM_16")
        text = html.escape(", ".join(f"{name}: {value}" for name, value in labels.items()))
        source = f"data:audio/wav;base64,{base64.b64encode(content.getvalue()).decode()}"
        return f'<div>{text}<br><audio controls src="{source}"></audio></div>'


def _words(name: str, value: Any) -> list[str]:
    """An option of the command line. name: as in the config, with underscores, or as the option is written."""
    option = f"--{name.replace('_', '-')}"
    if isinstance(value, bool):
        head, _, last = option[2:].rpartition(".")
        return [option if value else f"--{head}{'.' if head else ''}no-{last}"]
    if isinstance(value, list | tuple):
        return [option, *map(str, value)]
    return [option, str(value)]
