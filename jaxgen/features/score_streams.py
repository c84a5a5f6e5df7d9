"""Streams beside frames of notes: how many frames are left, and a melody that is given."""

import dataclasses
import sys
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen.audio import AudioError
from jaxgen.core.errors import UserError
from jaxgen.features.notes import OFFSETS, ScoreSpec, Voices
from jaxgen.features.spec import FeatureSpec, require
from jaxgen.features.streams import Example, StreamSpec
from jaxgen.scores.limits import HIGHEST_PITCH
from jaxgen.scores.score import Score, ScoreError, select_tracks

_MOST_STEPS = 1_000_000


@dataclasses.dataclass(frozen=True)
class Countdown(StreamSpec):
    """How many steps are left, int32: 0 in the last one. A model that reads it ends a clip where it was asked to."""

    most: int = 64
    """Steps that are counted; more are as many."""

    is_aligned: ClassVar[bool] = True

    def __post_init__(self) -> None:
        require(1 <= self.most <= 4_096, f"streams: Countdown counts {self.most} steps, expected 1 to 4,096.")

    @property
    def step_dtype(self) -> np.dtype:
        return np.dtype(np.int32)

    @property
    def num_values(self) -> int:
        return self.most + 1

    def encode_clip(self, example: Example, features: FeatureSpec) -> np.ndarray:
        return self.default(example.num_steps)

    def parse(self, said: str, features: FeatureSpec) -> np.ndarray:
        if not said.isdecimal() or not 1 <= int(said[:9]) <= _MOST_STEPS:
            raise UserError(f"the number of {features.step_unit}s is '{said[:40]}', expected 1 to {_MOST_STEPS:,}.")
        return self.default(int(said))

    def default(self, num_steps: int) -> np.ndarray:
        return np.minimum(np.arange(num_steps)[::-1], self.most).astype(np.int32)


@dataclasses.dataclass(frozen=True)
class Melody(StreamSpec):
    """One voice that is given, int32: the codes of `Voices`."""

    track: int = 0
    """Track of the training scores that it is."""
    lowest: int = 33
    """Lowest MIDI pitch; 60 is middle C."""
    highest: int = 90
    """Highest MIDI pitch."""
    per_frame: int = 1
    """Values of a frame: 2 gives sixteenths beside frames that are eighths."""

    is_aligned: ClassVar[bool] = True

    def __post_init__(self) -> None:
        require(1 <= self.per_frame <= 96, f"streams: Melody has {self.per_frame} values a frame, expected 1 to 96.")
        require(
            0 <= self.lowest < self.highest <= 127 and self.track >= 0,
            f"streams: Melody is track {self.track} from pitch {self.lowest} to {self.highest}, expected a track from 0 on and "
            "MIDI pitches from 0 to 127, the lowest first.",
        )

    @property
    def step_shape(self) -> tuple[int, ...]:
        return () if self.per_frame == 1 else (self.per_frame,)

    @property
    def step_dtype(self) -> np.dtype:
        return np.dtype(np.int32)

    @property
    def num_values(self) -> int:
        return 1 + 2 * (1 + self.highest - self.lowest)

    def encode_clip(self, example: Example, features: FeatureSpec) -> np.ndarray:
        assert example.score is not None
        try:
            codes = self._encode(select_tracks(example.score, [self.track]), features)
        except (ScoreError, IndexError, UserError) as error:
            raise AudioError(f"its melody cannot be used ({error})") from None
        return self._framed(codes, example.num_steps)

    def parse(self, said: str, features: FeatureSpec) -> np.ndarray:
        score, told = self._read(said, features)
        if told:
            print(f"jaxgen: {told}", file=sys.stderr)
        voiced = [track for track in range(len(score.tracks)) if (score.notes["track"] == track).any()]
        try:
            codes = self._encode(select_tracks(score, voiced[:1]), features)
        except ScoreError as error:
            raise self._unusable(said, error) from None
        if not codes.any():
            raise UserError(f"the melody '{said}' has no notes; pass a file of one voice.")
        return self._framed(codes, -(-len(codes) // self.per_frame))

    def read_score(self, said: str, features: FeatureSpec) -> Score:
        return self._read(said, features)[0]

    def written(self, values: np.ndarray, features: FeatureSpec) -> Score:
        return self._voice(features).decode_score(values.reshape(-1, 1).astype(np.uint8))

    def ceiling(self, values: jax.Array) -> jax.Array | None:
        if self.track:
            return None
        pitches = jnp.where(values > 0, (values - 1) // 2 + self.lowest, HIGHEST_PITCH)
        return pitches if self.per_frame == 1 else pitches.min(axis=-1)

    def vary(self, values: np.ndarray, variant: int) -> np.ndarray:
        return self.moved(values, OFFSETS[variant])

    def moved(self, values: np.ndarray, semitones: int) -> np.ndarray:
        voice = Voices(names=("melody",), lowest=self.lowest, highest=self.highest)
        return voice.moved(values.reshape(-1, 1).astype(np.uint8), semitones).reshape(values.shape).astype(np.int32)

    def _framed(self, codes: np.ndarray, num_frames: int) -> np.ndarray:
        """Codes int32 [num_frames, *step_shape], with rests behind their end."""
        count = num_frames * self.per_frame
        return np.pad(codes[:count], (0, max(0, count - len(codes)))).reshape(num_frames, *self.step_shape)

    def _encode(self, score: Score, features: FeatureSpec) -> np.ndarray:
        """Codes int32 [T] of a score of one track, on the grid."""
        return self._voice(features).encode_score(score)[:, 0].astype(np.int32)

    def _read(self, said: str, features: FeatureSpec) -> tuple[Score, str]:
        try:
            return self._voice(features).read_score(said)
        except ScoreError as error:
            raise self._unusable(said, error) from None

    def _unusable(self, said: str, error: ScoreError) -> UserError:
        reason = str(error).partition("; ")[0]  # what may be changed in training does not help here
        return UserError(
            f"the melody '{said}' cannot be used ({reason}); pass a file of one voice, whose pitches are {self.lowest} to "
            f"{self.highest}."
        )

    def _voice(self, features: FeatureSpec) -> Voices:
        if not isinstance(features, ScoreSpec):
            raise UserError("Melody is of written music, and the features are of sound; leave it out of the streams.")
        return Voices(
            names=("melody",),
            lowest=self.lowest,
            highest=self.highest,
            frames_per_quarter=features.frames_per_quarter * self.per_frame,
            quarters_per_minute=features.quarters_per_minute,
        )
