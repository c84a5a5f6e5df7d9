"""SIGINT and SIGTERM ask for a stop; they tear nothing apart. A second one ends the process at once."""

import contextlib
import os
import signal
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any, Self

from jaxgen.core.errors import ExitCode, Preempted

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextlib.contextmanager
def raise_on_signal() -> Iterator[None]:
    """Where there is nothing to save, a signal raises `Preempted` at once."""

    def stop(number: int, _: FrameType | None) -> None:
        _handle(lambda *_: os._exit(ExitCode.PREEMPTED))
        raise Preempted(signal.Signals(number).name)

    before = _handle(stop)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class Interrupts:
    """While entered, a first signal sets `requested`, for a loop that looks at it once a step; a second one ends the process
    at once, with the exit code `code`, also later, while what was done is saved.
    """

    def __init__(self, code: ExitCode = ExitCode.PREEMPTED) -> None:
        self.requested, self._code = False, code

    def __enter__(self) -> Self:
        self._before = _handle(self._ask)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, self._ask if self.requested else handler)

    def _ask(self, *_: object) -> None:
        if self.requested:
            os._exit(self._code)  # without a look back: what is on disk is whole at any moment
        self.requested = True


def _handle(handler: Callable[[int, FrameType | None], object]) -> dict[signal.Signals, Any]:
    """Sets the handler of both signals; what was set before."""
    return {number: signal.signal(number, handler) for number in _SIGNALS}
