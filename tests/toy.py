"""A kind of model that jaxgen does not know, and all that goes with it, as somebody would write it outside the package.

    python -m jaxgen.train --config tests/toy.py

Noise is given the spectrum of each kind of sound: a data set, a model, an objective, a sampler, an evaluation and a metric.
"""

import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from jaxgen.config import Config
from jaxgen.core.descriptions import Better, Description, Descriptions
from jaxgen.data.batches import Batches
from jaxgen.data.excerpts import Excerpts
from jaxgen.data.spec import DataSpec
from jaxgen.data.store import Store
from jaxgen.data.synthetic import SyntheticDataset
from jaxgen.evaluation.audio_metric import AudioMetric, ClipSet, Measure, Reference
from jaxgen.evaluation.held_out import HeldOutSet
from jaxgen.evaluation.result import EvaluationConfig, EvaluationResult, Evaluator, known_labels
from jaxgen.features import Decoder, MuLaw
from jaxgen.inference.sampler import ClipBatch, ClipRequest, ClipSampler
from jaxgen.models.config import ModelConfig
from jaxgen.objectives.guard import Guard
from jaxgen.objectives.objective import ModuleTemplate, Objective, TrainTask
from jaxgen.objectives.state import TrainState
from jaxgen.training.schedule import Train

CUTOFFS = {"low": (0.02, 0.2), "high": (0.25, 0.45)}


@dataclasses.dataclass(frozen=True)
class Hisses(SyntheticDataset):
    """Noise in one of two bands of frequencies."""

    num_clips: int = 24
    """Clips in all."""
    seconds: float = 0.4
    """Length of a clip in seconds."""
    seed: int = 0
    """Another seed makes other clips."""
    sample_rate: int = 8_000
    """Hz."""

    name = "hisses"
    version = 1

    def labels(self, index: int) -> dict[str, Any]:
        return {"band": tuple(CUTOFFS)[(index + index // 10) % 2]}  # of both, one is held out

    def synthesise(self, index: int, labels: Mapping[str, Any]) -> np.ndarray:
        size = round(self.seconds * self.sample_rate)
        spectrum = np.fft.rfft(np.random.default_rng((self.seed, index)).normal(size=size))
        low, high = CUTOFFS[labels["band"]]
        places = np.fft.rfftfreq(size)
        return (0.2 * np.fft.irfft(spectrum * ((places > low) & (places < high)), size)).astype(np.float32)


@dataclasses.dataclass(frozen=True)
class ShapedNoise(ModelConfig):
    """Noise whose spectrum is learned for each value of the labels."""

    bins: int = 65
    """Frequencies from 0 to half the sample rate."""
    labels: tuple[str, ...] = ("band",)
    """Names of the labels that condition the model."""

    def make(self, data: DataSpec, *, dtype: Any, rngs: nnx.Rngs) -> "ShapedNoiseModule":
        return ShapedNoiseModule(self, data, rngs)


class ShapedNoiseModule(nnx.Module):
    def __init__(self, config: ShapedNoise, data: DataSpec, rngs: nnx.Rngs):
        values = 1 + len(dict(data.vocabularies)[config.labels[0]])
        self.log_gains = nnx.Param(0.1 * jax.random.normal(rngs.params(), (values, config.bins)))

    def __call__(self, labels: jax.Array) -> jax.Array:
        """Log magnitudes float32 [B, bins] of labels int32 [B]."""
        return self.log_gains[...][labels]


def log_magnitudes(samples: jax.Array, bins: int) -> jax.Array:
    """Mean over windows of 2 * (bins - 1) samples, float32 [B, bins], of samples [B, T]."""
    size = 2 * (bins - 1)
    windows = samples[:, : samples.shape[1] // size * size].reshape(len(samples), -1, size)
    power = jnp.square(jnp.abs(jnp.fft.rfft(windows))).mean(axis=1)
    return 0.5 * jnp.log(power + 1e-4)


@dataclasses.dataclass(frozen=True)
class SpectrumMatch(Objective):
    """Squared difference of log magnitudes."""

    learning_rate: float = 0.3
    """Of Adam."""

    def build(self, model: ModelConfig, data: DataSpec, *, steps: int, batch_size: int) -> "SpectrumTask":
        return SpectrumTask(self, model, data)

    def batches(
        self,
        model: ModelConfig,
        store: Store,
        data: DataSpec,
        *,
        batch_size: int,
        seq_len: int,
        seed: int,
        rows: Sequence[int] | None = None,
    ) -> Batches:
        return Excerpts(store, data, model.labels, batch_size=batch_size, length=seq_len, seed=seed, rows=rows)


class SpectrumTask(TrainTask):
    learning_rate_options = "--objective.learning-rate"

    def __init__(self, config: SpectrumMatch, model: Any, data: DataSpec):
        self._optimizer, self._label, self._bins = optax.adam(config.learning_rate), model.labels[0], model.bins
        self._model = ModuleTemplate(lambda rngs: model.make(data, dtype=jnp.float32, rngs=rngs))

    def module(self, params: Any) -> Any:
        return self._model(params)

    def init(self, key: jax.Array) -> TrainState:
        params = self._model.init(key)
        return TrainState(
            step=jnp.zeros((), jnp.int32),
            params=params,
            average=jax.tree.map(jnp.copy, params),
            opt_state=self._optimizer.init(params),
            carry=(),
            key=jax.random.key_data(key),
            guard=Guard.new(),
        )

    def loss(self, params: Any, batch: Mapping[str, Any]) -> jax.Array:
        expected = log_magnitudes(batch["samples"], self._bins)
        return jnp.square(self.module(params)(batch["labels"][self._label]) - expected).mean()

    def train_step(self, state: TrainState, batch: Mapping[str, Any]) -> tuple[TrainState, dict[str, jax.Array]]:
        loss, gradient = jax.value_and_grad(self.loss)(state.params, batch)
        updates, opt_state = self._optimizer.update(gradient, state.opt_state)
        params = optax.apply_updates(state.params, updates)
        norm = optax.tree.norm(gradient)
        good, guard = state.guard.update(loss, norm, 0.0)
        new = state._replace(params=params, average=params, opt_state=opt_state)
        kept = jax.tree.map(lambda new, old: jnp.where(good, new, old), new, state)
        metrics = {"loss": loss, "gradient_norm": norm, "skipped": guard.skipped, "skipped_in_row": guard.in_row}
        return kept._replace(step=state.step + 1, guard=guard), metrics


@dataclasses.dataclass(frozen=True)
class Loudness:
    """How noise is drawn."""

    gain: float = 1.0
    """Of its amplitude."""


class NoiseShaper(ClipSampler):
    kind = "shapes noise"
    unsupported = ("prompt", "interpolate", "input", "bars", "infill", "soundfont")
    default_batch_size = 16

    def __init__(self, module: Callable[[Any], Any], model: Any, spec: DataSpec):
        self._label, self._bins, self._spec = model.labels[0], model.bins, spec
        self._log_gains = jax.jit(lambda params, labels: module(params)(labels))

    def max_samples(self, request: ClipRequest) -> int:
        seconds = self._spec.typical_seconds if request.seconds is None else request.seconds
        return round(seconds * self._spec.features.sample_rate)

    def _batches(self, params: Any, request: ClipRequest, sampling: Loudness) -> Iterator[ClipBatch]:
        rows = self._spec.draw_labels((self._label,), [request.labels] * request.num_clips, request.seed)
        size = request.batch_size or self.default_batch_size
        for first in range(0, request.num_clips, size):
            labels = rows[first : first + size]
            clips = self.shape(params, labels, self.max_samples(request), sampling, request.seed, first)
            yield ClipBatch(first, labels, [clips])

    def shape(
        self,
        params: Any,
        labels: Sequence[Mapping[str, str]],
        length: int,
        sampling: Loudness,
        seed: int,
        first: int = 0,
    ) -> list[np.ndarray]:
        indices = np.array([self._spec.label_index(self._label, row[self._label]) for row in labels], np.int32)
        magnitudes = np.exp(np.asarray(self._log_gains(params, indices)))
        clips = []
        for place, magnitude in enumerate(magnitudes, first):
            noise = np.fft.rfft(np.random.default_rng((seed, place)).normal(size=length))
            shape = np.interp(np.linspace(0, 1, len(noise)), np.linspace(0, 1, self._bins), magnitude)
            sound = np.fft.irfft(noise * shape / np.sqrt(2 * (self._bins - 1)), length)
            clips.append(np.clip(sampling.gain * sound, -1, 1).astype(np.float32))
        return clips


@dataclasses.dataclass(frozen=True)
class SpectrumEvaluation(EvaluationConfig):
    """How near spectra are, and clips of shaped noise."""

    sampling: Loudness = Loudness()
    """How noise is drawn."""

    models = NoiseShaper.kind
    next_command = "python -m jaxgen.generate --workdir {workdir}"

    def sampler(
        self, task: TrainTask, model: ModelConfig, spec: DataSpec, decoder: Decoder | None = None
    ) -> NoiseShaper:
        return NoiseShaper(task.module, model, spec)

    def evaluator(self, task: TrainTask, model: ModelConfig, spec: DataSpec, **options: Any) -> "SpectrumEvaluator":
        return SpectrumEvaluator(task, model, spec, self, options["seed"], options["cache_dir"])


class SpectrumEvaluator(Evaluator):
    def __init__(
        self, task: Any, model: Any, spec: DataSpec, evaluation: SpectrumEvaluation, seed: int, cache_dir: Any
    ):
        self._task, self._spec, self._evaluation = task, spec, evaluation
        self._label, self._seed, self._cache_dir = model.labels[0], seed, cache_dir
        self._sampler = evaluation.sampler(task, model, spec)
        self._loss = jax.jit(task.loss)

    def validate(
        self, params: Any, store: Store, clips: Sequence[int], most: int
    ) -> tuple[dict[str, float], list[np.ndarray]]:
        losses = []
        for clip in clips[:most]:
            label = self._spec.label_indices(self._label, [store.clips[clip].fields[self._label]])
            batch = {"samples": store.samples(clip)[None], "labels": {self._label: label}}
            losses.append(float(self._loss(params, batch)))
        shown = list(clips[: self._evaluation.num_previews])
        return {"loss": float(np.mean(losses))}, self._made(params, store, shown)

    def evaluate(
        self, params: Any, untrained: Any, training: Store, store: Store, clips: Sequence[int]
    ) -> EvaluationResult:
        held_out = HeldOutSet(self._evaluation.metrics, training, store, clips, self._cache_dir)
        chosen = held_out.choose((self._label,), self._evaluation.num_clips)
        started = time.perf_counter()
        generated = self._made(params, store, chosen)
        seconds = sum(map(len, generated)) / self._spec.features.sample_rate
        return held_out.result(
            chosen,
            known_labels(self._spec, (self._label,), store, chosen),
            generated,
            self._made(untrained, store, chosen),
            seed=self._seed,
            metrics=self.validate(params, store, clips, len(clips))[0],
            notes={},
            real_time_factor=seconds / (time.perf_counter() - started),
        )

    def _made(self, params: Any, store: Store, chosen: Sequence[int]) -> list[np.ndarray]:
        labels = known_labels(self._spec, (self._label,), store, chosen)
        length = round(self._spec.typical_seconds * self._spec.features.sample_rate)
        return self._sampler.shape(params, labels, length, self._evaluation.sampling, self._seed)


@dataclasses.dataclass(frozen=True)
class Centroid(AudioMetric):
    """How high the sound of each band is."""

    descriptions: ClassVar[Descriptions] = {
        "centroid_{band}_hz": Description(
            "Centre of {band} sounds", "Mean centre of the spectrum.", "Hz", Better.LIKE_RECORDINGS, importance=1
        )
    }

    def prepare(self, reference: Reference) -> Measure:
        return lambda clips: {
            f"centroid_{band}_hz": centroid_hz(
                clips.select([i for i, row in enumerate(clips.labels) if row["band"] == band])
            )
            for band in CUTOFFS
        }


def centroid_hz(clips: ClipSet) -> float:
    """Mean over clips of the centre of the spectrum, in Hz."""
    found = []
    for samples in clips.samples:
        power = np.square(np.abs(np.fft.rfft(samples)))
        found.append(np.fft.rfftfreq(len(samples), 1 / clips.sample_rate) @ power / power.sum())
    return float(np.mean(found))


CONFIG = Config(
    data=Hisses(),
    features=MuLaw(sample_rate=8_000),
    model=ShapedNoise(),
    objective=SpectrumMatch(),
    train=Train(steps=40, batch_size=8, seq_len=1_280, eval_every=20, checkpoint_every=10, log_every=10),
    evaluation=SpectrumEvaluation(num_clips=8, num_previews=2, metrics=(Centroid(),)),
)
