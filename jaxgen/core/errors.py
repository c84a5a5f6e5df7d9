"""The one exception that carries a user's mistake to the entry point, and the exit codes."""

import contextlib
import gc
import logging
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

from jaxgen.core.environment import check_cache, check_flags, check_limits, open_streams, reason
from jaxgen.core.exit_codes import ExitCode as ExitCode

_log = logging.getLogger(__name__)
_LONGEST_LINE = 1_500  # characters
_MOST_SAID = 300  # characters of an error in a line about something else


class UserError(Exception):
    """A mistake the user can mend. Its text is the whole message: what was got, what was expected, what to change."""


class TryAgain(UserError):
    """Something outside that may have passed when the same command is started again."""


class SaveFailed(UserError):
    """A checkpoint could not be written: the disk is full, or not to be written to."""


class Diverged(Exception):
    """Training cannot go on: the loss or a gradient is not finite."""


class Preempted(KeyboardInterrupt):
    """A signal asked training to stop; the same command goes on."""


def begin() -> None:
    """To be called before a command imports anything: what stops it from there on is told in one line, too.

    Raises what `reason` explains where the environment is such that XLA would abort.
    """
    open_streams()
    gc.set_threshold(
        50_000
    )  # imports and tracing make objects that stay: to look at them often takes a tenth of a start
    sys.excepthook = lambda _, error, __: sys.exit(report_error(error))
    check_cache()
    check_flags()
    check_limits()


def run(main: Callable[[], int | None]) -> None:
    """Runs an entry point: a `UserError`, or a mistake of the environment, becomes one line on stderr and exit code 2 (75
    for a `TryAgain`), anything else is our bug.

    A signal that comes after the end of `main` ends the process at once, with the code that it has earned.
    """
    open_streams()
    try:
        code = main()
    except Preempted as stop:
        code = report_error(stop)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)  # threads that compile or import now would crash in the interpreter's end
    except (UserError, Diverged, KeyboardInterrupt) as error:
        code = report_error(error)
    except Exception as error:
        why = reason(error)
        if why is None:
            raise
        code = report_error(UserError(why))
    for number in (signal.SIGINT, signal.SIGTERM):  # one that comes now would tear the interpreter's end apart
        signal.signal(number, lambda *_: os._exit(int(code or 0)))
    sys.exit(int(code or 0))


def report_error(error: BaseException) -> int:
    """Says on stderr what ended a command, in one line unless it is a bug of ours; returns the exit code."""
    if isinstance(error, UserError):
        print(f"jaxgen: {_line(str(error))}", file=sys.stderr)
        return ExitCode.PREEMPTED if isinstance(error, TryAgain) else ExitCode.BAD_INPUT
    if isinstance(error, Diverged):
        print(f"jaxgen: {_line(str(error))}", file=sys.stderr)
        return ExitCode.DIVERGED
    if isinstance(error, Preempted):
        print(f"\njaxgen: stopped by {error}; the same command goes on.", file=sys.stderr)
        return ExitCode.PREEMPTED
    if isinstance(error, KeyboardInterrupt):
        print("\njaxgen: interrupted", file=sys.stderr)
        return ExitCode.INTERRUPTED
    if why := reason(error):
        print(f"jaxgen: {_line(why)}", file=sys.stderr)
        return ExitCode.BAD_INPUT
    traceback.print_exception(error)
    return 1


def say(line: str) -> None:
    """Says something on stderr."""
    print(line, file=sys.stderr)


@contextlib.contextmanager
def tolerate(what: str, then: str, tell: Callable[[str], None] = say) -> Iterator[None]:
    """For decoration, which must not cost a run: what fails within is told in one line, and that is all.

    what: that could not be done; then: what happens instead. The traceback goes to this module's logger, level DEBUG.
    """
    try:
        yield
    except Exception as error:
        tell(f"jaxgen: could not {what} ({_brief(error)}); {then}.")
        _log.debug("could not %s", what, exc_info=True)


def _brief(error: Exception) -> str:
    """What a `UserError` says; of another error also its kind and place."""
    said = printable(next(iter(str(error).strip().splitlines()), ""))[:_MOST_SAID]
    if isinstance(error, UserError):
        return said.rstrip(".")
    place = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}{said and f': {said}'}, {Path(place.filename).name} line {place.lineno}"


def _line(text: str) -> str:
    """What can be read of a message in which a name from outside may be endless: its beginning, and the remedy at its end."""
    if len(text) > _LONGEST_LINE:
        text = f"{text[: _LONGEST_LINE // 2]} ... {text[-_LONGEST_LINE // 2 :]}"
    return printable(text)


def printable(text: str) -> str:
    """The text on one line that any terminal takes: file names and manifests may hold anything."""
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text)
