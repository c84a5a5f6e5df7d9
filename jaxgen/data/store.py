"""Decoded data: samples and steps of every clip in memory-mapped files, made once for each content and settings."""

import collections
import concurrent.futures
import dataclasses
import functools
import hashlib
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from tqdm import tqdm

from jaxgen import audio
from jaxgen.data import report
from jaxgen.data.clips import Clip, Dataset, Split
from jaxgen.data.spec import DataSpec
from jaxgen.errors import UserError, writing
from jaxgen.features import FeatureSpec
from jaxgen.serial import from_json, to_json

_VERSION = 1  # of the files below; a change makes every store anew
_AT_ONCE = 128  # clips decoded in parallel before they are written
_LARGEST_BUCKET = 1 << 22  # samples
_SMALLEST_STD = 1e-3
_MOST_LABEL_VALUES = 10_000


@dataclasses.dataclass(frozen=True)
class AudioPolicy:
    """How recordings are decoded, and which are refused. Refused clips are listed in the data report."""

    channels: Literal["mix", "first", "refuse"] = "mix"
    """Recordings of several channels: the mean of all, the first, or refuse them."""
    resample: Literal["convert", "refuse"] = "convert"
    """Recordings of another sample rate: convert or refuse them."""
    max_refused: float = 0.1
    """Largest share of refused clips; above it nothing is trained."""
    min_seconds: float = 0.02
    """Shorter clips are refused."""
    silence_dbfs: float = -60.0
    """Clips whose peak stays below this level are refused as silent."""


@dataclasses.dataclass(frozen=True)
class StoredClip:
    """One clip of a store."""

    name: str
    split: Split
    fields: Mapping[str, str]
    digest: str
    num_samples: int
    """At the features' sample rate."""
    num_steps: int
    sample_offset: int
    step_offset: int
    source_rate: int
    """Sample rate of the recording in Hz."""
    source_channels: int
    loudness_dbfs: float
    """Root mean square level."""


class Store:
    """An opened store; cheap to open again from its directory."""

    def __init__(self, directory: Path):
        self.directory = directory
        index = json.loads((directory / "index.json").read_text())
        self.features: FeatureSpec = from_json(index["features"])
        self.clips = tuple(StoredClip(**clip) for clip in index["clips"])
        self.manifest_hash: str = index["manifest_hash"]
        self.report: dict[str, Any] = index["report"]
        self._moments = index["mean"], index["std"]

    def samples(self, clip: int) -> np.ndarray:
        """float32 [nsamp] at the features' sample rate, full scale 1.0; a view of the file."""
        entry = self.clips[clip]
        return self._samples[entry.sample_offset : entry.sample_offset + entry.num_samples]

    def steps(self, clip: int) -> np.ndarray:
        """[nstep, *step_shape] in the features' dtype; a view of the file."""
        entry = self.clips[clip]
        return self._steps[entry.step_offset : entry.step_offset + entry.num_steps]

    def indices(self, split: Split) -> tuple[int, ...]:
        """The clips of a split."""
        return tuple(index for index, clip in enumerate(self.clips) if clip.split == split)

    def vocabulary(self, field: str) -> tuple[str, ...]:
        """The values that a field has in training clips, sorted. Raises UserError where it has none, or too many."""
        train = [self.clips[index] for index in self.indices("train")]
        values = sorted({clip.fields[field] for clip in train if clip.fields.get(field)})
        if not values:
            known = sorted({name for clip in train for name in clip.fields})
            raise UserError(
                f"the model is to be conditioned on '{field}', but no training clip has that field; they have "
                f"{', '.join(known)}. Change --model.labels, --data.pattern or the manifest."
            )
        if len(values) > _MOST_LABEL_VALUES:
            raise UserError(f"'{field}' has {len(values):,} values; a label may have {_MOST_LABEL_VALUES:,} at most.")
        return tuple(values)

    def spec(self, labels: Sequence[str]) -> DataSpec:
        """What a model must know of the training clips. Raises UserError without any, or for a label they lack."""
        train = [self.clips[index] for index in self.indices("train")]
        if not train:
            raise UserError("there is no training clip; change the split (data.validation, data.test or the manifest).")
        seconds = [clip.num_samples / self.features.sample_rate for clip in train]
        mean, std = self._moments
        return DataSpec(
            features=self.features,
            vocabularies=tuple((name, self.vocabulary(name)) for name in labels),
            mean=tuple(mean),
            std=tuple(std),
            licences=tuple(sorted({clip.fields.get("licence", "not stated") for clip in train})),
            manifest_hash=self.manifest_hash,
            typical_seconds=float(np.median(seconds)),
            max_seconds=max(seconds),
        )

    @functools.cached_property
    def _samples(self) -> np.ndarray:
        return np.memmap(self.directory / "samples.bin", np.float32, mode="r")

    @functools.cached_property
    def _steps(self) -> np.ndarray:
        flat = np.memmap(self.directory / "steps.bin", self.features.step_dtype, mode="r")
        return flat.reshape(-1, *self.features.step_shape)


def prepare(dataset: Dataset, features: FeatureSpec, policy: AudioPolicy, cache_dir: str | Path) -> Store:
    """Decodes and encodes every clip, in parallel and with progress; opens the store where that was done before.

    Raises UserError where there is nothing to decode, too many clips are refused, or the cache cannot be written.
    """
    clips = dataset.clips()
    cache = Path(cache_dir).expanduser()
    with concurrent.futures.ThreadPoolExecutor() as pool:
        digests = list(pool.map(lambda clip: clip.digest(), clips))
        splits = _splits(dataset, clips, digests)
        manifest = [
            [clip.name, digest, split, dict(clip.fields)]
            for clip, digest, split in zip(clips, digests, splits, strict=True)
        ]
        key = _hash([_VERSION, manifest, features.fingerprint(), dataclasses.asdict(policy)])[:24]
        directory = cache / "store" / key
        if not (directory / "index.json").exists():
            with writing(cache):
                directory.parent.mkdir(parents=True, exist_ok=True)
                partial = Path(tempfile.mkdtemp(prefix=".", dir=directory.parent))
                try:
                    _write(partial, clips, digests, splits, features, policy, pool, _hash(manifest), cache)
                    _move(partial, directory)
                finally:
                    shutil.rmtree(partial, ignore_errors=True)
    return Store(directory)


def _splits(dataset: Dataset, clips: Sequence[Clip], digests: Sequence[str]) -> list[Split]:
    """The split of each clip. Where the rules leave none of several for validation, the lowest digest is that one."""
    splits: list[Split] = [
        "train" if clip.refused else dataset.split_of(clip.fields, digest)
        for clip, digest in zip(clips, digests, strict=True)
    ]
    train = [index for index, split in enumerate(splits) if split == "train" and not clips[index].refused]
    if "validation" not in splits and len(train) > 1:
        splits[min(train, key=lambda index: digests[index])] = "validation"
    return splits


@dataclasses.dataclass(frozen=True)
class _Decoded:
    samples: np.ndarray
    source_rate: int
    source_channels: int


def _decode(clip: Clip, sample_rate: int, policy: AudioPolicy) -> _Decoded | str:
    """Samples at `sample_rate`, or the reason why the clip is refused."""
    if clip.refused:
        return clip.refused
    try:
        waveform = clip.load()
    except audio.AudioError as error:
        return str(error)
    channels = waveform.samples.shape[1]
    if channels > 1 and policy.channels == "refuse":
        return f"{channels} channels"
    if waveform.sample_rate != sample_rate and policy.resample == "refuse":
        return f"{waveform.sample_rate} Hz instead of {sample_rate} Hz"
    mono = audio.mix_down(waveform.samples) if policy.channels == "mix" else waveform.samples[:, 0]
    if len(mono) < max(1.0, policy.min_seconds * waveform.sample_rate):
        return f"too short ({len(mono) / waveform.sample_rate:.3f} s)"
    peak = float(np.abs(mono).max())
    if 20 * np.log10(max(peak, 1e-10)) < policy.silence_dbfs:
        return "silent"
    return _Decoded(audio.resample(mono, waveform.sample_rate, sample_rate), waveform.sample_rate, channels)


def _write(
    directory: Path,
    clips: Sequence[Clip],
    digests: Sequence[str],
    splits: Sequence[Split],
    features: FeatureSpec,
    policy: AudioPolicy,
    pool: concurrent.futures.Executor,
    manifest_hash: str,
    cache: Path,
) -> None:
    """Fills an empty directory with the files of a store."""
    stored: list[StoredClip] = []
    refused: list[tuple[str, str]] = []
    moments = _Moments()
    num_samples = num_steps = 0
    decode = functools.partial(_decode, sample_rate=features.sample_rate, policy=policy)
    with (directory / "samples.bin").open("wb") as sample_file, (directory / "steps.bin").open("wb") as step_file:
        for clip, digest, split, decoded in zip(clips, digests, splits, _decoded(clips, decode, pool), strict=True):
            if isinstance(decoded, str):
                refused.append((clip.name, decoded))
                continue
            samples, steps = decoded.samples, _encode(decoded.samples, features)
            sample_file.write(np.ascontiguousarray(samples, np.float32))
            step_file.write(np.ascontiguousarray(steps))
            if split == "train":
                moments.add(steps)
            power = float(np.mean(np.square(samples, dtype=np.float64)))
            stored.append(
                StoredClip(
                    clip.name, split, dict(clip.fields), digest, len(samples), len(steps), num_samples, num_steps,
                    decoded.source_rate, decoded.source_channels, float(10 * np.log10(max(power, 1e-10))),
                )
            )  # fmt: skip
            num_samples, num_steps = num_samples + len(samples), num_steps + len(steps)
    _check_refused(len(clips), refused, policy, cache)
    mean, std = moments.mean_and_std(features)
    index = {
        "features": to_json(features),
        "manifest_hash": manifest_hash,
        "mean": mean,
        "std": std,
        "report": report.describe(stored, refused, features.sample_rate),
        "clips": [dataclasses.asdict(clip) for clip in stored],
    }
    (directory / "index.json").write_text(json.dumps(index))


def _decoded(clips: Sequence[Clip], decode: Any, pool: concurrent.futures.Executor) -> Iterator[_Decoded | str]:
    with tqdm(total=len(clips), unit="clip", desc="decoding", disable=not sys.stderr.isatty()) as bar:
        for start in range(0, len(clips), _AT_ONCE):
            for decoded in pool.map(decode, clips[start : start + _AT_ONCE]):
                yield decoded
                bar.update()


def _encode(samples: np.ndarray, features: FeatureSpec) -> np.ndarray:
    """Steps of a clip; its length is padded to one of a few, for each of which `encode` compiles."""
    length = len(samples)
    bucket = -(-length // _LARGEST_BUCKET) * _LARGEST_BUCKET if length > _LARGEST_BUCKET else _power_of_two(length)
    padded = np.pad(samples, (0, bucket - length))
    return np.asarray(features.encode(padded))[: features.num_steps(length)]


def _power_of_two(length: int) -> int:
    return 1 << max(10, (length - 1).bit_length())


class _Moments:
    """Mean and deviation of steps in each dimension, in float64."""

    def __init__(self) -> None:
        self.count, self.total, self.squares = 0, np.zeros(()), np.zeros(())

    def add(self, steps: np.ndarray) -> None:
        self.count += len(steps)
        self.total = self.total + steps.sum(axis=0, dtype=np.float64)
        self.squares = self.squares + np.square(steps, dtype=np.float64).sum(axis=0)

    def mean_and_std(self, features: FeatureSpec) -> tuple[list[float], list[float]]:
        """Both by dimension; empty for codes, and where there is no training clip."""
        if self.count == 0 or features.step_dtype.kind != "f":
            return [], []
        mean = self.total / self.count
        std = np.sqrt(np.maximum(self.squares / self.count - mean**2, 0.0))
        return mean.tolist(), np.maximum(std, _SMALLEST_STD).tolist()


def _check_refused(total: int, refused: list[tuple[str, str]], policy: AudioPolicy, cache: Path) -> None:
    if len(refused) < total and len(refused) <= policy.max_refused * total:
        return
    listing = cache / "refused.json"
    listing.write_text(json.dumps([{"name": name, "reason": reason} for name, reason in refused], indent=2) + "\n")
    reasons = collections.Counter(reason for _, reason in refused).most_common(3)
    why = ", ".join(f"{count} {reason}" for reason, count in reasons)
    if len(refused) == total:
        raise UserError(
            f"no audio to train on: all {total} files were refused ({why}; list in {listing}). Pass --data.root a "
            "folder with .wav, .flac, .ogg or .mp3 files, or change --audio.*."
        )
    raise UserError(
        f"{len(refused)} of {total} files were refused ({why}; list in {listing}), more than --audio.max-refused "
        f"{policy.max_refused:g} allows. Mend or remove them, or raise it."
    )


def _move(partial: Path, directory: Path) -> None:
    try:
        os.rename(partial, directory)
    except OSError:
        if not (directory / "index.json").exists():  # else another process was faster, with the same content
            raise


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
