"""How long clips are and how high they sound, beside real recordings."""

import dataclasses
import math
from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from jaxgen.core.descriptions import SHARE, Better, Description, Descriptions
from jaxgen.core.errors import UserError
from jaxgen.evaluation.audio_metric import AudioMetric, ClipSet, Measure, Reference
from jaxgen.evaluation.classifier_training import classifiable_labels
from jaxgen.evaluation.melody import track_pitch
from jaxgen.evaluation.metrics import NO_CLIPS, Absent, mean


def _quantile_descriptions(figure: str, name: str, meaning: str, unit: str) -> dict[str, Description]:
    return {
        figure.format(q): Description(f"{name}, {words}", f"{meaning}: {words}.", unit, Better.LIKE_RECORDINGS)
        for q, words in ((10, "lowest tenth"), (50, "median"), (90, "highest tenth"))
    }


@dataclasses.dataclass(frozen=True)
class Prosody(AudioMetric):
    """Lengths and pitches of clips with one voice.

    Distances are 1-Wasserstein distances to the lengths of held-out recordings; for these themselves, of one half to the other.
    """

    descriptions: ClassVar[Descriptions] = {
        "prosody_clips": Description("Clips measured", "What lengths and pitches rest on.", "clips"),
        **_quantile_descriptions("seconds_p{}", "Length", "Length of the clips", "s"),
        "seconds_distance": Description(
            "Distance of lengths",
            "How far lengths are from those of held-out recordings, on average.",
            "s",
            Better.LOWER,
        ),
        "{label}_seconds_distance": Description(
            "Distance of lengths by {label}",
            "How far lengths are from those of held-out recordings of the same {label}, mean over its values.",
            "s",
            Better.LOWER,
        ),
        "pitched_share": Description(
            "Frames with a pitch", "Share of all frames of 10 ms.", SHARE, Better.LIKE_RECORDINGS
        ),
        **_quantile_descriptions("pitch_p{}_hz", "Pitch", "Pitch of the frames that have one", "Hz"),
    }

    lowest_hz: float = 60.0
    """Pitches are sought from here ..."""
    highest_hz: float = 400.0
    """... to here."""

    def __post_init__(self) -> None:
        if not 0 < self.lowest_hz < self.highest_hz < math.inf:
            raise UserError(f"Prosody needs 0 < lowest_hz < highest_hz, got {self.lowest_hz} and {self.highest_hz}.")

    def prepare(self, reference: Reference) -> Measure:
        return _Prepared(self, tuple(classifiable_labels(reference.training)), reference.real)


@dataclasses.dataclass(frozen=True)
class _Prepared:
    settings: Prosody
    labels: tuple[str, ...]
    real: ClipSet

    def __call__(self, clips: ClipSet) -> dict[str, float]:
        first, *others = halves = [self.real.select(places) for places in self.real.halves(self.labels)]
        ours = first  # of equal counts: the distance of few is larger
        if clips is not self.real:
            ours, others = clips.select(clips.sample(len(others[0].samples), self.labels)), halves
        low, high = self.settings.lowest_hz, self.settings.highest_hz
        tracks = [track_pitch(clip, clips.sample_rate, low, high) for clip in clips.samples]
        pitches = np.concatenate([*tracks, np.zeros(0)])
        voiced = pitches[np.isfinite(pitches)]
        return (
            {"prosody_clips": len(clips.samples)}
            | _quantiles("seconds_p{}", _seconds(clips), NO_CLIPS)
            | {"seconds_distance": _mean_distance(ours, others, ())}
            | {f"{name}_seconds_distance": _mean_distance(ours, others, (name,)) for name in self.labels}
            | {"pitched_share": mean(np.isfinite(pitches), "all clips are too short")}
            | _quantiles("pitch_p{}_hz", voiced, "nothing has a pitch")
        )


def seconds_distance(a: ClipSet, b: ClipSet, names: Sequence[str]) -> float:
    """1-Wasserstein distance of two sets' lengths in seconds, among clips of equal labels `names`; mean over their values.

    `Absent` where no value is in both sets.
    """
    from scipy.stats import wasserstein_distance

    ours, theirs = a.group_by(names), b.group_by(names)
    distances = [
        wasserstein_distance(_seconds(a.select(ours[value])), _seconds(b.select(theirs[value])))
        for value in ours.keys() & theirs.keys()
    ]
    return mean(distances, "no two clips of the sets have equal labels")


def _mean_distance(ours: ClipSet, others: Sequence[ClipSet], names: Sequence[str]) -> float:
    return mean([seconds_distance(ours, other, names) for other in others], NO_CLIPS)


def _seconds(clips: ClipSet) -> np.ndarray:
    return np.array([len(clip) / clips.sample_rate for clip in clips.samples])


def _quantiles(name: str, values: np.ndarray, reason: str) -> dict[str, float]:
    """Of none: `Absent`, for this reason."""
    return {name.format(q): float(np.percentile(values, q)) if len(values) else Absent(reason) for q in (10, 50, 90)}
