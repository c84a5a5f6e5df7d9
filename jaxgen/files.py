"""Files that are whole or absent, and one clear line where they cannot be written."""

import contextlib
import errno
import io
import os
import shutil
import stat
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path, PurePath

from jaxgen.errors import UserError


class LeavesFolder(UserError):
    """A name from outside would lead out of its folder."""


def inside(folder: Path, name: str) -> Path:
    """The path of `name` below `folder`: the only way to join a folder and a name that comes from outside.

    Names come from manifests, object stores, archives and labels. Raises LeavesFolder for one that is absolute, goes
    up, is empty or holds a NUL. Links are not resolved: what a user links into a folder belongs to it.
    """
    path = PurePath(name)
    if not path.parts or path.anchor or ".." in path.parts or "\0" in name:
        raise LeavesFolder(f"the name '{name}' does not stay inside '{folder}'; give a path below that folder.")
    return folder / path


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
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")  # containers' process numbers are alike
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
        with contextlib.suppress(OSError):
            file.truncate(before)
        raise


@contextlib.contextmanager
def unfinished(parent: Path) -> Iterator[Path]:
    """A new hidden folder in `parent`, to make something in and move it from there when it is whole.

    It is removed in the end, or where this process is killed, by a later call: its lock ends with the process, and a
    hidden folder that nobody has locked is left over.
    """
    import filelock

    parent.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        with filelock.FileLock(parent.with_name(f".{parent.name}.lock")):  # a new folder is not locked at once
            for left in parent.glob(".*"):
                with contextlib.suppress(OSError, filelock.Timeout), filelock.FileLock(left / ".lock", timeout=0):
                    shutil.rmtree(left)
            folder = Path(tempfile.mkdtemp(prefix=".", dir=parent))
            stack.callback(shutil.rmtree, folder, ignore_errors=True)
            stack.enter_context(filelock.FileLock(folder / ".lock"))
        yield folder
