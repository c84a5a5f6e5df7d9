"""Clips from noise: whole, a batch at a time, and on the way from one to the next."""

import itertools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from jaxgen.core.errors import UserError
from jaxgen.core.numerics import random_key
from jaxgen.data.spec import DataSpec
from jaxgen.features import Decoder
from jaxgen.inference.generation import GeneratedClips
from jaxgen.inference.sampler import ClipBatch, ClipRequest, ClipSampler
from jaxgen.models.latent import LatentGenerator, LatentGeneratorConfig, LatentSampling, slerp

BATCH = 32
"""Clips that are made together; fewer are filled up, so that a clip does not depend on how many are made with it."""

_GAP_SECONDS = 0.1  # of silence between clips on the way

LabelRows = Sequence[Mapping[str, str]]
"""Of each clip, label name to value."""


class LatentSampler(ClipSampler):
    """Makes clips of noise, each as a whole."""

    kind = "makes whole clips of noise"
    unsupported = ("seconds", "prompt", "batch_size", "input", "bars", "infill", "soundfont")
    default_batch_size = BATCH

    def __init__(
        self,
        module: Callable[[Any], LatentGenerator],
        model: LatentGeneratorConfig,
        spec: DataSpec,
        decoder: Decoder | None = None,
    ):
        """module: puts parameters into the model that `model` configures (`TrainTask.module`). decoder: makes sound of its
        steps; none takes the features.
        """
        self._decoder = decoder or spec.features
        self._model, self._spec = model, spec
        self._make = jax.jit(lambda params, latents, labels: _clips(module(params), latents, labels))

    def __call__(
        self,
        params: Any,
        labels: LabelRows,
        *,
        latents: LatentSampling = LatentSampling(),
        seed: int = 0,
        first: int = 0,
    ) -> GeneratedClips:
        """One clip for each mapping in `labels`, of label name to value, or to values mixed (`DataSpec.label_shares`).

        Clip n depends on its labels, the seed and its place, `first` + n, not on how many are drawn (but for rounding, where
        the decoder is a vocoder). It ends where the model ends it.
        Raises UserError for a label never seen in training, or that is not said (see `DataSpec.draw_labels`).
        """
        drawn = self._drawn(latents, first + np.arange(len(labels)), seed)
        return self._sound(params, drawn, self._shares(labels))

    def _batches(self, params: Any, request: ClipRequest, sampling: LatentSampling) -> Iterator[ClipBatch]:
        """The clips asked for; with `interpolate` one more, of them all in turn with what lies between them."""
        labels = self._spec.draw_labels(self._model.labels, [request.labels] * request.num_clips, request.seed)
        firsts, steps = range(0, request.num_clips, BATCH), request.interpolate

        def clips(first: int) -> Iterator[list[np.ndarray]]:
            rows = labels[first : first + BATCH]
            yield self(params, rows, latents=sampling, seed=request.seed, first=first).clips

        def way(steps: int) -> Iterator[list[np.ndarray]]:
            for first in firsts:
                rows = labels[first : first + BATCH + 1]  # the last begins the next stretch
                clips = self.interpolate(params, rows, steps, latents=sampling, seed=request.seed, first=first)
                clips[-1] = clips[-1][: None if first == firsts[-1] else 0]
                yield [self.concatenate(clips)]

        for first in firsts:
            yield ClipBatch(first, labels[first : first + BATCH], clips(first))
        if steps is not None:
            yield ClipBatch(request.num_clips, [{"interpolated": str(steps)}], way(steps))

    def max_samples(self, request: ClipRequest) -> int:
        clips = 1 if request.interpolate is None else request.num_clips * request.interpolate
        return clips * self._spec.features.num_samples(self._model.num_steps)

    def interpolate(
        self,
        params: Any,
        labels: LabelRows,
        steps: int,
        *,
        latents: LatentSampling = LatentSampling(),
        seed: int = 0,
        first: int = 0,
    ) -> list[np.ndarray]:
        """The clips of a call with these arguments, and `steps` - 1 on the way from each to the next, in their noise and
        labels alike: [(clips - 1) * steps + 1] of float32 [nsamp]."""
        drawn, shares = self._drawn(latents, first + np.arange(len(labels)), seed), self._shares(labels)
        places = np.arange(steps) / steps
        pairs = list(itertools.pairwise(range(len(labels))))
        on_the_way = [np.asarray(slerp(drawn[a], drawn[b], places)) for a, b in pairs]
        mixed = {
            name: [row[a] + places[:, None].astype(np.float32) * (row[b] - row[a]) for a, b in pairs]
            for name, row in shares.items()
        }
        every = np.concatenate([*on_the_way, drawn[-1:]])
        return self._sound(params, every, {n: np.concatenate([*mixed[n], shares[n][-1:]]) for n in shares}).clips

    def concatenate(self, clips: Sequence[np.ndarray]) -> np.ndarray:
        """Clips one after another, with a little silence between them."""
        gap = np.zeros(round(_GAP_SECONDS * self._spec.features.sample_rate), np.float32)
        return np.concatenate([piece for clip in clips for piece in (clip, gap)][:-1])

    def _drawn(self, latents: LatentSampling, places: np.ndarray, seed: int) -> np.ndarray:
        keys = jax.vmap(jax.random.fold_in, (None, 0))(random_key(seed), places)
        return np.asarray(jax.vmap(lambda key: latents.draw(key, self._model.latent_size))(keys))

    def _shares(self, labels: LabelRows) -> dict[str, np.ndarray]:
        """Of each label that the model knows, how much there is of each value: float32 [B, V]."""
        for row in labels:
            if missing := [name for name in self._model.labels if name not in row]:
                raise UserError(f"a clip needs a {missing[0]}; pass --label {missing[0]}=VALUE.")
        shares = [{name: self._spec.label_shares(name, value) for name, value in row.items()} for row in labels]
        if unknown := [name for row in shares for name, each in row.items() if each[0]]:
            raise UserError(
                f"a clip of this model needs a {unknown[0]}; leave --label {unknown[0]} out to have one drawn."
            )
        return {name: np.stack([row[name] for row in shares]) for name in self._model.labels}

    def _sound(self, params: Any, latents: np.ndarray, shares: Mapping[str, np.ndarray]) -> GeneratedClips:
        started = time.perf_counter()
        clips = [
            clip
            for start in range(0, len(latents), BATCH)
            for clip in self._batch(params, *(_filled(each, start) for each in (latents, shares)))
        ]
        return GeneratedClips(clips[: len(latents)], self._spec.features.sample_rate, time.perf_counter() - started)

    def _batch(self, params: Any, latents: np.ndarray, shares: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        steps, lengths = map(np.asarray, self._make(params, latents, shares))
        counts = [self._spec.features.num_steps(int(length)) for length in lengths]
        sounds = self._decoder.decode_clips([row[:count] for row, count in zip(steps, counts, strict=True)])
        return [sound[:length] for sound, length in zip(sounds, lengths, strict=True)]


def _clips(model: LatentGenerator, latents: jax.Array, labels: Mapping[str, jax.Array]) -> tuple[jax.Array, jax.Array]:
    return model.to_clips(model(latents, labels))


def _filled(arrays: Any, start: int) -> Any:
    """`BATCH` rows of each array from `start` on, the last one over and over where there are no more."""

    def rows(array: np.ndarray) -> np.ndarray:
        return array[np.minimum(np.arange(start, start + BATCH), len(array) - 1)]

    return jax.tree.map(rows, arrays)
