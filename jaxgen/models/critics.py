"""Critics of waveforms: one reads every p-th sample (HiFi-GAN, Kong 2020), one spectrograms (UnivNet, Jang 2021).

Of stereo sound they read both channels together, spectrograms also of mid and side, so that they hear how these go together.
"""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxgen.audio.fourier import frame_signal, hann
from jaxgen.core.errors import UserError
from jaxgen.data.spec import DataSpec
from jaxgen.models.non_autoregressive import Critic, CriticModule, DiscriminatorOutput
from jaxgen.nn.convolution import Conv
from jaxgen.nn.label_embedding import Labels

_LEAK = 0.1
_FAINTEST = 1e-7  # power; the slope of a magnitude is infinite at 0


@dataclasses.dataclass(frozen=True)
class WaveCritic(Critic):
    """Multi-period and multi-resolution critics, each of which scores by itself."""

    periods: tuple[int, ...] = (2, 3, 5, 7, 11)
    """Each reads the waveform folded to rows of so many samples, and along the columns; none for no such critic."""
    windows: tuple[int, ...] = (512, 256, 128)
    """Samples of the Hann window of each critic of magnitude spectrograms, a quarter apart; none for no such critic."""
    channels: int = 16
    """Channels of the first layer of each critic of periods, doubled from layer to layer up to 8 times as many."""
    spectral_channels: int = 16
    """Channels of the layers of each critic of spectrograms."""

    def __post_init__(self) -> None:
        if not self.periods and not self.windows:
            raise UserError(
                "a WaveCritic without periods and windows reads nothing; give it one of --objective.critic.*."
            )
        if min((*self.periods, self.channels, self.spectral_channels)) < 1 or min(self.windows, default=8) < 8:
            raise UserError(
                f"a WaveCritic needs periods and channels of at least 1 and windows of at least 8 samples, got {self}."
            )

    def make(self, data: DataSpec, labels: tuple[str, ...], size: int, *, rngs: nnx.Rngs) -> "WaveCriticModule":
        """Raises UserError for frames, and where there are labels: it does not read them."""
        if size:
            raise UserError(
                f"a WaveCritic reads samples, but the model makes {type(data.features).__name__} frames; use "
                "--objective.critic ShuffleCritic."
            )
        if labels:
            raise UserError(
                f"a WaveCritic does not read labels, but the model has {', '.join(labels)}; use --objective.critic "
                "ShuffleCritic, or leave --model.labels out."
            )
        return WaveCriticModule(self, data.features.channels, rngs)


class WaveCriticModule(CriticModule):
    """The module that `WaveCritic` configures."""

    def __init__(self, config: WaveCritic, num_heard: int, rngs: nnx.Rngs):
        """num_heard: channels of the sound, 1 or 2."""
        by_period = [_PeriodCritic(period, num_heard, config.channels, rngs) for period in config.periods]
        by_window = [_SpectralCritic(window, num_heard, config.spectral_channels, rngs) for window in config.windows]
        self.parts = nnx.List([*by_period, *by_window])

    def __call__(self, sound: jax.Array, labels: Labels, key: jax.Array) -> tuple[DiscriminatorOutput, ...]:
        del labels, key
        return tuple(part(sound) for part in self.parts)


class _Layers(nnx.Module):
    """Convolutions with leaky rectifiers between them, the last of which gives the scores."""

    def __init__(self, layers: list[Conv]):
        self.layers = nnx.List(layers)

    def __call__(self, x: jax.Array) -> DiscriminatorOutput:
        features = []
        *hidden, last = self.layers
        for layer in hidden:
            x = jax.nn.leaky_relu(layer(x), _LEAK)
            features.append(x)
        return DiscriminatorOutput(last(x).reshape(len(x), -1), tuple(features))


class _PeriodCritic(nnx.Module):
    """Of the waveform folded to rows of `period` samples: convolutions along the columns, which do not meet."""

    def __init__(self, period: int, num_heard: int, channels: int, rngs: nnx.Rngs):
        self.period, self.num_heard = period, num_heard
        sizes = [num_heard, *(channels * 2 ** min(layer, 3) for layer in range(4))]
        hidden = [Conv(a, b, (5, 1), (3, 1), rngs) for a, b in itertools.pairwise(sizes)]
        self.layers = _Layers([*hidden, Conv(sizes[-1], 1, (3, 1), (1, 1), rngs)])

    def __call__(self, samples: jax.Array) -> DiscriminatorOutput:
        sound = samples.reshape(*samples.shape[:2], self.num_heard)
        padded = jnp.pad(sound, [(0, 0), (0, -samples.shape[1] % self.period), (0, 0)])
        return self.layers(padded.reshape(len(samples), -1, self.period, self.num_heard))


class _SpectralCritic(nnx.Module):
    """Of a magnitude spectrogram: convolutions over time and frequency, which take ever fewer frequencies."""

    def __init__(self, window: int, num_heard: int, channels: int, rngs: nnx.Rngs):
        self.window = window
        first = Conv(1 if num_heard == 1 else 4, channels, (3, 9), (1, 4), rngs)
        hidden = [Conv(channels, channels, (3, 5), (1, 2), rngs) for _ in range(2)]
        self.layers = _Layers(
            [first, *hidden, Conv(channels, channels, (3, 3), (1, 1), rngs), Conv(channels, 1, (3, 3), (1, 1), rngs)]
        )

    def __call__(self, samples: jax.Array) -> DiscriminatorOutput:
        spectra = magnitudes(signals(samples), self.window, self.window // 4)
        return self.layers(jnp.moveaxis(spectra, 1, -1))


def signals(samples: jax.Array) -> jax.Array:
    """What of samples float32 [B, T] or [B, T, 2] spectra are compared of: [B, 1, T], or left, right, mid and side [B, 4, T]."""
    if samples.ndim == 2:
        return samples[:, None]
    left, right = samples[..., 0], samples[..., 1]
    return jnp.stack([left, right, (left + right) / 2, (left - right) / 2], axis=1)


def magnitudes(samples: jax.Array, window: int, hop_length: int) -> jax.Array:
    """Magnitude spectrogram of samples float32 [..., T], at least one frame of them: [..., frames, window // 2 + 1].

    Frames lie inside the samples, but for the last; the gradient is finite at silence.
    """
    num_frames = 1 + max(0, -(-(samples.shape[-1] - window) // hop_length))
    needed = (num_frames - 1) * hop_length + window
    padded = jnp.pad(samples, [(0, 0)] * (samples.ndim - 1) + [(0, max(0, needed - samples.shape[-1]))])
    spectrum = jnp.fft.rfft(frame_signal(padded, window, hop_length, num_frames) * np.asarray(hann(window, None)))
    return jnp.sqrt(jnp.square(spectrum.real) + jnp.square(spectrum.imag) + _FAINTEST)
