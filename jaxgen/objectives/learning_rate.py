"""How the learning rate goes from the first step to the last."""

import abc
import dataclasses
from typing import ClassVar

import jax.numpy as jnp
import optax

from jaxgen.core.errors import UserError


@dataclasses.dataclass(frozen=True)
class LearningRateSchedule(abc.ABC):
    """Base of the frozen dataclasses that shape the learning rate after a linear warm-up."""

    extensible: ClassVar[bool]
    """Whether a run may be trained on for more steps than it began with."""

    @abc.abstractmethod
    def after_warmup(self, highest: float, warmup: int, steps: int) -> optax.Schedule:
        """Learning rate by the steps that follow `warmup`, for a run of `steps` steps in all."""

    def by_step(self, highest: float, warmup: int, steps: int) -> optax.Schedule:
        """Learning rate by step: it rises linearly to `highest` in `warmup` steps, the first of them above 0."""
        if not self.extensible:  # else a run that is trained on would have begun otherwise
            warmup = min(warmup, steps - 1)
        rising = optax.linear_schedule(highest / (warmup + 1), highest, warmup)
        return optax.join_schedules([rising, self.after_warmup(highest, warmup, steps)], [warmup])


@dataclasses.dataclass(frozen=True)
class Cosine(LearningRateSchedule):
    """Falls on a cosine to the last step (Loshchilov and Hutter 2017, eq. 5)."""

    final_lr_ratio: float = 0.02
    """The last learning rate, as a share of the highest, 0 to 1."""

    extensible = False

    def __post_init__(self) -> None:
        _check_share("final_lr_ratio", self.final_lr_ratio)

    def after_warmup(self, highest: float, warmup: int, steps: int) -> optax.Schedule:
        return optax.cosine_decay_schedule(highest, max(1, steps - warmup), self.final_lr_ratio)


@dataclasses.dataclass(frozen=True)
class Constant(LearningRateSchedule):
    """Stays as high as it is after the warm-up; the average of parameters does what decay would do."""

    extensible = True

    def after_warmup(self, highest: float, warmup: int, steps: int) -> optax.Schedule:
        return optax.constant_schedule(highest)


@dataclasses.dataclass(frozen=True)
class WarmupStableDecay(LearningRateSchedule):
    """Constant, and at the end falls linearly (Hu et al. 2024, MiniCPM, section 4.2). A run that is trained on rises again."""

    decay_share: float = 0.2
    """Share of all updates in which it falls, 0 to 1."""
    final_lr_ratio: float = 0.02
    """The last learning rate, as a share of the highest, 0 to 1."""

    extensible = True

    def __post_init__(self) -> None:
        _check_share("final_lr_ratio", self.final_lr_ratio)
        _check_share("decay_share", self.decay_share)

    def after_warmup(self, highest: float, warmup: int, steps: int) -> optax.Schedule:
        falling = max(1, round(self.decay_share * steps))
        begin = max(0, steps - warmup - falling)
        return lambda step: highest * (1 - (1 - self.final_lr_ratio) * jnp.clip((step - begin) / falling, 0.0, 1.0))


def _check_share(name: str, value: float) -> None:
    if not 0 <= value <= 1:
        raise UserError(f"--objective.optimizer.schedule.{name.replace('_', '-')} is {value:g}, expected 0 to 1.")
