"""Decoded data: samples, steps and further streams of every clip in files, which are verified as they are read."""

import collections
import contextlib
import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from jaxgen.core.errors import TryAgain, UserError
from jaxgen.core.files import (
    Corrupt,
    read_checksummed,
)
from jaxgen.core.serial import content_hash, from_json, parse_json
from jaxgen.data import report
from jaxgen.data.blocks import BlockArray
from jaxgen.data.clips import Split
from jaxgen.data.score_report import ScoreFacts
from jaxgen.data.spec import DataSpec, count_notes
from jaxgen.features import FeatureSpec, StreamSpec
from jaxgen.scores.transposition import find_key

T = TypeVar("T")

STORE_FORMAT = 8
"""Version of the files of a store; a change makes every store anew."""

SAMPLE_DTYPE = np.dtype(np.float32)
_MOST_PIECES = 64  # that are asked for their key
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
    trimmed: int = 0
    """Samples, at the features' rate, that were cut at its quiet ends."""
    streams: Mapping[str, tuple[int, int]] = dataclasses.field(default_factory=dict)
    """Of each further stream, where its values begin in its array, and how many they are."""
    music: ScoreFacts | None = None
    """What is known of written music; None for sound."""


@dataclasses.dataclass(frozen=True)
class Index:
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
    streams: tuple[tuple[str, StreamSpec], ...] = ()
    """Further streams by name, sorted."""
    format_version: int = STORE_FORMAT
    """Of these files; a store of another version is made anew."""


class Store:
    """An opened store; cheap to open again from its directory, which is all that is pickled of it.

    What is read of it is verified: where it is not what was written, or cannot be read, TryAgain is raised.
    Raises FileNotFoundError where there is none, Corrupt where its files are not what was written.
    """

    def __init__(self, directory: Path):
        self.directory = directory
        content = read_checksummed(directory / "index.json")
        try:
            index = from_json(parse_json(content, str(directory)), Index, f"the store '{directory}'")
            self.key, self.features, self.clips = index.key, index.features, index.clips
            self.streams = dict(index.streams)
            step = self.features.step_shape, self.features.step_dtype
            self.report: dict[str, Any] = report.describe(self.clips, index.refused, self.features, self._sequences())
            self._moments = index.mean, index.std
            num_samples, num_steps = _lengths(self.clips)
            hashes = [index.hashes[name] for name in ("samples", "steps")]
            size = math.prod(step[0]) if step[1].kind == "f" else 0  # codes have no mean
            if {len(moment) for moment in self._moments} - {0, size}:
                raise ValueError("its mean or deviation has another size than its steps")
        except (UserError, LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
            raise Corrupt(f"'{directory / 'index.json'}' cannot be used ({error})") from None
        kept = (
            0 if self.features.is_symbolic else num_samples
        )  # sound of written music is made when somebody asks for it
        shape = self.features.sample_shape
        self._samples = BlockArray(directory / "samples.bin", kept, shape, SAMPLE_DTYPE, hashes[0])
        self._steps = BlockArray(directory / "steps.bin", num_steps, *step, hashes[1])
        self._streams = {name: self._stream_array(name, spec, index) for name, spec in self.streams.items()}

    def _sequences(self) -> list[str]:
        """The streams that have lengths of their own."""
        return [name for name, spec in self.streams.items() if not spec.is_aligned]

    def _stream_array(self, name: str, spec: StreamSpec, index: Index) -> BlockArray:
        try:
            ends = [0, *(start + count for start, count in (clip.streams[name] for clip in self.clips))]
            if [start for start, _ in (clip.streams[name] for clip in self.clips)] != ends[:-1]:
                raise ValueError("its parts have gaps")
            path = self.directory / f"{stream_file(name)}.bin"
            return BlockArray(path, ends[-1], spec.step_shape, spec.step_dtype, index.hashes[stream_file(name)])
        except (LookupError, TypeError, ValueError) as error:
            raise Corrupt(f"stream '{name}' of '{self.directory / 'index.json'}' cannot be used ({error})") from None

    def __reduce__(self) -> tuple[type["Store"], tuple[Path]]:
        return Store, (self.directory,)

    @functools.cached_property
    def manifest_hash(self) -> str:
        """SHA-256 over the names, contents, fields and splits of its clips; what was refused does not change it."""
        return content_hash([[clip.name, clip.digest, clip.split, dict(clip.fields)] for clip in self.clips])

    @property
    def size(self) -> int:
        """Bytes of its arrays."""
        return sum(array.size for array in self._arrays)

    @property
    def _arrays(self) -> list[BlockArray]:
        return [self._samples, self._steps, *self._streams.values()]

    def verify(self) -> None:
        """Compares all of it with what was written. Raises Corrupt."""
        for array in self._arrays:
            array.verify()

    def samples(self, clip: int, start: int = 0, stop: int | None = None) -> np.ndarray:
        """float32 [nsamp, *sample_shape] at the features' sample rate, full scale 1.0: samples start..stop of a clip, all by
        default.
        """
        entry = self.clips[clip]
        if self.features.is_symbolic:
            return self.features.decode_clips([self.steps(clip)])[0][start:stop]
        return self._read(self._samples, entry.sample_offset, entry.num_samples, start, stop)

    def steps(self, clip: int, start: int = 0, stop: int | None = None) -> np.ndarray:
        """[nstep, *step_shape] in the features' dtype: steps start..stop of a clip, all by default."""
        entry = self.clips[clip]
        return self._read(self._steps, entry.step_offset, entry.num_steps, start, stop)

    def stream(self, name: str, clip: int, start: int = 0, stop: int | None = None) -> np.ndarray:
        """[N, *step_shape] of one of `streams`: values start..stop of a clip, all by default."""
        return self._read(self._streams[name], *self.clips[clip].streams[name], start, stop)

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
            streams=tuple(sorted(self.streams.items())),
            key=self._find_key() if self.features.is_symbolic else (),
        )

    def _find_key(self) -> tuple[tuple[int, ...], ...]:
        train = self.indices("train")
        some = train[:: -(-len(train) // _MOST_PIECES)]
        given = {clip: {name: self.stream(name, clip) for name in self.streams} for clip in some}
        return find_key([count_notes(self.features, self.streams, self.steps(clip), given[clip]) for clip in some])


def _combinations(clips: Sequence[StoredClip], labels: Sequence[str]) -> tuple[tuple[tuple[str, ...], int], ...]:
    """Values that clips have together, with how many have them; sorted, the most frequent ones of very many."""
    if not labels:
        return ()
    counts = collections.Counter(tuple(clip.fields.get(name, "") for name in labels) for clip in clips)
    return tuple(sorted(counts.most_common(_MOST_COMBINATIONS)))


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


def stream_file(name: str) -> str:
    """The file of a stream, without its suffix."""
    return f"stream-{name}"
