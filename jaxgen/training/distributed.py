"""Several processes that train one model: how they meet, what only the first does, and what they agree on."""

import contextlib
import functools
import importlib.util
import json
import os
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxgen.core.environment import one_line
from jaxgen.core.errors import Diverged, ExitCode, SaveFailed, TryAgain, UserError, report_error

Mode = Literal["auto", "off", "on"]

_JOIN_SECONDS = 300  # until the last process has come
_SAID_AFTER, _SAID_AFTER_BY_OTHERS = 2.0, 30.0  # seconds until a process says that it waits
_HEARTBEAT_SECONDS = 60  # of silence until a process counts as dead
_LEAVE_SECONDS = 24 * 3600  # until the first process, which others wait for at the end, has written its report

_LAST_SECONDS = 3  # that the first process stays when it fails: without it jax aborts the others before they tell why
_LOST = re.compile(
    r"(UNAVAILABLE|ABORTED|DEADLINE_EXCEEDED): |[A-Z_]+: .*(gloo|nccl|peer|connection|socket|barrier|heartbeat|timed out)",
    re.IGNORECASE | re.DOTALL,
)
"""What XLA says where a process does not answer; its other errors are bugs, or a lack of memory."""
_SLURM = ("SLURM_JOB_ID", "SLURM_STEP_NODELIST", "SLURM_NTASKS", "SLURM_PROCID", "SLURM_LOCALID")  # what jax reads
_INTERACTIVE_STEPS = ("4294967290", "interactive")  # of salloc
_NUMBERS = (
    ("JAX_NUM_PROCESSES", "JAX_PROCESS_ID"),
    ("SLURM_NTASKS", "SLURM_PROCID"),
    ("OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK"),
    ("", "JOB_COMPLETION_INDEX"),
)
"""Where a launcher says how many processes there are and which one this is."""


_TOLD = (SaveFailed, TryAgain, UserError, Diverged)
"""What one process tells the others that it stumbled over."""


def cluster_arguments(
    mode: Mode,
    coordinator: str,
    num_processes: int | None,
    process_id: int | None,
    environment: Mapping[str, str],
    on_tpu: bool,
) -> dict[str, Any] | None:
    """The arguments of `jax.distributed.initialize`, or None for a process that is alone.

    environment: variables of this process, which its launcher has set. on_tpu: whether this machine has TPUs.
    Raises UserError for options that say too little or contradict each other, and for "on" where there is no cluster.
    """
    asked = bool(coordinator) or num_processes is not None or process_id is not None
    if mode == "off":
        if asked:
            raise UserError("--distributed is off, but --coordinator, --num-processes or --process-id is given.")
        return None
    address = coordinator or environment.get("JAX_COORDINATOR_ADDRESS", "")
    if address or asked:
        return _explicit(address, num_processes, process_id, environment)
    if all(name in environment for name in _SLURM) and (mode == "on" or not _interactive(environment)):
        tasks, of_step = (_number(environment, name) for name in ("SLURM_NTASKS", "SLURM_STEP_NUM_TASKS"))
        if of_step not in (None, tasks):  # jax takes those of the job, of which this step has another number
            return None if of_step == 1 else {"num_processes": of_step} | _devices_of_the_node(environment)
        if tasks != 1:
            return _devices_of_the_node(environment)
    if (_number(environment, "OMPI_COMM_WORLD_SIZE") or 1) > 1:
        if "OMPI_MCA_orte_hnp_uri" not in environment:
            raise UserError("this Open MPI does not say where its processes meet; pass --coordinator HOST:PORT.")
        return _devices_of_the_node(environment)
    if on_tpu:
        return {}
    if "JOB_COMPLETION_INDEX" in environment:
        if importlib.util.find_spec("kubernetes") is None:
            raise UserError(
                "this is a pod of an indexed job, which does not say where its pods meet; set JAX_COORDINATOR_ADDRESS and "
                "JAX_NUM_PROCESSES in the job, install the package kubernetes, or pass --distributed off."
            )
        return {}
    if mode == "on":
        raise UserError(
            "--distributed is on, but there is no cluster (TPU, Slurm, Open MPI, Kubernetes indexed job); pass "
            "--coordinator HOST:PORT --num-processes N --process-id I."
        )
    return None


def _explicit(
    address: str, num_processes: int | None, process_id: int | None, environment: Mapping[str, str]
) -> dict[str, Any] | None:
    for count, index in _NUMBERS:
        num_processes = _number(environment, count) if num_processes is None else num_processes
        process_id = _number(environment, index) if process_id is None else process_id
    if num_processes == 1:
        return None
    if not re.fullmatch(r"\S+:\d+", address):
        raise UserError(
            f"--coordinator is '{address}', expected HOST:PORT, where process 0 runs and a free port of it."
        )
    if num_processes is None or process_id is None:
        raise UserError("--coordinator needs --num-processes N and --process-id I, of each process its own, from 0 on.")
    if not 0 <= process_id < num_processes:
        raise UserError(
            f"--process-id is {process_id}, expected 0 to {num_processes - 1} for {num_processes} processes."
        )
    place = {"coordinator_address": address, "num_processes": num_processes, "process_id": process_id}
    return place | _devices_of_the_node(environment)


def _interactive(environment: Mapping[str, str]) -> bool:
    """Whether a person types in this step of Slurm: then its tasks are not processes of ours, however many there are."""
    return "SLURM_PTY_PORT" in environment or environment.get("SLURM_STEP_ID") in _INTERACTIVE_STEPS


def _devices_of_the_node(environment: Mapping[str, str]) -> dict[str, Any]:
    """All for a process that is alone on its node; jax would give it one of several."""
    by_slurm = re.fullmatch(r"1(\(x\d+\))?", environment.get("SLURM_STEP_TASKS_PER_NODE", ""))
    alone = by_slurm or environment.get("OMPI_COMM_WORLD_LOCAL_SIZE") == "1"
    return {"local_device_ids": []} if alone and "JAX_LOCAL_DEVICE_IDS" not in environment else {}


def _number(environment: Mapping[str, str], name: str) -> int | None:
    text = environment.get(name)
    if text is None:
        return None
    if not text.isdecimal():
        raise UserError(f"the environment variable {name} is '{text}', expected a whole number.")
    return int(text)


@contextlib.contextmanager
def join_processes(mode: Mode, coordinator: str, num_processes: int | None, process_id: int | None) -> Iterator[None]:
    """Joins the other processes, if there are any; to be entered before jax computes anything.

    Inside, only the first process is heard (stdout and stderr of Python). All leave together; one that fails tells why,
    in one line, and ends at once, so that none waits for it; so it does where the others cannot be reached.
    """
    found = cluster_arguments(mode, coordinator, num_processes, process_id, os.environ, _on_tpu())
    if found is None:
        yield
        return
    _initialise(found)
    try:
        with open(os.devnull, "w", encoding="utf-8") as nowhere, contextlib.ExitStack() as quiet:
            if not is_first():
                quiet.enter_context(contextlib.redirect_stdout(nowhere))
                quiet.enter_context(contextlib.redirect_stderr(nowhere))
            yield
            leaving = threading.Thread(target=jax.distributed.shutdown, daemon=True)
            leaving.start()
            while leaving.is_alive():  # in Python, so that a signal is heard while the first process writes its report
                leaving.join(0.2)
    except BaseException as error:
        # Others would wait for us in a sum, and we, at the exit of Python, for them.
        _end(error)


def _initialise(found: dict[str, Any]) -> None:
    """Meets the others, heeding signals meanwhile: what jax waits in does not."""
    late = threading.Timer(_JOIN_SECONDS, _not_met, [f"no answer for {_JOIN_SECONDS} s"])
    late.daemon = True  # it comes before jax's own, which aborts with a dump of its stack
    late.start()
    first, others = _place(found, os.environ)
    said = threading.Timer(_SAID_AFTER if first else _SAID_AFTER_BY_OTHERS, _say_waiting, [others])
    said.daemon = True
    said.start()
    meets = threading.Thread(target=_meet, args=[found], daemon=True)
    meets.start()
    try:
        while meets.is_alive():
            meets.join(0.2)
    finally:
        said.cancel()
        late.cancel()


def _meet(found: dict[str, Any]) -> None:
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.config.update("jax_enable_preemption_service", False)  # it would take SIGTERM from us
    try:
        jax.distributed.initialize(
            **found,
            initialization_timeout=2 * _JOIN_SECONDS,
            heartbeat_timeout_seconds=_HEARTBEAT_SECONDS,
            shutdown_timeout_seconds=_LEAVE_SECONDS,
        )
        jax.devices()  # all processes tell each other of their devices
    except Exception as error:  # of whatever kind: jax asks drivers, metadata servers and interfaces of clusters
        _not_met(one_line(error), ExitCode.BAD_INPUT if isinstance(error, ValueError) else ExitCode.PREEMPTED)


def _place(found: Mapping[str, Any], environment: Mapping[str, str]) -> tuple[bool, int | None]:
    """Whether this is the first process, and how many others there are, where that is known."""
    counts = [found.get("num_processes"), *(_number(environment, count) for count, _ in _NUMBERS)]
    indices = [found.get("process_id"), *(_number(environment, index) for _, index in _NUMBERS)]
    count = next((each for each in counts if each is not None), None)
    return next((each for each in indices if each is not None), 0) == 0, None if count is None else count - 1


def _say_waiting(others: int | None) -> None:
    from jax._src.distributed import global_state  # jax tells nobody else where it waits

    who = "the other processes" if others is None else f"{others} other processes" if others > 1 else "another process"
    where = global_state.coordinator_address
    print(
        f"waiting for {who} at {where}, up to {_JOIN_SECONDS} s; --distributed off trains in this process alone",
        file=sys.stderr,
        flush=True,
    )


def _not_met(reason: str, code: ExitCode = ExitCode.PREEMPTED) -> None:
    print(
        f"jaxgen: the processes do not meet ({reason}). Check that all are started and reach the coordinator, or pass "
        "--distributed off to train in this process alone.",
        file=sys.stderr,
        flush=True,
    )
    os._exit(code)  # another one may be late: to start again may help


def _end(error: BaseException) -> None:
    """Ends this process with the message and the code of what happened, waiting for nobody."""
    if isinstance(error, (jax.errors.JaxRuntimeError, ValueError)) and _LOST.match(str(error)):
        print(
            f"jaxgen: process {jax.process_index()} of {jax.process_count()} cannot go on, most likely because another one "
            f"has stopped ({one_line(error)}). Start all of them again: they continue from the last checkpoint.",
            file=sys.stderr,
        )
        code: int = ExitCode.PREEMPTED
    elif isinstance(error, Diverged) and not is_first():  # which all see
        code = ExitCode.DIVERGED
    else:
        code = report_error(error)
    sys.stdout.flush()
    sys.stderr.flush()
    if jax.process_index() == 0:
        time.sleep(_LAST_SECONDS)
    os._exit(code)


def _on_tpu() -> bool:
    from jax._src.cloud_tpu_init import running_in_cloud_tpu_vm  # jax's own rule; there is no public one

    return bool(running_in_cloud_tpu_vm)


def is_multiprocess() -> bool:
    """Whether there are other processes."""
    return jax.distributed.is_initialized() and jax.process_count() > 1


def is_first() -> bool:
    """Whether this process is the one that prints and writes."""
    return not is_multiprocess() or jax.process_index() == 0


def print_from_any_process(text: str) -> None:
    """Says on stderr what only this process knows, also where it is not the first."""
    print(f"process {jax.process_index()}: {text}", file=sys.__stderr__, flush=True)


def all_gather(value: Any) -> list[Any]:
    """The `value`, which is JSON, of every process, on all of them; all must ask."""
    if not is_multiprocess():
        return [value]
    text = np.frombuffer(json.dumps(value).encode(), np.uint8)
    lengths = multihost_utils.process_allgather(np.int32(len(text)))
    texts = multihost_utils.process_allgather(np.pad(text, (0, int(lengths.max()) - len(text))))
    return [json.loads(text[:length].tobytes()) for text, length in zip(texts, lengths, strict=True)]


def broadcast_from_first(make: Callable[[], Any]) -> Any:
    """What `make`, a function called on the first process alone, returns there (JSON), on all processes.

    A UserError or Diverged that it raises is raised on all.
    """
    if not is_multiprocess():
        return make()
    answer: Any = None
    if is_first():
        try:
            answer = {"value": make()}
        except _TOLD as error:
            kind = next(place for place, kind in enumerate(_TOLD) if isinstance(error, kind))
            answer = {"error": kind, "text": str(error)}
    answer = all_gather(answer)[0]
    if "error" in answer:
        raise _TOLD[answer["error"]](answer["text"])
    return answer["value"]


def check_alike(what: str, value: Any) -> None:
    """Raises UserError, on all processes, where one has another `value` (JSON) of `what` than the first."""
    values = all_gather(value)
    if others := [str(index) for index, each in enumerate(values) if each != values[0]]:
        raise UserError(f"process {', '.join(others)} has {what} than process 0; start all with the same.")


class AnyProcess:
    """Whether any process wants to: each tells at the same calls, and hears one call later, so that none waits."""

    def __init__(self) -> None:
        self._told: jax.Array | None = None

    def __call__(self, wanted: bool) -> bool:
        """The answer for all processes; for one that is alone what it wants now."""
        if not is_multiprocess():
            return wanted
        before, self._told = self._told, _any(wanted)
        return before is not None and bool(before)


def _any(wanted: bool) -> jax.Array:
    place, any_of = _any_over_processes()
    local = np.full(jax.local_device_count(), wanted)
    answer = any_of(jax.make_array_from_process_local_data(place, local))
    # With an update under way as well, devices of a CPU, which share few threads, may wait for each other for ever.
    return jax.block_until_ready(answer) if jax.default_backend() == "cpu" else answer


@functools.cache
def _any_over_processes() -> tuple[NamedSharding, Callable[[jax.Array], jax.Array]]:
    mesh = Mesh(np.array(jax.devices()), ("all",))
    return NamedSharding(mesh, PartitionSpec("all")), jax.jit(
        jnp.any, out_shardings=NamedSharding(mesh, PartitionSpec())
    )
