"""Measures a model that makes clips of noise: as clips that are drawn freely are measured, and how fast they are made."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxgen.core.errors import UserError
from jaxgen.data.spec import DataSpec
from jaxgen.data.store import Store
from jaxgen.evaluation.held_out import HeldOutSet
from jaxgen.evaluation.result import (
    REAL_TIME_FACTOR,
    ClipGroup,
    EvaluationConfig,
    EvaluationResult,
    Evaluator,
    describe_hardware,
    known_labels,
    pick_evenly,
)
from jaxgen.features import Decoder
from jaxgen.inference.latent import BATCH, LatentSampler
from jaxgen.models.config import ModelConfig
from jaxgen.models.latent import LatentGeneratorConfig, LatentSampling
from jaxgen.objectives.adversarial import AdversarialTask
from jaxgen.objectives.objective import TrainTask


@dataclasses.dataclass(frozen=True)
class LatentEvaluation(EvaluationConfig):
    """Clips that a model makes of noise, with the labels of held-out ones."""

    sampling: LatentSampling = LatentSampling()
    """How the noise is drawn."""

    models = LatentSampler.kind
    next_command = "python -m jaxgen.generate --workdir {workdir} --num-clips 8 --interpolate 5"

    def sampler(
        self, task: TrainTask, model: ModelConfig, spec: DataSpec, decoder: Decoder | None = None
    ) -> LatentSampler:
        task, model = self._checked(task, model)
        # `model` configures what `task` trains
        return LatentSampler(task.module, model, spec, decoder)  # type: ignore[arg-type]

    def evaluator(self, task: TrainTask, model: ModelConfig, spec: DataSpec, **options: Any) -> "LatentEvaluator":
        task, model = self._checked(task, model)
        return LatentEvaluator(task, model, spec, self, **options)

    def _checked(self, task: TrainTask, model: ModelConfig) -> tuple[AdversarialTask, LatentGeneratorConfig]:
        if not isinstance(task, AdversarialTask) or not isinstance(model, LatentGeneratorConfig):
            raise UserError(
                f"LatentEvaluation measures models that make sound of noise, but --model is {type(model).__name__}; use "
                "--evaluation AutoregressiveEvaluation for one that predicts the next step, CopySynthesis for a vocoder."
            )
        return task, model


class LatentEvaluator(Evaluator):
    """Distances, and other metrics, of clips made freely. `loss` is the Fréchet distance: a generator has no likelihood."""

    def __init__(
        self,
        task: AdversarialTask,
        model: LatentGeneratorConfig,
        spec: DataSpec,
        evaluation: LatentEvaluation,
        *,
        batch_size: int,
        seq_len: int,
        seed: int,
        cache_dir: str | Path,
        decoder: Decoder | None = None,
    ):
        del batch_size, seq_len
        self._model, self._spec, self._evaluation, self._seed = model, spec, evaluation, seed
        self._cache_dir = cache_dir
        self._generator = evaluation.sampler(task, model, spec, decoder)
        self._held_out: HeldOutSet | None = None

    def validate(
        self, params: Any, store: Store, clips: Sequence[int], most: int
    ) -> tuple[dict[str, float], list[np.ndarray]]:
        """Figures of at most `most` clips with labels of held-out ones, always of the same noise, and the first few of them.

        Their `loss` is the Fréchet distance.
        """
        if self._held_out is None:  # the same throughout a training
            self._held_out = HeldOutSet(
                self._evaluation.metrics, store, store, pick_evenly(clips, most), self._cache_dir
            )
        chosen = self._held_out.choose(self._model.labels, min(most, self._evaluation.num_clips))
        labels = self._labels(store, chosen)
        made = self._generate(params, labels)
        figures = self._held_out.measure(ClipGroup("generated", made, labels))
        return figures | {"loss": figures["frechet_distance_db2"]}, made[: self._evaluation.num_previews]

    def evaluate(
        self, params: Any, untrained: Any, training: Store, store: Store, clips: Sequence[int]
    ) -> EvaluationResult:
        held_out = HeldOutSet(self._evaluation.metrics, training, store, clips, self._cache_dir)
        chosen = held_out.choose(self._model.labels, self._evaluation.num_clips)
        labels = self._labels(store, chosen)
        fast = self._generator(params, self._labels(store, (chosen * BATCH)[:BATCH]), seed=self._seed)
        return held_out.result(
            chosen,
            labels,
            self._generate(params, labels),
            self._generate(untrained, labels),
            seed=self._seed,
            metrics={"real_time_factor": fast.real_time_factor},
            notes={"real-time factor": f"{BATCH} clips together, after compilation, {describe_hardware()}"},
            real_time_factor=fast.real_time_factor,
            losses_are_comparable=False,
            partly_labelled=self._evaluation.partly_labelled(
                self._spec, self._model.labels, self._seed, lambda rows: self._generate(params, rows)
            ),
            descriptions={"real_time_factor": REAL_TIME_FACTOR},
        )

    def _labels(self, store: Store, chosen: Sequence[int]) -> tuple[dict[str, str], ...]:
        """Labels of the clips; those that the model does not know are drawn."""
        names = self._model.labels
        return self._spec.draw_labels(names, known_labels(self._spec, names, store, chosen), self._seed)

    def _generate(self, params: Any, labels: Sequence[Mapping[str, str]]) -> list[np.ndarray]:
        return self._generator(params, labels, latents=self._evaluation.sampling, seed=self._seed).clips
