"""Chords, frame by frame: what accompanies a melody in folk tunes and songs."""

import collections
import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from jaxgen.features.notes import ScoreSpec
from jaxgen.features.spec import require
from jaxgen.scores.chords import QUALITIES, Chord, chord_notes, match_chord
from jaxgen.scores.score import Score, ScoreError, Track, ends, join, make_notes, select_tracks

_GUITAR = 24  # program: nylon strings


@dataclasses.dataclass(frozen=True, kw_only=True)
class Chords(ScoreSpec):
    """The chord of each frame: uint8 [2], its root from 1 for C on, 0 for no chord; and the place of its quality."""

    frames_per_quarter: int = 2
    """Frames of a quarter note: 2 for a chord each eighth, so that beats of dotted quarters are told."""
    places_per_frame: int = 2
    """Places of a frame on which notes of a melody may begin: 2 for sixteenths, where frames are eighths."""
    track: int = 1
    """Track of the training scores that has the chords; 0 is the first."""
    qualities: tuple[str, ...] = ("", "m", "7", "m7", "maj7", "dim", "aug")
    """Chords that are told apart, by what is written behind their root; others count as the one with most notes in common."""

    def __post_init__(self) -> None:
        super().__post_init__()
        unknown = [quality for quality in self.qualities if quality not in QUALITIES]
        require(
            bool(self.qualities) and not unknown,
            f"features.qualities has {unknown[:1] or 'nothing'}, expected some of {', '.join(map(repr, QUALITIES))}.",
        )
        require(
            1 <= self.places_per_frame <= 96,
            f"features.places_per_frame is {self.places_per_frame}, expected 1 to 96.",
        )

    @property
    def grid(self) -> int:
        return self.frames_per_quarter * self.places_per_frame

    @property
    def step_shape(self) -> tuple[int, ...]:
        return (2,)

    @property
    def step_dtype(self) -> np.dtype:
        return np.dtype(np.uint8)

    def silence(self) -> np.ndarray:
        return np.zeros(2, np.uint8)

    def encode_score(self, score: Score) -> NDArray[np.uint8]:
        if self.track >= len(score.tracks):
            raise ScoreError(f"{len(score.tracks)} tracks, expected chords in track {self.track} (--features.track)")
        if score.ticks_per_quarter % self.frames_per_quarter:
            raise ScoreError(
                f"{score.ticks_per_quarter} ticks a quarter, expected a multiple of {self.frames_per_quarter}"
            )
        notes = select_tracks(score, [self.track]).notes
        ticks = score.ticks_per_quarter // self.frames_per_quarter
        frames = np.zeros((-(-score.length // ticks), 2), np.uint8)
        begins, stops = notes["onset"] // ticks, -(-ends(notes) // ticks)
        changes = sorted({*begins.tolist(), *stops.tolist()})
        order, last, sounding = np.argsort(stops, kind="stable"), 0, collections.Counter[int]()
        ended, pitches = 0, notes["pitch"].tolist()  # notes are in the order of their onsets
        for frame, following in itertools.pairwise([*changes, len(frames)]):
            while ended < len(order) and stops[order[ended]] <= frame:
                sounding[pitches[order[ended]]] -= 1
                ended += 1
            while last < len(begins) and begins[last] <= frame:
                sounding[pitches[last]] += 1
                last += 1
            chord = match_chord(list(+sounding), self.qualities)
            if chord is not None:
                frames[frame:following] = 1 + chord.root, self.qualities.index(chord.quality)
        return frames

    def decode_score(self, steps: NDArray[np.uint8]) -> Score:
        codes = np.asarray(steps, np.int64)
        starts = np.flatnonzero(np.any(np.diff(codes, axis=0, prepend=-1) != 0, axis=1))
        parts, ticks = [make_notes([], [], [])], self.places_per_frame
        for first, stop in itertools.pairwise([*starts.tolist(), len(codes)]):
            root, quality = codes[first].tolist()
            if root:
                chord = Chord(root - 1, self.qualities[quality], root - 1)
                parts.append(chord_notes(chord, first * ticks, (stop - first) * ticks, 0))
        score = Score(np.concatenate(parts), self.grid, len(codes) * ticks, (Track("chords", _GUITAR),))
        return join([self.timing(), score])

    @property
    def num_inputs(self) -> int:
        return 13 + len(self.qualities)

    def as_inputs(self, steps: jax.Array) -> jax.Array:
        root, quality = jax.nn.one_hot(steps[..., 0], 13), jax.nn.one_hot(steps[..., 1], len(self.qualities))
        return jnp.concatenate([root, quality], axis=-1)

    def changes(self, steps: jax.Array, before: jax.Array) -> jax.Array:
        changed = jnp.any(steps != before, axis=-1, keepdims=True)
        return jnp.broadcast_to(changed, steps.shape)

    def moved(self, steps: np.ndarray, semitones: int) -> np.ndarray:
        roots = (steps[..., 0].astype(np.int64) - 1 + semitones) % 12 + 1
        return np.stack([np.where(steps[..., 0] == 0, 0, roots), steps[..., 1]], axis=-1).astype(np.uint8)
