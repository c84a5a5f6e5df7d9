"""The two sides of adversarial training: a generator that makes sound as a whole, and a critic, its discriminator.

Sound is what the critic reads: samples float32 [B, T], of stereo sound [B, T, 2], or frames float32 [B, N, D].
"""

import abc
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
from flax import nnx

from jaxgen.data.spec import DataSpec
from jaxgen.models.config import ModelConfig
from jaxgen.nn.label_embedding import Labels


class NonAutoregressiveGenerator(nnx.Module):
    """Makes sound as a whole, not step by step."""

    def real(self, batch: Mapping[str, Any]) -> jax.Array:
        """What is real of a batch (`jaxgen.data.excerpts`), as the critic reads it: by default its samples [B, T]."""
        return batch["samples"]

    @abc.abstractmethod
    def generate_like(self, batch: Mapping[str, Any], key: jax.Array) -> jax.Array:
        """Sound in the manner of `real(batch)`, of the same shape, from no more of the batch than generation has.

        key: draws what is left to chance; a model without noise does not use it.
        """


class NonAutoregressiveConfig(ModelConfig):
    """Base of the frozen dataclasses that configure a `NonAutoregressiveGenerator` and build it."""

    def sound_size(self, data: DataSpec) -> int:
        """Values of a step of the sound that the critic reads: D of frames [B, N, D], 0 of samples [B, T]."""
        del data
        return 0

    @abc.abstractmethod
    def make(self, data: DataSpec, *, dtype: Any, rngs: nnx.Rngs) -> NonAutoregressiveGenerator:
        """As for every model. Raises UserError for data that it cannot make sound of."""


class DiscriminatorOutput(NamedTuple):
    """The output of one part of a critic, for a batch of sounds."""

    scores: jax.Array
    """float32 [B, N]: high is real."""
    features: tuple[jax.Array, ...]
    """[B, ...] each: the activations of its layers, the first layer first."""


class CriticModule(nnx.Module):
    """Scores whether a sound is real: the discriminator."""

    @abc.abstractmethod
    def __call__(self, sound: jax.Array, labels: Labels, key: jax.Array) -> tuple[DiscriminatorOutput, ...]:
        """The output of each part for sounds [B, ...] with these labels, int32 [B] each.

        key: draws what a critic leaves to chance, so that it does not learn recordings by heart.
        """


class Critic(abc.ABC):
    """Base of the frozen dataclasses that configure a critic and build it."""

    @abc.abstractmethod
    def make(self, data: DataSpec, labels: tuple[str, ...], size: int, *, rngs: nnx.Rngs) -> CriticModule:
        """Builds the module; parameters are float32. labels: names of those that it is told. size:
        `NonAutoregressiveConfig.sound_size`.

        Raises UserError where it cannot read such sound, or labels.
        """
