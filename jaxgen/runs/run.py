"""A run on disk: its folder, what is stored with each checkpoint, and how to open it again."""

import contextlib
import dataclasses
import sys
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
from jaxgen.core.files import explain_write_errors
from jaxgen.core.names import expand, file_name
from jaxgen.core.numerics import random_key
from jaxgen.data.batches import Batches
from jaxgen.data.spec import DataSpec
from jaxgen.data.store import Store
from jaxgen.objectives.objective import TrainTask
from jaxgen.provenance.record import Provenance, mark
from jaxgen.runs.saved_run import check_manifest, checkpoints_of, config_hash, placed_anew, read_description
from jaxgen.training.mesh import Devices

if TYPE_CHECKING:  # orbax is slow to import
    from jaxgen.training.checkpoint import Checkpoints


WRITTEN = (
    *("checkpoints", "code", "damaged", "loggers", "tensorboard", "wandb", "generated", "evaluation"),
    *("starts.jsonl", "metrics.jsonl", ".lock"),
)
"""What is written to in a run's folder, and not replaced."""


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
                else checkpoints.best(read_description(newest[1], workdir, trust_code)[0].train.best_metric)
            )
            wanted = [best, *reversed(checkpoints.steps())]
        for each in dict.fromkeys(step for step in wanted if step is not None):
            try:
                config, spec = read_description(checkpoints.run(each), workdir, trust_code)
                task, shapes = _model(config, spec, workdir)
                average = checkpoints.restore_average(each, shapes.average)
                found = cls(workdir, each, placed_anew(config), spec, task, average)
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
        check_manifest(self.workdir, self.spec, store.manifest_hash)

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
