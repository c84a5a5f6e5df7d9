"""SIGINT and SIGTERM ask for a stop; they tear nothing apart. A second one ends the process at once."""

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
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


def run_child(command: Sequence[str]) -> tuple[int, bool]:
    """Runs a command that ends by itself on a signal, and passes each signal on to it.

    Returns its exit code, 128 + N where signal N ended it, as shells say; and whether a signal came meanwhile.
    """
    received: list[int] = []
    children: list[subprocess.Popen[bytes]] = []

    def pass_on(number: int, _: FrameType | None) -> None:
        received.append(number)
        for child in children:
            child.send_signal(number)

    libc = ctypes.CDLL(None) if sys.platform == "linux" else None

    def end_with_parent() -> None:
        if libc is not None:
            libc.prctl(1, int(signal.SIGTERM))  # PR_SET_PDEATHSIG: where the parent is killed, the child saves and ends

    before = _handle(pass_on)
    try:
        with warnings.catch_warnings(action="ignore"):  # of threads, which hold no lock that is needed until the exec
            # in a group of its own: Ctrl-C in a terminal reaches the child once, from here
            child = subprocess.Popen(command, stdin=subprocess.DEVNULL, process_group=0, preexec_fn=end_with_parent)
        with child:
            children.append(child)
            if received:  # before there was a child to pass it on to
                child.send_signal(received[0])
            code = child.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return code if code >= 0 else 128 - code, bool(received)


def _handle(handler: Callable[[int, FrameType | None], object]) -> dict[signal.Signals, Any]:
    """Sets the handler of both signals; what was set before."""
    return {number: signal.signal(number, handler) for number in _SIGNALS}
