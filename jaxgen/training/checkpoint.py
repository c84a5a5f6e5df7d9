"""Checkpoints of a run. The only file that knows orbax."""

import contextlib
import dataclasses
import functools
import json
import logging
import math
import os
import shutil
import stat
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self, TypeVar

import jax
import orbax.checkpoint as ocp

from jaxgen.core.environment import one_line
from jaxgen.core.errors import SaveFailed, TryAgain, UserError
from jaxgen.core.files import cause, explain_write_errors, retry_read
from jaxgen.core.names import join_inside
from jaxgen.core.numerics import other_settings
from jaxgen.core.serial import from_json, parse_json, to_json
from jaxgen.training.checkpoint_seals import About, Damaged, Hashes, describe_arrays, digest, hash_files, seal, unseal
from jaxgen.training.distributed import all_gather, broadcast_from_first, is_multiprocess

T = TypeVar("T")

_FORMAT = 3  # of a checkpoint's folder
_OPENED_BY = {
    **dict.fromkeys((1, 2), "jaxgen at commit 0c8cc64 or before"),
    3: "jaxgen 0.2.0",
}
"""Which version of jaxgen opens a format."""
_HASHES = "hashes.json"
_LOOKS = 20  # at a folder that changes
_ROOM = 1.5  # times the state's own size, for the files around it


class SavedState(NamedTuple):
    """What a checkpoint holds for training to go on."""

    step: int
    state: Any
    data: dict[str, Any]
    """The data position."""


class Checkpoints:
    """The checkpoints in `directory`: the newest `keep` and the one with the lowest validation metric.

    Each holds the train state, the data position, validation figures and `run` (config and data spec), written together
    and asynchronously: a checkpoint is either whole or absent. Hashes of its files, written with it, tell whether what is
    read is what was saved: a file that is gone, or holds other bytes, is damage, and nothing else is.

    `keep` None only reads: a run that trains meanwhile is not disturbed. To save, all processes that train meet here, at
    the same calls, unless this one is to be `alone`; each reads on its own.
    """

    def __init__(self, directory: Path, *, keep: int | None = None, best_metric: str = "loss", alone: bool = False):
        for name in ("absl", "asyncio"):  # what fails is told by us, once
            logging.getLogger(name).setLevel(logging.CRITICAL)
        _quieten_closed_loops()
        self.directory, self.best_metric = directory, best_metric
        self._together = keep is not None and is_multiprocess() and not alone
        processes = _all_processes() if self._together or not is_multiprocess() else _this_process()
        self._handler = _HashedArrays(multiprocessing_options=processes)
        self._handlers = ocp.handlers.DefaultCheckpointHandlerRegistry()
        self._handlers.add("state", ocp.args.PyTreeSave, self._handler)
        self._options = ocp.CheckpointManagerOptions(
            read_only=keep is None,
            create=self._together or not is_multiprocess(),  # orbax cannot where not all processes meet
            multiprocessing_options=processes,
            cleanup_tmp_directories=keep is not None,  # what a killed save left
            preservation_policy=_NewestAndBest(self, keep or 1),
        )
        self._figures: dict[int, dict[str, float]] = {}
        self.manager = self._open()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Closes; a process that fails does not, as it would wait for others, which may not have failed."""
        if kind is None or not self._together:
            self.close()

    def _open(self) -> ocp.CheckpointManager:
        # orbax reads these files now, and waits where one is a pipe
        for path in self.directory.glob("*/_CHECKPOINT_METADATA"):
            if path.exists() and not path.is_file():
                raise UserError(
                    f"'{path}' is not a file; remove the folder that it is in, which is no whole checkpoint."
                )
        return self._listed(
            lambda: ocp.CheckpointManager(
                self.directory.absolute(), options=self._options, handler_registry=self._handlers
            )
        )

    def _listed(self, look: Callable[[], T]) -> T:
        """What orbax finds in the folder, which it looks up anew where a run that goes on removes a checkpoint meanwhile."""
        for _ in range(_LOOKS):
            with contextlib.suppress(FileNotFoundError):
                return look()
        raise TryAgain(
            f"the checkpoints in '{self.directory}' come and go too fast to be listed. Run the same command again."
        )

    def save(self, step: int, state: Any, data: dict[str, Any], run: Any, metrics: dict[str, float] | None) -> None:
        """Starts a save. metrics: the validation figures at this step, if it was validated.

        Raises SaveFailed where this save, or the one before, which went on while training did, cannot be written.
        """
        needed = _ROOM * sum(leaf.nbytes for leaf in jax.tree.leaves(state))
        finite = {name: value for name, value in (metrics or {}).items() if math.isfinite(value)}
        about = to_json(About(position=data, metrics=finite, arrays=describe_arrays(state)))
        with self._saving():
            free = broadcast_from_first(self._free) if self._together else self._free()
            if free < needed:  # orbax fails loudly, from its threads
                raise OSError(None, f"{free / 1e6:.1f} MB free, a checkpoint needs {needed / 1e6:.1f} MB")
            self.manager.wait_until_finished()
            self.best(self.best_metric)  # read now: orbax asks for it in the middle of the save
            self._figures[step] = finite
            self.manager.save(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.PyTreeSave(state),
                    data=ocp.args.JsonSave(seal(about)),
                    run=ocp.args.JsonSave(seal({"format_version": _FORMAT, "of": run})),
                ),
                force=True,  # else orbax says nothing where a later step is there
            )

    def restore(self, step: int, state: Any) -> SavedState:
        """The checkpoint of a step; `state` gives structure, shapes and dtypes, and where its arrays lie: for shapes
        alone, on one device of this process.

        Raises Damaged, and UserError where the state is of another structure, or cannot be read now.
        """
        self.manager.wait_until_finished()
        about = self._about(step)
        self._check_files(step)
        return SavedState(step, self._arrays(step, about, state), about.position)

    def restore_average(self, step: int, average: Any) -> Any:
        """The averaged parameters of a step's state alone; `average` and errors as for `restore`."""
        about = self._about(step)
        self._check_files(step)
        return self._arrays(step, about, {"average": average}, partial_restore=True)["average"]

    def _arrays(self, step: int, about: About, wanted: Any, **options: Any) -> Any:
        """The state, or parts of it, like `wanted`; its files have been checked."""
        here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])

        def target_of(leaf: Any) -> jax.ShapeDtypeStruct:
            return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=getattr(leaf, "sharding", None) or here)

        self._check_alike(step, about.arrays, describe_arrays(wanted), whole=not options)
        target = jax.tree.map(target_of, wanted)
        places = ocp.checkpoint_utils.construct_restore_args(target)
        read = ocp.args.PyTreeRestore(target, restore_args=places, **options)
        try:
            return self._handler.restore(self.manager.directory / str(step) / "state", args=read)
        except Exception as error:  # orbax's and tensorstore's, of any kind
            self._check_files(step)  # while the bytes are those that were saved it is not damage
            raise self._unreadable(step, error) from None

    def restore_newest(self, state: Any) -> SavedState | None:
        """The newest whole checkpoint, or None where there is none. Damaged ones are told and moved beside, to
        `damaged/` in the run's folder, so that saving goes on from the one before them.
        """
        if self._together:  # the first process looks which one that is, then all read it together
            step = broadcast_from_first(lambda: _newest_whole(self.directory, state))
            self.manager.reload()
            try:
                if step is None:
                    return None
                about = self._about(step)
                return SavedState(step, self._arrays(step, about, state), about.position)
            except Damaged as damage:
                raise UserError(
                    f"the checkpoint of step {step} in '{self.directory}' can be read by process 0, not by process "
                    f"{jax.process_index()} ({damage}); pass --workdir a folder that all processes share."
                ) from None
        for step in reversed(self.steps()):
            try:
                return self.restore(step, state)
            except Damaged as damage:
                aside = self._set_aside(step)
                print(f"jaxgen: the checkpoint of step {step} is damaged ({damage}); moved to {aside}", file=sys.stderr)
        return None

    def run(self, step: int) -> Any:
        """What `save` was given as `run`. Raises Damaged, and UserError where another version saved it."""
        run = self._sealed(step, "run/metadata")
        found = run.get("format_version", run.get("format", 1)) if isinstance(run, dict) else 1  # "format" before 0.2.0
        if found != _FORMAT:
            raise UserError(
                f"the checkpoint of step {step} in '{self.directory}' was saved by another version of jaxgen: its format is "
                f"{found}, this version opens {_FORMAT}. Use {_opened_by(found)}, or train again in another --workdir."
            )
        return run.get("of")

    def newest_run(self) -> tuple[int, Any] | None:
        """The newest step whose `run` is what was saved, and it; None where there is none."""
        for step in reversed(self.steps()):
            with contextlib.suppress(Damaged):
                return step, self.run(step)
        return None

    def steps(self) -> list[int]:
        """All steps kept, oldest first."""
        return sorted(self.manager.all_steps())

    def reload(self) -> list[int]:
        """As `steps`, looked up anew: another process may have saved and removed some."""
        self._listed(self.manager.reload)
        return self.steps()

    def best(self, metric: str) -> int | None:
        """Step with the lowest validation metric of this name, or None where none was validated."""
        values = {step: self.figures(step).get(metric, math.nan) for step in self.steps()}
        values = {step: value for step, value in values.items() if math.isfinite(value)}
        return min(values, key=lambda step: values[step], default=None)

    def figures(self, step: int) -> dict[str, float]:
        """The validation figures at a step; empty where it was not validated, or its checkpoint is damaged."""
        if step not in self._figures:
            try:
                self._figures[step] = dict(self._about(step).metrics)
            except Damaged:
                self._figures[step] = {}
        return self._figures[step]

    def wait(self) -> None:
        """Returns when every started save is on disk. Raises SaveFailed."""
        with self._saving():
            self.manager.wait_until_finished()

    def close(self) -> None:
        """Finishes saves and ends the writer threads. Raises SaveFailed."""
        try:
            self.wait()
        finally:
            self.manager.close()

    @contextlib.contextmanager
    def _saving(self) -> Iterator[None]:
        """Turns what saving stumbles over, in any process, into SaveFailed, and lets the next save start afresh."""
        reason = ""
        try:
            yield
        except Exception as error:  # from orbax's and tensorstore's threads, of any kind
            reason = _reason(error)
        if reason := next(filter(None, all_gather(reason) if self._together else [reason]), ""):
            with contextlib.suppress(Exception):
                self.manager.close()
            self.manager = self._open()
            for step in self._figures.keys() - set(self.steps()):
                del self._figures[step]
            raise SaveFailed(
                f"cannot save a checkpoint in '{self.directory}' ({reason}); free space, or choose another --workdir."
            )

    def _free(self) -> float:
        """Bytes; where nothing tells, the save itself will."""
        try:
            return shutil.disk_usage(self.directory).free
        except OSError:
            return math.inf

    def _about(self, step: int) -> About:
        """What `save` wrote of the state. Raises Damaged, and UserError where another version saved it."""
        self.run(step)
        return self._held(step, "data/metadata", About)

    def _held(self, step: int, name: str, kind: type[T]) -> T:
        """What a sealed file of a checkpoint holds. Raises Damaged where it holds another file's content."""
        try:
            return from_json(self._sealed(step, name), kind, str(self.directory / str(step) / name))
        except UserError as error:
            raise Damaged(str(error).rstrip(".")) from None

    def _sealed(self, step: int, name: str) -> Any:
        """The content of a JSON file of a checkpoint, under its seal. Raises Damaged."""
        content = self._read(step, name, Path.read_bytes)
        try:
            return unseal(parse_json(content, name))
        except UserError as error:
            raise Damaged(str(error).rstrip(".")) from None

    def _check_files(self, step: int) -> None:
        """Raises Damaged where a file of the state is not what was saved."""
        hashes = self._held(step, f"state/{_HASHES}", Hashes)
        for name, sha256 in hashes.sha256.items():
            if self._read(step, f"state/{name}", digest) != sha256:
                raise Damaged(f"{name} is not what was saved")

    def _read(self, step: int, name: str, read: Callable[[Path], T]) -> T:
        """What `read` makes of a file of a checkpoint. Raises Damaged where it is gone, or is no file: a pipe would be
        waited for.
        """
        path = join_inside(self.directory / str(step), name)

        def read_file() -> T:
            if not stat.S_ISREG(path.stat().st_mode):
                raise Damaged(f"{name} is not a file")
            return read(path)

        try:
            return retry_read(path, read_file)
        except (FileNotFoundError, NotADirectoryError):
            raise Damaged(f"{name} is gone") from None
        except OSError as error:
            raise self._unreadable(step, error) from None

    def _check_alike(self, step: int, saved: Mapping[str, str], wanted: Mapping[str, str], *, whole: bool) -> None:
        """Raises UserError where arrays that are wanted are not those saved."""
        names = sorted(saved.keys() | wanted.keys() if whole else wanted.keys())
        other = [name for name in names if saved.get(name) != wanted.get(name)]
        if other:
            name, settings = other[0], ", ".join(other_settings())
            raise UserError(
                f"the checkpoint of step {step} in '{self.directory}' holds {saved.get(name, 'nothing')} as {name}, this "
                f"process expects {wanted.get(name, 'nothing')} ({len(other)} of {len(names)} arrays differ); "
                + (f"start it without {settings}." if settings else "start it with the run's own settings.")
            )

    def _unreadable(self, step: int, error: Exception) -> UserError:
        return UserError(
            f"the checkpoint of step {step} in '{self.directory}' cannot be read now ({_reason(error)}); nothing was changed. "
            "Try again."
        )

    def _set_aside(self, step: int) -> Path:
        aside = self.directory.parent / "damaged" / f"{step}-{time.time_ns()}"
        with explain_write_errors(aside):
            aside.parent.mkdir(exist_ok=True)
            os.rename(self.directory / str(step), aside)
        self._figures.pop(step, None)
        self.manager.reload()
        return aside


class _HashedArrays(ocp.PyTreeCheckpointHandler):
    """Writes beside the arrays the SHA-256 of each of their files, before the checkpoint appears."""

    def finalize(self, directory: Any) -> None:
        super().finalize(directory)
        if jax.process_index() == (self._primary_host or 0):
            folder = Path(directory)
            (folder / _HASHES).write_text(json.dumps(seal(to_json(hash_files(folder)))))


@functools.cache
def _quieten_closed_loops() -> None:
    """At a full disk orbax closes its event loop while TensorStore still works at others: each of those answers would
    print a traceback.
    """
    tell = sys.unraisablehook

    def hook(unraisable: Any) -> None:
        if not (isinstance(unraisable.exc_value, RuntimeError) and str(unraisable.exc_value) == "Event loop is closed"):
            tell(unraisable)

    sys.unraisablehook = hook


def _opened_by(found: Any) -> str:
    """The version of jaxgen that opens checkpoints of a format."""
    return _OPENED_BY.get(found, "a later version") if isinstance(found, int) else "the version that saved it"


def _newest_whole(directory: Path, state: Any) -> int | None:
    """The step of the newest whole checkpoint, read by this process alone."""
    shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), state)
    with contextlib.closing(Checkpoints(directory)) as checkpoints:
        saved = checkpoints.restore_newest(shapes)
    return saved and saved.step


def _all_processes() -> ocp.options.MultiprocessingOptions:
    return ocp.options.MultiprocessingOptions()


def _this_process() -> ocp.options.MultiprocessingOptions:
    """Those of a manager that does not meet those of other processes."""
    if not is_multiprocess():
        return _all_processes()
    me = jax.process_index()
    return ocp.options.MultiprocessingOptions(me, {me}, f"process_{me}")


@dataclasses.dataclass
class _NewestAndBest:
    """Orbax's PreservationPolicy: the newest checkpoints, and the best by validation."""

    of: Checkpoints
    newest: int

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> Sequence[bool]:
        steps = [checkpoint.step for checkpoint in checkpoints]
        kept = {*steps[-self.newest :], self.of.best(self.of.best_metric)}
        return [step in kept for step in steps]


def _reason(error: BaseException) -> str:
    """What an exception says, without paths in an error of the system."""
    return cause(error) if isinstance(error, OSError) else one_line(error)
