"""Sound from noise: a generator of whole clips and the critic that goes with it (Donahue et al. 2019).

The features say what is made: samples (WaveGAN), or log-mel frames, which leave the phases to whoever makes sound of them (as
the paper's SpecGAN, but with convolutions over time alone). Either way a clip is [B, N, D]: N steps of D values, 1 for a
sample. The generator doubles or quadruples a few steps until there are N, the critic takes them back to a few.
"""

import dataclasses
import functools
import itertools
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxgen.core.errors import UserError
from jaxgen.data.spec import DataSpec
from jaxgen.features import LogMel
from jaxgen.models.latent import LatentGenerator, LatentGeneratorConfig
from jaxgen.models.non_autoregressive import Critic, CriticModule, DiscriminatorOutput
from jaxgen.models.sequence import concatenate_features
from jaxgen.nn.convolution import Conv
from jaxgen.nn.label_embedding import LabelEmbedding, Labels

_LEAK = 0.2
_NOTHING = 1.0  # standard deviations below silence, where frames behind the end of a clip are put
_SILENT_DBFS = -60.0  # root mean square over 10 ms; clips of samples end where nothing louder follows
_KEPT = math.sqrt(0.5)  # of each of two summands of equal size, so that their sum has it too


@dataclasses.dataclass(frozen=True)
class WaveGAN(LatentGeneratorConfig):
    """A generator of whole clips from noise."""

    first_steps: int = 8
    """Steps that convolutions start from."""
    factors: tuple[int, ...] = (4, 4, 4, 4, 4)
    """How many times as many steps each stage makes; their product, times first_steps, is the length of a clip."""
    channels: tuple[int, ...] = (256, 128, 64, 32, 16, 16)
    """Features of a step before the first stage and after each."""
    kernel_size: int = 7
    """Steps that a convolution sees."""
    depth: int = 0
    """Further convolutions behind each stage, which add to what they are given."""
    latent_size: int = 64
    """Random numbers of a clip."""
    labels: tuple[str, ...] = ()
    """Label fields that condition the model."""
    label_size: int = 16
    """Features a label is embedded into."""

    def __post_init__(self) -> None:
        numbers = (self.first_steps, *self.factors, *self.channels, self.kernel_size, self.latent_size)
        if min(numbers) < 1 or self.depth < 0 or len(self.channels) != len(self.factors) + 1:
            raise UserError(
                "a WaveGAN needs sizes of at least 1, depth of at least 0, and channels before the first stage and after "
                f"each of its factors, got {self}."
            )

    @property
    def num_steps(self) -> int:
        return self.first_steps * math.prod(self.factors)

    def sound_size(self, data: DataSpec) -> int:
        return len(data.mean) if isinstance(data.features, LogMel) else 0

    def make(self, data: DataSpec, *, dtype: Any = jnp.float32, rngs: nnx.Rngs) -> "WaveGANModule":
        if data.features.channels > 1:
            raise UserError("a WaveGAN makes mono sound, but --features.channels is 2; set it to 1.")
        return WaveGANModule(self, data, dtype, rngs)


class WaveGANModule(LatentGenerator):
    """The module that `WaveGAN` configures. What the critic reads are samples, or frames standardised by the training
    data's mean and deviation; behind the end of a clip these lie below silence, so that it is seen where a clip ends.
    """

    def __init__(self, config: WaveGAN, data: DataSpec, dtype: Any, rngs: nnx.Rngs):
        self.features, self.latent_size, self.num_steps = data.features, config.latent_size, config.num_steps
        self.first_steps = config.first_steps
        self.of_frames = bool(config.sound_size(data))
        self.stack = data.features.stack if isinstance(data.features, LogMel) else 1
        self.mean, self.std = np.asarray(data.mean, np.float32), np.asarray(data.std, np.float32)
        self.label_vectors = LabelEmbedding(data, config.labels, config.label_size, dropout=0.0, dtype=dtype, rngs=rngs)
        condition, width = config.latent_size + self.label_vectors.num_features, config.channels[0]
        self.first = nnx.Linear(condition, config.first_steps * width, dtype=dtype, rngs=rngs)
        self.stages = nnx.List(
            [
                _Stage(a, b, factor, condition, config, rngs)
                for (a, b), factor in zip(itertools.pairwise(config.channels), config.factors, strict=True)
            ]
        )
        self.last = Conv(config.channels[-1], max(config.sound_size(data), 1), (config.kernel_size, 1), (1, 1), rngs)

    def __call__(self, latents: jax.Array, labels: Labels) -> jax.Array:
        condition = concatenate_features(latents, self.label_vectors(labels))
        x = self.first(condition)
        x = x.reshape(len(x), self.first_steps, 1, -1)
        for stage in self.stages:
            x = stage(x, condition)
        x = self.last(jax.nn.leaky_relu(_normal(x), _LEAK))[:, :, 0]
        return jax.nn.softplus(x) + self._nothing() if self.of_frames else jnp.tanh(x[..., 0])

    def real(self, batch: Mapping[str, Any]) -> jax.Array:
        """Samples [B, T], or standardised frames [B, N, D]."""
        if not self.of_frames:
            return batch["samples"]
        frames = (self.features.encode(batch["samples"])[:, : self.num_steps] - self.mean) / self.std
        ends = 1 + batch["length"] // self.features.hop_length
        there = jnp.arange(self.num_steps * self.stack) < ends[:, None]
        return jnp.where(self._by_frame(frames, there[..., None]), frames, self._nothing())

    def to_clips(self, sound: jax.Array) -> tuple[jax.Array, jax.Array]:
        if not self.of_frames:
            return self.features.encode(sound), _heard(sound, self.features.sample_rate)
        steps = jnp.maximum(sound * self.std + self.mean, self.features.silence())
        above = (sound - self._nothing()).reshape(len(sound), self.num_steps * self.stack, -1).mean(axis=-1)
        last = _last(above > _NOTHING / 2)
        return steps, jnp.maximum(last, 1) * self.features.hop_length

    def _nothing(self) -> np.ndarray:
        """What a standardised step behind the end of a clip is, [D]."""
        return (self.features.silence() - self.mean) / self.std - _NOTHING

    def _by_frame(self, steps: jax.Array, values: jax.Array) -> jax.Array:
        """Values of frames [B, N * stack, 1] for each element of steps [B, N, D]."""
        repeated = jnp.broadcast_to(values, (*values.shape[:2], steps.shape[-1] // self.stack))
        return repeated.reshape(steps.shape)


def _heard(samples: jax.Array, sample_rate: int) -> jax.Array:
    """Samples until the last 10 ms of each row [T] that are not silent, int32 [B]; at least 10 ms."""
    size = max(1, sample_rate // 100)
    pieces = jnp.pad(samples, [(0, 0), (0, -samples.shape[1] % size)]).reshape(len(samples), -1, size)
    last = _last(jnp.square(pieces).mean(axis=-1) >= 10 ** (_SILENT_DBFS / 10))
    return jnp.minimum((last + 1) * size, samples.shape[1])


def _last(true: jax.Array) -> jax.Array:
    """The last place in each row [N] that is true, int32 [B]; 0 for none."""
    return jnp.max(jnp.arange(true.shape[1]) * true, axis=1)


class _Stage(nnx.Module):
    """[B, N, 1, in] to [B, factor N, 1, out]: steps are taken apart from the features of few (Shi et al. 2016)."""

    def __init__(self, num_in: int, num_out: int, factor: int, num_condition: int, config: WaveGAN, rngs: nnx.Rngs):
        self.factor = factor
        self.enter = _Modulated(num_in, num_condition, rngs)
        self.apart = Conv(num_in, factor * num_out, (config.kernel_size, 1), (1, 1), rngs)
        self.modulated = nnx.List([_Modulated(num_out, num_condition, rngs) for _ in range(config.depth)])
        self.further = nnx.List(
            [Conv(num_out, num_out, (config.kernel_size, 1), (1, 1), rngs) for _ in range(config.depth)]
        )

    def __call__(self, x: jax.Array, condition: jax.Array) -> jax.Array:
        x = self.apart(self.enter(x, condition))
        x = x.reshape(len(x), self.factor * x.shape[1], 1, -1)
        for modulated, conv in zip(self.modulated, self.further, strict=True):
            x = _KEPT * (x + conv(modulated(x, condition)))
        return x


class _Modulated(nnx.Module):
    """Each step's features at unit size, scaled and moved as the condition says (Perez et al. 2018), and rectified."""

    def __init__(self, num_features: int, num_condition: int, rngs: nnx.Rngs):
        self.says = nnx.Linear(num_condition, 2 * num_features, rngs=rngs)

    def __call__(self, x: jax.Array, condition: jax.Array) -> jax.Array:
        scale, move = jnp.split(self.says(condition)[:, None, None], 2, axis=-1)
        return jax.nn.leaky_relu(_normal(x) * (1 + scale) + move, _LEAK)


def _normal(x: jax.Array) -> jax.Array:
    """Features [..., C] of mean square 1 (Karras et al. 2018, section 4.2)."""
    # their mean as a product: on a CPU a sum over a few features, and its gradient, take several times as long
    share = jnp.full((x.shape[-1], x.shape[-1]), 1 / x.shape[-1])
    return x * jax.lax.rsqrt(jnp.matmul(jnp.square(x), share, precision="highest") + 1e-8)


@dataclasses.dataclass(frozen=True)
class ShuffleCritic(Critic):
    """Hears whole clips, of samples or of frames, through convolutions whose phases are shuffled, and their labels."""

    factors: tuple[int, ...] = (4, 4, 4, 4, 4)
    """How many times fewer steps each layer leaves."""
    channels: tuple[int, ...] = (16, 32, 64, 128, 256)
    """Features of a step behind each layer."""
    kernel_size: int = 25
    """Steps that a layer sees."""
    depth: int = 0
    """Further convolutions behind each layer, which add to what they are given."""
    shuffle: int = 2
    """Phase shuffle: what a layer reads is moved by up to so many steps, at random (Donahue et al. 2019, section 3.3)."""
    shift: int = 0
    """Steps by which a clip is moved at random before any layer reads it, so that the critic learns none by heart (Zhao et
    al. 2020)."""
    width: int = 256
    """Features of a clip that the score is computed from."""

    def __post_init__(self) -> None:
        sizes = (*self.factors, *self.channels, self.kernel_size, self.width)
        if min(sizes) < 1 or min(self.shuffle, self.shift, self.depth) < 0 or len(self.factors) != len(self.channels):
            raise UserError(
                "a ShuffleCritic needs sizes of at least 1, shuffle, shift and depth of at least 0, and channels for each "
                f"of its factors, got {self}."
            )

    def make(self, data: DataSpec, labels: tuple[str, ...], size: int, *, rngs: nnx.Rngs) -> "ShuffleCriticModule":
        return ShuffleCriticModule(self, data, labels, max(size, 1), rngs)


class ShuffleCriticModule(CriticModule):
    """The module that `ShuffleCritic` configures."""

    def __init__(self, config: ShuffleCritic, data: DataSpec, labels: tuple[str, ...], size: int, rngs: nnx.Rngs):
        self.shuffle, self.shift = config.shuffle, config.shift
        kernel = (config.kernel_size, 1)
        self.layers = nnx.List(
            [
                Conv(a, b, kernel, (factor, 1), rngs)
                for (a, b), factor in zip(itertools.pairwise((size, *config.channels)), config.factors, strict=True)
            ]
        )
        self.further = nnx.List(
            [
                nnx.List([Conv(channels, channels, (3, 1), (1, 1), rngs) for _ in range(config.depth)])
                for channels in config.channels
            ]
        )
        self.whole = nnx.Linear(config.channels[-1], config.width, rngs=rngs)
        self.score = nnx.Linear(config.width, 1, rngs=rngs)
        self.label_vectors = LabelEmbedding(data, labels, config.width, dropout=0.0, dtype=jnp.float32, rngs=rngs)

    def __call__(self, sound: jax.Array, labels: Labels, key: jax.Array) -> tuple[DiscriminatorOutput, ...]:
        """[B, T] or [B, N, D]; a projection critic (Miyato and Koyama 2018, eq. 3), with a sum over labels."""
        keys = jax.random.split(key, len(self.layers) + 1)
        x = phase_shuffle(sound.reshape(*sound.shape[:2], -1), keys[-1], self.shift)[:, :, None]
        features = []
        for layer, further, layer_key in zip(self.layers, self.further, keys, strict=False):
            x = jax.nn.leaky_relu(layer(x), _LEAK)
            for conv in further:
                x = _KEPT * (x + jax.nn.leaky_relu(conv(x), _LEAK))
            features.append(x)
            if layer is not self.layers[-1]:
                x = phase_shuffle(x[:, :, 0], layer_key, self.shuffle)[:, :, None]
        whole = jax.nn.leaky_relu(self.whole(x.mean(axis=(1, 2))), _LEAK)
        score = self.score(whole)
        if (vectors := self.label_vectors(labels)) is not None:
            by_label = vectors.reshape(len(whole), -1, whole.shape[-1])
            score += (by_label * whole[:, None]).sum(axis=(1, 2))[:, None] / math.sqrt(whole.shape[-1])
        return (DiscriminatorOutput(score, (*features, whole)),)


def phase_shuffle(x: jax.Array, key: jax.Array, reach: int) -> jax.Array:
    """x [B, N, C], each row moved by -reach to reach steps, drawn evenly; what is missing at an end is a reflection of it.

    Raises UserError where there are too few steps to reflect.
    """
    if reach == 0:
        return x
    if reach >= x.shape[1]:
        raise UserError(
            f"a critic reads {x.shape[1]} steps, too few to move them by {reach}; lower --objective.critic.shuffle or shift, "
            "or give it fewer --objective.critic.factors."
        )
    move = jax.random.randint(key, (len(x), 1, 1), 0, 2 * reach + 1)
    padded = jnp.pad(x, [(0, 0), (reach, reach), (0, 0)], mode="reflect")
    return _moved(padded, move, x.shape[1])


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _moved(padded: jax.Array, move: jax.Array, length: int) -> jax.Array:
    """Of each row [N, C] of so many steps those from `move` on. Of all the ways to move it, the one that was drawn: a sum
    is several times as fast as a gather."""
    places = range(padded.shape[1] - length + 1)
    moved = [(move == place) * padded[:, place : place + length] for place in places]
    return functools.reduce(jnp.add, moved)


def _moved_forward(padded: jax.Array, move: jax.Array, length: int) -> tuple[jax.Array, tuple[jax.Array, int]]:
    return _moved(padded, move, length), (move, padded.shape[1])


def _moved_backward(length: int, saved: tuple[jax.Array, int], dmoved: jax.Array) -> tuple[jax.Array, None]:
    move, whole = saved
    margin = whole - length
    apart = jax.lax.optimization_barrier(jnp.pad(dmoved, [(0, 0), (margin, margin), (0, 0)]))
    return _moved(apart, margin - move, whole), None


_moved.defvjp(_moved_forward, _moved_backward)
