"""What a folder says of the run in it, and whether a config goes on with that."""

import contextlib
import dataclasses
import json
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxgen.config import Config
from jaxgen.core.errors import UserError
from jaxgen.core.files import cause, explain_write_errors, read_regular, write_atomic
from jaxgen.core.names import UserPath
from jaxgen.core.serial import UnknownClass, content_hash, differences, from_json, parse_json, to_json
from jaxgen.data.spec import DataSpec
from jaxgen.runs.code import Code, CodeManifest
from jaxgen.training.schedule import should_stop_early
from jaxgen.training.telemetry import read_metrics

if TYPE_CHECKING:  # orbax is slow to import
    from jaxgen.training.checkpoint import Checkpoints

_PLACE = ("workdir", "cache_dir", "profile", "distributed", "coordinator", "num_processes", "process_id")
_MAY_DIFFER = frozenset(
    [*_PLACE, "data.root", "data.cache_dir", "evaluation", "model.refinements"]
    + [
        f"train.{name}"
        for name in (
            "steps_per_call",
            "log_every",
            "keep",
            "early_stopping",
            "on_full_disk",
            "stuck_after",
            "shard_parameters",
            "loggers",
        )
    ]
)


def describe(config: Config, spec: DataSpec, code: Code | None = None) -> dict[str, Any]:
    """What every checkpoint says of its run."""
    kept = dataclasses.replace(config, train=dataclasses.replace(config.train, loggers=()))
    held = {} if code is None else {"code": to_json(code.manifest)}
    return {"config": to_json(kept), "data": to_json(spec), **held}


def config_hash(config: Config) -> str:
    """SHA-256 of a config without where it runs, hexadecimal: the same experiment has the same hash anywhere."""
    content = {name: value for name, value in to_json(config).items() if name not in _PLACE}
    content["data"] = {name: value for name, value in content["data"].items() if name not in ("root", "cache_dir")}
    content["train"] = {name: value for name, value in content["train"].items() if name != "loggers"}
    return content_hash(content)


def same_experiment(saved: Config, config: Config) -> bool:
    """Whether two configs differ in nothing but where their run is."""
    return not differences(saved, config, frozenset(_PLACE))


def check_same_run(saved: Config, config: Config, state: str = "") -> None:
    """Raises UserError where a config does not go on with the run of another one in its workdir.

    saved: that run's. state: how far it is, for the message.
    """
    longer = saved.train.steps < config.train.steps and config.objective.extensible
    if changed := differences(saved, config, _MAY_DIFFER | ({"train.steps"} if longer else set())):
        hint = ""
        if [line.partition("=")[0] for line in changed] == ["train.steps"] and saved.train.steps < config.train.steps:
            hint = (
                " More steps need a learning rate that does not fall to the last step: train with "
                "--objective.optimizer.schedule Constant or WarmupStableDecay from the start."
            )
        raise UserError(
            f"'{config.workdir}' holds a run of another config{state}: {'; '.join(changed)}. "
            f"Pass another --workdir, or the run's own settings to continue it.{hint}"
        )


def is_finished(config: Config) -> bool:
    """Whether the run of this config has trained all its steps, or was stopped early, and has its report.

    Raises UserError where the folder holds a run of another config.
    """
    checkpoints = checkpoints_of(config.folder)
    if checkpoints is None:
        return False
    try:
        newest = checkpoints.newest_run()
        if newest is None:
            return False
        latest, (saved, _) = newest[0], read_description(newest[1], config.folder)
    finally:
        checkpoints.close()
    check_same_run(saved, config, f", at step {latest}")
    ended = latest >= config.train.steps or should_stop_early(
        read_metrics(config.folder / "metrics.jsonl"), config.train
    )
    return ended and (config.folder / "report.json").exists()


def saved_config(folder: Path) -> Config | None:
    """The config that a run was last started with; None where the folder holds no run.

    Raises UserError where it cannot be read.
    """
    path = folder / "config.json"
    try:
        content = read_regular(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise UserError(f"cannot read '{path}' ({cause(error)}); mend that, or move the folder away.") from None
    return from_json(parse_json(content, f"'{path}'"), Config, f"what '{path}' says of its run")


def save_config(config: Config, folder: Path) -> None:
    """Writes the resolved config into a folder, which it makes."""
    with explain_write_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    write_atomic(folder / "config.json", json.dumps(to_json(config), indent=2) + "\n")


def check_data(config: Config, spec: DataSpec) -> None:
    """Raises UserError where the run in the workdir was trained on other clips than `spec` describes."""
    run = _newest(config)
    if run is not None:
        check_manifest(config.workdir, read_description(run, config.folder)[1], spec.manifest_hash)


def check_manifest(workdir: str | Path, saved: DataSpec, manifest_hash: str) -> None:
    if saved.manifest_hash != manifest_hash:
        raise UserError(
            f"the clips have changed since '{workdir}' was trained (manifest {saved.manifest_hash[:12]}, now "
            f"{manifest_hash[:12]}). Restore them, or train anew in another --workdir."
        )


def saved_licences(config: Config) -> tuple[str, ...]:
    """The licences that the run in the workdir was begun with; none where there is none yet."""
    run = _newest(config)
    return () if run is None else read_description(run, config.folder)[1].licences


def saved_code(config: Config) -> CodeManifest | None:
    """What the newest checkpoint in the workdir says of its code; None where it has none."""
    run = _newest(config)
    return None if run is None else _code_of(run, config.folder)


def checkpoints_of(workdir: Path) -> "Checkpoints | None":
    """The checkpoints of a run, or None where the folder holds none. Touches nothing."""
    folder = workdir / "checkpoints"
    if not folder.is_dir():
        return None
    from jaxgen.training.checkpoint import Checkpoints

    return Checkpoints(folder)


def read_description(run: Any, workdir: Path, trust_code: bool | None = None) -> tuple[Config, DataSpec]:
    """What the `run` of a checkpoint in a workdir describes. trust_code: as for `Run.open`."""
    source, parts = _source(workdir), run if isinstance(run, dict) else {}
    code = _code_of(run, workdir)
    if code is not None and trust_code:
        code.run(workdir)
    try:
        config = from_json(parts.get("config"), Config, source)
    except UnknownClass:
        if code is None or trust_code:
            raise
        allow = " --trust-code to run it (in Python: trust_code=True), or" if trust_code is not None else ""
        raise UserError(
            f"'{workdir}' needs classes of its own code, {code.describe(workdir)}, which is not run unless you say so. If "
            f"you trust it, pass{allow} --config a file that defines the same classes."
        ) from None
    spec = from_json(parts.get("data"), DataSpec, source)
    if changed := differences(spec.features, config.features, prefix="features"):
        raise UserError(f"{source} cannot be used: its data and its config differ in {'; '.join(changed)}.")
    return config, spec


def placed_anew(config: Config) -> Config:
    """The config of an opened run without the places it was trained in: whoever opens a run says where files go."""
    metrics = tuple(map(_without_paths, config.evaluation.metrics))
    config = dataclasses.replace(config, evaluation=dataclasses.replace(config.evaluation, metrics=metrics))
    return _with_defaults(dataclasses.replace(config, data=_with_defaults(config.data, ("cache_dir",))), _PLACE)


def _newest(config: Config) -> Any:
    """The `run` of the newest checkpoint in the workdir; None where there is none."""
    checkpoints = checkpoints_of(config.folder)
    if checkpoints is None:
        return None
    with contextlib.closing(checkpoints):
        newest = checkpoints.newest_run()
        return None if newest is None else newest[1]


def _code_of(run: Any, workdir: Path) -> CodeManifest | None:
    """What the `run` of a checkpoint says of its code; None where it has none."""
    held = run.get("code") if isinstance(run, dict) else None
    return None if held is None else from_json(held, CodeManifest, _source(workdir))


def _source(workdir: Path) -> str:
    return f"what '{workdir}' says of its run"


def _without_paths(value: Any) -> Any:
    """A dataclass with the defaults of its paths: a run does not say which files are read."""
    hints = typing.get_type_hints(type(value), include_extras=True)
    return _with_defaults(value, [name for name, hint in hints.items() if UserPath in (hint, *typing.get_args(hint))])


def _with_defaults(value: Any, names: Sequence[str]) -> Any:
    """A dataclass with the defaults of those fields."""
    defaults = {field.name: field.default for field in dataclasses.fields(value) if field.name in names}
    return dataclasses.replace(value, **defaults)
