"""Measures a trained run: `python -m jaxgen.evaluate --workdir runs/quickstart [--data.root DIR]`."""

import dataclasses
import math
import sys
from pathlib import Path
from typing import Any

from jaxgen.config import instances_by_name, load, parse
from jaxgen.core.errors import ExitCode, UserError, run
from jaxgen.core.names import UserPath
from jaxgen.core.numerics import fix_settings
from jaxgen.data.clips import Dataset, HashFraction
from jaxgen.data.folder import Folder
from jaxgen.data.store import Store, prepare
from jaxgen.evaluation.audio_metric import AudioMetric
from jaxgen.evaluation.summary import headline, write_report
from jaxgen.inference.sampling_overrides import SamplingOverrides
from jaxgen.inference.vocoder_run import open_vocoder, with_refinements
from jaxgen.runs.run import Run, enable_compilation_cache
from jaxgen.storage import open_run_copy, output_folder
from jaxgen.training.schedule import check_seed
from jaxgen.training.telemetry import read_metrics


@dataclasses.dataclass(frozen=True)
class Data:
    """What the model is measured on."""

    root: UserPath | None = None
    """Folder whose every clip is test data; none takes the run's own validation clips. Also where the run's own data is
    now, if it has moved."""
    pattern: str | None = None
    """Fields in the file names of that folder; none takes the run's pattern."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options(SamplingOverrides):
    """Measures a trained run: report.json and report.html."""

    workdir: UserPath
    """Folder of the run, also in an object store (s3://bucket/name, gs://bucket/name)."""
    data: Data = Data()
    """What the model is measured on."""
    metrics: tuple[str, ...] = ()
    """Further metrics beside the run's own, by class: ClassifierMetrics, Prosody; PocketSphinx and DNSMOS, for speech, from
    `pip install 'jaxgen[speech]'`; for a vocoder also PitchErrors, and Pesq and Stoi from
    `pip install 'jaxgen[copies]'`."""
    out: UserPath | None = None
    """Folder of the report; none takes evaluation in the run's folder."""
    step: int | None = None
    """Checkpoint to use; none takes the best."""
    num_clips: int | None = None
    """Clips to generate; none takes the config's."""
    seed: int = 0
    """The same seed generates the same clips."""
    vocoder: UserPath | None = None
    """Folder of the run of a vocoder that makes sound of a mel model's frames; none takes Griffin-Lim."""
    refinements: int | None = None
    """Iterations of Griffin-Lim that bring a vocoder's sound nearer to the frames; none takes the vocoder's own."""
    config: str | None = None
    """Python file that defines classes of the run's config; it is code: pass only one that you trust."""
    cache_dir: str = "~/.cache/jaxgen"
    """Folder of decoded data, classifiers and compiled programs, and of the local copy of a run in an object store."""

    def __post_init__(self) -> None:
        if self.num_clips is not None and self.num_clips < 1:
            raise UserError(f"--num-clips is {self.num_clips}, expected at least 1 clip.")
        check_seed(self.seed)


def main() -> int:
    options = parse(Options, None, sys.argv[1:], "python -m jaxgen.evaluate")
    fix_settings()
    enable_compilation_cache(options.cache_dir)
    if options.config is not None:
        load(options.config)
    with (
        open_run_copy(options.workdir, options.cache_dir) as folder,
        output_folder(options.out or folder / "evaluation") as out,
    ):
        return _evaluate(options, folder, out)


def _evaluate(options: Options, workdir: Path, out: Path) -> int:
    further = instances_by_name(AudioMetric, options.metrics, "--metrics")
    trained = Run.open(workdir, options.step)
    config, evaluation = trained.config, trained.config.evaluation.with_sampling(options.overrides)
    decoder = None
    if options.vocoder is not None:
        _, decoder = open_vocoder(options.vocoder, options.cache_dir, trained.spec.features, options.refinements)
    else:
        trained = with_refinements(trained, options.refinements)
    metrics = tuple(dict.fromkeys(config.evaluation.metrics + further))
    count = config.evaluation.num_clips if options.num_clips is None else options.num_clips
    training, root = _training_data(trained, options.data.root, options.cache_dir)
    for metric in metrics:
        metric.check(training)
    store, clips = training, training.indices("validation")
    if root is not None:
        policy = dataclasses.replace(config.audio, min_seconds=0.0, silence_dbfs=-math.inf, max_refused=1.0)
        store = prepare(_test_data(config.data, root, options.data.pattern), config.features, policy, options.cache_dir)
        clips = tuple(range(len(store.clips)))
    evaluator = dataclasses.replace(evaluation, metrics=metrics, num_clips=count).evaluator(
        trained.task,
        config.model,
        trained.spec,
        batch_size=config.train.batch_size,
        seq_len=config.train.seq_len,
        seed=options.seed,
        cache_dir=options.cache_dir,
        decoder=decoder,
    )
    result = evaluator.evaluate(trained.params, trained.initial_params(), training, store, clips)
    write_report(
        out,
        f"jaxgen: {trained.workdir.resolve().name}",
        result,
        read_metrics(trained.workdir / "metrics.jsonl"),
        sample_rate=trained.spec.features.sample_rate,
        num_players=config.evaluation.num_previews,
        about=trained.about()
        | {
            "run": options.workdir,
            **({} if options.vocoder is None else {"vocoder": options.vocoder}),
            **options.overrides,
            "held-out data": root or "the run's validation clips",
            "refused": [f"{entry['name']}: {entry['reason']}" for entry in store.report["refused"]],
        },
    )
    shown = (options.out or f"{options.workdir.rstrip('/')}/evaluation").rstrip("/")
    if refused := len(store.report["refused"]):
        print(f"{refused} files were refused; the report lists them")
    print(f"{headline(result)}\nreport: {shown}/report.html, figures: {shown}/report.json")
    return ExitCode.DONE


def _training_data(trained: Run, root: str | None, cache_dir: str) -> tuple[Store, str | None]:
    """The clips that the run was trained on, and the folder of test data: none where `root` is where those clips are now.

    Floors and the search for copies need them. Raises UserError where they are neither where they were nor in `root`.
    """

    def read(data: Dataset) -> Store:
        config = trained.config
        store = prepare(data, config.features, config.audio, cache_dir)
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


def _test_data(trained_on: Dataset, root: str, pattern: str | None) -> Folder:
    """The folder asked for, its names read as those of the training data."""
    return Folder(
        root=root, pattern=pattern or trained_on.pattern, unmatched="unlabelled", validation=HashFraction(0.0)
    )


if __name__ == "__main__":
    run(main)
