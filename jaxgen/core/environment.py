"""What surrounds a command: its streams, the variables and limits that it is started with, and the errors they cause."""

import codecs
import contextlib
import errno
import io
import mmap
import os
import re
import sys
import threading
import warnings
from collections.abc import Iterator
from importlib.machinery import PathFinder
from typing import Any

_ADDRESSES = 2_200 << 20  # bytes that libraries and XLA map before anything is computed; few of them are ever used
_NARROWEST = 40  # columns of text
_THREADS = 40  # of a training, beside three for each core
_MEMORY = re.compile(r"RESOURCE_EXHAUSTED|bad_alloc|out of memory|cannot allocate memory|failed to map", re.IGNORECASE)
_THREAD = re.compile(r"can't start new thread|pthread_create|Resource temporarily unavailable")
_OF_JAX = re.compile(r"jax_\w+", re.IGNORECASE)


class BadVariable(ValueError):
    """An environment variable holds what cannot be used; the text says which, and what to do."""


class _Droppable(io.FileIO):
    """A stream that drops what cannot be written: its reader has gone, or its disk is full."""

    _told = False

    def write(self, data: Any) -> int:
        """Bytes written, or dropped."""
        try:
            return super().write(data)
        except OSError as error:
            if not self._told and error.errno != errno.EPIPE and self.fileno() != 2:
                self._told = True
                print(f"jaxgen: what goes to stdout is lost ({error.strerror})", file=sys.stderr)
            return memoryview(data).nbytes


def open_streams() -> None:
    """Makes stdout and stderr such that no write to them fails.

    What their encoding lacks is written with backslashes. One that is closed is opened, for nobody to read: else the
    next file that is opened would take its place, and what is printed.
    """
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest descriptor that is free
    for descriptor, name in ((1, "stdout"), (2, "stderr")):
        stream = getattr(sys, name)
        buffer = getattr(stream, "buffer", None)
        if stream is not getattr(sys, f"__{name}__") or isinstance(getattr(buffer, "raw", buffer), _Droppable):
            continue  # somebody else's, or done before
        raw, unbuffered = _Droppable(descriptor, "w", closefd=False), getattr(stream, "write_through", False)
        opened = io.TextIOWrapper(
            raw if unbuffered else io.BufferedWriter(raw),
            encoding=getattr(stream, "encoding", "utf-8"),
            errors="backslashreplace",
            line_buffering=getattr(stream, "line_buffering", False),
            write_through=unbuffered,
        )
        for place in (name, f"__{name}__"):
            setattr(sys, place, opened)
    if (columns := os.environ.get("COLUMNS", "")).isdecimal() and 0 < int(columns) < _NARROWEST:
        os.environ["COLUMNS"] = str(_NARROWEST)  # tyro needs minutes to lay out --help in one or two


def check_cache() -> None:
    """Raises BadVariable where JAX_COMPILATION_CACHE_DIR cannot be written to: jax would say so for each program.

    `~` at its start is written out, which jax does not do.
    """
    folder = os.path.expanduser(os.environ.get("JAX_COMPILATION_CACHE_DIR", ""))
    if not folder or "://" in folder:
        return
    os.environ["JAX_COMPILATION_CACHE_DIR"] = folder
    with contextlib.suppress(OSError):
        os.makedirs(folder, exist_ok=True)
    if not os.access(folder, os.W_OK | os.X_OK):
        raise BadVariable(
            f"JAX_COMPILATION_CACHE_DIR is '{folder}', which cannot be written to; change or unset the variable."
        )


def check_flags() -> None:
    """Raises BadVariable where XLA would abort because of XLA_FLAGS: a child process tries it, in some 10 ms."""
    flags = os.environ.get("XLA_FLAGS")
    if not flags or not hasattr(os, "fork"):
        return
    from jaxlib import xla_client

    reading, writing = os.pipe()
    with warnings.catch_warnings(action="ignore"):  # of threads, of which numpy alone has any
        child = os.fork()
    if child == 0:
        os.dup2(writing, 2)
        xla_client.CompileOptions()  # reads them
        os._exit(0)
    os.close(writing)
    with open(reading, encoding="utf-8", errors="replace") as pipe:
        said = pipe.read()
    if os.waitpid(child, 0)[1]:
        why = said.partition("] ")[2].partition("\n")[0]
        raise BadVariable(f"XLA_FLAGS is '{flags}', which XLA does not take ({why}); change or unset the variable.")


def check_limits() -> None:
    """Raises what `reason` explains where there is less room for threads and addresses than XLA aborts without."""
    mmap.mmap(-1, _ADDRESSES, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, prot=mmap.PROT_READ).close()
    held, over = [], threading.Event()
    try:
        for _ in range(_THREADS + 3 * (os.cpu_count() or 1)):
            thread = threading.Thread(target=over.wait)
            thread.start()
            held.append(thread)
    finally:
        over.set()
        for thread in held:
            thread.join()


def reason(error: BaseException) -> str | None:
    """What is wrong around a command that ended by this error, in a sentence; None where the error may be a bug."""
    cause: BaseException | None = error
    while cause is not None:
        if why := _reason(cause):
            return why
        cause = cause.__cause__ or (None if cause.__suppress_context__ else cause.__context__)
    return _no_device() or _bad_setting(error)


def _reason(error: BaseException) -> str | None:
    text = one_line(error)
    number = error.errno if isinstance(error, OSError) else None
    if isinstance(error, BadVariable):
        return str(error)
    if isinstance(error, MemoryError) or number == errno.ENOMEM or _MEMORY.search(text):
        return (
            f"there is too little memory ({text}). Free some, raise the limit (ulimit -v), or lower what is done at a "
            "time: --train.batch-size or --train.seq-len in training, --batch-size or --seconds in generation, "
            "--num-clips in evaluation."
        )
    if number == errno.EAGAIN or (isinstance(error, RuntimeError) and _THREAD.search(text)):
        return (
            f"this process may not start the threads that it needs ({text}). Raise the limit of processes (ulimit -u, or "
            "of the container) and of memory (ulimit -v)."
        )
    if number in (errno.EMFILE, errno.ENFILE):
        return f"too many files are open ({text}); raise the limit (ulimit -n)."
    if isinstance(error, UnicodeEncodeError) and codecs.lookup(error.encoding) != codecs.lookup("utf-8"):
        return f"the locale's encoding lacks a character of a name ({text}); set PYTHONUTF8=1."
    if isinstance(error, RuntimeError) and "home directory" in text:
        return "this user has no home folder; set HOME to a folder that can be written to, as in HOME=/tmp."
    if isinstance(error, FileNotFoundError) and "temporary directory" in text:
        return f"no temporary folder can be written to ({text}); set TMPDIR to one."
    if isinstance(error, RuntimeError) and "cannot cache function" in text:
        return (
            f"numba finds no folder for what it compiles ({text}); set NUMBA_CACHE_DIR to one that can be written to."
        )
    if isinstance(error, ImportError | AttributeError) and (hiding := next(_hiding(text), None)):
        return f"'{hiding}' hides a module of the same name that is needed ({text}); rename it, or start elsewhere."
    return None


def one_line(error: BaseException) -> str:
    """What an error says, on one line of at most 200 characters; of one that says nothing, its class."""
    return " ".join(str(error).split())[:200].rstrip(".") or type(error).__name__


def _bad_setting(error: BaseException) -> str | None:
    """What is wrong where an error names a setting of jax that comes from a variable."""
    for name in map(str.upper, _OF_JAX.findall(str(error).replace(".", "_"))):
        if name in os.environ:
            value = os.environ[name]
            return f"{name} is '{value}', which jax does not take ({one_line(error)}); change or unset the variable."
    return None


def _hiding(text: str) -> Iterator[str]:
    """Files of modules that the text names, imported from the folder of the command though there are others so named."""
    folder = sys.path[0] if sys.path else ""
    for name, module in list(sys.modules.items()):
        path = getattr(module, "__file__", None)
        if path and f"'{name}'" in text:
            inside = os.path.abspath(path).startswith(os.path.join(os.path.abspath(folder), ""))
            if inside and (name in sys.stdlib_module_names or PathFinder.find_spec(name, sys.path[1:])):
                yield path


def _no_device() -> str | None:
    """What is wrong where JAX_PLATFORMS names no device that there is."""
    jax: Any = sys.modules.get("jax")
    asked = os.environ.get("JAX_PLATFORMS")
    if not asked or not hasattr(jax, "devices"):
        return None
    try:
        jax.devices()
        return None
    except Exception as error:
        why = "" if isinstance(error, AssertionError) else f" ({one_line(error)})"
    there = "nothing"
    with contextlib.suppress(Exception):
        jax.config.update("jax_platforms", "")
        there = ", ".join(sorted({device.platform for device in jax.devices()}))
    return f"JAX_PLATFORMS is '{asked}', but here is only {there}{why}. Change or unset the variable."
