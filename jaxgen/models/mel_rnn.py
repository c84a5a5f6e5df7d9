"""Log-mel frames, one after another: a recurrent network that says the next frame and whether the clip ends with it.

With `Normal(scale)` the loss is the mean squared error (up to a constant); with `NormalMixture` it is a mixture density
network (Bishop 1994) as Graves 2013 (section 4) uses it for handwriting, whose samples stay sharp.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxgen.core.descriptions import Better, Description, Descriptions
from jaxgen.core.errors import UserError
from jaxgen.data.spec import DataSpec
from jaxgen.features import LogMel
from jaxgen.models.conditioning import Conditioning, stream_features, stream_sizes
from jaxgen.models.sequence import (
    Carry,
    SequenceConfig,
    SequenceModel,
    concatenate_features,
    end_bias,
    end_log_prob,
)
from jaxgen.nn.distributions import NormalMixture, Sampling, VectorDistribution
from jaxgen.nn.label_embedding import LabelEmbedding, Labels
from jaxgen.nn.position import PositionEncoding
from jaxgen.nn.recurrent import LSTM, Cell, Stack
from jaxgen.nn.recurrent.product import dot_general


@dataclasses.dataclass(frozen=True)
class MelRNN(SequenceConfig):
    """A recurrent network over log-mel frames."""

    cell: Cell = LSTM(hidden_size=256)
    """The recurrence: RNN, LSTM, GRU, MinGRU, MinLSTM or RGLRU."""
    num_layers: int = 2
    """Recurrent layers, one above the other; more learn more and are slower."""
    residual: bool = True
    """Add each layer's input to its output, from the second layer on."""
    dropout: float = 0.0
    """Variational dropout: share of units switched off for a whole chunk, 0 to 1; more keeps a model from overfitting."""
    distribution: VectorDistribution = NormalMixture(num_components=8)
    """What a frame is drawn from: Normal (mean squared error) or NormalMixture."""
    input_noise: float = 0.0
    """Standard deviation of the noise that training adds to the past frames (in units of the data's own; in a PlannedRNN, of
    its frames' scale)."""
    labels: tuple[str, ...] = ()
    """Label fields that condition the model."""
    label_size: int = 16
    """Features a label is embedded into."""
    label_dropout: float = 0.1
    """Share of clips trained with labels unknown."""
    aligned_streams: tuple[str, ...] = ()
    """Streams of which each step reads its own value, such as loudness. A clip is as long as they are then."""
    position_frequencies: int = 0
    """Sines and cosines that tell the model how long the clip has been going on, so that clips become as long as those of
    the data: n of them last for 2^n steps. 0 tells nothing."""

    lookback = 1

    def __post_init__(self) -> None:
        if not 0 <= self.input_noise < math.inf:
            raise UserError(f"--model.input-noise is {self.input_noise}, expected a deviation of at least 0.")

    @property
    def ends_clips(self) -> bool:
        return not self.aligned_streams

    def make(self, data: DataSpec, *, dtype: Any = jnp.float32, rngs: nnx.Rngs) -> "MelModule":
        """Raises UserError where the features are not log-mel frames."""
        if not isinstance(data.features, LogMel):
            raise UserError(
                f"MelRNN models log-mel frames, but the features are {type(data.features).__name__}; "
                "use LogMel features, or WaveRNN for samples."
            )
        features = data.features
        scale = FrameScale(
            np.asarray(data.mean, np.float32),
            np.asarray(data.std, np.float32),
            features.stack,
            features.samples_per_step,
        )
        return MelModule(self, data, scale, dtype, rngs)


@dataclasses.dataclass(frozen=True)
class FrameScale:
    """What a model must know of the frames it is of."""

    mean: np.ndarray
    """Float32 [D]."""
    deviation: np.ndarray
    """Float32 [D]."""
    stack: int
    """Frames that make one step."""
    samples_per_step: int
    """Samples that a step is of."""


class MelModule(SequenceModel):
    """The module that `MelRNN` configures. Steps are float32 frames, or stacks of them; P is the distribution's, and one for the
    logit of the clip's end. Inside, frames are standardised by the mean and deviation of their scale; likelihoods are of the
    frames as they are, so they do not depend on that choice.
    """

    num_unguided_outputs = 1
    descriptions: ClassVar[Descriptions] = {
        "loss": Description(
            "Training loss", "What training lowers, of a step: frames, and where clips end.", "nats", Better.LOWER
        ),
        "nats_per_frame": Description(
            "Negative log likelihood",
            "How surprised the model is by the next frame.",
            "nats/frame",
            Better.LOWER,
            importance=5,
        ),
        "mse": Description(
            "Mean squared error",
            "Of the frame that the model expects, in squared units of the log-mel levels.",
            "nats²",
            Better.LOWER,
        ),
    }

    def __init__(
        self,
        config: MelRNN,
        data: DataSpec,
        scale: FrameScale,
        dtype: Any,
        rngs: nnx.Rngs,
        *,
        aligned: Mapping[str, int] | None = None,
    ):
        """aligned: features of each aligned value that it reads, by name; none takes the streams that the config names."""
        self.lookback, self.ends_clips = config.lookback, config.ends_clips
        self.labels = config.labels
        self.distribution = config.distribution
        self.input_noise = config.input_noise
        self.stacked, self.dtype = scale.stack, dtype
        self.mean, self.std = scale.mean, scale.deviation
        size = len(scale.mean)
        self.condition = LabelEmbedding(
            data, config.labels, config.label_size, dropout=config.label_dropout, dtype=dtype, rngs=rngs
        )
        self.aligned = stream_sizes(data, config.aligned_streams) if aligned is None else dict(aligned)
        self.position = PositionEncoding(config.position_frequencies)
        self.stack = Stack(
            config.cell,
            config.num_layers,
            size + self.condition.num_features + self.position.num_features + sum(self.aligned.values()),
            residual=config.residual,
            dropout=config.dropout,
            dtype=dtype,
            rngs=rngs,
        )
        num_params = config.distribution.num_params(size)
        first_bias = np.append(np.zeros(num_params, np.float32), end_bias(data, scale.samples_per_step))
        self.head = nnx.Linear(
            config.cell.hidden_size,
            num_params + 1,
            bias_init=lambda key, shape, dtype: jnp.asarray(first_bias, dtype),
            dtype=dtype,
            dot_general=dot_general,
            rngs=rngs,
        )

    def init_carry(self, batch_size: int) -> Carry:
        return {"stack": self.stack.init_carry(batch_size), "position": self.position.init_carry(batch_size)}

    def unroll(
        self, x: jax.Array, conditioning: Conditioning, carry: Carry, reset: jax.Array, key: jax.Array | None = None
    ) -> tuple[jax.Array, Carry]:
        past, labels = self.standardise(x[:, :-1]), conditioning.static
        dropout_key = None
        if key is not None:
            label_key, dropout_key, noise_key = jax.random.split(key, 3)
            labels = self.condition.drop(labels, reset, label_key)
            if self.input_noise:
                past = past + self.input_noise * jax.random.normal(noise_key, past.shape)
        features, position = self.position.unroll(carry["position"], reset)
        inputs = self._inputs(past, labels, features, conditioning)
        hidden, stack = self.stack.unroll(inputs, carry["stack"], reset, dropout_key)
        return self.head(hidden), {"stack": stack, "position": position}

    def step(self, x: jax.Array, conditioning: Conditioning, carry: Carry) -> tuple[jax.Array, Carry]:
        features, position = self.position.step(carry["position"])
        inputs = self._inputs(self.standardise(x[:, -1]), conditioning.static, features, conditioning)
        hidden, stack = self.stack.step(inputs, carry["stack"])
        return self.head(hidden), {"stack": stack, "position": position}

    def log_prob(self, outputs: jax.Array, target: jax.Array, end: jax.Array) -> jax.Array:
        nats = self.frame_log_prob(outputs, target)
        return nats + end_log_prob(self.end_logit(outputs), end) if self.ends_clips else nats

    def frame_log_prob(self, outputs: jax.Array, target: jax.Array) -> jax.Array:
        """Log-likelihood of the frames alone in nats [...], whether or not the clip ends with them."""
        return self.distribution.log_prob(self._frame(outputs), self.standardise(target)) - jnp.log(self.std).sum()

    def end_logit(self, outputs: jax.Array) -> jax.Array:
        """Logit of the clip's end with the next step, float32 [...]."""
        return outputs[..., -1].astype(jnp.float32)

    def scores(self, outputs: jax.Array, target: jax.Array, end: jax.Array) -> dict[str, jax.Array]:
        nats = -self.log_prob(outputs, target, end)
        mse = jnp.square(self.predict(outputs) - target).mean(-1)
        return {"loss": nats, "nats_per_frame": nats / self.stacked, "mse": mse}

    def noise(self, key: jax.Array) -> jax.Array:
        frame_key, end_key = jax.random.split(key)
        return jnp.append(self.distribution.noise(len(self.mean), frame_key), jax.random.uniform(end_key))

    def sample(self, outputs: jax.Array, noise: jax.Array, sampling: Sampling) -> tuple[jax.Array, jax.Array]:
        x = self.distribution.sample(self._frame(outputs), noise[..., :-1], sampling)
        return self._restore(x), self.ends_clips & (noise[..., -1] < jax.nn.sigmoid(self.end_logit(outputs)))

    def predict(self, outputs: jax.Array) -> jax.Array:
        return self._restore(self.distribution.mean(self._frame(outputs)))

    def _inputs(self, past: jax.Array, labels: Labels, position: jax.Array, conditioning: Conditioning) -> jax.Array:
        aligned = conditioning.aligned
        beside = [stream_features(aligned[name], size, past.ndim - 1) for name, size in self.aligned.items()]
        return concatenate_features(
            *(each.astype(self.dtype) for each in (past, position, *beside)), self.condition(labels)
        )

    def _frame(self, outputs: jax.Array) -> jax.Array:
        """Of outputs [..., P] the parameters of the distribution."""
        return outputs[..., :-1].astype(jnp.float32)

    def standardise(self, frames: jax.Array) -> jax.Array:
        """Frames float32 [..., D] in deviations of their scale from its mean."""
        return (frames - self.mean) / self.std

    def _restore(self, frames: jax.Array) -> jax.Array:
        return frames * self.std + self.mean
