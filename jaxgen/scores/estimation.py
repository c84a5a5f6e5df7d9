"""What a score does not say of itself: its key, its metre, where its bars begin, and the grid that it is on."""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from jaxgen.scores.score import KeySignature, Score, Tempo, TimeSignature, ends, quantise, to_seconds

MAJOR_PROFILE = (6.35, 2.23, 3.48, 2.33, 4.38, 4.09, 2.52, 5.19, 2.39, 3.66, 2.29, 2.88)
MINOR_PROFILE = (6.33, 2.68, 3.52, 5.38, 2.60, 3.53, 2.54, 4.75, 3.98, 2.69, 3.34, 3.17)
"""How well each pitch class fits a key, from its tonic up, as listeners rated it (Krumhansl & Kessler 1982, table 1)."""

GRIDS = ((1,), (2,), (4,), (3, 4), (6, 4), (8,), (3, 8), (12, 8), (16,))
"""Grids that are tried, from the coarsest: parts of a quarter note, as `score.quantise` takes them."""

_METRES = ((4, 4), (3, 4), (2, 4), (6, 8))
_SLOWEST, _FASTEST = 40, 220  # beats a minute
_USUAL = 110  # beats a minute that are taken for likely (Parncutt 1994 finds about 100)
_MOST_NOTES = 20_000  # that a beat is sought in


@dataclasses.dataclass(frozen=True)
class KeyEstimate:
    """A key, and how sure it is."""

    tonic: int
    """Pitch class, 0 is C."""
    minor: bool
    correlation: float
    """Of the score's pitch classes with the key's profile, -1 to 1."""
    margin: float
    """By which it is above that of the next best key."""


def pitch_class_weights(score: Score) -> NDArray[np.float64]:
    """Quarter notes that each pitch class sounds in all, [12]."""
    weights = np.zeros(12)
    np.add.at(weights, score.notes["pitch"] % 12, score.notes["duration"] / score.ticks_per_quarter)
    return weights


def estimate_key(score: Score) -> KeyEstimate | None:
    """The key whose profile correlates best with how long each pitch class sounds (Krumhansl & Schmuckler: Krumhansl 1990,
    chapter 4). None where all pitch classes sound equally, or none.
    """
    weights = pitch_class_weights(score)
    if np.ptp(weights) == 0:
        return None
    profiles = np.array([np.roll(profile, tonic) for profile in (MAJOR_PROFILE, MINOR_PROFILE) for tonic in range(12)])
    correlations = np.array([np.corrcoef(weights, profile)[0, 1] for profile in profiles])
    best = int(np.argmax(correlations))
    next_best = float(np.max(np.delete(correlations, best)))
    return KeyEstimate(best % 12, best >= 12, float(correlations[best]), float(correlations[best]) - next_best)


def with_key(score: Score) -> Score:
    """The score, with its key estimated where it states none, and one can be told."""
    if score.key_signatures or (key := estimate_key(score)) is None:
        return score
    return dataclasses.replace(score, key_signatures=(KeySignature(0, key.tonic, key.minor),))


def estimate_grid(score: Score, tolerance: float = 0.01, grids: Sequence[tuple[int, ...]] = GRIDS) -> tuple[int, ...]:
    """The coarsest grid that moves onsets and ends by at most `tolerance` quarters on average; else the best of them.

    Random times would be moved by a quarter of a step: a grid is only taken if they are moved by less than half of that.
    """
    errors = {grid: quantise(score, grid)[1].mean for grid in grids}
    for grid, error in errors.items():
        if error <= min(tolerance, 1 / (8 * max(grid))):
            return grid
    return min(errors, key=lambda grid: errors[grid])


@dataclasses.dataclass(frozen=True)
class MetreEstimate:
    """A metre, and where its first bar begins."""

    signature: TimeSignature
    first_bar: int
    """Tick of the first bar line; notes before it are an upbeat."""
    margin: float
    """Share by which it scores above the next best metre."""


def estimate_metre(score: Score, metres: Sequence[tuple[int, int]] = _METRES) -> MetreEstimate | None:
    """Metre and bar line of a score whose quarter notes are beats: where notes are long, low and many, bars begin.

    Each onset has an accent, the sum over its notes of the square root of the duration, more for bass notes. A metre's
    score is the mean accent on its bar lines and, at half the weight, on its other beats, less that between beats (in the
    spirit of Lerdahl & Jackendoff's preference rules 1983, and of Brown's autocorrelation 1993, which is added: how alike
    accents are a bar apart). None for fewer than eight onsets.
    """
    onsets, accents = _accents(score)
    if len(onsets) < 8:
        return None
    step = max(1, score.ticks_per_quarter // 4)  # sixteenths
    curve = np.zeros(int(onsets[-1] // step) + 1)
    np.add.at(curve, onsets // step, accents)
    curve = curve / curve.max()
    found: list[tuple[float, tuple[int, int], int]] = []
    for numerator, denominator in metres:
        bar, beat = 16 * numerator // denominator, 16 // denominator
        if denominator == 8:
            beat *= 3  # compound
        if len(curve) < 2 * bar:
            continue
        alike = _likeness(curve, bar)
        scores = [_fit(curve[shift:], bar, beat) for shift in range(0, bar, max(1, 8 // denominator))]
        best = int(np.argmax(scores))
        found.append((scores[best] + 0.5 * alike, (numerator, denominator), best * max(1, 8 // denominator)))
    if not found:
        return None
    found.sort(reverse=True)
    value, (numerator, denominator), shift = found[0]
    margin = (value - found[1][0]) / abs(value) if len(found) > 1 and value else 1.0
    first = shift * step
    return MetreEstimate(TimeSignature(first, numerator, denominator), first, float(margin))


def _accents(score: Score) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Ticks at which notes begin, ascending, and how much each stands out."""
    notes = score.notes[:_MOST_NOTES]
    weight = np.sqrt(notes["duration"] / score.ticks_per_quarter) * np.where(notes["pitch"] < 55, 1.5, 1.0)
    ticks, place = np.unique(notes["onset"], return_inverse=True)
    accents = np.bincount(place, weight * notes["velocity"] / 80, minlength=len(ticks))
    return ticks.astype(np.int64), accents.astype(np.float64)


def _fit(curve: NDArray[np.float64], bar: int, beat: int) -> float:
    whole = curve[: len(curve) // bar * bar].reshape(-1, bar).mean(axis=0)
    beats = whole[::beat][1:]
    between = np.delete(whole, np.arange(0, bar, beat))
    return float(whole[0] + 0.5 * (beats.mean() if len(beats) else 0) - between.mean() - 0.5 * beats.max(initial=0))


def _likeness(curve: NDArray[np.float64], lag: int) -> float:
    centred = curve - curve.mean()
    power = float(np.mean(centred**2))
    return float(np.mean(centred[lag:] * centred[:-lag])) / power if power else 0.0


@dataclasses.dataclass(frozen=True)
class BeatEstimate:
    """An even beat in a performance that was played without one."""

    seconds: float
    """Of a beat."""
    first: float
    """Second of the first beat."""
    strength: float
    """How well onsets lie on quarters of the beat: 1 is perfect, about 0 chance."""


def estimate_beat(score: Score) -> BeatEstimate | None:
    """The even beat that a score's onsets, in seconds, fit best; for files whose ticks do not say where beats are.

    For each period the vector strength of the onsets on it, on its half and its quarter (Goldberg & Brown 1969), weighted
    by their accents, and by how usual its tempo is. None for fewer than eight onsets.
    """
    ticks, accents = _accents(score)
    if len(ticks) < 8:
        return None
    times = to_seconds(score, ticks)
    weights = accents / accents.sum()
    span = max(float(times[-1] - times[0]), 1e-3)
    slow, fast = 60 / _SLOWEST, 60 / _FASTEST
    rates = np.arange(1 / slow, 1 / fast, min(0.25 / span, 0.01))[:50_000]  # beats a second
    strengths = np.zeros(len(rates))
    for share, factor in ((0.4, 1), (0.3, 2), (0.3, 4)):
        for first in range(0, len(rates), 512):
            turns = np.exp(2j * math.pi * factor * np.outer(rates[first : first + 512], times))
            strengths[first : first + 512] += share * np.abs(turns @ weights)
    usual = np.exp(-0.5 * (np.log2(rates * 60 / _USUAL) / 0.9) ** 2)
    best = int(np.argmax(strengths * usual))
    seconds = 1 / float(rates[best])
    phase = float(np.angle(np.exp(2j * math.pi * times / seconds) @ weights)) / (2 * math.pi)
    return BeatEstimate(seconds, phase * seconds % seconds, float(strengths[best]))


def with_metre(score: Score) -> Score:
    """The score, with its metre estimated where it states none, and one can be told; an upbeat gets a bar of its own."""
    if score.time_signatures or (metre := estimate_metre(score)) is None:
        return score
    signature = metre.signature
    begin = (dataclasses.replace(signature, tick=0),) if signature.tick else ()
    return dataclasses.replace(score, time_signatures=(*begin, signature))


def on_beat(score: Score, beat: BeatEstimate, divisions: int = 24) -> Score:
    """The score in beats instead of its own ticks: each beat is a quarter of `divisions` ticks, at one even tempo.

    Tempi, metres and keys of the old ticks are left out. Notes before the first beat begin with it.
    """
    notes = score.notes.copy()
    onset = (to_seconds(score, notes["onset"]) - beat.first) / beat.seconds * divisions
    end = (to_seconds(score, ends(notes)) - beat.first) / beat.seconds * divisions
    notes["onset"] = np.maximum(0, np.rint(onset)).astype(np.int64)
    notes["duration"] = np.maximum(1, np.rint(end).astype(np.int64) - notes["onset"])
    return dataclasses.replace(
        score,
        notes=notes,
        ticks_per_quarter=divisions,
        length=int(ends(notes).max(initial=0)),
        tempi=(Tempo(0, round(beat.seconds * 1e6)),),
        time_signatures=(),
        key_signatures=(),
    )
