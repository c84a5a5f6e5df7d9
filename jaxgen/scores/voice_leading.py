"""Mistakes of voice leading, counted: parallels, crossings, ranges. Real chorales have some, so read them beside those."""

import dataclasses
import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

CHORALE_RANGES = ((60, 81), (53, 76), (47, 69), (36, 64))
"""MIDI pitches of soprano, alto, tenor and bass that a choir sings: C4 to A5, F3 to E5, B2 to A4, C2 to E4."""


@dataclasses.dataclass(frozen=True)
class VoiceErrors:
    """Counts of one or more pieces."""

    chords: int
    """Moments at which any voice changes, and all of them sound."""
    parallel_fifths: int
    """Pairs of voices a fifth apart that both move, and are a fifth apart again."""
    parallel_octaves: int
    """The same with octaves and unisons."""
    crossings: int
    """Pairs of neighbouring voices of which the lower is above the upper."""
    out_of_range: int
    """Voices beyond their range."""

    def per_hundred(self) -> dict[str, float]:
        """Each count per hundred chords; NaN where there are none."""
        counts = dataclasses.asdict(self)
        chords = counts.pop("chords")
        return {name: 100 * count / chords if chords else float("nan") for name, count in counts.items()}

    def __add__(self, other: "VoiceErrors") -> "VoiceErrors":
        names = [field.name for field in dataclasses.fields(self)]
        return VoiceErrors(*(getattr(self, name) + getattr(other, name) for name in names))


def count_voice_errors(pitches: NDArray[Any], ranges: Sequence[tuple[int, int]] = CHORALE_RANGES) -> VoiceErrors:
    """Errors of voices, highest first: int [T, V], the pitch that sounds in each frame, negative for silence
    (`rolls.fill_holds`). ranges: lowest and highest pitch of each voice. Raises ValueError for another number of voices.
    """
    pitches = np.asarray(pitches, np.int64)
    if pitches.ndim != 2 or pitches.shape[1] != len(ranges):
        raise ValueError(f"voices of shape {pitches.shape}, expected [T, {len(ranges)}]")
    changes = (
        np.concatenate([[True], np.any(pitches[1:] != pitches[:-1], axis=1)]) if len(pitches) else np.zeros(0, bool)
    )
    chords = pitches[changes]
    whole = np.all(chords >= 0, axis=1)
    fifths = octaves = 0
    before, after = chords[:-1], chords[1:]
    both_whole = whole[:-1] & whole[1:]
    for upper, lower in itertools.combinations(range(len(ranges)), 2):
        moved = (before[:, upper] != after[:, upper]) & (before[:, lower] != after[:, lower]) & both_whole
        was = np.abs(before[:, upper] - before[:, lower]) % 12
        becomes = np.abs(after[:, upper] - after[:, lower]) % 12
        fifths += int(np.sum(moved & (was == 7) & (becomes == 7)))
        octaves += int(np.sum(moved & (was == 0) & (becomes == 0)))
    low, high = np.array(ranges).T
    known = chords[whole]
    return VoiceErrors(
        chords=int(whole.sum()),
        parallel_fifths=fifths,
        parallel_octaves=octaves,
        crossings=int(np.sum(known[:, 1:] > known[:, :-1])),
        out_of_range=int(np.sum((known < low) | (known > high))),
    )
