"""Decoded data: samples and steps of every clip in files, made once for each content and settings, and verified."""

import collections
import concurrent.futures
import contextlib
import dataclasses
import functools
import json
import math
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import numpy as np

from jaxgen.audio import AudioError
from jaxgen.core.errors import TryAgain, UserError
from jaxgen.core.files import (
    Corrupt,
    explain_write_errors,
    partial_folder,
    read_checksummed,
    write_atomic,
    write_checksummed,
)
from jaxgen.core.names import expand
from jaxgen.core.serial import content_hash, from_json, parse_json, to_json
from jaxgen.data import report
from jaxgen.data.blocks import BlockArray, block_hashes
from jaxgen.data.clips import Dataset, Split
from jaxgen.data.digests import FoundClip, find_clips, progress
from jaxgen.data.ingest import AudioPolicy, Block, Encoder, decibels, decode_clips
from jaxgen.data.spec import DataSpec
from jaxgen.features import FeatureSpec

T = TypeVar("T")

_VERSION = 5  # of the files below; a change makes every store anew
_VERIFIED_AT_ONCE = 1 << 30  # bytes of a store, which takes a second; of a larger one, each block when it is first read
_SAMPLE = np.dtype(np.float32)
_STEPS_AT_ONCE = 1 << 16  # that are in memory together
_SMALLEST_STD = 0.1  # nats; a band that is silent in all training clips may not be in another
_MOST_LABEL_VALUES = 10_000
_MOST_COMBINATIONS = 10_000  # of values of labels, of which those that are not said are drawn


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
    source_peak: float
    """Largest amplitude of the recording, before it was mixed or resampled; full scale 1.0."""
    peak: float
    """Largest amplitude of the samples."""


@dataclasses.dataclass(frozen=True)
class _Index:
    """What a store says of its arrays."""

    key: str
    features: FeatureSpec
    clips: tuple[StoredClip, ...]
    """In the order in which they lie in the arrays, without gaps."""
    refused: tuple[tuple[str, str], ...]
    """(name, reason)"""
    mean: tuple[float, ...]
    std: tuple[float, ...]
    hashes: Mapping[str, tuple[str, ...]]
    """Of the blocks of each array."""


class Store:
    """An opened store; cheap to open again from its directory, which is all that is pickled of it.

    What is read of it is verified: where it is not what was written, or cannot be read, TryAgain is raised.
    Raises FileNotFoundError where there is none, Corrupt where its files are not what was written.
    """

    def __init__(self, directory: Path):
        self.directory = directory
        content = read_checksummed(directory / "index.json")
        try:
            index = from_json(parse_json(content, str(directory)), _Index, f"the store '{directory}'")
            self.key, self.features, self.clips = index.key, index.features, index.clips
            step = self.features.step_shape, self.features.step_dtype
            self.report: dict[str, Any] = report.describe(self.clips, index.refused, self.features)
            self._moments = index.mean, index.std
            num_samples, num_steps = _lengths(self.clips)
            hashes = [index.hashes[name] for name in ("samples", "steps")]
            size = math.prod(step[0]) if step[1].kind == "f" else 0  # codes have no mean
            if {len(moment) for moment in self._moments} - {0, size}:
                raise ValueError("its mean or deviation has another size than its steps")
        except (UserError, LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
            raise Corrupt(f"'{directory / 'index.json'}' cannot be used ({error})") from None
        shape = self.features.sample_shape
        self._samples = BlockArray(directory / "samples.bin", num_samples, shape, _SAMPLE, hashes[0])
        self._steps = BlockArray(directory / "steps.bin", num_steps, *step, hashes[1])

    def __reduce__(self) -> tuple[type["Store"], tuple[Path]]:
        return Store, (self.directory,)

    @functools.cached_property
    def manifest_hash(self) -> str:
        """SHA-256 over the names, contents, fields and splits of its clips; what was refused does not change it."""
        return content_hash([[clip.name, clip.digest, clip.split, dict(clip.fields)] for clip in self.clips])

    @property
    def size(self) -> int:
        """Bytes of its arrays."""
        return self._samples.size + self._steps.size

    def verify(self) -> None:
        """Compares all of it with what was written. Raises Corrupt."""
        self._samples.verify()
        self._steps.verify()

    def samples(self, clip: int, start: int = 0, stop: int | None = None) -> np.ndarray:
        """float32 [nsamp, *sample_shape] at the features' sample rate, full scale 1.0: samples start..stop of a clip, all by
        default.
        """
        entry = self.clips[clip]
        return self._read(self._samples, entry.sample_offset, entry.num_samples, start, stop)

    def steps(self, clip: int, start: int = 0, stop: int | None = None) -> np.ndarray:
        """[nstep, *step_shape] in the features' dtype: steps start..stop of a clip, all by default."""
        entry = self.clips[clip]
        return self._read(self._steps, entry.step_offset, entry.num_steps, start, stop)

    def _read(self, array: BlockArray, offset: int, length: int, start: int, stop: int | None) -> np.ndarray:
        """Items start..stop of the `length` items from `offset` on."""
        stop = length if stop is None else min(stop, length)
        try:
            return array.read(offset + min(start, stop), offset + stop)
        except Corrupt as damage:
            if array.is_in_place():  # else there is another store by now
                with contextlib.suppress(OSError):
                    (self.directory / "index.json").unlink()
            raise TryAgain(f"{damage}; run the same command again, which makes the store anew.") from None

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
            combinations=_combinations(train, labels),
            mean=tuple(mean),
            std=tuple(std),
            licences=tuple(sorted({clip.fields.get("licence", "not stated") for clip in train})),
            manifest_hash=self.manifest_hash,
            typical_seconds=float(np.median(seconds)),
            max_seconds=max(seconds),
        )


def _combinations(clips: Sequence[StoredClip], labels: Sequence[str]) -> tuple[tuple[tuple[str, ...], int], ...]:
    """Values that clips have together, with how many have them; sorted, the most frequent ones of very many."""
    if not labels:
        return ()
    counts = collections.Counter(tuple(clip.fields.get(name, "") for name in labels) for clip in clips)
    return tuple(sorted(counts.most_common(_MOST_COMBINATIONS)))


def prepare(dataset: Dataset, features: FeatureSpec, policy: AudioPolicy, cache_dir: str | Path) -> Store:
    """Decodes and encodes every clip, in parallel and with progress; opens the store where that was done before.

    Raises UserError where there is nothing to decode, too many clips are refused, or the cache cannot be written.
    """
    dataset = dataset.fetch(cache_dir)
    cache = Path(expand(cache_dir))
    with concurrent.futures.ThreadPoolExecutor() as pool:
        found = find_clips(dataset, cache, pool)
        manifest = [[each.clip.name, each.digest, each.split, dict(each.clip.fields)] for each in found]
        key = content_hash([_VERSION, manifest, features.fingerprint(), dataclasses.asdict(policy)])[:24]
        directory = cache / "store" / key
        if (store := _opened(directory, found, features)) is None:
            with explain_write_errors(cache), partial_folder(directory.parent) as partial:
                stored, refused = _write_clips(partial, found, features, policy, pool)
                _check_refused(len(found), refused, policy, cache / "refused.json")
                _write_index(partial, key, _with_validation(stored, dataset), refused, features)
                _move(partial, directory)
            store = Store(directory)
    store.report = report.add_refused(store.report, dataset.list_skipped())  # may change while the clips do not
    return store


def _opened(directory: Path, found: Sequence[FoundClip], features: FeatureSpec) -> Store | None:
    """The store in a folder, verified unless it is large; None where there is none, or a damaged one, which is told and
    removed.
    """
    import filelock

    store, damage = _verified(directory, found, features)
    if damage:
        with explain_write_errors(directory), filelock.FileLock(directory.parent / ".lock"):
            store, damage = _verified(directory, found, features)  # another process may have made it anew meanwhile
            if damage:
                print(f"jaxgen: {damage}; the store is made anew from the recordings.", file=sys.stderr)
                with partial_folder(directory.parent) as aside, contextlib.suppress(FileNotFoundError):
                    os.rename(directory, aside / directory.name)
    return store


def _verified(directory: Path, found: Sequence[FoundClip], features: FeatureSpec) -> tuple[Store | None, str]:
    """The store in a folder, verified unless it is large, or what is wrong with it; neither where there is none."""
    try:
        store = Store(directory)
        there = {(each.clip.name, each.digest): dict(each.clip.fields) for each in found}
        same = all(there.get((clip.name, clip.digest)) == dict(clip.fields) for clip in store.clips)
        if not same or (store.key, store.features) != (directory.name, features):
            raise Corrupt(f"'{directory}' is the store of other recordings or settings")
        if store.size <= _VERIFIED_AT_ONCE:
            store.verify()
        return store, ""
    except FileNotFoundError:
        return None, f"'{directory}' has no index" if os.path.lexists(directory) else ""
    except Corrupt as error:
        return None, str(error)


def _with_validation(stored: Sequence[StoredClip], dataset: Dataset) -> list[StoredClip]:
    """The clips; where hashes leave none of several for validation, the one of the lowest digest is that."""
    train = [clip for clip in stored if clip.split == "train" and dataset.is_split_by_hash(clip.fields)]
    if len(train) < 2 or any(clip.split == "validation" for clip in stored):
        return list(stored)
    chosen = min(train, key=lambda clip: (clip.digest, clip.name))
    return [dataclasses.replace(clip, split="validation") if clip is chosen else clip for clip in stored]


def _write_clips(
    directory: Path,
    found: Sequence[FoundClip],
    features: FeatureSpec,
    policy: AudioPolicy,
    pool: concurrent.futures.Executor,
) -> tuple[list[StoredClip], list[tuple[str, str]]]:
    """Writes samples and steps of all clips, one after another; returns those stored and (name, reason) of the others."""
    stored: list[StoredClip] = []
    refused: list[tuple[str, str]] = []
    clips = progress((each.clip for each in found), len(found), "decoding")
    with (directory / "samples.bin").open("wb") as sample_file, (directory / "steps.bin").open("wb") as step_file:
        for each, blocks in zip(found, decode_clips(clips, features, policy, pool), strict=True):
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
    found: FoundClip, blocks: Iterator[Block], features: FeatureSpec, sample_file: BinaryIO, step_file: BinaryIO
) -> StoredClip:
    """Appends samples and steps of a clip. Raises AudioError, maybe after writing, where it is refused."""
    sample_offset = sample_file.tell() // (_SAMPLE.itemsize * features.channels)
    step_offset = step_file.tell() // _step_bytes(features)
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
        loudness_dbfs=decibels(math.sqrt(energy / (num_samples * features.channels))),
        source_peak=block.source_peak,
        peak=block.peak,
    )


def _write_index(
    directory: Path,
    key: str,
    stored: Sequence[StoredClip],
    refused: Sequence[tuple[str, str]],
    features: FeatureSpec,
) -> None:
    mean, std = _mean_and_std(directory, [clip for clip in stored if clip.split == "train"], features)
    index = _Index(
        key=key,
        features=features,
        clips=tuple(stored),
        refused=tuple(refused),
        mean=tuple(mean),
        std=tuple(std),
        hashes={name: tuple(block_hashes(directory / f"{name}.bin")) for name in ("samples", "steps")},
    )
    write_checksummed(directory / "index.json", json.dumps(to_json(index)))


def _lengths(clips: Sequence[StoredClip]) -> tuple[int, int]:
    """Samples and steps of all clips. Raises ValueError where these do not lie one behind the other."""
    num_samples = num_steps = 0
    for clip in clips:
        if (clip.sample_offset, clip.step_offset) != (num_samples, num_steps) or min(
            clip.num_samples, clip.num_steps
        ) < 0:
            raise ValueError(f"'{clip.name}' is not behind the clip before it")
        num_samples, num_steps = num_samples + clip.num_samples, num_steps + clip.num_steps
    return num_samples, num_steps


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
    """All steps of some clips, a bounded number at a time."""
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
    write_atomic(listing, json.dumps(listed, indent=2) + "\n")
    why = f"{report.count_kinds(reason for _, reason in refused)}; list in {listing}"
    remedies = collections.Counter(reason.partition("; ")[2] for _, reason in refused)
    remedy = remedies.most_common(1)[0][0]
    if len(refused) == total:
        usual = "Pass --data.root a folder with .wav, .flac, .ogg or .mp3 files, or change --data.pattern or --audio.*"
        raise UserError(f"no audio to train on: all {total} files were refused ({why}). {remedy or usual}.")
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
