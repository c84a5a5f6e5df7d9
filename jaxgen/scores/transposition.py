"""By how much given music has to be transposed to be in the key of a corpus, where that is in one key."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from jaxgen.scores.score import Score

_PRIOR = 0.5  # notes of each pitch class that a piece has beside its own (Jeffreys 1946)
_SEMITONES = range(-6, 6)


def count_pitch_classes(score: Score) -> tuple[int, ...]:
    """Notes of each pitch class, 12 counts from C on."""
    return tuple(np.bincount(score.notes["pitch"] % 12, minlength=12).tolist())


def find_key(pieces: ArrayLike) -> tuple[tuple[int, ...], ...]:
    """Those pieces that `fit_transposition` compares with; none where the corpus is in many keys.

    pieces: `count_pitch_classes` of each, [N, 12]. A corpus is in one key where most pieces lie as they are among the others:
    each of them is compared with the rest, by all twelve transpositions.
    """
    counts = np.asarray(pieces, np.int64).reshape(-1, 12)
    if len(counts) < 2:
        return ()
    alike = [fit_transposition(piece, np.delete(counts, place, axis=0)) == 0 for place, piece in enumerate(counts)]
    return tuple(tuple(piece) for piece in counts.tolist()) if np.mean(alike) > 0.5 else ()


def fit_transposition(given: Sequence[int] | NDArray[np.integer], pieces: ArrayLike) -> int:
    """Semitones, -6 to 5, by which music has to be higher to be in the key of these pieces; 0 without any.

    given: `count_pitch_classes` of it, [12]. pieces: of theirs, [N, 12]. Notes are taken for independent draws from the pitch
    classes of a piece that is not known (naive Bayes: Manning, Raghavan and Schütze 2008, section 13.2).
    """
    counts = np.asarray(pieces, np.float64).reshape(-1, 12) + _PRIOR
    if not len(counts):
        return 0
    log_shares = np.log(counts / counts.sum(axis=1, keepdims=True))
    nats = [np.logaddexp.reduce(log_shares @ np.roll(given, semitones)) for semitones in _SEMITONES]
    best = max(zip(_SEMITONES, nats, strict=True), key=lambda pair: (round(float(pair[1]), 6), -abs(pair[0])))
    return best[0]
