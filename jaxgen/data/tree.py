"""The files below a folder, through links, and what of it was not read and why."""

import collections
import dataclasses
import errno
import json
import os
import stat
import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import Path

from jaxgen.files import cause, file_kind, open_regular

_RUN = "config.json"  # of every run's folder, from its first moment
_RUN_CLASS = "jaxgen.config.Config"
_LONGEST_CONFIG = 1 << 20  # bytes


@dataclasses.dataclass(frozen=True)
class Tree:
    """Names are paths below the root, with forward slashes, as the file system spells them."""

    files: Sequence[str]
    """Regular files, in order."""
    left_out: Sequence[tuple[str, str]]
    """(name, reason) of what was not read, of folders as a whole."""


def walk(root: Path) -> Tree:
    """All that is below a folder but what is hidden, and runs of jaxgen, whose clips are no recordings.

    Links are followed once there is nothing else, and each folder is read once: loops end, and no order of links
    changes the name of what is reached without one. Raises OSError where the root itself cannot be read.
    """
    read: dict[tuple[int, int], str] = {}  # where each folder was read, by its identity
    files: list[str] = []
    left_out: list[tuple[str, str]] = []
    folders, links = [""], collections.deque[str]()
    while folders or links:
        folder = folders.pop() if folders else links.popleft()
        try:
            status = os.stat(root / folder)
            place = read.setdefault((status.st_dev, status.st_ino), folder)
            if place != folder:
                left_out.append((folder, _read_before(folder, place)))
                continue
            with os.scandir(root / folder) as scan:
                entries = sorted(scan, key=lambda entry: entry.name)
        except OSError as error:
            if not folder:
                raise
            left_out.append((folder, cause(error)))
            continue
        if folder and any(entry.name == _RUN and _is_run(entry.path) for entry in entries):
            left_out.append((folder, "a run of jaxgen, not recordings"))
            continue
        for entry in entries:
            name = f"{folder}/{entry.name}" if folder else entry.name
            kind, reason = _kind_of(entry)
            if reason:
                left_out.append((name, reason))
            else:
                {stat.S_IFREG: files, stat.S_IFDIR: folders, stat.S_IFLNK: links}[kind].append(name)
    return Tree(sorted(files, key=_parts), sorted(left_out, key=lambda each: _parts(each[0])))


def _kind_of(entry: os.DirEntry[str]) -> tuple[int, str]:
    """A regular file (S_IFREG), a folder (S_IFDIR) or a link to one (S_IFLNK); or why it is none of them."""
    try:
        if entry.name.startswith("."):
            return 0, "hidden"
        if entry.is_file():
            return stat.S_IFREG, ""
        if entry.is_dir():
            return stat.S_IFLNK if entry.is_symlink() else stat.S_IFDIR, ""
        return 0, f"{file_kind(entry.stat().st_mode)}, not a regular file"
    except OSError as error:
        return 0, "dangling link" if error.errno == errno.ENOENT and entry.is_symlink() else cause(error)


def _read_before(folder: str, place: str) -> str:
    loop = not place or folder.startswith(f"{place}/")
    return f"link loop (back to '{readable(place) or '.'}')" if loop else f"read already (as '{readable(place)}')"


def _is_run(config: str) -> bool:
    """Whether a file is the config of a run."""
    try:
        with open_regular(config) as file:
            content = json.loads(file.read(_LONGEST_CONFIG))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(content, dict) and content.get("class") == _RUN_CLASS


def _parts(name: str) -> list[str]:
    return name.split("/")


def readable(name: str) -> str:
    r"""A file name as text that stands in JSON and UTF-8: bytes that are no UTF-8 are written out, as in caf\xe9.wav."""
    return name.encode(errors="surrogateescape").decode(errors="backslashreplace")


def composed(text: str) -> str:
    """One spelling (NFC) for what looks the same: an accent may be a character of its own, as macOS writes it."""
    return unicodedata.normalize("NFC", text)


def as_spelt(names: Iterable[str], root: Path) -> dict[str, str]:
    """How the folder spells those of the names that it holds only under another spelling of their accents."""
    missing = [name for name in names if not os.path.lexists(root / name)]
    found = {composed(name): name for name in walk(root).files} if missing else {}
    return {name: found[composed(name)] for name in missing if composed(name) in found}
