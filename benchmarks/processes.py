"""Candidates of a comparison, each in its own process, timed in turn.

A candidate is a module with a function

    prepare(spec: dict) -> (facts: dict, run: Callable[[int], dict | None])

`spec` and `facts` are JSON. `prepare` builds what is measured (all candidates at the same time); `run(n)` does the work
n times, waits for the result, and may return more facts. The first run of a turn, which may compile, is not timed.

Candidates meet nowhere but here: no library sees another's threads or memory, and while one works the others wait for a
line of text. This file imports no numerical library, so that they do not because of it.
"""

import contextlib
import dataclasses
import importlib
import json
import math
import os
import queue
import resource
import selectors
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple

from jaxgen.core.machine import available_cores

_ROOT = Path(__file__).parent.parent
_MIN_TURN = 0.25  # seconds that a turn should take, to be timed well


class CouldNotRun(Exception):
    """A candidate's process ended or did not answer; the text is the reason, in one line."""


@dataclasses.dataclass(frozen=True)
class Candidate:
    """What is started as a process."""

    name: str
    """As it is reported."""
    module: str
    """Where `prepare` is."""
    spec: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """Argument of `prepare`."""


@dataclasses.dataclass(frozen=True)
class Measured:
    """What the rounds found of one candidate."""

    facts: dict[str, Any]
    """What `prepare` and the runs said; and `imported_bytes`, the memory in use before `prepare`."""
    seconds: list[float]
    """Of one piece of work, by round."""
    peak_bytes: int
    """Largest resident memory of the process until the end of the last round."""
    others: float | None
    """Median share of all cores that other processes took during its turns; above a few hundredths the figures are not
    to be trusted (threads that spin while they wait for each other suffer most). None where Linux does not tell."""


class Turn(NamedTuple):
    """One turn of a candidate."""

    seconds: float
    """Of one piece of work."""
    peak_bytes: int
    """Largest resident memory so far."""
    others: float | None
    """Share of all cores that other processes took."""


SETTLE = 0.25
"""Seconds of quiet after a turn: threads of OpenMP look for more work, and take the cores, for up to 0.2 s."""

ALL_THREADS = available_cores()
"""As many as there are cores for us."""


class Worker:
    """A candidate's process, from the outside."""

    def __init__(self, name: str, process: subprocess.Popen[str], log: IO[str]) -> None:
        self.name, self.facts, self._process, self._log = name, dict[str, Any](), process, log

    def ready(self, timeout: float) -> dict[str, Any]:
        """Waits for `prepare`: its facts. Raises CouldNotRun."""
        self.facts |= self._answer(timeout)
        return self.facts

    def run(self, times: int, timeout: float = math.inf) -> Turn:
        """Has the work done `times` times. Raises CouldNotRun."""
        busy, began = _busy_seconds(), time.monotonic()
        self.tell({"times": times})
        answer = self._answer(timeout)
        others = None
        if busy is not None:
            taken = (_busy_seconds() or 0.0) - busy - answer["cpu_seconds"]
            others = max(0.0, taken / (time.monotonic() - began) / (os.cpu_count() or 1))
        self.facts |= answer["facts"]
        return Turn(answer["seconds"] / times, answer["peak_bytes"], others)

    def tell(self, order: Mapping[str, Any]) -> None:
        """Sends an order to the process. Raises CouldNotRun."""
        assert self._process.stdin is not None
        try:
            print(json.dumps(order), file=self._process.stdin, flush=True)
        except BrokenPipeError as error:
            raise CouldNotRun(self._last_words()) from error

    def _answer(self, timeout: float) -> dict[str, Any]:
        assert self._process.stdout is not None
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            if not selector.select(None if timeout == math.inf else timeout):
                raise CouldNotRun(f"no answer within {timeout:.0f} s")
        line = self._process.stdout.readline()
        if not line:
            raise CouldNotRun(self._last_words())
        answer = json.loads(line)
        if "error" in answer:
            raise CouldNotRun(answer["error"])
        return answer

    def _last_words(self) -> str:
        code = self._process.wait()
        self._log.seek(0)
        lines = [line.strip() for line in self._log if line.strip()]
        return f"its process ended with code {code}, last saying: {lines[-1] if lines else 'nothing'}"


@contextlib.contextmanager
def started(candidate: Candidate, threads: int) -> Iterator[Worker]:
    """The process of a candidate, with `threads` threads; it has ended when the context is left."""
    with tempfile.TemporaryFile("w+", encoding="utf-8") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.processes"],
            cwd=_ROOT,
            env=os.environ | {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
        try:
            worker = Worker(candidate.name, process, log)
            worker.tell({"module": candidate.module, "spec": dict(candidate.spec), "threads": threads})
            yield worker
        finally:
            process.kill()
            process.communicate()


Refusal = Callable[[Mapping[str, dict[str, Any]]], Mapping[str, str]]
"""Given the facts of all candidates by name: which of them must not be compared, and why."""


def compare(
    candidates: Sequence[Candidate],
    repeats: int,
    *,
    threads: int,
    say: Callable[[str], None],
    refuse: Refusal = lambda facts: {},
    required: Collection[str] = (),
    patience: float = 600.0,
    row_seconds: float = math.inf,
) -> dict[str, Measured]:
    """Starts all candidates, each with `threads` threads, and times them in turn, in an order that rotates.

    refuse: asked after two runs of each candidate. patience: seconds to wait for a candidate to be ready.
    row_seconds: no round begins later than this, but for the first two.
    Whoever could not run is told through `say` in one line and left out; where that is one of `required`, CouldNotRun is
    raised. All processes have ended on return.
    """
    left_out: dict[str, str] = {}
    with contextlib.ExitStack() as stack:
        workers = {c.name: stack.enter_context(started(c, threads)) for c in candidates}

        def each(order: Sequence[str], ask: Callable[[Worker], Any]) -> dict[str, Any]:
            """Answers of one after another, with quiet between; whoever cannot answer is left out."""
            answers = {}
            for name in order:
                try:
                    answers[name] = ask(workers[name])
                except CouldNotRun as error:
                    if name in required:
                        raise CouldNotRun(f"{name} could not run: {error}") from error
                    left_out[name] = str(error)
                    say(f"{name} could not run: {error}")
                time.sleep(SETTLE)
            return answers

        names = list(each(list(workers), lambda worker: worker.ready(patience)))
        names = list(each(names, lambda worker: worker.run(1)))
        trial = each(names, lambda worker: _turn(worker, 1))
        for name, reason in refuse({name: workers[name].facts for name in trial}).items():
            left_out[name] = reason
            say(f"{name} is left out: {reason}")
        times = {name: max(1, math.ceil(_MIN_TURN / turn.seconds)) for name, turn in trial.items()}
        rounds = [trial] if max(times.values(), default=1) == 1 else []  # long enough to count
        began = time.monotonic()
        while len(rounds) < repeats and (len(rounds) < 2 or time.monotonic() - began < row_seconds):
            names = [name for name in trial if name not in left_out]
            first = len(rounds) % max(1, len(names))
            rounds.append(each(names[first:] + names[:first], lambda worker: _turn(worker, times[worker.name])))
        return {
            name: _measured(workers[name].facts, [turns[name] for turns in rounds])
            for name in trial
            if name not in left_out
        }


def _turn(worker: Worker, times: int) -> Turn:
    worker.run(1)  # whoever has waited finds its caches and threads cold; in use, step follows step
    return worker.run(times)


def _measured(facts: dict[str, Any], turns: Sequence[Turn]) -> Measured:
    others = [turn.others for turn in turns if turn.others is not None]
    seconds = [turn.seconds for turn in turns]
    return Measured(facts, seconds, turns[-1].peak_bytes, statistics.median(others) if others else None)


def _busy_seconds() -> float | None:
    """Seconds that all cores together have worked since the machine started; None where Linux does not tell."""
    try:
        words = Path("/proc/stat").read_text(encoding="utf-8").split(maxsplit=9)
    except OSError:
        return None
    user, nice, system, _, _, irq, softirq, steal = map(int, words[1:9])
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


def resident_bytes(peak: bool = False) -> int:
    """Memory of this process that is, or at its peak was, resident.

    Linux counts in `getrusage` the memory of the parent that a process was started from; its own status file does not.
    """
    try:
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    except OSError:
        unit = 1 if sys.platform == "darwin" else 1024
        return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    name = "VmHWM:" if peak else "VmRSS:"
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(name))


def _serve() -> None:
    """The process, from the inside: the first line says what to prepare, each further line how often to run."""
    with os.fdopen(os.dup(1), "w") as answers:
        os.dup2(2, 1)  # what libraries print must not look like an answer
        orders: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        threading.Thread(target=_listen, args=(sys.stdin, orders), daemon=True).start()
        try:
            facts, run = _prepared(orders.get())
            _reply(answers, facts)
            while True:
                times = orders.get()["times"]
                began, cpu = time.perf_counter(), time.process_time()
                more = run(times) or {}
                took = {"seconds": time.perf_counter() - began, "cpu_seconds": time.process_time() - cpu}
                _reply(answers, {**took, "peak_bytes": resident_bytes(peak=True), "facts": more})
        except Exception as error:  # whatever a library may raise is told to the parent, who goes on without it
            reason = str(error).strip().partition("\n")[0]
            _reply(answers, {"error": f"{type(error).__name__}: {reason}"})


def _prepared(order: dict[str, Any]) -> tuple[dict[str, Any], Callable[[int], dict[str, Any] | None]]:
    if hasattr(os, "sched_setaffinity"):  # the one limit on threads that every library heeds
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: order["threads"]])
    prepare = importlib.import_module(order["module"]).prepare
    imported = resident_bytes()
    facts, run = prepare(order["spec"])
    return {**facts, "imported_bytes": imported}, run


def _listen(lines: IO[str], orders: queue.SimpleQueue[dict[str, Any]]) -> None:
    for line in lines:
        orders.put(json.loads(line))
    os._exit(0)  # the parent is gone


def _reply(answers: IO[str], answer: Mapping[str, Any]) -> None:
    print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    _serve()
