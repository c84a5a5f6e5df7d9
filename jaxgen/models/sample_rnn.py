"""SampleRNN: tiers of recurrent networks over frames of samples, and a network over samples (Mehri et al. 2017).

A tier reads the frame of samples before it and the vectors of the tier above. It gives the tier below a vector for each of
its steps. The lowest, a feed-forward network, reads the last few samples and predicts the next one. A tier works once a
frame, so that it can be wide, and its recurrence reaches far in few steps. The last tier's frame may be one sample: that
is a WaveRNN conditioned on the tiers above. Unlike the paper's, tiers read an embedding of the last code too: numbers
alone, most of them near 0, teach a recurrence slowly.
"""

import dataclasses
import functools
import itertools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from jaxgen.audio.fourier import frame_signal, hann
from jaxgen.audio.linear_prediction import Predictor
from jaxgen.core.errors import UserError
from jaxgen.data.spec import DataSpec
from jaxgen.features import SampleSpec
from jaxgen.models.conditioning import Conditioning
from jaxgen.models.sequence import (
    Carry,
    SampleSequenceModel,
    SequenceConfig,
    concatenate_features,
)
from jaxgen.nn.heads import SampleOutput, Softmax
from jaxgen.nn.label_embedding import LabelEmbedding
from jaxgen.nn.position import count_steps
from jaxgen.nn.recurrent import LSTM, Cell, Stack
from jaxgen.nn.recurrent.product import dot_general, product
from jaxgen.nn.sample_context import PlannedPrediction, SampleContext, Window

_PERIODS = (4.0, 8.0, 16.0, 32.0, 64.0, 128.0)  # frames of the slowest tier, of the waves that tell the time


@dataclasses.dataclass(frozen=True)
class SampleRNN(SequenceConfig):
    """Tiers of recurrent networks over frames of samples, and a feed-forward network over samples."""

    frame_sizes: tuple[int, ...] = (64, 8)
    """Samples in a frame of each tier, the slowest first; each divides the one before, the last may be 1."""
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
    conditioning_repeat: int = 1
    """Samples in a row that share one vector of the last tier; a divisor of the last of `frame_sizes`."""
    sample_size: int = 256
    """Hidden units of the network over samples."""
    embedding_size: int = 64
    """Features the last code is embedded into, for all tiers."""
    context: SampleContext = Window()
    """What the network over samples reads beside the last code. Window: the samples before it. LinearPrediction: also a
    prediction from these, which gives far better likelihoods, but has not given words. PlannedPrediction, inside a PlannedRNN:
    also a prediction from the plan."""
    spectrum: int = 256
    """Past samples whose power spectrum the slowest tier reads, beside its frame and the time since the clip began."""
    labels: tuple[str, ...] = ()
    """Label fields that condition the slowest tier."""
    label_size: int = 32
    """Features a label is embedded into."""
    label_dropout: float = 0.1
    """Share of clips trained with labels unknown."""

    ends_clips = False

    def __post_init__(self) -> None:
        sizes = self.frame_sizes
        if not sizes or min(sizes) < 1 or any(a % b or a == b for a, b in itertools.pairwise(sizes)):
            raise UserError(
                f"--model.frame-sizes is {' '.join(map(str, sizes)) or 'empty'}; expected samples a frame, the slowest tier "
                "first, each a whole multiple of the next, the last at least 1, as in 64 8."
            )
        if min(self.embedding_size, self.sample_size) < 1 or self.spectrum < 2:
            raise UserError(
                f"--model.embedding-size is {self.embedding_size}, --model.sample-size {self.sample_size} and "
                f"--model.spectrum {self.spectrum}; expected at least 1, 1 and 2."
            )
        if self.conditioning_repeat < 1 or sizes[-1] % self.conditioning_repeat:
            raise UserError(
                f"conditioning_repeat is {self.conditioning_repeat}, expected a divisor of the last tier's frames of {sizes[-1]} "
                "samples; change it or frame_sizes."
            )
        if sizes[0] % self.context.hop:
            raise UserError(
                f"--model.context.hop is {self.context.hop}, which does not divide the slowest tier's frames of {sizes[0]}; "
                "change it or --model.frame-sizes."
            )

    @property
    def lookback(self) -> int:
        return max(self.context.lookback, self.spectrum, self.frame_sizes[0])

    @property
    def stride(self) -> int:
        return self.frame_sizes[0]

    def make(
        self, data: DataSpec, *, dtype: Any = jnp.float32, rngs: nnx.Rngs, conditioning_size: int = 0
    ) -> "SampleModule":
        """conditioning_size: numbers that condition each of the slowest tier's frames. Raises UserError where the data's
        features are not samples, or where `PlannedPrediction` has no plan.
        """
        if isinstance(self.context, PlannedPrediction) and not conditioning_size:
            raise UserError(
                "--model.context PlannedPrediction needs a plan; use PlannedRNN, as configs/digits_sample.py does, or another "
                "--model.context."
            )
        if not isinstance(data.features, SampleSpec):
            raise UserError(
                f"SampleRNN models samples, but the features are {type(data.features).__name__}; use MuLaw or Pcm16 "
                "features, or MelRNN for frames."
            )
        return SampleModule(self, data, data.features, conditioning_size, dtype, rngs)


class FrameConditioning(NamedTuple):
    """What a plan gives for samples before they are drawn."""

    frames: jax.Array
    """Float32 [B, N, F], of each of the slowest tier's N frames; [B, F] of the one that the next sample is in."""
    predictors: Predictor
    """[B, M, ...] of M stretches of as many samples each; [B, ...] of the one that the next sample is in."""


class Tier(nnx.Module):
    """A recurrence over frames of `frame_size` samples, which gives the tier below a vector for each `below` samples."""

    def __init__(self, config: SampleRNN, frame_size: int, below: int, in_features: int, dtype: Any, rngs: nnx.Rngs):
        """below: samples that a vector is for: a frame of the tier below, or `conditioning_repeat`. in_features: what is read
        beside the frame.
        """
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
        """Vectors a frame."""
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


class SampleModule(SampleSequenceModel):
    """The module that `SampleRNN` configures. Steps are integer codes; outputs are those of its head.

    The carry holds that of each tier, the last vectors of each tier, the state of the context, and the samples since the clip
    began. The place in the slowest tier's frame is the same in all rows: clips start, and chunks are cut, at whole
    frames.
    """

    def __init__(
        self,
        config: SampleRNN,
        data: DataSpec,
        features: SampleSpec,
        conditioning_size: int,
        dtype: Any,
        rngs: nnx.Rngs,
    ):
        self.lookback, self.spectrum, self.context = config.lookback, config.spectrum, config.context
        self.labels, self.features, self.dtype = config.labels, features, dtype
        self.condition = LabelEmbedding(
            data, config.labels, config.label_size, dropout=config.label_dropout, dtype=dtype, rngs=rngs
        )
        sizes, width = (*config.frame_sizes, config.conditioning_repeat), config.sample_size
        seen = config.spectrum // 2 + 1 + 2 * len(_PERIODS)
        beside = [self.condition.num_features + seen + conditioning_size, *[width] * (len(sizes) - 2)]
        self.tiers = nnx.List(
            Tier(config, size, below, config.embedding_size + extra, dtype, rngs)
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
        read = config.embedding_size + config.context.num_features
        self.first, self.second = linear(read, width), linear(width, width)
        self.head = config.output.make(features, width, dtype=dtype, rngs=rngs)

    def init_carry(self, batch_size: int) -> Carry:
        return {
            "tiers": tuple(tier.stack.init_carry(batch_size) for tier in self.tiers),
            "vectors": tuple(jnp.zeros((batch_size, t.ratio, t.out_features), self.dtype) for t in self.tiers),
            "context": self.context.init(batch_size),
            "since": jnp.zeros(batch_size, jnp.int32),
        }

    def samples_since_start(self, carry: Carry) -> jax.Array:
        """Samples since the first row's clip began, int32 []; their place in a frame is that of all rows."""
        return carry["since"][0]

    def unroll(
        self,
        x: jax.Array,
        conditioning: Conditioning,
        carry: Carry,
        reset: jax.Array,
        key: jax.Array | None = None,
        plan: FrameConditioning | None = None,
    ) -> tuple[jax.Array, Carry]:
        """As of every model; plan: what it reads of one, where there is one."""
        batch_size, num_steps = reset.shape
        if num_steps % self.tiers[0].frame_size:
            raise UserError(
                f"chunks of {num_steps} samples do not divide into frames of {self.tiers[0].frame_size}; change "
                "--train.seq-len, --objective.segment or --model.frame-sizes."
            )
        keys: list[jax.Array | None] = [None] * (1 + len(self.tiers))
        if key is not None:
            keys = list(jax.random.split(key, len(keys)))
        labels = self.condition.drop(conditioning.static, reset, keys[-1])
        exact = self.features.to_mu_law(x)
        values = exact.astype(self.dtype)
        slowest = self.tiers[0].frame_size
        since = count_steps(reset[:, ::slowest], carry["since"] // slowest)
        excerpts = frame_signal(exact[:, self.lookback - self.spectrum :], self.spectrum, slowest, num_steps // slowest)
        known = self.condition({name: a[:, ::slowest] for name, a in labels.items()})
        beside = self._seen(excerpts, since, known, plan and plan.frames)
        states, last_vectors = [], []
        for tier, state, tier_key in zip(self.tiers, carry["tiers"], keys, strict=False):
            size = tier.frame_size
            frames = values[:, self.lookback - size :][:, :num_steps].reshape(batch_size, -1, size)
            starts = reset.reshape(batch_size, -1, size).any(axis=-1)
            last = self._last(x[:, self.lookback - 1 : -1 : size])
            vectors, state = tier.unroll(concatenate_features(frames, last, beside), state, starts, tier_key)
            states.append(state)
            last_vectors.append(vectors[:, -1])
            beside = vectors.reshape(batch_size, -1, tier.out_features)
        beside = jnp.repeat(beside, self.tiers[-1].below, axis=1)
        features, context = self.context.unroll(self.features.decode(x), num_steps, plan and plan.predictors)
        outputs = self._next(x[:, self.lookback - 1 : -1], features, beside)
        since = (since[:, -1] + 1) * slowest
        return outputs, {"tiers": tuple(states), "vectors": tuple(last_vectors), "context": context, "since": since}

    def step(
        self, x: jax.Array, conditioning: Conditioning, carry: Carry, plan: FrameConditioning | None = None
    ) -> tuple[jax.Array, Carry]:
        """As of every model; plan: what it reads of one, where there is one."""
        exact = self.features.to_mu_law(x)
        values = exact.astype(self.dtype)
        slowest, states, last_vectors = self.tiers[0].frame_size, [], []
        place, last = self.samples_since_start(carry) % slowest, self._last(x[:, -1])
        known = self.condition(conditioning.static)

        def seen() -> jax.Array:  # within the condition: a spectrum is needed once a frame
            return self._seen(exact[:, -self.spectrum :], carry["since"] // slowest, known, plan and plan.frames)

        beside: Callable[[], jax.Array] = seen
        for tier, state, vectors in zip(self.tiers, carry["tiers"], carry["vectors"], strict=True):
            within = place % tier.frame_size

            def advance(tier: Tier = tier, beside: Callable[[], jax.Array] = beside, state: Carry = state):
                return tier.step(concatenate_features(values[:, -tier.frame_size :], last, beside()), state)

            def keep(vectors: jax.Array = vectors, state: Carry = state):
                return vectors, state

            vectors, state = jax.lax.cond(within == 0, advance, keep)
            states.append(state)
            last_vectors.append(vectors)
            vector = vectors[:, within // tier.below]
            beside = functools.partial(jnp.asarray, vector)
        features, context = self.context.step(
            self.features.decode(x),
            carry["context"],
            place % self.context.hop == 0,
            plan and plan.predictors,
        )
        outputs = self._next(x[:, -1], features, vector)
        since = carry["since"] + 1
        return outputs, {"tiers": tuple(states), "vectors": tuple(last_vectors), "context": context, "since": since}

    def _seen(
        self, excerpt: jax.Array, since: jax.Array, known: jax.Array | None, conditioning: jax.Array | None
    ) -> jax.Array:
        """What the slowest tier reads beside its frame [..., F]: for the last samples [..., spectrum], the frames since the
        clip began [...], the labels' vectors, and the conditioning, if there is any.
        """
        power = jnp.square(jnp.abs(jnp.fft.rfft(excerpt * hann(self.spectrum, None))))
        level = 0.1 * jnp.log(power + 1e-3)
        angle = 2 * math.pi * since[..., None].astype(jnp.float32) / jnp.asarray(_PERIODS)
        numbers = (level, jnp.sin(angle), jnp.cos(angle), conditioning)
        return concatenate_features(*(None if each is None else each.astype(self.dtype) for each in numbers), known)

    def _next(self, last: jax.Array, features: jax.Array, vector: jax.Array) -> jax.Array:
        """Outputs [..., P] for the last codes [...], the context's features [..., F] and the last tier's vector [..., D]."""
        assert self.first.bias is not None
        by_code, by_features = jnp.split(self.first.kernel[...], [self.embedding.features])
        # What a code adds may be tabled (LPCNet, Valin and Skoglund 2019, section 3.6): less work where there are fewer codes.
        if last.size > self.embedding.num_embeddings:
            code = product(self.embedding.embedding[...], by_code, self.dtype)[self.features.codes(last)]
        else:
            code = product(self._last(last), by_code, self.dtype)
        read = code + product(features, by_features, self.dtype) + self.first.bias[...]
        hidden = jax.nn.relu(self.second(jax.nn.relu(read.astype(self.dtype) + vector)))
        return self.head(hidden)

    def _last(self, steps: jax.Array) -> jax.Array:
        """Vectors [..., E] of codes [...]."""
        return self.embedding(self.features.codes(steps))
