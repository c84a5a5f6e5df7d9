"""Adam with warm-up and cosine decay, and the moving average of what it trains."""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxgen.core.errors import UserError


@dataclasses.dataclass(frozen=True)
class AdamW:
    """Adam (Kingma and Ba 2015) with decoupled weight decay (Loshchilov and Hutter 2019); no decay makes it plain Adam.

    The learning rate rises linearly to `learning_rate`, and falls on a cosine to `learning_rate * final_lr_ratio` at the last
    step.
    """

    learning_rate: float = 2e-3
    """Highest learning rate."""
    warmup_steps: int = 100
    """Steps until the learning rate is highest."""
    final_lr_ratio: float = 0.02
    """The last learning rate, divided by the highest."""
    b1: float = 0.9
    """Decay of the first moment."""
    b2: float = 0.99
    """Decay of the second moment."""
    weight_decay: float = 0.0
    """Decoupled weight decay, on matrices only: not on biases, gains or the carry that sequences start from."""
    clip_norm: float = 1.0
    """Largest global norm of the gradient."""

    def __post_init__(self):
        if not (
            0 < self.learning_rate < math.inf
            and self.clip_norm > 0
            and self.warmup_steps >= 0
            and self.weight_decay >= 0
        ):
            raise UserError(
                f"an optimizer needs learning_rate > 0, clip_norm > 0, warmup_steps >= 0 and weight_decay >= 0, got {self}."
            )
        if not (0 <= self.b1 < 1 and 0 <= self.b2 < 1 and 0 <= self.final_lr_ratio <= 1):
            raise UserError(
                f"an optimizer needs b1 and b2 of at least 0 and below 1, and final_lr_ratio from 0 to 1, got {self}."
            )

    def schedule(self, steps: int) -> optax.Schedule:
        """Learning rate by step, for a run of `steps` steps."""
        warmup = min(self.warmup_steps, steps - 1)
        return optax.warmup_cosine_decay_schedule(
            self.learning_rate / (warmup + 1),
            self.learning_rate,
            warmup,
            max(steps, warmup + 1),
            self.learning_rate * self.final_lr_ratio,
        )

    def make(self, steps: int) -> optax.GradientTransformation:
        """The optax transformation for a run of `steps` steps."""
        return optax.chain(
            optax.clip_by_global_norm(self.clip_norm),
            optax.adamw(
                self.schedule(steps),
                b1=self.b1,
                b2=self.b2,
                weight_decay=self.weight_decay,
                mask=lambda params: jax.tree_util.tree_map_with_path(_is_matrix, params),
            ),
        )


def _is_matrix(path: jax.tree_util.KeyPath, param: jax.Array) -> bool:
    """Whether a parameter is decayed. Cells keep a vector for each state in `initial`, [num_states, H]."""
    return param.ndim >= 2 and jax.tree_util.keystr(path[-1:], simple=True) != "initial"


def current_learning_rate(opt_state: Any, schedule: optax.Schedule) -> jax.Array:
    """That of the next update, float32 []: by the optimiser's own count, which stands still where updates are skipped."""
    count = next(part.count for part in jax.tree.leaves(opt_state, is_leaf=_is_schedule) if _is_schedule(part))
    return jnp.asarray(schedule(count), jnp.float32)


def moving_average(average: Any, params: Any, decay: float, step: jax.Array) -> Any:
    """The exponential moving average of parameters after update number `step`, int32 [] from 0."""
    # The ramp keeps the random start out of the average (Tensorflow's ExponentialMovingAverage does the same).
    ramped = jnp.minimum(decay, (1.0 + step) / (10.0 + step))
    return optax.incremental_update(params, average, 1.0 - ramped)


def _is_schedule(part: Any) -> bool:
    return isinstance(part, optax.ScaleByScheduleState)
