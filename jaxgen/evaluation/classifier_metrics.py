"""Figures of a classifier that was trained on real recordings alone: are labels recognised, are clips varied and like real ones?

Each is read against the same figure of held-out real recordings, and holds for the number of clips beside it.
"""

import dataclasses
import itertools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from jaxgen.core.descriptions import SHARE, Better, Description, Descriptions
from jaxgen.core.errors import UserError
from jaxgen.core.names import UserPath
from jaxgen.data.store import Store
from jaxgen.evaluation.audio_metric import AudioMetric, ClipSet, Measure, Reference
from jaxgen.evaluation.classifier import LabelClassifier, Predictions
from jaxgen.evaluation.classifier_training import load_or_train, require_labels
from jaxgen.evaluation.metrics import NO_CLIPS, Absent, frechet_distance, mean

Probabilities = NDArray[np.floating]
"""A classifier's probabilities for n clips, [n, K]; rows sum to 1."""

_NONE_ASKED = "no clip has a label that the classifier knows"
_LEAST = 1e-6  # probability that counts as none: a classifier's certainty beyond it must not decide a score


@dataclasses.dataclass(frozen=True)
class ClassifierMetrics(AudioMetric):
    """What a classifier of the data's labels says, for each label that it knows (digit, speaker, ...)."""

    descriptions: ClassVar[Descriptions] = {
        "classified_clips": Description(
            "Clips classified", "What the classifier's figures rest on; of labels, those clips that have one.", "clips"
        ),
        "{label}_recognised": Description(
            "{label} recognised",
            "Share of clips in which the classifier recognises the {label} that was asked for.",
            SHARE,
            Better.HIGHER,
            importance=4,
        ),
        "{label}_recognised_of_real": Description(
            "{label} recognised, relative",
            "The share recognised, divided by that of held-out recordings.",
            SHARE,
            Better.HIGHER,
        ),
        "{label}_least_recognised": Description(
            "{label} recognised least",
            "Share recognised of the {label} that is recognised least: above chance, all are there.",
            SHARE,
            Better.HIGHER,
            importance=1,
        ),
        "{label}_inception_score": Description(
            "{label} inception score",
            "1 if all clips sound alike; the number of values if each is clear and all are equally frequent.",
            "",
            Better.HIGHER,
        ),
        "{label}_modified_inception_score": Description(
            "{label} modified inception score", "The inception score over all pairs of clips.", "", Better.HIGHER
        ),
        "{label}_am_score": Description(
            "{label} AM score",
            "How far values are from their frequency in training, and how unclear they are; 0 is best.",
            "nats",
            Better.LOWER,
        ),
        "classifier_frechet_distance": Description(
            "Classifier's distance",
            "Fréchet distance of the classifier's embeddings to half of the held-out recordings, at equal counts.",
            "",
            Better.LOWER,
            importance=2,
        ),
        "classifier_frechet_clips": Description(
            "Clips on either side",
            "What the classifier's distance rests on; below 49 it is only indicative.",
            "clips",
        ),
        "within_labels_distance": Description(
            "Variety within labels",
            "Mean distance of the classifier's embeddings of two clips with all labels equal.",
            "",
            Better.LIKE_RECORDINGS,
            importance=1,
        ),
    }

    classifier: UserPath = ""
    """File of a classifier; none takes the one of the training data from the cache, or trains it."""

    def check(self, training: Store) -> None:
        if self.classifier:
            self._given(training.features.sample_rate)
        else:
            require_labels(training)

    def prepare(self, reference: Reference) -> Measure:
        rate = reference.real.sample_rate
        classifier = self._given(rate) if self.classifier else load_or_train(reference.training, reference.cache_dir)
        return _Prepared(classifier, reference.real, classifier(reference.real.samples))

    def _given(self, sample_rate: int) -> LabelClassifier:
        classifier = LabelClassifier.load(Path(self.classifier))
        if classifier.sample_rate != sample_rate:
            raise UserError(
                f"the classifier '{self.classifier}' is for {classifier.sample_rate} Hz, these clips have {sample_rate} Hz; "
                "change ClassifierMetrics(classifier=...) in the config, or leave it out."
            )
        return classifier


@dataclasses.dataclass(frozen=True)
class _Prepared:
    classifier: LabelClassifier
    real: ClipSet
    predictions: Predictions
    """Of the real recordings."""

    def __call__(self, clips: ClipSet) -> dict[str, float]:
        is_real = clips is self.real
        predictions = self.predictions if is_real else self.classifier(clips.samples)
        figures: dict[str, float] = {"classified_clips": len(clips.samples)}
        for name, values in self.classifier.labels.items():
            probabilities, trained_on = predictions.probabilities[name], self.classifier.about["frequencies"][name]
            share = recognition_rate(probabilities, values, _asked(clips, name))
            ceiling = recognition_rate(self.predictions.probabilities[name], values, _asked(self.real, name))
            figures |= {
                f"{name}_recognised": share,
                f"{name}_recognised_of_real": _of_real(share, ceiling),
                f"{name}_least_recognised": lowest_recognition_rate(probabilities, values, _asked(clips, name)),
                f"{name}_inception_score": inception_score(probabilities),
                f"{name}_modified_inception_score": modified_inception_score(probabilities),
                f"{name}_am_score": am_score(probabilities, np.asarray(trained_on)),
            }
        labels = tuple(self.classifier.labels)
        halves = self.real.halves(labels)
        count = min(len(clips.samples), len(halves[1]))
        ours = halves[0][:count] if is_real else clips.sample(count, labels)
        others = halves[1:] if is_real else halves
        return figures | {
            "classifier_frechet_distance": mean(
                [self._distance(predictions.embedding[ours], half, count) for half in others], NO_CLIPS
            ),
            "classifier_frechet_clips": count,
            "within_labels_distance": within_labels_distance(predictions.embedding, clips, labels),
        }

    def _distance(self, embedding: NDArray[np.float32], half: Sequence[int], count: int) -> float:
        """Fréchet distance to `count` real recordings of a half."""
        some = np.linspace(0, len(half) - 1, count).round().astype(int)
        return frechet_distance(embedding, self.predictions.embedding[np.asarray(half, int)[some]])


def recognition_rate(probabilities: Probabilities, values: Sequence[str], asked: Sequence[str | None]) -> float:
    """Share of clips whose most likely value is the one asked for; `Absent` where none is asked for one of `values`.

    asked: of each clip; None or a value that the classifier does not know leaves the clip out.
    """
    right = [values[row.argmax()] == value for row, value in zip(probabilities, asked, strict=True) if value in values]
    return mean(right, _NONE_ASKED)


def lowest_recognition_rate(probabilities: Probabilities, values: Sequence[str], asked: Sequence[str | None]) -> float:
    """The lowest `recognition_rate` of a single value, of those that are asked for; `Absent` where none is."""
    shares = [
        recognition_rate(probabilities, values, [value if each == value else None for each in asked])
        for value in values
        if value in asked
    ]
    return min(shares, default=Absent(_NONE_ASKED))


def inception_score(probabilities: Probabilities) -> float:
    """exp of the mean of KL(p(y|x) || p(y)) (Salimans et al. 2016, section 4): 1 for clips that all sound alike, or like
    nothing; K where each is clear and all values are equally frequent. In one piece, not in ten.
    """
    if not len(probabilities):
        return Absent(NO_CLIPS)
    log = _logs(probabilities)
    return math.exp(float(np.mean(np.sum(np.exp(log) * (log - np.log(np.exp(log).mean(0))), 1))))


def modified_inception_score(probabilities: Probabilities) -> float:
    """exp of the mean of KL(p(y|x) || p(y|x')) over all pairs of clips (Gurumurthy et al. 2017, section 4; over the whole
    set and not within a class, as Kong et al. 2021 use it for spoken digits): 1 for clips that all sound alike.
    """
    if not len(probabilities):
        return Absent(NO_CLIPS)
    log = _logs(probabilities)
    return math.exp(float(np.mean(np.sum(np.exp(log) * (log - log.mean(0)), 1))))


def am_score(probabilities: Probabilities, frequencies: NDArray[np.floating]) -> float:
    """KL(frequencies || p(y)) plus the mean entropy of p(y|x), in nats (Zhou et al. 2018, eq. 24); 0 is best.

    frequencies: of the values in the training data, [K].
    """
    if not len(probabilities):
        return Absent(NO_CLIPS)
    log = _logs(probabilities)
    entropy = -float(np.mean(np.sum(np.exp(log) * log, 1)))
    expected = _logs(np.asarray(frequencies, np.float64)[None])[0]
    return entropy + float(np.sum(np.exp(expected) * (expected - np.log(np.exp(log).mean(0)))))


def within_labels_distance(embedding: NDArray[np.floating], clips: ClipSet, names: Sequence[str]) -> float:
    """Mean Euclidean distance of the embeddings [n, D] of two clips whose labels `names` are all equal; `Absent` without two."""
    groups = clips.group_by(names).values()
    distances = [
        np.linalg.norm(embedding[a] - embedding[b]) for group in groups for a, b in itertools.combinations(group, 2)
    ]
    return mean(distances, "no two clips have the same labels")


def _of_real(share: float, ceiling: float) -> float:
    """A share of clips, divided by that of real recordings."""
    if isinstance(share, Absent) or isinstance(ceiling, Absent):
        return Absent(_NONE_ASKED)
    return share / ceiling if ceiling else Absent("no real recording is recognised")


def _asked(clips: ClipSet, name: str) -> list[str | None]:
    return [labels.get(name) for labels in clips.labels]


def _logs(probabilities: Probabilities) -> NDArray[np.float64]:
    """Logarithms, none below that of `_LEAST`."""
    raised = np.maximum(np.asarray(probabilities, np.float64), _LEAST)
    return np.log(raised / raised.sum(1, keepdims=True))
