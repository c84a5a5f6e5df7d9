"""A real training process, seen from the outside: how it is started, where it stands, what it leaves."""

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxgen.config import Config
from jaxgen.core.serial import from_json
from jaxgen.data.spec import DataSpec
from jaxgen.runs.run import build_task
from jaxgen.training.checkpoint import Checkpoints, SavedState
from jaxgen.training.telemetry import read_metrics

ROOT = Path(__file__).parent.parent.parent
STEPS, EVAL_EVERY, LOG_EVERY = 120, 30, 4
SETTINGS = (
    *("--data.num-clips", "12", "--data.seconds", "0.5", "--model.cell.hidden-size", "8", "--model.num-layers", "1"),
    *("--model.dropout", "0.1", "--model.input-noise", "0.2", "--train.batch-size", "2", "--train.seq-len", "8"),
    *("--train.steps", STEPS, "--train.steps-per-call", "2", "--train.log-every", LOG_EVERY),
    *("--train.eval-every", EVAL_EVERY, "--train.checkpoint-every", "6", "--train.keep", "3"),
    *("--evaluation.num-clips", "2", "--evaluation.num-previews", "1", "--evaluation.seconds", "0.3"),
)
"""The quickstart in small: dropout, noise, several updates a call, labels, and 20 saves."""
PATIENCE = 900.0  # seconds after which a process hangs
_TEMPORARY = ".orbax-checkpoint-tmp"
_compare_lock = threading.Lock()  # orbax changes its threads' names and logs for the whole process


class Lost(Exception):
    """A promise that was broken; the text says which."""


class Trainer:
    """A run in `folder`: its workdir, and a cache of its own, so that decoding and compiling are interrupted too."""

    def __init__(self, folder: Path, *, settings: tuple[str, ...] = ()):
        self.folder, self.workdir, self.cache, self._settings = folder, folder / "run", folder / "cache", settings
        self.lives = 0
        folder.mkdir(parents=True, exist_ok=True)

    def take_compiled(self, other: "Trainer") -> None:
        """Starts from the programs that another run has compiled."""
        if (compiled := other.cache / "compiled").exists():  # else JAX_COMPILATION_CACHE_DIR says where they are
            shutil.copytree(compiled, self.cache / "compiled")

    @property
    def checkpoints(self) -> Path:
        return self.workdir / "checkpoints"

    def steps(self) -> list[int]:
        """Steps with a whole checkpoint, oldest first."""
        return sorted(int(name) for name in _names(self.checkpoints) if name.isdecimal())

    def saving(self) -> frozenset[str]:
        """Folders of saves that are under way, or were when their process died."""
        return frozenset(name for name in _names(self.checkpoints) if _TEMPORARY in name)

    def rows(self) -> list[dict[str, Any]]:
        """What metrics.jsonl says."""
        return read_metrics(self.workdir / "metrics.jsonl")

    def start(self) -> "Life":
        """Starts the same command once more."""
        self.lives += 1
        return Life(self, self.folder / f"life-{self.lives:03d}.log")

    def finish(self) -> "Life":
        """Lets the command run undisturbed; it has to end with exit code 0. Raises Lost."""
        life = self.start()
        while life.running():
            life.check_patience()
        life.check(0)
        return life

    def command(self) -> list[str]:
        """What a user would type."""
        folders = ("--workdir", self.workdir, "--cache-dir", self.cache)
        return [sys.executable, "-m", "jaxgen.train", *map(str, (*SETTINGS, *self._settings, *folders))]


class Life:
    """One process of a run, from its start to its end. Its output goes to a file."""

    def __init__(self, trainer: Trainer, log: Path):
        self.trainer, self.log = trainer, log
        self.resumed = max(trainer.steps(), default=0)
        self.saves = 0
        """Saves that have begun so far."""
        self._saving = trainer.saving()
        self._born, self._born_at = time.monotonic(), time.time()
        with log.open("wb") as output:
            self.process = subprocess.Popen(
                trainer.command(), cwd=ROOT, stdin=subprocess.DEVNULL, stdout=output, stderr=output
            )

    @property
    def age(self) -> float:
        """Seconds since it was started."""
        return time.monotonic() - self._born

    def running(self) -> bool:
        """Whether it goes on, some milliseconds later; notices the saves that have begun meanwhile."""
        time.sleep(0.002 if self.saves else 0.01)
        saving = self.trainer.saving()
        self.saves += len(saving - self._saving)
        self._saving = saving
        return self.process.poll() is None

    def check_patience(self) -> None:
        """Raises Lost where it has been running for far too long; it is ended then."""
        if self.age > PATIENCE:
            self.end()
            raise Lost(f"no end after {PATIENCE:.0f} s; {self._last_words()}")

    def end(self) -> None:
        """Kills it if it still runs."""
        self.process.kill()
        self.process.wait()

    def said(self) -> str:
        """All that it printed."""
        return self.log.read_text(errors="replace")

    def check(self, *codes: int) -> None:
        """Raises Lost where it ended with another exit code, or said a traceback; a signal's number is negative."""
        code = self.process.wait()
        if code not in codes:
            raise Lost(f"exit code {code}, expected {' or '.join(map(str, codes))}; {self._last_words()}")

    def validating(self) -> bool:
        """Whether the last update before a validation is done, but not yet its checkpoint."""
        rows = self._new_rows()
        if not rows:
            return False
        step = rows[-1]["step"]
        if rows[-1]["split"] == "validation":
            return step not in self.trainer.steps()
        return step % EVAL_EVERY >= EVAL_EVERY - LOG_EVERY or step % EVAL_EVERY == 0

    def reporting(self) -> bool:
        """Whether training is over and the report is made."""
        return "evaluating the best checkpoint" in self.said()

    def phase(self) -> str:
        """What it did when it ended, by what it left."""
        if self.reporting():
            return "report"
        if any(self._is_new(self.trainer.checkpoints / name) for name in self.trainer.saving()):
            return "save"
        if not self.said():
            stores = _names(self.trainer.cache / "store")
            return "decoding" if stores and all(name.startswith(".") for name in stores) else "start"
        if not self._new_rows():
            return "compiling or restoring"
        return "validation" if self.validating() else "training"

    def _new_rows(self) -> list[dict[str, Any]]:
        """Rows of metrics.jsonl that this process has written."""
        if not self._is_new(self.trainer.workdir / "metrics.jsonl"):
            return []
        return [row for row in self.trainer.rows() if row["step"] > self.resumed]

    def _is_new(self, path: Path) -> bool:
        try:
            return path.stat().st_ctime >= self._born_at - 0.01  # the file system's clock ticks
        except FileNotFoundError:
            return False

    def _last_words(self) -> str:
        lines = [line for line in self.said().replace("\r", "\n").splitlines() if line.strip()]
        return f"last said in {self.log}: {lines[-1] if lines else 'nothing'}"


def assert_equal(trainer: Trainer, twin: Trainer) -> None:
    """Raises Lost where the finished run differs from its twin in one bit of what was trained, logged or generated."""
    assert_trained_alike(trainer, twin)
    names = sorted(f"generated/{path.name}" for path in (twin.workdir / "generated").iterdir())
    _assert_same_files(trainer, twin, names)
    if (got := _figures(trainer)) != (wanted := _figures(twin)):
        raise Lost(f"the report's figures are {got}, the twin's {wanted}")


def assert_trained_alike(trainer: Trainer, twin: Trainer) -> None:
    """Raises Lost where the finished run differs from its twin in one bit of what was trained or logged."""
    mine, others = trainer.steps(), twin.steps()
    if mine[-1:] != others[-1:]:
        raise Lost(f"the checkpoints are {mine}, the twin's {others}")
    _assert_same_files(trainer, twin, ["metrics.jsonl"])
    with _compare_lock:
        for step in set(mine) & set(others):
            assert_same_state(step, _contents(trainer, step), _contents(twin, step))


def _assert_same_files(trainer: Trainer, twin: Trainer, names: list[str]) -> None:
    different = [name for name in names if _bytes(trainer.workdir / name) != _bytes(twin.workdir / name)]
    if different:
        raise Lost(f"{', '.join(different)} differ from the twin's")


def assert_same_state(step: int, got: Any, wanted: Any) -> None:
    """Raises Lost where two trees of arrays differ in one bit."""
    (leaves, tree), (other_leaves, other_tree) = (jax.tree_util.tree_flatten_with_path(each) for each in (got, wanted))
    if tree != other_tree:
        raise Lost(f"the checkpoint of step {step} has other parts than the twin's")
    for (path, leaf), (_, other) in zip(leaves, other_leaves, strict=True):
        leaf, other = np.asarray(leaf), np.asarray(other)
        if (leaf.dtype, leaf.shape, leaf.tobytes()) != (other.dtype, other.shape, other.tobytes()):
            raise Lost(f"the checkpoint of step {step} differs from the twin's in {jax.tree_util.keystr(path)}")


def _contents(trainer: Trainer, step: int) -> SavedState:
    """The train state (parameters, average, optimiser, carry, key) and the data position of a checkpoint."""
    checkpoints = Checkpoints(trainer.checkpoints)
    try:
        return checkpoints.restore(step, state_like(checkpoints.run(step)))
    finally:
        checkpoints.close()


def state_like(run: Any) -> Any:
    """Structure, shapes and dtypes of the train state that a checkpoint's `run` describes."""
    return jax.eval_shape(
        build_task(from_json(run["config"], Config, "the run"), from_json(run["data"], DataSpec, "the run")).init,
        jax.random.key(0),
    )


def _figures(trainer: Trainer) -> dict[str, Any]:
    """The report's metrics that are no times."""
    metrics = json.loads((trainer.workdir / "report.json").read_text())["metrics"]
    return {name: repr(value) for name, value in metrics.items() if name != "real_time_factor"}


def _names(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)
    except FileNotFoundError:
        return []


def _bytes(path: Path) -> bytes | None:
    return path.read_bytes() if path.exists() else None
