"""What every way to train must offer. The loop, checkpoints and commands know these two classes and no others."""

import abc
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Generic, TypeVar

import jax
from flax import nnx

from jaxgen.core.numerics import random_key
from jaxgen.data.batches import Batches
from jaxgen.data.spec import DataSpec
from jaxgen.data.store import Store
from jaxgen.models.config import ModelConfig
from jaxgen.objectives.state import TrainState

Batch = Mapping[str, Any]
Metrics = dict[str, jax.Array]
M = TypeVar("M", bound=nnx.Module)


class TrainTask(abc.ABC):
    """An objective for one model, data spec, run length and batch size: pure functions, to be jitted by the caller."""

    learning_rate_options: str
    """Names of the options to lower where training diverges."""

    @abc.abstractmethod
    def init(self, key: jax.Array) -> TrainState:
        """The state before the first step; `average` is what an untrained run is measured with."""

    @abc.abstractmethod
    def train_step(self, state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        """One update, or none where it would spoil the parameters (`Guard`). batch: see `Objective.batches`.

        Metrics are float or int [] each; among them `loss`, `gradient_norm`, `skipped` and `skipped_in_row`.
        """

    @abc.abstractmethod
    def module(self, params: Any) -> Any:
        """The model with these parameters, those of `TrainState.average`."""

    def start_from(self, state: TrainState, average: Any) -> TrainState:
        """A first state with other parameters, those of an average."""
        return state._replace(params=average, average=jax.tree.map(jax.numpy.copy, average))

    def diagnose(self, figures: Mapping[str, float]) -> str:
        """What is wrong with a run whose updates have these metrics, as a sentence; empty where nothing is.

        figures: means over a few updates; NaN where none of them has the metric.
        """
        del figures
        return ""


class Objective(abc.ABC):
    """Base of the frozen dataclasses that say what is minimised and how."""

    @property
    def num_microbatches(self) -> int:
        """Microbatches that a batch is computed in, one after another; each has rows of every device."""
        return 1

    @property
    def extensible(self) -> bool:
        """Whether a run may be trained on for more steps than it began with: what it computes does not depend on the last."""
        return False

    @abc.abstractmethod
    def build(self, model: ModelConfig, data: DataSpec, *, steps: int, batch_size: int) -> TrainTask:
        """The objective for one model, data spec, run length and batch size.

        Raises UserError where they do not fit.
        """

    @abc.abstractmethod
    def batches(
        self,
        model: ModelConfig,
        store: Store,
        data: DataSpec,
        *,
        batch_size: int,
        seq_len: int,
        seed: int,
        rows: Sequence[int] | None = None,
    ) -> Batches:
        """What the objective trains on: rows of `seq_len` steps.

        rows: those of a batch that are read, in rising order; none takes all. Raises UserError where there is nothing.
        """


class ModuleTemplate(Generic[M]):
    """A module without its parameters: the graph, and what is not trained. Neither depends on the seed."""

    def __init__(self, build: Callable[[nnx.Rngs], M]):
        self._build = build
        self._graph = nnx.graphdef(nnx.eval_shape(lambda: build(nnx.Rngs(random_key(0)))))
        # jit computes nothing of this build but the constants
        self._constants = jax.jit(lambda: nnx.split(build(nnx.Rngs(random_key(0))), nnx.Param, ...)[2:])()

    def init(self, key: jax.Array) -> Any:
        """First parameters, a plain dictionary."""
        _, params, *_ = nnx.split(self._build(nnx.Rngs(key)), nnx.Param, ...)
        return nnx.to_pure_dict(params)

    def __call__(self, params: Any) -> M:
        """The module with these parameters."""
        return nnx.merge(self._graph, params, *self._constants)


def split_rows(array: jax.Array, parts: int) -> jax.Array:
    """[B, ...] to [parts, B / parts, ...]: each part has rows of every device, every second one, say, not the first half."""
    return array.reshape(-1, parts, *array.shape[1:]).swapaxes(0, 1)
