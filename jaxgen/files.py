"""Files that are whole or absent, and one clear line where they cannot be written."""

import contextlib
import errno
import fcntl
import io
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from jaxgen.errors import UserError


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turns a full disk or a read-only folder into a `UserError` about `path`."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"cannot write to '{path}' ({error.strerror or error}); free space, or choose another folder."
        ) from None


def write_whole(path: Path, content: str | bytes) -> None:
    """Writes a file that is either whole or as it was before; text as UTF-8.

    Raises UserError where it cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with writing(path):
        try:
            temporary.write_bytes(content.encode() if isinstance(content, str) else content)
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)


def append_whole(file: io.FileIO, content: bytes) -> None:
    """Appends to an unbuffered file all of it or nothing. Raises OSError where there is no room."""
    before = os.fstat(file.fileno()).st_size
    try:
        if (file.write(content) or 0) < len(content):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    except OSError:
        file.truncate(before)
        raise


@contextlib.contextmanager
def unfinished(parent: Path) -> Iterator[Path]:
    """A new hidden folder in `parent`, to make something in and move it from there when it is whole.

    It is removed in the end, or where this process is killed, by a later call: a folder that no process has locked is
    left over, as locks end with their process.
    """
    parent.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        with _locked(parent):  # nobody takes a folder for left over that is about to be locked
            for left in parent.glob(".*"):
                with contextlib.suppress(OSError), _locked(left, fcntl.LOCK_NB):
                    shutil.rmtree(left)
            folder = Path(tempfile.mkdtemp(prefix=".", dir=parent))
            stack.callback(shutil.rmtree, folder, ignore_errors=True)
            stack.enter_context(_locked(folder))
        yield folder


@contextlib.contextmanager
def _locked(folder: Path, how: int = 0) -> Iterator[None]:
    """Holds the folder's lock; with LOCK_NB raises OSError where another does, or where the file system has no locks."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(*([] if how else [OSError])):
            fcntl.flock(descriptor, fcntl.LOCK_EX | how)
        yield
    finally:
        os.close(descriptor)
