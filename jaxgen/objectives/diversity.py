"""How much sounds differ: what tells whether a generator has collapsed to a few."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp

from jaxgen.models.critics import magnitudes, signals

_WINDOW = 256  # samples of the spectra that are compared
_NOTHING = 1e-3  # of a deviation: what is left of it by rounding


def diversity(sounds: jax.Array) -> jax.Array:
    """How much sounds differ, samples float32 [B, T] or [B, T, 2], or frames [B, N, D]: the deviation over rows of their mean
    spectra, of samples their logarithms; float32 []."""
    return _spectra(sounds).std(axis=0).mean() + 1e-6


def diversity_within_labels(generated: jax.Array, real: jax.Array, labels: Mapping[str, jax.Array]) -> jax.Array:
    """How much what is made for the same labels differs, as a share of what real sound with them does; float32 [].

    labels: int32 [B] each, of both. NaN where no two rows share all of them, or only rows that are one recording.
    """
    alike = jnp.ones((len(generated), len(generated)), bool)
    for values in labels.values():
        alike &= values[:, None] == values
    shares = alike / alike.sum(axis=1, keepdims=True)

    def deviation(sounds: jax.Array) -> jax.Array:
        spectra = _spectra(sounds)
        return jnp.sqrt(jnp.square(spectra - shares @ spectra).mean(axis=0)).mean()

    usual = deviation(real)
    return jnp.where(usual > _NOTHING, deviation(generated) / jnp.maximum(usual, _NOTHING), jnp.nan)


def _spectra(sounds: jax.Array) -> jax.Array:
    if sounds.ndim == 2 or sounds.shape[-1] == 2:  # samples: no frame has but two numbers
        spectra = magnitudes(signals(sounds), _WINDOW, _WINDOW // 2).mean(axis=-2)
        return jnp.log(spectra + 1e-3).reshape(len(sounds), -1)
    return sounds.mean(axis=1)
