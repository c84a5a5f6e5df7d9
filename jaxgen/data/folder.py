"""Any folder of sound, with fields from a manifest or from the file names."""

import dataclasses
import functools
import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, NoReturn

from jaxgen import audio, remote
from jaxgen.data import manifest, pattern
from jaxgen.data.clips import Clip, Dataset, HashFraction, Split, SplitRule, stated_split
from jaxgen.data.tree import as_spelt, readable, walk
from jaxgen.errors import UserError
from jaxgen.files import LeavesFolder, cause, inside, open_regular
from jaxgen.remote import is_remote

_SUFFIXES = ".wav, .flac, .ogg or .mp3"


@dataclasses.dataclass(frozen=True)
class Folder(Dataset):
    """Audio files below a folder.

    `manifest.csv` or `manifest.jsonl` in the folder, where there is one, names the files (column `path`) and their
    fields (all other columns); else every audio file counts. A column `split` (train, validation, test) goes before the
    rules, a column `licence` before the option.
    """

    root: str = ""
    """Folder of .wav, .flac, .ogg or .mp3 files, nested or not, also in an object store (s3://..., gs://...)."""
    pattern: str | None = None
    """Fields in the file names, as {digit}_{speaker}_{index}; with a slash it describes the path below the root."""
    unmatched: Literal["refuse", "unlabelled"] = "refuse"
    """Files whose names do not match the pattern: refuse them, or take them without these fields."""
    outside: bool = False
    """Whether a manifest may name files outside the folder, by absolute paths or `..`."""
    validation: SplitRule = HashFraction(0.1)
    """Which clips are for validation."""
    test: SplitRule | None = None
    """Which clips are for the test."""
    licence: str = "not stated"
    """Licence of the recordings."""

    def is_split_by_hash(self, fields: Mapping[str, str]) -> bool:
        return isinstance(self.validation, HashFraction) and not fields.get("split")

    def left_out(self) -> list[tuple[str, str]]:
        root = Path(self.root)
        tree, found = walk(root), manifest.find(root)
        named = None if found is None else self._rows(root)
        others = [
            (name, "not an audio file" if not _is_audio(name) else "not named in the manifest")
            for name in tree.files
            if name != (found and found.name) and (not _is_audio(name) if named is None else name not in named)
        ]
        return [(readable(name), reason) for name, reason in [*tree.left_out, *others]]

    def fetched(self, cache_dir: str | Path) -> "Folder":
        return dataclasses.replace(self, root=fetched_root(self.root, cache_dir))

    def clips(self) -> list[Clip]:
        root = Path(self.root)
        if not self.root or not os.path.isdir(root):
            raise UserError(f"no folder '{self.root}'. Pass --data.root a folder with {_SUFFIXES} files.")
        return [self._clip(root, name, fields) for name, fields in self._rows(root).items()]

    def split_of(self, fields: Mapping[str, str], digest: str) -> Split:
        if fields.get("split"):
            return stated_split(fields["split"], fields.get("path", "a clip"))
        if self.test is not None and self.test.holds(fields, digest):
            return "test"
        return "validation" if self._validation.holds(fields, digest) else "train"

    @functools.cached_property
    def _validation(self) -> SplitRule:
        return self.validation if self.test is None else self.validation.after(self.test)

    def _rows(self, root: Path) -> dict[str, dict[str, str]]:
        """The fields that a manifest gives of each file, by its name below the root. Raises UserError without a file."""
        if (found := manifest.find(root)) is not None:
            rows = manifest.read(found)
            spelt = as_spelt(rows, root)
            if len(located := {spelt.get(name, name): fields for name, fields in rows.items()}) < len(rows):
                raise UserError(f"{found} names a file twice, in two spellings of its accents; remove one.")
            return located
        try:
            tree = walk(root)
        except OSError as error:
            raise UserError(f"the folder '{root}' cannot be read ({cause(error)}); see --data.root.") from None
        rows = {name: {} for name in tree.files if _is_audio(name)}
        if not rows:
            others = "".join(f", {readable(name)}: {reason}" for name, reason in tree.left_out[:3])
            raise UserError(
                f"no audio in '{root}' ({len(tree.files)} files, none with a suffix of audio{others}). "
                f"Pass --data.root a folder with {_SUFFIXES} files."
            )
        return rows

    def _clip(self, root: Path, name: str, fields: dict[str, str]) -> Clip:
        shown = readable(name)
        found = {} if self.pattern is None else pattern.compiled(self.pattern).fields(shown)
        licence = fields.get("licence") or self.licence
        fields = {**(found or {}), **fields, "licence": licence}
        unnamed = found is None and self.unmatched == "refuse"
        try:
            path = root / name if self.outside else inside(root, name)
        except LeavesFolder:
            return _refused(shown, fields, "outside the folder; --data.outside takes it")
        return Clip(
            shown,
            fields,
            open=functools.partial(audio.opened, path),
            digest=functools.partial(_digest, path),
            stamp=_stamp(path),
            refused=f"name is not {self.pattern}" if unnamed else "",
        )


def _refused(name: str, fields: Mapping[str, str], reason: str) -> Clip:
    """A clip of whose file nothing is touched."""

    def unopened() -> NoReturn:
        raise audio.AudioError(reason)

    identity = f"{name}: {reason}"
    return Clip(
        name,
        fields,
        open=unopened,
        digest=lambda: hashlib.sha256(identity.encode()).hexdigest(),
        stamp=identity,
        refused=reason,
    )


def fetched_root(root: str, cache_dir: str | Path) -> str:
    """The folder of recordings on this machine; what is in an object store is copied there, as far as it is audio."""
    if not is_remote(root):
        return root
    return str(remote.fetched(root, cache_dir, lambda name: name in manifest.NAMES or _is_audio(name)))


def _digest(path: Path) -> str:
    try:
        with open_regular(path) as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        return hashlib.sha256(
            f"{path.name}: {error.strerror}".encode(errors="surrogateescape")
        ).hexdigest()  # `load` says what is wrong


def _stamp(path: Path) -> str:
    try:
        status = path.stat()
    except OSError:
        return ""
    return f"{path.absolute()} {status.st_ino} {status.st_size} {status.st_mtime_ns} {status.st_ctime_ns}"


def _is_audio(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in audio.AUDIO_SUFFIXES
