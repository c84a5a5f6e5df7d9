"""Samples as 16-bit integers."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen.audio.companding import compand
from jaxgen.features.spec import SampleSpec

FULL_SCALE = 2**15


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pcm16(SampleSpec):
    """Samples as linear 16-bit integers, -32,768 to 32,767: what most files hold, bit for bit."""

    q_levels = 256

    @property
    def step_dtype(self) -> np.dtype:
        return np.dtype(np.int16)

    def encode(self, samples: jax.Array | np.ndarray) -> jax.Array:
        """Samples float32 [..., nsamp] to integers int16 [..., nsamp]; samples beyond full scale are clipped."""
        return _encode(samples)

    def decode(self, steps: jax.Array | np.ndarray) -> jax.Array:
        """Integers [..., nstep] to samples float32 [..., nstep]."""
        return jnp.asarray(steps).astype(jnp.float32) / FULL_SCALE

    def silence(self) -> np.ndarray:
        return np.zeros((), self.step_dtype)

    def codes(self, steps: jax.Array) -> jax.Array:
        places = jnp.round((self.to_mu_law(steps) + 1) * (self.q_levels / 2))
        return jnp.clip(places.astype(jnp.int32), 0, self.q_levels - 1)

    def to_mu_law(self, steps: jax.Array) -> jax.Array:
        return compand(steps.astype(jnp.float32) / FULL_SCALE)

    def bits_within_code(self) -> np.ndarray:
        return np.zeros(2 * FULL_SCALE)


@jax.jit
def _encode(samples: jax.Array | np.ndarray) -> jax.Array:
    scaled = jnp.round(jnp.asarray(samples, jnp.float32) * FULL_SCALE)
    return jnp.clip(scaled, -FULL_SCALE, FULL_SCALE - 1).astype(jnp.int16)
