"""Metrics of speech that others made: PocketSphinx's recogniser of digits, and Microsoft's DNSMOS.

Both come with `pip install 'jaxgen[speech]'`, their models inside, and neither was trained on what is measured. Both
listen at 16 kHz and know wide-band speech: above half of a lower sample rate they hear nothing, so their figures say something
only beside those of real recordings of the same kind.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from jaxgen.core.descriptions import SHARE, Better, Description, Descriptions
from jaxgen.core.errors import UserError
from jaxgen.core.packages import import_package
from jaxgen.data.store import Store
from jaxgen.evaluation.audio_metric import AudioMetric, ClipSet, Measure, Reference
from jaxgen.evaluation.metrics import Samples, mean

WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")

_RATE = 16_000  # Hz, of both
_SCALES = {"p808_mos": "dnsmos_p808", "sig_mos": "dnsmos_sig", "bak_mos": "dnsmos_bak", "ovrl_mos": "dnsmos_ovrl"}

# What lets PocketSphinx hear most of 300 real recordings (8 kHz, cut close to the word): 69 % as they are, 78 % with silence
# around them, 83 % with faint noise as well, since its model knows neither digital silence nor an empty upper half of the
# spectrum. Wider beams, more silence and other noise do not help.
_PEAK = 0.9
_NOISE = _PEAK * 10 ** (-50 / 20)
_SILENCE_SECONDS = 0.25
_GRAMMAR = f"#JSGF V1.0;\ngrammar digits;\npublic <digit> = {' | '.join(WORDS)};\n"


@dataclasses.dataclass(frozen=True)
class PocketSphinx(AudioMetric):
    """Share of spoken English digits that PocketSphinx recognises, told that it hears one of ten words."""

    descriptions: ClassVar[Descriptions] = {
        "pocketsphinx_recognised": Description(
            "PocketSphinx recognises",
            "Share of spoken digits that a recogniser trained elsewhere hears right.",
            SHARE,
            Better.HIGHER,
            importance=4,
            reference="10 % by chance",
        ),
        "pocketsphinx_clips": Description("Digits recognised from", "Clips whose label is a digit.", "clips"),
    }

    label: str = "digit"
    """Field that says what is spoken: 0 to 9, or zero to nine."""

    def check(self, training: Store) -> None:
        import_package("pocketsphinx", "speech")

    def prepare(self, reference: Reference) -> Measure:
        return self

    def __call__(self, clips: ClipSet) -> dict[str, float]:
        spoken = [_digit(labels.get(self.label, "")) for labels in clips.labels]
        places = [place for place, digit in enumerate(spoken) if digit is not None]
        heard = recognise_digits([clips.samples[place] for place in places], clips.sample_rate)
        right = [digit == spoken[place] for place, digit in zip(places, heard, strict=True)]
        return {
            "pocketsphinx_recognised": mean(right, f"no clip has a digit as its {self.label}"),
            "pocketsphinx_clips": float(len(right)),
        }


@dataclasses.dataclass(frozen=True)
class DNSMOS(AudioMetric):
    """Mean opinion scores, from 1 to 5, that listeners would give, as DNSMOS predicts them (Reddy et al. 2021, 2022).

    A clip shorter than 9 s is heard over and over, as DNSMOS always does; half a second of speech is not what it was made for.
    """

    descriptions: ClassVar[Descriptions] = {
        "dnsmos_p808": Description(
            "DNSMOS",
            "Predicted opinion of the quality (ITU-T P.808), from 1 to 5.",
            "MOS",
            Better.HIGHER,
            importance=2,
        ),
        "dnsmos_sig": Description(
            "DNSMOS of speech", "Predicted opinion of the speech (P.835), from 1 to 5.", "MOS", Better.HIGHER
        ),
        "dnsmos_bak": Description(
            "DNSMOS of background", "Predicted opinion of the background (P.835), from 1 to 5.", "MOS", Better.HIGHER
        ),
        "dnsmos_ovrl": Description(
            "DNSMOS overall", "Predicted overall opinion (P.835), from 1 to 5.", "MOS", Better.HIGHER
        ),
        "dnsmos_clips": Description("Clips heard by DNSMOS", "What its means rest on.", "clips"),
    }

    num_clips: int = 32
    """Clips that are heard, evenly spread over those there are: each takes about a second."""

    def __post_init__(self) -> None:
        if self.num_clips < 1:
            raise UserError(f"num_clips is {self.num_clips}; DNSMOS must hear at least 1 clip.")

    def check(self, training: Store) -> None:
        import_package("speechmos.dnsmos", "speech")

    def prepare(self, reference: Reference) -> Measure:
        return self

    def __call__(self, clips: ClipSet) -> dict[str, float]:
        count = len(clips.samples)
        places = np.linspace(0, count - 1, min(self.num_clips, count)).round().astype(int)
        scores = opinion_scores([clips.samples[place] for place in places], clips.sample_rate)
        known = scores[np.isfinite(scores).all(axis=1)]
        means = [mean(column, "all clips are empty") for column in known.T]
        return dict(zip(_SCALES.values(), means, strict=True)) | {"dnsmos_clips": float(len(known))}


def recognise_digits(clips: Sequence[Samples], sample_rate: int) -> list[int | None]:
    """The digit that PocketSphinx hears in each clip, or None; each is heard for itself, whatever its loudness.

    clips: float32 [nsamp], full scale 1.0. Raises UserError where PocketSphinx is not installed.
    """
    decoder = import_package("pocketsphinx", "speech").Decoder(samprate=_RATE, lm=None, lw=1.0, loglevel="FATAL")
    decoder.add_jsgf_string("digits", _GRAMMAR)
    decoder.activate_search("digits")
    return [_heard(decoder, resample_clip(clip, sample_rate, _RATE)) for clip in clips]


def opinion_scores(clips: Sequence[Samples], sample_rate: int) -> NDArray[np.float64]:
    """DNSMOS of each clip [n, 4]: P.808, speech, background, overall; NaN for a clip without samples.

    clips: float32 [nsamp], full scale 1.0. Raises UserError where speechmos is not installed.
    """
    dnsmos = import_package("speechmos.dnsmos", "speech")
    scores = np.full((len(clips), len(_SCALES)), math.nan)
    for row, clip in zip(scores, clips, strict=True):
        heard = resample_clip(clip, sample_rate, _RATE)
        if len(heard):  # speechmos repeats a short clip for ever if it is empty
            found = dnsmos.run(np.clip(heard, -1, 1), _RATE)
            row[:] = [found[name] for name in _SCALES]
    return scores


def _heard(decoder: Any, samples: Samples) -> int | None:
    loud = np.pad(samples * (_PEAK / max(float(np.abs(samples).max(initial=0)), 1e-5)), round(_SILENCE_SECONDS * _RATE))
    noisy = loud + _NOISE * np.random.default_rng(0).standard_normal(len(loud))
    decoder.start_utt()
    decoder.process_raw((np.clip(noisy, -1, 1) * 32_767).astype(np.int16).tobytes(), full_utt=True)
    decoder.end_utt()
    hypothesis = decoder.hyp()
    return WORDS.index(hypothesis.hypstr) if hypothesis and hypothesis.hypstr else None


def _digit(spoken: str) -> int | None:
    if spoken in WORDS:
        return WORDS.index(spoken)
    return int(spoken) if spoken in map(str, range(10)) else None


def resample_clip(clip: Samples, sample_rate: int, wanted: int) -> Samples:
    """The clip at `wanted` Hz, float32 [nsamp]."""
    import soxr

    return soxr.resample(np.asarray(clip, np.float32), sample_rate, wanted)
