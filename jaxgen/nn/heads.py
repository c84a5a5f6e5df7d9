"""What a model of samples draws them from: the last layers of the network, and the distribution whose parameters they
give.

Likelihoods of codes of different kinds compare on one scale, that of 16-bit samples: to a code's own come the bits that
tell the samples of one code apart (`SampleSpec.bits_within_code`).
"""

import abc
import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxgen.core.descriptions import Better, Description, Descriptions
from jaxgen.core.errors import UserError
from jaxgen.features import FeatureSpec, MuLaw, Pcm16, SampleSpec
from jaxgen.nn.distributions import Categorical, CodeDistribution, LogisticMixture, Sampling
from jaxgen.nn.recurrent.product import dot_general

NATS_PER_BIT = 0.6931471805599453
_FINE = 256  # values of either byte of a 16-bit sample


class SampleHead(nnx.Module):
    """The contract. Hidden units [..., H] become outputs [..., P], from which samples are scored and drawn."""

    features: SampleSpec
    descriptions: ClassVar[Descriptions] = {
        "loss": Description("Training loss", "What training lowers, of a sample.", "nats", Better.LOWER),
        "bits_per_sample": Description(
            "NLL, own codes",
            "How surprised the model is by the next sample, in the model's own codes; compares models of the same codes.",
            "bits/sample",
            Better.LOWER,
        ),
        "bits_per_16_bit_sample": Description(
            "Negative log likelihood",
            "How surprised the model is by the next 16-bit sample; compares models of all codes.",
            "bits/sample",
            Better.LOWER,
            importance=5,
        ),
    }
    """Of the figures of `scores`."""

    @abc.abstractmethod
    def __call__(self, hidden: jax.Array) -> jax.Array:
        """Outputs [..., P] for hidden units [..., H]."""

    @abc.abstractmethod
    def log_prob(self, outputs: jax.Array, codes: jax.Array) -> jax.Array:
        """Log probability of codes [...] in nats, float32 [...]."""

    @abc.abstractmethod
    def noise(self, key: jax.Array) -> jax.Array:
        """The random numbers that one sample takes, float32 [N]."""

    @abc.abstractmethod
    def sample(
        self, outputs: jax.Array, noise: jax.Array, sampling: Sampling, sharpness: jax.Array | float = 1.0
    ) -> jax.Array:
        """The codes [...] that `noise` [..., N] picks, in the features' dtype. sharpness: what the temperature is divided by,
        [...].
        """

    @abc.abstractmethod
    def predict(self, outputs: jax.Array) -> jax.Array:
        """The codes [...] that the model would name if it had to."""

    def scores(self, outputs: jax.Array, codes: jax.Array) -> dict[str, jax.Array]:
        """Figures per sample: `loss` in nats, `bits_per_sample` of the codes, `bits_per_16_bit_sample`."""
        nats = -self.log_prob(outputs, codes)
        bits = nats / NATS_PER_BIT
        within = jnp.asarray(self.features.bits_within_code(), jnp.float32)
        lowest = np.iinfo(self.features.step_dtype).min
        return {
            "loss": nats,
            "bits_per_sample": bits,
            "bits_per_16_bit_sample": bits + within[codes.astype(jnp.int32) - lowest],
        }


@dataclasses.dataclass(frozen=True)
class SampleOutput(abc.ABC):
    """Base of the frozen dataclasses that configure a head and build it."""

    @abc.abstractmethod
    def make(self, features: FeatureSpec, hidden_size: int, *, dtype: Any, rngs: nnx.Rngs) -> SampleHead:
        """Raises UserError where it cannot draw what these features code."""


@dataclasses.dataclass(frozen=True)
class Softmax(SampleOutput):
    """One logit a mu-law code; the negative log likelihood is the softmax cross-entropy (van den Oord et al. 2016)."""

    def make(self, features: FeatureSpec, hidden_size: int, *, dtype: Any, rngs: nnx.Rngs) -> "DistributionHead":
        if not isinstance(features, MuLaw):
            raise _wrong_features("Softmax", "MuLaw", features)
        return DistributionHead(features, Categorical(features.q_levels), hidden_size, dtype, rngs)


@dataclasses.dataclass(frozen=True)
class Logistics(SampleOutput):
    """A discretised mixture of logistics over 16-bit samples (Salimans et al. 2017)."""

    num_components: int = 10
    """Logistics in the mixture."""

    def make(self, features: FeatureSpec, hidden_size: int, *, dtype: Any, rngs: nnx.Rngs) -> "DistributionHead":
        if not isinstance(features, Pcm16):
            raise _wrong_features("Logistics", "Pcm16", features)
        return DistributionHead(features, LogisticMixture(self.num_components), hidden_size, dtype, rngs)


@dataclasses.dataclass(frozen=True)
class CoarseFine(SampleOutput):
    """A softmax over the high byte of a 16-bit sample, then one over its low byte that knows the high one (WaveRNN,
    Kalchbrenner et al. 2018, section 2.1).
    """

    hidden_size: int = 256
    """Hidden units between the network and each softmax."""

    def __post_init__(self) -> None:
        if self.hidden_size < 1:
            raise UserError(f"--model.output.hidden-size is {self.hidden_size}, expected at least 1 unit.")

    def make(self, features: FeatureSpec, hidden_size: int, *, dtype: Any, rngs: nnx.Rngs) -> "CoarseFineHead":
        if not isinstance(features, Pcm16):
            raise _wrong_features("CoarseFine", "Pcm16", features)
        return CoarseFineHead(features, self.hidden_size, hidden_size, dtype, rngs)


def _wrong_features(output: str, expected: str, features: FeatureSpec) -> UserError:
    return UserError(
        f"--model.output {output} draws {expected} samples, but the features are {type(features).__name__}; change "
        "--features or --model.output."
    )


class DistributionHead(SampleHead):
    """One linear layer, which gives the parameters of a distribution."""

    def __init__(
        self, features: SampleSpec, distribution: CodeDistribution, in_features: int, dtype: Any, rngs: nnx.Rngs
    ):
        self.features, self.distribution = features, distribution
        self.linear = nnx.Linear(
            in_features, distribution.num_params(1), dtype=dtype, dot_general=dot_general, rngs=rngs
        )

    def __call__(self, hidden: jax.Array) -> jax.Array:
        return self.linear(hidden)

    def log_prob(self, outputs: jax.Array, codes: jax.Array) -> jax.Array:
        return self.distribution.log_prob(outputs, codes)

    def noise(self, key: jax.Array) -> jax.Array:
        return self.distribution.noise(1, key)

    def sample(
        self, outputs: jax.Array, noise: jax.Array, sampling: Sampling, sharpness: jax.Array | float = 1.0
    ) -> jax.Array:
        return self.distribution.sample(outputs, noise, sampling, sharpness).astype(self.features.step_dtype)

    def predict(self, outputs: jax.Array) -> jax.Array:
        return self.distribution.mode(outputs).astype(self.features.step_dtype)


class CoarseFineHead(SampleHead):
    """The module that `CoarseFine` configures. Outputs are the hidden units: the low byte's logits need the high byte."""

    def __init__(self, features: Pcm16, hidden_size: int, in_features: int, dtype: Any, rngs: nnx.Rngs):
        self.features = features
        self.byte = Categorical(_FINE)

        def linear(width: int, size: int) -> nnx.Linear:
            return nnx.Linear(width, size, dtype=dtype, dot_general=dot_general, rngs=rngs)

        self.hidden = linear(in_features, 2 * hidden_size)
        self.coarse, self.fine = linear(hidden_size, _FINE), linear(hidden_size, _FINE)
        self.embedding = nnx.Embed(_FINE, hidden_size, dtype=dtype, rngs=rngs)

    def __call__(self, hidden: jax.Array) -> jax.Array:
        return self.hidden(hidden)

    def log_prob(self, outputs: jax.Array, codes: jax.Array) -> jax.Array:
        coarse, fine = _bytes(codes)
        coarse_nats = self.byte.log_prob(self._coarse(outputs), coarse)
        return coarse_nats + self.byte.log_prob(self._fine(outputs, coarse), fine)

    def noise(self, key: jax.Array) -> jax.Array:
        return jax.random.uniform(key, (2,))

    def sample(
        self, outputs: jax.Array, noise: jax.Array, sampling: Sampling, sharpness: jax.Array | float = 1.0
    ) -> jax.Array:
        coarse = self.byte.sample(self._coarse(outputs), noise[..., :1], sampling, sharpness)
        fine = self.byte.sample(self._fine(outputs, coarse), noise[..., 1:], sampling, sharpness)
        return _joined(coarse, fine)

    def predict(self, outputs: jax.Array) -> jax.Array:
        coarse = self.byte.mode(self._coarse(outputs))
        return _joined(coarse, self.byte.mode(self._fine(outputs, coarse)))

    def _coarse(self, outputs: jax.Array) -> jax.Array:
        return self.coarse(jax.nn.relu(jnp.split(outputs, 2, axis=-1)[0]))

    def _fine(self, outputs: jax.Array, coarse: jax.Array) -> jax.Array:
        return self.fine(jax.nn.relu(jnp.split(outputs, 2, axis=-1)[1] + self.embedding(coarse)))


def _bytes(codes: jax.Array) -> tuple[jax.Array, jax.Array]:
    """High and low byte, 0 to 255 each, of int16 samples."""
    unsigned = codes.astype(jnp.int32) + 2**15
    return unsigned // _FINE, unsigned % _FINE


def _joined(coarse: jax.Array, fine: jax.Array) -> jax.Array:
    return (coarse.astype(jnp.int32) * _FINE + fine.astype(jnp.int32) - 2**15).astype(jnp.int16)
