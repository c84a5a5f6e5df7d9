"""Measures a trained model: likelihood, floors, distances, what its clips are like and whether they are copies."""

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxgen.core.descriptions import Better, Description, Descriptions
from jaxgen.core.errors import UserError
from jaxgen.data.spec import DataSpec
from jaxgen.data.store import Store
from jaxgen.evaluation import baselines
from jaxgen.evaluation.held_out import EXCERPT_SECONDS, HeldOutSet
from jaxgen.evaluation.metrics import channel_mean, log_spectral_distance_db, mean, multi_resolution_stft_distance
from jaxgen.evaluation.result import (
    TRAINING,
    EvaluationConfig,
    EvaluationResult,
    Evaluator,
    known_labels,
    known_streams,
    pick_balanced,
    pick_evenly,
)
from jaxgen.evaluation.scoring import Scorer
from jaxgen.features import Decoder, FeatureSpec
from jaxgen.inference.generation import GeneratedClips, Generator
from jaxgen.models.config import ModelConfig
from jaxgen.models.sequence import SequenceConfig
from jaxgen.nn.distributions import Sampling
from jaxgen.objectives.likelihood import LikelihoodTask
from jaxgen.objectives.objective import TrainTask

_RECONSTRUCTED = 32  # clips whose teacher-forced output is decoded and compared


DESCRIPTIONS: Descriptions = {
    "train_{figure}": TRAINING,
    "teacher_forced_log_spectral_distance_db": Description(
        "Spectral distance, guided",
        "Distance of log spectra between the sound that the model expects and the recording that it reads.",
        "dB",
        Better.LOWER,
        reference="0 for the recording itself",
    ),
    "teacher_forced_multi_resolution_stft_distance": Description(
        "STFT distance, guided",
        "Distance of magnitude spectra, over several windows, between what the model expects and what it reads.",
        "",
        Better.LOWER,
        reference="0 for the recording itself",
    ),
    **baselines.DESCRIPTIONS,
}
"""Of what is measured of the model itself, beside the model's own figures."""


@dataclasses.dataclass(frozen=True)
class AutoregressiveEvaluation(EvaluationConfig):
    """Likelihood of held-out clips, and clips that the model draws freely."""

    seconds: float | None = None
    """Longest generated clip in seconds; none takes the training clips' (see `jaxgen.generate`), 60 at the most."""
    sampling: Sampling = Sampling()
    """How steps are drawn."""

    models = Generator.kind
    next_command = "python -m jaxgen.generate --workdir {workdir} --num-clips 4 --seconds 6"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.seconds is not None and not 0 < self.seconds < math.inf:
            raise UserError(f"--evaluation.seconds is {self.seconds:g}, expected a length above 0.")

    def sampler(self, task: TrainTask, model: ModelConfig, spec: DataSpec, decoder: Decoder | None = None) -> Generator:
        task, model = self._checked(task, model)
        return Generator(task.module, model, spec, decoder)

    def evaluator(
        self, task: TrainTask, model: ModelConfig, spec: DataSpec, **options: Any
    ) -> "AutoregressiveEvaluator":
        task, model = self._checked(task, model)
        return AutoregressiveEvaluator(task, model, spec, self, **options)

    def _checked(self, task: TrainTask, model: ModelConfig) -> tuple[LikelihoodTask, SequenceConfig]:
        if not isinstance(task, LikelihoodTask) or not isinstance(model, SequenceConfig):
            raise UserError(
                "AutoregressiveEvaluation scores models that predict the next step, but --model is "
                f"{type(model).__name__}; use --evaluation CopySynthesis for one that turns frames into sound, "
                "LatentEvaluation for one that makes clips of noise."
            )
        return task, model


class AutoregressiveEvaluator(Evaluator):
    """Likelihood, and free-running clips."""

    def __init__(
        self,
        task: LikelihoodTask,
        model: SequenceConfig,
        spec: DataSpec,
        evaluation: AutoregressiveEvaluation,
        *,
        batch_size: int,
        seq_len: int,
        seed: int,
        cache_dir: str | Path,
        decoder: Decoder | None = None,
    ):
        """Raises UserError where the model cannot be sampled like this: before hours of training."""
        if evaluation.sampling.voiced_sharpness and not model.plans_voices:
            raise UserError(
                f"--evaluation.sampling.voiced-sharpness is {evaluation.sampling.voiced_sharpness:g}, but the model plans no "
                "voices, as PlannedRNN does; set it to 0."
            )
        if evaluation.sampling.guidance and not model.supports_guidance:
            raise UserError(
                f"--evaluation.sampling.guidance is {evaluation.sampling.guidance:g}, but the model has no labels to be "
                "guided by, or never trains without them; set it to 0, or name --model.labels and a --model.label-dropout."
            )
        self._model, self._spec, self._evaluation, self._seed = model, spec, evaluation, seed
        self._cache_dir = cache_dir
        self._module = task.module
        self._scorer = Scorer(task, model, spec, batch_size=batch_size, seq_len=seq_len)
        self._generator = evaluation.sampler(task, model, spec, decoder)

    def validate(
        self, params: Any, store: Store, clips: Sequence[int], most: int
    ) -> tuple[dict[str, float], Iterator[np.ndarray]]:
        """Scores of at most `most` of these clips, evenly spread, and a few generated clips with their labels."""
        return self._scorer(params, store, pick_evenly(clips, most)).metrics, self._previews(params, store, clips)

    def evaluate(
        self, params: Any, untrained: Any, training: Store, store: Store, clips: Sequence[int]
    ) -> EvaluationResult:
        """Measures `params` on held-out clips of `store`, beside the data trained on, an untrained model and noise.

        Raises UserError without held-out clips.
        """
        held_out = HeldOutSet(self._evaluation.metrics, training, store, clips, self._cache_dir)
        features = self._spec.features
        most = features.num_steps(round(EXCERPT_SECONDS * features.sample_rate))
        scores = self._scorer(params, store, clips, predict=pick_evenly(clips, _RECONSTRUCTED), most=most)
        train_scores = self._scorer(params, training, pick_evenly(training.indices("train"), len(clips)))
        metrics = scores.metrics | {f"train_{name}": value for name, value in train_scores.metrics.items()}
        metrics |= baselines.floors(
            features,
            lambda: (training.steps(clip) for clip in training.indices("train")),
            lambda: (store.steps(clip) for clip in clips),
        )
        metrics |= _reconstruction(features, store, scores.predictions)

        chosen = held_out.choose(self._model.labels, self._evaluation.num_clips)
        labels = known_labels(self._spec, self._model.labels, store, chosen)
        inputs = known_streams(self._model.streams, store, chosen)
        generated = self._generate(params, labels, inputs)
        return held_out.result(
            chosen,
            labels,
            generated.clips,
            self._generate(untrained, labels, inputs).clips,
            seed=self._seed,
            metrics=metrics,
            notes={"likelihood": f"{scores.num_steps} {features.step_unit}s of {len(clips)} clips"},
            real_time_factor=generated.real_time_factor,
            partly_labelled=self._evaluation.partly_labelled(
                self._spec,
                self._model.labels,
                self._seed,
                lambda rows: self._generate(params, rows, [inputs[i % len(inputs)] for i in range(len(rows))]).clips,
            ),
            descriptions={**DESCRIPTIONS, **self._module(params).descriptions},
        )

    def _previews(self, params: Any, store: Store, clips: Sequence[int]) -> Iterator[np.ndarray]:
        shown = pick_balanced(store, clips, self._model.labels, self._evaluation.num_previews)
        labels = known_labels(self._spec, self._model.labels, store, shown)
        yield from self._generate(params, labels, known_streams(self._model.streams, store, shown)).clips

    def _generate(
        self, params: Any, labels: Sequence[Mapping[str, str]], inputs: Sequence[Mapping[str, np.ndarray]]
    ) -> GeneratedClips:
        options = self._evaluation
        seconds = options.seconds or min(self._generator.default_seconds, EXCERPT_SECONDS)
        more: dict[str, Any] = {"seconds": seconds, "sampling": options.sampling, "seed": self._seed}
        return self._generator(params, labels, inputs=inputs if self._model.streams else None, **more)


def _reconstruction(features: FeatureSpec, store: Store, predictions: Mapping[int, np.ndarray]) -> dict[str, float]:
    """How far decoded teacher-forced predictions are from the recordings, means over clips."""
    longest = max(map(len, predictions.values()))
    silence = features.silence()
    padded = np.stack(
        [
            np.concatenate([p, np.broadcast_to(silence, (longest - len(p), *silence.shape))])
            for p in predictions.values()
        ]
    )
    decoded = np.asarray(jax.jit(features.decode)(padded))
    distances = []
    for clip, estimate in zip(predictions, decoded, strict=True):
        real = store.samples(clip, stop=features.num_samples(len(predictions[clip])))
        if len(real):
            pair = real, estimate[: len(real)], features.sample_rate
            measures = (log_spectral_distance_db, multi_resolution_stft_distance)
            distances.append([channel_mean(measure, *pair) for measure in measures])
    log_spectral, multi_resolution = zip(*distances, strict=True) if distances else ((), ())
    return {
        "teacher_forced_log_spectral_distance_db": mean(log_spectral, "all clips are empty"),
        "teacher_forced_multi_resolution_stft_distance": mean(multi_resolution, "all clips are empty"),
    }
