"""Scores as arrays on a time grid, for models and pictures: piano rolls, and one pitch a voice. And back."""

import dataclasses
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jaxgen.core.errors import UserError
from jaxgen.scores.score import Notes, Score, Track, ends, make_notes

LOWEST_KEY = 21
"""MIDI pitch of key 0 of a piano roll: A0."""
NUM_KEYS = 88
"""Keys of a piano: A0 to C8."""
REST, HOLD = -1, -2
"""What a voice has in a frame instead of the pitch that begins there: silence; the note of the frame before."""
MOST_FRAMES = 1 << 22
"""Frames of the longest roll that is made: at sixteenths, about 145 hours at 120 quarters a minute."""

_FULL_VELOCITY = 80


@dataclasses.dataclass(frozen=True)
class Roll:
    """A piano roll: which keys sound, frame by frame, and which of them are struck anew."""

    sounding: NDArray[np.bool_]
    """bool [T, 88]; key 0 is MIDI pitch 21."""
    onsets: NDArray[np.bool_]
    """bool [T, 88]: a note begins. Without it a repeated note looks like a held one. Within `sounding`."""


def to_roll(score: Score, frames_per_quarter: int) -> Roll:
    """The score's notes, all tracks in one. T = its length in frames.

    A note that another of the same pitch strikes ends there. Raises UserError where a note is not on the grid of frames,
    or not on a piano: `score.quantise` and `score.transpose` help.
    """
    step, num_frames = _grid(score, frames_per_quarter)
    notes = score.notes
    key = notes["pitch"].astype(np.int64) - LOWEST_KEY
    if len(notes) and (key.min() < 0 or key.max() >= NUM_KEYS):
        raise UserError(
            f"the score has pitches {notes['pitch'].min()} to {notes['pitch'].max()}, a piano has {LOWEST_KEY} to "
            f"{LOWEST_KEY + NUM_KEYS - 1}; transpose it, or leave those notes out."
        )
    onsets = np.zeros((num_frames, NUM_KEYS), bool)
    onsets[notes["onset"] // step, key] = True
    changes = np.zeros((num_frames + 1, NUM_KEYS), np.int32)
    np.add.at(changes, (notes["onset"] // step, key), 1)
    np.add.at(changes, (ends(notes) // step, key), -1)
    return Roll(np.cumsum(changes, axis=0)[:-1] > 0, onsets)


def from_roll(sounding: NDArray[Any], onsets: NDArray[Any] | None, frames_per_quarter: int) -> Score:
    """The score of a piano roll, one track, velocity 80, `frames_per_quarter` ticks a quarter.

    sounding: bool [T, 88]. onsets: bool [T, 88] or None where the data does not tell held from repeated notes: they are
    held then. Raises ValueError for other shapes.
    """
    sounding = np.asarray(sounding, bool)
    if sounding.ndim != 2 or sounding.shape[1] != NUM_KEYS:
        raise ValueError(f"a roll of shape {sounding.shape}, expected [T, {NUM_KEYS}]")
    struck = np.zeros_like(sounding) if onsets is None else np.asarray(onsets, bool) & sounding
    before = np.pad(sounding, ((1, 0), (0, 0)))[:-1]
    begins = struck | (sounding & ~before)
    after, begins_after = np.pad(sounding, ((0, 1), (0, 0)))[1:], np.pad(begins, ((0, 1), (0, 0)))[1:]
    lasts = sounding & (~after | begins_after)
    key, first = np.nonzero(begins.T)
    _, last = np.nonzero(lasts.T)
    notes = make_notes(first, last - first + 1, key + LOWEST_KEY, _FULL_VELOCITY)
    return Score(notes, frames_per_quarter, len(sounding))


def to_voices(score: Score, frames_per_quarter: int) -> NDArray[np.int16]:
    """One voice a track: int16 [T, V] with the pitch where a note begins, HOLD where it goes on, REST where none sounds.

    Raises UserError where a note is not on the grid of frames, or a track has two notes at a time.
    """
    step, num_frames = _grid(score, frames_per_quarter)
    voices = np.full((num_frames, len(score.tracks)), REST, np.int16)
    for track in range(len(score.tracks)):
        notes = score.notes[score.notes["track"] == track]
        if np.any(ends(notes)[:-1] > notes["onset"][1:]):
            raise UserError(
                f"track {track} ('{score.tracks[track].name}') has two notes at a time, expected one voice a track; "
                "make a piano roll of it, or choose other tracks."
            )
        held = np.zeros(num_frames + 1, np.int32)
        np.add.at(held, notes["onset"] // step, 1)
        np.add.at(held, ends(notes) // step, -1)
        voices[np.cumsum(held)[:-1] > 0, track] = HOLD
        voices[notes["onset"] // step, track] = notes["pitch"]
    return voices


def from_voices(voices: NDArray[Any], frames_per_quarter: int, names: tuple[str, ...] = ()) -> Score:
    """The score of voices as `to_voices` gives them, velocity 80, `frames_per_quarter` ticks a quarter.

    voices: int [T, V]. names: of the V tracks; empty for none. A HOLD after a REST, or at the start, is a rest.
    """
    voices = np.asarray(voices, np.int64)
    parts = [_voice_notes(voices[:, track], track) for track in range(voices.shape[1])]
    tracks = tuple(Track(name) for name in names) or tuple(Track() for _ in parts)
    return Score(np.concatenate([make_notes([], [], []), *parts]), frames_per_quarter, len(voices), tracks)


def _voice_notes(voice: NDArray[np.int64], track: int) -> Notes:
    changes = np.flatnonzero(voice != HOLD)
    until = np.append(changes[1:], len(voice))
    struck = voice[changes] >= 0
    first = changes[struck]
    return make_notes(first, until[struck] - first, voice[first], _FULL_VELOCITY, track)


def fill_holds(voices: NDArray[Any]) -> NDArray[np.int16]:
    """The pitch that sounds in each frame, REST for none: int16 [T, V] from voices as `to_voices` gives them."""
    voices = np.asarray(voices, np.int16)
    frames = np.arange(len(voices))[:, None]
    begun = np.maximum.accumulate(np.where(voices != HOLD, frames, -1), axis=0, dtype=np.int64)
    filled = np.take_along_axis(voices, np.maximum(begun, 0), axis=0) if len(voices) else voices
    return np.where(begun < 0, REST, filled).astype(np.int16)


def mark_holds(pitches: NDArray[Any]) -> NDArray[np.int16]:
    """Voices with HOLD from the pitch of each frame, int [T, V], negative for silence: equal neighbours are one note.

    For data that does not tell held from repeated notes, such as the voices of JSB chorales.
    """
    pitches = np.where(np.asarray(pitches) < 0, REST, pitches).astype(np.int16)
    marked = pitches.copy()
    marked[1:][(pitches[1:] == pitches[:-1]) & (pitches[1:] >= 0)] = HOLD
    return marked


def strike_beats(voices: NDArray[Any], frames_per_beat: int) -> NDArray[np.int16]:
    """Voices whose notes that are held over a beat are struck there anew: the other way to take data as `mark_holds` does.

    Of chorales on quarters it is nearer to the truth, as a repeated quarter is more frequent than a half note.
    """
    voices = np.asarray(voices, np.int16)
    on_beat = np.arange(len(voices))[:, None] % frames_per_beat == 0
    return np.where(on_beat & (voices == HOLD), fill_holds(voices), voices).astype(np.int16)


def _grid(score: Score, frames_per_quarter: int) -> tuple[int, int]:
    """Ticks of a frame, and the number of frames."""
    step, rest = divmod(score.ticks_per_quarter, frames_per_quarter) if frames_per_quarter > 0 else (0, 1)
    off = (score.notes["onset"] % step) | (score.notes["duration"] % step) if step and not rest else np.ones(1)
    if off.any():
        raise UserError(
            f"the score's notes, in {score.ticks_per_quarter} ticks a quarter, are not on a grid of {frames_per_quarter} "
            "frames a quarter; quantise it to that grid first."
        )
    num_frames = -(-score.length // step)
    if num_frames > MOST_FRAMES:
        raise UserError(f"the score would have {num_frames} frames, expected at most {MOST_FRAMES}; crop it first.")
    return step, num_frames
