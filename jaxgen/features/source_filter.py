"""Frames of a voice: the resonances of the vocal tract (a log-mel spectrum) and what excites them (a period, and how strong).

The source-filter model of speech (Fant 1960), as a plan that samples can be drawn from: a frame names the predictor of its
samples.
"""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen.audio.fourier import frame_signal
from jaxgen.audio.linear_prediction import ORDER, Predictor, late_window, levinson_durbin
from jaxgen.core.errors import UserError
from jaxgen.features import LogMel
from jaxgen.features.log_mel import filterbank

_HIGHEST = jax.lax.Precision.HIGHEST
_COMPARED = 0.03  # seconds that are compared with those a period before
_RISE = 0.85  # of the windows
_LONGER = 0.3  # off for each octave that a period is longer: twice a period fits as well
_LEVEL = 3.0  # nats: the deviation of log-mel levels, about
_OCTAVES = 0.5  # that of the voice's frequency


@dataclasses.dataclass(frozen=True)
class SourceFilter:
    """Frames [stack * (n_mels + 2)]: log-mel levels in nats, the frequency of the voice in octaves above `lowest`, and how much
    of a period is there again in the next, 0 to 1. Their windows end with the samples that they are of. In noise a voice
    below 90 Hz may be heard an octave or two too high.
    """

    mel: LogMel = LogMel(sample_rate=8_000, n_fft=256, hop_length=80, n_mels=48, floor=1e-4, stack=2)
    """The spectrum; hop_length and stack say how many samples a frame is of."""
    lowest: float = 60.0
    """Lowest frequency of a voice in Hz."""
    highest: float = 400.0
    """Highest frequency of a voice in Hz."""

    def __post_init__(self) -> None:
        most = self.mel.sample_rate / 8
        if not (0 < self.lowest < self.highest <= min(most, 8 * self.lowest) and self._shortest <= self.longest_period):
            raise UserError(
                f"--model.frames.lowest is {self.lowest:g} and --model.frames.highest {self.highest:g} Hz; expected voices of at "
                f"most three octaves, and up to an eighth of the sample rate ({most:g} Hz)."
            )
        if self.mel.channels > 1:
            raise UserError("--model.frames.mel.channels is 2, but these are the frames of one voice; set it to 1.")
        if self.mel.n_fft < 2 * ORDER or self.mel.n_fft % 2 or self.mel.win_length not in (None, self.mel.n_fft):
            raise UserError(
                f"--model.frames.mel.n-fft is {self.mel.n_fft} and win-length {self.mel.win_length}; expected an even number of "
                f"at least {2 * ORDER} samples, and no other window."
            )

    @property
    def num_samples(self) -> int:
        """Samples that a frame is of."""
        return self.mel.samples_per_step

    @property
    def size(self) -> int:
        """Numbers of a frame."""
        return self.mel.stack * (self.mel.n_mels + 2)

    @property
    def longest_period(self) -> int:
        """The longest period of a voice in samples."""
        return int(self.mel.sample_rate / self.lowest)

    @property
    def lookback(self) -> int:
        """Samples before it that a frame depends on."""
        return max(self.mel.n_fft, self._heard) - self.mel.hop_length

    @property
    def mean(self) -> np.ndarray:
        """What numbers of a frame are counted from, float32 [size]: levels that are one deviation above silence, the middle of
        the voice's range, no period.
        """
        return self._frame(math.log(self.mel.floor) + _LEVEL, math.log2(self.highest / self.lowest) / 2, 0.0)

    @property
    def deviation(self) -> np.ndarray:
        """About how much these differ among the frames of a voice, float32 [size]."""
        return self._frame(_LEVEL, _OCTAVES, 0.5)

    @property
    def tolerance(self) -> np.ndarray:
        """How much of its deviation a number may be off, of the most that any may, float32 [size]: pitch is heard finely."""
        return self._frame(1.0, 0.2, 1.0)

    def frames(self, samples: jax.Array, count: int) -> jax.Array:
        """Frames float32 [B, count, size] of the last samples float32 [B, at least reach + count * num_samples]."""
        hop, hops = self.mel.hop_length, count * self.mel.stack

        def windows(length: int) -> jax.Array:
            return frame_signal(samples[:, samples.shape[1] - length - (hops - 1) * hop :], length, hop, hops)

        spectrum = jnp.fft.rfft(windows(self.mel.n_fft) * _window(self.mel.n_fft))
        power = jnp.matmul(jnp.square(jnp.abs(spectrum)), jnp.asarray(filterbank(self.mel).T), precision=_HIGHEST)
        level = jnp.log(jnp.maximum(power, self.mel.floor))
        voice = jnp.stack(self._voice(windows(self._heard), self._coefficients(level)), axis=-1)
        return jnp.concatenate([level, voice], axis=-1).reshape(len(samples), count, self.size)

    def predictors(self, frames: jax.Array) -> Predictor:
        """What frames [B, N, size] let expect of their samples, of each hop of them: [B, N * stack, ...]."""
        frames = frames.reshape(len(frames), -1, self.mel.n_mels + 2)
        level, octaves, gain = frames[..., :-2], frames[..., -2], frames[..., -1]
        period = self.mel.sample_rate / (self.lowest * jnp.exp2(octaves))
        lag = jnp.clip(period, self._shortest, self.longest_period)
        return Predictor(self._coefficients(level), lag, jnp.clip(gain, 0, 1))

    @property
    def _shortest(self) -> int:
        return math.ceil(self.mel.sample_rate / self.highest)

    @property
    def _compared(self) -> int:
        return round(_COMPARED * self.mel.sample_rate)

    @property
    def _heard(self) -> int:
        """Samples that the period is found in."""
        return self._compared + self.longest_period + ORDER

    def _frame(self, level: float, octaves: float, gain: float) -> np.ndarray:
        return np.array(([level] * self.mel.n_mels + [octaves, gain]) * self.mel.stack, np.float32)

    def _coefficients(self, level: jax.Array) -> jax.Array:
        """Coefficients [..., ORDER] of a predictor for samples of log-mel levels [..., n_mels]."""
        shares, widths = _bands(self.mel)
        density = jnp.exp(jnp.minimum(level, 20.0)) / jnp.asarray(widths)
        power = jnp.matmul(density, jnp.asarray(shares), precision=_HIGHEST)
        return levinson_durbin(jnp.fft.irfft(power)[..., : ORDER + 1])

    def _voice(self, heard: jax.Array, coefficients: jax.Array) -> tuple[jax.Array, jax.Array]:
        """The voice's frequency in octaves above the lowest, and how much of a period is there again, [...] each, at the end
        of samples [..., _heard]: the period at which what the coefficients leave is most like itself.
        """
        num = heard.shape[-1] - ORDER
        left = heard[..., ORDER:] - sum(
            coefficients[..., i : i + 1] * heard[..., ORDER - 1 - i : -1 - i] for i in range(ORDER)
        )
        smooth = left[..., 1:-1] / 2 + (left[..., :-2] + left[..., 2:]) / 4
        smooth = jnp.pad(smooth, [(0, 0)] * (smooth.ndim - 1) + [(1, 1)])
        weight = np.zeros(num, np.float32)
        weight[-self._compared :] = _window(self._compared)
        length = 2 ** math.ceil(math.log2(2 * num))
        now, squares = jnp.fft.rfft(smooth * weight, length), jnp.fft.rfft(jnp.square(smooth), length)
        lags = np.arange(self._shortest, self.longest_period + 1)
        alike = jnp.fft.irfft(now * jnp.conj(jnp.fft.rfft(smooth, length)), length)[..., lags]
        energy = jnp.fft.irfft(jnp.fft.rfft(jnp.asarray(weight), length) * jnp.conj(squares), length)[..., lags]
        own = (jnp.square(smooth) * weight).sum(-1, keepdims=True)
        alike = alike / jnp.sqrt((jnp.maximum(energy, 0) + 1e-7) * (own + 1e-7))
        best = jnp.argmax(alike * (1 - _LONGER * np.log2(lags / self._shortest)), axis=-1)
        gain = jnp.take_along_axis(alike, best[..., None], axis=-1)[..., 0]
        frequency = jnp.asarray(np.log2(self.mel.sample_rate / lags / self.lowest), jnp.float32)[best]
        return frequency, jnp.clip(gain, 0, 1)


def _window(length: int) -> np.ndarray:
    """Float32 [length]."""
    return np.square(late_window(length, _RISE))


@functools.lru_cache
def _bands(mel: LogMel) -> tuple[np.ndarray, np.ndarray]:
    """How much of each band a frequency has, float32 [n_mels, n_fft // 2 + 1], and the bands' widths [n_mels]."""
    filters = filterbank(mel)
    total, peaks = filters.sum(0), filters.argmax(1)
    shares = filters / np.maximum(total, 1e-9)
    for frequency in np.nonzero(total == 0)[0]:  # beyond the outermost bands
        shares[np.abs(peaks - frequency).argmin(), frequency] = 1
    return shares, filters.sum(1)
