"""The one exception that carries a user's mistake to the entry point, and the exit codes."""

import enum
import os
import signal
import sys
from collections.abc import Callable


class UserError(Exception):
    """A mistake the user can mend. Its text is the whole message: what was got, what was expected, what to change."""


class Diverged(Exception):
    """Training cannot go on: the loss or a gradient is not finite."""


class Preempted(KeyboardInterrupt):
    """A signal asked training to stop; the same command goes on."""


class ExitCode(enum.IntEnum):
    """What a jaxgen command tells the shell. 75 and 76 are `sysexits.h` EX_TEMPFAIL and its neighbour; 130 is
    what shells say of Ctrl-C."""

    DONE = 0
    BAD_INPUT = 2
    PREEMPTED = 75
    DIVERGED = 76
    INTERRUPTED = 130


def run(main: Callable[[], int | None]) -> None:
    """Runs an entry point: a `UserError` becomes one line on stderr and exit code 2, anything else is our bug.

    A signal that comes after the end of `main` ends the process at once, with the code that it has earned.
    """
    try:
        code = main()
    except UserError as error:
        print(f"jaxgen: {printable(str(error))}", file=sys.stderr)
        code = ExitCode.BAD_INPUT
    except Diverged as error:
        print(f"jaxgen: {printable(str(error))}", file=sys.stderr)
        code = ExitCode.DIVERGED
    except Preempted as stop:
        print(f"\njaxgen: stopped by {stop}; the same command goes on.", file=sys.stderr)
        code = ExitCode.PREEMPTED
    except KeyboardInterrupt:
        print("\njaxgen: interrupted", file=sys.stderr)
        code = ExitCode.INTERRUPTED
    for number in (signal.SIGINT, signal.SIGTERM):  # one that comes now would tear the interpreter's end apart
        signal.signal(number, lambda *_: os._exit(int(code or 0)))
    sys.exit(int(code or 0))


def printable(text: str) -> str:
    """The text on one line that any terminal takes: file names and manifests may hold anything."""
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text)
