"""Critics of waveforms: one reads every p-th sample (HiFi-GAN, Kong 2020), one spectrograms (UnivNet, Jang 2021)."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxgen.audio.fourier import frame_signal, hann
from jaxgen.core.errors import UserError
from jaxgen.data.spec import DataSpec
from jaxgen.models.conditioning import Labels
from jaxgen.models.non_autoregressive import Critic, CriticModule, DiscriminatorOutput
from jaxgen.nn.convolution import Conv

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
        return WaveCriticModule(self, rngs)


class WaveCriticModule(CriticModule):
    """The module that `WaveCritic` configures."""

    def __init__(self, config: WaveCritic, rngs: nnx.Rngs):
        by_period = [_PeriodCritic(period, config.channels, rngs) for period in config.periods]
        by_window = [_SpectralCritic(window, config.spectral_channels, rngs) for window in config.windows]
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

    def __init__(self, period: int, channels: int, rngs: nnx.Rngs):
        self.period = period
        sizes = [1, *(channels * 2 ** min(layer, 3) for layer in range(4))]
        hidden = [Conv(a, b, (5, 1), (3, 1), rngs) for a, b in itertools.pairwise(sizes)]
        self.layers = _Layers([*hidden, Conv(sizes[-1], 1, (3, 1), (1, 1), rngs)])

    def __call__(self, samples: jax.Array) -> DiscriminatorOutput:
        padded = jnp.pad(samples, [(0, 0), (0, -samples.shape[1] % self.period)])
        return self.layers(padded.reshape(len(samples), -1, self.period, 1))


class _SpectralCritic(nnx.Module):
    """Of a magnitude spectrogram: convolutions over time and frequency, which take ever fewer frequencies."""

    def __init__(self, window: int, channels: int, rngs: nnx.Rngs):
        self.window = window
        first = Conv(1, channels, (3, 9), (1, 4), rngs)
        hidden = [Conv(channels, channels, (3, 5), (1, 2), rngs) for _ in range(2)]
        self.layers = _Layers(
            [first, *hidden, Conv(channels, channels, (3, 3), (1, 1), rngs), Conv(channels, 1, (3, 3), (1, 1), rngs)]
        )

    def __call__(self, samples: jax.Array) -> DiscriminatorOutput:
        return self.layers(magnitudes(samples, self.window, self.window // 4)[..., None])


def magnitudes(samples: jax.Array, window: int, hop_length: int) -> jax.Array:
    """Magnitude spectrogram of samples float32 [B, T], at least one frame of them: [B, frames, window // 2 + 1].

    Frames lie inside the samples, but for the last; the gradient is finite at silence.
    """
    num_frames = 1 + max(0, -(-(samples.shape[-1] - window) // hop_length))
    needed = (num_frames - 1) * hop_length + window
    padded = jnp.pad(samples, [(0, 0), (0, max(0, needed - samples.shape[-1]))])
    spectrum = jnp.fft.rfft(frame_signal(padded, window, hop_length, num_frames) * np.asarray(hann(window, None)))
    return jnp.sqrt(jnp.square(spectrum.real) + jnp.square(spectrum.imag) + _FAINTEST)
