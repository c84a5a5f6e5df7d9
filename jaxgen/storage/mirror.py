"""A folder that is a local copy of one in an object store.

Programs read and write plain files; the copy is brought up to date when they start, and what changed is uploaded as
whole objects. A checkpoint is uploaded as a whole: an empty object `checkpoints/N.whole` is written after all others of
`checkpoints/N/` and removed before them. What has none, from an upload that was interrupted, counts for nothing.
"""

import concurrent.futures
import contextlib
import hashlib
import json
import os
import re
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Set
from pathlib import Path, PurePosixPath
from typing import Any

from tqdm import tqdm

from jaxgen.core.errors import UserError, printable
from jaxgen.core.files import explain_write_errors, write_atomic
from jaxgen.core.names import LeavesFolder, expand, file_name, join_inside
from jaxgen.storage.lease import hold_lease
from jaxgen.storage.store import Gone, ObjectStore, is_remote

_AT_ONCE = 16  # transfers
_CHECKPOINT = re.compile(r"(checkpoints/\d+)/")
_BEING_WRITTEN = re.compile(r"checkpoints/[^/]+\.orbax-checkpoint-tmp")
_WHOLE = ".whole"


def local_folder(path: str, cache_dir: str | Path, use: str = "runs") -> Path:
    """Where the files of a folder are on this machine: there, or for one in an object store in the cache.

    use: those that change the copy and those that only read it have one each.
    """
    if not is_remote(path):
        return Path(path)
    url = path.rstrip("/")
    place = hashlib.sha256(url.encode(errors="backslashreplace")).hexdigest()[:16]
    return Path(expand(cache_dir)) / "remote" / use / place / _folder_name(url)


def fetch(url: str, cache_dir: str | Path, wanted: Callable[[str], bool]) -> Path:
    """A local copy of the wanted files below an address; only what is new or has changed is downloaded.

    Raises UserError where there is none, or the store cannot be reached.
    """
    mirror = Mirror(url, local_folder(url, cache_dir, "data"))
    with mirror.exclusive_lock():
        if not mirror.fetch(lambda name, _: wanted(name)):
            raise UserError(f"nothing to use at '{url}'; check the address.")
    return mirror.folder


@contextlib.contextmanager
def open_run_copy(workdir: str, cache_dir: str | Path, option: str = "--workdir") -> Iterator[Path]:
    """The folder of a run; where that is in an object store, a copy of it, whose new files are uploaded at the end.
    Checkpoints are left alone. Commands on this machine use the copy one after another.

    option: that named it. Raises UserError where there is none, or the store cannot be reached.
    """
    if not is_remote(workdir):
        yield Path(workdir)
        return
    mirror = Mirror(workdir, local_folder(workdir, cache_dir, "copies"))
    with mirror.exclusive_lock():
        if not mirror.fetch():
            raise UserError(f"no run at '{workdir}'. Pass {option} the folder of a run of jaxgen.train.")
        with _at_the_end(mirror.push_files):
            yield mirror.folder


@contextlib.contextmanager
def output_folder(path: str | Path) -> Iterator[Path]:
    """A folder to write into; where `path` is in an object store, a temporary one, whose files are uploaded at the end."""
    if not is_remote(path):
        yield Path(path)
        return
    with tempfile.TemporaryDirectory(prefix="jaxgen-") as temporary:
        mirror = Mirror(str(path), Path(temporary) / _folder_name(str(path)))
        with _at_the_end(mirror.push_files):
            yield mirror.folder


@contextlib.contextmanager
def own_remote_run(workdir: str, cache_dir: str | Path) -> Iterator["Mirror | None"]:
    """While entered, this process alone trains in a run's folder in an object store; the copy is up to date.

    What an earlier process could not upload is uploaded now, unless another machine has trained there meanwhile.

    None for a folder on a disk. Raises TryAgain where another process trains there.
    """
    if not is_remote(workdir):
        yield None
        return
    mirror = Mirror(workdir, local_folder(workdir, cache_dir))
    with hold_lease(mirror.store) as mirror.check:
        if mirror.is_ahead():
            print(f"jaxgen: uploading what '{workdir}' does not have yet of the run on this machine", file=sys.stderr)
            mirror.push()
        mirror.fetch()
        with _at_the_end(mirror.push):
            yield mirror


@contextlib.contextmanager
def _at_the_end(push: Callable[[], None]) -> Iterator[None]:
    """Uploads also what was made until an error, which goes before those of the upload."""
    try:
        yield
    except BaseException:
        with contextlib.suppress(UserError):
            push()
        raise
    push()


def _folder_name(url: str) -> str:
    return file_name(url.rstrip("/").rpartition("/")[2])


def _is_whole(name: str, listed: Iterable[str]) -> bool:
    """Whether a run's object counts: not of a checkpoint that is not whole, nor what says of one that it is."""
    match = _CHECKPOINT.match(name)
    return match[1] + _WHOLE in listed if match else not name.endswith(_WHOLE)


def _is_hidden(name: str) -> bool:
    return any(part.startswith(".") and part.strip(".") for part in name.split("/"))  # .. is not, it leads out


class Mirror:
    """The files below an address, and their copy in `folder`. Names with a part that starts with a dot are not copied."""

    def __init__(self, url: str, folder: Path):
        self.store, self.folder = ObjectStore(url), folder
        self.check: Callable[[], None] = lambda: None
        """Raises UserError where nothing must be uploaded any more."""
        self._told: set[str] = set()
        self._known_path = folder.with_name(f".{folder.name}.json")
        self._known: dict[str, list[Any]] = {}
        """Of files that are the same here and there: what the store tells, and the file's size and time."""
        with contextlib.suppress(OSError, ValueError, AttributeError, TypeError):  # none, or damaged
            known = json.loads(self._known_path.read_text()).items()
            self._known = {name: [told, size, time] for name, (told, size, time) in known}

    @contextlib.contextmanager
    def exclusive_lock(self) -> Iterator[None]:
        """Holds a lock of this folder among the processes of this machine; waits for the process that has it."""
        import filelock

        lock = self.folder.with_name(f".{self.folder.name}.lock")
        with explain_write_errors(lock):
            lock.parent.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(lock):
            yield

    def is_ahead(self) -> bool:
        """Whether the store is as this folder left it, and the folder has changed since."""
        listed, here = self._listed(), self._files()
        told = {name: about[0] for name, about in self._known.items()}
        in_store = {name: about for name, about in listed.items() if _is_whole(name, listed)}
        kept = all(name in here for name in told if not _CHECKPOINT.match(name))  # nobody has emptied it
        return bool(told) and in_store == told and kept and not all(self._is_known(name, here) for name in here)

    def fetch(self, wanted: Callable[[str, Mapping[str, str]], bool] = _is_whole) -> int:
        """Makes the folder hold what the store holds, and nothing else; how many files that is.

        wanted: whether to copy an object, by its name and the list of all; none takes those of a run, but for checkpoints
        that are not whole. Objects whose names no file can have here are left out, which is said. Raises UserError where
        the store cannot be reached or the disk is full.
        """
        try:
            return self._fetch(wanted)
        except Gone:  # removed since it was listed, by the process that trains
            return self._fetch(wanted)

    def push_files(self) -> None:
        """Uploads every file outside of checkpoints that has changed. Raises UserError where that cannot be done."""
        self.check()
        here = self._files()
        changed = [name for name in here if not _CHECKPOINT.match(name) and not self._is_known(name, here)]
        for name in changed:
            with contextlib.suppress(FileNotFoundError):  # replaced or removed meanwhile
                self.store.write(name, (self.folder / name).read_bytes())
        if changed:
            self._remember(changed, here)

    def push(self) -> None:
        """Uploads every file that has changed, then new checkpoints; then removes checkpoints that are no longer here.

        Raises UserError where that cannot be done; what is in the store is a whole run at any moment.
        """
        self.push_files()
        listed, here = self.store.list(), self._files()
        steps_here, steps_there = _by_step(here), _by_step(listed)
        for step, names in steps_here.items():
            if step + _WHOLE not in listed or not all(self._is_known(name, here) for name in names):
                if step + _WHOLE in listed:
                    self.store.remove(step + _WHOLE)
                _in_threads(self._upload, names, "uploading")
                self.check()  # else it might be half of another process's
                self.store.write(step + _WHOLE, b"")
                self._remember(names, here)
        for step in steps_there.keys() - steps_here.keys():
            self.store.remove(step + _WHOLE)
            _in_threads(self.store.remove, steps_there[step], "removing")

    def _fetch(self, wanted: Callable[[str, Mapping[str, str]], bool]) -> int:
        listed = self._listed()
        names = {name for name in listed if wanted(name, listed)}
        with explain_write_errors(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            here = self._files()
            for name in here.keys() - names:
                (self.folder / name).unlink()
        self._remove_empty_folders()  # a file may come in the place of one
        new = [name for name in sorted(names) if not self._is_known(name, here) or self._known[name][0] != listed[name]]
        done: list[str] = []
        try:
            _in_threads(lambda name: done.append(self._download(name)), new, "downloading")
        finally:
            here = self._files()
            self._remember(done, here, listed)
        self._tell_left_out(
            names - here.keys(), "are those of others on this disk, which ignores case; use another cache_dir"
        )
        return len(names)

    def _listed(self) -> dict[str, str]:
        """What the store lists and this disk can hold; the rest, but for hidden names, is told."""
        listed = {name: about for name, about in self.store.list().items() if not _is_hidden(name)}
        usable = {name for name in listed if self._can_hold(name)}
        usable -= {above.as_posix() for name in usable for above in PurePosixPath(name).parents}
        self._tell_left_out(listed.keys() - usable, "cannot be those of files here; rename them")
        return {name: about for name, about in listed.items() if name in usable}

    def _can_hold(self, name: str) -> bool:
        try:
            return join_inside(self.folder, name).relative_to(self.folder).as_posix() == name  # not a//b, which is a/b
        except LeavesFolder:
            return False

    def _tell_left_out(self, names: Set[str], why: str) -> None:
        """Says once of each which names are not copied."""
        if new := sorted(names - self._told):
            self._told |= names
            shown = ", ".join(f"'{name[:100]}'" for name in new[:3]) + (", ..." if len(new) > 3 else "")
            line = (
                f"jaxgen: warning: {len(new)} objects of '{self.store.url}' are left out: their names ({shown}) {why}."
            )
            print(printable(line), file=sys.stderr)

    def _is_known(self, name: str, here: Mapping[str, tuple[int, int]]) -> bool:
        """Whether the file is as it was when it was last the same here and there."""
        return name in here and self._known.get(name, [""])[1:] == list(here[name])

    def _remember(
        self, same: Iterable[str], here: Mapping[str, tuple[int, int]], listed: Mapping[str, str] | None = None
    ) -> None:
        """Notes which files are the same here and there."""
        listed = self.store.list() if listed is None else listed
        self._known |= {name: [listed[name], *here[name]] for name in same if name in listed and name in here}
        self._known = {name: about for name, about in self._known.items() if name in here}
        write_atomic(self._known_path, json.dumps(self._known))

    def _files(self) -> dict[str, tuple[int, int]]:
        """Size and time of change of every file, by name; none of a checkpoint that is being written."""
        found = {}
        for folder, _, files in os.walk(self.folder):
            for path in (Path(folder, name) for name in files):
                name = path.relative_to(self.folder).as_posix()
                if not _is_hidden(name) and not _BEING_WRITTEN.match(name):
                    with contextlib.suppress(FileNotFoundError):
                        found[name] = (path.stat().st_size, path.stat().st_mtime_ns)
        return found

    def _upload(self, name: str) -> None:
        self.store.upload(self.folder / name, name)

    def _download(self, name: str) -> str:
        path = join_inside(self.folder, name)
        partial = path.with_name(f".{hashlib.sha256(name.encode()).hexdigest()[:16]}.tmp")  # short, and its own
        with explain_write_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                self.store.download(name, partial)
                os.replace(partial, path)
            finally:
                partial.unlink(missing_ok=True)
        return name

    def _remove_empty_folders(self) -> None:
        for folder, _, _ in os.walk(self.folder, topdown=False):
            if Path(folder) != self.folder:
                with contextlib.suppress(OSError):
                    os.rmdir(folder)


def _by_step(names: Iterable[str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name in names:
        if match := _CHECKPOINT.match(name):
            found.setdefault(match[1], []).append(name)
    return found


def _in_threads(work: Callable[[str], object], names: list[str], what: str) -> None:
    bar = tqdm(
        total=len(names), unit="file", desc=what, disable=len(names) < 50 or not sys.stderr.isatty(), leave=False
    )
    with bar, concurrent.futures.ThreadPoolExecutor(_AT_ONCE) as pool:
        try:
            for _ in pool.map(work, names):
                bar.update()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
