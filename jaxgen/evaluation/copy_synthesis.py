"""Measures a vocoder by copy synthesis: held-out recordings are made frames, and sound again, by it and by others."""

import dataclasses
import functools
import time
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen.core.descriptions import Better, Description, Descriptions
from jaxgen.core.errors import UserError
from jaxgen.core.serial import differences
from jaxgen.data.excerpts import excerpt_per_clip
from jaxgen.data.spec import DataSpec
from jaxgen.data.store import Store
from jaxgen.evaluation import stereo
from jaxgen.evaluation.audio_metric import ClipSet, Reference
from jaxgen.evaluation.held_out import EXCERPT_SECONDS, FRECHET_DESCRIPTION, MOST_REAL
from jaxgen.evaluation.metrics import (
    Absent,
    add_reasons,
    channel_mean,
    embed,
    frechet_distance,
    log_spectral_distance_db,
    multi_resolution_stft_distance,
    pad_to,
)
from jaxgen.evaluation.result import (
    CLIP_DESCRIPTIONS,
    REAL_TIME_FACTOR,
    TRAINING,
    ClipGroup,
    EvaluationConfig,
    EvaluationResult,
    Evaluator,
    describe,
    describe_hardware,
    fields,
    pick_evenly,
)
from jaxgen.features import Decoder, FeatureSpec, LogMel
from jaxgen.inference.sampler import ClipSampler
from jaxgen.inference.vocoding import Renderer
from jaxgen.models.config import ModelConfig
from jaxgen.models.vocoder import Vocoder
from jaxgen.objectives.adversarial import AdversarialTask
from jaxgen.objectives.objective import TrainTask

_TIMED = 16  # clips whose rendering is timed, once it is compiled
_FRAMES = 64  # to a multiple of which clips are padded, so that few programs are compiled
_NOT_SHOWN = ("licence", "split", "path")
_LONGEST_LABEL = 20

DESCRIPTIONS: Descriptions = {
    "log_spectral_distance_db": Description(
        "Spectral distance",
        "Distance of log spectra between the copy and the recording.",
        "dB",
        Better.LOWER,
        importance=5,
    ),
    "multi_resolution_stft_distance": Description(
        "STFT distance",
        "Distance of magnitude spectra between the copy and the recording, over several windows.",
        "",
        Better.LOWER,
        importance=4,
    ),
    "mel_distance_nats": Description(
        "Mel distance",
        "Mean difference between the frames of the copy and the frames that it was made of.",
        "nats",
        Better.LOWER,
        importance=4,
    ),
    "loss": Description(
        "Training loss",
        "The weighted sum of training's distances, of the network's sound before it is refined.",
        "",
        Better.LOWER,
        reference="0 for the recording itself",
    ),
    "train_{figure}": TRAINING,
    "griffin_lim_{iterations}_{figure}": Description(
        "Griffin-Lim, {iterations} iterations", "The same of librosa's Griffin-Lim.", reference_of="{figure}"
    ),
    "real_time_factor": REAL_TIME_FACTOR,
    "frechet_distance_db2": FRECHET_DESCRIPTION,
    **CLIP_DESCRIPTIONS,
    **stereo.ERROR_DESCRIPTIONS,
}
"""Of the figures of copies."""

Render = Callable[[np.ndarray], np.ndarray]
"""Frames of a clip float32 [nframe, frame_size] to samples float32 [(nframe - 1) * hop_length, *sample_shape]."""


@dataclasses.dataclass(frozen=True)
class CopySynthesis(EvaluationConfig):
    """Held-out recordings made frames, and sound again."""

    griffin_lim: tuple[int, ...] = (32, 60)
    """Iterations of librosa's Griffin-Lim, each of which is measured beside the vocoder."""

    models = "makes sound of frames and draws nothing"
    next_command = "python -m jaxgen.generate --workdir RUN_OF_A_MEL_MODEL --vocoder {workdir}"
    makes_copies = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if min(self.griffin_lim, default=1) < 1:
            raise UserError(f"--evaluation.griffin-lim is {self.griffin_lim}, expected iterations of at least 1.")

    def sampler(
        self, task: TrainTask, model: ModelConfig, spec: DataSpec, decoder: Decoder | None = None
    ) -> ClipSampler:
        raise UserError(
            f"--workdir holds a run of a {type(model).__name__}, which makes sound of frames and no frames; pass it as "
            "--vocoder, and as --workdir the run of a mel model."
        )

    def decoder(
        self, task: TrainTask, model: ModelConfig, spec: DataSpec, features: FeatureSpec, params: Any
    ) -> Renderer:
        if changed := differences(spec.features.unstacked, features.unstacked, prefix="features"):
            raise UserError(
                f"--vocoder makes sound of other frames than the model of --workdir makes: {'; '.join(changed)}. Pass one that "
                "was trained with the same features; a model of samples needs none."
            )
        return Renderer(task.module, typing.cast(LogMel, features), params)

    def evaluator(self, task: TrainTask, model: ModelConfig, spec: DataSpec, **options: Any) -> "CopyEvaluator":
        if not isinstance(task, AdversarialTask) or not isinstance(model, Vocoder):
            raise UserError(
                f"CopySynthesis measures vocoders, but --model is {type(model).__name__}; use --evaluation "
                "AutoregressiveEvaluation."
            )
        if not task.has_distance_terms:
            raise UserError(
                "CopySynthesis chooses the best checkpoint by the distance to recordings; add MelDistance() or StftDistance() "
                "to objective.terms in the config file."
            )
        return CopyEvaluator(task, spec, self, **options)


class CopyEvaluator(Evaluator):
    """Distances between recordings and their copies."""

    def __init__(
        self,
        task: AdversarialTask,
        spec: DataSpec,
        evaluation: CopySynthesis,
        *,
        batch_size: int,
        seq_len: int,
        seed: int,
        cache_dir: str | Path,
        decoder: Decoder | None = None,
    ):
        del seed
        if decoder is not None:
            raise UserError(
                "the run of --workdir is of a vocoder itself, and is measured as such; leave --vocoder out."
            )
        self._evaluation, self._cache_dir = evaluation, cache_dir
        self._batch_size, self._length = batch_size, seq_len * spec.features.samples_per_step
        self._features = typing.cast(LogMel, spec.features.unstacked)  # what a Vocoder is made for
        self._compare, self._terms = jax.jit(task.distances), task.config.terms
        # `evaluator` has seen that the model is a Vocoder
        self._renderer = Renderer(task.module, self._features)  # type: ignore[arg-type]

    def validate(
        self, params: Any, store: Store, clips: Sequence[int], most: int
    ) -> tuple[dict[str, float], Iterator[np.ndarray]]:
        shown = pick_evenly(self._usable(store, clips), self._evaluation.num_previews)
        copies = (self._copy(params, self._frames(store, clip)) for clip in shown)
        return self._scores(params, store, pick_evenly(clips, most)), copies

    def evaluate(
        self, params: Any, untrained: Any, training: Store, store: Store, clips: Sequence[int]
    ) -> EvaluationResult:
        usable = self._usable(store, clips)
        if not usable:
            raise UserError(
                "there is no held-out clip to copy; set some aside (data.validation) or pass --data.root a folder of clips "
                f"that are longer than {self._features.hop_length / self._features.sample_rate:.3g} s."
            )
        rate = self._features.sample_rate
        measured = pick_evenly(usable, MOST_REAL)
        heard = [self._real(store, i) for i in measured]
        real = ClipSet(heard, rate, fields(store, measured), originals=heard)
        measures = [metric.prepare(Reference(training, real, self._cache_dir)) for metric in self._evaluation.metrics]
        chosen = _shuffled(usable, self._evaluation.num_clips)
        frames, recordings = [self._frames(store, i) for i in chosen], [self._real(store, i) for i in chosen]
        labels = tuple(_shown(each) for each in fields(store, chosen))
        reference = np.concatenate([embed(clip, rate) for clip in recordings])

        ways: dict[str, Render] = {"generated": functools.partial(self._copy, params)}
        for iterations in self._evaluation.griffin_lim:
            ways[_librosa(iterations)] = functools.partial(librosa_griffin_lim, self._features, iterations)
        ways["no vocoder"] = self._without
        ways["untrained model"] = functools.partial(self._copy, untrained)
        groups = [ClipGroup("held-out data", recordings, labels)]
        figures: dict[str, float] = {
            "real_time_factor": Absent("recordings are not made"),
            "frechet_distance_db2": Absent("the others are compared with these clips"),
        }
        table = {"held-out data": self._distances(recordings, recordings, frames) | figures | describe(groups[0], rate)}
        for name, render in ways.items():
            group = ClipGroup(name, [render(each) for each in frames], labels)
            figures = self._distances(recordings, group.clips, frames)
            figures["real_time_factor"] = _real_time_factor(render, frames[:_TIMED], rate)
            made = np.concatenate([embed(clip, rate) for clip in group.clips])
            figures["frechet_distance_db2"] = frechet_distance(made, reference)
            groups.append(group)
            table[name] = figures | describe(group, rate)
        for group in groups:
            known = ClipSet(group.clips, rate, fields(store, chosen), originals=recordings)
            for measure in measures:
                figures = measure(real if group.name == "held-out data" else known)
                table[group.name] |= add_reasons(figures, "these clips do not tell")
        train_clips = pick_evenly(training.indices("train"), len(clips))
        metrics = self._scores(params, store, clips) | table["generated"]
        metrics |= {f"train_{name}": value for name, value in self._scores(params, training, train_clips).items()}
        for iterations in self._evaluation.griffin_lim:
            beside = table[_librosa(iterations)]
            metrics |= {f"griffin_lim_{iterations}_{name}": value for name, value in beside.items()}
        notes = {
            "distances": f"of {len(chosen)} held-out clips and their copies",
            "loss": "of the network's sound, as training sees it; its terms' distances too; all else of what is refined",
            "real-time factor": f"one clip at a time, {min(_TIMED, len(frames))} of them, after compilation, "
            f"{describe_hardware()}",
        }
        return EvaluationResult(
            metrics,
            tuple(groups),
            table,
            labels,
            notes,
            None,
            table["generated"]["real_time_factor"],
            descriptions={
                **DESCRIPTIONS,
                **{term.name: term.description for term in self._terms if term.description},
                **{name: each for metric in self._evaluation.metrics for name, each in metric.descriptions.items()},
            },
            references=(*(_librosa(iterations) for iterations in self._evaluation.griffin_lim), "untrained model"),
            side_by_side="On the right the copy of the recording on its left, from its mel frames alone",
        )

    def _scores(self, params: Any, store: Store, clips: Sequence[int]) -> dict[str, float]:
        """The terms of the loss that need no critic, means over an excerpt of each clip."""
        rows: dict[str, list[np.ndarray]] = {}
        for batch, count in excerpt_per_clip(store, clips, batch_size=self._batch_size, length=self._length):
            for name, values in self._compare(params, batch).items():
                rows.setdefault(name, []).append(np.asarray(values)[:count])
        return {name: float(np.concatenate(values).mean()) for name, values in rows.items()}

    def _usable(self, store: Store, clips: Sequence[int]) -> list[int]:
        """The clips that have two frames."""
        return [clip for clip in clips if store.clips[clip].num_samples >= self._features.hop_length]

    def _real(self, store: Store, clip: int) -> np.ndarray:
        """The samples between the first frame and the last, float32 [(nframe - 1) * hop_length, *sample_shape]."""
        hop = self._features.hop_length
        most = min(store.clips[clip].num_samples, round(EXCERPT_SECONDS * self._features.sample_rate))
        return store.samples(clip, stop=most // hop * hop)

    def _frames(self, store: Store, clip: int) -> np.ndarray:
        count = 1 + len(self._real(store, clip)) // self._features.hop_length
        return store.steps(clip).reshape(-1, self._features.frame_size)[:count]

    def _copy(self, params: Any, frames: np.ndarray) -> np.ndarray:
        return self._renderer.with_params(params).decode_clips([frames])[0]

    def _without(self, frames: np.ndarray) -> np.ndarray:
        """What the features make of frames, as where no vocoder is given."""
        padded = np.tile(self._features.silence(), (-(-len(frames) // _FRAMES) * _FRAMES, 1))
        padded[: len(frames)] = frames
        samples = self._features.decode(padded)
        return np.asarray(samples)[: (len(frames) - 1) * self._features.hop_length]

    def _distances(
        self, recordings: Sequence[np.ndarray], copies: Sequence[np.ndarray], frames: Sequence[np.ndarray]
    ) -> dict[str, float]:
        rate = self._features.sample_rate
        pairs = list(zip(recordings, copies, strict=True))
        return {
            "log_spectral_distance_db": float(
                np.mean([channel_mean(log_spectral_distance_db, *pair, rate) for pair in pairs])
            ),
            "multi_resolution_stft_distance": float(
                np.mean([channel_mean(multi_resolution_stft_distance, *pair, rate) for pair in pairs])
            ),
            "mel_distance_nats": float(
                np.mean([self._mel_distance(*pair) for pair in zip(copies, frames, strict=True)])
            ),
        } | stereo.stereo_errors(pairs)

    def _mel_distance(self, samples: np.ndarray, frames: np.ndarray) -> float:
        """Mean absolute difference of the samples' own frames from those that they were made of."""
        length = -(-len(samples) // (_FRAMES * self._features.hop_length)) * _FRAMES * self._features.hop_length
        ours = self._features.encode(pad_to(samples, length))[: len(frames)]
        levels = [np.asarray(self._features.levels(self._features.views(each))) for each in (ours, jnp.asarray(frames))]
        return float(np.abs(levels[0] - levels[1]).mean())


def librosa_griffin_lim(features: LogMel, iterations: int, frames: np.ndarray) -> np.ndarray:
    """Samples float32 [(nframe - 1) * hop_length, *sample_shape] of a clip's frames by librosa: the magnitudes of mel power by
    non-negative least squares, then fast Griffin-Lim (momentum 0.99) with so many iterations. Each channel by itself."""
    import librosa  # slow to import

    levels = np.asarray(features.levels(features.views(jnp.asarray(frames))))
    magnitude = librosa.feature.inverse.mel_to_stft(
        np.maximum(np.exp(np.swapaxes(levels, -1, -2)) - features.floor, 0),
        sr=features.sample_rate,
        n_fft=features.n_fft,
        power=2.0,
        fmin=features.fmin,
        fmax=features.fmax,
    )
    samples = librosa.griffinlim(
        magnitude,
        n_iter=iterations,
        hop_length=features.hop_length,
        win_length=features.win_length,
        n_fft=features.n_fft,
        pad_mode="constant",
        random_state=0,
    )
    return np.moveaxis(samples, -1, 0)


def _librosa(iterations: int) -> str:
    return f"Griffin-Lim, {iterations} iterations"


def _real_time_factor(render: Render, frames: Sequence[np.ndarray], sample_rate: int) -> float:
    """Seconds of sound made per second, one clip after another."""
    started = time.perf_counter()
    num_samples = sum(len(render(each)) for each in frames)
    return num_samples / sample_rate / (time.perf_counter() - started)


def _shuffled(clips: Sequence[int], count: int) -> list[int]:
    """At most `count` clips, evenly spread, in an order that shows many kinds first."""
    chosen = pick_evenly(clips, count)
    return [chosen[place] for place in np.random.default_rng(0).permutation(len(chosen))]


def _shown(known: Mapping[str, str]) -> dict[str, str]:
    """What of a clip's fields tells it from others in a title or a file name."""
    return {name: value for name, value in known.items() if name not in _NOT_SHOWN and 0 < len(value) <= _LONGEST_LABEL}
