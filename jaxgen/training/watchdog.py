"""Tells when training stands still, and where."""

import collections
import contextlib
import statistics
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from typing import Self, TypeVar

T = TypeVar("T")

_UNUSUAL = 10.0  # times the usual duration
_FIRST = 10.0  # times the patience: what is done for the first time may compile
_REMEMBERED = 50  # durations
_FRAMES = 4  # of each thread


class Watchdog:
    """While entered, a thread looks whether what it is told to `watch` takes far longer than usual, and says so.

    That is after `patience` seconds and ten times the median of before, and again each time that the wait has doubled.
    """

    def __init__(self, tell: Callable[[str], None], patience: float):
        self._tell, self._patience = tell, patience
        self._durations: dict[str, collections.deque[float]] = {}
        self._now: tuple[str, float] | None = None
        self._told: float = 0.0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    @contextlib.contextmanager
    def watch(self, what: str) -> Iterator[None]:
        """The time within counts as `what`."""
        began = time.monotonic()
        self._told, self._now = 0.0, (what, began)
        try:
            yield
        finally:
            self._now = None
            done = self._durations.setdefault(what, collections.deque(maxlen=_REMEMBERED))
            done.append(time.monotonic() - began)

    def watch_items(self, what: str, items: Iterator[T]) -> Iterator[T]:
        """The items; the wait for each counts as `what`."""
        while True:
            with self.watch(what):
                item = next(items, None)
            if item is None:
                return
            yield item

    def _watch(self) -> None:
        while not self._ended.wait(self._patience / 10):
            with contextlib.suppress(Exception):  # whatever goes wrong here costs neither the run nor the next look
                self._look()

    def _look(self) -> None:
        if (now := self._now) is None:
            return
        what, began = now
        waited, done = time.monotonic() - began, self._durations.get(what)
        usual = statistics.median([*done]) if done else None
        limit = _FIRST * self._patience if usual is None else max(self._patience, _UNUSUAL * usual)
        if waited > max(limit, 2 * self._told):
            self._told = waited
            before = "the first time" if usual is None else f"usually {usual:.3g} s"
            self._tell(f"jaxgen: {what} has taken {waited:.0f} s ({before}); it stands at\n{_where()}")


def _where() -> str:
    """The innermost lines of the threads that training waits for."""
    frames, lines = sys._current_frames(), []
    for thread in threading.enumerate():
        followed = thread is threading.main_thread() or thread.name.startswith("batches")
        if followed and (frame := frames.get(thread.ident or 0)):  # none for one that has just begun
            lines.append(f"  {thread.name}:")
            lines += traceback.format_stack(frame)[-_FRAMES:]
    return "\n".join(line.rstrip("\n") for line in lines)
