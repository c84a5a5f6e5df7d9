"""Updates that would spoil the parameters are skipped."""

from typing import NamedTuple, Self

import jax
import jax.numpy as jnp

_DECAY = 0.99  # of the moving moments of the loss
_SETTLED = 100  # good updates after which the moments mean something


class Guard(NamedTuple):
    """What the updates so far were like; part of the train state, so that a resumed run decides alike."""

    skipped: jax.Array
    """int32 []: updates skipped so far."""
    in_row: jax.Array
    """int32 []: updates skipped since the last good one."""
    rollbacks: jax.Array
    """int32 []: times that the parameters of an earlier checkpoint were put back."""
    good: jax.Array
    """int32 []: updates that were not skipped."""
    mean: jax.Array
    """float32 []: moving mean of the loss of good updates."""
    variance: jax.Array
    """float32 []: moving variance of it."""

    @classmethod
    def new(cls) -> Self:
        """Before the first update."""
        return cls(*(jnp.zeros((), jnp.int32) for _ in range(4)), *(jnp.zeros((), jnp.float32) for _ in range(2)))

    def update(self, loss: jax.Array, gradient_norm: jax.Array, spike: float) -> tuple[jax.Array, Self]:
        """Whether an update is good, bool [], and the guard after it.

        Good is a finite loss (float32 []) and gradient; with `spike` > 0 also a loss at most that many standard
        deviations above its moving mean, once 100 updates were good.
        """
        good = jnp.isfinite(loss) & jnp.isfinite(gradient_norm)
        if spike:
            usual = loss <= self.mean + spike * jnp.sqrt(self.variance)
            good &= usual | (self.good < _SETTLED)
        # Moments with the bias of their start taken out: the weight of the first value is 1.
        weight = jnp.maximum(1 - _DECAY, 1 / (self.good + 1.0))
        away = jnp.where(good, loss - self.mean, 0.0)
        bad = jnp.where(good, 0, 1)
        return good, self._replace(
            skipped=self.skipped + bad,
            in_row=(self.in_row + 1) * bad,
            good=self.good + 1 - bad,
            mean=self.mean + weight * away,
            variance=jnp.where(good, (1 - weight) * (self.variance + weight * away**2), self.variance),
        )
