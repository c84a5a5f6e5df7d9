"""Mel frames to a waveform: convolutions at frame rate, and an inverse short-time Fourier transform.

ConvNeXt blocks over frames name the magnitude and phase of each frame's spectrum (Vocos, Siuzdak 2023; the transform as
the last layer: iSTFTNet, Kaneko 2022), so that all the work but the transform is done once a frame. Unlike theirs, the
magnitude starts from what the frame itself says, by the pseudo-inverse of the mel filters; the blocks mend it. What they
say of neighbouring frames never quite agrees, nor with the frames: where these are of sound itself, iterations of
Griffin-Lim, which training does not know, mend that (`refinements`).
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxgen.audio.fourier import istft
from jaxgen.core.errors import UserError
from jaxgen.data.spec import DataSpec
from jaxgen.features import LogMel
from jaxgen.features.log_mel import mel_griffin_lim, mel_to_magnitude
from jaxgen.models.non_autoregressive import NonAutoregressiveConfig, NonAutoregressiveGenerator

_LOUDEST = 7.0  # log of a magnitude; the largest that 16 bits hold at a window of 2,048 samples is 6.93
_FIRST_SCALE = 0.1  # of what a new block adds


_MOST_BLOCKS = 256  # more are a mistake, which would take hours to be traced


@dataclasses.dataclass(frozen=True)
class Vocoder(NonAutoregressiveConfig):
    """Mel frames to a waveform."""

    width: int = 192
    """Features of a frame."""
    num_blocks: int = 6
    """ConvNeXt blocks, one after another."""
    expansion: int = 3
    """Features inside a block, as a multiple of the width."""
    kernel_size: int = 7
    """Frames that a block sees; odd."""
    causal: bool = False
    """See no frame that comes later, so that sound can follow frames as they come."""
    refinements: int = 0
    """Iterations of Griffin-Lim that bring its sound nearer to the frames, each of which sees a window more on either side.
    They help frames of real sound, and harm those that a model draws."""

    def __post_init__(self) -> None:
        if min(self.width, self.num_blocks, self.expansion, self.kernel_size) < 1 or self.kernel_size % 2 == 0:
            raise UserError(
                f"a Vocoder needs width, num_blocks and expansion of at least 1, and an odd kernel_size, got {self}."
            )
        if self.num_blocks > _MOST_BLOCKS:
            raise UserError(f"--model.num-blocks is {self.num_blocks}, expected at most {_MOST_BLOCKS}.")
        if self.refinements < 0:
            raise UserError(f"--model.refinements is {self.refinements}, expected at least 0.")

    def with_refinements(self, refinements: int) -> Self:
        if refinements < 0:
            raise UserError(f"--refinements is {refinements}, expected at least 0.")
        return dataclasses.replace(self, refinements=refinements)

    def make(self, data: DataSpec, *, dtype: Any = jnp.float32, rngs: nnx.Rngs) -> "VocoderModule":
        """Raises UserError where the features are not log-mel frames."""
        if not isinstance(data.features, LogMel):
            raise UserError(
                f"a Vocoder makes sound of log-mel frames, but the features are {type(data.features).__name__}; use LogMel."
            )
        return VocoderModule(self, data, data.features, dtype, rngs)


class VocoderModule(NonAutoregressiveGenerator):
    """The module that `Vocoder` configures. Frames are those of the features, whatever these stack to a step."""

    def __init__(self, config: Vocoder, data: DataSpec, features: LogMel, dtype: Any, rngs: nnx.Rngs):
        self.features = dataclasses.replace(features, stack=1)
        self.mean, self.std = (
            np.asarray(values, np.float32).reshape(-1, features.frame_size).mean(axis=0)
            for values in (data.mean, data.std)
        )
        self.first = _Frames(features.frame_size, config, dtype, rngs)
        self.blocks = nnx.List([_Block(config, dtype, rngs) for _ in range(config.num_blocks)])
        self.norm = nnx.LayerNorm(config.width, dtype=dtype, rngs=rngs)
        self.head = nnx.Linear(config.width, 2 * (features.n_fft // 2 + 1), dtype=dtype, rngs=rngs)
        self.refinements = config.refinements
        self.loudest = max(_LOUDEST, math.log(features.n_fft / 2) + 0.05)
        depth = config.num_blocks + 1
        after = 0 if config.causal else depth * (config.kernel_size // 2)
        windows = config.refinements * (((features.win_length or features.n_fft) - 1) // features.hop_length)
        self.receptive_field = (depth * (config.kernel_size - 1) - after + windows, after + windows)
        """Frames before and after it that the spectrum of a frame depends on."""
        seen = config.kernel_size - 1 if config.causal else config.kernel_size // 2
        self.gap_frames = max(seen, -(-features.n_fft // (2 * features.hop_length)))
        """Frames that are not real between clips, so that these do not affect one another."""

    def generate_like(self, batch: Mapping[str, Any], key: jax.Array) -> jax.Array:
        """The waveform of the frames of the samples, whose number is a multiple of the hop, not refined."""
        del key
        frames = self.features.encode(batch["samples"])
        spectrum = self._spectrum(frames, jnp.ones((frames.shape[1], 1)))
        sizes = (self.features.n_fft, self.features.hop_length, self.features.win_length)
        return self.features.swap_axes(istft(spectrum, *sizes))

    def render(self, frames: jax.Array, real: jax.Array | None = None) -> jax.Array:
        """Samples float32 [B, (nframe - 1) * hop_length, *sample_shape], from the middle of the first frame to that of the last.

        frames: float32 [B, nframe, frame_size]. real: bool [nframe], where a clip's frames are; others change nothing in it.
        """
        where = jnp.ones((frames.shape[1], 1)) if real is None else real[:, None].astype(jnp.float32)
        return mel_griffin_lim(self._spectrum(frames, where), frames, self.features, self.refinements, where)

    def _spectrum(self, frames: jax.Array, where: jax.Array) -> jax.Array:
        """What the network says of frames [B, nframe, frame_size]: complex64 [B, nframe, n_fft // 2 + 1], of stereo sound [B, 2,
        nframe, n_fft // 2 + 1]. where: [nframe, 1]. It says one channel at a time, each as if it were the left one, so that a
        swap of the channels swaps its sound; the frames say how their phases go together.
        """
        views = self.features.views(frames)
        rows = views.reshape(-1, *frames.shape[1:])
        x = self.first((rows - self.mean) / self.std * where)
        for block in self.blocks:
            x = block(x, where)
        mend, phase = jnp.split(self.head(self.norm(x)).astype(jnp.float32), 2, axis=-1)
        rough = mel_to_magnitude(self.features.levels(rows), self.features, iterations=0)
        magnitude = jnp.exp(jnp.minimum(mend + jnp.log(rough + math.sqrt(self.features.floor)), self.loudest))
        magnitude, phase = (each.reshape(*views.shape[:-1], -1) for each in (magnitude, phase))
        relate = self.features.relation(frames, jax.lax.stop_gradient(magnitude))
        phases = relate(jax.lax.complex(jnp.cos(phase), jnp.sin(phase)))
        return jax.lax.complex(magnitude * phases.real, magnitude * phases.imag)


class _Frames(nnx.Module):
    """A convolution over frames: [B, N, in] to [B, N, width]."""

    def __init__(self, num_in: int, config: Vocoder, dtype: Any, rngs: nnx.Rngs):
        self.kernel_size, self.causal = config.kernel_size, config.causal
        self.product = nnx.Linear(config.kernel_size * num_in, config.width, dtype=dtype, rngs=rngs)
        self.norm = nnx.LayerNorm(config.width, dtype=dtype, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.norm(self.product(jnp.concatenate(_seen(x, self.kernel_size, self.causal), axis=-1)))


class _Block(nnx.Module):
    """A ConvNeXt block (Liu et al. 2022): each feature over time, then all features of a frame."""

    def __init__(self, config: Vocoder, dtype: Any, rngs: nnx.Rngs):
        self.kernel_size, self.causal, self.dtype = config.kernel_size, config.causal, dtype
        width, inside = config.width, config.expansion * config.width
        first = jax.random.normal(rngs.params(), (config.kernel_size, width)) / np.sqrt(config.kernel_size)
        self.over_time = nnx.Param(first)
        self.norm = nnx.LayerNorm(width, dtype=dtype, rngs=rngs)
        self.widen = nnx.Linear(width, inside, dtype=dtype, rngs=rngs)
        self.narrow = nnx.Linear(inside, width, dtype=dtype, rngs=rngs)
        self.scale = nnx.Param(jnp.full(width, _FIRST_SCALE))

    def __call__(self, x: jax.Array, where: jax.Array) -> jax.Array:
        kernel = self.over_time[...].astype(self.dtype)
        seen = _seen(x * where.astype(x.dtype), self.kernel_size, self.causal)
        mixed = sum(weight * frame for weight, frame in zip(kernel, seen, strict=True))
        inside = jax.nn.gelu(self.widen(self.norm(mixed)))
        return x + self.scale[...].astype(x.dtype) * self.narrow(inside)


def _seen(x: jax.Array, kernel_size: int, causal: bool) -> list[jax.Array]:
    """Of x [B, N, C], for each place of a kernel, what is there at each frame; zeros beyond the ends."""
    before = kernel_size - 1 if causal else kernel_size // 2
    padded = jnp.pad(x, [(0, 0), (before, kernel_size - 1 - before), (0, 0)])
    return [padded[:, place : place + x.shape[1]] for place in range(kernel_size)]
