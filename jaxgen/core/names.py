"""Names of files, folders and labels: what comes from outside stays inside its folder, can be written, and has one spelling."""

import os
import shlex
import sys
import unicodedata
from collections.abc import Iterable
from pathlib import Path, PurePath
from typing import Annotated

import platformdirs

from jaxgen.core.errors import UserError

UserPath = Annotated[str, "of a file or folder"]
"""The type of an option that holds a path, or an address in an object store: `~` is written out where it is parsed."""


def _cache_dir() -> str:
    cache, home = platformdirs.user_cache_dir("jaxgen", appauthor=False), os.path.expanduser("~")
    return f"~{cache.removeprefix(home)}" if cache.startswith(home + os.sep) else cache


CACHE_DIR = _cache_dir()
"""Where caches are unless another place is asked for; the platform's own, on Linux below XDG_CACHE_HOME or ~/.cache."""

_LONGEST_PART = 255  # bytes between two slashes, on all usual file systems
_LONGEST_MADE = 120  # bytes of a name made of a text: suffixes fit, and file systems that encrypt names take 143
_UNNAMEABLE = frozenset('/\\:*?"<>|')  # what a file's name may not hold on every system


class LeavesFolder(UserError):
    """A name from outside is no path below its folder."""


def join_inside(folder: Path, name: str) -> Path:
    """The path of `name` below `folder`: the only way to join a folder and a name that comes from outside.

    Names come from manifests, object stores, archives and labels. Raises LeavesFolder for one that is absolute, goes
    up, is empty, or that no file can have: with a NUL, a lone surrogate, or a part of more than 255 bytes. Links are not
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


def check_no_link_out(folder: Path, names: Iterable[str]) -> None:
    """Raises UserError where something of these names in a folder is a link that leads out of it: what is written there would
    be somewhere else than the folder that was named.
    """
    inside = os.path.join(os.path.realpath(folder), "")
    for name in names:
        path = folder / name
        if path.is_symlink() and not os.path.realpath(path).startswith(inside):
            raise UserError(
                f"'{path}' is a link that leads out of its folder, to '{os.path.realpath(path)}'; put a folder or a file of its "
                "own there, or link the whole folder."
            )


def file_name(text: str) -> str:
    """A name of a file or folder, of at most 120 bytes, that every system takes: as like `text` as can be, never empty.

    Texts that differ may have one name.
    """
    encoding = sys.getfilesystemencoding()
    known = text.encode(encoding, "replace").decode(encoding)
    safe = "".join("-" if sign in _UNNAMEABLE or not sign.isprintable() else sign for sign in known)
    return safe.encode()[:_LONGEST_MADE].decode(errors="ignore").strip(". ") or "-"


def display_name(name: str) -> str:
    r"""A file name as text that stands in JSON and UTF-8: bytes that are no UTF-8 are written out, as in caf\xe9.wav."""
    return name.encode(errors="surrogateescape").decode(errors="backslashreplace")


def normalize(text: str) -> str:
    """One spelling (NFC) for what looks the same: an accent may be a character of its own, as macOS writes it."""
    return unicodedata.normalize("NFC", text)


def expand(path: str | Path) -> str:
    """The path with `~` or `~name` at its start written out. Raises UserError where that home folder is not known."""
    path = os.fspath(path)
    expanded = os.path.expanduser(path)
    if path.startswith("~") and (os.environ.get("HOME") == "" or not os.path.isabs(expanded)):
        raise UserError(
            f"the home folder of '{path}' is not known; set HOME, or write the path out ('./{path}' is a folder of that name)."
        )
    return expanded


def shell_quote(path: str | Path) -> str:
    """The path as a word of a printed command, which a shell and our options read as this path again."""
    path = os.fspath(path)
    return shlex.quote(f"./{path}" if path.startswith(("-", "~")) else path)
