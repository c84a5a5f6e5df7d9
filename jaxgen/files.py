"""Files that are whole or absent, and one clear line where they cannot be written."""

import contextlib
import errno
import io
import os
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
