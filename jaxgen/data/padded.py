"""Batches of whole clips, padded at their end: for models that read a context, such as a text, beside the steps.

A batch has the arrays of `jaxgen.data.pipeline`, of clips of about one length, whose carry starts at their first step, and

    context  {name: (values [B, N, ...], mask bool [B, N])}    whole streams

Clips are grouped by length, so that little is padded and few shapes are compiled: lengths are rounded up to one of a few.
"""

import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from jaxgen.core.errors import UserError
from jaxgen.data.batches import Batch, check_position
from jaxgen.data.pipeline import variant_names
from jaxgen.data.spec import DataSpec
from jaxgen.data.store import Store
from jaxgen.features import StreamSpec

_GROWTH = 1.25  # from one length of batches to the next: a tenth of the steps is padding, on the mean


class PaddedBatches:
    """Endless batches of the training clips, shuffled anew each epoch by `seed`; each clip comes once an epoch.

    The last batch of an epoch may have rows without a clip, whose steps are masked. Clips longer than `longest` steps are left
    out, which is told. rows: as in `TrainingBatches`. Raises UserError where there is nothing to train on.
    """

    def __init__(
        self,
        padder: "Padder",
        *,
        batch_size: int,
        longest: int,
        seed: int,
        rows: Sequence[int] | None = None,
    ):
        store = padder.store
        train = store.indices("train")
        clips = [clip for clip in train if store.clips[clip].num_steps <= longest]
        if not clips:
            raise UserError(
                f"none of {len(train)} training clips has at most {longest} steps; raise --train.seq-len, or change the split."
            )
        if left := len(train) - len(clips):
            print(
                f"jaxgen: {left} of {len(train)} training clips are longer than --train.seq-len {longest} steps and left out.",
                file=sys.stderr,
            )
        self._store = store
        self._streams = lambda: _Shuffled(padder, clips, batch_size, seed, rows)

    def __iter__(self) -> "_Shuffled":
        return self._streams()

    def names(self, batch: Mapping[str, Any]) -> list[str]:
        """Names of the clips that a batch holds."""
        return [self._store.clips[clip].name for clip in np.unique(batch["clip"][batch["mask"]])]


def padded_scoring_batches(padder: "Padder", clips: Sequence[int], batch_size: int) -> Iterator[Batch]:
    """Every clip once, long ones first. Label values never seen in training are unknown."""
    order = sorted(clips, key=lambda clip: -padder.store.clips[clip].num_steps)
    for first in range(0, len(order), batch_size):
        yield padder.pad([(clip, 0) for clip in order[first : first + batch_size]], batch_size)


class _Shuffled(Iterator[Batch]):
    """Its state, as JSON, is the number of the next batch."""

    def __init__(self, padder: "Padder", clips: Sequence[int], batch_size: int, seed: int, rows: Sequence[int] | None):
        self._padder, self._clips, self._batch_size, self._seed = padder, clips, batch_size, seed
        self._rows = range(batch_size) if rows is None else rows
        self._next, self._epoch, self._batches = 0, -1, list[list[tuple[int, int]]]()

    def __next__(self) -> Batch:
        epoch, place = divmod(self._next, -(-len(self._clips) // self._batch_size))
        if epoch != self._epoch:
            self._epoch, self._batches = epoch, self._of_epoch(epoch)
        self._next += 1
        return self._padder.pad(self._batches[place], self._batch_size, self._rows)

    def get_state(self) -> dict[str, Any]:
        """Where the stream stands after the batches drawn so far."""
        return {"next": self._next}

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Goes on from where `get_state` was asked."""
        self._next = check_position(state["next"])

    def _of_epoch(self, epoch: int) -> list[list[tuple[int, int]]]:
        """Each batch's clips and their variants: neighbours by length, shuffled where it is the same, in random order."""
        random = np.random.default_rng((self._seed, epoch))
        order = random.permutation(len(self._clips))
        lengths = [self._padder.rounded(self._clips[place]) for place in order]
        variants = random.integers(self._padder.features.num_variants, size=len(order))
        by_length = [(self._clips[order[place]], int(variants[place])) for place in np.argsort(lengths, kind="stable")]
        batches = [by_length[first : first + self._batch_size] for first in range(0, len(by_length), self._batch_size)]
        return [batches[place] for place in random.permutation(len(batches))]


class Padder:
    """Reads whole clips, with these labels and streams, into the arrays of a batch."""

    def __init__(
        self,
        store: Store,
        spec: DataSpec,
        labels: Sequence[str],
        aligned: Sequence[str],
        context: Sequence[str],
        *,
        lookback: int,
        stride: int = 1,
    ):
        self.store, self._lookback, self._stride = store, lookback, stride
        self._aligned, self._context = aligned, context
        self.features, self._silence = spec.features, spec.features.silence()
        self._labels = {name: spec.label_indices(name, store.fields(name)) for name in labels}

    def rounded(self, clip: int) -> int:
        """Steps of a batch in which the clip is the longest."""
        return round_up(self.store.clips[clip].num_steps, self._stride)

    def pad(self, clips: Sequence[tuple[int, int]], batch_size: int, rows: Sequence[int] | None = None) -> Batch:
        """A batch of clips in a variant each, and of rows without one where they are fewer; of its rows those asked for."""
        num_steps = max(self.rounded(clip) for clip, _ in clips)
        rows = range(batch_size) if rows is None else rows
        chosen = [clips[row] if row < len(clips) else None for row in rows]
        shape, silence = (len(chosen), num_steps), self._silence
        batch: Batch = {
            "x": np.broadcast_to(silence, (len(chosen), self._lookback + num_steps, *silence.shape)).copy(),
            **{name: np.zeros(shape, bool) for name in ("reset", "mask", "end")},
            "clip": np.zeros(shape, np.int32),
            "labels": {name: np.zeros(shape, np.int32) for name in (*self._labels, *variant_names(self.features))},
            "aligned": {name: self._pad_stream(name, chosen, num_steps)[0] for name in self._aligned},
            "context": {name: self._pad_stream(name, chosen, self._longest(name, clips)) for name in self._context},
        }
        batch["reset"][:, 0] = True
        for row, each in enumerate(chosen):
            if each is None:
                continue
            clip, variant = each
            count = self.store.clips[clip].num_steps
            steps = self.features.vary(self.store.steps(clip), variant)
            batch["x"][row, self._lookback : self._lookback + count] = steps
            batch["mask"][row, :count] = True
            batch["end"][row, count - 1] = True
            batch["clip"][row] = clip
            for name, indices in self._labels.items():
                batch["labels"][name][row] = indices[clip]
            for name in variant_names(self.features):
                batch["labels"][name][row] = variant
        return batch

    def _longest(self, name: str, clips: Sequence[tuple[int, int]]) -> int:
        return round_up(max(self.store.clips[clip].streams[name][1] for clip, _ in clips), 1)

    def _pad_stream(
        self, name: str, clips: Sequence[tuple[int, int] | None], length: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Values [B, length, ...] of a stream, 0 behind its end, and which are real, bool [B, length]."""
        spec = self.store.streams[name]
        rows = [None if each is None else spec.vary(self.store.stream(name, each[0]), each[1]) for each in clips]
        return pad_rows(rows, length, spec)


def pad_rows(rows: Sequence[np.ndarray | None], length: int, spec: StreamSpec) -> tuple[np.ndarray, np.ndarray]:
    """Rows [N, ...] of a stream as [B, length, ...], 0 behind their ends, and which values are real, bool [B, length]."""
    values = np.zeros((len(rows), length, *spec.step_shape), spec.step_dtype)
    mask = np.zeros(values.shape[:2], bool)
    for place, row in enumerate(rows):
        if row is not None:
            values[place, : len(row)], mask[place, : len(row)] = row, True
    return values, mask


def round_up(count: int, multiple: int) -> int:
    """The least of a few lengths, multiples of a number, that holds `count` steps."""
    length = multiple * max(1, 16 // multiple)
    while length < count:
        length = multiple * math.ceil(length * _GROWTH / multiple)
    return length
