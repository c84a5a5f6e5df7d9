"""What every model that makes sound of random numbers must offer, and how these are drawn."""

import abc
import dataclasses
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxgen.core.errors import UserError
from jaxgen.data.spec import DataSpec
from jaxgen.models.non_autoregressive import NonAutoregressiveConfig, NonAutoregressiveGenerator
from jaxgen.nn.label_embedding import Labels

_FLAT = 1e-3  # the sine of an angle from which float32 can bend the way


@dataclasses.dataclass(frozen=True)
class LatentSampling:
    """How the random numbers are drawn that a clip is made of: from a normal distribution, independently."""

    truncation: float = math.inf
    """The largest that one may be; smaller clips are cleaner and more alike (the truncation trick, Brock et al. 2019,
    section 3.1)."""

    def __post_init__(self) -> None:
        if not self.truncation > 0:
            raise UserError(f"--truncation is {self.truncation:g}, expected a size above 0.")

    def draw(self, key: jax.Array, size: int) -> jax.Array:
        """float32 [size]; with the same key, less truncation moves each number only away from 0."""
        return jax.random.truncated_normal(key, -self.truncation, self.truncation, (size,))


def slerp(first: jax.Array | np.ndarray, last: jax.Array | np.ndarray, shares: np.ndarray) -> jax.Array:
    """Latents on the arc from `first` to `last` [Z], at shares [N] of the way from 0 to 1: float32 [N, Z].

    Along the arc, the numbers are as large as those that the model was trained with; on the straight way they are not
    (White 2016, section 2.1). Between latents that are alike or opposite there is none; theirs is the
    straight way.
    """
    sizes = jnp.linalg.norm(first), jnp.linalg.norm(last)
    cosine = first @ last / jnp.maximum(sizes[0] * sizes[1], 1e-12)
    angle = jnp.arccos(jnp.clip(cosine, -1.0, 1.0))
    straight = np.stack([1 - shares, shares])
    bent = jnp.sin(straight * angle) / jnp.maximum(jnp.sin(angle), _FLAT)
    weights = jnp.where((jnp.sin(angle) < _FLAT) | (straight == 1), straight, bent)  # the ends are what they are
    return weights[0][:, None] * first + weights[1][:, None] * last


class LatentGenerator(NonAutoregressiveGenerator):
    """Makes clips of random numbers, and of labels if it has any."""

    latent_size: int

    @abc.abstractmethod
    def __call__(self, latents: jax.Array, labels: Labels) -> jax.Array:
        """What the critic reads, [B, ...], of latents float32 [B, Z] and labels int32 [B] or shares float32 [B, V]."""

    @abc.abstractmethod
    def to_clips(self, sound: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Sound, as the critic reads it, as steps of the features [B, N, *step_shape], and how long each clip is in samples,
        int32 [B], at least 1: what comes after it is silence.
        """

    def generate_like(self, batch: Mapping[str, Any], key: jax.Array) -> jax.Array:
        """Of the batch, nothing but its labels and how many clips there are."""
        return self(jax.random.normal(key, (len(batch["clip"]), self.latent_size)), batch["labels"])


class LatentGeneratorConfig(NonAutoregressiveConfig):
    """Base of the frozen dataclasses that configure a `LatentGenerator` and build it."""

    labels: tuple[str, ...]
    """Names of the labels that condition the model."""
    latent_size: int
    """Random numbers of a clip."""

    if TYPE_CHECKING:  # a property here would become the default of a model's field

        @property
        def num_steps(self) -> int:
            """Steps of a clip."""

    @abc.abstractmethod
    def make(self, data: DataSpec, *, dtype: Any, rngs: nnx.Rngs) -> LatentGenerator:
        """As for every model."""
