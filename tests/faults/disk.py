"""A disk that is full for a while: a small file system of its own, filled up while a run saves into it."""

import contextlib
import random
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from jaxgen.core.errors import UserError
from tests.faults.trainer import Lost, Trainer, assert_trained_alike

_SIZE = "16M"
_STOPPED = 2  # exit code of a run that a full disk stops


@contextlib.contextmanager
def small_disk(folder: Path) -> Iterator[Path]:
    """A file system of 16 MB at `folder`, gone at the end. Raises UserError where it cannot be had."""
    folder.mkdir(parents=True)
    line = ["mount", "-t", "tmpfs", "-o", f"size={_SIZE}", "tmpfs", str(folder)]
    try:
        subprocess.run(line, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        reason = getattr(error, "stderr", "") or str(error)
        raise UserError(
            f"no small disk to fill up can be mounted ({reason.strip()}); leave out --full-disks."
        ) from None
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def check(folder: Path) -> None:
    """Raises UserError where there is no such disk to be had."""
    with small_disk(folder):
        pass


@contextlib.contextmanager
def filled(folder: Path) -> Iterator[None]:
    """The disk of a folder without a free byte, until the end."""
    filler = folder / "filler"
    try:
        with filler.open("wb", buffering=0) as file:
            for size in (1 << 16, 1 << 12, 1):
                with contextlib.suppress(OSError):
                    while True:
                        file.write(bytes(size))
        yield
    finally:
        filler.unlink(missing_ok=True)


def starved_run(twin: Trainer, folder: Path, seed: int) -> tuple[str, str]:
    """Trains a run whose disk fills up at a random moment and is freed later; returns (policy, what came of it).

    Raises Lost where anything is lost, or said with a traceback.
    """
    rng = random.Random(seed)
    policy = rng.choice(["stop", "continue"])
    trainer = Trainer(folder, settings=("--train.on-full-disk", policy))
    trainer.take_compiled(twin)
    with small_disk(trainer.workdir):
        try:
            return policy, _starve(trainer, twin, rng)
        except Lost as lost:
            shutil.copytree(trainer.workdir, folder / "left", dirs_exist_ok=True)
            raise Lost(f"a full disk, policy {policy}: {lost}") from None


def _starve(trainer: Trainer, twin: Trainer, rng: random.Random) -> str:
    life, saves, full_for = trainer.start(), rng.randint(2, 20), rng.uniform(0, 1.5)
    try:
        while life.running() and life.saves < saves:
            life.check_patience()
        time.sleep(rng.uniform(0, 0.05))
        newest = max(trainer.steps(), default=0)
        with filled(trainer.workdir):
            freed = time.monotonic() + full_for
            while life.running() and time.monotonic() < freed:
                pass
        while life.running():
            life.check_patience()
    finally:
        life.end()
    life.check(0, _STOPPED)
    said = life.said()
    if "Traceback" in said:
        raise Lost(f"a traceback in {life.log}")
    if max(trainer.steps()) < newest:
        raise Lost(
            f"the newest checkpoint was of step {newest} and is now of step {max(trainer.steps())}; see {life.log}"
        )
    if life.process.returncode:
        trainer.finish()
    assert_trained_alike(
        trainer, twin
    )  # what is generated comes of the best checkpoint, which may be the one not saved
    if life.process.returncode:
        return "stopped"
    return "went on, reported" if "jaxgen: cannot" in said else "no effect"
