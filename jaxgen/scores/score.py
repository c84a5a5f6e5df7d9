"""Written music as a value: notes in whole ticks, with tempo, metre and key. What is done to a score gives another one."""

import bisect
import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jaxgen.core.errors import UserError

NOTE = np.dtype([("onset", "i8"), ("duration", "i8"), ("pitch", "i2"), ("velocity", "i2"), ("track", "i2")])
"""A note: onset and duration in ticks, MIDI pitch 0 to 127 (60 is middle C), velocity 1 to 127, index of its track."""

Notes = NDArray[Any]
"""Notes [N] of dtype NOTE."""

_FIFTHS = ("D♭", "A♭", "E♭", "B♭", "F", "C", "G", "D", "A", "E", "B", "F♯", "C♯", "G♯", "D♯")
_DEFAULT_TEMPO = 500_000  # microseconds a quarter: what MIDI plays where a file says nothing
_MOST_DIVISIONS = 960
_HEARD_SHIFT = (
    1 / 24
)  # quarters: 25 ms at 100 quarters a minute, half of what tells a triplet from an eighth on sixteenths


class ScoreError(Exception):
    """A file holds no score that can be used; the text is the reason, in a few words."""


@dataclasses.dataclass(frozen=True, order=True)
class Tempo:
    """A tempo that holds from a tick on."""

    tick: int
    microseconds: int
    """Of a quarter note, as MIDI files state it."""

    @property
    def quarters_per_minute(self) -> float:
        """Quarter notes a minute."""
        return 60e6 / self.microseconds


@dataclasses.dataclass(frozen=True, order=True)
class TimeSignature:
    """A metre that holds from a tick on, at which a bar begins."""

    tick: int
    numerator: int
    denominator: int
    """A power of two."""


@dataclasses.dataclass(frozen=True, order=True)
class KeySignature:
    """A key that holds from a tick on."""

    tick: int
    tonic: int
    """Pitch class, 0 is C."""
    minor: bool

    @property
    def sharps(self) -> int:
        """Sharps of the signature, -5 to 6; flats are negative."""
        return (7 * (self.tonic + 3 * self.minor) + 5) % 12 - 5

    @property
    def name(self) -> str:
        """As "G major" or "C♯ minor", spelled as the signature asks."""
        return f"{_FIFTHS[self.sharps + 5 + 3 * self.minor]} {'minor' if self.minor else 'major'}"


@dataclasses.dataclass(frozen=True)
class Track:
    """A part of a score: an instrument or a voice."""

    name: str = ""
    program: int = 0
    """General MIDI program, 0 to 127."""


@dataclasses.dataclass(frozen=True, eq=False)
class Score:
    """A piece of music. Equal scores have equal notes and fields; notes are sorted by onset, track, pitch and duration."""

    notes: Notes
    ticks_per_quarter: int
    length: int
    """Ticks from the beginning to the end; at least to the end of the last note."""
    tracks: tuple[Track, ...] = (Track(),)
    tempi: tuple[Tempo, ...] = ()
    """Ascending; before the first, or where there is none, 120 quarters a minute."""
    time_signatures: tuple[TimeSignature, ...] = ()
    """Ascending; empty where none is known."""
    key_signatures: tuple[KeySignature, ...] = ()
    """Ascending; empty where none is known."""
    title: str = ""
    licence: str = ""

    def __post_init__(self) -> None:
        notes = np.sort(np.asarray(self.notes, NOTE), order=("onset", "track", "pitch", "duration"))
        notes.setflags(write=False)
        object.__setattr__(self, "notes", notes)
        if self.ticks_per_quarter < 1:
            raise ValueError(f"{self.ticks_per_quarter} ticks a quarter")
        if len(notes):
            pitch, velocity, track = notes["pitch"], notes["velocity"], notes["track"]
            if notes["onset"].min() < 0 or notes["duration"].min() < 1:
                raise ValueError("a note begins before the score, or has no duration")
            if pitch.min() < 0 or pitch.max() > 127 or velocity.min() < 1 or velocity.max() > 127:
                raise ValueError("a pitch is not within 0 to 127, or a velocity not within 1 to 127")
            if track.min() < 0 or track.max() >= len(self.tracks):
                raise ValueError("a note is of a track that is not there")
        if self.length < int(ends(notes).max(initial=0)):
            raise ValueError("the score ends before its last note")

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Score):
            return NotImplemented
        fields = [field.name for field in dataclasses.fields(self) if field.name != "notes"]
        same = all(getattr(self, name) == getattr(other, name) for name in fields)
        return same and np.array_equal(self.notes, other.notes)

    __hash__ = None  # type: ignore[assignment]

    @property
    def quarters(self) -> float:
        """Length in quarter notes."""
        return self.length / self.ticks_per_quarter

    @property
    def seconds(self) -> float:
        """Length in seconds, by its tempi."""
        return float(to_seconds(self, np.array([self.length]))[0])


def make_notes(onset: Any, duration: Any, pitch: Any, velocity: Any = 80, track: Any = 0) -> Notes:
    """Notes [N] of dtype NOTE from arrays [N], or single values that all of them share."""
    columns = np.broadcast_arrays(*map(np.atleast_1d, (onset, duration, pitch, velocity, track)))
    notes = np.zeros(columns[0].shape, NOTE)
    for name, column in zip(NOTE.names or (), columns, strict=True):
        notes[name] = column
    return notes


def ends(notes: Notes) -> NDArray[np.int64]:
    """Tick at which each note ends [N]."""
    return np.asarray(notes["onset"] + notes["duration"])


def to_seconds(score: Score, ticks: NDArray[np.int64]) -> NDArray[np.float64]:
    """Seconds from the beginning at which ticks [...] are played, float64 [...]."""
    tempi = [Tempo(0, _DEFAULT_TEMPO), *score.tempi]
    starts = np.array([tempo.tick for tempo in tempi], np.float64)
    pace = np.array([tempo.microseconds for tempo in tempi]) / (1e6 * score.ticks_per_quarter)  # seconds a tick
    at_start = np.concatenate([[0.0], np.cumsum(np.diff(starts) * pace[:-1])])
    place = np.searchsorted(starts, ticks, side="right") - 1
    return np.asarray(at_start[place] + (ticks - starts[place]) * pace[place])


def bar_starts(score: Score) -> NDArray[np.int64]:
    """Ticks at which bars begin, and last the end of the last bar: [nbar + 1].

    A new time signature begins a bar. Where none is stated, bars have four quarters. The end of the last bar may lie
    behind the end of the score.
    """
    signatures = list(score.time_signatures)
    if not signatures or signatures[0].tick > 0:
        signatures.insert(0, TimeSignature(0, 4, 4))
    starts: list[NDArray[np.int64]] = []
    for signature, until in zip(signatures, [s.tick for s in signatures[1:]] + [score.length], strict=True):
        whole = 4 * score.ticks_per_quarter * signature.numerator
        count = max(0, -((signature.tick - until) * signature.denominator // whole))
        starts.append(signature.tick + np.arange(count + 1, dtype=np.int64) * whole // signature.denominator)
    inner = [part[:-1] for part in starts[:-1]]  # where a bar is cut short, the next signature's begins
    return np.concatenate([*inner, starts[-1]])


def bar_end(score: Score, count: int) -> int:
    """Tick at which the first `count` bars end, also of a score that is shorter: its last metre goes on. count: at least 1."""
    bars = bar_starts(score)
    if count < len(bars):
        return int(bars[count])
    last = score.time_signatures[-1] if score.time_signatures else TimeSignature(0, 4, 4)
    missing = count + 1 - len(bars)
    return int(bars[-1]) + missing * 4 * score.ticks_per_quarter * last.numerator // last.denominator


def without_notes(score: Score) -> Score:
    """Its tempi, metres, keys and texts alone: what `join` takes of the first score."""
    return dataclasses.replace(score, notes=make_notes([], [], []), tracks=(), length=0)


def transpose(score: Score, semitones: int) -> Score:
    """All notes and keys higher by `semitones`. Raises UserError where a pitch would leave 0 to 127."""
    notes = score.notes.copy()
    moved = notes["pitch"].astype(np.int64) + semitones
    if len(notes) and (moved.min() < 0 or moved.max() > 127):
        raise UserError(
            f"the score would have pitches {moved.min()} to {moved.max()}, {semitones:+d} semitones from what it has, "
            "expected 0 to 127; transpose it less."
        )
    notes["pitch"] = moved
    keys = tuple(dataclasses.replace(key, tonic=(key.tonic + semitones) % 12) for key in score.key_signatures)
    return dataclasses.replace(score, notes=notes, key_signatures=keys)


def crop(score: Score, first_bar: int, stop_bar: int) -> Score:
    """Bars first_bar, ..., stop_bar - 1, counted from 0. Notes that sound across a border are cut there.

    Raises UserError where the score has no such bars.
    """
    bars = bar_starts(score)
    if not 0 <= first_bar < stop_bar < len(bars):
        raise UserError(
            f"bars {first_bar} to {stop_bar} were asked for, expected a first bar from 0, before an end of at most "
            f"{len(bars) - 1}, the number of bars."
        )
    return crop_ticks(score, int(bars[first_bar]), int(bars[stop_bar]))


def crop_ticks(score: Score, start: int, stop: int) -> Score:
    """What sounds from tick `start` to `stop`, which comes to be at tick 0. Notes across a border are cut there.

    The result has stop - start ticks, also where the score ends before.
    """
    notes = score.notes[(score.notes["onset"] < stop) & (ends(score.notes) > start)].copy()
    until = np.minimum(ends(notes), stop) - start
    notes["onset"] = np.maximum(notes["onset"], start) - start
    notes["duration"] = until - notes["onset"]
    return dataclasses.replace(
        score,
        notes=notes,
        length=stop - start,
        tempi=_crop_events(score.tempi, start, stop),
        time_signatures=_crop_events(score.time_signatures, start, stop),
        key_signatures=_crop_events(score.key_signatures, start, stop),
    )


def _crop_events(events: Sequence[Any], start: int, stop: int) -> tuple[Any, ...]:
    """What holds at the start, moved there, and what comes until the end."""
    holding = max(0, bisect.bisect_right(events, start, key=lambda event: event.tick) - 1)
    kept = [event for event in events[holding:] if event.tick < stop]
    return tuple(dataclasses.replace(event, tick=max(0, event.tick - start)) for event in kept)


def select_tracks(score: Score, tracks: Sequence[int]) -> Score:
    """The named tracks alone, in that order. Raises UserError where one is not there."""
    if bad := [track for track in tracks if not 0 <= track < len(score.tracks)]:
        raise UserError(f"track {bad[0]} was asked for, but the score has {len(score.tracks)}, counted from 0.")
    parts = []
    for place, track in enumerate(tracks):
        part = score.notes[score.notes["track"] == track].copy()
        part["track"] = place
        parts.append(part)
    notes = np.concatenate([np.zeros(0, NOTE), *parts])
    return dataclasses.replace(score, notes=notes, tracks=tuple(score.tracks[track] for track in tracks))


def join(scores: Sequence[Score]) -> Score:
    """Scores of one grid that sound together: the tracks of all, one after another; tempo, metre and key of the first.

    Raises ValueError where there is none, or they have other ticks a quarter.
    """
    first, *others = scores
    if any(other.ticks_per_quarter != first.ticks_per_quarter for other in others):
        raise ValueError(f"{[score.ticks_per_quarter for score in scores]} ticks a quarter, expected the same of all")
    parts, tracks = [], list[Track]()
    for score in scores:
        notes = score.notes.copy()
        notes["track"] += len(tracks)
        parts.append(notes)
        tracks += score.tracks
    length = max(score.length for score in scores)
    return dataclasses.replace(first, notes=np.concatenate(parts), tracks=tuple(tracks), length=length)


@dataclasses.dataclass(frozen=True)
class GridError:
    """How far notes were from the grid that they were moved to, in quarter notes."""

    mean: float
    """Of onsets and ends."""
    largest: float
    moved_share: float
    """Share of onsets and ends that were not on the grid."""
    shifted_share: float
    """Share of notes that come to begin more than a 24th of a quarter off, which is heard as another rhythm."""
    largest_shift: float
    """Of a note's beginning."""


def quantise(score: Score, divisions: Sequence[int]) -> tuple[Score, GridError]:
    """The score on a grid: each onset and end at the nearest place that divides a quarter note evenly.

    divisions: parts of a quarter, such as (4,) for sixteenths, or (4, 3) for sixteenths and eighth triplets, whichever
    is nearer. No note becomes shorter than the finest step. The ticks of the result are the least common multiple.
    Raises UserError for divisions beyond 1 to 960.
    """
    finest = math.lcm(*divisions) if divisions and min(divisions) > 0 else 0
    if not 1 <= finest <= _MOST_DIVISIONS:
        raise UserError(
            f"the grid has the divisions {tuple(divisions)}, whose least common multiple is {finest}; expected parts of a "
            f"quarter note with a multiple from 1 to {_MOST_DIVISIONS}."
        )
    places = np.unique(np.concatenate([np.arange(0, finest + 1, finest // part) for part in divisions]))
    notes, per_quarter = score.notes.copy(), score.ticks_per_quarter

    def snap(ticks: NDArray[np.int64]) -> NDArray[np.int64]:
        quarter, rest = np.divmod(np.asarray(ticks, np.int64), per_quarter)
        twice = (places[1:] + places[:-1]) * per_quarter  # of the middle between places, times `finest`
        return np.asarray(quarter * finest + places[np.searchsorted(twice, 2 * rest * finest, side="right")])

    onset, end = snap(notes["onset"]), snap(ends(notes))
    errors = np.abs(np.concatenate([onset, end]) * per_quarter - np.concatenate([notes["onset"], ends(notes)]) * finest)
    shortest = int(np.diff(places).min())
    notes["onset"], notes["duration"] = onset, np.maximum(end - onset, shortest)
    quarters = errors / (per_quarter * finest)
    begins = quarters[: len(onset)]
    told = GridError(
        mean=float(quarters.mean()) if len(notes) else 0.0,
        largest=float(quarters.max(initial=0)),
        moved_share=float((errors > 0).mean()) if len(notes) else 0.0,
        shifted_share=float((begins > _HEARD_SHIFT).mean()) if len(notes) else 0.0,
        largest_shift=float(begins.max(initial=0)),
    )

    def move(events: Sequence[Any]) -> tuple[Any, ...]:
        """Those that come to fall on one tick: the last holds."""
        ticks = snap(np.array([event.tick for event in events], np.int64)).tolist()
        return tuple(
            {tick: dataclasses.replace(event, tick=tick) for tick, event in zip(ticks, events, strict=True)}.values()
        )

    length = max(int(snap(np.array([score.length]))[0]), int(ends(notes).max(initial=0)))
    moved = dataclasses.replace(
        score,
        notes=notes,
        ticks_per_quarter=finest,
        length=length,
        tempi=move(score.tempi),
        time_signatures=move(score.time_signatures),
        key_signatures=move(score.key_signatures),
    )
    return moved, told
