"""Frames of notes: what a model sees of written music, and the way back to a score and to sound."""

import dataclasses
import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from jaxgen.core.errors import UserError
from jaxgen.features.spec import FeatureSpec, require
from jaxgen.scores.files import read_scores
from jaxgen.scores.render import render_blocks
from jaxgen.scores.rolls import HOLD, NUM_KEYS, REST, fill_holds, from_roll, from_voices, to_roll, to_voices
from jaxgen.scores.score import (
    Score,
    ScoreError,
    Tempo,
    TimeSignature,
    join,
    make_notes,
    quantise,
    select_tracks,
    without_notes,
)

SILENT, SOUNDING, STRUCK = 0, 1, 2
"""What a key of a piano roll does in a frame."""

OFFSETS = (0, -1, 1, -2, 2, -3, 3, -4, 4, -5, 5, 6)
"""Semitones by which a variant moves a piece: all keys, the nearest ones first."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ScoreSpec(FeatureSpec):
    """Frames of notes on a grid of time. Subclasses: `PianoRoll`, `Voices`."""

    sample_rate: int = 44_100
    """Hz of the sound that is made of them."""
    channels: int = 2
    """Channels of the sound: 2 for stereo, 1 for their mean."""
    frames_per_quarter: int = 4
    """Frames of a quarter note: 4 for sixteenths; more follow rhythm more finely, and are more to learn."""
    quarters_per_minute: float = 100.0
    """Tempo of the sound, where no prompt or melody states another."""
    quarters_per_bar: int = 4
    """Quarter notes of a bar, as --bars counts them, where no prompt or melody states a metre."""
    transpositions: int = 12
    """Keys that training shows each piece in, the nearest ones first: 12 for all; 1 shows it as it is written."""

    step_unit: ClassVar[str] = "frame"
    is_symbolic: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            1 <= self.frames_per_quarter <= 96,
            f"features.frames_per_quarter is {self.frames_per_quarter}, expected 1 to 96.",
        )
        require(
            1 <= self.quarters_per_bar <= 64,
            f"features.quarters_per_bar is {self.quarters_per_bar}, expected 1 to 64.",
        )
        require(
            1 <= self.transpositions <= len(OFFSETS),
            f"features.transpositions is {self.transpositions}, expected 1 to {len(OFFSETS)}.",
        )
        require(
            4 <= self.quarters_per_minute <= 1_000,
            f"features.quarters_per_minute is {self.quarters_per_minute:g}, expected 4 to 1,000.",
        )

    @property
    def hop_length(self) -> int:
        return max(1, round(self.sample_rate * 60 / (self.quarters_per_minute * self.frames_per_quarter)))

    @property
    def grid(self) -> int:
        """Places of a quarter note that the notes of a score are put on."""
        return self.frames_per_quarter

    @property
    def frames_per_bar(self) -> int:
        """Frames of a bar."""
        return self.frames_per_quarter * self.quarters_per_bar

    @property
    def num_variants(self) -> int:
        return self.transpositions

    def num_steps(self, num_samples: int) -> int:
        return -(-num_samples // self.hop_length)

    def num_samples(self, num_steps: int) -> int:
        return num_steps * self.hop_length

    def num_samples_seen(self, num_steps: int) -> int:
        return num_steps * self.hop_length

    def encode(self, samples: jax.Array | np.ndarray) -> jax.Array:
        raise UserError(
            f"{type(self).__name__} are frames of written music, and this is sound; pass a folder of MIDI files, or use "
            "LogMel features."
        )

    def encode_score(self, score: Score) -> NDArray[np.uint8]:
        """Frames uint8 [T, *step_shape] of a score whose notes are on the grid. Raises ScoreError where they do not fit."""
        raise NotImplementedError

    def decode_score(self, steps: NDArray[np.uint8]) -> Score:
        """The score of frames [T, *step_shape], at the features' tempo and metre."""
        raise NotImplementedError

    def moved(self, steps: np.ndarray, semitones: int) -> np.ndarray:
        """Frames uint8 [T, *step_shape], up to an octave higher or lower; notes that would leave the features' range are an
        octave nearer, or left out where that is out of range, too.
        """
        raise NotImplementedError

    def vary(self, steps: np.ndarray, variant: int) -> np.ndarray:
        return self.moved(steps, OFFSETS[variant])

    def begin_notes(self, steps: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Frames [..., T, W] in which each note that goes on from none begins instead, as where pieces were put together."""
        return steps

    @property
    def num_inputs(self) -> int:
        """Numbers of a frame for a network, D of `as_inputs`."""
        raise NotImplementedError

    def as_inputs(self, steps: jax.Array) -> jax.Array:
        """Frames uint8 [..., W] as zeros and ones for a network, float32 [..., D]."""
        raise NotImplementedError

    def changes(self, steps: jax.Array, before: jax.Array) -> jax.Array:
        """Where a note begins or ends between two frames [..., W], bool [..., W]."""
        raise NotImplementedError

    def decode(self, steps: jax.Array | np.ndarray) -> jax.Array:
        rows = np.asarray(steps).reshape(-1, *np.shape(steps)[-1 - len(self.step_shape) :])
        sound = np.stack(self.decode_clips(list(rows)))
        return jnp.asarray(sound.reshape(*np.shape(steps)[: -1 - len(self.step_shape)], *sound.shape[1:]))

    def decode_clips(self, clips: Sequence[np.ndarray]) -> list[np.ndarray]:
        return [np.concatenate(list(self._sound(clip))) for clip in clips]

    def decode_blocks(self, blocks: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        """See `FeatureSpec`. A note's sound depends on how long it lasts, so the frames are gathered first: they are small."""
        rows = np.concatenate(list(blocks), axis=1)
        yield from map(np.stack, zip(*map(self._sound, rows), strict=True))

    def _sound(self, steps: np.ndarray) -> Iterator[np.ndarray]:
        """Samples float32 [any number, *sample_shape] of frames [T, *step_shape], num_samples(T) in all."""
        return self.perform(self.decode_score(steps), self.num_samples(len(steps)))

    def perform(self, score: Score, num_samples: int) -> Iterator[np.ndarray]:
        """The sound of a score, float32 [any number, *sample_shape] a block, `num_samples` in all."""
        silence = itertools.repeat(np.zeros((1 << 13, 2), np.float32))
        for block in itertools.chain(render_blocks(score, self.sample_rate), silence):
            part = block[:num_samples]
            yield part if self.channels == 2 else part.mean(axis=1)
            num_samples -= len(part)
            if num_samples <= 0:
                return

    def read_score(self, path: str) -> tuple[Score, str]:
        """The first piece in a file, on the grid of frames; and what that changes of its rhythm in a line, or nothing.

        Raises ScoreError where there is none.
        """
        found = read_scores(path)[0][1]
        if isinstance(found, ScoreError):
            raise found
        score, error = quantise(found.score, (self.grid,))
        told = (
            f"{self.grid} places a quarter, which the model was trained with, change the rhythm of '{path}': "
            f"{error.shifted_share:.0%} of its notes begin up to {error.largest_shift:.2f} quarters off."
        )
        return score, told if error.shifted_share else ""

    def timing(self, score: Score | None = None) -> Score:
        """Tempi and metres, and keys and texts, of a score on the grid, without its notes; what it does not state, and without
        one, is that of the features.
        """
        own = Score(
            make_notes([], [], []),
            self.grid,
            0,
            (),
            (Tempo(0, round(60e6 / self.quarters_per_minute)),),
            (TimeSignature(0, self.quarters_per_bar, 4),),
        )
        if score is None:
            return own
        return dataclasses.replace(
            without_notes(score),
            tempi=score.tempi or own.tempi,
            time_signatures=score.time_signatures or own.time_signatures,
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class PianoRoll(ScoreSpec):
    """Which of 88 keys sound: uint8 [88] a frame, 0 silent, 1 sounding, 2 struck anew in this frame."""

    onsets: bool = True
    """Whether a held note is told from a repeated one; without it no key is ever 2."""
    most_notes: int = 16
    """Keys that may sound in a frame; a piece with more is refused."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            1 <= self.most_notes <= NUM_KEYS, f"features.most_notes is {self.most_notes}, expected 1 to {NUM_KEYS}."
        )

    @property
    def step_shape(self) -> tuple[int, ...]:
        return (NUM_KEYS,)

    @property
    def step_dtype(self) -> np.dtype:
        return np.dtype(np.uint8)

    def silence(self) -> np.ndarray:
        return np.zeros(NUM_KEYS, np.uint8)

    def encode_score(self, score: Score) -> NDArray[np.uint8]:
        try:
            roll = to_roll(score, self.frames_per_quarter)
        except UserError as error:
            raise ScoreError(str(error).partition(";")[0].rstrip(".")) from None
        if (most := int(roll.sounding.sum(axis=1).max(initial=0))) > self.most_notes:
            raise ScoreError(f"{most} notes at a time, expected at most --features.most-notes {self.most_notes}")
        return (roll.sounding.astype(np.uint8) + (roll.onsets & roll.sounding & self.onsets)).astype(np.uint8)

    def decode_score(self, steps: NDArray[np.uint8]) -> Score:
        onsets = steps == STRUCK if self.onsets else None
        return join([self.timing(), from_roll(steps > SILENT, onsets, self.frames_per_quarter)])

    @property
    def num_inputs(self) -> int:
        return NUM_KEYS * (1 + self.onsets)

    def as_inputs(self, steps: jax.Array) -> jax.Array:
        kinds = [steps > SILENT, steps == STRUCK] if self.onsets else [steps > SILENT]
        return jnp.concatenate(kinds, axis=-1).astype(jnp.float32)

    def begin_notes(self, steps: NDArray[np.uint8]) -> NDArray[np.uint8]:
        from_none = (steps == SOUNDING) & (_before(steps) == SILENT) & self.onsets
        return np.where(from_none, STRUCK, steps).astype(np.uint8)

    def changes(self, steps: jax.Array, before: jax.Array) -> jax.Array:
        return ((steps > SILENT) != (before > SILENT)) | (steps == STRUCK)

    def moved(self, steps: np.ndarray, semitones: int) -> np.ndarray:
        keys = np.arange(NUM_KEYS) + semitones
        keys = np.where(keys < 0, keys + 12, np.where(keys >= NUM_KEYS, keys - 12, keys))  # the octave inside the piano
        moved = np.zeros_like(steps)
        for key in np.flatnonzero(steps.any(axis=0)):
            moved[:, keys[key]] = np.maximum(moved[:, keys[key]], steps[:, key])
        return moved


@dataclasses.dataclass(frozen=True, kw_only=True)
class Voices(ScoreSpec):
    """One pitch a voice: uint8 [V] a frame, 0 for a rest.

    Pitch p above the lowest is 1 + 2 p in the frame where it begins, and 2 + 2 p where it goes on.
    """

    names: tuple[str, ...] = ("soprano", "alto", "tenor", "bass")
    """The voices, highest first: the tracks of a score."""
    lowest: int = 33
    """Lowest MIDI pitch; 60 is middle C."""
    highest: int = 90
    """Highest MIDI pitch."""
    tracks: tuple[int, ...] = ()
    """Tracks of a score that the voices are, from 0 on; none takes all. A model that accompanies a melody leaves that out."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            0 <= self.lowest < self.highest <= 127 and bool(self.names),
            f"features.lowest is {self.lowest} and features.highest {self.highest}, of {len(self.names)} voices; expected MIDI "
            "pitches from 0 to 127, the lowest first, and at least one voice.",
        )
        require(
            self.num_pitches <= 127,
            f"features.lowest is {self.lowest} and features.highest {self.highest}, expected at most 127 pitches.",
        )

    @property
    def num_pitches(self) -> int:
        """Pitches that a voice may have."""
        return 1 + self.highest - self.lowest

    @property
    def step_shape(self) -> tuple[int, ...]:
        return (len(self.names),)

    @property
    def step_dtype(self) -> np.dtype:
        return np.dtype(np.uint8)

    def silence(self) -> np.ndarray:
        return np.zeros(len(self.names), np.uint8)

    def encode_score(self, score: Score) -> NDArray[np.uint8]:
        tracks = self.tracks or range(len(score.tracks))
        if len(tracks) != len(self.names) or max(tracks, default=0) >= len(score.tracks):
            raise ScoreError(
                f"{len(score.tracks)} tracks, expected {len(self.names)} voices; name --features.tracks, or start from "
                "configs/tunes.py, which takes any music"
            )
        score = select_tracks(score, tracks)
        try:
            voices = to_voices(score, self.frames_per_quarter)
        except UserError as error:
            raise ScoreError(str(error).partition(";")[0].rstrip(".")) from None
        pitches = voices[voices >= 0]
        if len(pitches) and not self.lowest <= pitches.min() <= pitches.max() <= self.highest:
            raise ScoreError(
                f"pitches {pitches.min()} to {pitches.max()}, expected {self.lowest} to {self.highest}; change "
                "--features.lowest or --features.highest"
            )
        codes = 1 + 2 * (fill_holds(voices).astype(np.int64) - self.lowest) + (voices == HOLD)
        return np.where(fill_holds(voices) == REST, 0, codes).astype(np.uint8)

    def decode_score(self, steps: NDArray[np.uint8]) -> Score:
        codes = np.asarray(steps, np.int64)
        before = np.concatenate([np.zeros_like(codes[:1]), codes[:-1]])
        goes_on = (codes > 0) & (codes % 2 == 0) & ((before + 1) // 2 == codes // 2)
        pitches = (codes - 1) // 2 + self.lowest
        voices = np.where(codes == 0, REST, np.where(goes_on, HOLD, pitches))
        return join([self.timing(), from_voices(voices, self.frames_per_quarter, self.names)])

    @property
    def num_inputs(self) -> int:
        return len(self.names) * (2 + self.num_pitches)

    def as_inputs(self, steps: jax.Array) -> jax.Array:
        pitches = jax.nn.one_hot(self.places(steps), 1 + self.num_pitches)
        goes_on = (steps > 0) & (steps % 2 == 0)
        return jnp.concatenate([pitches.reshape(*steps.shape[:-1], -1), goes_on.astype(jnp.float32)], axis=-1)

    def places(self, steps: jax.Array) -> jax.Array:
        """Which pitch sounds, int32 [..., V] from 1 on; 0 for a rest."""
        return (steps.astype(jnp.int32) + 1) // 2

    def begin_notes(self, steps: NDArray[np.uint8]) -> NDArray[np.uint8]:
        goes_on = (steps > 0) & (steps % 2 == 0)
        from_none = goes_on & ((_before(steps) + 1) // 2 != steps // 2)
        return (steps - from_none).astype(np.uint8)

    def changes(self, steps: jax.Array, before: jax.Array) -> jax.Array:
        return (steps % 2 == 1) | ((steps == 0) & (before > 0))

    def moved(self, steps: np.ndarray, semitones: int) -> np.ndarray:
        moved = steps.astype(np.int64) + 2 * semitones
        moved = np.where(moved < 1, moved + 24, np.where(moved > 2 * self.num_pitches, moved - 24, moved))
        inside = (moved >= 1) & (
            moved <= 2 * self.num_pitches
        )  # a range of less than an octave may have no place for it
        return np.where((steps == 0) | ~inside, 0, moved).astype(np.uint8)


def _before(steps: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The frame before each [..., T, W]; silence before the first."""
    return np.concatenate([np.zeros_like(steps[..., :1, :]), steps[..., :-1, :]], axis=-2)
