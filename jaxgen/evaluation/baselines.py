"""Floors: what the simplest predictors score. A model that does not beat them has learned nothing."""

import functools
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from jaxgen.core.descriptions import Description, Descriptions
from jaxgen.core.errors import UserError
from jaxgen.features import FeatureSpec, LogMel, MuLaw, SampleSpec

Codes = NDArray[np.integer]

_STEPS_AT_ONCE = 1 << 16  # that are in memory together


DESCRIPTIONS: Descriptions = {
    "unigram_{figure}": Description(
        "single-code guess", "Floor: each code is as likely as in training.", reference_of="{figure}"
    ),
    "bigram_{figure}": Description(
        "code-pair guess",
        "Floor: each code is as likely as after the one before it in training.",
        reference_of="{figure}",
    ),
    "copy_previous_frame_{figure}": Description(
        "copied frame", "Floor: the frame before is expected again.", reference_of="{figure}"
    ),
}
"""Of the floors, each a reference of the figure whose name follows."""

ClipSteps = Callable[[], Iterable[np.ndarray]]
"""Reads clips anew, the steps of one after the other."""


@functools.singledispatch
def floors(features: FeatureSpec, train: ClipSteps, test: ClipSteps) -> dict[str, float]:
    """What the simplest predictors of steps of this kind score on test clips, by metric; nothing where none is known.

    Another kind of feature registers its own: `@floors.register` above a function of these arguments.
    """
    del features, train, test
    return {}


@floors.register
def _of_codes(features: MuLaw, train: ClipSteps, test: ClipSteps) -> dict[str, float]:
    unigram, bigram = bits_per_sample(train, test, features)
    return {"unigram_bits_per_sample": unigram, "bigram_bits_per_sample": bigram}


@floors.register
def _of_samples(features: SampleSpec, train: ClipSteps, test: ClipSteps) -> dict[str, float]:
    """Counts of 16-bit samples would be too few: those of their mu-law codes."""
    law = MuLaw(sample_rate=features.sample_rate)

    def coded(clips: ClipSteps) -> Iterator[Codes]:
        return (np.asarray(law.encode(features.decode(steps))) for steps in clips())

    unigram, bigram = bits_per_sample(lambda: coded(train), lambda: coded(test), law)
    sums = [(law.bits_within_code()[codes].sum(), len(codes)) for codes in coded(test)]
    within = sum(bits for bits, _ in sums) / sum(count for _, count in sums)
    return {"unigram_bits_per_16_bit_sample": unigram + within, "bigram_bits_per_16_bit_sample": bigram + within}


@floors.register
def _of_frames(features: LogMel, train: ClipSteps, test: ClipSteps) -> dict[str, float]:
    size = features.frame_size
    train_frames, test_frames = (map(lambda s: s.reshape(-1, size), clips()) for clips in (train, test))
    floor = copy_previous_frame(train_frames, test_frames, features.silence()[:size], 1.0)
    return {"copy_previous_frame_mse": floor.mse, "copy_previous_frame_nats_per_frame": floor.nats_per_frame}


@dataclass(frozen=True)
class CopyFloor:
    """What `copy_previous_frame` scores, in the scaled space of the steps."""

    mse: float
    """Mean squared error a dimension of "the next frame is the last one"."""
    nats_per_frame: float
    """Negative log likelihood a frame of a diagonal Normal around the last frame."""


def bits_per_sample(
    train_codes: Callable[[], Iterable[Codes]], test_codes: Callable[[], Iterable[Codes]], law: MuLaw
) -> tuple[float, float]:
    """Those of unigrams and of bigrams over mu-law codes; the clips are read once for each."""
    return (
        unigram_bits_per_sample(train_codes(), test_codes(), law.q_levels),
        bigram_bits_per_sample(train_codes(), test_codes(), law.q_levels, int(law.silence())),
    )


def unigram_bits_per_sample(train_codes: Iterable[Codes], test_codes: Iterable[Codes], q_levels: int) -> float:
    """Bits a sample when every sample is drawn from the training histogram, counts smoothed by adding one.

    train_codes, test_codes: integer [nsamp] clips with values in [0, q_levels); each is read once.
    Raises UserError when there is no test sample or a code is out of range.
    """
    counts = np.ones(q_levels, np.int64)
    for _, codes in _pieces(train_codes, 0):
        counts += np.bincount(_checked(codes, q_levels), minlength=q_levels)
    bits = np.log2(counts.sum()) - np.log2(counts)
    return _bits_per_sample(bits[_checked(codes, q_levels)] for _, codes in _pieces(test_codes, 0))


def bigram_bits_per_sample(
    train_codes: Iterable[Codes], test_codes: Iterable[Codes], q_levels: int, start: int
) -> float:
    """Bits a sample when a sample depends on the one before it, counts of pairs smoothed by adding one.

    The sample before the first of a clip is `start` (the code of digital silence), in training and in test; nothing is
    carried from clip to clip and every sample is scored, as for a model.

    train_codes, test_codes: integer [nsamp] clips with values in [0, q_levels); each is read once.
    Raises UserError when there is no test sample or a code is out of range.
    """
    counts = np.ones(q_levels * q_levels, np.int64)
    for previous, codes in _pieces(train_codes, start):
        np.add.at(counts, _pairs(codes, q_levels, previous), 1)
    table = counts.reshape(q_levels, q_levels)
    bits = (np.log2(table.sum(axis=1, keepdims=True)) - np.log2(table)).reshape(-1)
    return _bits_per_sample(bits[_pairs(codes, q_levels, previous)] for previous, codes in _pieces(test_codes, start))


def copy_previous_frame(
    train_steps: Iterable[NDArray[np.floating]],
    test_steps: Iterable[NDArray[np.floating]],
    start: ArrayLike,
    scale: ArrayLike,
) -> CopyFloor:
    """Scores the prediction that a frame repeats the one before it.

    The likelihood is that of a diagonal Normal whose mean is the previous frame and whose variance in each dimension is
    the mean squared difference of successive training frames. The frame before the first of a clip is `start`.

    train_steps, test_steps: float [nframe, D] clips; each is read once. start: [D].
    scale: [D] or a number; frames are divided by it before anything is scored. Pass the training standard deviation
    where the model's figures are in standardised units, 1.0 where they are in the features' own.
    Raises UserError when either side has no frame.
    """
    start, scale = np.asarray(start, np.float64), np.asarray(scale, np.float64)
    variance = _mean_square_difference(train_steps, start, scale, "training")
    variance = np.maximum(variance, 1e-6)  # a dimension that never changes would make one surprise infinitely costly
    error = _mean_square_difference(test_steps, start, scale, "test")
    nats = 0.5 * np.sum(np.log(2 * math.pi * variance) + error / variance)
    return CopyFloor(mse=float(np.mean(error)), nats_per_frame=float(nats))


def _pieces(clips: Iterable[NDArray[Any]], start: Any) -> Iterator[tuple[Any, NDArray[Any]]]:
    """All steps, a bounded number at a time, each piece with the step before it; before a clip that is `start`."""
    for clip in clips:
        for at in range(0, len(clip), _STEPS_AT_ONCE):
            yield (clip[at - 1] if at else start), clip[at : at + _STEPS_AT_ONCE]


def _mean_square_difference(
    clips: Iterable[NDArray[np.floating]], start: NDArray[np.float64], scale: NDArray[np.float64], role: str
) -> NDArray[np.float64]:
    total, frames = np.zeros(start.shape), 0
    for previous, piece in _pieces(clips, start):
        difference = np.diff(piece, axis=0, prepend=np.asarray(previous, piece.dtype)[None]) / scale
        total += np.sum(difference**2, axis=0, dtype=np.float64)
        frames += len(piece)
    if frames == 0:
        raise UserError(f"there is no {role} frame to score the copy-the-previous-frame floor on: add {role} clips.")
    return total / frames


def _bits_per_sample(clips: Iterable[NDArray[np.float64]]) -> float:
    total, samples = 0.0, 0
    for bits in clips:
        total += float(bits.sum())
        samples += len(bits)
    if samples == 0:
        raise UserError("there is no test sample to score: add validation or test clips, or pass --data.root.")
    return total / samples


def _pairs(codes: Codes, q_levels: int, start: int) -> NDArray[np.int64]:
    """previous * q_levels + current, int64 [nsamp]; before the first is `start`."""
    current = _checked(codes, q_levels)
    pairs = current.copy()
    pairs[1:] += current[:-1] * q_levels
    pairs[:1] += int(start) * q_levels
    return pairs


def _checked(codes: Codes, q_levels: int) -> NDArray[np.int64]:
    checked = np.asarray(codes).astype(np.int64)
    if checked.size and not 0 <= checked.min() <= checked.max() < q_levels:
        span = f"[{checked.min()}, {checked.max()}]"
        raise UserError(f"codes lie in {span}, outside the {q_levels} levels of this model; prepare the data again.")
    return checked
