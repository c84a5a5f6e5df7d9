"""The files below a folder, through links, and what of it was not read and why."""

import collections
import dataclasses
import errno
import json
import os
import stat
from collections.abc import Sequence
from pathlib import Path

from jaxgen.core.files import cause, file_kind, open_regular
from jaxgen.core.names import display_name

_RUN = "config.json"  # of every run's folder, from its first moment
_RUN_CLASSES = ("Config", "jaxgen.config.Config")  # the latter before 0.2.0
_LONGEST_CONFIG = 1 << 20  # bytes
_STAYS = (errno.ENOENT, errno.ENOTDIR, errno.EACCES, errno.EPERM, errno.ELOOP, errno.ENAMETOOLONG)  # of errors


@dataclasses.dataclass(frozen=True)
class Tree:
    """Names are paths below the root, with forward slashes, as the file system spells them."""

    files: Sequence[str]
    """Regular files, in order."""
    skipped: Sequence[tuple[str, str]]
    """(name, reason) of what was not read, of folders as a whole."""


def walk(root: Path) -> Tree:
    """All that is below a folder but what is hidden, and runs of jaxgen, whose clips are no recordings.

    Links are followed once there is nothing else, and each folder is read once: loops end, and no order of links
    changes the name of what is reached without one. Raises OSError where the root itself cannot be read, and for what
    may pass, as a failing disk: to go on would leave out whole classes.
    """
    read: dict[tuple[int, int], str] = {}  # where each folder was read, by its identity
    files: list[str] = []
    skipped: list[tuple[str, str]] = []
    folders, links = [""], collections.deque[str]()
    while folders or links:
        folder = folders.pop() if folders else links.popleft()
        try:
            status = os.stat(root / folder)
            place = read.setdefault((status.st_dev, status.st_ino), folder)
            if place != folder:
                skipped.append((folder, _read_before(folder, place)))
                continue
            with os.scandir(root / folder) as scan:
                entries = sorted(scan, key=lambda entry: entry.name)
        except OSError as error:
            if not folder or error.errno not in _STAYS:
                raise
            skipped.append((folder, cause(error)))
            continue
        if folder and any(entry.name == _RUN and _is_run(entry.path) for entry in entries):
            skipped.append((folder, "a run of jaxgen, not recordings"))
            continue
        for entry in entries:
            name = f"{folder}/{entry.name}" if folder else entry.name
            kind, reason = _kind_of(entry)
            if reason:
                skipped.append((name, reason))
            else:
                {stat.S_IFREG: files, stat.S_IFDIR: folders, stat.S_IFLNK: links}[kind].append(name)
    return Tree(sorted(files, key=_parts), sorted(skipped, key=lambda each: _parts(each[0])))


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
        if error.errno not in _STAYS:
            raise
        return 0, "dangling link" if error.errno == errno.ENOENT and entry.is_symlink() else cause(error)


def _read_before(folder: str, place: str) -> str:
    loop = not place or folder.startswith(f"{place}/")
    return (
        f"link loop (back to '{display_name(place) or '.'}')" if loop else f"read already (as '{display_name(place)}')"
    )


def _is_run(config: str) -> bool:
    """Whether a file is the config of a run."""
    try:
        with open_regular(config) as file:
            content = json.loads(file.read(_LONGEST_CONFIG))
    except (ValueError, RecursionError):
        return False
    except OSError as error:
        if error.errno not in (*_STAYS, errno.EINVAL):  # else what a model made would be taken for recordings
            raise
        return False
    return isinstance(content, dict) and content.get("class") in _RUN_CLASSES


def _parts(name: str) -> list[str]:
    return name.split("/")
