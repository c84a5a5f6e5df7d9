"""A run on disk: its folder, what is stored with each checkpoint, and how to open it again."""

import contextlib
import dataclasses
import json
import sys
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from jaxgen import __version__
from jaxgen.config import Config
from jaxgen.core.compilation_cache import set_compilation_cache
from jaxgen.core.environment import one_line
from jaxgen.core.errors import UserError
from jaxgen.core.files import cause, explain_write_errors, read_regular, write_atomic
from jaxgen.core.names import UserPath, expand, file_name
from jaxgen.core.numerics import random_key
from jaxgen.core.serial import UnknownClass, content_hash, differences, from_json, parse_json, to_json
from jaxgen.data.batches import Batches
from jaxgen.data.spec import DataSpec
from jaxgen.data.store import Store
from jaxgen.objectives.objective import TrainTask
from jaxgen.provenance.record import Provenance, mark
from jaxgen.runs.code import Code, CodeManifest
from jaxgen.training.mesh import Devices
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


WRITTEN = (
    *("checkpoints", "code", "damaged", "loggers", "tensorboard", "wandb", "generated", "evaluation"),
    *("starts.jsonl", "metrics.jsonl", ".lock"),
)
"""What is written to in a run's folder, and not replaced."""


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


@dataclasses.dataclass(frozen=True)
class Run:
    """A trained model, open for use."""

    workdir: Path
    step: int
    config: Config
    spec: DataSpec
    task: TrainTask
    params: Any
    """Averaged parameters of the checkpoint."""

    @classmethod
    def open(
        cls,
        workdir: str | Path,
        step: int | None = None,
        *,
        option: str = "--workdir",
        trust_code: bool | None = None,
    ) -> "Run":
        """Opens the best checkpoint by validation, or that of `step`.

        option: that named the folder. trust_code: whether to run the code that the run holds; None where nobody can ask for it.
        Raises UserError where there is no run, or it needs code that is not loaded.
        """
        workdir = Path(workdir)
        checkpoints = checkpoints_of(workdir)
        if checkpoints is None or not checkpoints.steps():
            raise UserError(f"no checkpoint in '{workdir}'. Pass {option} the folder of a run of jaxgen.train.")
        with contextlib.closing(checkpoints):
            listed: list[int] = []
            damages: dict[int, str] = {}
            while listed != (steps := checkpoints.reload()):  # of a run that goes on, checkpoints come and go
                if step is not None and step not in steps:
                    kept = ", ".join(map(str, steps))
                    raise UserError(f"'{workdir}' keeps no checkpoint of step {step}; it has {kept}. Change --step.")
                run, damages = cls._first_whole(workdir, checkpoints, step, trust_code)
                if run is not None:
                    for each, reason in damages.items():
                        said = f"the checkpoint of step {each} in '{workdir}' is damaged ({reason})"
                        print(f"jaxgen: {said}; that of step {run.step} is used", file=sys.stderr)
                    return run
                listed = steps
        reasons = "".join(f"; step {each}: {reason}" for each, reason in damages.items())
        raise UserError(
            f"none of the checkpoints in '{workdir}' is whole{reasons}. Train again, or pass another {option}"
            f"{'' if step is None else ' or --step'}."
        )

    @classmethod
    def _first_whole(
        cls, workdir: Path, checkpoints: "Checkpoints", step: int | None, trust_code: bool | None
    ) -> tuple["Run | None", dict[int, str]]:
        """The checkpoint of a step, or the best of all, or the newest whole one; None where there is none. And what is
        wrong with damaged ones that were tried and are still there: a run that goes on removes others.
        """
        from jaxgen.training.checkpoint import Damaged

        found, wanted, damages = None, [step], dict[int, str]()
        if step is None:
            newest = checkpoints.newest_run()
            best = (
                None
                if newest is None
                else checkpoints.best(_described(newest[1], workdir, trust_code)[0].train.best_metric)
            )
            wanted = [best, *reversed(checkpoints.steps())]
        for each in dict.fromkeys(step for step in wanted if step is not None):
            try:
                config, spec = _described(checkpoints.run(each), workdir, trust_code)
                task, shapes = _model(config, spec, workdir)
                average = checkpoints.restore_average(each, shapes.average)
                found = cls(workdir, each, _placed_anew(config), spec, task, average)
                break
            except Damaged as damage:
                damages[each] = str(damage)
        there = checkpoints.reload() if damages else []
        return found, {each: damages[each] for each in there if each in damages}

    @property
    def name(self) -> str:
        """Of the run's folder, and the step: `digits/6000`."""
        return f"{self.workdir.resolve().name}/{self.step}"

    def initial_params(self) -> Any:
        """The parameters that this run started from."""
        return jax.jit(self.task.init)(random_key(self.config.train.seed)).average

    def check_data(self, store: Store) -> None:
        """Raises UserError where the store holds other clips than this run was trained on."""
        _check_manifest(self.workdir, self.spec, store.manifest_hash)

    def about(self) -> dict[str, Any]:
        """What a report says of the run, beside its figures."""
        return {
            "run": str(self.workdir),
            "checkpoint": f"step {self.step}",
            "model": type(self.config.model).__name__,
            "parameters": sum(leaf.size for leaf in jax.tree.leaves(self.params)),
            "config_sha256": config_hash(self.config),
            "data_manifest_sha256": self.spec.manifest_hash,
            "licences": self.spec.licences,
            "jaxgen": __version__,
            "jax": jax.__version__,
            "device": jax.devices()[0].device_kind,
        }

    def save_clips(
        self,
        folder: Path,
        clips: Sequence[np.ndarray],
        labels: Sequence[Mapping[str, str]],
        *,
        seed: int,
        prompt: str = "",
        vocoder: "Run | None" = None,
        soundfont: str | None = None,
        first: int = 0,
        total: int = 0,
    ) -> list[Path]:
        """Writes clips, float32 [nsamp] each, as wav files with their provenance, into a folder that it makes; the files.

        A file's name is its place, by which names sort, and as much of its labels as a name can hold; the JSON beside it has
        them whole. vocoder: the run that made sound of their frames, if one did. first: place of the first of them among
        the `total` of a command.
        """
        licences = self.spec.licences if vocoder is None else self.spec.licences + vocoder.spec.licences
        with explain_write_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
        digits, config_sha256, wavs = max(3, len(str(total - 1))), config_hash(self.config), list[Path]()
        for index, (clip, row) in enumerate(zip(clips, labels, strict=True), first):
            name = file_name("_".join([f"{index:0{digits}d}", *(f"{key}-{value}" for key, value in row.items())]))
            provenance = Provenance(
                model=type(self.config.model).__name__,
                checkpoint=self.name,
                config_sha256=config_sha256,
                data_manifest_sha256=self.spec.manifest_hash,
                licences=tuple(sorted(set(licences))),
                seed=seed,
                clip=index,
                labels=row,
                prompt=prompt,
                vocoder="" if vocoder is None else vocoder.name,
                soundfont="" if soundfont is None else Path(soundfont).name,
            )
            wavs.append(folder / f"{name}.wav")
            mark(wavs[-1], clip, self.spec.features.sample_rate, provenance)
        return wavs


def enable_compilation_cache(cache_dir: str) -> None:
    """Has jax keep every program that it compiles, in `compiled` in the cache: the next process loads it from there.

    cache_dir: the caller's, never that of a run which is opened: what is loaded from there is machine code.
    JAX_COMPILATION_CACHE_DIR names another folder, JAX_ENABLE_COMPILATION_CACHE=false turns this off. A cache that
    cannot be written is left alone.
    """
    if not jax.config.values["jax_compilation_cache_dir"]:
        set_compilation_cache(Path(expand(cache_dir)) / "compiled")


def build_task(config: Config, spec: DataSpec) -> TrainTask:
    """The config's objective for its model and this data."""
    train = config.train
    return config.objective.build(config.model, spec, steps=train.steps, batch_size=train.batch_size)


def devices_of(config: Config) -> Devices:
    """All devices, for the config to train on. Raises UserError where its batch does not divide over them."""
    train, parts = config.train, config.objective.num_microbatches
    return Devices(train.batch_size, accumulation=parts, shard_parameters=train.shard_parameters)


def training_batches(config: Config, store: Store, spec: DataSpec, rows: Sequence[int] | None = None) -> Batches:
    """The batches that the config trains on. rows: those that are read, none for all."""
    train = config.train
    return config.objective.batches(
        config.model,
        store,
        spec,
        batch_size=train.batch_size,
        seq_len=train.seq_len,
        seed=train.seed,
        rows=rows,
    )


def checkpoints_of(workdir: Path) -> "Checkpoints | None":
    """The checkpoints of a run, or None where the folder holds none. Touches nothing."""
    folder = workdir / "checkpoints"
    if not folder.is_dir():
        return None
    from jaxgen.training.checkpoint import Checkpoints

    return Checkpoints(folder)


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
        latest, (saved, _) = newest[0], _described(newest[1], config.folder)
    finally:
        checkpoints.close()
    check_same_run(saved, config, f", at step {latest}")
    ended = latest >= config.train.steps or should_stop_early(
        read_metrics(config.folder / "metrics.jsonl"), config.train
    )
    return ended and (config.folder / "report.json").exists()


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


def same_experiment(saved: Config, config: Config) -> bool:
    """Whether two configs differ in nothing but where their run is."""
    return not differences(saved, config, frozenset(_PLACE))


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


def check_data(config: Config, spec: DataSpec) -> None:
    """Raises UserError where the run in the workdir was trained on other clips than `spec` describes."""
    run = _newest(config)
    if run is not None:
        _check_manifest(config.workdir, _described(run, config.folder)[1], spec.manifest_hash)


def saved_licences(config: Config) -> tuple[str, ...]:
    """The licences that the run in the workdir was begun with; none where there is none yet."""
    run = _newest(config)
    return () if run is None else _described(run, config.folder)[1].licences


def saved_code(config: Config) -> CodeManifest | None:
    """What the newest checkpoint in the workdir says of its code; None where it has none."""
    run = _newest(config)
    return None if run is None else _code_of(run, config.folder)


def _newest(config: Config) -> Any:
    """The `run` of the newest checkpoint in the workdir; None where there is none."""
    checkpoints = checkpoints_of(config.folder)
    if checkpoints is None:
        return None
    with contextlib.closing(checkpoints):
        newest = checkpoints.newest_run()
        return None if newest is None else newest[1]


def _check_manifest(workdir: str | Path, saved: DataSpec, manifest_hash: str) -> None:
    if saved.manifest_hash != manifest_hash:
        raise UserError(
            f"the clips have changed since '{workdir}' was trained (manifest {saved.manifest_hash[:12]}, now "
            f"{manifest_hash[:12]}). Restore them, or train anew in another --workdir."
        )


def save_config(config: Config, folder: Path) -> None:
    """Writes the resolved config into a folder, which it makes."""
    with explain_write_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    write_atomic(folder / "config.json", json.dumps(to_json(config), indent=2) + "\n")


def _described(run: Any, workdir: Path, trust_code: bool | None = None) -> tuple[Config, DataSpec]:
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


def _code_of(run: Any, workdir: Path) -> CodeManifest | None:
    """What the `run` of a checkpoint says of its code; None where it has none."""
    held = run.get("code") if isinstance(run, dict) else None
    return None if held is None else from_json(held, CodeManifest, _source(workdir))


def _source(workdir: Path) -> str:
    return f"what '{workdir}' says of its run"


def _model(config: Config, spec: DataSpec, workdir: Path) -> tuple[TrainTask, Any]:
    """What the run in a workdir trained, and the shapes of its state. Raises UserError where there is no such model."""
    try:
        task = build_task(config, spec)
        return task, jax.eval_shape(task.init, random_key(0))
    except UserError:
        raise
    except Exception as error:  # of whatever kind, where values that came from outside do not go together
        raise UserError(
            f"what '{workdir}' says of its run makes no model ({type(error).__name__}: {one_line(error)})."
        ) from error


def _placed_anew(config: Config) -> Config:
    """The config of an opened run without the places it was trained in: whoever opens a run says where files go."""
    metrics = tuple(map(_without_paths, config.evaluation.metrics))
    config = dataclasses.replace(config, evaluation=dataclasses.replace(config.evaluation, metrics=metrics))
    return _with_defaults(dataclasses.replace(config, data=_with_defaults(config.data, ("cache_dir",))), _PLACE)


def _without_paths(value: Any) -> Any:
    """A dataclass with the defaults of its paths: a run does not say which files are read."""
    hints = typing.get_type_hints(type(value), include_extras=True)
    return _with_defaults(value, [name for name, hint in hints.items() if UserPath in (hint, *typing.get_args(hint))])


def _with_defaults(value: Any, names: Sequence[str]) -> Any:
    """A dataclass with the defaults of those fields."""
    defaults = {field.name: field.default for field in dataclasses.fields(value) if field.name in names}
    return dataclasses.replace(value, **defaults)
