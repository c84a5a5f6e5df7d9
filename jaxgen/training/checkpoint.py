"""Checkpoints of a run. The only file that knows orbax."""

import asyncio
import contextlib
import dataclasses
import errno
import hashlib
import json
import logging
import math
import os
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp

from jaxgen.errors import SaveFailed, UserError
from jaxgen.files import writing
from jaxgen.training.distributed import from_first, gathered, several

_PASSING = (errno.EIO, errno.ESTALE, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EACCES, errno.ETIMEDOUT)
_ROOM = 1.5  # times the state's own size, for the files around it


class Damaged(Exception):
    """A checkpoint is not what was saved; the text says how."""


class Saved(NamedTuple):
    """What a checkpoint holds for training to go on."""

    step: int
    state: Any
    data: dict[str, Any]
    """The data position."""


class Checkpoints:
    """The checkpoints in `directory`: the newest `keep` and the one with the lowest validation metric.

    Each holds the train state, the data position, validation figures and `run` (config and data spec), written together
    and asynchronously: a checkpoint is either whole or absent. Seals over all of it, written with it, tell whether what
    is read is what was saved. `keep` None only reads: a run that trains meanwhile is not disturbed. To save, all processes
    that train meet here, at the same calls, unless this one is to be `alone`; each reads on its own.
    """

    def __init__(self, directory: Path, *, keep: int | None = None, best_metric: str = "loss", alone: bool = False):
        for name in ("absl", "asyncio"):  # what fails is told by us, once
            logging.getLogger(name).setLevel(logging.CRITICAL)
        self.directory, self.best_metric = directory, best_metric
        self._together = keep is not None and several() and not alone
        self._options = ocp.CheckpointManagerOptions(
            read_only=keep is None,
            create=self._together or not several(),  # orbax cannot where not all processes meet
            multiprocessing_options=_all_processes() if self._together else _this_process(),
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
        return ocp.CheckpointManager(self.directory.absolute(), options=self._options)

    def save(self, step: int, state: Any, data: dict[str, Any], run: Any, metrics: dict[str, float] | None) -> None:
        """Starts a save. metrics: the validation figures at this step, if it was validated.

        Raises SaveFailed where this save, or the one before, which went on while training did, cannot be written.
        """
        needed = _ROOM * sum(leaf.nbytes for leaf in jax.tree.leaves(state))
        about = {"position": data, "metrics": metrics, "fingerprint": int(fingerprint(state))}
        with self._saving():
            free = from_first(self._free) if self._together else self._free()
            if free < needed:  # orbax fails loudly, from its threads
                raise OSError(None, f"{free / 1e6:.1f} MB free, a checkpoint needs {needed / 1e6:.1f} MB")
            self.manager.wait_until_finished()
            self.best(self.best_metric)  # read now: orbax asks for it in the middle of the save
            self._figures[step] = metrics or {}
            self.manager.save(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.StandardSave(state),
                    data=ocp.args.JsonSave(_sealed(about)),
                    run=ocp.args.JsonSave(_sealed(run)),
                ),
                force=True,  # else orbax says nothing where a later step is there
            )

    def restore(self, step: int, state: Any) -> Saved:
        """The checkpoint of a step; `state` gives structure, shapes and dtypes, and where its arrays lie: for shapes
        alone, on one device of this process. Raises Damaged.
        """
        here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])

        def target_of(leaf: Any) -> jax.ShapeDtypeStruct:
            return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=getattr(leaf, "sharding", None) or here)

        target = jax.tree.map(target_of, state)
        saved = self._read(step, "data", "run", state=ocp.args.StandardRestore(target))
        if int(fingerprint(saved["state"])) != saved["data"]["fingerprint"]:
            raise Damaged("its arrays are not what was saved")
        return Saved(step, saved["state"], saved["data"]["position"])

    def restore_newest(self, state: Any) -> Saved | None:
        """The newest whole checkpoint, or None where there is none. Damaged ones are told and moved beside, to
        `damaged/` in the run's folder, so that saving goes on from the one before them.
        """
        if self._together:  # the first process looks which one that is, then all read it together
            step = from_first(lambda: _newest_whole(self.directory, state))
            self.manager.reload()
            try:
                return None if step is None else self.restore(step, state)
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
        """What `save` was given as `run`. Raises Damaged."""
        return self._read(step, "run")["run"]

    def newest_run(self) -> tuple[int, Any] | None:
        """The newest step whose `run` is what was saved, and it; None where there is none."""
        for step in reversed(self.steps()):
            with contextlib.suppress(Damaged):
                return step, self.run(step)
        return None

    def steps(self) -> list[int]:
        """All steps kept, oldest first."""
        return sorted(self.manager.all_steps())

    def best(self, metric: str) -> int | None:
        """Step with the lowest validation metric of this name, or None where none was validated."""
        values = {step: self.figures(step).get(metric, math.nan) for step in self.steps()}
        values = {step: value for step, value in values.items() if math.isfinite(value)}
        return min(values, key=lambda step: values[step], default=None)

    def figures(self, step: int) -> dict[str, float]:
        """The validation figures at a step; empty where it was not validated, or its checkpoint is damaged."""
        if step not in self._figures:
            try:
                self._figures[step] = self._read(step, "data")["data"]["metrics"] or {}
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
        if reason := next(filter(None, gathered(reason) if self._together else [reason]), ""):
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

    def _read(self, step: int, *sealed: str, **items: Any) -> dict[str, Any]:
        """Parts of a checkpoint, by name: JSON under its seal, and others. Raises Damaged."""
        items |= {name: ocp.args.JsonRestore() for name in sealed}
        try:
            found = self.manager.restore(step, args=ocp.args.Composite(**items))
            return {name: _opened(found[name]) if name in sealed else found[name] for name in items}
        except Exception as error:  # orbax, tensorstore and json: what they raise of damaged files is not written down
            if _says_nothing_of_the_files(error):
                raise UserError(
                    f"the checkpoint of step {step} in '{self.directory}' cannot be read now ({_reason(error)}); try again."
                ) from None
            raise Damaged(_reason(error)) from None

    def _set_aside(self, step: int) -> Path:
        aside = self.directory.parent / "damaged" / f"{step}-{time.time_ns()}"
        with writing(aside):
            aside.parent.mkdir(exist_ok=True)
            os.rename(self.directory / str(step), aside)
        self._figures.pop(step, None)
        self.manager.reload()
        return aside


class _PatientLoop(asyncio.SelectorEventLoop):
    """At a damaged array, or a full disk, orbax closes its loop while TensorStore still works at others: each of those
    answers would print a traceback.
    """

    def call_soon_threadsafe(self, *args: Any, **options: Any) -> Any:  # type: ignore[override]
        try:
            return super().call_soon_threadsafe(*args, **options)
        except RuntimeError:
            if not self.is_closed():
                raise


class _PatientLoops(asyncio.DefaultEventLoopPolicy):
    _loop_factory = _PatientLoop


asyncio.set_event_loop_policy(_PatientLoops())  # orbax makes a loop for each read and save, in threads of its own


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
    if not several():
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


@jax.jit
def fingerprint(state: Any) -> jax.Array:
    """uint32 [], changed by any flipped bit of any array; the same however the arrays lie on devices.

    The words of all arrays, each times an odd number of its place, summed modulo 2^32.
    """
    total = jnp.zeros((), jnp.uint32)
    for number, leaf in enumerate(jax.tree.leaves(state)):
        words = _words(leaf)
        place = jnp.zeros(words.shape, jnp.uint32)
        for axis, length in enumerate(words.shape):
            place = place * length + jax.lax.broadcasted_iota(jnp.uint32, words.shape, axis)
        total += jnp.sum(words * (2 * place + 1), dtype=jnp.uint32) * (2 * number + 1)
    return total


def _words(array: jax.Array) -> jax.Array:
    """The bits of an array as uint32, an element each."""
    if array.dtype == bool:
        return array.astype(jnp.uint32)
    bits = jax.lax.bitcast_convert_type(array, jnp.dtype(f"uint{8 * array.dtype.itemsize}"))
    return bits.astype(jnp.uint32)


def _sealed(content: Any) -> dict[str, Any]:
    """JSON with its SHA-256, hexadecimal."""
    return {"content": content, "sha256": hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()}


def _opened(sealed: Any) -> Any:
    """The JSON under a seal. Raises ValueError where it is not what was sealed."""
    if not isinstance(sealed, dict) or sealed != _sealed(sealed.get("content")):
        raise ValueError("its content is not what was saved")
    return sealed["content"]


def _says_nothing_of_the_files(error: BaseException) -> bool:
    """Whether reading failed for want of memory, handles, rights or a working disk, so that another try may do."""
    return (
        isinstance(error, MemoryError)
        or (isinstance(error, OSError) and error.errno in _PASSING)
        or any(word in str(error) for word in ("RESOURCE_EXHAUSTED", "PERMISSION_DENIED", "UNAVAILABLE"))
    )


def _reason(error: BaseException) -> str:
    """The first line of what an exception says."""
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return text.splitlines()[0][:200] if text.strip() else type(error).__name__
