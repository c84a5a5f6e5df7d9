"""How like Bach's a chorale is: the grade of "Bach or Mock?" (Fang et al. 2020, arXiv 2006.13329), made anew from the paper.

A chorale's grade is the sum of nine distances from the chorales of a corpus; lower is more like them. The published median
of Bach's own is 4.91. What differs here: notes have no spelling, so that an augmented second is a minor third; chords are
known by their pitch classes; there are no fermatas; and where data holds repeated notes as one, rhythms are longer
(`rolls.strike_beats` helps). So grade real chorales of the same data beside those of a model.
"""

import dataclasses
import itertools
import math
from collections import Counter
from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jaxgen.scores.chords import QUALITIES
from jaxgen.scores.estimation import estimate_key
from jaxgen.scores.rolls import HOLD, REST, fill_holds, from_voices

Counts = Counter[Hashable]
Voices = NDArray[Any]
"""int [T, 4], sixteenths, soprano first, as `rolls.to_voices` gives them."""

FEATURES = (
    "note",
    "rhythm",
    "parallel_errors",
    "harmonic_quality",
    "soprano_intervals",
    "alto_intervals",
    "tenor_intervals",
    "bass_intervals",
    "repeated_sequences",
)
"""What a grade is the sum of."""

_BY_MODE = frozenset(FEATURES) - {"rhythm", "parallel_errors", "repeated_sequences"}
_FRAMES = 4  # a quarter


@dataclasses.dataclass(frozen=True)
class _Histograms:
    minor: bool
    counts: dict[str, Counts]
    num_notes: int


class ChoraleGrader:
    """Grades chorales by those of a corpus."""

    def __init__(self, corpus: Sequence[Voices]) -> None:
        """corpus: real chorales, such as the training split. Raises ValueError for other than four voices, and where there are
        none in major, or none in minor: each mode is graded by its own.
        """
        self._totals: dict[tuple[str, bool], Counts] = {
            (feature, minor): Counter() for feature in FEATURES for minor in (False, True)
        }
        notes, modes = 0, set()
        for voices in corpus:
            found = _histograms(voices)
            notes += found.num_notes
            modes.add(found.minor)
            for feature, counts in found.counts.items():
                for minor in (found.minor,) if feature in _BY_MODE else (False, True):
                    self._totals[feature, minor] += counts
        if len(modes) < 2:
            raise ValueError("the corpus needs chorales in major and in minor")
        self._parallels_a_note = sum(self._totals["parallel_errors", False].values()) / max(1, notes)

    def grade(self, voices: Voices) -> dict[str, float]:
        """The nine distances, and their sum as "grade". Raises ValueError for other than four voices, or no notes."""
        found = _histograms(voices)
        grades = {}
        for feature in FEATURES:
            counts, corpus = found.counts[feature], self._totals[feature, found.minor]
            if feature == "repeated_sequences":
                grades[feature] = _distance_of_lengths(counts, corpus)
            elif feature == "parallel_errors":
                grades[feature] = self._grade_parallels(counts, corpus, found.num_notes)
            else:
                grades[feature] = _distance_of_ranks(counts, corpus)
        return {**grades, "grade": sum(grades.values())}

    def _grade_parallels(self, counts: Counts, corpus: Counts, num_notes: int) -> float:
        """Their distance times how much more frequent they are; infinite where only this chorale has any."""
        if not counts:
            return 0.0
        if not corpus:
            return math.inf
        return _distance_of_ranks(counts, corpus) * sum(counts.values()) / num_notes / self._parallels_a_note


def _histograms(voices: Voices) -> _Histograms:
    voices = np.asarray(voices, np.int64)
    if voices.ndim != 2 or voices.shape[1] != 4 or not (voices >= 0).any():
        raise ValueError(f"voices of shape {voices.shape}, expected [T, 4] with notes")
    key = estimate_key(from_voices(voices, _FRAMES))
    tonic, minor = (key.tonic, key.minor) if key else (0, False)
    pitches = fill_holds(voices).astype(np.int64)
    struck = voices != HOLD
    parts = [_part(voices[:, voice]) for voice in range(4)]
    counts: dict[str, Counts] = {
        "note": Counter(((pitches[pitches >= 0] - tonic) % 12).tolist()) + Counter(["rest"] * int((pitches < 0).sum())),
        "rhythm": Counter(length for part in parts for _, length in part),
        "parallel_errors": _parallels(pitches, struck),
        "harmonic_quality": _qualities(pitches, struck),
        "repeated_sequences": Counter(length for voice in range(4) for length in _repeated_lengths(voices[:, voice])),
    }
    for feature, part in zip(FEATURES[4:8], parts, strict=True):
        line = [pitch for pitch, _ in part if pitch != REST]
        counts[feature] = Counter(after - before for before, after in itertools.pairwise(line))
    return _Histograms(minor, counts, int((voices >= 0).sum()))


def _part(voice: NDArray[np.int64]) -> list[tuple[int, int]]:
    """(pitch or REST, frames) of what a voice does, one after another; rests beside one another are one."""
    begins = np.flatnonzero((voice != HOLD) & ~((voice == REST) & (np.concatenate([[0], voice[:-1]]) == REST)))
    return list(zip(voice[begins].tolist(), np.diff(np.append(begins, len(voice))).tolist(), strict=True))


def _qualities(pitches: NDArray[np.int64], struck: NDArray[np.bool_]) -> Counts:
    """What kind of chord sounds, whenever a voice begins something."""
    known = {
        frozenset((root + step) % 12 for step in steps): name for name, steps in QUALITIES.items() for root in range(12)
    }
    counts: Counts = Counter()
    for chord in pitches[struck.any(axis=1)]:
        classes = frozenset((chord[chord >= 0] % 12).tolist())
        if classes:
            counts[known.get(classes, "unknown")] += 1
    return counts


def _parallels(pitches: NDArray[np.int64], struck: NDArray[np.bool_]) -> Counts:
    """Fifths and octaves that two voices move in, the same way and at one time, from one note to the next."""
    counts: Counts = Counter()
    for upper, lower in itertools.combinations(range(4), 2):
        both = np.flatnonzero(struck[1:, upper] & struck[1:, lower]) + 1
        pair = pitches[:, [upper, lower]]
        before, after = pair[both - 1], pair[both]
        sounding = np.all((before >= 0) & (after >= 0), axis=1)
        alike = np.prod(after - before, axis=1) > 0
        was, becomes = (before[:, 0] - before[:, 1]) % 12, (after[:, 0] - after[:, 1]) % 12
        for name, interval in (("fifths", 7), ("octaves", 0)):
            if number := int(np.sum(sounding & alike & (was == interval) & (becomes == interval))):
                counts[name] += number
    return counts


def _repeated_lengths(voice: NDArray[np.int64]) -> list[int]:
    """Frames of each sequence of a voice that comes again, as often as it occurs (Hsu et al. 1998: non-trivial patterns).

    A sequence begins with a note and has at least two. Not counted is what is part of a longer one each time it occurs.
    """
    size = len(voice)
    letters = (voice - voice.min()).astype(">u2").tobytes()
    starts = sorted(np.flatnonzero(voice >= 0).tolist(), key=lambda start: letters[2 * start :])
    common = [_common(voice, one, other) for one, other in itertools.pairwise(starts)]
    notes_before = np.concatenate([[0], np.cumsum(voice != HOLD)])
    last_begin = np.maximum.accumulate(np.where(voice != HOLD, np.arange(size), -1))
    lengths: list[int] = []
    for low, high, length in _intervals(common):
        places = starts[low : high + 1]
        if notes_before[places[0] + length] - notes_before[places[0]] < 2:
            continue
        before = {tuple(voice[last_begin[p - 1] : p].tolist()) if p else ("start", p) for p in places}
        if len(before) > 1:
            lengths += [length] * len(places)
    return lengths


def _common(voice: NDArray[np.int64], one: int, other: int) -> int:
    """Frames that two places have in common."""
    size = len(voice) - max(one, other)
    differ = np.flatnonzero(voice[one : one + size] != voice[other : other + size])
    return int(differ[0]) if len(differ) else size


def _intervals(common: list[int]) -> list[tuple[int, int, int]]:
    """(first, last, length) of all groups of neighbours in a sorted list of places that share `length`, and no more: the
    intervals of an array of longest common prefixes (Abouelhoda et al. 2004).
    """
    found: list[tuple[int, int, int]] = []
    open_groups: list[tuple[int, int]] = [(0, 0)]  # (length, first)
    for place, length in enumerate([*common, 0]):
        first = place
        while open_groups[-1][0] > length:
            longer, first = open_groups.pop()
            found.append((first, place, longer))
        if open_groups[-1][0] < length:
            open_groups.append((length, first))
    return found


def _distance_of_ranks(counts: Counts, corpus: Counts) -> float:
    """Wasserstein distance between shares, with the kinds of things in the order of how often the corpus has them.

    Kinds that it has not come behind, the rarest first.
    """
    order = [kind for kind, _ in corpus.most_common()]
    order += [kind for kind, _ in reversed(counts.most_common()) if kind not in corpus]
    return _distance(
        np.array([counts[kind] for kind in order], np.float64), np.array([corpus[kind] for kind in order], np.float64)
    )


def _distance_of_lengths(counts: Counts, corpus: Counts) -> float:
    longest = max([0, *counts, *corpus])  # type: ignore[type-var]
    mine, theirs = np.zeros(int(longest) + 1), np.zeros(int(longest) + 1)  # type: ignore[call-overload]
    for shares, found in ((mine, counts), (theirs, corpus)):
        for length, count in found.items():
            shares[length] = count  # type: ignore[call-overload]
        if not found:
            shares[0] = 1
    return _distance(mine, theirs)


def _distance(mine: NDArray[np.float64], theirs: NDArray[np.float64]) -> float:
    """Between two histograms over 0, 1, 2, ..., each taken as shares; 0 where one is empty."""
    if not mine.sum() or not theirs.sum():
        return 0.0
    return float(np.abs(np.cumsum(mine / mine.sum() - theirs / theirs.sum())).sum())
