"""Adversarial losses of a generator and its critic, and penalties that keep the critic smooth."""

import abc
import dataclasses
from collections.abc import Callable
from typing import ClassVar

import jax
import jax.numpy as jnp

from jaxgen.core.errors import UserError


class AdversarialLoss(abc.ABC):
    """Losses of both sides, by the critic's scores [...]; high is real. Frozen dataclasses, without arrays."""

    needs_penalty: ClassVar[bool] = False
    """Whether the critic needs a gradient penalty."""

    @abc.abstractmethod
    def critic_loss(self, real: jax.Array, generated: jax.Array) -> jax.Array:
        """What the critic minimises, []."""

    @abc.abstractmethod
    def generator_loss(self, generated: jax.Array) -> jax.Array:
        """What the generator minimises, []."""


@dataclasses.dataclass(frozen=True)
class LeastSquares(AdversarialLoss):
    """Least squares (Mao et al. 2017, eq. 9 with a = 0, b = c = 1, without the halves)."""

    def critic_loss(self, real: jax.Array, generated: jax.Array) -> jax.Array:
        return jnp.square(real - 1).mean() + jnp.square(generated).mean()

    def generator_loss(self, generated: jax.Array) -> jax.Array:
        return jnp.square(generated - 1).mean()


@dataclasses.dataclass(frozen=True)
class Hinge(AdversarialLoss):
    """The hinge (Lim and Ye 2017)."""

    def critic_loss(self, real: jax.Array, generated: jax.Array) -> jax.Array:
        return jax.nn.relu(1 - real).mean() + jax.nn.relu(1 + generated).mean()

    def generator_loss(self, generated: jax.Array) -> jax.Array:
        return -generated.mean()


@dataclasses.dataclass(frozen=True)
class Logistic(AdversarialLoss):
    """The logistic loss (Goodfellow et al. 2014, section 3), where the generator makes what is scored as real likelier."""

    def critic_loss(self, real: jax.Array, generated: jax.Array) -> jax.Array:
        return jax.nn.softplus(-real).mean() + jax.nn.softplus(generated).mean()

    def generator_loss(self, generated: jax.Array) -> jax.Array:
        return jax.nn.softplus(-generated).mean()


@dataclasses.dataclass(frozen=True)
class Wasserstein(AdversarialLoss):
    """The Wasserstein distance (Arjovsky et al. 2017); the critic's slope is held by a `GradientPenalty`."""

    needs_penalty = True

    def critic_loss(self, real: jax.Array, generated: jax.Array) -> jax.Array:
        return generated.mean() - real.mean()

    def generator_loss(self, generated: jax.Array) -> jax.Array:
        return -generated.mean()


Score = Callable[[jax.Array], jax.Array]
"""A critic's mean score of each sound: [B, ...] to [B]."""


@dataclasses.dataclass(frozen=True)
class Penalty(abc.ABC):
    """What is added to the critic's loss. Every `every`-th of its updates has it, as many times as strong (lazy
    regularisation, Karras et al. 2020)."""

    weight: float = 10.0
    """How much it counts."""
    every: int = 1
    """Updates of the critic from one that has it to the next."""

    def __post_init__(self) -> None:
        if not self.weight > 0 or self.every < 1:
            raise UserError(f"a penalty needs a weight above 0 and every of at least 1, got {self}.")

    @abc.abstractmethod
    def compute(self, score: Score, real: jax.Array, generated: jax.Array, key: jax.Array) -> jax.Array:
        """The penalty [], without its weight, at sounds [B, ...]."""


@dataclasses.dataclass(frozen=True)
class GradientPenalty(Penalty):
    """(|slope| - 1)^2 between real and generated sounds (Gulrajani et al. 2017, eq. 3)."""

    def compute(self, score: Score, real: jax.Array, generated: jax.Array, key: jax.Array) -> jax.Array:
        share = jax.random.uniform(key, (len(real), *[1] * (real.ndim - 1)))
        return jnp.square(jnp.sqrt(_squared_slopes(score, share * real + (1 - share) * generated) + 1e-12) - 1).mean()


@dataclasses.dataclass(frozen=True)
class R1(Penalty):
    """|slope|^2 / 2 at real sounds (Mescheder et al. 2018, eq. 9)."""

    def compute(self, score: Score, real: jax.Array, generated: jax.Array, key: jax.Array) -> jax.Array:
        del generated, key
        return _squared_slopes(score, real).mean() / 2


def _squared_slopes(score: Score, sounds: jax.Array) -> jax.Array:
    """The square of the slope of each row's score, [B]."""
    slopes = jax.grad(lambda rows: score(rows).sum())(sounds)
    return jnp.square(slopes).reshape(len(sounds), -1).sum(axis=-1)
