"""Whether a piece copies others: its longest run of notes that stands in one of them, as it is or transposed."""

import dataclasses
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from jaxgen.scores.analysis import melody_of
from jaxgen.scores.score import Score

_PARTS = 5_040  # of a quarter that lengths are told apart by
_BASE = np.uint64(0x9E3779B97F4A7C15)  # odd: it has an inverse
_INVERSE = np.uint64(pow(int(_BASE), -1, 1 << 64))


@dataclasses.dataclass(frozen=True)
class Run:
    """A run of notes that two pieces share."""

    notes: int
    """Notes of the run; 0 for none."""
    piece: int
    """Index of the piece that has it; -1 for none."""
    track: int
    """Of the score that was asked about."""
    start: int
    """Place of its first note in that track's melody."""


_NOTHING = Run(0, -1, 0, 0)


class CopyIndex:
    """Melodies of a training set, every track of every piece, in which runs of notes can be sought.

    A run is a sequence of notes with the same lengths and, `transposed`, the same steps from note to note, or else the same
    pitches. Runs of a length are compared by 64-bit hashes, and what is found is compared note by note.
    """

    def __init__(self, pieces: Sequence[Score], *, transposed: bool) -> None:
        self._transposed = transposed
        melodies = [
            (place, _tokens(score, t, transposed))
            for place, score in enumerate(pieces)
            for t in range(len(score.tracks))
        ]
        melodies = [(place, tokens) for place, tokens in melodies if len(tokens)]
        lengths = np.array([len(tokens) for _, tokens in melodies], np.int64)
        self._tokens = np.concatenate([np.zeros(0, np.int64), *(tokens for _, tokens in melodies)])
        self._piece = np.repeat(np.array([place for place, _ in melodies], np.int64), lengths)
        self._left = np.repeat(np.cumsum(lengths), lengths) - np.arange(len(self._tokens))  # tokens to the melody's end
        self._prefix = _prefix_hashes(self._tokens)
        self._sorted: dict[int, tuple[NDArray[np.uint64], NDArray[np.int64]]] = {}

    def longest_run(self, score: Score) -> Run:
        """The longest run of a score, over its tracks, that stands in the training set; of equals the first."""
        best = _NOTHING
        for track in range(len(score.tracks)):
            tokens = _tokens(score, track, self._transposed)
            prefix = _prefix_hashes(tokens)
            size, over = 0, len(tokens) + 1
            found = (0, 0)
            while over - size > 1:  # a run of a length has runs of every shorter one in it
                middle = (size + over) // 2
                place = self._find(tokens, prefix, middle)
                size, over, found = (middle, over, place) if place else (size, middle, found)
            notes = size + (self._transposed and size > 0)
            if notes > best.notes:
                start, there = found
                best = Run(notes, int(self._piece[there]), track, start)
        return best

    def _find(self, tokens: NDArray[np.int64], prefix: NDArray[np.uint64], length: int) -> tuple[int, int] | None:
        """Where in the tokens, and where in the training set, a run of a length stands in both."""
        hashes, places = self._of_length(length)
        if not len(hashes):
            return None
        wanted = _window_hashes(prefix, length)
        at = np.minimum(np.searchsorted(hashes, wanted), len(hashes) - 1)
        for start in np.flatnonzero(hashes[at] == wanted).tolist():
            there = int(places[at[start]])
            if np.array_equal(self._tokens[there : there + length], tokens[start : start + length]):
                return start, there
        return None

    def _of_length(self, length: int) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
        """Hashes of all runs of a length, ascending, and where they begin."""
        if length not in self._sorted:
            if len(self._sorted) > 32:
                self._sorted.clear()
            hashes = _window_hashes(self._prefix, length)
            places = np.flatnonzero(self._left[: len(hashes)] >= length)
            order = np.argsort(hashes[places], kind="stable")
            self._sorted[length] = hashes[places][order], places[order]
        return self._sorted[length]


def _tokens(score: Score, track: int, transposed: bool) -> NDArray[np.int64]:
    """One number a note: its length, and its pitch or the step to the next; the last note then has none."""
    melody = melody_of(score, track)
    lengths = np.rint(melody[:, 1] * (_PARTS / score.ticks_per_quarter)).astype(np.int64)
    if transposed:
        return lengths[:-1] * 256 + np.diff(melody[:, 2]) + 128
    return lengths * 256 + melody[:, 2]


def _prefix_hashes(tokens: NDArray[np.int64]) -> NDArray[np.uint64]:
    """Sums of mixed tokens times powers of the base, modulo 2^64: [N + 1]."""
    mixed = tokens.astype(np.uint64)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):  # splitmix64 (Steele et al. 2014)
        mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
    mixed ^= mixed >> np.uint64(31)
    return np.concatenate([np.zeros(1, np.uint64), np.cumsum(mixed * _powers(len(tokens)), dtype=np.uint64)])


def _powers(count: int, base: np.uint64 = _BASE) -> NDArray[np.uint64]:
    """base, base^2, ..., modulo 2^64."""
    return np.cumprod(np.full(count, base), dtype=np.uint64)


def _window_hashes(prefix: NDArray[np.uint64], length: int) -> NDArray[np.uint64]:
    """Of every run of a length; the same wherever it stands."""
    count = max(0, len(prefix) - length)
    if not count:
        return np.zeros(0, np.uint64)
    sums = prefix[length:] - prefix[:count]
    return sums * np.concatenate([np.ones(1, np.uint64), _powers(count - 1, _INVERSE)])
