"""How many steps ago a clip began, as an input of a model that makes it step by step."""

import dataclasses

import jax
import jax.numpy as jnp

from jaxgen.core.errors import UserError

_MOST = 28  # the slowest then turns once in 2^29 steps; counts are int32


@dataclasses.dataclass(frozen=True)
class PositionEncoding:
    """Sines and cosines that turn once in 4, 8, 16 ... steps (as in Vaswani et al. 2017, section 3.5, an octave apart).

    Its carry is the number of steps since the clip began, int32 [B]. Raises UserError for a number of frequencies that is
    not from 0 to 28.
    """

    num_frequencies: int
    """0 gives no features."""

    def __post_init__(self) -> None:
        if not 0 <= self.num_frequencies <= _MOST:
            raise UserError(f"--model.position-frequencies is {self.num_frequencies}, expected 0 (none) to {_MOST}.")

    @property
    def num_features(self) -> int:
        """Numbers a step."""
        return 2 * self.num_frequencies

    def init_carry(self, batch_size: int) -> jax.Array:
        """Before the first step of a clip, int32 [B]."""
        return jnp.zeros(batch_size, jnp.int32)

    def unroll(self, carry: jax.Array, reset: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Features of T steps, float32 [B, T, num_features], and the carry after them. reset: bool [B, T]."""
        steps = count_steps(reset, carry)
        return self._encode(steps), steps[:, -1] + 1

    def step(self, carry: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Features of one step, float32 [B, num_features], and the carry after it."""
        return self._encode(carry), carry + 1

    def _encode(self, steps: jax.Array) -> jax.Array:
        periods = 2 ** jnp.arange(2, self.num_frequencies + 2, dtype=jnp.int32)
        angles = 2 * jnp.pi * ((steps[..., None] % periods) / periods)  # of integers: exact however long a clip is
        return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)


def count_steps(starts: jax.Array, first: jax.Array) -> jax.Array:
    """Steps since the last of `starts`, bool [B, T, ...]: int32 of that shape, 0 where one is.

    first: int32 [B, ...], the count at the first step unless it is a start.
    """
    index = jnp.arange(starts.shape[1], dtype=jnp.int32).reshape(-1, *[1] * (starts.ndim - 2))
    return index - jax.lax.cummax(jnp.where(starts, index, -first[:, None]), axis=1)
