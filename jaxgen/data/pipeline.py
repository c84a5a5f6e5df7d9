"""Batches: rows that are streams of clips, without padding.

Each of the B rows reads clip after clip and hands out chunks of `seq_len` steps, so the carry of a model goes on from
one batch to the next. A batch is a dictionary of numpy arrays:

    x      [B, lookback + T, *step_shape]   step t is predicted from x[:, t : t + lookback]; its target is x[:, lookback + t]
    reset  bool [B, T]      the target is the first step of a clip: the carry restarts
    mask   bool [B, T]      the target is a real step
    end    bool [B, T]      the target is the last step of its clip
    clip   int32 [B, T]     index of the clip in the store
    labels {name: int32 [B, T]}    0 is "unknown"
    aligned {name: [B, T, ...]}    the value at each step of further streams

A clip enters its row behind `lookback` steps of silence, whose places are masked out of the loss. Clips start at
multiples of `stride`, with further masked silence between them, for models that work frame by frame; those that train
begin up to `stride` - 1 steps late, with their first steps in the lookback.
"""

import dataclasses
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from jaxgen.core.errors import UserError
from jaxgen.data.batches import Batch, check_position
from jaxgen.data.spec import DataSpec
from jaxgen.data.store import Store
from jaxgen.features import FeatureSpec

VARIANT = "variant"
"""Among the labels of a batch, where the features have several: in which form a clip is shown (`FeatureSpec.vary`)."""

_CHUNKS_PER_SEGMENT = 64


@dataclasses.dataclass(frozen=True)
class Segment:
    """Steps start..stop of a clip."""

    clip: int
    start: int
    stop: int
    variant: int = 0
    """Form in which the clip is shown (`FeatureSpec.vary`)."""


class TrainingBatches:
    """Endless batches of the training clips, shuffled anew each epoch by `seed`.

    A recording longer than 64 chunks is cut into segments of that length, so that rows do not march through it side by
    side; a segment starts from a reset carry, but its lookback is the real past.
    rows: those of the batch that are read, in rising order; none takes all. The others are only kept account of, so that
    the order and the position of the data are the same whoever reads which rows.
    Raises UserError where there is nothing to train on.
    """

    def __init__(
        self,
        store: Store,
        spec: DataSpec,
        labels: Sequence[str],
        *,
        lookback: int,
        batch_size: int,
        seq_len: int,
        seed: int,
        stride: int = 1,
        rows: Sequence[int] | None = None,
        aligned: Sequence[str] = (),
    ):
        longest = _CHUNKS_PER_SEGMENT * seq_len
        segments = [
            Segment(clip, start, min(start + longest, store.clips[clip].num_steps))
            for clip in store.indices("train")
            for start in range(0, store.clips[clip].num_steps, longest)
        ]
        if not segments:
            raise UserError("there is no training clip; change the split (data.validation, data.test or the manifest).")
        order = _Shuffled(segments, seed, stride, spec.features.num_variants)
        self._store = store
        packer = _Packer(store, spec, labels, lookback, seq_len, stride, aligned)
        self._streams = lambda: Streams(packer, order, batch_size, rows)

    def __iter__(self) -> "Streams":
        return self._streams()

    def names(self, batch: Mapping[str, Any]) -> list[str]:
        """Names of the clips of which a batch holds real steps."""
        return [self._store.clips[clip].name for clip in np.unique(batch["clip"][batch["mask"]])]


def scoring_batches(
    store: Store,
    spec: DataSpec,
    clips: Sequence[int],
    labels: Sequence[str],
    *,
    lookback: int,
    batch_size: int,
    seq_len: int,
    stride: int = 1,
    aligned: Sequence[str] = (),
) -> Iterator[Batch]:
    """Every step of every clip once, each clip from a fresh start. Label values never seen in training are unknown."""
    longest_first = sorted(clips, key=lambda clip: -store.clips[clip].num_steps)
    segments = [Segment(clip, 0, store.clips[clip].num_steps) for clip in longest_first]
    return Streams(_Packer(store, spec, labels, lookback, seq_len, stride, aligned), segments, batch_size)


class _Shuffled:
    """The segments over and over, in an order of its own each time.

    Each begins up to `stride` - 1 steps late, as drawn anew each time: whoever works frame by frame would otherwise see
    the same frames in each epoch, and learn them by heart.
    """

    def __init__(self, segments: Sequence[Segment], seed: int, stride: int, num_variants: int):
        self._segments, self._seed, self._stride, self._num_variants = segments, seed, stride, num_variants
        self._epoch, self._order, self._late, self._variants = -1, *[np.zeros(0, np.int64)] * 3

    def __len__(self) -> int:
        return sys.maxsize

    def __getitem__(self, check_position: int) -> Segment:
        epoch, index = divmod(check_position, len(self._segments))
        if epoch != self._epoch:
            self._epoch = epoch
            rng = np.random.default_rng((self._seed, epoch))
            self._order = rng.permutation(len(self._segments))
            self._late = rng.integers(self._stride, size=len(self._segments))
            self._variants = rng.integers(self._num_variants, size=len(self._segments))
        segment = self._segments[self._order[index]]
        late = min(int(self._late[index]), segment.stop - segment.start - 1)
        return dataclasses.replace(segment, start=segment.start + late, variant=int(self._variants[index]))


class _Packer:
    """Reads segments into the arrays of a batch."""

    def __init__(
        self,
        store: Store,
        spec: DataSpec,
        labels: Sequence[str],
        lookback: int,
        seq_len: int,
        stride: int,
        aligned: Sequence[str],
    ):
        if seq_len % stride:
            raise UserError(
                f"--train.seq-len is {seq_len}, expected a multiple of {stride}, the steps that the model takes together."
            )
        self.store, self.lookback, self.seq_len, self.stride = store, lookback, seq_len, stride
        self.features, self.silence = spec.features, spec.features.silence()
        self.aligned = {name: store.streams[name] for name in aligned}
        self.label_indices = {name: spec.label_indices(name, store.fields(name)) for name in labels}

    def empty(self, batch_size: int) -> Batch:
        """All arrays, lookback + T long, of a batch that is silence throughout."""
        shape = (batch_size, self.lookback + self.seq_len)
        return {
            "x": np.broadcast_to(self.silence, (*shape, *self.silence.shape)).copy(),
            "reset": np.zeros(shape, bool),
            "mask": np.zeros(shape, bool),
            "end": np.zeros(shape, bool),
            "clip": np.zeros(shape, np.int32),
            "labels": {
                name: np.zeros(shape, np.int32) for name in (*self.label_indices, *variant_names(self.features))
            },
            "aligned": {
                name: np.zeros((*shape, *stream.step_shape), stream.step_dtype) for name, stream in self.aligned.items()
            },
        }

    def length(self, segment: Segment) -> int:
        """Stream elements of a segment: its lookback, its steps, and silence up to a multiple of the stride."""
        return -(-self._used(segment) // self.stride) * self.stride

    def _used(self, segment: Segment) -> int:
        return self.lookback + segment.stop - segment.start

    def write(self, batch: Batch, row: int, at: int, segment: Segment, offset: int, count: int) -> None:
        """Writes stream elements offset..offset+count of a segment into a row, from place `at` on."""
        if (count := min(count, self._used(segment) - offset)) <= 0:
            return
        first = segment.start - self.lookback + offset  # step of the clip at place `at`; before 0 lies silence
        silent = min(max(-first, 0), count)
        place, part = slice(at + silent, at + count), (max(first + silent, 0), max(first + count, 0))
        batch["x"][row, place] = self.features.vary(self.store.steps(segment.clip, *part), segment.variant)
        for name, values in batch["aligned"].items():
            read = self.store.stream(name, segment.clip, *part)
            values[row, place] = self.aligned[name].vary(read, segment.variant)
        real = min(max(self.lookback - offset, 0), count)
        batch["mask"][row, at + real : at + count] = True
        if offset <= self.lookback < offset + count:
            batch["reset"][row, at + self.lookback - offset] = True
        if offset + count == self._used(segment):
            batch["end"][row, at + count - 1] = segment.stop == self.store.clips[segment.clip].num_steps
        batch["clip"][row, at : at + count] = segment.clip
        for name, indices in self.label_indices.items():
            batch["labels"][name][row, at : at + count] = indices[segment.clip]
        for name in variant_names(self.features):
            batch["labels"][name][row, at : at + count] = segment.variant


def variant_names(features: FeatureSpec) -> tuple[str, ...]:
    """`VARIANT` where clips come in several forms."""
    return (VARIANT,) if features.num_variants > 1 else ()


@dataclasses.dataclass
class _Row:
    """Where a stream stands: the segments it holds, with their places in the order, and how much of the first is used
    up."""

    held: list[tuple[int, Segment]]
    offset: int


class Streams(Iterator[Batch]):
    """Fills rows from `order`, first come first served. Its state, as JSON, is a few integers a row.

    Batches hold the rows that are read; the state is that of all.
    """

    def __init__(
        self,
        packer: _Packer,
        order: Sequence[Segment] | _Shuffled,
        batch_size: int,
        read: Sequence[int] | None = None,
    ):
        self._packer, self._order = packer, order
        self._next_place = 0
        self._rows = [_Row([], 0) for _ in range(batch_size)]
        self._read = {
            row: check_position for check_position, row in enumerate(range(batch_size) if read is None else read)
        }

    def __next__(self) -> Batch:
        lookback = self._packer.lookback
        if self._next_place == len(self._order) and all(self._left(row) <= lookback for row in self._rows):
            raise StopIteration
        batch = self._packer.empty(len(self._read))
        for index, row in enumerate(self._rows):
            pieces = self._pieces(row)
            if index in self._read:
                for piece in pieces:
                    self._packer.write(batch, self._read[index], *piece)
            self._advance(row)
        by_step = {
            kind: {name: values[:, lookback:] for name, values in batch[kind].items()} for kind in ("labels", "aligned")
        }
        flags = {name: batch[name][:, lookback:] for name in ("reset", "mask", "end", "clip")}
        return {"x": batch["x"], **by_step, **flags}

    def get_state(self) -> dict[str, Any]:
        """Where the stream stands after the batches drawn so far."""
        return {"next": self._next_place, "rows": [[row.offset, *(p for p, _ in row.held)] for row in self._rows]}

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Goes on from where `get_state` was asked."""
        self._next_place = check_position(state["next"])
        if len(state["rows"]) != len(self._rows):
            raise ValueError(f"{len(state['rows'])} rows, expected {len(self._rows)}")
        self._rows = [
            _Row([(p, self._order[check_position(p)]) for p in places], check_position(offset))
            for offset, *places in state["rows"]
        ]
        if any(row.offset and self._left(_Row(row.held[:1], row.offset)) <= 0 for row in self._rows):
            raise ValueError("a row is behind the end of its clip")

    def _left(self, row: _Row) -> int:
        return sum(self._packer.length(segment) for _, segment in row.held) - row.offset

    def _pieces(self, row: _Row) -> list[tuple[int, Segment, int, int]]:
        """What fills the row, as (place, segment, offset, count) for `write`; takes further segments where it needs them."""
        pieces: list[tuple[int, Segment, int, int]] = []
        at, offset, needed = 0, row.offset, self._packer.lookback + self._packer.seq_len
        while at < needed:
            if len(pieces) == len(row.held):
                if self._next_place == len(self._order):
                    break
                row.held.append((self._next_place, self._order[self._next_place]))
                self._next_place += 1
            _, segment = row.held[len(pieces)]
            count = min(self._packer.length(segment) - offset, needed - at)
            pieces.append((at, segment, offset, count))
            at, offset = at + count, 0
        return pieces

    def _advance(self, row: _Row) -> None:
        row.offset += self._packer.seq_len
        while row.held and row.offset >= (length := self._packer.length(row.held[0][1])):
            row.held.pop(0)
            row.offset -= length
