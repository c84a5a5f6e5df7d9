"""The mu-law scale of ITU-T G.711, on which steps are about as audible everywhere, without quantisation."""

import math

import jax
import jax.numpy as jnp

_MU = 255.0


def compand(samples: jax.Array) -> jax.Array:
    """Samples from -1 to 1 on the mu-law scale (mu = 255) of the same range."""
    return jnp.sign(samples) * jnp.log1p(_MU * jnp.abs(samples)) / math.log1p(_MU)


def expand(places: jax.Array) -> jax.Array:
    """The samples at these places of the mu-law scale."""
    return jnp.sign(places) * jnp.expm1(jnp.abs(places) * math.log1p(_MU)) / _MU
