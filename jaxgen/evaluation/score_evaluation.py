"""Measures a model of written music: likelihood beside a Markov chain, what its pieces are like, and whether they are copies."""

import dataclasses
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from jaxgen.core.descriptions import SHARE, Better, Description, Descriptions
from jaxgen.core.errors import UserError
from jaxgen.data.spec import DataSpec
from jaxgen.data.store import Store
from jaxgen.evaluation.metrics import Absent, mean
from jaxgen.evaluation.result import (
    TRAINING,
    ClipGroup,
    EvaluationConfig,
    EvaluationResult,
    Evaluator,
    fields,
    known_labels,
    known_streams,
    pick_balanced,
    pick_evenly,
)
from jaxgen.evaluation.scoring import Scorer
from jaxgen.features import Decoder, ScoreSpec
from jaxgen.inference.score_sampler import ScoreSampler
from jaxgen.models.config import ModelConfig
from jaxgen.models.sequence import SequenceConfig
from jaxgen.nn.distributions import Sampling
from jaxgen.objectives.likelihood import LikelihoodTask
from jaxgen.objectives.objective import TrainTask
from jaxgen.scores.analysis import (
    histogram_distance,
    interval_histogram,
    mean_histogram,
    measure_score,
    pitch_class_histogram,
    position_histogram,
    rhythm_histogram,
)
from jaxgen.scores.copies import CopyIndex
from jaxgen.scores.score import Score

_HISTOGRAMS = {
    "pitch_class": pitch_class_histogram,
    "interval": interval_histogram,
    "rhythm": rhythm_histogram,
    "position": position_histogram,
}
_LONGEST_SECONDS = 60.0

_LIKE = Better.LIKE_RECORDINGS
_DISTANCE = (
    "Half the summed difference from the mean histogram of the training pieces: 0 the same, 1 nothing in common."
)
DESCRIPTIONS: Descriptions = {
    "train_{figure}": TRAINING,
    "loss": Description("Training loss", "What training lowers, of a frame.", "nats", Better.LOWER),
    "nats_per_frame": Description(
        "Negative log likelihood",
        "How surprised the model is by the next frame of notes.",
        "nats/frame",
        Better.LOWER,
        importance=9,
    ),
    "nats_per_frame_after_first": Description(
        "NLL behind the first frame",
        "The same without the first frame of each piece, as papers report it.",
        "nats/frame",
        Better.LOWER,
        importance=8,
    ),
    "markov_nats_per_frame": Description(
        "Markov chain",
        "Of a chain that knows the frame before.",
        "nats/frame",
        Better.LOWER,
        reference_of="nats_per_frame",
    ),
    **{
        f"{name}_distance": Description(f"{title} histogram, distance", _DISTANCE, "", _LIKE, importance=importance)
        for name, title, importance in (
            ("pitch_class", "Pitch-class", 5),
            ("interval", "Interval", 4),
            ("rhythm", "Rhythm", 3),
            ("position", "Place-in-bar", 0),
        )
    },
    "notes_per_quarter": Description("Notes a quarter", "How dense the music is.", "", _LIKE),
    "polyphony": Description("Notes together", "That sound at once, while any does.", "", _LIKE),
    "pitch_range_semitones": Description("Range", "From the lowest note to the highest.", "semitones", _LIKE),
    "silent_share": Description("Silence", "Of the time.", SHARE, _LIKE),
    "empty_bar_share": Description("Empty bars", "In which no note begins or sounds.", SHARE, _LIKE),
    "repeated_bar_share": Description("Repeated bars", "That are an earlier bar, perhaps transposed.", SHARE, _LIKE),
    "in_key_share": Description("In key", "Of the sounding time, in the scale of the piece's key.", SHARE, _LIKE),
    "longest_repeated_note": Description("One note repeated", "Notes of one pitch in a row, at most.", "notes", _LIKE),
    "longest_note_quarters": Description("Longest note", "Of a piece.", "quarters", _LIKE),
    "copied_run_notes": Description(
        "Longest copied run",
        "Notes in a row whose steps and lengths stand in a training piece, in any key.",
        "notes",
        _LIKE,
        importance=6,
    ),
    "copied_run_most_notes": Description("Longest copied run of all pieces", "As above.", "notes", _LIKE),
}


@dataclasses.dataclass(frozen=True)
class ScoreEvaluation(EvaluationConfig):
    """Likelihood of held-out pieces, and pieces that the model writes freely."""

    bars: int | None = None
    """Length of the pieces that are written, in bars; none takes that of the training pieces, up to a minute."""
    sampling: Sampling = Sampling()
    """How frames are drawn."""

    models: ClassVar[str] = ScoreSampler.kind
    next_command: ClassVar[str] = "python -m jaxgen.generate --workdir {workdir} --num-clips 4"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.metrics:
            raise UserError("ScoreEvaluation measures notes; leave out --evaluation.metrics, which measure sound.")

    def sampler(
        self, task: TrainTask, model: ModelConfig, spec: DataSpec, decoder: Decoder | None = None
    ) -> ScoreSampler:
        task, model, features = self._checked(task, model, spec)
        if decoder is not None:
            raise UserError("a model of written music needs no vocoder; leave out --vocoder.")
        return ScoreSampler(task.module, model, spec, features)

    def evaluator(self, task: TrainTask, model: ModelConfig, spec: DataSpec, **options: Any) -> "ScoreEvaluator":
        task, model, features = self._checked(task, model, spec)
        return ScoreEvaluator(task, model, spec, features, self, **options)

    def _checked(
        self, task: TrainTask, model: ModelConfig, spec: DataSpec
    ) -> tuple[LikelihoodTask, SequenceConfig, ScoreSpec]:
        features = spec.features
        if not isinstance(task, LikelihoodTask) or not isinstance(model, SequenceConfig):
            raise UserError(
                f"ScoreEvaluation scores models that predict the next frame, but --model is {type(model).__name__}; use ScoreRNN."
            )
        if not isinstance(features, ScoreSpec):
            raise UserError(
                f"ScoreEvaluation measures written music, but the features are {type(features).__name__}; use PianoRoll or "
                "Voices."
            )
        model.check_limits(self.sampling.limits, features)
        return task, model, features


class ScoreEvaluator(Evaluator):
    """Likelihood, and pieces that are written freely."""

    def __init__(
        self,
        task: LikelihoodTask,
        model: SequenceConfig,
        spec: DataSpec,
        features: ScoreSpec,
        evaluation: ScoreEvaluation,
        *,
        batch_size: int,
        seq_len: int,
        seed: int,
        cache_dir: str | Path,
        decoder: Decoder | None = None,
    ):
        del cache_dir
        self._model, self._spec, self._features, self._evaluation, self._seed = model, spec, features, evaluation, seed
        self._scorer = Scorer(task, model, spec, batch_size=batch_size, seq_len=seq_len)
        self._sampler = evaluation.sampler(task, model, spec, decoder)

    def validate(
        self, params: Any, store: Store, clips: Sequence[int], most: int
    ) -> tuple[dict[str, float], Iterator[np.ndarray]]:
        return self._scorer(params, store, pick_evenly(clips, most)).metrics, self._previews(params, store, clips)

    def evaluate(
        self, params: Any, untrained: Any, training: Store, store: Store, clips: Sequence[int]
    ) -> EvaluationResult:
        if not clips:
            raise UserError(
                "there is no held-out piece to evaluate on; set some aside (data.validation) or pass --data.root a folder."
            )
        train = training.indices("train")
        scores = self._scorer(params, store, clips)
        metrics = dict(scores.metrics)
        if (rest := scores.num_steps - len(clips)) > 0:  # x[1:] of x[:-1], as papers have it
            total = scores.metrics["loss"] * scores.num_steps
            metrics["nats_per_frame_after_first"] = (total - scores.first_losses) / rest
        seen = self._scorer(params, training, pick_evenly(train, len(clips))).metrics
        metrics |= {f"train_{name}": value for name, value in seen.items()}
        chain = MarkovChain([training.steps(clip) for clip in train])
        metrics["markov_nats_per_frame"] = chain.nats_per_frame([store.steps(clip) for clip in clips])

        chosen = pick_balanced(store, clips, self._model.labels, self._evaluation.num_clips)
        started = time.perf_counter()
        written = self._compose(params, store, chosen)
        seconds = sum(score.seconds for score in written)
        elapsed = time.perf_counter() - started
        known = pick_evenly(train, len(chosen))
        random = np.random.default_rng(self._seed)
        lengths = [round(score.quarters * self._features.frames_per_quarter) for score in written]
        pieces = {
            "training data": self._read(training, known),
            "held-out data": self._read(store, chosen),
            "generated": written,
            "untrained model": self._compose(untrained, store, chosen),
            "Markov chain": self._join([chain.draw(length, random) for length in lengths], store, chosen),
        }
        labels = known_labels(self._spec, self._model.labels, store, chosen)
        measure = _Measure(self._read(training, train))
        table = {
            name: measure(scores, skip=[train.index(clip) for clip in known] if name == "training data" else ())
            for name, scores in pieces.items()
        }
        heard = {"held-out data", "generated"}  # on the page, where only so many have players
        sounds = {
            name: [self._sound(score) for score in scores[: self._evaluation.num_previews if name in heard else 0]]
            for name, scores in pieces.items()
        }
        groups = tuple(
            ClipGroup(name, sounds[name], _labels(name, training, known, labels), scores)
            for name, scores in pieces.items()
        )
        return EvaluationResult(
            metrics | table["generated"],
            groups,
            table,
            labels,
            {"likelihood": f"{scores.num_steps} frames of {len(clips)} pieces"},
            None,
            seconds / elapsed,
            descriptions=DESCRIPTIONS,
            references=("held-out data", "Markov chain"),
        )

    def _compose(self, params: Any, store: Store, clips: Sequence[int]) -> list[Score]:
        """Pieces with the labels of held-out ones, and what else these are given."""
        options, labels = self._evaluation, known_labels(self._spec, self._model.labels, store, clips)
        contexts = self._given(store)
        seconds = min(self._sampler.default_seconds, _LONGEST_SECONDS) if options.bars is None else None
        return self._sampler.compose(
            params,
            labels,
            inputs=known_streams(contexts, store, clips) if contexts else None,
            bars=None if contexts else options.bars,
            seconds=seconds,
            sampling=options.sampling,
            seed=self._seed,
        )

    def _previews(self, params: Any, store: Store, clips: Sequence[int]) -> Iterator[np.ndarray]:
        shown = pick_balanced(store, clips, self._model.labels, self._evaluation.num_previews)
        yield from map(self._sound, self._compose(params, store, shown))

    def _given(self, store: Store) -> list[str]:
        """Streams that somebody has to say, such as a melody."""
        return [name for name in self._model.streams if store.streams[name].default(1) is None]

    def _read(self, store: Store, clips: Sequence[int]) -> list[Score]:
        """Pieces of the data, with what is given of them."""
        return self._join([store.steps(clip) for clip in clips], store, clips)

    def _join(self, pieces: Sequence[np.ndarray], store: Store, clips: Sequence[int]) -> list[Score]:
        """Scores of frames behind what is given of these clips."""
        given = known_streams(self._given(store), store, clips)
        return [self._sampler.with_given(steps, streams) for steps, streams in zip(pieces, given, strict=True)]

    def _sound(self, score: Score) -> np.ndarray:
        num_samples = round(min(score.seconds, _LONGEST_SECONDS) * self._features.sample_rate)
        return np.concatenate(list(self._features.perform(score, num_samples)))


def _labels(
    group: str, training: Store, known: Sequence[int], labels: Sequence[Mapping[str, str]]
) -> Sequence[Mapping[str, str]]:
    return fields(training, known) if group == "training data" else labels


class MarkovChain:
    """Each key or voice by itself, by what it was in the frame before: the floor that a model has to beat."""

    def __init__(self, pieces: Sequence[NDArray[np.uint8]]):
        """pieces: frames uint8 [T, W] of the training pieces, which begin behind silence."""
        width = pieces[0].shape[1]
        self._size = 1 + int(max(piece.max(initial=0) for piece in pieces))
        counts = np.full((width, self._size, self._size), 1e-2)
        for piece in pieces:
            before = np.concatenate([np.zeros_like(piece[:1]), piece[:-1]])
            for place in range(width):
                np.add.at(counts[place], (before[:, place], piece[:, place]), 1)
        self._shares = counts / counts.sum(axis=-1, keepdims=True)

    def nats_per_frame(self, pieces: Sequence[NDArray[np.uint8]]) -> float:
        """Negative log likelihood of a frame, the mean over all of them."""
        total = frames = 0.0
        for piece in pieces:
            codes = np.minimum(piece, self._size - 1)
            before = np.concatenate([np.zeros_like(codes[:1]), codes[:-1]])
            total -= np.log(self._shares[np.arange(piece.shape[1]), before, codes]).sum()
            frames += len(piece)
        return float(total / frames)

    def draw(self, num_frames: int, random: np.random.Generator) -> NDArray[np.uint8]:
        """Frames uint8 [T, W]."""
        width = len(self._shares)
        cumulative, frame = np.cumsum(self._shares, axis=-1), np.zeros(width, np.int64)
        frames = []
        for noise in random.random((num_frames, width)):
            below = cumulative[np.arange(width), frame] < noise[:, None]
            frame = np.minimum(below.sum(axis=-1), self._size - 1)
            frames.append(frame)
        return np.array(frames, np.uint8).reshape(-1, width)


class _Measure:
    """Figures of sets of pieces, beside those that were trained on."""

    def __init__(self, training: Sequence[Score]):
        self._copies = CopyIndex(training, transposed=True)
        self._training = training
        self._means = {name: mean_histogram([make(score) for score in training]) for name, make in _HISTOGRAMS.items()}

    def __call__(self, scores: Sequence[Score], skip: Sequence[int] = ()) -> dict[str, float]:
        """skip: places of the scores among the training pieces, which are no copies of themselves."""
        found: dict[str, float] = {}
        for name, make in _HISTOGRAMS.items():
            theirs = mean_histogram([make(score) for score in scores])
            found[f"{name}_distance"] = float(histogram_distance(theirs, self._means[name]))
        pieces = [figures for figures in map(measure_score, scores) if figures is not None]
        if not pieces:
            return found | {"notes_per_quarter": 0.0}

        def over(name: str) -> float:
            return mean([float(getattr(figures, name)) for figures in pieces], "no piece has notes")

        for name in ("notes_per_quarter", "polyphony", "silent_share", "empty_bar_share", "repeated_bar_share"):
            found[name] = over(name)
        found["pitch_range_semitones"] = over("highest") - over("lowest")
        found["in_key_share"] = over("in_key_share")
        found["longest_repeated_note"] = over("longest_repeated_note")
        found["longest_note_quarters"] = over("longest_note")
        if skip:
            others = set(range(len(self._training))) - set(skip)
            copies = CopyIndex([self._training[place] for place in sorted(others)], transposed=True)
        else:
            copies = self._copies
        runs = [copies.longest_run(score).notes for score in scores]
        found["copied_run_notes"] = mean(list(map(float, runs)), "there is no piece")
        found["copied_run_most_notes"] = float(max(runs))
        return {name: value if math.isfinite(value) else Absent("no piece tells") for name, value in found.items()}
