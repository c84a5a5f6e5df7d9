"""Likelihood of clips under teacher forcing: every step of every clip scored once, no state from clip to clip."""

import dataclasses
import sys
from collections.abc import Collection, Sequence
from typing import Any

import jax
import numpy as np

from jaxgen.data.spec import DataSpec
from jaxgen.data.store import Store
from jaxgen.models.sequence import SequenceConfig
from jaxgen.objectives.likelihood import LikelihoodTask


@dataclasses.dataclass(frozen=True)
class Scores:
    """What a set of clips scored."""

    metrics: dict[str, float]
    """Means over all steps of all clips, by unit-bearing name."""
    num_steps: int
    first_losses: float
    """Summed loss of the first step of each clip."""
    predictions: dict[int, np.ndarray]
    """Expected step at each place, [nstep, *step_shape], of the clips asked for."""
    losses: dict[int, np.ndarray]
    """Loss of each of these steps, float32 [nstep]."""


class Scorer:
    """Scores clips in batches of few shapes, for each of which it compiles once."""

    def __init__(self, task: LikelihoodTask, model: SequenceConfig, spec: DataSpec, *, batch_size: int, seq_len: int):
        self._model, self._spec = model, spec
        self._batch_size, self._seq_len = batch_size, seq_len
        self._start = jax.jit(lambda params: task.module(params).init_carry(batch_size))
        self._step = jax.jit(task.eval_step, donate_argnums=1)

    def __call__(
        self, params: Any, store: Store, clips: Sequence[int], *, predict: Collection[int] = (), most: int = sys.maxsize
    ) -> Scores:
        """Scores the clips of these indices; of those in `predict`, the first `most` steps are also predicted."""
        sizes = {"batch_size": self._batch_size, "seq_len": self._seq_len}
        batches = self._model.scoring_batches(store, self._spec, clips, **sizes)
        carry, sums, num_steps, first_losses = self._start(params), dict[str, float](), 0, 0.0
        predicted: dict[int, list[np.ndarray]] = {clip: [] for clip in predict}
        losses: dict[int, list[np.ndarray]] = {clip: [] for clip in predict}
        for batch in batches:
            carry, scores, predictions = self._step(params, carry, batch)
            for name, value in scores.items():
                sums[name] = sums.get(name, 0.0) + float(np.asarray(value).sum(dtype=np.float64))
            num_steps += int(batch["mask"].sum())
            first_losses += float(np.asarray(scores["loss"])[batch["reset"] & batch["mask"]].sum(dtype=np.float64))
            if predicted:
                _collect(predicted, batch, np.asarray(predictions), most)
                _collect(losses, batch, np.asarray(scores["loss"]), most)
        means = {name: value / num_steps for name, value in sums.items()}
        return Scores(means, num_steps, first_losses, *map(_whole, (predicted, losses)))


def _collect(found: dict[int, list[np.ndarray]], batch: dict[str, Any], values: np.ndarray, most: int) -> None:
    """Appends the values of steps to their clips; a clip stays in its row, so its parts come in order."""
    for clips, mask, row in zip(batch["clip"], batch["mask"], values, strict=True):
        for clip in found.keys() & set(clips[mask].tolist()):
            missing = most - sum(map(len, found[clip]))
            found[clip].append(row[mask & (clips == clip)][:missing])


def _whole(found: dict[int, list[np.ndarray]]) -> dict[int, np.ndarray]:
    return {clip: np.concatenate(parts) for clip, parts in found.items()}
