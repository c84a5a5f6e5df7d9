"""Samples as quantised codes."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen.features.spec import SampleSpec, require


@dataclasses.dataclass(frozen=True, kw_only=True)
class MuLaw(SampleSpec):
    """Samples as mu-law codes: `librosa.mu_compress`, quantised, shifted to 0..q_levels-1."""

    q_levels: int = 256
    """Quantisation levels, 2 to 256; 256 is 8 bits a sample."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            2 <= self.q_levels <= 256,
            f"q_levels is {self.q_levels}; features.q_levels must be from 2 to 256, so that a code fits a byte.",
        )

    @property
    def step_dtype(self) -> np.dtype:
        return np.dtype(np.uint8)

    @functools.partial(jax.jit, static_argnums=0)
    def encode(self, samples: jax.Array | np.ndarray) -> jax.Array:
        """Samples float32 [..., nsamp] to codes uint8 [..., nsamp]; samples beyond full scale are clipped.

        Equal, for every float32, to `librosa.mu_compress(x, mu=q_levels - 1, quantize=True) + q_levels // 2`, but for
        x a few roundings from 1.0, where librosa can give one code too many (128 at mu=255): here it is the top code.
        """
        places = _ordered(jax.lax.bitcast_convert_type(jnp.asarray(samples, jnp.float32), jnp.int32))
        thresholds = jnp.asarray(_mu_law_thresholds(self.q_levels))
        return jnp.searchsorted(thresholds, places, side="right").astype(jnp.uint8)

    @functools.partial(jax.jit, static_argnums=0)
    def decode(self, steps: jax.Array | np.ndarray) -> jax.Array:
        """Codes, integer [..., nstep], to samples float32 [..., nstep], as `librosa.mu_expand` does."""
        return jnp.take(jnp.asarray(_mu_law_levels(self.q_levels)), jnp.asarray(steps).astype(jnp.int32), mode="clip")

    def silence(self) -> np.ndarray:
        return np.searchsorted(_mu_law_thresholds(self.q_levels), 0, side="right").astype(self.step_dtype)

    def codes(self, steps: jax.Array) -> jax.Array:
        return steps.astype(jnp.int32)

    def to_mu_law(self, steps: jax.Array) -> jax.Array:
        return steps.astype(jnp.float32) * (2 / self.q_levels) - 1

    def bits_within_code(self) -> np.ndarray:
        places = _ordered((np.arange(-(2**15), 2**15, dtype=np.float32) / 2**15).view(np.int32))
        codes = np.searchsorted(_mu_law_thresholds(self.q_levels), places, side="right")
        return np.log2(np.maximum(np.bincount(codes, minlength=self.q_levels), 1))


def _ordered(bits: jax.Array | np.ndarray) -> jax.Array | np.ndarray:
    """Float32 bit patterns (int32) to integers in the order of the floats, and back: it is its own inverse.

    Integers are compared because processors may flush subnormal floats to zero.
    """
    return bits ^ ((bits >> 31) & 0x7FFFFFFF)


@functools.lru_cache
def _mu_law_thresholds(q_levels: int) -> np.ndarray:
    """Int32 [q_levels - 1]: the `_ordered` place of the smallest float32 in [-1, 1] that has code 1, 2, ...

    Bisection over all float32, as the law is monotone: exact where inverting the formula would be off by a rounding.
    """
    mu = q_levels - 1

    def code_at(places: np.ndarray) -> np.ndarray:
        samples = np.asarray(_ordered(places.astype(np.int32))).view(np.float32)
        compressed = np.sign(samples) * np.log1p(mu * np.abs(samples)) / np.log1p(mu)
        return np.digitize(compressed, np.linspace(-1, 1, num=q_levels, endpoint=True), right=True)

    ends = np.asarray(_ordered(np.array([-1.0, 1.0], np.float32).view(np.int32))).astype(np.int64)
    codes = np.arange(1, q_levels)
    below, reached = np.full(mu, ends[0] - 1), np.full(mu, ends[1])
    while np.any(reached - below > 1):
        middle = (below + reached) // 2
        enough = code_at(middle) >= codes
        below, reached = np.where(enough, below, middle), np.where(enough, middle, reached)
    return reached.astype(np.int32)


@functools.lru_cache
def _mu_law_levels(q_levels: int) -> np.ndarray:
    """Float32 [q_levels]: the sample that each code stands for."""
    mu = q_levels - 1
    compressed = (np.arange(q_levels) - q_levels // 2) * 2.0 / (1 + mu)
    return (np.sign(compressed) / mu * (np.power(1 + mu, np.abs(compressed)) - 1)).astype(np.float32)
