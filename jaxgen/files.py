"""Files that are whole or absent, and one clear line where they cannot be written."""

import contextlib
import errno
import io
import os
import shlex
import shutil
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path, PurePath
from typing import Annotated

from jaxgen.errors import UserError

UserPath = Annotated[str, "of a file or folder"]
"""The type of an option that holds a path, or an address in an object store: `~` is written out where it is parsed."""

_UNFINISHED = ".jaxgen-unfinished-"
_LONGEST_PART = 255  # bytes between two slashes, on all usual file systems
_LONGEST_MADE = 120  # bytes of a name made of a text: suffixes fit, and file systems that encrypt names take 143
_UNNAMEABLE = frozenset('/\\:*?"<>|')  # what a file's name may not hold on every system


class LeavesFolder(UserError):
    """A name from outside is no path below its folder."""


def inside(folder: Path, name: str) -> Path:
    """The path of `name` below `folder`: the only way to join a folder and a name that comes from outside.

    Names come from manifests, object stores, archives and labels. Raises LeavesFolder for one that is absolute, goes
    up, is empty, or that no file can have: with a NUL, half a character, or a part of more than 255 bytes. Links are not
    resolved: what a user links into a folder belongs to it.
    """
    path = PurePath(name)
    if not path.parts or path.anchor or ".." in path.parts or "\0" in name:
        raise LeavesFolder(f"the name '{name[:200]}' does not stay inside '{folder}'; give a path below that folder.")
    try:
        longest = max(len(os.fsencode(part)) for part in path.parts)
    except UnicodeEncodeError:
        raise LeavesFolder(f"the name '{name[:200]}' cannot be a file's on this system; rename it.") from None
    if longest > _LONGEST_PART:
        raise LeavesFolder(f"the name '{name[:200]}' has a part of {longest} bytes; a file's may have {_LONGEST_PART}.")
    return folder / path


def file_name(text: str) -> str:
    """A name of a file or folder, of at most 120 bytes, that every system takes: as like `text` as can be, never empty.

    Texts that differ may have one name.
    """
    encoding = sys.getfilesystemencoding()
    known = text.encode(encoding, "replace").decode(encoding)
    safe = "".join("-" if sign in _UNNAMEABLE or not sign.isprintable() else sign for sign in known)
    return safe.encode()[:_LONGEST_MADE].decode(errors="ignore").strip(". ") or "-"


def expand(path: str | Path) -> str:
    """The path with `~` or `~name` at its start written out. Raises UserError where that home folder is not known."""
    path = os.fspath(path)
    expanded = os.path.expanduser(path)
    if path.startswith("~") and (os.environ.get("HOME") == "" or not os.path.isabs(expanded)):
        raise UserError(
            f"the home folder of '{path}' is not known; set HOME, or write the path out ('./{path}' is a folder of that name)."
        )
    return expanded


def quoted(path: str | Path) -> str:
    """The path as a word of a printed command, which a shell and our options read as this path again."""
    path = os.fspath(path)
    return shlex.quote(f"./{path}" if path.startswith(("-", "~")) else path)


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
    """Writes a file that is either whole or as it was before; text as UTF-8, with "?" for half a character.

    Raises UserError where it cannot be written.
    """
    temporary = path.with_name(f".{uuid.uuid4().hex}.tmp")  # containers' process numbers are alike
    with writing(path):
        try:
            temporary.write_bytes(content.encode(errors="replace") if isinstance(content, str) else content)
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
    """A new hidden folder in `parent`, which it makes, to make something in and move it from there when it is whole.

    It is removed in the end, or where this process is killed, by a later call: its lock ends with the process, and such a
    folder that nobody has locked is left over. Raises UserError where it cannot be made.
    """
    import filelock

    with contextlib.ExitStack() as stack:
        with writing(parent):
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
