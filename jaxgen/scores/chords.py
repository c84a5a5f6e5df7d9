"""Chords by their names: "Am7/G" and the like."""

import dataclasses
import re
from collections.abc import Mapping, Sequence

from jaxgen.scores.score import Notes, make_notes

QUALITIES: Mapping[str, tuple[int, ...]] = {
    "": (0, 4, 7),
    "m": (0, 3, 7),
    "7": (0, 4, 7, 10),
    "m7": (0, 3, 7, 10),
    "maj7": (0, 4, 7, 11),
    "dim": (0, 3, 6),
    "dim7": (0, 3, 6, 9),
    "m7b5": (0, 3, 6, 10),
    "aug": (0, 4, 8),
    "6": (0, 4, 7, 9),
    "m6": (0, 3, 7, 9),
    "sus2": (0, 2, 7),
    "sus4": (0, 5, 7),
    "9": (0, 4, 7, 10, 14),
    "5": (0, 7),
}
"""Semitones above the root, by the name behind the root's letter."""

LETTERS: Mapping[str, int] = {"C": 0, "D": 2, "E": 4, "F": 5, "G": 7, "A": 9, "B": 11}
"""Pitch classes of the letters."""

_OTHER_NAMES = {
    **dict.fromkeys(("maj", "M", "major"), ""),
    **dict.fromkeys(("min", "-", "minor"), "m"),
    **dict.fromkeys(("min7", "-7"), "m7"),
    **dict.fromkeys(("M7", "ma7", "Maj7"), "maj7"),
    **dict.fromkeys(("o", "°"), "dim"),
    **dict.fromkeys(("o7", "°7"), "dim7"),
    **dict.fromkeys(("+",), "aug"),
    **dict.fromkeys(("sus", "4"), "sus4"),
}
_NAME = re.compile(r"([A-G])([#b♯♭]?)([^/]*)(?:/([A-G])([#b♯♭]?))?")
_ACCIDENTALS = {"": 0, "#": 1, "♯": 1, "b": -1, "♭": -1}
_BASS_FLOOR, _ROOT_FLOOR = 36, 48  # C2, C3


@dataclasses.dataclass(frozen=True)
class Chord:
    """A root, a quality and a bass."""

    root: int
    """Pitch class, 0 is C."""
    quality: str
    """Of QUALITIES."""
    bass: int
    """Pitch class of the lowest note."""

    @property
    def pitch_classes(self) -> frozenset[int]:
        """Those of all its notes."""
        return frozenset((self.root + step) % 12 for step in QUALITIES[self.quality]) | {self.bass}

    def pitches(self) -> list[int]:
        """MIDI pitches that play it: the bass in the octave below C3, the rest from the root in the octave above C3."""
        low = _BASS_FLOOR + (self.bass - _BASS_FLOOR) % 12
        root = _ROOT_FLOOR + (self.root - _ROOT_FLOOR) % 12
        return [low, *(root + step for step in QUALITIES[self.quality])]


def parse_chord(name: str) -> Chord | None:
    """The chord of a name such as "F#m7/C#"; None where it is none that is known."""
    if not (found := _NAME.fullmatch(name.strip())):
        return None
    letter, accidental, quality, bass, bass_accidental = found.groups()
    quality = _OTHER_NAMES.get(quality, quality)
    if quality not in QUALITIES:
        return None
    root = (LETTERS[letter] + _ACCIDENTALS[accidental]) % 12
    return Chord(root, quality, (LETTERS[bass] + _ACCIDENTALS[bass_accidental or ""]) % 12 if bass else root)


def match_chord(pitches: Sequence[int], qualities: Sequence[str]) -> Chord | None:
    """The chord, of these qualities, that has most in common with MIDI pitches that sound together; None for no pitches.

    Of chords alike in that, the one whose root is the lowest pitch, and the one named first.
    """
    if not pitches:
        return None
    sounding, bass = {pitch % 12 for pitch in pitches}, min(pitches) % 12

    def fit(chord: Chord) -> tuple[int, bool]:
        notes = {(chord.root + step) % 12 for step in QUALITIES[chord.quality]}
        return len(sounding & notes) - len(sounding ^ notes), chord.root == bass

    chords = [Chord(root, quality, bass) for root in range(12) for quality in qualities]
    return max(chords, key=fit)


def chord_notes(chord: Chord, onset: int, duration: int, track: int, velocity: int = 56) -> Notes:
    """The notes that play a chord: `Chord.pitches`, struck together."""
    return make_notes(onset, duration, chord.pitches(), velocity, track)
