"""Several processes that share no disk train in one run's folder in an object store."""

import signal
import subprocess
import sys

import pytest

from jaxgen.core.errors import ExitCode
from jaxgen.storage import local_folder
from jaxgen.training.telemetry import read_metrics
from tests.conftest import TINY
from tests.test_distributed import free_address
from tests.test_remote import objects, running, server  # noqa: F401

pytestmark = [pytest.mark.slow, pytest.mark.nightly]


def started(folder, workdir, caches):
    """One `jaxgen.train` for each cache, that train together."""
    folder.mkdir(parents=True)
    address, processes = free_address(), []
    for index, cache in enumerate(caches):
        place = ["--coordinator", address, "--num-processes", str(len(caches)), "--process-id", str(index)]
        line = [sys.executable, "-m", "jaxgen.train", *TINY, *place, "--workdir", workdir, "--cache-dir", str(cache)]
        with (folder / f"log_{index}.txt").open("w") as log:
            processes.append(subprocess.Popen(line, stdout=log, stderr=log))
    return processes


def told(folder):
    return "\n".join(path.read_text() for path in sorted(folder.glob("log_*.txt")))


def test_processes_without_a_common_disk_are_killed_and_go_on(server, tmp_path):  # noqa: F811
    processes = []

    def kill(method: str, path: str) -> bool:
        if method in ("PUT", "POST") and "/run/checkpoints/4/" in path:
            for process in processes:
                process.send_signal(signal.SIGKILL)
                process.wait()
        return True

    server.before = kill
    processes += started(tmp_path / "killed", "s3://bucket/run", [tmp_path / "a", tmp_path / "b"])
    codes = [process.wait(240) for process in processes]
    assert codes in ([-signal.SIGKILL] * 2, [-signal.SIGKILL, ExitCode.PREEMPTED]), told(tmp_path / "killed")
    server.before = lambda method, path: True
    assert "checkpoints/4.whole" not in objects("s3://bucket/run")

    again = started(tmp_path / "again", "s3://bucket/run", [tmp_path / "c", tmp_path / "d"])
    assert [process.wait(240) for process in again] == [0, 0], told(tmp_path / "again")
    before, after = (
        read_metrics(local_folder("s3://bucket/run", tmp_path / name) / "metrics.jsonl") for name in ("a", "c")
    )
    assert after[: len(before)] == before  # steps 3 and 4 were done twice
    assert [row["step"] for row in after] == [1, 2, 3, 3, 4, 5, 6, 6]
    assert {"checkpoints/6.whole", "report.html"} <= objects("s3://bucket/run")
    assert not local_folder("s3://bucket/run", tmp_path / "d").exists()  # the first process keeps it for all
