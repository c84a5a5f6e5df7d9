"""How gradients become updates, and the moving average of what they train."""

import abc
import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxgen.core.errors import UserError
from jaxgen.objectives.learning_rate import Cosine, LearningRateSchedule


@dataclasses.dataclass(frozen=True)
class Optimizer(abc.ABC):
    """Base of the frozen dataclasses that say how a gradient becomes updates. Any of optax is one more with its `transform`."""

    learning_rate: float = 2e-3
    """Highest learning rate; a higher one learns faster, until it diverges."""
    warmup_steps: int = 100
    """Updates until the learning rate is highest; more are safer where training diverges early."""
    schedule: LearningRateSchedule = Cosine()
    """How it goes on from there: Cosine, Constant or WarmupStableDecay."""
    clip_norm: float = 1.0
    """Largest global norm of the gradient; a smaller one is safer and slower."""

    def __post_init__(self) -> None:
        if not (0 < self.learning_rate < math.inf and self.clip_norm > 0 and self.warmup_steps >= 0):
            raise UserError(f"an optimizer needs learning_rate > 0, clip_norm > 0 and warmup_steps >= 0, got {self}.")

    @abc.abstractmethod
    def transform(self, learning_rate: optax.Schedule) -> optax.GradientTransformation:
        """The optax transformation with a learning rate by step, which it counts by itself."""

    def learning_rate_by_step(self, steps: int) -> optax.Schedule:
        """For a run of `steps` steps."""
        return self.schedule.by_step(self.learning_rate, self.warmup_steps, steps)

    def make(self, steps: int) -> optax.GradientTransformation:
        """The transformation of clipped gradients for a run of `steps` steps."""
        return optax.chain(optax.clip_by_global_norm(self.clip_norm), self.transform(self.learning_rate_by_step(steps)))


@dataclasses.dataclass(frozen=True)
class AdamW(Optimizer):
    """Adam (Kingma and Ba 2015) with decoupled weight decay (Loshchilov and Hutter 2019); no decay makes it plain Adam."""

    b1: float = 0.9
    """Decay of the first moment, 0 to 1; nearer to 1 averages over more updates."""
    b2: float = 0.99
    """Decay of the second moment, 0 to 1; nearer to 1 averages over more updates."""
    weight_decay: float = 0.0
    """Decoupled weight decay of matrices alone; more keeps a large model from learning clips by heart."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (0 <= self.b1 < 1 and 0 <= self.b2 < 1 and self.weight_decay >= 0):
            raise UserError(f"AdamW needs b1 and b2 of at least 0 and below 1, and weight_decay >= 0, got {self}.")

    def transform(self, learning_rate: optax.Schedule) -> optax.GradientTransformation:
        return optax.adamw(
            learning_rate,
            b1=self.b1,
            b2=self.b2,
            weight_decay=self.weight_decay,
            mask=lambda params: jax.tree_util.tree_map_with_path(is_matrix, params),
        )


def is_matrix(path: jax.tree_util.KeyPath, param: jax.Array) -> bool:
    """Whether a parameter is decayed. Cells keep a vector for each state in `initial`, [num_states, H]."""
    return param.ndim >= 2 and jax.tree_util.keystr(path[-1:], simple=True) != "initial"


def current_learning_rate(opt_state: Any, schedule: optax.Schedule) -> jax.Array:
    """That of the next update, float32 []: by the optimiser's own count, which stands still where updates are skipped."""
    counts = [part.count for part in jax.tree.leaves(opt_state, is_leaf=_is_schedule) if _is_schedule(part)]
    if not counts:
        raise UserError(
            "the optimizer does not use its learning rate; hand `learning_rate` of `transform` on to optax."
        )
    count = counts[0]
    return jnp.asarray(schedule(count), jnp.float32)


def moving_average(average: Any, params: Any, decay: float, step: jax.Array) -> Any:
    """The exponential moving average of parameters after update number `step`, int32 [] from 0."""
    # The ramp keeps the random start out of the average (Tensorflow's ExponentialMovingAverage does the same).
    ramped = jnp.minimum(decay, (1.0 + step) / (10.0 + step))
    return optax.incremental_update(params, average, 1.0 - ramped)


def _is_schedule(part: Any) -> bool:
    return isinstance(part, optax.ScaleByScheduleState)
