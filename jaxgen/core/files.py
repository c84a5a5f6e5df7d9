"""Files that are whole or absent, and one clear line where they cannot be written."""

import contextlib
import errno
import hashlib
import io
import os
import shutil
import stat
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from jaxgen.core.errors import TryAgain, UserError

T = TypeVar("T")

_OF_THE_FILE = frozenset(
    {
        errno.ENOENT,
        errno.ENOTDIR,
        errno.EISDIR,
        errno.EACCES,
        errno.EPERM,
        errno.ELOOP,
        errno.ENAMETOOLONG,
        errno.EINVAL,
    }
)
"""Errors that say something of a file itself; all others are the machine's or the network's, and may pass."""
_WAITS = (0.05, 0.25, 1.0)  # seconds before reading is tried again

_UNFINISHED = ".jaxgen-unfinished-"

_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def open_regular(path: str | Path) -> io.BufferedReader:
    """Opens a regular file for reading. Raises OSError for anything else: a pipe would wait, a device may never end."""
    _check_regular(os.stat(path), path)  # merely opening a device may do something
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    try:
        _check_regular(os.fstat(descriptor), path)  # it may have been replaced in between
        return os.fdopen(descriptor, "rb")
    except OSError:
        os.close(descriptor)
        raise


def _check_regular(status: os.stat_result, path: str | Path) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, f"{file_kind(status.st_mode)}, not a regular file", str(path))


def file_kind(mode: int) -> str:
    """What a `st_mode` stands for, in words."""
    return _KINDS.get(stat.S_IFMT(mode), "something special")


def cause(error: OSError) -> str:
    """What the operating system says, to be read inside a sentence: "permission denied"."""
    text = error.strerror or str(error)
    return text[:1].lower() + text[1:]


@contextlib.contextmanager
def explain_write_errors(path: Path) -> Iterator[None]:
    """Turns a full disk or a read-only folder into a `UserError` about `path`."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"cannot write to '{path}' ({error.strerror or error}); free space, or choose another folder."
        ) from None


def write_atomic(path: Path, content: str | bytes) -> None:
    """Writes a file that is either whole or as it was before; text as UTF-8, with "?" for a lone surrogate.

    Raises UserError where it cannot be written.
    """
    temporary = path.with_name(f".{uuid.uuid4().hex}.tmp")  # containers' process numbers are alike
    with explain_write_errors(path):
        try:
            temporary.write_bytes(content.encode(errors="replace") if isinstance(content, str) else content)
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)


def retry_read(path: str | Path, read: Callable[[], T]) -> T:
    """What `read` gives, which is tried a few times: one error of a disk or a network says nothing of the file.

    Raises the OSError where it is of the file itself: absent, a folder, not permitted. Raises TryAgain where another one
    does not pass.
    """
    waits = iter(_WAITS)
    while True:
        try:
            return read()
        except OSError as error:
            if error.errno in _OF_THE_FILE:
                raise
            if (wait := next(waits, None)) is None:
                raise TryAgain(
                    f"cannot read '{path}' ({error.strerror or error}). Run the same command again; where that does not "
                    "help, mend the disk, or move the file away."
                ) from None
        time.sleep(wait)


def read_regular(path: str | Path) -> bytes:
    """All of a regular file, read as `retry_read` does. Raises OSError for anything else, TryAgain where it may pass."""

    def read() -> bytes:
        with open_regular(path) as file:
            return file.read()

    return retry_read(path, read)


class Corrupt(UserError):
    """A file that jaxgen wrote holds something else now."""


def write_checksummed(path: Path, content: str | bytes) -> None:
    """As `write_atomic`, with a last line that is the SHA-256 of all before it: `read_checksummed` checks and removes it."""
    write_atomic(path, _with_checksum(content.encode() if isinstance(content, str) else content))


def read_checksummed(path: Path) -> bytes:
    """The content that `write_checksummed` wrote.

    Raises FileNotFoundError where there is none, Corrupt where the file holds anything else, and another UserError where
    it cannot be read.
    """
    try:
        whole = read_regular(path)
    except (FileNotFoundError, NotADirectoryError):
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path)) from None
    except OSError as error:
        raise read_error(path, error) from None
    content = whole[: -len(_with_checksum(b""))]
    if whole != _with_checksum(content):
        raise Corrupt(f"'{path}' is not what was written there")
    return content


def read_error(path: Path, error: OSError) -> UserError:
    """Says that a file of a cache is there, but not for this user."""
    return UserError(
        f"cannot read '{path}' ({error.strerror or error}); make it readable, remove it, or pass another --cache-dir."
    )


def _with_checksum(content: bytes) -> bytes:
    return content + f"\n{hashlib.sha256(content).hexdigest()}\n".encode()


def append_atomic(file: io.FileIO, content: bytes) -> None:
    """Appends to an unbuffered file all of it or nothing. Raises OSError where there is no room."""
    before = os.fstat(file.fileno()).st_size
    try:
        if (file.write(content) or 0) < len(content):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    except OSError:
        with contextlib.suppress(OSError):
            file.truncate(before)
        raise


@contextlib.contextmanager
def partial_folder(parent: Path) -> Iterator[Path]:
    """A new hidden folder in `parent`, which it makes, to make something in and move it from there when it is whole.

    It is removed in the end, or where this process is killed, by a later call: its lock ends with the process, and such a
    folder that nobody has locked is left over. Raises UserError where it cannot be made.
    """
    import filelock

    with contextlib.ExitStack() as stack:
        with explain_write_errors(parent):
            parent.mkdir(parents=True, exist_ok=True)
            for left in parent.glob(f"{_UNFINISHED}*"):
                with contextlib.suppress(OSError, filelock.Timeout), filelock.FileLock(left / ".lock", timeout=0):
                    shutil.rmtree(left)
            name = uuid.uuid4().hex
            new, folder = parent / f".jaxgen-new-{name}", parent / f"{_UNFINISHED}{name}"
            new.mkdir()
            stack.callback(shutil.rmtree, folder, ignore_errors=True)
            stack.enter_context(filelock.FileLock(new / ".lock"))
            new.rename(folder)  # only now does it look like one that may be left over
        yield folder
