"""Candidates in processes of their own: who takes turns when, who is left out and why, and that none outlives us."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks import processes
from benchmarks.processes import Candidate, CouldNotRun, compare

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent


@pytest.fixture(autouse=True)
def hurry(monkeypatch):
    monkeypatch.setattr(processes, "SETTLE", 0.0)


def candidate(name, **spec):
    return Candidate(name, "tests.candidates", {"name": name, **spec})


def compared(candidates, repeats=2, **options):
    said: list[str] = []
    return compare(candidates, repeats, threads=1, say=said.append, **options), said


def alive(pid):
    """Whether a process runs (a dead one may wait for its parent to notice)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] not in "ZX"
    except FileNotFoundError:
        return False


def test_candidates_take_turns_in_a_rotating_order(tmp_path):
    log = tmp_path / "log"
    found, said = compared([candidate(name, log=str(log), seconds=0.06) for name in "abc"], repeats=3)
    turns = [line.split() for line in log.read_text().splitlines()]
    assert "".join(name for name, _ in turns) == "abc" + "aabbcc" + "aabbcc" + "bbccaa" + "ccaabb"
    assert {times for _, times in turns[:9] + turns[9::2]} == {"1"}  # each turn begins with a run that is not timed
    assert {times for _, times in turns[10::2]} <= {"4", "5"}  # a turn takes a quarter of a second
    assert not said
    assert all(len(measured.seconds) == 3 for measured in found.values())
    assert all(0.06 <= seconds < 0.12 for measured in found.values() for seconds in measured.seconds)
    assert all(measured.facts["runs"] == 9 for measured in found.values())
    assert {measured.facts["threads"] for measured in found.values()} == {"1"}


def test_a_long_first_timed_run_counts_and_time_is_not_wasted(tmp_path, monkeypatch):
    monkeypatch.setattr(processes, "_MIN_TURN", 0.01)
    log = tmp_path / "log"
    found, _ = compared([candidate("a", log=str(log), seconds=0.02)], repeats=9, row_seconds=0.0)
    assert (
        len(log.read_text().splitlines()) == 5
    )  # one that may compile, and two in each of the two rounds that there must be
    assert len(found["a"].seconds) == 2


@pytest.mark.parametrize(
    ("trouble", "reason"),
    [
        ({"fails": True}, "ValueError: it is broken"),
        ({"dies": True}, "its process ended with code 3, last saying: no such instruction"),
        ({"stops": 1}, "its process ended with code 4, last saying: this is not an answer"),
        ({"stops": 4}, "its process ended with code 4, last saying: this is not an answer"),
    ],
)
def test_whoever_could_not_run_is_told_in_one_line_and_left_out(trouble, reason):
    found, said = compared([candidate("good"), candidate("bad", **trouble)], repeats=3)
    assert list(found) == ["good"]
    assert len(found["good"].seconds) == 3
    assert said == [f"bad could not run: {reason}"]


def test_a_module_that_is_missing_is_told():
    _, said = compared([Candidate("bad", "tests.no_such_module")])
    assert said == ["bad could not run: ModuleNotFoundError: No module named 'tests.no_such_module'"]


def test_patience_ends():
    _, said = compared([candidate("slow", hangs=True)], patience=0.5)
    assert said == ["slow could not run: no answer within 0 s"]


def test_one_that_is_required_must_run():
    with pytest.raises(CouldNotRun, match="bad could not run: ValueError: it is broken"):
        compared([candidate("good"), candidate("bad", fails=True)], required=["bad"])


def test_one_that_is_refused_is_left_out():
    found, said = compared(
        [candidate("a"), candidate("b")], refuse=lambda facts: {"b": f"it ran {facts['b']['runs']}x"}
    )
    assert list(found) == ["a"]
    assert said == ["b is left out: it ran 3x"]


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory of a process alone is told by Linux only")
def test_memory_is_that_of_the_candidate_alone():
    ours = bytearray(b"x" * 400_000_000)  # a process that is started inherits the peak of its parent in getrusage
    found, _ = compared([candidate("small"), candidate("large", bytes=100_000_000)])
    assert found["small"].peak_bytes < 100_000_000 < len(ours)
    assert 90_000_000 < found["large"].peak_bytes - found["small"].peak_bytes < 120_000_000
    assert found["small"].facts["imported_bytes"] <= found["small"].peak_bytes


def test_no_process_is_left():
    found, _ = compared([candidate("a")])
    assert not alive(found["a"].facts["pid"])


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks for processes where Linux lists them")
def test_candidates_die_with_a_parent_that_is_killed():
    script = (
        "from benchmarks.processes import Candidate, started\n"
        "with started(Candidate('a', 'tests.candidates', {'seconds': 600}), 1) as worker:\n"
        "    print(worker.ready(60)['pid'], flush=True)\n"
        "    worker.run(1)\n"
    )
    with subprocess.Popen([sys.executable, "-c", script], cwd=ROOT, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert alive(pid)
        parent.kill()
    deadline = time.monotonic() + 20
    while alive(pid) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not alive(pid)


@pytest.mark.skipif(not Path("/proc/stat").exists(), reason="the load of a machine is told by Linux only")
def test_other_work_on_the_cores_is_noticed():
    spin = f"import time\nend = time.monotonic() + 60\nwhile time.monotonic() < end: pass  # {os.getpid()}"
    with subprocess.Popen([sys.executable, "-c", spin]) as other:
        found, _ = compared([candidate("a", seconds=0.25)])
        other.kill()
    assert found["a"].others is not None
    assert found["a"].others > 0.5 / (os.cpu_count() or 1)
