"""Frames of log-mel power."""

import dataclasses
import functools
import itertools
import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen.audio.fourier import frame_signal, griffin_lim, hann, pad_last
from jaxgen.core.numerics import random_key
from jaxgen.features import stereo
from jaxgen.features.spec import FeatureSpec, require

_HIGHEST = jax.lax.Precision.HIGHEST
_FRAMES_PER_BLOCK = 4096  # bounds the memory of encode on long recordings
_LARGEST_FFT = 1 << 16
_NEW_FRAMES = 32  # that are made sound at a time when streaming
_NNLS_ITERATIONS = 60
_ROUNDED = 8  # whole clips are filled up to a multiple of so many steps, for each of which a program is compiled
_TOGETHER = 4  # of them, of one length, that are made sound together
_ROUNDING = 1e-5  # relative error of exp(log(x)) in float32, with room


@dataclasses.dataclass(frozen=True, kw_only=True)
class LogMel(FeatureSpec):
    """Frames of log-mel power (Slaney mel scale and area normalisation, as librosa's default).

    Of stereo sound (channels=2) a frame has three parts, of n_mels values each: how loud, how far to the left, and how wide
    (`jaxgen.features.stereo`).
    """

    n_fft: int
    """Samples in the Fourier transform of a frame; more tell pitches apart, fewer tell moments apart."""
    hop_length: int
    """Samples from one frame to the next; fewer make more frames, which are finer in time and slower."""
    n_mels: int
    """Mel bands of a frame; more keep more detail, and are harder to learn."""
    win_length: int | None = None
    """Samples under the Hann window; none takes n_fft."""
    fmin: float = 0.0
    """Lowest frequency of the mel bands in Hz."""
    fmax: float | None = None
    """Highest frequency of the mel bands in Hz; none takes half of sample_rate."""
    floor: float = 1e-5
    """Smallest mel power, all below which is silence (1e-5 is -50 dB); a smaller one keeps fainter sound."""
    stack: int = 1
    """Frames that make one step: a model of longer steps has fewer to go wrong at, and is faster."""

    step_unit: ClassVar[str] = "frame"

    def __post_init__(self) -> None:
        super().__post_init__()
        nyquist = self.sample_rate / 2
        window, top = self.win_length or self.n_fft, self.fmax or nyquist
        require(
            2 <= self.n_fft <= _LARGEST_FFT,
            f"n_fft is {self.n_fft}; features.n_fft must be from 2 to {_LARGEST_FFT:,} samples.",
        )
        require(
            1 <= self.n_mels <= self.n_fft // 2 + 1,
            f"n_mels is {self.n_mels}; features.n_mels must be at least 1, and at most the {self.n_fft // 2 + 1}"
            f" frequencies of n_fft={self.n_fft}.",
        )
        require(
            1 <= window <= self.n_fft,
            f"win_length is {window}; features.win_length must be from 1 to n_fft={self.n_fft} samples.",
        )
        require(
            1 <= self.hop_length <= window,
            f"hop_length is {self.hop_length}; features.hop_length must be from 1 to the window's {window} samples"
            f" (n_fft={self.n_fft}), or samples between frames are lost.",
        )
        require(
            0 <= self.fmin < top <= nyquist,
            f"fmin={self.fmin} and fmax={top} do not fit: features.fmin must lie below features.fmax, and that at or"
            f" below half of sample_rate ({nyquist} Hz).",
        )
        require(0 < self.floor < math.inf, f"floor is {self.floor}; features.floor must be above 0.")
        require(self.stack >= 1, f"stack is {self.stack}; features.stack must be at least 1 frame.")

    @property
    def samples_per_step(self) -> int:
        return self.stack * self.hop_length

    @property
    def unstacked(self) -> "LogMel":
        return dataclasses.replace(self, stack=1)

    @property
    def frame_size(self) -> int:
        """Values of a frame: n_mels of mono, three times as many of stereo sound."""
        return self.n_mels if self.channels == 1 else stereo.PARTS * self.n_mels

    @property
    def step_shape(self) -> tuple[int, ...]:
        return (self.stack * self.frame_size,)

    @property
    def step_dtype(self) -> np.dtype:
        return np.dtype(np.float32)

    def num_steps(self, num_samples: int) -> int:
        return -(-(1 + num_samples // self.hop_length) // self.stack)

    def num_samples(self, num_steps: int) -> int:
        return (num_steps * self.stack - 1) * self.hop_length

    def num_samples_seen(self, num_steps: int) -> int:
        return self.num_samples(num_steps) + self.n_fft // 2

    @functools.partial(jax.jit, static_argnums=0)
    def encode(self, samples: jax.Array | np.ndarray) -> jax.Array:
        """Natural log of mel power, floored at `floor`: `librosa.feature.melspectrogram(pad_mode="constant")`, logged.

        samples: float32 [..., nsamp, *sample_shape], full scale 1.0, at sample_rate Hz.
        Returns float32 [..., nstep, stack * frame_size]: 1 + nsamp // hop_length frames (centred, zeros beyond the ends) and
        what fills up the last step.
        """
        samples = jnp.asarray(samples, jnp.float32)
        if self.channels == 1:
            frames = jnp.log(jnp.maximum(self._power(samples), self.floor))
        else:
            frames = stereo.stereo_frames(self._power(stereo.with_side(samples)), self.floor)
        return frames.reshape(*frames.shape[:-2], -1, *self.step_shape)

    def _power(self, samples: jax.Array) -> jax.Array:
        """Mel power [..., stack * nstep, n_mels] of samples [..., nsamp]."""
        num_frames = self.num_steps(samples.shape[-1]) * self.stack
        block = min(num_frames, _FRAMES_PER_BLOCK)
        num_blocks = -(-num_frames // block)
        window = jnp.asarray(hann(self.n_fft, self.win_length))
        filters = jnp.asarray(filterbank(self))
        block_samples = (block - 1) * self.hop_length + self.n_fft
        needed = (num_blocks - 1) * block * self.hop_length + block_samples
        padded = pad_last(samples, self.n_fft // 2, needed)

        def encode_block(start: jax.Array) -> jax.Array:
            excerpt = jax.lax.dynamic_slice_in_dim(padded, start, block_samples, axis=-1)
            power = jnp.square(
                jnp.abs(jnp.fft.rfft(frame_signal(excerpt, self.n_fft, self.hop_length, block) * window))
            )
            return jnp.matmul(power, filters.T, precision=_HIGHEST)

        blocks = jax.lax.map(encode_block, jnp.arange(num_blocks) * (block * self.hop_length))
        frames = jnp.moveaxis(blocks, 0, -3).reshape(*samples.shape[:-1], num_blocks * block, self.n_mels)
        return frames[..., :num_frames, :]

    @functools.partial(jax.jit, static_argnums=(0, 2))
    def decode(self, steps: jax.Array | np.ndarray, iterations: int = 64) -> jax.Array:
        """Log-mel steps float32 [..., nstep, stack * frame_size] to samples float32 [..., num_samples(nstep), *sample_shape].

        `mel_to_magnitude`, then `griffin_lim` from random phases with so many iterations; the same steps give the same samples.
        Of stereo sound the angle between the channels is kept as the frames tell it.
        """
        steps = jnp.asarray(steps, jnp.float32)
        return self._sound(steps.reshape(*steps.shape[:-2], -1, self.frame_size), iterations)

    def decode_clips(self, clips: Sequence[np.ndarray]) -> list[np.ndarray]:
        """As for every feature: _TOGETHER at a time of those that are about as long, with silence behind them up to a multiple
        of _ROUNDED steps. What Griffin-Lim makes of a clip depends on how much of it there is, but on nothing else.
        """
        lengths = np.array([-(-len(clip) // _ROUNDED) * _ROUNDED for clip in clips])
        sounds: dict[int, np.ndarray] = {}
        for length in np.unique(lengths):
            places = np.flatnonzero(lengths == length).tolist()
            for start in range(0, len(places), _TOGETHER):
                group = places[start : start + _TOGETHER]
                steps = np.tile(self.silence(), (_TOGETHER, length, 1))
                for row, place in zip(steps, group, strict=False):
                    row[: len(clips[place])] = clips[place]
                sounds |= zip(group, np.asarray(self.decode(steps)), strict=False)
        return [sounds[place][: self.num_samples(len(clip))] for place, clip in enumerate(clips)]

    def decode_blocks(self, blocks: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        """As for every feature: the phases of _NEW_FRAMES frames are found at a time, for good, by Griffin-Lim over them,
        the frames before, whose samples stay, and as many after as they overlap (Zhu, Beauregard & Wyse 2007).
        """
        hop, reach = self.hop_length, -(-self.n_fft // self.hop_length)  # a frame overlaps this many on either side
        owed = -hop
        frames = known = np.empty((0, 0, 0), np.float32)
        for block in itertools.chain(blocks, [None]):
            if block is not None:
                block = block.reshape(len(block), -1, self.frame_size)
                before = frames if frames.size else self._silent(len(block), reach)
                frames = np.concatenate([before, block], axis=1)
                known = known if known.size else np.zeros((len(block), reach * hop, *self.sample_shape), np.float32)
                owed += block.shape[1] * hop
            elif owed > 0:  # silence follows the end
                frames = np.concatenate([frames, self._silent(len(frames), _NEW_FRAMES + reach)], axis=1)
            while owed > 0 and frames.shape[1] >= _NEW_FRAMES + 2 * reach:
                samples = np.asarray(self._decode_window(frames[:, : _NEW_FRAMES + 2 * reach], known))
                yield samples[:, reach * hop :][:, :owed]
                owed -= _NEW_FRAMES * hop
                frames, known = frames[:, _NEW_FRAMES:], samples[:, -reach * hop :]

    def _silent(self, rows: int, num_frames: int) -> np.ndarray:
        return np.tile(self.unstacked.silence(), (rows, num_frames, 1))

    @functools.partial(jax.jit, static_argnums=0)
    def _decode_window(self, steps: jax.Array, known: jax.Array) -> jax.Array:
        """The known samples of the first frames, and those of _NEW_FRAMES frames after them."""
        samples = self._sound(steps, known=known)
        return samples[:, : known.shape[1] + _NEW_FRAMES * self.hop_length]

    def _sound(self, frames: jax.Array, iterations: int = 64, known: jax.Array | None = None) -> jax.Array:
        """Samples [..., (nframe - 1) * hop_length, *sample_shape] of frames [..., nframe, frame_size], beginning with those that
        are known.
        """
        turns = jax.random.uniform(random_key(0), (frames.shape[-2], self.n_fft // 2 + 1))
        sizes = (self.n_fft, self.hop_length, self.win_length)
        magnitude = mel_to_magnitude(self.levels(self.views(frames)), self, _NNLS_ITERATIONS)
        relate, known = self.relation(frames, magnitude), None if known is None else self.swap_axes(known)
        if self.channels == 1:
            phases = jnp.exp(2j * jnp.pi * turns).astype(jnp.complex64)
        else:
            phases = relate(stereo.first_phases(turns, magnitude))
        return self.swap_axes(
            griffin_lim(magnitude * phases, lambda _: magnitude, *sizes, iterations, known=known, relate=relate)
        )

    def swap_axes(self, samples: jax.Array) -> jax.Array:
        """Stereo samples [..., nsamp, 2] as [..., 2, nsamp], and back; those of mono sound [..., nsamp] as they are."""
        return samples if self.channels == 1 else jnp.swapaxes(samples, -1, -2)

    def views(self, frames: jax.Array) -> jax.Array:
        """Frames [..., nframe, frame_size] as each channel sees them: those of mono sound as they are; of stereo sound [..., 2,
        nframe, frame_size], these and what they would be if left and right changed places.
        """
        return frames if self.channels == 1 else jnp.stack([frames, stereo.swap_channels(frames)], axis=-3)

    def levels(self, views: jax.Array) -> jax.Array:
        """Log-mel levels [..., nframe, n_mels] of the channels whose `views` [..., nframe, frame_size] these are."""
        return views if self.channels == 1 else stereo.left_levels(views)

    def relation(self, frames: jax.Array, magnitude: jax.Array) -> Callable[[jax.Array], jax.Array]:
        """What brings phases of both channels, complex64 [..., 2, nframe, nfreq], to the angle that frames tell of; nothing for
        mono sound. magnitude: float32 of the same shape.
        """
        if self.channels == 1:
            return lambda phases: phases
        share = stereo.spread_bands(frames[..., -self.n_mels :], filterbank(self))
        return lambda phases: stereo.relate_phases(phases, magnitude, share)

    def silence(self) -> np.ndarray:
        frame = np.zeros(self.frame_size, np.float32)
        frame[: self.n_mels] = np.log(self.floor)
        return np.tile(frame, self.stack)


def mel_griffin_lim(
    spectrum: jax.Array,
    frames: jax.Array,
    spec: LogMel,
    iterations: int,
    where: jax.Array | None = None,
) -> jax.Array:
    """Samples float32 [..., (nframe - 1) * hop_length, *sample_shape] whose frames are near these [..., nframe, frame_size].

    `griffin_lim` from a spectrum complex64 [..., nframe, n_fft // 2 + 1], of stereo sound [..., 2, nframe, n_fft // 2 + 1], of
    which frames tell only the power of each band:
    magnitudes are those that were reached, scaled to it (magnitude and phase are found together, as by Masuyama, Ueno & Ono
    2023, who take proximal steps). where: as there. For frames of sound: those that a model draws agree with one another less,
    and sound worse the nearer to them it is.
    """
    filters, _, _, loudest = _inversion(spec)
    shares = filters / np.maximum(filters.sum(axis=0), np.finfo(np.float32).tiny)  # of bands in what a frequency hears
    wanted = jnp.clip(spec.levels(spec.views(frames)), math.log(spec.floor), loudest)

    def magnitude(reached: jax.Array) -> jax.Array:
        power = jnp.matmul(jnp.square(reached), filters.T, precision=_HIGHEST)
        lacking = wanted - jnp.log(jnp.maximum(power, spec.floor))
        return reached * jnp.exp(jnp.matmul(lacking / 2, shares, precision=_HIGHEST))

    relate, sizes = spec.relation(frames, jnp.abs(spectrum)), (spec.n_fft, spec.hop_length, spec.win_length)
    return spec.swap_axes(griffin_lim(spectrum, magnitude, *sizes, iterations, where, relate=relate))


def mel_to_magnitude(log_mel: jax.Array, spec: LogMel, iterations: int) -> jax.Array:
    """The magnitude spectrum [..., nframe, n_fft // 2 + 1] whose mel power is nearest to exp(log_mel) - spec.floor.

    Non-negative least squares on power: the clipped pseudo-inverse, then so many iterations of accelerated projected
    gradient (Beck & Teboulle 2009). Silence gives exact zeros; bands louder than full scale allows are clipped to that.
    """
    filters, inverse, lipschitz, loudest = _inversion(spec)
    above = jnp.exp(jnp.minimum(log_mel, loudest)) - spec.floor
    target = jnp.where(above > _ROUNDING * spec.floor, above, 0.0)
    gram = jnp.asarray(filters.T @ filters)
    pull = jnp.matmul(target, filters, precision=_HIGHEST)

    def descend(_: int, state: tuple[jax.Array, jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array, jax.Array]:
        power, ahead, pace = state
        gradient = jnp.matmul(ahead, gram, precision=_HIGHEST) - pull
        following = jnp.maximum(ahead - gradient / lipschitz, 0.0)
        next_pace = (1 + jnp.sqrt(1 + 4 * pace**2)) / 2
        return following, following + (pace - 1) / next_pace * (following - power), next_pace

    start = jnp.maximum(jnp.matmul(target, inverse.T, precision=_HIGHEST), 0.0)
    power, _, _ = jax.lax.fori_loop(0, iterations, descend, (start, start, jnp.float32(1.0)))
    return jnp.sqrt(power)


@functools.lru_cache
def filterbank(spec: LogMel) -> np.ndarray:
    """Float32 [n_mels, n_fft // 2 + 1]."""
    import librosa.filters  # slow to import, and only log-mel features need it

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # librosa warns of empty bands; that is an error here
        filters = librosa.filters.mel(
            sr=spec.sample_rate, n_fft=spec.n_fft, n_mels=spec.n_mels, fmin=spec.fmin, fmax=spec.fmax
        )
    empty = int(np.sum(filters.max(axis=1) == 0))
    require(
        empty == 0,
        f"{empty} of the {spec.n_mels} mel bands hold no frequency of an n_fft={spec.n_fft} transform at"
        f" {spec.sample_rate} Hz; lower features.n_mels, or raise features.n_fft or features.fmin.",
    )
    return filters


@functools.lru_cache
def _inversion(spec: LogMel) -> tuple[np.ndarray, np.ndarray, float, np.ndarray]:
    """Filters, their pseudo-inverse, the largest eigenvalue of filters.T @ filters, the log-mel that none exceeds."""
    filters = filterbank(spec)
    inverse = np.linalg.pinv(filters.astype(np.float64)).astype(np.float32)
    full_scale = hann(spec.n_fft, spec.win_length).sum() ** 2
    return filters, inverse, float(np.linalg.norm(filters, 2) ** 2), np.log(full_scale * filters.sum(axis=1))
