"""Stereo in frames of log-mel power: how loud, how far to a side and how wide each band is.

Parametric stereo (Breebaart et al. 2005): levels alone leave open how the phases of two channels go together, and channels
that each find their own sound unlike any recording. The share of the side signal tells the angle between them.
"""

import jax
import jax.numpy as jnp
import numpy as np

PARTS = 3
"""Parts of a stereo frame, n_mels values each: the mean of both channels' log-mel levels (nats), how much the left one is
above the right one (nats), and the share of the side signal (left - right) / 2 in all power, 0 to 1: 0 where the channels
are alike, 0.5 where they have nothing in common, 1 where they are opposite."""


def with_side(samples: jax.Array) -> jax.Array:
    """Left, right and side signal [..., 3, nsamp] of stereo samples [..., nsamp, 2]."""
    left, right = samples[..., 0], samples[..., 1]
    return jnp.stack([left, right, (left - right) / 2], axis=-2)


def stereo_frames(power: jax.Array, floor: float) -> jax.Array:
    """Frames [..., nframe, PARTS * n_mels] of mel power [..., 3, nframe, n_mels] of left, right and side signal.

    floor: smallest power; what is below it counts as this, and is not wide.
    """
    left, right, side = (power[..., place, :, :] for place in range(3))
    share = jnp.clip(side / ((left + right) / 2 + floor), 0, 1)
    left, right = (jnp.log(jnp.maximum(each, floor)) for each in (left, right))
    return jnp.concatenate([(left + right) / 2, left - right, share], axis=-1)


def swap_channels(frames: jax.Array) -> jax.Array:
    """The frames [..., PARTS * n_mels] of sound whose left and right change places: their second part changes its sign."""
    mean, difference, share = jnp.split(frames, PARTS, axis=-1)
    return jnp.concatenate([mean, -difference, share], axis=-1)


def left_levels(frames: jax.Array) -> jax.Array:
    """Log-mel levels [..., n_mels] of the left channel of frames [..., PARTS * n_mels]."""
    mean, difference, _ = jnp.split(frames, PARTS, axis=-1)
    return mean + difference / 2


def relate_phases(phases: jax.Array, magnitude: jax.Array, side_share: jax.Array) -> jax.Array:
    """The phases next to these at which the side signal has its share of the power: complex64 [..., 2, nframe, nfreq].

    phases: complex64 of that shape, of size 1. magnitude: float32 of that shape. side_share: [..., nframe, nfreq]. The channel
    that is ahead stays so; the louder one is turned less.
    """
    first, second = phases[..., 0, :, :], phases[..., 1, :, :]
    left, right = (jnp.square(magnitude[..., place, :, :]) for place in (0, 1))
    total, tiny = left + right, jnp.finfo(jnp.float32).tiny
    cosine = (1 - 2 * side_share) * total / jnp.maximum(2 * jnp.sqrt(left) * jnp.sqrt(right), tiny)
    ratio = first * jnp.conj(second)
    between = jnp.arctan2(ratio.imag, ratio.real)
    missing = (jnp.sign(between) * jnp.arccos(jnp.clip(cosine, -1, 1)) - between) / jnp.maximum(total, tiny)
    return jnp.stack([first * _phase(missing * right), second * _phase(-missing * left)], axis=-3)


def first_phases(turns: jax.Array, magnitude: jax.Array) -> jax.Array:
    """Phases complex64 [..., 2, nframe, nfreq] that both channels start from: alike but for a little, at random which is ahead.

    turns: float32 [nframe, nfreq], 0 to 1. Where channels change places so do their phases.
    """
    louder = jnp.sign(magnitude[..., 0, :, :] - magnitude[..., 1, :, :])
    lead = louder * jnp.where((turns * 1024) % 2 < 1, 1e-3, -1e-3)
    common = 2 * jnp.pi * turns
    return jnp.stack([_phase(common + lead), _phase(common - lead)], axis=-3)


def spread_bands(shares: jax.Array, filters: np.ndarray) -> jax.Array:
    """Shares [..., n_mels] of bands as those of frequencies [..., nfreq], within 0 and 1. filters: [n_mels, nfreq]."""
    weights = filters / np.maximum(filters.sum(axis=0), np.finfo(np.float32).tiny)
    return jnp.clip(jnp.matmul(shares, weights, precision=jax.lax.Precision.HIGHEST), 0, 1)


def _phase(radians: jax.Array) -> jax.Array:
    return jax.lax.complex(jnp.cos(radians), jnp.sin(radians))
