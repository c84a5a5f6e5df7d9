"""Which notes may be drawn: those of a range, of a key, and under the voice above."""

import dataclasses
import re
from typing import Self

import numpy as np
from numpy.typing import NDArray

from jaxgen.core.errors import UserError
from jaxgen.scores.analysis import SCALES

HIGHEST_PITCH = 127
"""Of MIDI."""

_NAMES = ("C", "C#", "D", "Eb", "E", "F", "F#", "G", "Ab", "A", "Bb", "B")
_OTHER_NAMES = {"Db": 1, "D#": 3, "Fb": 4, "E#": 5, "Gb": 6, "G#": 8, "A#": 10, "Cb": 11, "B#": 0}
_TONICS = {name: tonic for tonic, name in enumerate(_NAMES)} | _OTHER_NAMES


@dataclasses.dataclass(frozen=True)
class NoteLimits:
    """Limits of notes; without any every note is allowed. A rest always is."""

    ranges: tuple[tuple[int, int], ...] = ()
    """Lowest and highest MIDI pitch: one pair for all notes, or one for each voice, highest voice first."""
    crossing: bool = True
    """Whether a voice may be above the one over it."""
    key: tuple[int, bool] | None = None
    """Tonic, 0 is C, and whether the key is minor, which has its sixth and seventh raised, too. None is any."""

    @classmethod
    def parse(cls, ranges: tuple[str, ...], crossing: bool, key: str) -> Self:
        """ranges: `lowest:highest` each. key: a note name, behind it m for minor; empty is any. Raises UserError for others."""
        words = (ranges,) if isinstance(ranges, str) else ranges  # as it may be given from Python
        return cls(tuple(map(_parse_range, words)), crossing, _parse_key(key) if key else None)

    def __bool__(self) -> bool:
        return self != NoteLimits()

    def allow(self, pitches: NDArray[np.integer], voice: int = 0) -> NDArray[np.bool_]:
        """Which MIDI pitches [...] a voice may have, by its range and the key, bool [...]. voice: from 0, the highest."""
        low, high = self.ranges[voice % len(self.ranges)] if self.ranges else (0, HIGHEST_PITCH)
        allowed = (pitches >= low) & (pitches <= high)
        if self.key is not None:
            tonic, minor = self.key
            allowed &= np.isin((pitches - tonic) % 12, SCALES[minor])
        return allowed

    def moved(self, semitones: int) -> tuple[tuple[str, ...], str]:
        """Ranges and key that many semitones higher, as `parse` takes them; what leaves MIDI is cut off."""
        ranges = [sorted(min(max(0, pitch + semitones), HIGHEST_PITCH) for pitch in pair) for pair in self.ranges]
        key = "" if self.key is None else _NAMES[(self.key[0] + semitones) % 12] + "m" * self.key[1]
        return tuple(f"{low}:{high}" for low, high in ranges), key


def _parse_range(word: str) -> tuple[int, int]:
    found = re.fullmatch(r"([0-9]{1,3}):([0-9]{1,3})", word)
    low, high = (-1, -1) if found is None else map(int, found.groups())
    if not 0 <= low <= high <= HIGHEST_PITCH:
        raise UserError(f"--range is '{word[:40]}', expected the lowest and the highest MIDI pitch, as 36:81.")
    return low, high


def _parse_key(word: str) -> tuple[int, bool]:
    plain = word.replace("♭", "b").replace("♯", "#").removesuffix(" major").replace(" minor", "m")
    tonic = _TONICS.get(plain.removesuffix("m"))
    if tonic is None:
        raise UserError(f"--key is '{word[:40]}', expected a note, and m for minor, as C, F# or Bbm.")
    return tonic, plain.endswith("m")
