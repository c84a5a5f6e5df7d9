"""Trains a model: `python -m jaxgen.train` (the quickstart), `--data.root DIR` (any sound) or `--config FILE`.

The run's folder then holds checkpoints, metrics.jsonl, TensorBoard events, generated clips and report.html. The same
command continues an interrupted run, and finds a finished one.
"""

import concurrent.futures
import functools
import importlib
import sys

from jaxgen.config import Config
from jaxgen.data import report as data_report
from jaxgen.data.spec import DataSpec
from jaxgen.data.store import Store, prepare
from jaxgen.errors import ExitCode, UserError, run
from jaxgen.evaluation.runner import Evaluator
from jaxgen.evaluation.summary import headline, write_report
from jaxgen.machine import keep_freed_memory
from jaxgen.objectives.likelihood import LikelihoodTraining
from jaxgen.presets import load_config
from jaxgen.remote import Mirror, trained_in
from jaxgen.runs import Run, bind, check_data, describe, is_finished, keep_compiled, save_config, training_batches
from jaxgen.starts import locked, note_start
from jaxgen.training.interrupts import preemptible
from jaxgen.training.loop import Outcome, Validation, fit
from jaxgen.training.telemetry import read_metrics


def main() -> int:
    config = load_config(sys.argv[1:], "python -m jaxgen.train")
    with preemptible(), trained_in(config.workdir, config.cache_dir) as mirror:
        if is_finished(config):
            report = config.folder / "report.html"
            print(f"{config.workdir} holds this run, finished; its report is {report}.\n{_next_commands(config)}")
            return ExitCode.DONE
        keep_compiled(config.cache_dir)
        keep_freed_memory()
        with locked(config.folder), concurrent.futures.ThreadPoolExecutor(1, "beside") as beside:
            beside.submit(importlib.import_module, "jaxgen.training.checkpoint")  # slow, and there is other work
            return _run(config, mirror, beside)


def _run(config: Config, mirror: Mirror | None, beside: concurrent.futures.Executor) -> int:
    store = prepare(config.data, config.features, config.audio, config.cache_dir)
    print(data_report.summary(store.report), file=sys.stderr)
    spec = store.spec(config.model.labels)
    check_data(config, spec)
    if not store.indices("validation"):
        raise UserError(
            f"no clip of {len(store.clips)} is for validation; change --data.validation or the manifest's `split`, or "
            "cut a single recording in two."
        )
    training = bind(config, spec)
    evaluator = Evaluator(
        training,
        config.model,
        spec,
        config.evaluation,
        batch_size=config.train.batch_size,
        seq_len=config.train.seq_len,
        seed=config.train.seed,
    )
    save_config(config)
    note_start(config.folder)
    drawn = beside.submit(data_report.write, store.report, config.folder)  # while the first step compiles
    outcome = _train(config, mirror, store, training, spec, evaluator)
    drawn.result()
    if outcome is Outcome.PREEMPTED:
        print(f"\nStopped; everything is saved in {config.workdir}. The same command continues it.", file=sys.stderr)
        return ExitCode.PREEMPTED
    if outcome is Outcome.EARLY:
        print(f"stopped early: no better {config.train.best_metric} for a while", file=sys.stderr)
    _report(config, store, evaluator)
    return ExitCode.DONE


def _train(
    config: Config,
    mirror: Mirror | None,
    store: Store,
    training: LikelihoodTraining,
    spec: DataSpec,
    evaluator: Evaluator,
) -> Outcome:
    from jaxgen.training.checkpoint import Checkpoints
    from jaxgen.training.upload import UploadedCheckpoints

    train = config.train
    clips = store.indices("validation")
    batches = training_batches(config, store, spec)
    kind = Checkpoints if mirror is None else functools.partial(UploadedCheckpoints, mirror=mirror)
    checkpoints = kind(config.folder / "checkpoints", keep=train.keep, best_metric=train.best_metric)
    seconds = train.batch_size * train.seq_len * spec.features.hop_length / spec.features.sample_rate
    try:
        return fit(
            training,
            batches,
            checkpoints,
            lambda params, step: Validation(
                *evaluator.validate(params, store, clips, train.max_eval_clips), spec.features.sample_rate
            ),
            train,
            config.folder,
            seconds_per_step=seconds,
            run=describe(config, spec),
            profile=config.profile,
        )
    finally:
        checkpoints.close()


def _report(config: Config, store: Store, evaluator: Evaluator) -> None:
    """Evaluates the best checkpoint, saves its clips and the report, and says where all is."""
    folder = config.folder
    trained = Run.open(folder)
    print("evaluating the best checkpoint ...", file=sys.stderr)
    findings = evaluator.evaluate(trained.params, trained.untrained(), store, store, store.indices("validation"))
    generated = next(column.clips for column in findings.columns if column.name == "generated")
    shown, seed = config.evaluation.num_previews, config.train.seed
    trained.save_clips(folder / "generated", generated[:shown], findings.labels[:shown], seed=seed)
    write_report(
        folder,
        f"jaxgen: {folder.resolve().name}",
        findings,
        read_metrics(folder / "metrics.jsonl"),
        sample_rate=trained.spec.features.sample_rate,
        num_players=shown,
        about=trained.about() | {"run": config.workdir, "held-out data": "the validation clips of the training data"},
    )
    print(f"{config.workdir}\n{headline(findings)}\n{_next_commands(config)}")


def _next_commands(config: Config) -> str:
    return (
        "Next:\n"
        f"  python -m jaxgen.generate --workdir {config.workdir} --num 4 --seconds 6\n"
        f"  tensorboard --logdir {config.folder / 'tensorboard'}   (pip install tensorboard)\n"
        "  python -m jaxgen.train --data.root FOLDER_OF_SOUND"
    )


if __name__ == "__main__":
    run(main)
