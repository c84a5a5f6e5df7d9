"""How like the recordings their copies are: of a vocoder, say. For sets of clips that know what they are copies of."""

import contextlib
import dataclasses
import itertools
import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import ClassVar

import numpy as np

from jaxgen.core.descriptions import SHARE, Better, Description, Descriptions
from jaxgen.core.packages import import_package
from jaxgen.data.store import Store
from jaxgen.evaluation.audio_metric import AudioMetric, ClipSet, Measure, Reference
from jaxgen.evaluation.melody import track_pitch
from jaxgen.evaluation.metrics import mean
from jaxgen.evaluation.third_party import resample_clip

Pair = tuple[np.ndarray, np.ndarray]
"""A recording and its copy, float32 [nsamp] each."""

_PIECE_SECONDS = 4.0  # of what PESQ and STOI hear at a time: they know sentences, and refuse what is shorter than 0.4 s
_NARROW, _WIDE = 8_000, 16_000  # Hz that PESQ knows
_NO_PITCH = "no frame has a pitch in both"
_GROSS = 0.2  # of the recording's pitch: beyond it the pitch was not found, but another (Rabiner et al. 1976)


@dataclasses.dataclass(frozen=True)
class PitchErrors(AudioMetric):
    """Whether copies of one voice have its pitch, frame by frame of 10 ms."""

    compares_copies = True
    descriptions: ClassVar[Descriptions] = {
        "pitch_error_cents": Description(
            "Pitch error",
            "Mean pitch difference where both have a pitch, without gross errors; 100 cents are a semitone.",
            "cents",
            Better.LOWER,
            importance=2,
        ),
        "gross_pitch_error": Description(
            "Gross pitch errors",
            "Share of the frames with a pitch in both whose pitches differ by more than 20 %.",
            SHARE,
            Better.LOWER,
        ),
        "voicing_error": Description(
            "Voicing errors", "Share of frames in which only one of both has a pitch.", SHARE, Better.LOWER
        ),
    }

    lowest_hz: float = 60.0
    """Pitches are sought from here ..."""
    highest_hz: float = 400.0
    """... to here."""

    def prepare(self, reference: Reference) -> Measure:
        return self

    def __call__(self, clips: ClipSet) -> dict[str, float]:
        pitches = [
            [track_pitch(clip, clips.sample_rate, self.lowest_hz, self.highest_hz) for clip in pair]
            for pair in _pairs(clips)
        ]
        nothing = np.zeros(0)
        real, made = (np.concatenate(side) for side in zip((nothing, nothing), *pitches, strict=True))
        both = np.isfinite(real) & np.isfinite(made)
        ratio = made[both] / real[both]
        gross = np.abs(ratio - 1) > _GROSS
        return {
            "pitch_error_cents": mean(1_200 * np.abs(np.log2(ratio[~gross])), _NO_PITCH),
            "gross_pitch_error": mean(gross, _NO_PITCH),
            "voicing_error": mean(np.isfinite(real) != np.isfinite(made), "all clips are too short"),
        }


@dataclasses.dataclass(frozen=True)
class Pesq(AudioMetric):
    """Perceptual evaluation of speech quality, MOS-LQO (ITU-T P.862; narrow-band at 8 kHz, wide-band at 16 kHz and above).

    The mean over pieces of 4 s or more of clips one after another; `Absent` without speech.
    """

    compares_copies = True
    descriptions: ClassVar[Descriptions] = {
        "pesq": Description(
            "PESQ",
            "Perceived quality by ITU-T P.862, from about 1 to 4.6.",
            "MOS",
            Better.HIGHER,
            importance=3,
        )
    }

    def check(self, training: Store) -> None:
        import_package("pesq", "copies")

    def prepare(self, reference: Reference) -> Measure:
        return self

    def __call__(self, clips: ClipSet) -> dict[str, float]:
        package = import_package("pesq", "copies")
        rate, mode = (_WIDE, "wb") if clips.sample_rate >= _WIDE else (_NARROW, "nb")
        return {"pesq": _piecewise(lambda real, made: package.pesq(rate, real, made, mode), clips, rate)}


@dataclasses.dataclass(frozen=True)
class Stoi(AudioMetric):
    """Short-time objective intelligibility (Taal et al. 2011).

    The mean over pieces of 4 s or more of clips one after another; `Absent` where all are too short.
    """

    compares_copies = True
    descriptions: ClassVar[Descriptions] = {
        "stoi": Description(
            "STOI", "Intelligibility by its short-time objective measure, at most 1.", "", Better.HIGHER, importance=3
        )
    }

    def check(self, training: Store) -> None:
        import_package("pystoi", "copies")

    def prepare(self, reference: Reference) -> Measure:
        return self

    def __call__(self, clips: ClipSet) -> dict[str, float]:
        package = import_package("pystoi", "copies")
        rate = clips.sample_rate
        return {"stoi": _piecewise(lambda real, made: package.stoi(real, made, rate), clips, rate)}


def _piecewise(score: Callable[[np.ndarray, np.ndarray], float], clips: ClipSet, sample_rate: int) -> float:
    """Mean score of pieces at this rate, without those that have none: too short, or silent."""
    scores = []
    for piece in _pieces(_pairs(clips), round(_PIECE_SECONDS * clips.sample_rate)):
        with warnings.catch_warnings(), contextlib.suppress(RuntimeError, RuntimeWarning, ValueError):
            warnings.simplefilter("error", RuntimeWarning)  # pystoi's, with a score that is none
            scores.append(float(score(*(resample_clip(side, clips.sample_rate, sample_rate) for side in piece))))
    return mean([each for each in scores if math.isfinite(each)], "all clips are too short or silent")


def _pairs(clips: ClipSet) -> list[Pair]:
    assert clips.originals is not None  # `EvaluationConfig` has refused others
    return list(zip(clips.originals, clips.samples, strict=True))


def _pieces(pairs: Sequence[Pair], length: int) -> Iterator[Pair]:
    """Pairs joined, one after another, until each piece has `length` samples; the rest joins the last one. Those twice as
    long are cut before: PESQ has room for 50 utterances, and writes beyond it.
    """
    pairs = [
        part
        for pair in pairs
        for part in zip(*(np.array_split(side, max(1, len(side) // length)) for side in pair), strict=True)
    ]
    cuts, filled = [0], 0
    for place, (real, _) in enumerate(pairs, start=1):
        filled += len(real)
        if filled >= length:
            cuts.append(place)
            filled = 0
    cuts = [*cuts[:-1], len(pairs)] if len(cuts) > 1 else sorted({0, len(pairs)})
    for start, stop in itertools.pairwise(cuts):
        real, made = (np.concatenate(side) for side in zip(*pairs[start:stop], strict=True))
        yield real, made
