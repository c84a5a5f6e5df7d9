"""What adversarial training asks of its two sides: a model that makes waveforms, and a critic that hears them."""

import abc
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
from flax import nnx

from jaxgen.data.spec import DataSpec
from jaxgen.models.config import ModelConfig


class WaveformModel(nnx.Module):
    """Makes whole waveforms."""

    @abc.abstractmethod
    def imitate(self, batch: Mapping[str, Any], key: jax.Array) -> jax.Array:
        """float32 [B, T] in the manner of `batch["samples"]`, float32 [B, T], from no more of it than generation has.

        key: draws what is left to chance; a model without noise does not use it.
        """


class WaveformConfig(ModelConfig):
    """Base of the frozen dataclasses that configure a `WaveformModel` and build it."""

    @abc.abstractmethod
    def make(self, data: DataSpec, *, dtype: Any, rngs: nnx.Rngs) -> WaveformModel:
        """As for every model. Raises UserError for data that it cannot make sound of."""


class View(NamedTuple):
    """What one part of a critic says of waveforms."""

    scores: jax.Array
    """float32 [B, N]: high is real."""
    features: tuple[jax.Array, ...]
    """[B, ...] each: what its layers heard, the first layer first."""


class CriticModule(nnx.Module):
    """Hears whether a waveform is real (the discriminator)."""

    @abc.abstractmethod
    def __call__(self, samples: jax.Array) -> tuple[View, ...]:
        """What each part says of samples float32 [B, T]."""


class Critic(abc.ABC):
    """Base of the frozen dataclasses that configure a critic and build it."""

    @abc.abstractmethod
    def make(self, *, rngs: nnx.Rngs) -> CriticModule:
        """Builds the module; parameters are float32."""
