"""Checkpoints of a run. The only file that knows orbax."""

import contextlib
import dataclasses
import hashlib
import json
import logging
import os
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp

from jaxgen.errors import UserError
from jaxgen.files import writing

_ROOM = 1.5  # times the state's own size, for the files around it


class Damaged(Exception):
    """A checkpoint is not what was saved; the text says how."""


class SaveFailed(UserError):
    """A checkpoint could not be written: the disk is full, or not to be written to."""


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
    is read is what was saved. `keep` None only reads: a run that trains meanwhile is not disturbed.
    """

    def __init__(self, directory: Path, *, keep: int | None = None, best_metric: str = "loss"):
        logging.getLogger("absl").setLevel(logging.CRITICAL)  # what fails is told by us, once
        self.directory, self.best_metric = directory, best_metric
        self._options = ocp.CheckpointManagerOptions(
            read_only=keep is None,
            cleanup_tmp_directories=keep is not None,  # what a killed save left
            preservation_policy=_NewestAndBest(self, keep or 1),
        )
        self._figures: dict[int, dict[str, float]] = {}
        self.manager = self._open()

    def _open(self) -> ocp.CheckpointManager:
        return ocp.CheckpointManager(self.directory.absolute(), options=self._options)

    def save(self, step: int, state: Any, data: dict[str, Any], run: Any, metrics: dict[str, float] | None) -> None:
        """Starts a save. metrics: the validation figures at this step, if it was validated.

        Raises SaveFailed where this save, or the one before, which went on while training did, cannot be written.
        """
        needed = _ROOM * sum(leaf.nbytes for leaf in jax.tree.leaves(state))
        about = {"position": data, "metrics": metrics, "fingerprint": int(fingerprint(state))}
        with self._saving():
            free = shutil.disk_usage(self.directory).free
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
        """The checkpoint of a step; `state` gives structure, shapes and dtypes. Raises Damaged."""
        target = jax.tree.map(ocp.utils.to_shape_dtype_struct, state)
        saved = self._read(step, "data", "run", state=ocp.args.StandardRestore(target))
        if int(fingerprint(saved["state"])) != saved["data"]["fingerprint"]:
            raise Damaged("its arrays are not what was saved")
        return Saved(step, saved["state"], saved["data"]["position"])

    def restore_newest(self, state: Any) -> Saved | None:
        """The newest whole checkpoint, or None where there is none. Damaged ones are told and moved beside, to
        `damaged/` in the run's folder, so that saving goes on from the one before them.
        """
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
        values = {step: figures[metric] for step in self.steps() if metric in (figures := self.figures(step))}
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
        """Turns what saving stumbles over into SaveFailed, and lets the next save start afresh."""
        try:
            yield
        except Exception as error:  # from orbax's and tensorstore's threads, of any kind
            with contextlib.suppress(Exception):
                self.manager.close()
            self.manager = self._open()
            for step in self._figures.keys() - set(self.steps()):
                del self._figures[step]
            raise SaveFailed(
                f"cannot save a checkpoint in '{self.directory}' ({_reason(error)}); free space, or choose another "
                "--workdir."
            ) from None

    def _read(self, step: int, *sealed: str, **items: Any) -> dict[str, Any]:
        """Parts of a checkpoint, by name: JSON under its seal, and others. Raises Damaged."""
        items |= {name: ocp.args.JsonRestore() for name in sealed}
        try:
            found = self.manager.restore(step, args=ocp.args.Composite(**items))
            return {name: _opened(found[name]) if name in sealed else found[name] for name in items}
        except Exception as error:  # orbax, tensorstore and json: what they raise of damaged files is not written down
            raise Damaged(_reason(error)) from None

    def _set_aside(self, step: int) -> Path:
        aside = self.directory.parent / "damaged" / f"{step}-{time.time_ns()}"
        with writing(aside):
            aside.parent.mkdir(exist_ok=True)
            os.rename(self.directory / str(step), aside)
        self._figures.pop(step, None)
        self.manager.reload()
        return aside


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


def _reason(error: BaseException) -> str:
    """The first line of what an exception says."""
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return text.splitlines()[0][:200] if text.strip() else type(error).__name__
