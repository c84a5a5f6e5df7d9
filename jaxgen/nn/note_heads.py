"""What a model of written music draws a frame of notes from: the last layers of the network.

Keys by themselves (Boulanger-Lewandowski et al. 2012 call it RNN), or one note after another within a frame, so that the
likelihood of a chord is exact.
"""

import abc
import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxgen.core.errors import UserError
from jaxgen.core.numerics import random_key
from jaxgen.features import FeatureSpec
from jaxgen.features.chord_frames import Chords
from jaxgen.features.notes import STRUCK, PianoRoll, Voices
from jaxgen.nn.distributions import Categorical, Sampling
from jaxgen.scores.limits import HIGHEST_PITCH, NoteLimits
from jaxgen.scores.rolls import LOWEST_KEY, NUM_KEYS

_NEVER = -1e9
_KEYS = LOWEST_KEY + np.arange(NUM_KEYS)


class NoteHead(nnx.Module):
    """The contract. A frame is drawn from hidden units [..., H] and the frame before it."""

    @abc.abstractmethod
    def log_prob(self, hidden: jax.Array, before: jax.Array, frame: jax.Array) -> jax.Array:
        """Log probability of frames uint8 [..., W] behind the frames `before` in nats, float32 [...]."""

    @abc.abstractmethod
    def noise(self, key: jax.Array) -> jax.Array:
        """The random numbers that one frame takes, float32 [N]."""

    @abc.abstractmethod
    def sample(
        self,
        hidden: jax.Array,
        before: jax.Array,
        noise: jax.Array,
        sampling: Sampling,
        ceiling: jax.Array | int = HIGHEST_PITCH,
    ) -> jax.Array:
        """The frames uint8 [..., W] that `noise` [..., N] picks, within `sampling.limits`.

        ceiling: MIDI pitch [...] of a given voice above all of the frame, which counts where voices may not cross.
        """

    def predict(self, hidden: jax.Array, before: jax.Array) -> jax.Array:
        """The frames that the model would name if it had to."""
        noise = jnp.full((*hidden.shape[:-1], *jax.eval_shape(self.noise, random_key(0)).shape), 0.5)
        return self.sample(hidden, before, noise, _LIKELIEST)


_LIKELIEST = Sampling(temperature=0.0)


class NoteOutput(abc.ABC):
    """Base of the frozen dataclasses that configure a head and build it."""

    @abc.abstractmethod
    def make(self, features: FeatureSpec, hidden_size: int, *, dtype: Any, rngs: nnx.Rngs) -> NoteHead:
        """Raises UserError where the features are not the frames that it draws."""

    def check_limits(self, limits: NoteLimits, features: FeatureSpec) -> None:
        """Raises UserError for limits that such frames cannot keep."""
        if not limits.crossing:
            raise UserError(
                f"{type(self).__name__} draws keys and no voices that could cross; leave out --no-crossing."
            )
        _check_ranges(limits, _KEYS, 1)


def _check_ranges(limits: NoteLimits, pitches: np.ndarray, num_voices: int) -> None:
    """pitches: MIDI pitches [N] that a frame may have."""
    if len(limits.ranges) not in {0, 1, num_voices}:
        expected = "one" if num_voices == 1 else f"one, or {num_voices}, one for each voice"
        raise UserError(f"--range has {len(limits.ranges)} ranges, expected {expected}.")
    if not all(limits.allow(pitches, voice).any() for voice in range(num_voices)):
        raise UserError(
            f"--range and --key leave no note; the model has MIDI pitches {pitches[0]} to {pitches[-1]}. Change --range."
        )


def _require(features: FeatureSpec, kind: type, output: str) -> Any:
    if not isinstance(features, kind):
        raise UserError(
            f"{output} draws frames of {kind.__name__}, but --features is {type(features).__name__}; change one of them."
        )
    return features


@dataclasses.dataclass(frozen=True)
class IndependentKeys(NoteOutput):
    """88 keys that do not know of one another: what most papers report."""

    def make(self, features: FeatureSpec, hidden_size: int, *, dtype: Any, rngs: nnx.Rngs) -> "IndependentKeysHead":
        return IndependentKeysHead(_require(features, PianoRoll, "IndependentKeys"), hidden_size, dtype, rngs)


class IndependentKeysHead(NoteHead):
    """A Bernoulli a key, and where the features tell it one more for whether a key that goes on sounding is struck anew."""

    def __init__(self, features: PianoRoll, hidden_size: int, dtype: Any, rngs: nnx.Rngs):
        self.num_keys, self.onsets = features.step_shape[0], features.onsets
        self.linear = nnx.Linear(hidden_size, self.num_keys * (1 + self.onsets), dtype=dtype, rngs=rngs)

    def log_prob(self, hidden: jax.Array, before: jax.Array, frame: jax.Array) -> jax.Array:
        logits = self.linear(hidden).astype(jnp.float32)
        sounds = frame > 0
        each = _bernoulli(logits[..., : self.num_keys], sounds)
        if self.onsets:
            each += jnp.where(sounds & (before > 0), _bernoulli(logits[..., self.num_keys :], frame == STRUCK), 0.0)
        return each.sum(axis=-1)

    def noise(self, key: jax.Array) -> jax.Array:
        return jax.random.uniform(key, (self.num_keys * (1 + self.onsets),))

    def sample(
        self,
        hidden: jax.Array,
        before: jax.Array,
        noise: jax.Array,
        sampling: Sampling,
        ceiling: jax.Array | int = HIGHEST_PITCH,
    ) -> jax.Array:
        del ceiling
        logits = self.linear(hidden).astype(jnp.float32)
        if sampling.limits:
            kinds = (np.ones(self.num_keys, bool),) * self.onsets
            logits = jnp.where(
                np.concatenate([sampling.limits.allow(_KEYS[: self.num_keys]), *kinds]), logits, -jnp.inf
            )
        drawn = _draw_bernoulli(logits, noise, sampling)
        sounds = drawn[..., : self.num_keys].astype(jnp.uint8)
        if not self.onsets:
            return sounds
        return sounds * (1 + (drawn[..., self.num_keys :] | (before == 0))).astype(jnp.uint8)


@dataclasses.dataclass(frozen=True)
class SortedKeys(NoteOutput):
    """One key after another, lowest first, up to an END: the exact likelihood of a chord in as many steps as it has notes."""

    width: int = 256
    """Hidden units between one key and the next."""

    def make(self, features: FeatureSpec, hidden_size: int, *, dtype: Any, rngs: nnx.Rngs) -> "SortedKeysHead":
        if self.width < 1:
            raise UserError(f"--model.output.width is {self.width}, expected at least 1 hidden unit.")
        return SortedKeysHead(self, _require(features, PianoRoll, "SortedKeys"), hidden_size, dtype, rngs)


class SortedKeysHead(NoteHead):
    """p(frame) = product over its keys in rising order of p(key | keys below, hidden), times p(END | all keys, hidden)."""

    def __init__(self, config: SortedKeys, features: PianoRoll, hidden_size: int, dtype: Any, rngs: nnx.Rngs):
        self.num_keys, self.onsets, self.most = features.step_shape[0], features.onsets, features.most_notes
        self.from_hidden = nnx.Linear(hidden_size, config.width, dtype=dtype, rngs=rngs)
        self.from_keys = nnx.Linear(self.num_keys, config.width, use_bias=False, dtype=dtype, rngs=rngs)
        self.to_key = nnx.Linear(config.width, self.num_keys + 1, dtype=dtype, rngs=rngs)
        self.to_struck = nnx.Linear(config.width, self.num_keys, dtype=dtype, rngs=rngs) if self.onsets else None

    def log_prob(self, hidden: jax.Array, before: jax.Array, frame: jax.Array) -> jax.Array:
        sounds = frame > 0
        count = sounds.sum(axis=-1)
        rank = jnp.cumsum(sounds, axis=-1)  # 1 for the lowest key that sounds
        first = self.from_hidden(hidden)
        keys = jnp.arange(self.num_keys)

        def add(total: jax.Array, place: jax.Array) -> tuple[jax.Array, None]:
            below = sounds & (rank <= place)
            logits, struck = self._next(first, below)
            chosen = jnp.where(sounds & (rank == place + 1), keys, 0).sum(axis=-1)
            target = jnp.where(place < count, chosen, self.num_keys)
            nats = Categorical(self.num_keys + 1).log_prob(logits, target)
            if struck is not None:
                logit = _at(struck, chosen)
                is_struck, went_on = _at(frame, chosen) == STRUCK, _at(before, chosen) > 0
                nats += jnp.where((place < count) & went_on, _bernoulli(logit, is_struck), 0.0)
            return total + jnp.where(place <= count, nats, 0.0), None

        zeros = jnp.zeros(frame.shape[:-1], jnp.float32)
        total, _ = jax.lax.scan(jax.checkpoint(add), zeros, jnp.arange(self.most + 1))
        return total

    def noise(self, key: jax.Array) -> jax.Array:
        return jax.random.uniform(key, ((1 + self.onsets) * self.most,))

    def sample(
        self,
        hidden: jax.Array,
        before: jax.Array,
        noise: jax.Array,
        sampling: Sampling,
        ceiling: jax.Array | int = HIGHEST_PITCH,
    ) -> jax.Array:
        del ceiling
        allowed = np.append(sampling.limits.allow(_KEYS[: self.num_keys]), True)
        first = self.from_hidden(hidden)
        shape = (*hidden.shape[:-1], self.num_keys)

        def add(state: tuple[jax.Array, jax.Array], place: jax.Array) -> tuple[tuple[jax.Array, jax.Array], None]:
            frame, ended = state
            logits, struck = self._next(first, frame > 0)
            logits = jnp.where(allowed, logits, -jnp.inf) if sampling.limits else logits
            key = Categorical(self.num_keys + 1).sample(logits, noise[..., place, None], sampling)
            ended |= key == self.num_keys
            value = jnp.ones(shape[:-1], jnp.uint8)
            if struck is not None:
                chosen = jnp.minimum(key, self.num_keys - 1)
                drawn = _draw_bernoulli(_at(struck, chosen), noise[..., self.most + place], sampling)
                value += (drawn | (_at(before, chosen) == 0)).astype(jnp.uint8)
            there = jax.nn.one_hot(key, self.num_keys, dtype=jnp.uint8)
            return (frame + jnp.where(ended[..., None], 0, there * value[..., None]).astype(jnp.uint8), ended), None

        start = jnp.zeros(shape, jnp.uint8), jnp.zeros(shape[:-1], bool)
        return jax.lax.scan(add, start, jnp.arange(self.most))[0][0]

    def _next(self, first: jax.Array, below: jax.Array) -> tuple[jax.Array, jax.Array | None]:
        """Logits of the next key or END [..., 89], and of whether it is struck [..., 88], above the keys `below` [..., 88]."""
        between = jax.nn.relu(first + self.from_keys(below.astype(first.dtype)))
        highest = jnp.where(below, jnp.arange(1, self.num_keys + 1), 0).max(axis=-1)
        possible = jnp.arange(self.num_keys + 1) >= highest[..., None]
        logits = jnp.where(possible, self.to_key(between).astype(jnp.float32), _NEVER)
        return logits, None if self.to_struck is None else self.to_struck(between).astype(jnp.float32)


@dataclasses.dataclass(frozen=True)
class VoiceByVoice(NoteOutput):
    """One voice after another, each knowing those before it in the frame."""

    width: int = 256
    """Hidden units between one voice and the next."""

    def check_limits(self, limits: NoteLimits, features: FeatureSpec) -> None:
        voices = _require(features, Voices, "VoiceByVoice")
        _check_ranges(limits, voices.lowest + np.arange(voices.num_pitches), voices.step_shape[0])

    def make(self, features: FeatureSpec, hidden_size: int, *, dtype: Any, rngs: nnx.Rngs) -> "VoiceByVoiceHead":
        return VoiceByVoiceHead(self, _require(features, Voices, "VoiceByVoice"), hidden_size, dtype, rngs)


class VoiceByVoiceHead(NoteHead):
    """p(frame) = product over voices of p(rest, pitch or HOLD | voices above, hidden); nothing is held behind a rest."""

    def __init__(self, config: VoiceByVoice, features: Voices, hidden_size: int, dtype: Any, rngs: nnx.Rngs):
        self.features, self.num_voices = features, features.step_shape[0]
        self.hold = 1 + features.num_pitches
        self.from_hidden = nnx.List(
            [nnx.Linear(hidden_size, config.width, dtype=dtype, rngs=rngs) for _ in range(self.num_voices)]
        )
        self.from_voices = nnx.List(
            [
                nnx.Linear(voice * (2 + features.num_pitches), config.width, use_bias=False, dtype=dtype, rngs=rngs)
                for voice in range(1, self.num_voices)
            ]
        )
        self.to_symbol = nnx.List(
            [nnx.Linear(config.width, self.hold + 1, dtype=dtype, rngs=rngs) for _ in range(self.num_voices)]
        )

    def log_prob(self, hidden: jax.Array, before: jax.Array, frame: jax.Array) -> jax.Array:
        goes_on = (frame > 0) & (frame % 2 == 0)
        symbols = jnp.where(goes_on, self.hold, self.features.places(frame))
        each = [
            Categorical(self.hold + 1).log_prob(self._logits(hidden, before, frame[..., :voice]), symbols[..., voice])
            for voice in range(self.num_voices)
        ]
        return sum(each, start=jnp.zeros(frame.shape[:-1]))

    def noise(self, key: jax.Array) -> jax.Array:
        return jax.random.uniform(key, (self.num_voices,))

    def sample(
        self,
        hidden: jax.Array,
        before: jax.Array,
        noise: jax.Array,
        sampling: Sampling,
        ceiling: jax.Array | int = HIGHEST_PITCH,
    ) -> jax.Array:
        frame = jnp.zeros((*hidden.shape[:-1], 0), jnp.uint8)
        for voice in range(self.num_voices):
            logits = self._logits(hidden, before, frame)
            if sampling.limits:
                allowed = self._allowed(sampling.limits, voice, before[..., voice], ceiling)
                logits = jnp.where(allowed, logits, -jnp.inf)
            symbol = Categorical(self.hold + 1).sample(logits, noise[..., voice, None], sampling)
            held = 2 * self.features.places(before[..., voice])
            code = jnp.where(symbol == self.hold, held, jnp.where(symbol > 0, 2 * symbol - 1, 0))
            frame = jnp.concatenate([frame, code[..., None].astype(jnp.uint8)], axis=-1)
            ceiling = jnp.where(code > 0, self.features.lowest + self.features.places(code) - 1, ceiling)
        return frame

    def _allowed(self, limits: NoteLimits, voice: int, before: jax.Array, ceiling: jax.Array | int) -> jax.Array:
        """Symbols of a voice that may be drawn, bool [..., K]: a rest always; no note is held that may not begin.

        before: its codes [...] of the frame before. ceiling: pitch [...] of the next voice above that sounds.
        """
        pitches = self.features.lowest + np.arange(self.features.num_pitches)
        notes = jnp.broadcast_to(limits.allow(pitches, voice), (*before.shape, len(pitches)))
        if not limits.crossing:
            notes &= pitches <= jnp.asarray(ceiling)[..., None]
        fresh = jnp.concatenate([jnp.ones((*before.shape, 1), bool), notes], axis=-1)
        return jnp.concatenate([fresh, _at(fresh, self.features.places(before))[..., None]], axis=-1)

    def _logits(self, hidden: jax.Array, before: jax.Array, above: jax.Array) -> jax.Array:
        """Logits [..., K] of the voice below those of `above` [..., any number]."""
        voice = above.shape[-1]
        between = self.from_hidden[voice](hidden)
        if voice:
            between = between + self.from_voices[voice - 1](self.features.as_inputs(above).astype(between.dtype))
        logits = self.to_symbol[voice](jax.nn.relu(between)).astype(jnp.float32)
        may_hold = (jnp.arange(self.hold + 1) < self.hold) | (before[..., voice, None] > 0)
        return jnp.where(may_hold, logits, _NEVER)


@dataclasses.dataclass(frozen=True)
class RootThenQuality(NoteOutput):
    """The root of a chord, then its quality."""

    def check_limits(self, limits: NoteLimits, features: FeatureSpec) -> None:
        if limits:
            raise UserError("RootThenQuality draws chords and no notes; leave out --range, --no-crossing and --key.")

    def make(self, features: FeatureSpec, hidden_size: int, *, dtype: Any, rngs: nnx.Rngs) -> "RootThenQualityHead":
        return RootThenQualityHead(_require(features, Chords, "RootThenQuality"), hidden_size, dtype, rngs)


class RootThenQualityHead(NoteHead):
    """p(chord) = p(root | hidden) p(quality | root, hidden); no chord has no quality."""

    def __init__(self, features: Chords, hidden_size: int, dtype: Any, rngs: nnx.Rngs):
        self.num_qualities = len(features.qualities)
        self.to_root = nnx.Linear(hidden_size, 13, dtype=dtype, rngs=rngs)
        self.to_quality = nnx.Linear(hidden_size, 13 * self.num_qualities, dtype=dtype, rngs=rngs)

    def log_prob(self, hidden: jax.Array, before: jax.Array, frame: jax.Array) -> jax.Array:
        root, quality = frame[..., 0].astype(jnp.int32), frame[..., 1].astype(jnp.int32)
        nats = Categorical(13).log_prob(self.to_root(hidden).astype(jnp.float32), root)
        of_root = Categorical(self.num_qualities).log_prob(self._qualities(hidden, root), quality)
        return nats + jnp.where(root > 0, of_root, 0.0)

    def noise(self, key: jax.Array) -> jax.Array:
        return jax.random.uniform(key, (2,))

    def sample(
        self,
        hidden: jax.Array,
        before: jax.Array,
        noise: jax.Array,
        sampling: Sampling,
        ceiling: jax.Array | int = HIGHEST_PITCH,
    ) -> jax.Array:
        root = Categorical(13).sample(self.to_root(hidden).astype(jnp.float32), noise[..., :1], sampling)
        logits = self._qualities(hidden, root)
        quality = Categorical(self.num_qualities).sample(logits, noise[..., 1:], sampling)
        return jnp.stack([root, jnp.where(root > 0, quality, 0)], axis=-1).astype(jnp.uint8)

    def _qualities(self, hidden: jax.Array, root: jax.Array) -> jax.Array:
        """Logits [..., Q] of the qualities of a root [...]."""
        each = self.to_quality(hidden).astype(jnp.float32)
        each = each.reshape(*hidden.shape[:-1], 13, self.num_qualities)
        return jnp.take_along_axis(each, root[..., None, None], axis=-2)[..., 0, :]


def _at(values: jax.Array, places: jax.Array) -> jax.Array:
    """The value [...] of [..., N] at each of the places [...]."""
    return jnp.take_along_axis(values, places[..., None], axis=-1)[..., 0]


def _bernoulli(logits: jax.Array, event: jax.Array) -> jax.Array:
    """Log probability in nats of events, bool [...]."""
    return jax.nn.log_sigmoid(jnp.where(event, logits, -logits))


def _draw_bernoulli(logits: jax.Array, noise: jax.Array, sampling: Sampling) -> jax.Array:
    """Events, bool [...], that uniform noise [...] picks; at temperature 0 the likelier ones."""
    if sampling.temperature == 0:
        return logits > 0
    return noise < jax.nn.sigmoid(logits / sampling.temperature)
