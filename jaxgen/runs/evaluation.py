"""Measures an opened run on its own validation clips or a folder of test data, and writes the report."""

import dataclasses
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxgen.config import Config
from jaxgen.core.errors import UserError
from jaxgen.core.names import CACHE_DIR
from jaxgen.data.clips import Dataset, HashFraction, Split
from jaxgen.data.folder import Folder
from jaxgen.data.preparation import prepare
from jaxgen.data.scores import Scores
from jaxgen.data.store import Store
from jaxgen.evaluation.audio_metric import AudioMetric
from jaxgen.evaluation.mixture import DESCRIPTIONS, score_mixture
from jaxgen.evaluation.result import EvaluationResult
from jaxgen.evaluation.scoring import Scorer
from jaxgen.evaluation.summary import write_report
from jaxgen.features import Decoder
from jaxgen.models.sequence import SequenceConfig
from jaxgen.objectives.likelihood import LikelihoodTask
from jaxgen.runs.run import Run
from jaxgen.training.telemetry import read_metrics


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluationRequest:
    """What a run is measured on, and how."""

    root: str | None = None
    """Folder whose every clip is test data; none takes the run's own validation clips. Also where these are now."""
    pattern: str | None = None
    """Fields in the file names of that folder; none takes the run's pattern."""
    split: Split = "validation"
    """Which of the run's own clips, where no folder is named."""
    metrics: tuple[AudioMetric, ...] = ()
    """Further metrics beside the run's own."""
    num_clips: int | None = None
    """Clips to generate; none takes the config's."""
    sampling: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """How they are drawn, where not as the config says."""
    seed: int = 0
    decoder: Decoder | None = None
    """What makes sound of the model's steps; none takes the features."""
    mixture: tuple[Run, ...] = ()
    """Further runs of the same config: the likelihood of the mixture of all is reported beside the run's own."""
    cache_dir: str = CACHE_DIR
    about: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """Further lines of what the report says of the run."""


def evaluate_run(trained: Run, request: EvaluationRequest, out: Path) -> tuple[EvaluationResult, int]:
    """Measures a run and writes report.json and report.html into a folder: what was found, and how many files were refused.

    Raises UserError for data that cannot be read, or metrics and settings that do not go with the model.
    """
    config, evaluation = trained.config, trained.config.evaluation.with_sampling(request.sampling)
    metrics = tuple(dict.fromkeys(config.evaluation.metrics + request.metrics))
    count = config.evaluation.num_clips if request.num_clips is None else request.num_clips
    _check_members(trained, request.mixture)
    training, root = _training_data(trained, request.root, request.cache_dir)
    for metric in metrics:
        metric.check(training)
    if root is None:
        store, clips = training, training.indices(request.split)
        if not clips and request.split != "validation":
            raise UserError(f"the run's data has no {request.split} clips; leave out --data.split.")
    else:
        policy = dataclasses.replace(config.audio, min_seconds=0.0, silence_dbfs=-math.inf, max_refused=1.0)
        store = prepare(_test_data(config, root, request), config.features, policy, request.cache_dir, config.streams)
        clips = tuple(range(len(store.clips)))
    evaluator = dataclasses.replace(evaluation, metrics=metrics, num_clips=count).evaluator(
        trained.task,
        config.model,
        trained.spec,
        batch_size=config.train.batch_size,
        seq_len=config.train.seq_len,
        seed=request.seed,
        cache_dir=request.cache_dir,
        decoder=request.decoder,
    )
    result = evaluator.evaluate(trained.params, trained.initial_params(), training, store, clips)
    if request.mixture:
        result = _with_mixture(result, trained, request.mixture, store, clips)
    refused = [f"{entry['name']}: {entry['reason']}" for entry in store.report["refused"]]
    write_report(
        out,
        f"jaxgen: {trained.workdir.resolve().name}",
        result,
        read_metrics(trained.workdir / "metrics.jsonl"),
        sample_rate=trained.spec.features.sample_rate,
        num_players=config.evaluation.num_previews,
        about=trained.about()
        | {**request.about, "held-out data": root or f"the run's {request.split} clips", "refused": refused},
    )
    return result, len(refused)


def _check_members(trained: Run, others: Sequence[Run]) -> None:
    """Raises UserError where the mixture of these runs has no likelihood."""
    if others and not isinstance(trained.task, LikelihoodTask):
        raise UserError(
            f"the run's model {trained.config.evaluation.models}, so a mixture has no likelihood; leave out --mixture."
        )
    folders = [run.workdir.resolve() for run in (trained, *others)]
    if others and len(set(folders)) < len(folders):
        raise UserError("a run is in the mixture twice; name each once, and --workdir not at all in --mixture.")
    for other in others:
        if trained.config.model != other.config.model:
            raise UserError(
                f"'{other.workdir}' holds another model than '{trained.workdir}' (--model); change --mixture."
            )
        if trained.spec != other.spec:
            raise UserError(
                f"'{other.workdir}' was trained on other data or features than '{trained.workdir}'; change --mixture."
            )


def _with_mixture(
    result: EvaluationResult, trained: Run, others: Sequence[Run], store: Store, clips: Sequence[int]
) -> EvaluationResult:
    """The same with the figures of the mixture of all runs (`evaluation.mixture`)."""
    train, task, model = trained.config.train, trained.task, trained.config.model
    assert isinstance(task, LikelihoodTask)
    assert isinstance(model, SequenceConfig)
    scorer = Scorer(task, model, trained.spec, batch_size=train.batch_size, seq_len=train.seq_len)
    figures = score_mixture(scorer, [trained.params, *(other.params for other in others)], store, clips)
    return dataclasses.replace(
        result,
        metrics=result.metrics | figures,
        descriptions={**result.descriptions, **DESCRIPTIONS},
        notes=result.notes | {"mixture": f"of {trained.name} and {', '.join(other.name for other in others)}"},
    )


def _training_data(trained: Run, root: str | None, cache_dir: str) -> tuple[Store, str | None]:
    """The clips that the run was trained on, and the folder of test data: none where `root` is where those clips are now.

    Floors and the search for copies need them. Raises UserError where they are neither where they were nor in `root`.
    """

    def read(data: Dataset) -> Store:
        config = trained.config
        store = prepare(data, config.features, config.audio, cache_dir, config.streams)
        trained.check_data(store)
        return store

    data: Any = trained.config.data
    try:
        return read(data), root
    except UserError as error:
        lost = UserError(f"the data that this run was trained on cannot be read again: {error}")
    if not hasattr(data, "root"):
        raise lost
    if root is None:
        raise UserError(f"{lost} If it has moved, pass --data.root its new folder.")
    try:
        moved = read(dataclasses.replace(data, root=root))
    except UserError as error:
        raise UserError(f"{lost} Nor does --data.root hold it: {error}") from None
    print(f"the run's own data is in '{root}' now; its validation clips are held out", file=sys.stderr)
    return moved, None


def _test_data(config: Config, root: str, request: EvaluationRequest) -> Dataset:
    """The folder asked for. The names of recordings are read as those of the training data."""
    if request.split != "validation":
        raise UserError(f"--data.split {request.split} is of the run's own data; leave it out beside --data.root.")
    everything = HashFraction(0.0)
    if config.features.is_symbolic:
        frames = getattr(config.data, "frames_per_quarter", Scores.frames_per_quarter)
        return Scores(root=root, frames_per_quarter=frames, validation=everything)
    pattern = request.pattern or config.data.pattern
    return Folder(root=root, pattern=pattern, unmatched="unlabelled", validation=everything)
