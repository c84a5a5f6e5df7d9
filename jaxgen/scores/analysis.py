"""What can be counted in a score: pitches, steps, rhythms, repetition. To be read beside the same figures of real music."""

import dataclasses
import itertools
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from jaxgen.scores.estimation import estimate_key, pitch_class_weights
from jaxgen.scores.score import KeySignature, Score, bar_starts, ends

Histogram = NDArray[np.float64]
"""Shares that sum to 1; all 0 where there is nothing to count."""

_WIDEST = 12  # semitones that are told apart, up and down
_PARTS = 12  # of a quarter that lengths are told apart by
_LONGEST = 4 * _PARTS
SCALES = {False: (0, 2, 4, 5, 7, 9, 11), True: (0, 2, 3, 5, 7, 8, 9, 10, 11)}
"""Semitones above the tonic that are in key, by whether it is minor."""


def melody_of(score: Score, track: int) -> NDArray[np.int64]:
    """(onset, duration, pitch) of a track's melody, int64 [N, 3]: of notes that begin together the highest."""
    notes = score.notes[score.notes["track"] == track]
    order = np.lexsort((-notes["pitch"].astype(np.int64), notes["onset"]))
    notes = notes[order]
    first = np.diff(notes["onset"], prepend=-1) > 0
    return np.stack([notes[name][first].astype(np.int64) for name in ("onset", "duration", "pitch")], axis=1)


def pitch_class_histogram(score: Score) -> Histogram:
    """Share of the sounding time of each pitch class, [12], C first."""
    return _shares(pitch_class_weights(score))


def interval_histogram(score: Score) -> Histogram:
    """Shares of steps between one note and the next of a melody, over all tracks: [25], -12 to 12 semitones; wider ones
    count with the widest.
    """
    counts = np.zeros(2 * _WIDEST + 1)
    for track in range(len(score.tracks)):
        steps = np.clip(np.diff(melody_of(score, track)[:, 2]), -_WIDEST, _WIDEST)
        np.add.at(counts, steps + _WIDEST, 1)
    return _shares(counts)


def rhythm_histogram(score: Score) -> Histogram:
    """Shares of the lengths of notes, [49], in twelfths of a quarter to the nearest; longer ones count with four quarters."""
    lengths = np.rint(score.notes["duration"] * _PARTS / score.ticks_per_quarter).astype(np.int64)
    return _shares(np.bincount(np.clip(lengths, 0, _LONGEST), minlength=_LONGEST + 1).astype(np.float64))


def position_histogram(score: Score) -> Histogram:
    """Shares of where in its bar a note begins, [48]: in twelfths of a quarter, up to four quarters."""
    bars = bar_starts(score)
    begins = bars[np.searchsorted(bars, score.notes["onset"], side="right") - 1] if len(score.notes) else np.zeros(0)
    places = np.rint((score.notes["onset"] - begins) * _PARTS / score.ticks_per_quarter).astype(np.int64)
    return _shares(np.bincount(np.clip(places, 0, _LONGEST - 1), minlength=_LONGEST).astype(np.float64))


def _shares(counts: NDArray[np.float64]) -> Histogram:
    total = counts.sum()
    return counts / total if total else counts


def mean_histogram(histograms: Sequence[Histogram]) -> Histogram:
    """The mean of the histograms of some pieces, each counting as much; of those that are all 0 none counts."""
    return _shares(np.sum(histograms, axis=0))


def histogram_distance(one: Histogram, other: Histogram) -> float:
    """Jensen-Shannon distance (Endres & Schindelin 2003), base 2: 0 for equal histograms, 1 for those without anything in
    common. NaN where one is empty.
    """
    if not one.any() or not other.any():
        return float("nan")
    middle = (one + other) / 2

    def divergence(shares: Histogram) -> float:
        there = shares > 0
        return float(np.sum(shares[there] * np.log2(shares[there] / middle[there])))

    return float(np.sqrt(max(0.0, (divergence(one) + divergence(other)) / 2)))


@dataclasses.dataclass(frozen=True)
class ScoreFigures:
    """Figures of one piece."""

    notes_per_quarter: float
    lowest: int
    """MIDI pitch."""
    highest: int
    polyphony: float
    """Notes that sound together, on average while any does."""
    silent_share: float
    """Of the time."""
    empty_bar_share: float
    """Bars in which no note begins or sounds."""
    repeated_bar_share: float
    """Bars that are, note by note, an earlier bar of the piece, perhaps transposed; of those that have notes."""
    longest_repeated_note: int
    """Notes of one pitch one after another in a track, at most."""
    longest_note: float
    """Quarters."""
    in_key_share: float
    """Of the sounding time: in the scale of the piece's key, with the raised sixth and seventh of minor."""


def measure_score(score: Score) -> ScoreFigures | None:
    """Figures of a piece; None for one without notes. Its key is estimated where it states none."""
    notes = score.notes
    if not len(notes):
        return None
    bars = bar_starts(score)
    sounding, time = _sounding_time(score)
    contents = [_bar_content(score, int(start), int(stop)) for start, stop in itertools.pairwise(bars)]
    filled = [content for content in contents if content]
    seen: set[tuple[tuple[int, ...], ...]] = set()
    repeated = 0
    for content in filled:
        repeated += content in seen
        seen.add(content)
    runs = [_longest_run(melody_of(score, track)[:, 2]) for track in range(len(score.tracks))]
    return ScoreFigures(
        notes_per_quarter=len(notes) / score.quarters,
        lowest=int(notes["pitch"].min()),
        highest=int(notes["pitch"].max()),
        polyphony=float(notes["duration"].sum() / time) if time else 0.0,
        silent_share=1 - time / score.length,
        empty_bar_share=_empty_share(bars, sounding),
        repeated_bar_share=repeated / len(filled) if filled else 0.0,
        longest_repeated_note=max(runs),
        longest_note=float(notes["duration"].max() / score.ticks_per_quarter),
        in_key_share=in_key_share(score),
    )


def in_key_share(score: Score) -> float:
    """Share of the sounding time in the scale of the key that is stated where a note begins, or else estimated; minor has the
    raised sixth and seventh, too. NaN where no key can be told.
    """
    keys: list[KeySignature] = list(score.key_signatures)
    if not keys:
        if (estimate := estimate_key(score)) is None:
            return float("nan")
        keys = [KeySignature(0, estimate.tonic, estimate.minor)]
    place = np.searchsorted([key.tick for key in keys], score.notes["onset"], side="right") - 1
    inside = np.zeros((len(keys), 12), bool)
    for row, key in enumerate(keys):
        inside[row, [(key.tonic + step) % 12 for step in SCALES[key.minor]]] = True
    durations = score.notes["duration"]
    return float(durations[inside[np.maximum(place, 0), score.notes["pitch"] % 12]].sum() / durations.sum())


def _sounding_time(score: Score) -> tuple[list[tuple[int, int]], int]:
    """(start, end) of the stretches in which anything sounds, and their ticks in all."""
    order = np.argsort(score.notes["onset"], kind="stable")
    onsets, until = score.notes["onset"][order], np.maximum.accumulate(ends(score.notes)[order])
    begins = np.flatnonzero(np.concatenate([[True], onsets[1:] > until[:-1]]))
    last = np.append(begins[1:], len(onsets)) - 1
    stretches = list(zip(onsets[begins].tolist(), until[last].tolist(), strict=True))
    return stretches, sum(stop - start for start, stop in stretches)


def _empty_share(bars: NDArray[np.int64], sounding: list[tuple[int, int]]) -> float:
    heard = np.zeros(max(1, len(bars) - 1), bool)
    for start, stop in sounding:
        first = int(np.searchsorted(bars, start, side="right")) - 1
        heard[max(0, first) : int(np.searchsorted(bars, stop))] = True
    return float(1 - heard.mean())


def _bar_content(score: Score, start: int, stop: int) -> tuple[tuple[int, ...], ...]:
    """The notes that begin in a bar, relative to its start and to the first of them."""
    low, high = np.searchsorted(score.notes["onset"], (start, stop))
    notes = score.notes[low:high]
    if not len(notes):
        return ()
    first = int(notes["pitch"][0])
    return tuple((o - start, d, p - first, t) for o, d, p, _, t in notes.tolist())


def _longest_run(values: NDArray[np.int64]) -> int:
    if not len(values):
        return 0
    edges = np.flatnonzero(np.concatenate([[True], np.diff(values) != 0, [True]]))
    return int(np.diff(edges).max())
