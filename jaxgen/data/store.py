"""Decoded data: samples and steps of every clip in memory-mapped files, made once for each content and settings."""

import collections
import concurrent.futures
import contextlib
import dataclasses
import functools
import hashlib
import json
import math
import os
import re
import shutil
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import numpy as np
from tqdm import tqdm

from jaxgen.audio import AudioError
from jaxgen.data import report
from jaxgen.data.clips import Clip, Dataset, Split
from jaxgen.data.ingest import AudioPolicy, Block, Encoder, decibels, decoded
from jaxgen.data.spec import DataSpec
from jaxgen.errors import UserError
from jaxgen.features import FeatureSpec
from jaxgen.files import unfinished, write_whole, writing
from jaxgen.serial import from_json, parsed, to_json

T = TypeVar("T")

_VERSION = 4  # of the files below; a change makes every store anew
_SAMPLE = np.dtype(np.float32)
_STEPS_AT_ONCE = 1 << 16  # that are in memory together
_SMALLEST_STD = 0.1  # nats; a band that is silent in all training clips may not be in another
_MOST_LABEL_VALUES = 10_000


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
        index, source = parsed((directory / "index.json").read_bytes(), str(directory)), f"the store '{directory}'"
        self.features = from_json(index["features"], FeatureSpec, source)
        self.clips = tuple(from_json(clip, StoredClip, source) for clip in index["clips"])
        self.manifest_hash: str = index["manifest_hash"]
        self.report: dict[str, Any] = index["report"]
        self._moments = index["mean"], index["std"]

    def __reduce__(self) -> tuple[type["Store"], tuple[Path]]:
        return Store, (self.directory,)

    def is_whole(self) -> bool:
        """Whether its files are as long as its index says."""
        num_samples, num_steps = (sum(getattr(c, name) for c in self.clips) for name in ("num_samples", "num_steps"))
        sizes = {"samples.bin": num_samples * _SAMPLE.itemsize, "steps.bin": num_steps * _step_bytes(self.features)}
        return all((self.directory / name).stat().st_size == size for name, size in sizes.items())

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

    def fields(self, name: str) -> list[str]:
        """The value of a field of each clip; empty for a clip that lacks it."""
        return [clip.fields.get(name, "") for clip in self.clips]

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
        return np.asarray(np.memmap(self.directory / "samples.bin", _SAMPLE, mode="r"))  # slices of it are cheaper

    @functools.cached_property
    def _steps(self) -> np.ndarray:
        flat = np.memmap(self.directory / "steps.bin", self.features.step_dtype, mode="r")
        return np.asarray(flat.reshape(-1, *self.features.step_shape))


def prepare(dataset: Dataset, features: FeatureSpec, policy: AudioPolicy, cache_dir: str | Path) -> Store:
    """Decodes and encodes every clip, in parallel and with progress; opens the store where that was done before.

    Raises UserError where there is nothing to decode, too many clips are refused, or the cache cannot be written.
    """
    dataset = dataset.fetched(cache_dir)
    clips = dataset.clips()
    cache = Path(cache_dir).expanduser()
    with concurrent.futures.ThreadPoolExecutor() as pool:
        digests = _digests(dataset, clips, cache, pool)
        found = [
            _Found(clip, digest, "train" if clip.refused else dataset.split_of(clip.fields, digest))
            for clip, digest in zip(clips, digests, strict=True)
        ]
        manifest = [[each.clip.name, each.digest, each.split, dict(each.clip.fields)] for each in found]
        key = _hash([_VERSION, manifest, features.fingerprint(), dataclasses.asdict(policy)])[:24]
        directory = cache / "store" / key
        if (store := _opened(directory)) is not None:
            return store
        with writing(cache), unfinished(directory.parent) as partial:
            stored, refused = _write_clips(partial, found, features, policy, pool)
            _check_refused(len(clips), refused, policy, cache / "refused.json")
            others = [(name, "not an audio file") for name in dataset.not_audio()]
            _write_index(partial, _with_validation(stored, dataset), [*refused, *others], features, _hash(manifest))
            _move(partial, directory)
    return Store(directory)


def _digests(dataset: Dataset, clips: Sequence[Clip], cache: Path, pool: concurrent.futures.Executor) -> list[str]:
    """The digest of each clip; remembered, as reading hundreds of gigabytes delays every start, until its stamp changes."""
    place, known = cache / "digests" / f"{_hash(repr(dataset))[:24]}.json", dict[str, str]()
    with contextlib.suppress(OSError, ValueError, TypeError):
        known = dict(json.loads(place.read_text()))
    new = [clip for clip in clips if not clip.stamp or clip.stamp not in known]
    read = iter(list(_progress(pool.map(lambda clip: clip.digest(), new), len(new), "reading")))
    digests = [known[clip.stamp] if clip.stamp and clip.stamp in known else next(read) for clip in clips]
    if new and all(clip.stamp for clip in clips):
        with writing(cache):
            place.parent.mkdir(parents=True, exist_ok=True)
        write_whole(place, json.dumps({clip.stamp: digest for clip, digest in zip(clips, digests, strict=True)}))
    return digests


def _opened(directory: Path) -> Store | None:
    """The store in a folder; None where there is none, or a damaged one, which is removed."""
    if not directory.is_dir():
        return None
    with contextlib.suppress(OSError, ValueError, LookupError, TypeError, AttributeError, UserError):
        store = Store(directory)
        if store.is_whole():
            return store
    shutil.rmtree(directory, ignore_errors=True)
    return None


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
    clips = _progress((each.clip for each in found), len(found), "decoding")
    with (directory / "samples.bin").open("wb") as sample_file, (directory / "steps.bin").open("wb") as step_file:
        for each, blocks in zip(found, decoded(clips, features.sample_rate, policy, pool), strict=True):
            ends = [(file, file.tell()) for file in (sample_file, step_file)]
            try:
                stored.append(_write_clip(each, blocks, features, sample_file, step_file))
            except AudioError as error:
                refused.append((each.clip.name, str(error)))
                for file, end in ends:  # a long clip may turn out to be refused at its end
                    file.seek(end)
                    file.truncate()
    return stored, refused


def _write_clip(
    found: _Found, blocks: Iterator[Block], features: FeatureSpec, sample_file: BinaryIO, step_file: BinaryIO
) -> StoredClip:
    """Appends samples and steps of a clip. Raises AudioError, maybe after writing, where it is refused."""
    sample_offset, step_offset = sample_file.tell() // _SAMPLE.itemsize, step_file.tell() // _step_bytes(features)
    num_samples, num_steps, energy = 0, 0, 0.0
    encode = Encoder(features)
    for block in blocks:
        sample_file.write(np.ascontiguousarray(block.samples, _SAMPLE).data)
        num_samples += len(block.samples)
        energy += float(np.square(block.samples, dtype=np.float64).sum())
        for steps in encode(block.samples, block.is_last):
            step_file.write(np.ascontiguousarray(steps).data)
            num_steps += len(steps)
    return StoredClip(
        name=found.clip.name,
        split=found.split,
        fields=dict(found.clip.fields),
        digest=found.digest,
        num_samples=num_samples,
        num_steps=num_steps,
        sample_offset=sample_offset,
        step_offset=step_offset,
        source_rate=block.source_rate,
        source_channels=block.source_channels,
        loudness_dbfs=decibels(math.sqrt(energy / num_samples)),
    )


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
        "clips": [to_json(clip) for clip in stored],
    }
    (directory / "index.json").write_text(json.dumps(index))


def _mean_and_std(
    directory: Path, train: Sequence[StoredClip], features: FeatureSpec
) -> tuple[list[float], list[float]]:
    """Both over all steps of the clips, by dimension, in float64; empty for codes, and where there is no clip."""
    if not train or features.step_dtype.kind != "f":
        return [], []
    count = sum(clip.num_steps for clip in train)
    mean = sum(steps.sum(axis=0, dtype=np.float64) for steps in _read_steps(directory, train, features)) / count
    variance = sum(np.square(steps - mean).sum(axis=0) for steps in _read_steps(directory, train, features)) / count
    return mean.tolist(), np.maximum(np.sqrt(variance), _SMALLEST_STD).tolist()


def _read_steps(directory: Path, clips: Sequence[StoredClip], features: FeatureSpec) -> Iterator[np.ndarray]:
    """All steps of some clips, a bounded number at a time, and none of them mapped, which would count as memory."""
    with (directory / "steps.bin").open("rb") as file:
        for clip in clips:
            for start in range(0, clip.num_steps, _STEPS_AT_ONCE):
                file.seek((clip.step_offset + start) * _step_bytes(features))
                count = min(_STEPS_AT_ONCE, clip.num_steps - start)
                steps = np.frombuffer(file.read(count * _step_bytes(features)), features.step_dtype)
                yield steps.reshape(count, *features.step_shape)


def _step_bytes(features: FeatureSpec) -> int:
    return features.step_dtype.itemsize * math.prod(features.step_shape)


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
