"""Others on the same work: the recurrence as `lax.scan` and autodiff have it, and PyTorch's."""

import importlib.util
import os
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks.workloads import Workload
from jaxgen.data.pipeline import Batch
from jaxgen.data.spec import DataSpec
from jaxgen.models.sequence import SequenceModel
from jaxgen.objectives.likelihood import LikelihoodTraining
from jaxgen.recurrent import LSTM, Carry, Stack

HAS_TORCH = importlib.util.find_spec("torch") is not None


class ScanTraining(LikelihoodTraining):
    """The same objective; its recurrence is the cell's step in a `lax.scan` with the gradient that jax derives.

    This is what flax and haiku users write: input and recurrent products side by side inside the loop.
    """

    def module(self, params: Any) -> SequenceModel:
        model: Any = super().module(params)
        model.stack = _ScanStack(model.stack)
        return model


class _ScanStack(Stack):
    def __init__(self, stack: Stack):
        self.cell, self.residual, self.dropout, self.dtype = stack.cell, stack.residual, stack.dropout, stack.dtype
        self.layers = stack.layers

    def unroll(
        self, x: jax.Array, carry: tuple[Carry, ...], reset: jax.Array, dropout_key: jax.Array | None = None
    ) -> tuple[jax.Array, tuple[Carry, ...]]:
        def advance(carry: Any, inputs: tuple[jax.Array, jax.Array]) -> tuple[Any, jax.Array]:
            y, carry = self.step(inputs[0], carry, inputs[1])
            return carry, y

        carry, ys = jax.lax.scan(advance, carry, (jnp.swapaxes(x, 0, 1), reset.T))
        return jnp.swapaxes(ys, 0, 1), carry


def torch_step(work: Workload, spec: DataSpec, batches: Sequence[Batch]) -> dict[str, Callable[[], object]]:
    """The train step in PyTorch, as a candidate; none where torch is not installed or the cell is not its LSTM."""
    if not (HAS_TORCH and isinstance(work.model.cell, LSTM)):
        return {}
    _wait_passively()
    from benchmarks import torch_peer

    return {"torch nn.LSTM": torch_peer.train_step(work, spec, batches)}


def torch_generation(work: Workload, spec: DataSpec, streams: int, steps: int) -> dict[str, Callable[[], object]]:
    """Free-running generation in PyTorch, as a candidate; none where `torch_step` has none."""
    if not (HAS_TORCH and isinstance(work.model.cell, LSTM)):
        return {}
    _wait_passively()
    from benchmarks import torch_peer

    return {"torch nn.LSTM": torch_peer.generation(work, spec, streams, steps)}


def _wait_passively() -> None:
    """Has torch's threads sleep while they wait for each other, unless the user says otherwise; to be called first.

    By default they spin, which makes a step 20 times slower as soon as another process wants a core: no fair peer.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
