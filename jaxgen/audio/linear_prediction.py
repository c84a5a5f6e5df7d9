"""What is to be expected of the next sample: the resonances of the vocal tract, and the period of the voice.

Speech is nearly linear over a few milliseconds: a few coefficients explain most of a sample, and of what they leave most
is there again one period later (long-term prediction, Atal and Schroeder 1970). A network that is told what to expect
need only learn what is left (LPCNet, Valin and Skoglund 2019).
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen.audio.companding import compand
from jaxgen.audio.fourier import sliding_windows

ORDER = 16
"""Coefficients of a predictor, that of the last sample first."""
_PLACES = 64  # of the mu-law scale, between which an expectation lies


class Predictor(NamedTuple):
    """Of samples by their past. All float32."""

    coefficients: jax.Array
    """[..., ORDER] of the last samples, the latest first."""
    lag: jax.Array
    """[...] samples after which what the coefficients leave is there again; at least 2."""
    gain: jax.Array
    """[...] how much of it, 0 to 1."""


def num_features(window: int) -> int:
    """Features of `features`."""
    return _PLACES + 1 + window + ORDER


def prediction_features(samples: jax.Array, predictor: Predictor, window: int) -> jax.Array:
    """Features float32 [..., n, num_features] of n samples in a row, of which `samples` [..., window + ORDER + n - 1] lacks
    only the last: where on the mu-law scale each is expected, as shares of the two places next to it; what of that is there
    again from a period ago; how far the expectations of the `window` samples before were off; and the last samples.

    One predictor serves for all, also for the expectations of those before. Its lag is less than `window`.
    """
    num_samples = samples.shape[-1] - window - ORDER + 1
    terms = [predictor.coefficients[..., i : i + 1] * samples[..., ORDER - 1 - i :] for i in range(ORDER)]
    expected = jnp.asarray(sum(term[..., : window + num_samples] for term in terms))
    errors = jnp.clip(samples[..., ORDER:] - expected[..., :-1], -1, 1)
    first = window - jnp.round(predictor.lag).astype(jnp.int32)
    place = first[..., None] + jnp.arange(num_samples)
    near = [jnp.take_along_axis(errors, place + i, axis=-1) for i in (-1, 0, 1)]
    again = predictor.gain[..., None] * (near[0] / 4 + near[1] / 2 + near[2] / 4)
    expected = jnp.clip(expected[..., window:] + again, -1, 1)
    # Hats, not a category: rounding may not move a sample into another one, or training and generation would part.
    hats = (compand(expected) + 1) * ((_PLACES - 1) / 2)
    hats = jax.nn.relu(1 - jnp.abs(hats[..., None] - jnp.arange(_PLACES)))
    last = compand(samples[..., window:])
    before = (sliding_windows(each, n) for each, n in ((compand(errors), window), (last, ORDER)))
    return jnp.concatenate([hats, compand(again)[..., None], *before], axis=-1)


def levinson_durbin(correlation: jax.Array) -> jax.Array:
    """Coefficients [..., ORDER] with the least squared error, for the autocorrelation [..., ORDER + 1] of samples.

    Levinson-Durbin recursion (Makhoul 1975). In silence all are 0.
    """
    error = correlation[..., 0] * 1.0001 + 1e-6  # noise far below what is heard, lest the fit be ill-posed
    predictor = jnp.zeros((*correlation.shape[:-1], 0))
    for lag in range(1, ORDER + 1):
        explained = (predictor * correlation[..., lag - 1 : 0 : -1]).sum(axis=-1)
        reflection = ((correlation[..., lag] - explained) / error)[..., None]
        predictor = jnp.concatenate([predictor - reflection * predictor[..., ::-1], reflection], axis=-1)
        error = error * (1 - jnp.square(reflection[..., 0]))
    return predictor


@functools.lru_cache
def late_window(length: int, rise: float) -> np.ndarray:
    """Float32 [length]: a share `rise` of a sine that rises, the rest of a cosine that falls, so that what was heard last
    counts.
    """
    rising = max(1, round(rise * length))
    falling = length - rising
    up = np.sin(np.pi / 2 * (np.arange(rising) + 0.5) / rising)
    down = np.cos(np.pi / 2 * (np.arange(falling) + 0.5) / max(1, falling))
    return np.concatenate([up, down]).astype(np.float32)
