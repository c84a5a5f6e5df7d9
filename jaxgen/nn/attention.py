"""Attention over a clip's own past: where the state was like now, what followed?"""

import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from jaxgen.core.errors import UserError

_NEVER = -1e9

Past = dict[str, jax.Array]


class PastAttention(nnx.Module):
    """Heads of scaled dot products (Vaswani et al. 2017) between hidden states, with a learned bias for each distance.

    What a head reads of an earlier step is the frame that followed there, so that a head which finds the same state again
    knows how the music went on. Only earlier steps of the same clip are read, the last `reach` of them.
    """

    def __init__(self, reach: int, num_heads: int, hidden_size: int, frame_size: int, *, dtype: Any, rngs: nnx.Rngs):
        """frame_size: numbers of a frame as a network reads it. Raises UserError where the heads do not divide the units."""
        if reach < 1 or num_heads < 1 or hidden_size % num_heads:
            raise UserError(
                f"attention of {num_heads} heads over {reach} steps does not go with {hidden_size} hidden units; heads must "
                "divide the units."
            )
        self.reach, self.num_heads, self.hidden_size, self.frame_size = reach, num_heads, hidden_size, frame_size
        self.query = nnx.Linear(hidden_size, hidden_size, use_bias=False, dtype=dtype, rngs=rngs)
        self.key = nnx.Linear(hidden_size, hidden_size, use_bias=False, dtype=dtype, rngs=rngs)
        self.value = nnx.Linear(frame_size, hidden_size, use_bias=False, dtype=dtype, rngs=rngs)
        self.out = nnx.Linear(hidden_size, hidden_size, dtype=dtype, rngs=rngs)
        self.nearness = nnx.Param(jnp.zeros((num_heads, reach)))

    def init_carry(self, batch_size: int) -> Past:
        """Of `reach` steps before the clip, none of which is read."""
        return {
            "hidden": jnp.zeros((batch_size, self.reach, self.hidden_size), jnp.float32),
            "frames": jnp.zeros((batch_size, self.reach, self.frame_size), jnp.float32),
        }

    def __call__(
        self, hidden: jax.Array, frames_before: jax.Array, since: jax.Array, past: Past
    ) -> tuple[jax.Array, Past]:
        """Hidden states [B, T, H] with what was read added to them, and the past behind them.

        frames_before: the frame before each step, float32 [B, T, F], which is what followed the state of the step before.
        since: steps of the clip before each step, int32 [B, T].
        """
        count = hidden.shape[1]
        states = jnp.concatenate([past["hidden"].astype(hidden.dtype), hidden], axis=1)
        frames = jnp.concatenate([past["frames"], frames_before.astype(jnp.float32)], axis=1)
        # the frame that followed the state at place i is the one before place i + 1
        queries, keys = self._heads(self.query(hidden)), self._heads(self.key(states[:, :-1]))
        values = self._heads(self.value(frames[:, 1:].astype(hidden.dtype)))
        distance = self.reach + jnp.arange(count)[:, None] - jnp.arange(self.reach + count - 1)
        near = self.nearness[...][:, jnp.clip(distance - 1, 0, self.reach - 1)]
        allowed = (distance >= 1) & (distance <= jnp.minimum(since, self.reach)[..., None])
        logits = jnp.einsum("bthd,bshd->bhts", queries, keys).astype(jnp.float32) / math.sqrt(queries.shape[-1])
        logits = jnp.where(allowed[:, None], logits + near, _NEVER)
        # a place of its own for nothing, where no earlier step is like this one, or there is none
        weights = jax.nn.softmax(jnp.pad(logits, ((0, 0), (0, 0), (0, 0), (0, 1))), axis=-1)[..., :-1]
        read = jnp.einsum("bhts,bshd->bthd", weights.astype(hidden.dtype), values)
        added = self.out(read.reshape(hidden.shape))
        behind = {"hidden": states[:, -self.reach :].astype(jnp.float32), "frames": frames[:, -self.reach :]}
        return hidden + added, behind

    def _heads(self, units: jax.Array) -> jax.Array:
        return units.reshape(*units.shape[:-1], self.num_heads, -1)
