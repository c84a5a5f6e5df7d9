"""Distributions over one step of a sequence: the loss and the sampler ask the same object.

A distribution holds no arrays, so that it can stand in a config. Its parameters are the trailing axis of a model's
output, in any float dtype; all arithmetic is float32 and all densities are in nats.
"""

import abc
import dataclasses
import math
from typing import Self

import jax
import jax.numpy as jnp
from jax import Array

from jaxgen.audio.companding import compand, expand
from jaxgen.core.errors import UserError
from jaxgen.scores.limits import NoteLimits

_LOG_SQRT_2PI = 0.5 * math.log(2 * math.pi)
_GROUP = 16  # codes that a draw looks at together; the square root of 256
_BELOW_ONE = 1 - 2**-24  # the largest float32 below 1
_SMALLEST_LOG_SCALE = -9.0  # a tenth of the bin around 0 on the mu-law scale: silence, which repeats exactly
_UNIT_SOFTPLUS = math.log(math.expm1(1))  # softplus of this is 1


@dataclasses.dataclass(frozen=True)
class Sampling:
    """How to draw from a distribution. Applied in this order: temperature, top_k, top_p."""

    temperature: float = 1.0
    """Below 1 likelier steps are drawn more often, 0 draws only the likeliest; where a clip ends is drawn all the same."""
    top_k: int = 0
    """Draw only among this many likeliest codes (or mixture components); 0 is all."""
    top_p: float = 1.0
    """Draw only among the fewest codes (or mixture components) that hold this share of the probability."""
    noise_scale: float = 1.0
    """Times the standard deviation of continuous steps. Below 1 frames are cleaner, but events stay as likely as the
    model says, where a low temperature would put off each onset, the less likely choice at any one frame."""
    guidance: float = 0.0
    """How much further than the model itself to go from what it says without labels to what it says with them
    (classifier-free guidance, Ho and Salimans 2021; of mixtures and of two bytes what their parameters are made of is
    moved): labels are heard more clearly, clips vary less. Twice the work."""
    voiced_sharpness: float = 0.0
    """How much likelier the likelier samples are drawn where a PlannedRNN plans a voice, which is less rough then: the
    temperature is divided by 1 + voiced_sharpness max(0, 1.5 g - 0.5), where g is how much of a period is there again
    (LPCNet, Valin and Skoglund 2019, section 3.7, with 1). Other models plan no voices, and refuse it."""
    range: tuple[str, ...] = ()
    """Of a model of written music: lowest and highest MIDI pitch that is drawn, as 36:81; or one pair for each voice, the
    highest first. None draws all."""
    crossing: bool = True
    """Of a model of voices: whether a voice may be drawn above the one over it."""
    key: str = ""
    """Of a model of written music: draw only notes of this key, as C, F# or Bbm; empty draws all."""

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < math.inf:
            raise UserError(f"temperature is {self.temperature}; --temperature must be 0 (likeliest) or above.")
        if self.top_k < 0:
            raise UserError(f"top_k is {self.top_k}; --top-k must be 0 (all) or above.")
        if not 0 < self.top_p <= 1:
            raise UserError(f"top_p is {self.top_p}; --top-p must be above 0 and at most 1 (all).")
        if not 0 <= self.noise_scale < math.inf:
            raise UserError(f"noise_scale is {self.noise_scale}; --noise-scale must be 0 (no noise) or above.")
        if not 0 <= self.guidance < math.inf:
            raise UserError(f"guidance is {self.guidance}; --guidance must be 0 (none) or above.")
        if not 0 <= self.voiced_sharpness < math.inf:
            raise UserError(
                f"voiced_sharpness is {self.voiced_sharpness}; --voiced-sharpness must be 0 (none) or above."
            )
        _ = self.limits  # which raises, too

    @property
    def limits(self) -> NoteLimits:
        """What `range`, `crossing` and `key` say. They take away what may be drawn, before all else; likelihoods know nothing
        of them."""
        return NoteLimits.parse(self.range, self.crossing, self.key)

    def moved(self, semitones: int) -> Self:
        """The same for music that many semitones higher."""
        moved_range, moved_key = self.limits.moved(semitones)
        return dataclasses.replace(self, range=moved_range, key=moved_key)

    @property
    def draws_from_all(self) -> bool:
        """Whether every code or component may be drawn, as often as the model says but for the temperature."""
        return self.temperature > 0 and self.top_k == 0 and self.top_p == 1 and self.guidance == 0

    @property
    def deviation(self) -> float:
        """What multiplies the standard deviations of continuous steps."""
        return self.noise_scale * math.sqrt(self.temperature)


@dataclasses.dataclass(frozen=True)
class Distribution(abc.ABC):
    """The contract. A step x is an integer [...] or a vector [..., D]; its parameters are [..., P]."""

    @abc.abstractmethod
    def num_params(self, event_size: int) -> int:
        """P for a step of `event_size` numbers. Raises UserError where the distribution has no such steps."""

    @abc.abstractmethod
    def log_prob(self, params: Array, x: Array) -> Array:
        """Log probability or log density of x in nats, float32 [...]."""

    @abc.abstractmethod
    def noise(self, event_size: int, key: Array) -> Array:
        """The random numbers that one x takes, float32 [N]. They know no parameters: a loop's can be drawn before it."""

    @abc.abstractmethod
    def sample(self, params: Array, noise: Array, sampling: Sampling) -> Array:
        """The x that `noise` [..., N] picks for every element of [...]. `sampling` is static under jit."""

    @abc.abstractmethod
    def mode(self, params: Array) -> Array:
        """The x that a sample of temperature 0 is."""


class CodeDistribution(Distribution):
    """Of integers."""

    @abc.abstractmethod
    def sample(self, params: Array, noise: Array, sampling: Sampling, sharpness: Array | float = 1.0) -> Array:
        """sharpness: what the temperature is divided by, [...]."""


class VectorDistribution(Distribution):
    """Of vectors [..., D], whose mean is a prediction as well."""

    @abc.abstractmethod
    def mean(self, params: Array) -> Array:
        """The expected x, float32 [..., D]."""


@dataclasses.dataclass(frozen=True)
class Categorical(CodeDistribution):
    """One of `q_levels` codes; the parameters are logits and the negative log-likelihood is softmax cross-entropy."""

    q_levels: int
    """Number of codes."""

    def __post_init__(self) -> None:
        if self.q_levels < 2:
            raise UserError(f"q_levels is {self.q_levels}; a categorical distribution needs at least 2 codes.")

    def num_params(self, event_size: int) -> int:
        if event_size != 1:
            raise UserError(
                f"Categorical draws one code a step, but a step here has {event_size} numbers; "
                "set --model.distribution to Normal or NormalMixture."
            )
        return self.q_levels

    def log_prob(self, params: Array, x: Array) -> Array:
        log_probs = jax.nn.log_softmax(params.astype(jnp.float32))
        return jnp.take_along_axis(log_probs, x.astype(jnp.int32)[..., None], axis=-1)[..., 0]

    def noise(self, event_size: int, key: Array) -> Array:
        return jax.random.uniform(key, (1,))

    def sample(self, params: Array, noise: Array, sampling: Sampling, sharpness: Array | float = 1.0) -> Array:
        return _choose(params, noise[..., 0], sampling, sharpness)

    def mode(self, params: Array) -> Array:
        return jnp.argmax(params, axis=-1)


@dataclasses.dataclass(frozen=True)
class Normal(VectorDistribution):
    """Independent normals of one fixed standard deviation around the parameters (P = D).

    The negative log-likelihood is the summed squared error over 2 scale^2, and a constant: least squares.
    Temperature multiplies the variance; top_k and top_p have nothing to choose from.
    """

    scale: float = 1.0
    """Standard deviation, in units of the data's own."""

    def __post_init__(self) -> None:
        if not 0 < self.scale < math.inf:
            raise UserError(f"scale is {self.scale}; --model.distribution.scale must be above 0.")

    def num_params(self, event_size: int) -> int:
        return event_size

    def log_prob(self, params: Array, x: Array) -> Array:
        return _normal_log_density(x, params.astype(jnp.float32), jnp.float32(self.scale))

    def noise(self, event_size: int, key: Array) -> Array:
        return jax.random.normal(key, (event_size,))

    def sample(self, params: Array, noise: Array, sampling: Sampling) -> Array:
        return self.mean(params) + sampling.deviation * self.scale * noise

    def mode(self, params: Array) -> Array:
        return self.mean(params)

    def mean(self, params: Array) -> Array:
        return params.astype(jnp.float32)


@dataclasses.dataclass(frozen=True)
class NormalMixture(VectorDistribution):
    """Mixture density over whole frames: K components, each a normal with diagonal covariance (Bishop 1994, eq. 23).

    Parameters, P = K (2 D + 1): K logits, K x D means, K x D raw scales. A standard deviation is a softplus of its raw
    scale, shifted so that raw 0 is 1: a fresh model, whose outputs are near 0, says about a standard normal.
    Temperature t divides the logits and multiplies the variances (Ha and Eck 2018, eq. 8); top_k and top_p choose among
    components. The mode is taken to be the mean of the likeliest component.
    """

    num_components: int = 8
    """Number of components K; more fit finer shapes, and are slower."""
    min_scale: float = 0.05
    """Smallest standard deviation, in units of the data's own: keeps silence, which repeats exactly, from an unbounded
    likelihood."""

    def __post_init__(self) -> None:
        if self.num_components < 1:
            raise UserError(
                f"num_components is {self.num_components}; --model.distribution.num-components must be at least 1."
            )
        if not 0 < self.min_scale < 1:
            raise UserError(f"min_scale is {self.min_scale}; --model.distribution.min-scale must be between 0 and 1.")

    def num_params(self, event_size: int) -> int:
        return self.num_components * (2 * event_size + 1)

    def log_prob(self, params: Array, x: Array) -> Array:
        logits, means, scales = self._split(params)
        log_densities = _normal_log_density(x[..., None, :], means, scales)
        return jax.nn.logsumexp(jax.nn.log_softmax(logits) + log_densities, axis=-1)

    def noise(self, event_size: int, key: Array) -> Array:
        component_key, frame_key = jax.random.split(key)
        return jnp.append(jax.random.uniform(component_key), jax.random.normal(frame_key, (event_size,)))

    def sample(self, params: Array, noise: Array, sampling: Sampling) -> Array:
        logits, means, scales = self._split(params)
        component = _choose(logits, noise[..., 0], sampling)
        mean, scale = _take(means, component), _take(scales, component)
        return mean + sampling.deviation * scale * noise[..., 1:]

    def mode(self, params: Array) -> Array:
        logits, means, _ = self._split(params)
        return _take(means, jnp.argmax(logits, axis=-1))

    def mean(self, params: Array) -> Array:
        logits, means, _ = self._split(params)
        return (jax.nn.softmax(logits)[..., None] * means).sum(-2)

    def _split(self, params: Array) -> tuple[Array, Array, Array]:
        """Logits [..., K], means [..., K, D] and standard deviations [..., K, D]."""
        params = params.astype(jnp.float32)
        logits, vectors = params[..., : self.num_components], params[..., self.num_components :]
        means, raw = jnp.moveaxis(vectors.reshape(*params.shape[:-1], 2, self.num_components, -1), -3, 0)
        return logits, means, self.min_scale + (1 - self.min_scale) * jax.nn.softplus(raw + _UNIT_SOFTPLUS)


@dataclasses.dataclass(frozen=True)
class LogisticMixture(CodeDistribution):
    """Mixture of K logistics over 16-bit samples, discretised: the probability of an integer is that of its bin, and the
    lowest and the highest hold all beyond (PixelCNN++, Salimans et al. 2017, eq. 2).

    The logistics lie on a mu-law axis from -1 to 1, on which speech is spread evenly. Parameters, P = 3 K: K logits,
    means and raw log scales. Temperature divides the logits and multiplies the variances; top_k and top_p choose among
    components. The mode is taken to be the mean of the likeliest component.
    """

    num_components: int = 10
    """Number of components K; more fit finer shapes, and are slower."""

    def __post_init__(self) -> None:
        if self.num_components < 1:
            raise UserError(
                f"num_components is {self.num_components}; --model.output.num-components must be at least 1."
            )

    def num_params(self, event_size: int) -> int:
        if event_size != 1:
            raise UserError(f"LogisticMixture draws one sample a step, but a step here has {event_size} numbers.")
        return 3 * self.num_components

    def log_prob(self, params: Array, x: Array) -> Array:
        logits, means, log_scales = self._split(params)
        x = x.astype(jnp.float32)[..., None]
        low, high = (compand((x + side) / 2**15) for side in (-0.5, 0.5))
        precision = jnp.exp(-log_scales)
        lowest, highest = jax.nn.log_sigmoid((high - means) * precision), jax.nn.log_sigmoid((means - low) * precision)
        # The difference of two sigmoids as a product, exact: sigmoid(a) - sigmoid(b) = sigmoid(a) sigmoid(-b) (1 - exp(b - a)).
        width = jnp.maximum((high - low) * precision, 1e-30)
        inner = lowest + highest + jnp.log(-jnp.expm1(-width))
        nats = jnp.where(x <= -(2**15), lowest, jnp.where(x >= 2**15 - 1, highest, inner))
        return jax.nn.logsumexp(jax.nn.log_softmax(logits) + nats, axis=-1)

    def noise(self, event_size: int, key: Array) -> Array:
        return jax.random.uniform(key, (2,))

    def sample(self, params: Array, noise: Array, sampling: Sampling, sharpness: Array | float = 1.0) -> Array:
        logits, means, log_scales = self._split(params)
        component = _choose(logits, noise[..., 0], sampling, sharpness)[..., None]
        mean, scale = (jnp.take_along_axis(a, component, axis=-1)[..., 0] for a in (means, jnp.exp(log_scales)))
        uniform = jnp.clip(noise[..., 1], 2**-24, _BELOW_ONE)
        scale = scale * sampling.deviation / jnp.sqrt(sharpness)
        return _to_int16(mean + scale * (jnp.log(uniform) - jnp.log1p(-uniform)))

    def mode(self, params: Array) -> Array:
        logits, means, _ = self._split(params)
        return _to_int16(jnp.take_along_axis(means, jnp.argmax(logits, axis=-1)[..., None], axis=-1)[..., 0])

    def _split(self, params: Array) -> tuple[Array, Array, Array]:
        """Logits, means and log scales, float32 [..., K] each."""
        logits, means, raw = jnp.split(params.astype(jnp.float32), 3, axis=-1)
        # A fresh model's components lie side by side over the whole axis, each about as wide as its neighbours.
        places = (2 * jnp.arange(self.num_components, dtype=jnp.float32) + 1) / self.num_components - 1
        return logits, means + places, jnp.maximum(raw - math.log(2 * self.num_components), _SMALLEST_LOG_SCALE)


def _to_int16(companded: Array) -> Array:
    """The integer int16 [...] in whose bin a place on the mu-law scale lies."""
    return jnp.clip(jnp.round(expand(jnp.clip(companded, -1.1, 1.1)) * 2**15), -(2**15), 2**15 - 1).astype(jnp.int16)


def _normal_log_density(x: Array, mean: Array, scale: Array) -> Array:
    """Summed over the last axis."""
    return (-0.5 * jnp.square((x - mean) / scale) - jnp.log(scale) - _LOG_SQRT_2PI).sum(-1)


def _choose(logits: Array, uniform: Array, sampling: Sampling, sharpness: Array | float = 1.0) -> Array:
    """An index into the last axis of logits [..., N], after temperature, top-k and top-p (Holtzman et al. 2020).

    uniform: [...], from 0 to below 1. sharpness: what the temperature is divided by, [...].
    """
    if sampling.temperature == 0:
        return jnp.argmax(logits, axis=-1)
    logits = logits.astype(jnp.float32)
    temperature = sampling.temperature / jnp.asarray(sharpness)[..., None]
    weights = jnp.exp((logits - logits.max(-1, keepdims=True)) / temperature)
    size = logits.shape[-1]
    if sampling.top_k not in range(1, size) and sampling.top_p == 1:
        return _invert(weights, uniform)
    weights, index = jax.lax.top_k(weights, min(sampling.top_k or size, size))  # likeliest first
    if sampling.top_p < 1:
        likelier = jnp.cumsum(weights, axis=-1) - weights
        weights = jnp.where(likelier < sampling.top_p * weights.sum(-1, keepdims=True), weights, 0.0)
    return jnp.take_along_axis(index, _invert(weights, uniform)[..., None], axis=-1)[..., 0]


def _invert(weights: Array, uniform: Array) -> Array:
    """The index into weights [..., N] at which their running sum passes the share `uniform` [...] of all.

    One uniform number and one exponential a code cost far less than the Gumbel noise of `jax.random.categorical`; and
    first a group of codes, then a code of it, far less than a running sum over all of them.
    """
    size = weights.shape[-1]
    padded = jnp.pad(weights, [(0, 0)] * (weights.ndim - 1) + [(0, -size % _GROUP)])
    groups = padded.reshape(*weights.shape[:-1], -1, _GROUP)
    group, share = _pass(groups.sum(-1), uniform)
    place, _ = _pass(jnp.take_along_axis(groups, group[..., None, None], axis=-2)[..., 0, :], share)
    return group * _GROUP + place


def _pass(weights: Array, share: Array) -> tuple[Array, Array]:
    """Where the running sum of weights [..., N] passes a share [...] of their sum, and how far into that weight it is.

    A weight of 0 is never passed: no sum is below itself, and shares stay below 1.
    """
    sums = jnp.cumsum(weights, axis=-1)
    mark = share * sums[..., -1]
    index = jnp.minimum((sums <= mark[..., None]).sum(-1), weights.shape[-1] - 1)
    weight, after = (jnp.take_along_axis(a, index[..., None], axis=-1)[..., 0] for a in (weights, sums))
    return index, jnp.clip(1 - (after - mark) / weight, 0.0, _BELOW_ONE)


def _take(vectors: Array, component: Array) -> Array:
    """vectors [..., K, D] at component [...]: [..., D]."""
    return jnp.take_along_axis(vectors, component[..., None, None], axis=-2)[..., 0, :]
