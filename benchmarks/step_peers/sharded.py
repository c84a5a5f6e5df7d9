"""The train step with the rows of its batch split over CPU devices, of one process or of several, which share the cores.

Parameters are whole on each device; jit splits the work and sums the gradients. Of several processes the first is the
candidate, and starts and owns the others, which run when it runs.
"""

import concurrent.futures
import contextlib
import os
import socket
import sys
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from benchmarks.processes import Candidate, CouldNotRun, Worker, started
from benchmarks.step_work import StepWork, start
from jaxgen.core.errors import UserError
from jaxgen.core.machine import keep_freed_memory
from jaxgen.core.serial import from_json
from jaxgen.data.pipeline import Batch
from jaxgen.objectives.state import TrainState
from jaxgen.training.mesh import Devices

_PARTNERS = contextlib.ExitStack()  # never left: partners end when the pipes to this process close


def prepare(spec: dict[str, Any]) -> tuple[dict[str, Any], Callable[[int], dict[str, Any]]]:
    """spec: `work`, a `StepWork` as `jaxgen.core.serial` writes it; `devices` of each process; `processes`; and, of a partner,
    its `rank` and the `address` where all meet.

    Raises UserError where the rows or the cores cannot be split evenly.
    """
    work: StepWork = from_json(spec["work"], StepWork, "the order")  # type: ignore[type-abstract]
    devices, processes = spec["devices"], spec["processes"]
    if work.batch_size % (devices * processes):
        raise UserError(f"{work.name} has {work.batch_size} rows, which {devices * processes} devices cannot share.")
    jax.config.update("jax_num_cpu_devices", devices)
    if "rank" in spec:
        _meet(spec["address"], processes, spec["rank"])
    elif processes > 1:
        return _together(spec)
    return _running(work)


def _running(work: StepWork) -> tuple[dict[str, Any], Callable[[int], dict[str, Any]]]:
    """The step on all devices of all processes."""
    keep_freed_memory()
    step, state, batch = split_over(jax.devices(), work)
    losses: list[float] = []

    def run(times: int) -> dict[str, Any]:
        nonlocal state
        for _ in range(times):
            state, metrics = step(state, batch)
        losses.append(float(metrics["loss"]))
        return {"losses": losses}

    return {"pid": os.getpid()}, run


def split_over(devices: Sequence[jax.Device], work: StepWork) -> tuple[Callable[..., Any], TrainState, Batch]:
    """The step of (state, batch), which it donates the state of, and both of them, as `jaxgen.train` spreads them."""
    task, mesh = work.bound(), Devices(work.batch_size, devices=devices)
    state = mesh.init_state(lambda _: start(task), jax.random.key(0))
    batch = jax.tree.map(lambda array: np.asarray(array)[None, mesh.rows], work.batch())

    def update(state: TrainState, batches: Batch) -> tuple[TrainState, Any]:
        return task.train_step(state, jax.tree.map(lambda array: array[0], batches))

    return mesh.compile(update, state), state, mesh.place(batch)


def _meet(address: str, processes: int, rank: int) -> None:
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(address, processes, rank, initialization_timeout=120)


def _together(spec: dict[str, Any]) -> tuple[dict[str, Any], Callable[[int], dict[str, Any]]]:
    """The step of all processes, each on its part of the cores, from the first one."""
    processes, address = spec["processes"], f"localhost:{_free_port()}"
    shares = _core_shares(processes)
    partners = []
    for rank, cores in enumerate(shares[1:], start=1):
        os.sched_setaffinity(0, cores)  # what is started inherits it
        order = {**spec, "rank": rank, "address": address}
        partners.append(_PARTNERS.enter_context(started(Candidate(f"partner {rank}", __name__, order), len(cores))))
    os.sched_setaffinity(0, shares[0])
    threads = concurrent.futures.ThreadPoolExecutor(len(partners))
    ready = [threads.submit(_or_end, partner, lambda partner: partner.ready(600)) for partner in partners]
    _meet(address, processes, 0)
    facts, run_own = _running(from_json(spec["work"], StepWork, "the order"))  # type: ignore[type-abstract]

    def run(times: int) -> dict[str, Any]:
        turns = [threads.submit(_or_end, partner, lambda partner: partner.run(times)) for partner in partners]
        more = run_own(times)
        return {**more, "partners_peak_bytes": sum(turn.result().peak_bytes for turn in turns)}

    return {**facts, "partners": [told.result()["pid"] for told in ready]}, run


def _or_end(partner: Worker, ask: Callable[[Worker], Any]) -> Any:
    """A partner's answer. Without one this process, which would wait for its partner in a sum, ends, and so do all."""
    try:
        return ask(partner)
    except CouldNotRun as error:
        print(f"{partner.name} could not run: {error}", file=sys.stderr, flush=True)
        os._exit(1)


def _core_shares(processes: int) -> list[list[int]]:
    """The cores of each process. Raises UserError where they cannot be pinned or are too few."""
    if not hasattr(os, "sched_setaffinity"):
        raise UserError("processes are pinned to cores, which this system cannot do: measure on Linux.")
    cores = sorted(os.sched_getaffinity(0))
    share = len(cores) // processes
    if not share:
        raise UserError(f"{processes} processes need a core each, but there are {len(cores)}.")
    return [cores[share * rank : share * (rank + 1)] for rank in range(processes)]


def _free_port() -> int:
    with socket.create_server(("localhost", 0)) as server:
        return int(server.getsockname()[1])
