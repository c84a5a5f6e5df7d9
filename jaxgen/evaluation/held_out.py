"""Measures clips that a model makes freely beside held-out recordings: distances, what they are like, whether they are copies."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import numpy as np

from jaxgen.core.descriptions import Better, Description, Descriptions
from jaxgen.core.errors import UserError
from jaxgen.data.store import Store
from jaxgen.evaluation import memorisation
from jaxgen.evaluation.audio_metric import AudioMetric, ClipSet, Reference
from jaxgen.evaluation.metrics import Absent, add_reasons, embed, frechet_distance, frechet_note
from jaxgen.evaluation.result import (
    CLIP_DESCRIPTIONS,
    ClipGroup,
    EvaluationResult,
    describe,
    fields,
    pick_balanced,
    pick_evenly,
)

EXCERPT_SECONDS = 60  # what is made, or listened to of a longer recording

MOST_REAL = 1_000  # held-out recordings that further metrics compare with

FRECHET_DESCRIPTION = Description(
    "Distance from recordings",
    "Fréchet distance between the mel cepstra of these clips and of held-out recordings.",
    "dB²",
    Better.LOWER,
    importance=3,
    reference="0 for the recordings themselves",
)


class HeldOutSet:
    """Held-out recordings, as the measure of clips made freely."""

    def __init__(
        self,
        metrics: Sequence[AudioMetric],
        training: Store,
        store: Store,
        clips: Sequence[int],
        cache_dir: str | Path,
    ):
        """clips: of `store`, those held out. training: the data trained on. Raises UserError without held-out clips."""
        if not clips:
            raise UserError(
                "there is no held-out clip to evaluate on; set some aside (data.validation) or pass --data.root a folder."
            )
        self._training, self._store, self._clips = training, store, clips
        self._rate = store.features.sample_rate
        measured = pick_evenly(clips, MOST_REAL)
        self._real = ClipSet([excerpt(store, i) for i in measured], self._rate, fields(store, measured))
        self._measures = [metric.prepare(Reference(training, self._real, cache_dir)) for metric in metrics]
        self._descriptions: Descriptions = {
            "frechet_distance_db2": FRECHET_DESCRIPTION,
            **CLIP_DESCRIPTIONS,
            **memorisation.DESCRIPTIONS,
            **{name: each for metric in metrics for name, each in metric.descriptions.items()},
        }
        self._reference = np.concatenate([embed(excerpt(store, i), self._rate) for i in clips])

    def measure(self, group: ClipGroup) -> dict[str, float]:
        """What a set of clips is like, by unit-bearing name."""
        return self._measured(group)[0]

    def choose(self, names: Sequence[str], count: int) -> list[int]:
        """Exactly `count` of the held-out clips, as evenly as can be over the values of these labels."""
        return pick_balanced(self._store, self._clips, names, count)

    def result(
        self,
        chosen: Sequence[int],
        labels: tuple[dict[str, str], ...],
        generated: list[np.ndarray],
        untrained: list[np.ndarray],
        *,
        seed: int,
        metrics: Mapping[str, float],
        notes: Mapping[str, str],
        real_time_factor: float,
        losses_are_comparable: bool = True,
        descriptions: Descriptions = MappingProxyType({}),
        partly_labelled: Sequence[ClipGroup] = (),
    ) -> EvaluationResult:
        """All that is found of clips that have the labels of the `chosen` held-out ones.

        generated: by the model; untrained: by what it was at first. seed: of the noise beside them. metrics, notes: what is
        known of the model already; descriptions: of these metrics. partly_labelled: clips of the model for which not all labels
        were said, a column each.
        """
        names, training = tuple(dict.fromkeys(name for row in labels for name in row)), self._training
        known = pick_balanced(training, training.indices("train"), names, len(chosen))
        recordings = [excerpt(self._store, i) for i in chosen]
        groups = (
            ClipGroup("training data", [excerpt(training, i) for i in known], fields(training, known)),
            ClipGroup("held-out data", recordings, fields(self._store, chosen)),
            ClipGroup("generated", generated, labels),
            ClipGroup("untrained model", untrained, labels),
            ClipGroup("noise", _noise(recordings, seed), labels),
            *partly_labelled,
        )
        measured = {group.name: self._measured(group) for group in groups}
        table = {name: figures for name, (figures, _) in measured.items()}
        distances = {f"Fréchet distance of {name}": note for name, (_, note) in measured.items()}
        copies = memorisation.memorisation(
            ((training.clips[i].name, training.samples(i)) for i in training.indices("train")),
            ((f"generated {place}", clip) for place, clip in enumerate(generated)),
            ((self._store.clips[i].name, excerpt(self._store, i)) for i in self._clips),
            self._rate,
        )
        return EvaluationResult(
            dict(metrics) | table["generated"] | copies.figures,
            groups,
            table,
            labels,
            dict(notes) | distances,
            copies,
            real_time_factor,
            losses_are_comparable=losses_are_comparable,
            partly_labelled=tuple(group.name for group in partly_labelled),
            descriptions={**self._descriptions, **descriptions},
        )

    def _measured(self, group: ClipGroup) -> tuple[dict[str, float], str]:
        """The figures of a set of clips, and what its Fréchet distance rests on."""
        real = group.name == "held-out data"
        embedded = np.concatenate([embed(clip, self._rate) for clip in group.clips])
        # held-out clips are the reference itself: their distance would be about 0 by construction
        distance = (
            Absent("the others are compared with these clips") if real else frechet_distance(embedded, self._reference)
        )
        found = {"frechet_distance_db2": distance} | describe(group, self._rate)
        for measure in self._measures:
            clips = self._real if real else ClipSet(group.clips, self._rate, group.labels)
            found |= add_reasons(measure(clips), "these clips do not tell")
        return found, frechet_note(embedded, self._reference)


def excerpt(store: Store, clip: int) -> np.ndarray:
    """The beginning of a clip, float32 [nsamp, *sample_shape]; of all but long recordings, the whole."""
    return store.samples(clip, stop=round(EXCERPT_SECONDS * store.features.sample_rate))


def _noise(clips: Sequence[np.ndarray], seed: int) -> list[np.ndarray]:
    """White noise of the clips' lengths and loudness."""
    generator = np.random.default_rng(seed)
    return [
        np.clip(generator.normal(0, np.sqrt(np.mean(np.square(clip))), clip.shape), -1, 1).astype(np.float32)
        for clip in clips
    ]
