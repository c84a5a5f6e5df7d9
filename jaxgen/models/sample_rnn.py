"""SampleRNN: tiers of recurrent networks over frames of samples, and a network over samples (Mehri et al. 2017).

A tier reads the frame of samples before it and what the tier above says, and tells the tier below, for each of its steps,
what it knows; the lowest, a feed-forward network, reads the last few samples and names the next one. A tier works once a
frame, so that it can be wide, and its recurrence reaches far in few steps.
"""

import dataclasses
import functools
import itertools
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from jaxgen.data.spec import DataSpec
from jaxgen.distributions import Sampling
from jaxgen.errors import UserError
from jaxgen.features import SampleSpec
from jaxgen.heads import SampleOutput, Softmax
from jaxgen.models.sequence import Carry, LabelEmbedding, Labels, ModelConfig, SequenceModel, join
from jaxgen.recurrent import LSTM, Cell, Stack
from jaxgen.recurrent.product import dot_general


@dataclasses.dataclass(frozen=True)
class SampleRNN(ModelConfig):
    """Tiers of recurrent networks over frames of samples, and a feed-forward network over samples."""

    frame_sizes: tuple[int, ...] = (64, 8)
    """Samples in a frame of each tier, the slowest first; each divides the one before. One makes two tiers, two three."""
    cell: Cell = LSTM(hidden_size=512)
    """The recurrence of every tier: RNN, LSTM, GRU, MinGRU, MinLSTM or RGLRU."""
    num_layers: int = 1
    """Recurrent layers of a tier, one above the other."""
    residual: bool = True
    """Add each layer's input to its output, from the second layer on."""
    dropout: float = 0.0
    """Variational dropout of the tiers: share of units switched off for a whole chunk."""
    output: SampleOutput = Softmax()
    """What a sample is drawn from: Softmax for mu-law codes; CoarseFine or Logistics for 16-bit samples."""
    sample_size: int = 256
    """Hidden units of the network over samples."""
    embedding_size: int = 64
    """Features the last code is embedded into."""
    window: int = 16
    """Past samples that the network over samples reads as numbers."""
    labels: tuple[str, ...] = ()
    """Label fields that condition the slowest tier."""
    label_size: int = 32
    """Features a label is embedded into."""
    label_dropout: float = 0.1
    """Share of clips trained with labels unknown."""

    ends_clips = False

    def __post_init__(self) -> None:
        sizes = self.frame_sizes
        if not sizes or min(sizes) < 2 or any(a % b or a == b for a, b in itertools.pairwise(sizes)):
            raise UserError(
                f"--model.frame-sizes is {' '.join(map(str, sizes)) or 'empty'}; expected samples a frame, the slowest tier "
                "first, each a whole multiple of the next, the last at least 2, as in 64 8."
            )
        if min(self.window, self.embedding_size, self.sample_size) < 1:
            raise UserError(
                f"--model.window is {self.window}, --model.embedding-size {self.embedding_size} and --model.sample-size "
                f"{self.sample_size}; expected at least 1 each."
            )

    @property
    def lookback(self) -> int:
        return max(self.window, self.frame_sizes[0])

    @property
    def stride(self) -> int:
        return self.frame_sizes[0]

    def make(self, data: DataSpec, *, dtype: Any = jnp.float32, rngs: nnx.Rngs) -> "SampleModule":
        """Raises UserError where the features are not samples."""
        if not isinstance(data.features, SampleSpec):
            raise UserError(
                f"SampleRNN models samples, but the features are {type(data.features).__name__}; use MuLaw or Pcm16 "
                "features, or MelRNN for frames."
            )
        return SampleModule(self, data, data.features, dtype, rngs)


class Tier(nnx.Module):
    """A recurrence over frames of `frame_size` samples, which tells the tier below a vector for each of its steps."""

    def __init__(self, config: SampleRNN, frame_size: int, below: int, in_features: int, dtype: Any, rngs: nnx.Rngs):
        """below: samples in a frame of the tier below. in_features: what is read beside the frame."""
        self.frame_size, self.below, self.out_features = frame_size, below, config.sample_size
        self.stack = Stack(
            config.cell,
            config.num_layers,
            frame_size + in_features,
            residual=config.residual,
            dropout=config.dropout,
            dtype=dtype,
            rngs=rngs,
        )
        self.upsample = nnx.Linear(
            config.cell.hidden_size, self.ratio * config.sample_size, dtype=dtype, dot_general=dot_general, rngs=rngs
        )

    @property
    def ratio(self) -> int:
        """Steps of the tier below in a frame."""
        return self.frame_size // self.below

    def unroll(
        self, frames: jax.Array, carry: Carry, reset: jax.Array, key: jax.Array | None
    ) -> tuple[jax.Array, Carry]:
        """Frames [B, N, F] to vectors [B, N, ratio, D]."""
        hidden, carry = self.stack.unroll(frames, carry, reset, key)
        return self._upsampled(hidden), carry

    def step(self, frame: jax.Array, carry: Carry) -> tuple[jax.Array, Carry]:
        """One frame [B, F] to vectors [B, ratio, D]."""
        hidden, carry = self.stack.step(frame, carry)
        return self._upsampled(hidden), carry

    def _upsampled(self, hidden: jax.Array) -> jax.Array:
        return self.upsample(hidden).reshape(*hidden.shape[:-1], self.ratio, self.out_features)


class SampleModule(SequenceModel):
    """The module that `SampleRNN` configures. Steps are integer codes; outputs are those of its head.

    The carry holds that of each tier, what each tier has said last, and the place in the slowest tier's frame, which is
    the same in all rows: clips start, and chunks are cut, at whole frames.
    """

    def __init__(self, config: SampleRNN, data: DataSpec, features: SampleSpec, dtype: Any, rngs: nnx.Rngs):
        self.lookback, self.window, self.labels = config.lookback, config.window, config.labels
        self.features, self.dtype = features, dtype
        self.condition = LabelEmbedding(
            data, config.labels, config.label_size, dropout=config.label_dropout, dtype=dtype, rngs=rngs
        )
        sizes, width = (*config.frame_sizes, 1), config.sample_size
        beside = [self.condition.num_features, *[width] * (len(sizes) - 2)]
        self.tiers = nnx.List(
            Tier(config, size, below, extra, dtype, rngs)
            for (size, below), extra in zip(itertools.pairwise(sizes), beside, strict=True)
        )
        self.embedding = nnx.Embed(
            features.q_levels,
            config.embedding_size,
            embedding_init=nnx.initializers.normal(1.0),
            dtype=dtype,
            rngs=rngs,
        )
        linear = functools.partial(nnx.Linear, dtype=dtype, dot_general=dot_general, rngs=rngs)
        self.first, self.second = linear(config.embedding_size + config.window, width), linear(width, width)
        self.head = config.output.make(features, width, dtype=dtype, rngs=rngs)

    def init_carry(self, batch_size: int) -> Carry:
        return {
            "tiers": tuple(tier.stack.init_carry(batch_size) for tier in self.tiers),
            "said": tuple(jnp.zeros((batch_size, t.ratio, t.out_features), self.dtype) for t in self.tiers),
            "place": jnp.zeros(batch_size, jnp.int32),
        }

    def unroll(
        self, x: jax.Array, labels: Labels, carry: Carry, reset: jax.Array, key: jax.Array | None = None
    ) -> tuple[jax.Array, Carry]:
        batch_size, num_steps = reset.shape
        if num_steps % self.tiers[0].frame_size:
            raise UserError(
                f"chunks of {num_steps} samples do not divide into frames of {self.tiers[0].frame_size}; change "
                "--train.seq-len or --model.frame-sizes."
            )
        keys: list[jax.Array | None] = [None] * (1 + len(self.tiers))
        if key is not None:
            keys = list(jax.random.split(key, len(keys)))
        labels = self.condition.drop(labels, reset, keys[-1])
        values = self.features.companded(x).astype(self.dtype)
        beside = self.condition({name: a[:, :: self.tiers[0].frame_size] for name, a in labels.items()})
        states, said = [], []
        for tier, state, tier_key in zip(self.tiers, carry["tiers"], keys, strict=False):
            size = tier.frame_size
            frames = values[:, self.lookback - size :][:, :num_steps].reshape(batch_size, -1, size)
            starts = reset.reshape(batch_size, -1, size).any(axis=-1)
            vectors, state = tier.unroll(join(frames, beside), state, starts, tier_key)
            states.append(state)
            said.append(vectors[:, -1])
            beside = vectors.reshape(batch_size, -1, tier.out_features)
        assert beside is not None
        skipped = self.lookback - self.window
        windows = jnp.stack([values[:, skipped + i :][:, :num_steps] for i in range(self.window)], axis=-1)
        outputs = self._next(x[:, self.lookback - 1 : -1], windows, beside)
        return outputs, {"tiers": tuple(states), "said": tuple(said), "place": carry["place"]}

    def step(self, x: jax.Array, labels: Labels, carry: Carry) -> tuple[jax.Array, Carry]:
        values = self.features.companded(x).astype(self.dtype)
        place, beside = carry["place"][0], self.condition(labels)
        states, said = [], []
        for tier, state, vectors in zip(self.tiers, carry["tiers"], carry["said"], strict=True):
            frame, within = join(values[:, -tier.frame_size :], beside), place % tier.frame_size
            keep = functools.partial(_keep, vectors)
            vectors, state = jax.lax.cond(within == 0, tier.step, keep, frame, state)
            states.append(state)
            said.append(vectors)
            beside = vectors[:, within // tier.below]
        assert beside is not None
        outputs = self._next(x[:, -1], values[:, -self.window :], beside)
        after = (carry["place"] + 1) % self.tiers[0].frame_size
        return outputs, {"tiers": tuple(states), "said": tuple(said), "place": after}

    def log_prob(self, outputs: jax.Array, target: jax.Array, end: jax.Array) -> jax.Array:
        del end  # a model of samples has no opinion on where a clip ends: its length is asked for
        return self.head.log_prob(outputs, target)

    def scores(self, outputs: jax.Array, target: jax.Array, end: jax.Array) -> dict[str, jax.Array]:
        del end
        return self.head.scores(outputs, target)

    def noise(self, key: jax.Array) -> jax.Array:
        return self.head.noise(key)

    def sample(self, outputs: jax.Array, noise: jax.Array, sampling: Sampling) -> tuple[jax.Array, jax.Array]:
        codes = self.head.sample(outputs, noise, sampling)
        return codes, jnp.zeros(codes.shape, bool)

    def predict(self, outputs: jax.Array) -> jax.Array:
        return self.head.predict(outputs)

    def _next(self, last: jax.Array, windows: jax.Array, told: jax.Array) -> jax.Array:
        """Outputs [..., P] for the last codes [...], the values before the next one [..., window] and what the lowest
        tier says of it [..., D].
        """
        read = join(self.embedding(self.features.codes(last)), windows)
        return self.head(jax.nn.relu(self.second(jax.nn.relu(self.first(read) + told))))


def _keep(vectors: jax.Array, frame: jax.Array, state: Carry) -> tuple[jax.Array, Carry]:
    """What `Tier.step` returns within a frame."""
    del frame
    return vectors, state
