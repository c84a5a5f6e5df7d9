"""Terms of a generator's loss beside the adversarial one: distances of what it generates from what was recorded."""

import abc
import dataclasses
from collections.abc import Callable
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp

from jaxgen.core.descriptions import Better, Description
from jaxgen.core.errors import UserError
from jaxgen.data.spec import DataSpec
from jaxgen.features import LogMel
from jaxgen.models.critics import magnitudes, signals
from jaxgen.models.non_autoregressive import DiscriminatorOutput


class LossInputs(NamedTuple):
    """Real and generated sounds, row by row, and the critic's outputs for them."""

    real: jax.Array
    """float32 [B, ...]: for distances of sounds, samples [B, T], or [B, T, 2] of stereo sound."""
    generated: jax.Array
    """Of the same shape."""
    real_outputs: tuple[DiscriminatorOutput, ...] = ()
    generated_outputs: tuple[DiscriminatorOutput, ...] = ()


@dataclasses.dataclass(frozen=True)
class Term(abc.ABC):
    """One summand. Frozen dataclasses, without arrays."""

    weight: float = 1.0
    """How much it counts."""

    name: ClassVar[str]
    """Of the figure in metrics.jsonl."""
    description: ClassVar[Description | None] = None
    """Of that figure, for people; without one it is named by its name."""
    uses_critic: ClassVar[bool] = False
    """Whether it compares the critic's activations; otherwise it is a distance of sounds, which validation measures too."""

    def __post_init__(self) -> None:
        if not self.weight > 0:
            raise UserError(f"the weight of a term must be above 0, got {self}.")

    @abc.abstractmethod
    def build(self, data: DataSpec) -> Callable[[LossInputs], jax.Array]:
        """The distance of each row, float32 [B], for data of this spec. Raises UserError where they do not fit."""


@dataclasses.dataclass(frozen=True)
class FeatureMatching(Term):
    """Mean absolute difference of the critic's activations, as a share of those for the real sound, so that layers count
    alike (Larsen et al. 2016; as a share, Defossez et al. 2022, eq. 5)."""

    name = "feature_matching"
    description = Description(
        "Feature matching",
        "Difference of the critic's activations, as a share of those for real sound.",
        "",
        Better.LOWER,
    )
    uses_critic = True

    def build(self, data: DataSpec) -> Callable[[LossInputs], jax.Array]:
        del data

        def distance(inputs: LossInputs) -> jax.Array:
            pairs = [
                (jax.lax.stop_gradient(real), generated)
                for ours, theirs in zip(inputs.real_outputs, inputs.generated_outputs, strict=True)
                for real, generated in zip(ours.features, theirs.features, strict=True)
            ]
            shares = [
                _row_means(jnp.abs(real - generated)) / (jnp.abs(real).mean() + 1e-6) for real, generated in pairs
            ]
            return jnp.stack(shares).mean(axis=0)

        return distance


@dataclasses.dataclass(frozen=True)
class MelDistance(Term):
    """Mean absolute difference of the log-mel frames that the model is given: nats."""

    name = "mel_distance"
    description = Description(
        "Mel distance in training",
        "Mean difference of log-mel levels between the network's sound and the recording.",
        "nats",
        Better.LOWER,
        reference="0 for the recording itself",
    )

    def build(self, data: DataSpec) -> Callable[[LossInputs], jax.Array]:
        if not isinstance(data.features, LogMel):
            raise UserError(
                f"MelDistance compares log-mel frames, but the features are {type(data.features).__name__}; "
                "leave it out of the objective's terms, or use LogMel features."
            )
        features = dataclasses.replace(data.features, stack=1)
        return lambda inputs: _row_means(jnp.abs(features.encode(inputs.real) - features.encode(inputs.generated)))


@dataclasses.dataclass(frozen=True)
class StftDistance(Term):
    """Spectral convergence plus the mean absolute difference of log magnitudes, a mean over resolutions (Yamamoto et al.
    2020, eq. 4 to 6); of stereo sound also over left, right, mid and side (Steinmetz et al. 2021)."""

    windows: tuple[int, ...] = (512, 256, 128)
    """Samples of the Hann window of each resolution, a quarter apart."""

    name = "stft_distance"
    description = Description(
        "STFT distance in training",
        "Difference of magnitude spectra between the network's sound and the recording, over several windows.",
        "",
        Better.LOWER,
        reference="0 for the recording itself",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if min(self.windows, default=0) < 8:
            raise UserError(f"a StftDistance needs windows of at least 8 samples, got {self}.")

    def build(self, data: DataSpec) -> Callable[[LossInputs], jax.Array]:
        del data

        def distance(inputs: LossInputs) -> jax.Array:
            total = jnp.zeros(len(inputs.real))
            for window in self.windows:
                real, generated = (
                    magnitudes(signals(samples), window, window // 4) for samples in (inputs.real, inputs.generated)
                )
                error = jnp.sqrt(jnp.square(real - generated).sum(axis=(1, 2, 3)) + 1e-12)
                total += error / jnp.sqrt(jnp.square(real).sum(axis=(1, 2, 3)))
                total += _row_means(jnp.abs(jnp.log(real) - jnp.log(generated)))
            return total / len(self.windows)

        return distance


def _row_means(values: jax.Array) -> jax.Array:
    return values.reshape(len(values), -1).mean(axis=-1)
