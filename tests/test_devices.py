"""The train step split over devices and processes learns what one device does, and no process outlives the benchmark."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks import devices, step_rows
from benchmarks.processes import Candidate, CouldNotRun, Measured, started
from benchmarks.recurrent_work import RecurrentWork
from jaxgen.core.errors import UserError
from jaxgen.core.serial import to_json

pytestmark = [pytest.mark.slow, pytest.mark.nightly]

ROOT = Path(__file__).parent.parent
TINY = RecurrentWork("LSTM", 4, 6, 16, 2)
needs_cores = pytest.mark.skipif(
    not hasattr(os, "sched_getaffinity") or len(os.sched_getaffinity(0)) < 2, reason="needs two cores to pin to"
)

LEARN = """
import jax, numpy as np
jax.config.update("jax_num_cpu_devices", 2)
from benchmarks.step_peers.sharded import split_over
from benchmarks.recurrent_work import RecurrentWork

def learnt(count, work):
    step, state, batch = split_over(jax.devices()[:count], work)
    for _ in range(3):
        state, _ = jax.block_until_ready(step(state, batch))
    assert all(len(leaf.sharding.device_set) == count for leaf in jax.tree.leaves(state))
    assert all(leaf.addressable_shards[0].data.shape[0] == 4 // count for leaf in jax.tree.leaves(state.carry))
    return jax.tree.map(np.asarray, (state.params, state.carry))

for cell in ("LSTM", "RNN"):
    work = RecurrentWork(cell, 4, 6, 16, 2)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), learnt(1, work), learnt(2, work))
print("agree")
"""


def test_parameters_after_three_steps_are_those_of_one_device():
    done = subprocess.run([sys.executable, "-c", LEARN], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stdout == "agree\n", done.stderr


@needs_cores
def test_all_ways_are_measured_and_start_alike(monkeypatch, tmp_path):
    monkeypatch.setitem(step_rows.ROWS, TINY.name, TINY)
    lines, history = tmp_path / "lines.jsonl", tmp_path / "history.jsonl"
    options = ["--rows", TINY.name, "--repeats", "2", "--json", str(lines), "--record", "--history", str(history)]
    (row,) = devices.main(options)
    assert [json.loads(text) for text in lines.read_text().splitlines()] == [row]
    assert row.items() <= json.loads(history.read_text()).items()
    for way in ("2_devices", "2_processes"):
        assert row[f"throughput_of_{way}"] > 0
        assert row[f"{way}_first_loss"] == pytest.approx(row["first_loss"], rel=1e-5)
    assert row["2_processes_peak_bytes"] > 1.5 * row["2_devices_peak_bytes"]


def test_figures_are_ratios_of_throughput():
    ours = Measured({"losses": [5.0]}, [2.0, 4.0], 100, 0.01)
    split = Measured({"losses": [5.0]}, [1.0, 2.0], 150, 0.02)
    apart = Measured({"losses": [5.0], "partners_peak_bytes": 70}, [4.0, 8.0], 80, 0.5)
    row = devices.figures(TINY, {"1 device": ours, "2 devices": split, "2 processes": apart}, 2)
    assert (row["throughput_of_2_devices"], row["throughput_of_2_processes"]) == (2.0, 0.5)
    assert (row["2_processes_peak_bytes"], row["others_share_of_cores"]) == (150, 0.02)


def test_a_way_with_another_loss_is_refused():
    losses = {"1 device": 5.0, "2 devices": 5.0001, "2 processes": 5.001}
    refused = devices.disagreeing({name: {"losses": [loss]} for name, loss in losses.items()})
    assert refused == {"2 processes": "its first loss is 5.001000, that of one device 5.000000"}
    assert devices.disagreeing({"1 device": {"losses": [5.0]}, "2 devices": {"losses": [float("nan")]}})


@needs_cores
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks for processes where Linux lists them")
@pytest.mark.parametrize("dies", ["first", "partner"])
def test_processes_end_together(dies):
    spec = {"work": to_json(TINY), "devices": 1, "processes": 2}
    with started(Candidate("2 processes", "benchmarks.step_peers.sharded", spec), 2) as first:
        facts = first.ready(120)
        (partner,) = facts["partners"]
        assert first.run(1, 120).seconds > 0
        if dies == "partner":
            os.kill(partner, signal.SIGKILL)
            with pytest.raises(CouldNotRun):
                first.run(1, 60)
        else:
            os.kill(facts["pid"], signal.SIGKILL)
    deadline = time.monotonic() + 20
    while (found := running(partner)) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not found


def running(pid):
    """Whether a process runs (a dead one may wait for its parent to notice)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] not in "ZX"
    except FileNotFoundError:
        return False


def test_rows_that_cannot_be_shared_are_told():
    spec = {"work": to_json(RecurrentWork("LSTM", 3, 4, 8, 1)), "devices": 2, "processes": 1}
    told = pytest.raises(CouldNotRun, match="UserError: lstm-3-4-8-1 has 3 rows, which 2 devices cannot share")
    with started(Candidate("2 devices", "benchmarks.step_peers.sharded", spec), 1) as worker, told:
        worker.ready(60)


def test_an_unknown_row_is_the_users_mistake():
    with pytest.raises(UserError, match="--rows"):
        devices.main(["--rows", "lstm-1-1-1-1"])
