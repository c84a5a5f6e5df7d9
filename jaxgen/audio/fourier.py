"""Short-time Fourier transforms, and sound from their magnitudes."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

_MOMENTUM = 0.99


def stft(samples: jax.Array, n_fft: int, hop_length: int, win_length: int | None = None) -> jax.Array:
    """Short-time Fourier transform, periodic Hann window, centred frames, zeros beyond the ends.

    samples: float32 [..., nsamp]. Returns complex64 [..., 1 + nsamp // hop_length, n_fft // 2 + 1], as `librosa.stft`
    with pad_mode="constant" but time before frequency. Holds n_fft / hop_length times the samples in memory.
    """
    num_frames = 1 + samples.shape[-1] // hop_length
    padded = pad_last(jnp.asarray(samples, jnp.float32), n_fft // 2, (num_frames - 1) * hop_length + n_fft)
    return jnp.fft.rfft(frame_signal(padded, n_fft, hop_length, num_frames) * hann(n_fft, win_length))


def istft(
    spectrum: jax.Array, n_fft: int, hop_length: int, win_length: int | None = None, where: jax.Array | None = None
) -> jax.Array:
    """The signal whose `stft` is nearest in the least-squares sense (Griffin & Lim 1984, eq. 6).

    spectrum: complex64 [..., nframe, n_fft // 2 + 1]. Returns float32 [..., (nframe - 1) * hop_length].
    where: float32 [nframe, 1], 0 for frames that do not count.
    """
    num_frames = spectrum.shape[-2]
    window = hann(n_fft, win_length)
    counted = jnp.ones((num_frames, 1)) if where is None else where
    summed = _overlap_add(jnp.fft.irfft(spectrum, n=n_fft) * window * counted, hop_length)
    weight = _overlap_add(jnp.square(window) * counted, hop_length)
    inside = slice(n_fft // 2, n_fft // 2 + (num_frames - 1) * hop_length)
    return summed[..., inside] / jnp.maximum(weight[inside], 1e-8)


def griffin_lim(
    spectrum: jax.Array,
    magnitude: Callable[[jax.Array], jax.Array],
    n_fft: int,
    hop_length: int,
    win_length: int | None,
    iterations: int,
    where: jax.Array | None = None,
    known: jax.Array | None = None,
    relate: Callable[[jax.Array], jax.Array] = lambda phases: phases,
) -> jax.Array:
    """Samples whose STFT has magnitudes that are wanted: fast Griffin-Lim (Perraudin et al. 2013), momentum 0.99.

    spectrum: complex64 [..., nframe, n_fft // 2 + 1], where it starts. magnitude: of the magnitudes that were reached (as
    the spectrum, float32), those that are wanted. Returns float32 [..., (nframe - 1) * hop_length].
    where: float32 [nframe, 1], 0 for frames that do not count: only between two that do is there sound. known: float32
    [..., nknown], samples that the result shall begin with. relate: of phases that were reached (as the spectrum, of size 1),
    those that channels are to have together.
    """
    inside = None if where is None else jnp.repeat((where[:-1] * where[1:])[:, 0], hop_length)

    def rebuild(spectrum: jax.Array) -> jax.Array:
        samples = istft(spectrum, n_fft, hop_length, win_length, where)
        samples = samples if inside is None else samples * inside
        return samples if known is None else samples.at[..., : known.shape[-1]].set(known)

    def improve(_: int, state: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        spectrum, before = state
        reached = stft(rebuild(spectrum), n_fft, hop_length, win_length)
        ahead = reached - _MOMENTUM / (1 + _MOMENTUM) * before
        phases = ahead / (jnp.abs(ahead) + jnp.finfo(jnp.float32).tiny)
        return magnitude(jnp.abs(reached)) * relate(phases), reached

    spectrum, _ = jax.lax.fori_loop(0, iterations, improve, (spectrum, jnp.zeros_like(spectrum)))
    return rebuild(spectrum)


@functools.lru_cache
def hann(n_fft: int, win_length: int | None) -> np.ndarray:
    """Float32 [n_fft]: a periodic Hann window with zeros on either side."""
    length = win_length or n_fft
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(length) / length)
    before = (n_fft - length) // 2
    return np.pad(window, (before, n_fft - length - before)).astype(np.float32)


def pad_last(samples: jax.Array, before: int, length: int) -> jax.Array:
    """Zeros before and after (or a cut at the end), so that the last axis has `length` elements."""
    after = length - before - samples.shape[-1]
    return jax.lax.pad(samples, jnp.float32(0), [(0, 0, 0)] * (samples.ndim - 1) + [(before, after, 0)])


def frame_signal(samples: jax.Array, n_fft: int, hop_length: int, num_frames: int) -> jax.Array:
    """[..., at least (num_frames - 1) * hop_length + n_fft] to [..., num_frames, n_fft], by slices: no gather."""
    pieces = -(-n_fft // hop_length)
    blocks = pad_last(samples, 0, (num_frames + pieces - 1) * hop_length)
    blocks = blocks.reshape(*samples.shape[:-1], num_frames + pieces - 1, hop_length)
    shifted = [blocks[..., i : i + num_frames, :] for i in range(pieces)]
    return jnp.concatenate(shifted, axis=-1)[..., :n_fft]


def sliding_windows(samples: jax.Array, length: int) -> jax.Array:
    """[..., n + length - 1] to [..., n, length], a window for each sample. By a gather, far faster than slices on a CPU; of
    what no gradient is asked for, since that would be slow.
    """
    count = samples.shape[-1] - length + 1
    each = jax.vmap(lambda first: jax.lax.dynamic_slice_in_dim(samples, first, length, axis=-1))
    return jnp.moveaxis(each(jnp.arange(count)), 0, -2)


def _overlap_add(frames: jax.Array, hop_length: int) -> jax.Array:
    """The transpose of `frame_signal`: [..., nframe, n_fft] to [..., (nframe - 1 + ceil(n_fft / hop)) * hop]."""
    num_frames, n_fft = frames.shape[-2:]
    pieces = -(-n_fft // hop_length)
    padded = pad_last(frames, 0, pieces * hop_length)
    leading = [(0, 0)] * (frames.ndim - 2)
    total = sum(
        jnp.pad(padded[..., i * hop_length : (i + 1) * hop_length], [*leading, (i, pieces - 1 - i), (0, 0)])
        for i in range(pieces)
    )
    return jnp.asarray(total).reshape(*frames.shape[:-2], (num_frames + pieces - 1) * hop_length)
