"""Batches of excerpts: pieces of recordings of one length, or whole clips brought to it.

samples  float32 [B, T, *sample_shape]    full scale 1.0; silence follows a clip that is shorter
length   int32 [B]              samples until the clip ends; T at most
clip     int32 [B]              index of the clip in the store
labels   {name: int32 [B]}      0 is "unknown"
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from jaxgen.core.errors import UserError
from jaxgen.data.batches import Batch, check_position
from jaxgen.data.spec import DataSpec
from jaxgen.data.store import Store


class Excerpts:
    """Endless batches of random excerpts of the training clips; each sample of these is as likely as any other to choose one.

    spec, labels: what the labels' values are known by, and the names of those that are read. length: samples of an excerpt.
    whole: excerpts begin where clips begin, and each clip is as likely as any other. rows: those of the batch that are
    read, in rising order; none takes all. Which excerpt a row gets depends on the seed, the number of the batch and the row
    alone.
    Raises UserError where there is nothing to train on.
    """

    def __init__(
        self,
        store: Store,
        spec: DataSpec,
        labels: Sequence[str] = (),
        *,
        batch_size: int,
        length: int,
        seed: int,
        whole: bool = False,
        rows: Sequence[int] | None = None,
    ):
        self._store, self._length, self._seed, self._whole = store, length, seed, whole
        self._clips = store.indices("train")
        if not self._clips:
            raise UserError("there is no training clip; change the split (data.validation, data.test or the manifest).")
        self._batch_size = batch_size
        self._rows = np.arange(batch_size) if rows is None else np.asarray(rows)
        self._ends = np.cumsum([1 if whole else store.clips[clip].num_samples for clip in self._clips])
        self._labels = {name: spec.label_indices(name, store.fields(name)) for name in labels}

    def __iter__(self) -> "ExcerptStream":
        return ExcerptStream(self)

    def names(self, batch: Mapping[str, Any]) -> list[str]:
        """Names of the clips in a batch."""
        return [self._store.clips[clip].name for clip in np.unique(batch["clip"])]

    def batch(self, number: int) -> Batch:
        """The batch of this number, from 0."""
        generator = np.random.default_rng((self._seed, number))
        places = generator.integers(self._ends[-1], size=self._batch_size)[self._rows]
        shares = generator.random(self._batch_size)[self._rows] * (not self._whole)
        clips = np.asarray(self._clips)[np.searchsorted(self._ends, places, side="right")]
        labels = {name: indices[clips] for name, indices in self._labels.items()}
        return _read(self._store, self._length, zip(clips, shares, strict=True)) | {"labels": labels}


class ExcerptStream(Iterator[Batch]):
    """The batches of `Excerpts` in turn. Its state is the number of the next."""

    def __init__(self, excerpts: Excerpts):
        self._excerpts, self._next = excerpts, 0

    def __next__(self) -> Batch:
        self._next += 1
        return self._excerpts.batch(self._next - 1)

    def get_state(self) -> dict[str, Any]:
        return {"next": self._next}

    def set_state(self, state: Mapping[str, Any]) -> None:
        self._next = check_position(state["next"])


def excerpt_per_clip(
    store: Store, clips: Sequence[int], *, batch_size: int, length: int
) -> Iterator[tuple[Batch, int]]:
    """An excerpt of the middle of each clip, in batches, with the number of rows that count; others are a repeated clip."""
    for start in range(0, len(clips), batch_size):
        chosen = clips[start : start + batch_size]
        padded = [*chosen, *[chosen[-1]] * (batch_size - len(chosen))]
        yield _read(store, length, ((clip, 0.5) for clip in padded)), len(chosen)


def _read(store: Store, length: int, wanted: Iterable[tuple[int, float]]) -> Batch:
    """wanted: clips, each with the place of its excerpt, from 0 (the first there is) to 1 (the last)."""
    wanted = list(wanted)
    samples = np.zeros((len(wanted), length, *store.features.sample_shape), np.float32)
    lengths = np.zeros(len(wanted), np.int32)
    for row, (clip, share) in enumerate(wanted):
        start = int(share * max(store.clips[clip].num_samples - length + 1, 1))
        piece = store.samples(clip, start, start + length)
        samples[row, : len(piece)], lengths[row] = piece, len(piece)
    return {"samples": samples, "length": lengths, "clip": np.array([clip for clip, _ in wanted], np.int32)}
