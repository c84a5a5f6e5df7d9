"""One training from a config to a report: in its folder, by one process or several, continued where it was stopped."""

import concurrent.futures
import contextlib
import dataclasses
import importlib
import itertools
import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from jaxgen.config import Config
from jaxgen.core.errors import ExitCode, UserError, tolerate
from jaxgen.core.machine import keep_freed_memory
from jaxgen.core.names import check_no_link_out, shell_quote
from jaxgen.core.numerics import fix_settings, random_key
from jaxgen.core.serial import to_json
from jaxgen.data import report as data_report
from jaxgen.data.preparation import prepare
from jaxgen.data.spec import DataSpec
from jaxgen.data.store import Store
from jaxgen.evaluation.metrics import split_absent
from jaxgen.evaluation.result import Evaluator
from jaxgen.evaluation.summary import headline, write_report
from jaxgen.objectives.objective import TrainTask
from jaxgen.runs.code import Code, CodeManifest, collect_code
from jaxgen.runs.lock import note_start, run_lock
from jaxgen.runs.run import WRITTEN, Run, build_task, devices_of, enable_compilation_cache, training_batches
from jaxgen.runs.saved_run import (
    check_data,
    config_hash,
    describe,
    is_finished,
    save_config,
    saved_code,
    saved_licences,
)
from jaxgen.storage import Mirror, is_remote, open_run_copy, own_remote_run
from jaxgen.training.distributed import (
    all_gather,
    broadcast_from_first,
    check_alike,
    is_first,
    is_multiprocess,
    join_processes,
)
from jaxgen.training.fine_tuning import FineTuning, take_parameters
from jaxgen.training.interrupts import raise_on_signal
from jaxgen.training.loop import Outcome, Validation, fit
from jaxgen.training.mesh import Devices
from jaxgen.training.telemetry import read_metrics

if TYPE_CHECKING:  # orbax is slow to import
    from jaxgen.training.checkpoint import Checkpoints
    from jaxgen.training.upload import FirstProcessCheckpoints


def train(config: Config, config_file: str | Path | None = None) -> ExitCode:
    """Trains to the end and writes the report, or goes on with a run that was stopped; of a finished one, says so.

    config_file: where the config comes from; its source goes with the run where it defines classes that the run needs.
    Returns how it ended: DONE, PREEMPTED where a signal stopped it and all is saved, BAD_INPUT where no report could be made.
    Raises UserError for what the user can mend, Diverged where training cannot go on.
    """
    fix_settings()
    code = collect_code(config, config_file)  # at once: the file may be changed while data is prepared
    with (
        raise_on_signal(),
        join_processes(config.distributed, config.coordinator, config.num_processes, config.process_id),
        _uploaded(config) as mirror,
    ):
        if _is_finished(config, code):
            return ExitCode.DONE
        enable_compilation_cache(config.cache_dir)
        keep_freed_memory()
        with concurrent.futures.ThreadPoolExecutor(1, "beside") as beside:
            beside.submit(importlib.import_module, "jaxgen.training.checkpoint")  # slow, and there is other work
            return _run(config, code, mirror, beside)


def _is_finished(config: Config, code: Code | None) -> bool:
    """Whether there is nothing to do, which is said. Raises UserError where the folder holds another run."""
    finished = broadcast_from_first(lambda: is_finished(config))
    if finished:
        report = config.folder / "report.html"
        print(f"{config.workdir} holds this run, finished; its report is {report}.\n{_next_commands(config, code)}")
    return finished


@contextlib.contextmanager
def _uploaded(config: Config) -> Iterator[Mirror | None]:
    """The copy of a run in an object store, which the first process keeps for all; None elsewhere."""
    mirrors: list[Mirror | None] = []
    with contextlib.ExitStack() as stack:
        broadcast_from_first(
            lambda: mirrors.append(stack.enter_context(own_remote_run(config.workdir, config.cache_dir)))
        )
        yield mirrors[0] if mirrors else None


@contextlib.contextmanager
def _own_folder(config: Config) -> Iterator[Path]:
    """Where this process writes: the run's folder, which is locked, or a temporary one for all but the first process."""
    with contextlib.ExitStack() as stack:
        check_no_link_out(config.folder, WRITTEN)
        broadcast_from_first(lambda: stack.enter_context(run_lock(config.folder)))
        seen = all_gather(is_remote(config.workdir) or (config.folder / ".lock").exists())
        if not all(seen):
            raise UserError(
                f"process {seen.index(False)} does not see '{config.workdir}' of process 0; pass --workdir a folder that all "
                "share."
            )
        yield config.folder if is_first() else Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="jaxgen_")))


def _run(config: Config, code: Code | None, mirror: Mirror | None, beside: concurrent.futures.Executor) -> ExitCode:
    devices = devices_of(config)
    broadcast_from_first(lambda: _check_source(config))  # before data is prepared, which may take long
    store = prepare(config.data, config.features, config.audio, config.cache_dir, config.streams)
    print(data_report.summary(store.report), file=sys.stderr)
    spec = store.spec(config.model.labels)
    check_alike("another folder, settings or recordings", [config.workdir, config_hash(config), to_json(spec)])
    check_alike("another config file", None if code is None else to_json(code.manifest))
    broadcast_from_first(lambda: check_data(config, spec))
    if not store.indices("validation"):
        raise UserError(
            f"no clip of {len(store.clips)} is for validation; change --data.validation or the manifest's `split`, or "
            "cut a single recording in two."
        )
    for metric in config.evaluation.metrics:
        metric.check(store)
    broadcast_from_first(lambda: _check_loggers(config))
    task = build_task(config, spec)
    evaluator = config.evaluation.evaluator(
        task,
        config.model,
        spec,
        batch_size=config.train.batch_size,
        seq_len=config.train.seq_len,
        seed=config.train.seed,
        cache_dir=config.cache_dir,
    )
    tuned, spec = _tuned(config, task, spec)
    with _own_folder(config) as own:
        if _is_finished(config, code):  # by a process that has held the folder meanwhile
            return ExitCode.DONE
        broadcast_from_first(lambda: check_data(config, spec))
        save_config(config, own)
        _save_code(config, code, own)
        note_start(own)
        drawn = beside.submit(data_report.write, store.report, own)  # while the first step compiles
        outcome = _train(config, code, own, mirror, devices, store, tuned, spec, evaluator)
        with tolerate("write the data report", "jaxgen.prepare makes it again"):
            drawn.result()
        if outcome is Outcome.PREEMPTED:
            print(f"\nStopped; the same command continues {config.workdir} from its last checkpoint.", file=sys.stderr)
            return ExitCode.PREEMPTED
        if outcome is Outcome.EARLY:
            print(f"stopped early: no better {config.train.best_metric} for a while", file=sys.stderr)
        if is_first():
            with tolerate("make the report", "the model is trained and saved, and the same command makes the report"):
                _report(config, code, store, evaluator)
                return ExitCode.DONE
            return ExitCode.BAD_INPUT
    return ExitCode.DONE


def _save_code(config: Config, code: Code | None, own: Path) -> None:
    """Writes the source of the run's own classes into its folder, and says where it has changed since the last checkpoint."""
    if code is None:
        return
    code.save(own)
    before = broadcast_from_first(lambda: _manifest(saved_code(config)))
    if before not in (None, _manifest(code.manifest)):
        print(
            f"jaxgen: '{code.manifest.config_file}', or a module beside it, has changed since the last checkpoint; those from "
            "here on keep the new source, earlier ones the old.",
            file=sys.stderr,
        )


def _manifest(manifest: CodeManifest | None) -> Any:
    return None if manifest is None else to_json(manifest)


def _check_loggers(config: Config) -> None:
    for logger in config.train.loggers:
        logger.check()


def _check_source(config: Config) -> None:
    """Raises UserError where --init-from is no folder of a run; a run that has begun needs it no more."""
    source = config.init_from
    if source and not is_remote(source) and not saved_licences(config) and not Path(source, "checkpoints").is_dir():
        raise UserError(f"no run at '{source}'. Pass --init-from the folder of a run of jaxgen.train.")


def _tuned(config: Config, task: TrainTask, spec: DataSpec) -> tuple[TrainTask, DataSpec]:
    """The task with what --init-from and --freeze ask for, and the data spec with the licences of what it starts from."""
    if not config.init_from and not config.freeze:
        return task, spec
    if not config.init_from:
        return FineTuning(task, {}, config.freeze), spec
    if licences := broadcast_from_first(lambda: saved_licences(config)):  # it has begun: what it began with is in it
        return FineTuning(task, {}, config.freeze), dataclasses.replace(spec, licences=licences)
    with open_run_copy(config.init_from, config.cache_dir, "--init-from") as folder:
        other = Run.open(folder, option="--init-from")
    taken = take_parameters(jax.eval_shape(task.init, random_key(0)).average, other.params, config.init_only)
    if is_first():
        print(f"starting from {config.init_from}, step {other.step}: {'; '.join(taken.told)}", file=sys.stderr)
    licences = tuple(sorted({*spec.licences, *other.spec.licences}))
    return FineTuning(task, taken.average, config.freeze), dataclasses.replace(spec, licences=licences)


def _train(
    config: Config,
    code: Code | None,
    own: Path,
    mirror: Mirror | None,
    devices: Devices,
    store: Store,
    task: TrainTask,
    spec: DataSpec,
    evaluator: Evaluator,
) -> Outcome:
    train = config.train
    clips = store.indices("validation")
    batches = training_batches(config, store, spec, devices.rows)
    seconds = train.batch_size * train.seq_len * spec.features.samples_per_step / spec.features.sample_rate

    def validate(params: Any, step: int) -> Validation:
        heard: list[Iterable[np.ndarray]] = []

        def measure() -> tuple[dict[str, float], dict[str, str]]:
            metrics, made = evaluator.validate(params, store, clips, train.max_eval_clips)
            heard.append(made)
            return split_absent(metrics)

        metrics, absent = broadcast_from_first(measure)
        made = itertools.chain.from_iterable(heard)  # of the first process
        return Validation(metrics, made, spec.features.sample_rate, absent)

    with _checkpoints(config, mirror) as checkpoints:
        return fit(
            task,
            batches,
            checkpoints,
            validate,
            train,
            own,
            devices,
            seconds_per_step=seconds,
            run=describe(config, spec, code),
            profile=config.profile,
        )


def _checkpoints(config: Config, mirror: Mirror | None) -> "Checkpoints | FirstProcessCheckpoints":
    from jaxgen.training.checkpoint import Checkpoints
    from jaxgen.training.upload import FirstProcessCheckpoints, UploadingCheckpoints

    folder, train = config.folder / "checkpoints", config.train
    if not is_remote(config.workdir):
        return Checkpoints(folder, keep=train.keep, best_metric=train.best_metric)
    own = None
    if mirror is not None:
        own = UploadingCheckpoints(folder, mirror, keep=train.keep, best_metric=train.best_metric)
    return FirstProcessCheckpoints(own) if own is None or is_multiprocess() else own


def _report(config: Config, code: Code | None, store: Store, evaluator: Evaluator) -> None:
    """Evaluates the best checkpoint, saves its clips and the report, and says where all is."""
    folder = config.folder
    trained = Run.open(folder)
    print("evaluating the best checkpoint ...", file=sys.stderr)
    result = evaluator.evaluate(trained.params, trained.initial_params(), store, store, store.indices("validation"))
    generated = next(column.clips for column in result.groups if column.name == "generated")
    shown, seed = config.evaluation.num_previews, config.train.seed
    with tolerate("save clips in 'generated'", "jaxgen.generate makes them again"):
        trained.save_clips(folder / "generated", generated[:shown], result.labels[:shown], seed=seed)
    write_report(
        folder,
        f"jaxgen: {folder.resolve().name}",
        result,
        read_metrics(folder / "metrics.jsonl"),
        sample_rate=trained.spec.features.sample_rate,
        num_players=shown,
        about=trained.about() | {"run": config.workdir, "held-out data": "the validation clips of the training data"},
    )
    print(f"{headline(result)}\nReport: {config.workdir}/report.html\n{_next_commands(config, code)}")


def _next_commands(config: Config, code: Code | None) -> str:
    trust, board = "" if code is None else " --trust-code", config.folder / "tensorboard"
    look = f"  tensorboard --logdir {shell_quote(board)}   (pip install tensorboard)\n" if board.is_dir() else ""
    said = [name for name in config.model.streams if config.streams[name].default(1) is None]
    inputs = "".join(f" --input {name}=VALUE" for name in said)
    other = "MUSIC" if config.features.is_symbolic else "SOUND"
    return (
        "Next:\n"
        f"  {config.evaluation.next_command.format(workdir=shell_quote(config.workdir))}{inputs}{trust}\n"
        f"{look}"
        f"  python -m jaxgen.train --data.root FOLDER_OF_{other}"
    )
