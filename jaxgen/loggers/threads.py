"""The loggers of a training, each in a thread of its own: training waits for no network, and no logger ends it."""

import json
import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxgen.core.errors import tolerate
from jaxgen.core.files import read_regular, write_atomic
from jaxgen.core.serial import content_hash, to_json
from jaxgen.loggers.logger import FOLDER, Logger, RunDescription

_MOST_WAITING = 1_000  # entries
_GOES_ON = "training goes on, and metrics.jsonl has all figures"


class LoggerThreads:
    """Hands what is logged to each logger. What fails is told, by kind, once until it works again.

    tell: says a line to the user.
    """

    def __init__(self, loggers: Sequence[Logger], run: RunDescription, tell: Callable[[str], None]):
        self._threads = [_LoggerThread(logger, run, tell) for logger in loggers]

    def __bool__(self) -> bool:
        return bool(self._threads)

    def scalars(self, group: str, values: Mapping[str, float], step: int) -> None:
        """Figures of a group, as `train`, by name."""
        for each in self._threads:
            each.put("scalars", group, values, step)

    def audio(self, name: str, samples: np.ndarray, sample_rate: int, step: int) -> None:
        """A clip, float32 [nsamp]."""
        for each in self._threads:
            each.put("audio", name, samples, sample_rate, step)

    def image(self, name: str, image: np.ndarray, step: int) -> None:
        """A picture, uint8 [height, width, 3]."""
        for each in self._threads:
            each.put("image", name, image, step)

    def finish(self) -> None:
        """Lets every logger finish, and waits for each as long as it says."""
        for each in self._threads:
            each.end()
        started = time.monotonic()
        for each in self._threads:
            each.join(started)


class _LoggerThread:
    def __init__(self, logger: Logger, run: RunDescription, tell: Callable[[str], None]):
        self._logger, self._run, self._tell = logger, run, tell
        self._told = set[str]()
        self._name = type(logger).__name__
        digest = content_hash(to_json(logger))[:8]  # another project is another logger, which was given nothing yet
        self._reached_path = run.folder / FOLDER / f"{self._name}_{digest}.json"
        self._reached: dict[str, int] = {}
        """The last step of each group that was logged, also by an earlier process."""
        self._queue: queue.SimpleQueue[tuple[Any, ...] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name=f"logger {self._name}", daemon=True)
        self._thread.start()

    def put(self, *call: Any) -> None:
        """Has a method called; where very many calls wait, this one is left out."""
        if self._queue.qsize() < _MOST_WAITING:
            self._queue.put(call)
        else:
            self._tell_once("queue", f"jaxgen: {self._name} is too slow, and some entries are left out; {_GOES_ON}.")

    def end(self) -> None:
        """Has the thread end when it has done what waits."""
        self._queue.put(None)

    def join(self, started: float) -> None:
        """Waits for the thread; started: since when, by the monotonic clock."""
        self._thread.join(max(0.0, started + self._logger.finish_seconds - time.monotonic()))
        if self._thread.is_alive():
            self._tell(f"jaxgen: {self._name} has not sent everything yet; what is left when the program ends is lost.")

    def _work(self) -> None:
        sessions: list[Any] = []
        with tolerate(f"start {self._name}", f"nothing is logged there; {_GOES_ON}", self._tell):
            self._reached = {} if self._logger.takes_back else _read_steps(self._reached_path)
            sessions.append(self._logger.start(self._run))
        while (call := self._queue.get()) is not None:
            for session in sessions:
                self._call(session, *call)
        for session in sessions:
            self._call(session, "finish")

    def _call(self, session: Any, method: str, *arguments: Any) -> None:
        failed: list[str] = []
        with tolerate(f"log {method} with {self._name}", _GOES_ON, failed.append):
            if method == "scalars":
                self._scalars(session, *arguments)
            else:
                getattr(self._logger, method)(session, *arguments)
        if not failed:
            self._told.discard(method)
        for message in failed:
            self._tell_once(method, message)

    def _scalars(self, session: Any, group: str, values: Mapping[str, float], step: int) -> None:
        if step <= self._reached.get(group, 0):
            return
        self._logger.scalars(session, {f"{group}/{name}": value for name, value in values.items()}, step)
        if not self._logger.takes_back:
            self._reached[group] = step
            self._reached_path.parent.mkdir(exist_ok=True)
            write_atomic(self._reached_path, json.dumps(self._reached) + "\n")

    def _tell_once(self, about: str, message: str) -> None:
        if about not in self._told:
            self._told.add(about)
            self._tell(message)


def _read_steps(path: Path) -> dict[str, int]:
    """The steps that a file holds by group; none where there is no such file."""
    try:
        found = json.loads(read_regular(path))
    except (FileNotFoundError, ValueError):
        return {}
    return {name: step for name, step in found.items() if type(step) is int} if isinstance(found, dict) else {}
