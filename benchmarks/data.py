"""Speed of the data path: `python -m benchmarks.data`.

Preparing a folder of wav files (decode, encode, store) beside a plain librosa loop over them, and beside only reading
them, which is the limit. Then training batches, beside the train step that consumes them.
"""

import dataclasses
import itertools
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import librosa
import numpy as np

from benchmarks import measure
from benchmarks.measure import Row
from benchmarks.workloads import MEL, WAVE, Workload, bound, plucked, prepared, repeated_step
from jaxgen import audio
from jaxgen.config import parse
from jaxgen.data.folder import Folder
from jaxgen.data.ingest import AudioPolicy
from jaxgen.data.pipeline import Batch
from jaxgen.data.preparation import prepare
from jaxgen.features import LogMel, MuLaw

_READING = "reading only"
_TRAINING = "train step"


@dataclasses.dataclass(frozen=True)
class Options(measure.Repeated):
    """Speed of preparing data and of making training batches."""

    mel: Workload = MEL
    """A model of mel frames."""
    wave: Workload = WAVE
    """A model of samples."""
    files: int = 100
    """SyntheticDataset wav files of 3.5 s."""
    batches: int = 50
    """Batches that are timed together."""


def main(argv: Sequence[str]) -> list[Row]:
    """Measures, prints and returns the figures."""
    options = parse(Options, Options(), argv, "python -m benchmarks.data")
    place = measure.environment()
    works = (options.wave, options.mel)
    with tempfile.TemporaryDirectory() as temporary:
        sounds = Path(temporary, "sounds")
        measure.say(f"writing {options.files} files ...")
        audio_seconds = _write(sounds, options.files)
        rows = [row for work in works for row in _preparing(work, sounds, audio_seconds, temporary, options)]
        rows += [row for work in works for row in _batching(work, sounds, temporary, options)]
    measure.report(rows, place, options)
    return rows


def _write(folder: Path, count: int) -> float:
    """Writes the files; returns their length in seconds together."""
    folder.mkdir()
    seconds = 0.0
    for index, clip in enumerate(plucked(count).clips()):
        sound = clip.load()
        audio.write(folder / f"{index:05d}.wav", sound.samples[:, 0], sound.sample_rate)
        seconds += len(sound.samples) / sound.sample_rate
    return seconds


def _preparing(work: Workload, sounds: Path, audio_seconds: float, temporary: str, options: Options) -> list[Row]:
    measure.say(f"{type(work.features).__name__}: preparing {options.files} files, {options.repeats} rounds ...")
    data, again = Folder(root=str(sounds)), tempfile.mkdtemp(dir=temporary)
    prepare(data, work.features, AudioPolicy(), again)
    candidates: dict[str, Callable[[], object]] = {
        "prepare": lambda: prepare(data, work.features, AudioPolicy(), tempfile.mkdtemp(dir=temporary)),
        "open again": lambda: prepare(data, work.features, AudioPolicy(), again),
        "librosa, one file after another": lambda: [_librosa(work, path) for path in sorted(sounds.iterdir())],
        _READING: lambda: [audio.read(path) for path in sorted(sounds.iterdir())],
    }
    seconds = measure.alternate(candidates, options.repeats)
    return [
        {
            "benchmark": "data",
            "work": f"files to {type(work.features).__name__}",
            "candidate": name,
            **measure.spread(times),
            "files_per_s": options.files / float(np.median(times)),
            "audio_hours_per_s": audio_seconds / 3600 / float(np.median(times)),
            "time_over_reading": measure.median_ratio(times, seconds[_READING]),
        }
        for name, times in seconds.items()
    ]


def _librosa(work: Workload, path: Path) -> np.ndarray:
    """What a script would do with one file: the same features, kept in memory."""
    samples, _ = librosa.load(path, sr=work.features.sample_rate)
    if isinstance(work.features, MuLaw):
        levels = work.features.q_levels
        return (librosa.mu_compress(samples, mu=levels - 1, quantize=True) + levels // 2).astype(np.uint8)
    assert isinstance(work.features, LogMel)
    spec = work.features
    mel = librosa.feature.melspectrogram(
        y=samples,
        sr=spec.sample_rate,
        n_fft=spec.n_fft,
        hop_length=spec.hop_length,
        n_mels=spec.n_mels,
        pad_mode="constant",
    )
    return np.log(np.maximum(mel, spec.floor)).T


def _batching(work: Workload, sounds: Path, temporary: str, options: Options) -> list[Row]:
    measure.say(f"{work.name}: {options.batches} batches and a train step, {options.repeats} rounds ...")
    _, spec, batches = prepared(work, Folder(root=str(sounds)), temporary)
    stream = iter(batches)
    step = repeated_step(bound(work, spec), list(itertools.islice(stream, 2)))
    seconds = measure.alternate({"batches": lambda: _draw(stream, options.batches), _TRAINING: step}, options.repeats)
    per_batch = {"batches": seconds["batches"] / options.batches, _TRAINING: seconds[_TRAINING]}
    return [
        {
            "benchmark": "data",
            "work": f"{work.name} B={work.batch_size} T={work.seq_len}",
            "candidate": name,
            **measure.spread(times),
            "batches_per_s": 1 / float(np.median(times)),
            "audio_s_per_s": work.audio_seconds / float(np.median(times)),
            "share_of_train_step": measure.median_ratio(times, per_batch[_TRAINING]),
        }
        for name, times in per_batch.items()
    ]


def _draw(stream: Iterator[Batch], count: int) -> None:
    for _ in itertools.islice(stream, count):
        pass


if __name__ == "__main__":
    measure.start(main)
