"""Frames of notes, one after another: a recurrent network that draws the notes of the next frame together.

The network reads the frame before, frames some beats ago, how long each key or voice has been as it is, and how many frames
have passed, since metre is a matter of counting.
"""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from jaxgen.core.errors import UserError
from jaxgen.data.pipeline import VARIANT
from jaxgen.data.spec import DataSpec
from jaxgen.features import FeatureSpec
from jaxgen.features.notes import ScoreSpec
from jaxgen.models.conditioning import Conditioning, stream_features, stream_sizes
from jaxgen.models.sequence import Carry, SequenceConfig, SequenceModel, concatenate_features
from jaxgen.nn.attention import Past, PastAttention
from jaxgen.nn.distributions import Sampling
from jaxgen.nn.label_embedding import LabelEmbedding, Labels
from jaxgen.nn.note_heads import NoteOutput, SortedKeys
from jaxgen.nn.position import count_steps
from jaxgen.nn.recurrent import LSTM, Cell, Stack
from jaxgen.scores.limits import HIGHEST_PITCH, NoteLimits

_LONGEST_AGE = 64  # frames; what is older is as old


@dataclasses.dataclass(frozen=True)
class ScoreRNN(SequenceConfig):
    """A recurrent network over frames of notes."""

    cell: Cell = LSTM(hidden_size=256)
    """The recurrence: RNN, LSTM, GRU, MinGRU, MinLSTM or RGLRU."""
    num_layers: int = 2
    """Recurrent layers, one above the other."""
    residual: bool = True
    """Add each layer's input to its output, from the second layer on."""
    dropout: float = 0.3
    """Variational dropout: share of units switched off for a whole chunk. More keeps a model of few pieces from learning
    them by heart."""
    weight_drop: float = 0.0
    """Share of the weights between hidden states switched off for a whole chunk (DropConnect; Merity et al. 2018)."""
    output: NoteOutput = SortedKeys()
    """How the notes of a frame are drawn: IndependentKeys, SortedKeys or VoiceByVoice."""
    lags: tuple[int, ...] = (4, 8, 16)
    """Frames ago that are read beside the last one: a beat, a bar and more, for what repeats."""
    attention: int = 0
    """Steps of its own past in which the model looks for what followed where it was as now; 0 for none. Tunes repeat."""
    attention_heads: int = 4
    """Heads of that attention; they divide the units of the cell."""
    periods: tuple[int, ...] = (2, 3, 4, 8, 12, 16)
    """Frames that metre may count to: the network is told where in each of them the next frame is."""
    labels: tuple[str, ...] = ()
    """Label fields that condition the model."""
    label_size: int = 16
    """Features a label is embedded into."""
    label_dropout: float = 0.1
    """Share of clips trained with labels unknown."""
    aligned_streams: tuple[str, ...] = ()
    """Streams of which each step reads its own value, such as how many frames are left. A clip is as long as they are."""
    context_streams: tuple[str, ...] = ()
    """Streams that are read as a whole, in both directions, before the first frame: a melody that is to be accompanied."""
    context_cell: Cell = LSTM(hidden_size=128)
    """The recurrence that reads them."""

    ends_clips = False

    def __post_init__(self) -> None:
        if not all(1 <= lag <= 10_000 for lag in self.lags):
            raise UserError(f"--model.lags is {self.lags}, expected frames from 1 to 10,000.")
        if self.attention < 0:
            raise UserError(f"--model.attention is {self.attention}, expected a number of steps, or 0 for none.")
        if not all(period >= 2 for period in self.periods):
            raise UserError(f"--model.periods is {self.periods}, expected at least 2 frames each.")

    @property
    def lookback(self) -> int:
        return max((2, *self.lags))

    def check_limits(self, limits: NoteLimits, features: FeatureSpec) -> None:
        self.output.check_limits(limits, features)

    def make(self, data: DataSpec, *, dtype: Any = jnp.float32, rngs: nnx.Rngs) -> "ScoreModule":
        """Raises UserError where the features are not frames of notes."""
        if not isinstance(data.features, ScoreSpec):
            raise UserError(
                f"ScoreRNN models written music, but the features are {type(data.features).__name__}; use PianoRoll or "
                "Voices, and a data set of scores."
            )
        return ScoreModule(self, data, data.features, dtype, rngs)


class ScoreModule(SequenceModel):
    """The module that `ScoreRNN` configures. Its outputs are hidden units, from which the head draws a frame, the frame before,
    and the pitch of a given voice above. The carry knows how long each key or voice has been as it is, and the frames since the
    clip began.
    """

    def __init__(self, config: ScoreRNN, data: DataSpec, features: ScoreSpec, dtype: Any, rngs: nnx.Rngs):
        self.lookback, self.lags, self.labels, self.dtype = config.lookback, config.lags, config.labels, dtype
        self.periods, self.dropout, self.features = config.periods, config.dropout, features
        self.width = features.step_shape[0]
        self.voices = tuple((name, stream) for name, stream in data.streams if name in config.streams)
        self.aligned = stream_sizes(data, config.aligned_streams)
        self.context = stream_sizes(data, config.context_streams)
        self.readers = nnx.Dict(
            {
                f"{name}_{way}": Stack(
                    config.context_cell,
                    1,
                    size,
                    dropout=config.dropout,
                    weight_drop=config.weight_drop,
                    dtype=dtype,
                    rngs=rngs,
                )
                for name, size in self.context.items()
                for way in ("forward", "backward")
            }
        )
        self.aligned |= {f"{name} read": 2 * config.context_cell.hidden_size for name in self.context}
        self.aligned |= self.context
        self.condition = LabelEmbedding(
            data, config.labels, config.label_size, dropout=config.label_dropout, dtype=dtype, rngs=rngs
        )
        self.stack = Stack(
            config.cell,
            config.num_layers,
            (1 + len(config.lags)) * features.num_inputs
            + self.width
            + 2 * len(config.periods)
            + (features.num_variants if features.num_variants > 1 else 0)
            + sum(self.aligned.values())
            + self.condition.num_features,
            residual=config.residual,
            dropout=config.dropout,
            weight_drop=config.weight_drop,
            dtype=dtype,
            rngs=rngs,
        )
        self.attention = (
            PastAttention(
                config.attention,
                config.attention_heads,
                config.cell.hidden_size,
                features.num_inputs,
                dtype=dtype,
                rngs=rngs,
            )
            if config.attention
            else None
        )
        self.head = config.output.make(features, config.cell.hidden_size, dtype=dtype, rngs=rngs)

    def init_carry(self, batch_size: int) -> Carry:
        return {
            "stack": self.stack.init_carry(batch_size),
            "age": jnp.zeros((batch_size, self.width), jnp.int32),
            "since": jnp.zeros(batch_size, jnp.int32),
            "past": {} if self.attention is None else self.attention.init_carry(batch_size),
        }

    def encode_context(self, conditioning: Conditioning, key: jax.Array | None = None) -> Conditioning:
        """Puts what is read of each stream, in both directions, beside the frames, and the stream itself."""
        aligned = dict(conditioning.aligned)
        for place, (name, size) in enumerate(self.context.items()):
            context = conditioning.context[name]
            values, mask = stream_features(context.values, size, 2), jnp.asarray(context.mask)
            before = after = None
            if key is not None:
                before, after = jax.random.split(jax.random.fold_in(key, place))
            forward = self._read(f"{name}_forward", values, mask, before)
            backward = self._read(f"{name}_backward", values[:, ::-1], mask[:, ::-1], after)
            aligned[f"{name} read"] = jnp.concatenate([forward, backward[:, ::-1]], axis=-1)
            aligned[name] = context.values
        return dataclasses.replace(conditioning, aligned=aligned)

    def _read(self, reader: str, values: jax.Array, mask: jax.Array, key: jax.Array | None) -> jax.Array:
        """Hidden units [B, N, H] at each of N values, which starts anew at the first that is real."""
        stack = self.readers[reader]
        first = mask & ~jnp.pad(mask, ((0, 0), (1, 0)))[:, :-1]
        return stack.unroll(values, stack.init_carry(len(values)), first, key)[0]

    def unroll(
        self, x: jax.Array, conditioning: Conditioning, carry: Carry, reset: jax.Array, key: jax.Array | None = None
    ) -> tuple[jax.Array, Carry]:
        labels, dropout_key, output_key = conditioning.static, None, None
        if key is not None:
            label_key, dropout_key, output_key = jax.random.split(key, 3)
            labels = self.condition.drop(labels, reset, label_key)
        inputs, counts = self._inputs(x, labels, conditioning, carry, reset)
        hidden, stack = self.stack.unroll(inputs, carry["stack"], reset, dropout_key)
        before = x[:, self.lookback - 1 : -1]
        hidden, past = self._look_back(hidden, before, count_steps(reset, carry["since"]), carry["past"])
        if output_key is not None and self.dropout:
            keep = 1 - self.dropout
            mask = jax.random.bernoulli(output_key, keep, (hidden.shape[0], 1, hidden.shape[2]))
            hidden = hidden * (mask / jnp.float32(keep)).astype(hidden.dtype)
        return self._outputs(hidden, before, conditioning), {"stack": stack, "past": past, **counts}

    def step(self, x: jax.Array, conditioning: Conditioning, carry: Carry) -> tuple[jax.Array, Carry]:
        one = conditioning.each_step(lambda values: values[:, None])
        longer = jnp.concatenate([x, x[:, -1:]], axis=1)  # the target's place, which is not read
        inputs, counts = self._inputs(longer, one.static, one, carry, jnp.zeros((len(x), 1), bool))
        hidden, stack = self.stack.step(inputs[:, 0], carry["stack"])
        hidden, past = self._look_back(hidden[:, None], x[:, -1:], carry["since"][:, None], carry["past"])
        return self._outputs(hidden[:, 0], x[:, -1], conditioning), {"stack": stack, "past": past, **counts}

    def log_prob(self, outputs: jax.Array, target: jax.Array, end: jax.Array) -> jax.Array:
        del end
        return self.head.log_prob(*self._split(outputs), target)

    def scores(self, outputs: jax.Array, target: jax.Array, end: jax.Array) -> dict[str, jax.Array]:
        nats = -self.log_prob(outputs, target, end)
        return {"loss": nats, "nats_per_frame": nats}

    def noise(self, key: jax.Array) -> jax.Array:
        return self.head.noise(key)

    def sample(self, outputs: jax.Array, noise: jax.Array, sampling: Sampling) -> tuple[jax.Array, jax.Array]:
        frame = self.head.sample(*self._split(outputs), noise, sampling, outputs[..., -1])
        return frame, jnp.zeros(frame.shape[:-1], bool)

    def predict(self, outputs: jax.Array) -> jax.Array:
        return self.head.predict(*self._split(outputs))

    def _look_back(self, hidden: jax.Array, before: jax.Array, since: jax.Array, past: Past) -> tuple[jax.Array, Past]:
        if self.attention is None:
            return hidden, past
        return self.attention(hidden, self.features.as_inputs(before), since, past)

    def _inputs(
        self, x: jax.Array, labels: Labels, conditioning: Conditioning, carry: Carry, reset: jax.Array
    ) -> tuple[jax.Array, Carry]:
        """What the network reads at each of T steps [B, T, F], and the counts after the last, for x [B, lookback + T, W]."""
        num_steps, place = reset.shape[1], self.lookback
        frames = [x[:, place - lag :][:, :num_steps] for lag in (1, *self.lags)]
        since = count_steps(reset, carry["since"])
        changed = self.features.changes(frames[0], x[:, place - 2 :][:, :num_steps])
        age = count_steps(changed | reset[..., None], carry["age"])
        angle = 2 * math.pi * since[..., None].astype(jnp.float32) / jnp.asarray(self.periods, jnp.float32)
        known = (
            *map(self.features.as_inputs, frames),
            jnp.log1p(jnp.minimum(age, _LONGEST_AGE).astype(jnp.float32)) / math.log1p(_LONGEST_AGE),
            jnp.sin(angle),
            jnp.cos(angle),
            *self._transposition(conditioning),
            *(stream_features(conditioning.aligned[name], size, 2) for name, size in self.aligned.items()),
        )
        inputs = concatenate_features(*(each.astype(self.dtype) for each in known), self.condition(labels))
        return inputs, {"age": age[:, -1] + 1, "since": since[:, -1] + 1}

    def _transposition(self, conditioning: Conditioning) -> list[jax.Array]:
        """By how much the piece was transposed, [B, T, number of ways], where there is more than one way."""
        ways = self.features.num_variants
        return [jax.nn.one_hot(conditioning.static[VARIANT], ways)] if ways > 1 else []

    def _outputs(self, hidden: jax.Array, before: jax.Array, conditioning: Conditioning) -> jax.Array:
        """Of given voices too, the lowest pitch [..., 1] that is above the notes of the frame."""
        ceiling = jnp.full((*hidden.shape[:-1], 1), HIGHEST_PITCH, hidden.dtype)
        for name, stream in self.voices:
            if (own := stream.ceiling(jnp.asarray(conditioning.aligned[name]))) is not None:
                ceiling = jnp.minimum(ceiling, own[..., None].astype(hidden.dtype))
        return concatenate_features(hidden, before.astype(hidden.dtype), ceiling)

    def _split(self, outputs: jax.Array) -> tuple[jax.Array, jax.Array]:
        return outputs[..., : -1 - self.width], outputs[..., -1 - self.width : -1].astype(jnp.uint8)
