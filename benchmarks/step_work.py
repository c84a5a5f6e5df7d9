"""What every row of the yardstick offers: a train step of a size, for jaxgen and, as plain numbers, for its peers."""

import abc
from collections.abc import Mapping
from typing import Any, ClassVar, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.step_peers.given import LEARNING_RATE
from jaxgen.objectives.learning_rate import Constant
from jaxgen.objectives.objective import Batch, TrainTask
from jaxgen.objectives.optimizer import AdamW
from jaxgen.objectives.state import TrainState

PLAIN_ADAM = AdamW(learning_rate=LEARNING_RATE, warmup_steps=0, schedule=Constant(), b2=0.999, clip_norm=1e9)
"""As plain as the peers'. It also clips, at a norm that is never met."""


class Numbers(Protocol):
    """What peers are given."""

    def save(self, path: str) -> None:
        """Writes everything to a file of numpy arrays."""


class StepWork(abc.ABC):
    """A train step that is measured. Frozen dataclasses, which cross to other processes as `jaxgen.core.serial` writes them."""

    peers: ClassVar[str]
    """Package of its peers, one module for each framework that has the model."""
    losses: ClassVar[Mapping[str, str]] = {"losses": "loss"}
    """By the fact that candidates tell them as, the metrics of a step in which peers must agree with jaxgen."""

    batch_size: int
    """B, rows."""

    @property
    @abc.abstractmethod
    def name(self) -> str:
        """Of the row: the kind of model, and its sizes."""

    @property
    @abc.abstractmethod
    def unit(self) -> str:
        """What a step of a sequence is: `sample` or `frame`."""

    @property
    @abc.abstractmethod
    def steps(self) -> int:
        """Samples or frames of a batch."""

    @abc.abstractmethod
    def flops(self) -> int:
        """Arithmetic of the matrix products and convolutions of one update; a multiplication and an addition are two."""

    @abc.abstractmethod
    def bound(self) -> TrainTask:
        """The real objective, with Adam as plain as its peers'. It also averages the weights, which its peers need not."""

    @abc.abstractmethod
    def batch(self) -> Batch:
        """Random numbers, which cost what any others do."""

    @abc.abstractmethod
    def given(self) -> Numbers:
        """The same start and batch as plain arrays."""


def start(task: TrainTask) -> TrainState:
    """Fresh parameters, the same in every process. Biases and initial carries, which are fresh at 0, are moved, so that
    a peer that confuses them computes another loss; but for the recurrent biases, which not all peers have."""
    state = jax.jit(task.init)(jax.random.key(0))

    def moved(path: Any, leaf: jax.Array) -> jax.Array:
        names = [str(getattr(key, "key", key)) for key in path]
        if names[-1] not in ("bias", "initial"):
            return leaf
        noise = np.random.default_rng(len(leaf)).standard_normal(leaf.shape, dtype=np.float32)
        return leaf + 0.1 * jnp.asarray(noise)

    return state._replace(params=jax.tree_util.tree_map_with_path(moved, state.params))
