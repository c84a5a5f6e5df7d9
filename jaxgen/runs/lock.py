"""Who trains in a run's folder: one process at a time, and each start written down."""

import contextlib
import datetime
import json
import os
import platform
import shlex
import socket
import subprocess
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import jax

from jaxgen import __version__
from jaxgen.core.errors import TryAgain
from jaxgen.core.files import append_atomic, explain_write_errors

_STARTS = "starts.jsonl"
_PACKAGES = ("jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")


@contextlib.contextmanager
def run_lock(workdir: Path) -> Iterator[None]:
    """While entered, no other process trains in this folder, which it makes; a process that dies lets go of it.

    Raises TryAgain where one does.
    """
    import filelock

    lock = filelock.FileLock(workdir / ".lock", timeout=0)
    with explain_write_errors(workdir):
        workdir.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire()
        except filelock.Timeout:
            raise TryAgain(
                f"another process trains in '{workdir}'{_holder(workdir)}. Wait for it, stop it, or pass another --workdir."
            ) from None
    try:
        yield
    finally:
        lock.release()


def note_start(workdir: Path) -> None:
    """Appends to starts.jsonl what runs here and where: time, command, commit, versions, devices, host, process."""
    start = {
        "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": shlex.join([Path(sys.executable).name, "-m", "jaxgen.train", *sys.argv[1:]]),
        "commit": _commit(),
        "versions": {"jaxgen": __version__, "jax": jax.__version__, "python": platform.python_version()}
        | {name: metadata.version(name) for name in _PACKAGES},
        "devices": [device.device_kind for device in jax.devices()],
        "host": socket.gethostname(),
        "pid": os.getpid(),
    }
    path = workdir / _STARTS
    with explain_write_errors(path), path.open("ab", buffering=0) as file:
        append_atomic(file, (json.dumps(start) + "\n").encode())


def _holder(workdir: Path) -> str:
    """ " (process 7 on host, since ...)" of the last start, if there is one."""
    try:
        last: dict[str, Any] = json.loads((workdir / _STARTS).read_text(encoding="utf-8").splitlines()[-1])
        return f" (process {last['pid']} on {last['host']}, since {last['time']})"
    except (OSError, ValueError, LookupError, TypeError):
        return ""


def _commit() -> str | None:
    """Commit of the checkout that this code is in; None where it is in none."""

    def git(*words: str) -> str:
        asked = ["git", "-C", str(Path(__file__).parent), *words]
        return subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", Path(__file__).name)  # else it is somebody else's checkout
        return git("rev-parse", "HEAD")
    except (OSError, subprocess.CalledProcessError):
        return None
