"""Decoded data: samples and steps of every clip in memory-mapped files, made once for each content and settings."""

import collections
import concurrent.futures
import dataclasses
import functools
import hashlib
import json
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
from tqdm import tqdm

from jaxgen import audio
from jaxgen.data import report
from jaxgen.data.clips import Clip, Dataset, Split
from jaxgen.data.spec import DataSpec
from jaxgen.errors import UserError
from jaxgen.features import FeatureSpec
from jaxgen.files import write_whole, writing
from jaxgen.serial import from_json, to_json

T = TypeVar("T")

_VERSION = 2  # of the files below; a change makes every store anew
_AT_ONCE = 16  # clips that wait decoded to be written: bounds the memory for long recordings
_LARGEST_BUCKET = 1 << 22  # samples
_SMALLEST_STD = 0.1  # nats; a band that is silent in all training clips may not be in another
_MOST_LABEL_VALUES = 10_000


@dataclasses.dataclass(frozen=True)
class AudioPolicy:
    """How recordings are decoded, and which are refused. Refused clips are listed in the data report."""

    channels: Literal["mix", "first", "refuse"] = "mix"
    """Recordings of several channels: the mean of all, the first, or refuse them."""
    resample: Literal["convert", "refuse"] = "convert"
    """Recordings of another sample rate: convert or refuse them."""
    max_refused: float = 0.5
    """Largest share of refused clips; above it nothing is trained."""
    min_seconds: float = 0.02
    """Shorter clips are refused."""
    silence_dbfs: float = -60.0
    """Clips whose peak stays below this level are refused as silent."""

    def __post_init__(self) -> None:
        if not 0 <= self.max_refused <= 1:
            raise UserError(f"max_refused is {self.max_refused}; audio.max_refused is a share, from 0 to 1.")


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
    """An opened store; cheap to open again from its directory, which is all that is pickled of it."""

    def __init__(self, directory: Path):
        self.directory = directory
        index = json.loads((directory / "index.json").read_text())
        self.features: FeatureSpec = from_json(index["features"])
        self.clips = tuple(StoredClip(**clip) for clip in index["clips"])
        self.manifest_hash: str = index["manifest_hash"]
        self.report: dict[str, Any] = index["report"]
        self._moments = index["mean"], index["std"]

    def __reduce__(self) -> tuple[type["Store"], tuple[Path]]:
        return Store, (self.directory,)

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
        return np.asarray(np.memmap(self.directory / "samples.bin", np.float32, mode="r"))  # slices of it are cheaper

    @functools.cached_property
    def _steps(self) -> np.ndarray:
        return np.asarray(_open_steps(self.directory, self.features))


def prepare(dataset: Dataset, features: FeatureSpec, policy: AudioPolicy, cache_dir: str | Path) -> Store:
    """Decodes and encodes every clip, in parallel and with progress; opens the store where that was done before.

    Raises UserError where there is nothing to decode, too many clips are refused, or the cache cannot be written.
    """
    dataset = dataset.fetched(cache_dir)
    clips = dataset.clips()
    cache = Path(cache_dir).expanduser()
    with concurrent.futures.ThreadPoolExecutor() as pool:
        digests = list(_progress(pool.map(lambda clip: clip.digest(), clips), len(clips), "reading"))
        found = [
            _Found(clip, digest, "train" if clip.refused else dataset.split_of(clip.fields, digest))
            for clip, digest in zip(clips, digests, strict=True)
        ]
        manifest = [[each.clip.name, each.digest, each.split, dict(each.clip.fields)] for each in found]
        key = _hash([_VERSION, manifest, features.fingerprint(), dataclasses.asdict(policy)])[:24]
        directory = cache / "store" / key
        if not (directory / "index.json").exists():
            with writing(cache):
                directory.parent.mkdir(parents=True, exist_ok=True)
                partial = Path(tempfile.mkdtemp(prefix=".", dir=directory.parent))
                try:
                    stored, refused = _write_clips(partial, found, features, policy, pool)
                    _check_refused(len(clips), refused, policy, cache / "refused.json")
                    others = [(name, "not an audio file") for name in dataset.not_audio()]
                    _write_index(
                        partial, _with_validation(stored, dataset), [*refused, *others], features, _hash(manifest)
                    )
                    _move(partial, directory)
                finally:
                    shutil.rmtree(partial, ignore_errors=True)
    return Store(directory)


@dataclasses.dataclass(frozen=True)
class _Found:
    """A clip that is not yet decoded."""

    clip: Clip
    digest: str
    split: Split


def _with_validation(stored: Sequence[StoredClip], dataset: Dataset) -> list[StoredClip]:
    """The clips; where hashes leave none of several for validation, the one of the lowest digest is that."""
    train = [clip for clip in stored if clip.split == "train" and dataset.is_split_by_hash(clip.fields)]
    if len(train) < 2 or any(clip.split == "validation" for clip in stored):
        return list(stored)
    chosen = min(train, key=lambda clip: (clip.digest, clip.name))
    return [dataclasses.replace(clip, split="validation") if clip is chosen else clip for clip in stored]


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
    samples = audio.resample(mono, waveform.sample_rate, sample_rate)
    if len(samples) < max(1.0, policy.min_seconds * sample_rate):
        return f"too short ({len(samples) / sample_rate:.3f} s)"
    if _decibels(float(np.abs(samples).max())) < policy.silence_dbfs:
        return "silent"
    return _Decoded(samples, waveform.sample_rate, channels)


def _decibels(amplitude: float) -> float:
    return float(20 * np.log10(max(amplitude, 1e-10)))


def _write_clips(
    directory: Path,
    found: Sequence[_Found],
    features: FeatureSpec,
    policy: AudioPolicy,
    pool: concurrent.futures.Executor,
) -> tuple[list[StoredClip], list[tuple[str, str]]]:
    """Writes samples and steps of all clips, one after another; returns those stored and (name, reason) of the others."""
    stored: list[StoredClip] = []
    refused: list[tuple[str, str]] = []
    num_samples = num_steps = 0
    with (directory / "samples.bin").open("wb") as sample_file, (directory / "steps.bin").open("wb") as step_file:
        for each, decoded in zip(found, _decoded(found, features.sample_rate, policy, pool), strict=True):
            if isinstance(decoded, str):
                refused.append((each.clip.name, decoded))
                continue
            samples, steps = decoded.samples, _encode(decoded.samples, features)
            sample_file.write(np.ascontiguousarray(samples, np.float32).data)
            step_file.write(np.ascontiguousarray(steps).data)
            stored.append(
                StoredClip(
                    name=each.clip.name,
                    split=each.split,
                    fields=dict(each.clip.fields),
                    digest=each.digest,
                    num_samples=len(samples),
                    num_steps=len(steps),
                    sample_offset=num_samples,
                    step_offset=num_steps,
                    source_rate=decoded.source_rate,
                    source_channels=decoded.source_channels,
                    loudness_dbfs=_decibels(float(np.sqrt(np.mean(np.square(samples, dtype=np.float64))))),
                )
            )
            num_samples, num_steps = num_samples + len(samples), num_steps + len(steps)
    return stored, refused


def _decoded(
    found: Sequence[_Found], sample_rate: int, policy: AudioPolicy, pool: concurrent.futures.Executor
) -> Iterator[_Decoded | str]:
    """Decodes the clips in parallel; yields them in order, never more than `_AT_ONCE` ahead."""
    pending: collections.deque[concurrent.futures.Future[_Decoded | str]] = collections.deque()
    for each in _progress(found, len(found), "decoding"):
        pending.append(pool.submit(_decode, each.clip, sample_rate, policy))
        if len(pending) == _AT_ONCE:
            yield pending.popleft().result()
    while pending:
        yield pending.popleft().result()


def _progress(items: Iterable[T], total: int, what: str) -> Iterable[T]:
    return tqdm(items, total=total, unit="clip", desc=what, disable=not sys.stderr.isatty(), leave=False)


def _write_index(
    directory: Path,
    stored: Sequence[StoredClip],
    refused: Sequence[tuple[str, str]],
    features: FeatureSpec,
    manifest_hash: str,
) -> None:
    mean, std = _mean_and_std(directory, [clip for clip in stored if clip.split == "train"], features)
    index = {
        "features": to_json(features),
        "manifest_hash": manifest_hash,
        "mean": mean,
        "std": std,
        "report": report.describe(stored, refused, features.sample_rate),
        "clips": [dataclasses.asdict(clip) for clip in stored],
    }
    (directory / "index.json").write_text(json.dumps(index))


def _encode(samples: np.ndarray, features: FeatureSpec) -> np.ndarray:
    """Steps of a clip; its length is padded to one of a few, for each of which `encode` compiles."""
    length = len(samples)
    bucket = -(-length // _LARGEST_BUCKET) * _LARGEST_BUCKET if length > _LARGEST_BUCKET else _power_of_two(length)
    padded = np.pad(samples, (0, bucket - length))
    return np.asarray(features.encode(padded))[: features.num_steps(length)]


def _power_of_two(length: int) -> int:
    return 1 << max(10, (length - 1).bit_length())


def _mean_and_std(
    directory: Path, train: Sequence[StoredClip], features: FeatureSpec
) -> tuple[list[float], list[float]]:
    """Both over all steps of the clips, by dimension, in float64; empty for codes, and where there is no clip."""
    if not train or features.step_dtype.kind != "f":
        return [], []
    every = _open_steps(directory, features)
    steps = [every[clip.step_offset : clip.step_offset + clip.num_steps] for clip in train]
    count = sum(map(len, steps))
    mean = sum(each.sum(axis=0, dtype=np.float64) for each in steps) / count
    variance = sum(np.square(each - mean).sum(axis=0) for each in steps) / count
    return mean.tolist(), np.maximum(np.sqrt(variance), _SMALLEST_STD).tolist()


def _open_steps(directory: Path, features: FeatureSpec) -> np.ndarray:
    flat = np.memmap(directory / "steps.bin", features.step_dtype, mode="r")
    return flat.reshape(-1, *features.step_shape)


def _check_refused(total: int, refused: Sequence[tuple[str, str]], policy: AudioPolicy, listing: Path) -> None:
    """Raises UserError where all or too many clips are refused, and lists them in a file."""
    if len(refused) < total and len(refused) <= policy.max_refused * total:
        return
    listed = [{"name": name, "reason": reason} for name, reason in refused]
    write_whole(listing, json.dumps(listed, indent=2) + "\n")
    kinds = collections.Counter(re.split(r"[:(]", reason)[0].strip() for _, reason in refused)
    why = f"{', '.join(f'{count} {kind}' for kind, count in kinds.most_common(3))}; list in {listing}"
    if len(refused) == total:
        raise UserError(
            f"no audio to train on: all {total} files were refused ({why}). Pass --data.root a folder with .wav, .flac, "
            ".ogg or .mp3 files, or change --data.pattern or --audio.*."
        )
    raise UserError(
        f"{len(refused)} of {total} files were refused ({why}), more than --audio.max-refused {policy.max_refused:g} "
        "allows. Mend or remove them, or raise it."
    )


def _move(partial: Path, directory: Path) -> None:
    try:
        os.rename(partial, directory)
    except OSError:
        if not (directory / "index.json").exists():  # else another process was faster, with the same content
            raise


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
