"""Several processes: how they find each other, train as one, lose one, and go on as another number of them."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import jax
import numpy as np
import pytest
from conftest import TINY
from on_processes import MODEL, TRAIN

from jaxgen.core.errors import UserError
from jaxgen.objectives.likelihood import Likelihood
from jaxgen.training.checkpoint import Checkpoints
from jaxgen.training.distributed import _LOST, cluster_arguments
from jaxgen.training.telemetry import read_metrics

pytestmark = pytest.mark.slow

SLURM = {
    "SLURM_JOB_ID": "7",
    "SLURM_STEP_NODELIST": "node[1-2]",
    "SLURM_NTASKS": "2",
    "SLURM_PROCID": "1",
    "SLURM_LOCALID": "0",
}
MPI = {"OMPI_COMM_WORLD_SIZE": "4", "OMPI_COMM_WORLD_RANK": "2", "OMPI_MCA_orte_hnp_uri": "1;tcp://10.0.0.1:3"}
EXPLICIT = {"coordinator_address": "host:1", "num_processes": 4, "process_id": 2}


def found(environment, mode="auto", coordinator="", num_processes=None, process_id=None, on_tpu=False):
    return cluster_arguments(mode, coordinator, num_processes, process_id, environment, on_tpu)


@pytest.mark.parametrize(
    ("environment", "options", "expected"),
    [
        ({}, {}, None),
        ({"KUBERNETES_SERVICE_HOST": "10.0.0.1"}, {}, None),  # a pod, but of no job
        (SLURM | {"SLURM_NTASKS": "1"}, {}, None),
        ({"SLURM_JOB_ID": "7", "SLURM_NTASKS": "2"}, {}, None),  # the batch script itself, which srun has not started
        (SLURM, {}, {}),
        (SLURM | {"SLURM_STEP_TASKS_PER_NODE": "2(x2)"}, {}, {}),
        (
            SLURM | {"SLURM_STEP_TASKS_PER_NODE": "1(x2)"},
            {},
            {"local_device_ids": []},
        ),  # one on a node has all its GPUs
        (SLURM | {"SLURM_STEP_NUM_TASKS": "2"}, {}, {}),
        (SLURM | {"SLURM_STEP_NUM_TASKS": "1"}, {}, None),  # srun -n 1 in a job of two
        (SLURM | {"SLURM_NTASKS": "1", "SLURM_STEP_NUM_TASKS": "4"}, {}, {"num_processes": 4}),
        (SLURM | {"SLURM_PTY_PORT": "40000"}, {}, None),  # srun --pty bash: tasks, but one person who types
        (SLURM | {"SLURM_STEP_ID": "4294967290"}, {}, None),  # salloc
        (SLURM | {"SLURM_STEP_ID": "0"}, {}, {}),
        (SLURM | {"SLURM_PTY_PORT": "40000"}, {"mode": "on"}, {}),
        (SLURM, {"mode": "off"}, None),
        (MPI, {}, {}),
        (MPI | {"OMPI_COMM_WORLD_LOCAL_SIZE": "1"}, {}, {"local_device_ids": []}),
        ({"OMPI_COMM_WORLD_SIZE": "1"}, {}, None),
        ({}, {"on_tpu": True}, {}),
        ({}, {"coordinator": "host:1", "num_processes": 4, "process_id": 2}, EXPLICIT),
        ({}, {"coordinator": "host:1", "num_processes": 1, "process_id": 0}, None),
        (SLURM, {"coordinator": "host:1"}, EXPLICIT | {"num_processes": 2, "process_id": 1}),
        (MPI, {"coordinator": "host:1"}, EXPLICIT),
        (
            {"JAX_COORDINATOR_ADDRESS": "host:1", "JAX_NUM_PROCESSES": "4", "JOB_COMPLETION_INDEX": "2"},
            {},
            EXPLICIT,
        ),
        (
            {"JAX_COORDINATOR_ADDRESS": "host:1", "JAX_NUM_PROCESSES": "4", "JAX_PROCESS_ID": "2"},
            {"mode": "on"},
            EXPLICIT,
        ),
    ],
)
def test_where_processes_meet(environment, options, expected):
    assert found(environment, **options) == expected


@pytest.mark.parametrize(
    ("environment", "options", "words"),
    [
        ({}, {"mode": "on"}, "there is no cluster"),
        ({}, {"mode": "off", "coordinator": "host:1"}, "--distributed is off"),
        ({}, {"coordinator": "host", "num_processes": 2, "process_id": 0}, "expected HOST:PORT"),
        ({}, {"num_processes": 2, "process_id": 0}, "expected HOST:PORT"),
        ({}, {"coordinator": "host:1", "num_processes": 2}, "--process-id I"),
        ({}, {"coordinator": "host:1", "num_processes": 2, "process_id": 2}, "expected 0 to 1"),
        ({"JOB_COMPLETION_INDEX": "1"}, {}, "JAX_COORDINATOR_ADDRESS"),
        (MPI | {"OMPI_COMM_WORLD_SIZE": "many"}, {}, "OMPI_COMM_WORLD_SIZE is 'many'"),
        ({"OMPI_COMM_WORLD_SIZE": "2"}, {}, "--coordinator HOST:PORT"),
    ],
)
def test_what_is_missing_is_told(environment, options, words):
    with pytest.raises(UserError, match=words):
        found(environment, **options)


@pytest.mark.parametrize(
    ("text", "lost"),
    [
        ("UNAVAILABLE: failed to connect to all addresses", True),
        ("DEADLINE_EXCEEDED: Barrier timed out", True),
        ("UNKNOWN: Gloo all-reduce failed: Connection closed by peer [127.0.0.1]:4000", True),
        ("INTERNAL: NCCL operation ncclCommInitRank failed", True),
        ("INTERNAL: an XLA pass met a shape that it does not know", False),
        ("RESOURCE_EXHAUSTED: Out of memory allocating 17179869184 bytes", False),
        ("CANCELLED: the program was refused", False),
    ],
)
def test_a_lost_process_is_told_from_a_bug_and_from_want_of_memory(text, lost):
    assert bool(_LOST.match(text)) == lost


# Real processes from here on.
ROOT = Path(__file__).parent.parent
STEPS, EVERY = TRAIN.steps, TRAIN.checkpoint_every


class Together:
    """Processes that train in one folder, and what they say."""

    def __init__(self, lines, folder, devices):
        folder.mkdir(parents=True, exist_ok=True)
        self.logs = [folder / f"log_{index}.txt" for index in range(len(lines))]
        environment = os.environ | {"JAX_NUM_CPU_DEVICES": str(devices)}
        self.processes = []
        for line, log in zip(lines, self.logs, strict=True):
            with log.open("w") as file:
                self.processes.append(subprocess.Popen(line, stdout=file, stderr=file, env=environment, cwd=ROOT))

    def codes(self, patience=300):
        """The exit codes of all, in order."""
        return [process.wait(patience) for process in self.processes]

    def said(self, index=0):
        return re.sub(r"\[Gloo\].*\n", "", self.logs[index].read_text())

    def everything(self):
        return "\n".join(f"--- process {index}\n{self.said(index)}" for index in range(len(self.logs)))


@contextmanager
def together(lines, folder, devices=1):
    run = Together([[sys.executable, *map(str, line)] for line in lines], folder, devices)
    with ExitStack() as ended:
        for process in run.processes:
            ended.callback(process.wait)
            ended.callback(process.kill)
        yield run


def free_address():
    with socket.create_server(("localhost", 0)) as server:
        return f"localhost:{server.getsockname()[1]}"


def training(count, store, workdir, *more, devices=1):
    """So many processes at a tiny model, each with so many devices."""
    line = ["tests/on_processes.py", store.directory, workdir, free_address(), count]
    return together([[*line, index, *more] for index in range(count)], workdir.parent / f"logs_{count}", devices)


def commands(folder, cache, *each):
    """One `jaxgen.train` for each of these tuples of options."""
    line, address = ["-m", "jaxgen.train", *TINY, "--workdir", folder / "run", "--cache-dir", cache], free_address()
    places = [("--coordinator", address, "--num-processes", len(each), "--process-id", n) for n in range(len(each))]
    return together([[*line, *place, *more] for place, more in zip(places, each, strict=True)], folder / "logs")


def wait_for(condition, run, patience=300):
    end = time.monotonic() + patience
    while not condition():
        assert all(process.poll() is None for process in run.processes), run.everything()
        assert time.monotonic() < end, run.everything()
        time.sleep(0.01)


def saved(workdir, step):
    return (workdir / "checkpoints" / str(step)).exists()  # appears only when that checkpoint is whole


def final(workdir, spec):
    """State and data position of the newest checkpoint."""
    objective = Likelihood().build(MODEL, spec, steps=STEPS, batch_size=TRAIN.batch_size)
    with closing(Checkpoints(workdir / "checkpoints")) as checkpoints:
        step, state, position = checkpoints.restore_newest(jax.eval_shape(objective.init, jax.random.key(0)))
    assert step == STEPS
    return state, position


@pytest.fixture(scope="module")
def undisturbed(mel_store, tmp_path_factory):
    """The folder of a run of two processes."""
    workdir = tmp_path_factory.mktemp("two") / "run"
    with training(2, mel_store, workdir) as run:
        assert run.codes() == [0, 0], run.everything()
        assert "finished\n" in run.said(0)
        assert not run.said(1)  # only the first is heard
    return workdir


@pytest.mark.nightly
def test_one_is_killed_and_all_go_on_as_if_nothing_had_been(undisturbed, mel_store, tmp_path):
    workdir, spec = tmp_path / "run", mel_store.spec(())
    with training(2, mel_store, workdir) as run:
        wait_for(lambda: saved(workdir, EVERY), run)
        run.processes[1].kill()
        assert run.processes[0].wait(60) == 75, run.everything()
        (line,) = re.findall("jaxgen: .*", run.said(0))
        assert line.startswith("jaxgen: process 0 of 2 cannot go on, most likely because another one has stopped")
        assert "Traceback" not in run.said(0)
    assert not saved(workdir, STEPS)
    with training(2, mel_store, workdir) as run:
        assert run.codes() == [0, 0], run.everything()
    (state, position), (wanted, wanted_position) = final(workdir, spec), final(undisturbed, spec)
    assert position == wanted_position
    jax.tree.map(np.testing.assert_array_equal, state, wanted)
    assert read_metrics(workdir / "metrics.jsonl") == read_metrics(undisturbed / "metrics.jsonl")


@pytest.mark.nightly
def test_a_run_moves_from_four_processes_to_two_of_two_devices(undisturbed, mel_store, tmp_path):
    """Stopped by a signal to one of them, which all obey at the same step, and gone on with another number."""
    workdir, spec = tmp_path / "run", mel_store.spec(())
    with training(4, mel_store, workdir) as run:
        wait_for(lambda: saved(workdir, EVERY), run)
        run.processes[-1].send_signal(signal.SIGTERM)
        assert run.codes() == [75] * 4, run.everything()
        assert run.said(0).endswith("interrupted\n")
    stop = max(int(path.name) for path in (workdir / "checkpoints").iterdir() if path.name.isdecimal())
    assert EVERY <= stop < STEPS
    with training(2, mel_store, workdir, "shard", devices=2) as run:
        assert run.codes() == [0, 0], run.everything()
    (state, position), (wanted, wanted_position) = final(workdir, spec), final(undisturbed, spec)
    for each in (position, wanted_position):
        del each["history"]  # of figures, which differ by rounding
    assert position == wanted_position
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-3, atol=2e-3), state, wanted)
    rows, wanted_rows = read_metrics(workdir / "metrics.jsonl"), read_metrics(undisturbed / "metrics.jsonl")
    assert [row["step"] for row in rows] == [row["step"] for row in wanted_rows]
    np.testing.assert_allclose([row["loss"] for row in rows], [row["loss"] for row in wanted_rows], rtol=1e-3)


@pytest.mark.nightly
def test_the_command_trains_in_two_processes_and_writes_once(cache, tmp_path):
    with commands(tmp_path, cache, (), ()) as run:
        assert run.codes() == [0, 0], run.everything()
        assert "tensorboard --logdir" in run.said(0)
        assert not run.said(1)
    workdir = tmp_path / "run"
    rows = read_metrics(workdir / "metrics.jsonl")
    assert [row["step"] for row in rows if row["split"] == "train"] == [1, 2, 3, 4, 5, 6]
    assert json.loads((workdir / "report.json").read_text())["metrics"]
    assert len(list((workdir / "tensorboard").iterdir())) == 1
    assert len((workdir / "starts.jsonl").read_text().splitlines()) == 1
    assert len(list((workdir / "generated").glob("*.wav"))) == 1


@pytest.mark.nightly
def test_processes_that_were_started_differently_are_told(cache, tmp_path):
    """Each says in one line what is wrong, and none waits for the others."""
    with commands(tmp_path, cache, ("--train.seed", "1"), ("--train.seed", "2")) as run:
        assert run.codes() == [2, 2], run.everything()
    for index in range(2):
        (line,) = re.findall("jaxgen: .*", run.said(index))
        assert line.startswith("jaxgen: process 1 has another folder, settings or recordings than process 0")
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_a_coordinator_that_is_not_there_is_told():
    script = (
        "from jaxgen.training import distributed\n"
        "distributed._JOIN_SECONDS = 2\n"
        "with distributed.join_processes('on', 'localhost:9', 2, 1):\n"
        "    print('joined')\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 75, done.stderr
    assert "joined" not in done.stdout
    assert done.stderr.startswith("jaxgen: the processes do not meet")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_who_waits_for_others_says_so_and_heeds_signals(number):
    """As with the variables of four tasks of Slurm, of which one is started."""
    script = (
        "from jaxgen.core.errors import run\n"
        "from jaxgen.training import distributed\n"
        "from jaxgen.training.interrupts import raise_on_signal\n"
        "distributed._SAID_AFTER = 0.5\n"
        "def main():\n"
        "    with raise_on_signal(), distributed.join_processes('auto', '', None, None):\n"
        "        print('joined')\n"
        "run(main)\n"
    )
    slurm = SLURM | {"SLURM_NTASKS": "4", "SLURM_PROCID": "0", "SLURM_STEP_NODELIST": "localhost"}
    line = [sys.executable, "-c", script]
    with subprocess.Popen(line, env=os.environ | slurm, stderr=subprocess.PIPE, text=True, cwd=ROOT) as waiting:
        said = waiting.stderr.readline()
        waiting.send_signal(number)
        assert waiting.wait(30) == 75
        rest = waiting.stderr.read()
    assert said.startswith("waiting for 3 other processes at localhost:")
    assert "--distributed off" in said
    assert rest == f"\njaxgen: stopped by {number.name}; the same command goes on.\n"
