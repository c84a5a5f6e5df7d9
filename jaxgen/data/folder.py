"""Any folder of sound, with fields from a manifest or from the file names."""

import csv
import dataclasses
import functools
import hashlib
import io
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Literal

from jaxgen import audio, remote
from jaxgen.data.clips import Clip, Dataset, HashFraction, Split, SplitRule, stated_split
from jaxgen.errors import UserError
from jaxgen.files import UserPath
from jaxgen.remote import is_remote

_MANIFESTS = ("manifest.csv", "manifest.jsonl")
_NO_TEXT = re.compile("[\\0\ud800-\udfff]")
_SUFFIXES = ".wav, .flac, .ogg or .mp3"


@dataclasses.dataclass(frozen=True)
class Folder(Dataset):
    """Audio files below a folder.

    `manifest.csv` or `manifest.jsonl` in the folder, where there is one, names the files (column `path`) and their
    fields (all other columns); else every audio file counts. A column `split` (train, validation, test) goes before the
    rules, a column `licence` before the option.
    """

    root: UserPath = ""
    """Folder of .wav, .flac, .ogg or .mp3 files, nested or not, also in an object store (s3://..., gs://...)."""
    pattern: str | None = None
    """Fields in the file names, as {digit}_{speaker}_{index}; with a slash it describes the path below the root."""
    unmatched: Literal["refuse", "unlabelled"] = "refuse"
    """Files whose names do not match the pattern: refuse them, or take them without these fields."""
    validation: SplitRule = HashFraction(0.1)
    """Which clips are for validation."""
    test: SplitRule | None = None
    """Which clips are for the test."""
    licence: str = "not stated"
    """Licence of the recordings."""

    def is_split_by_hash(self, fields: Mapping[str, str]) -> bool:
        return isinstance(self.validation, HashFraction) and not fields.get("split")

    def not_audio(self) -> list[str]:
        root = Path(self.root)
        names = [path.relative_to(root).as_posix() for path in _files(root) if not _is_audio(path)]
        return [name for name in names if name not in _MANIFESTS]

    def fetched(self, cache_dir: str | Path) -> "Folder":
        return dataclasses.replace(self, root=fetched_root(self.root, cache_dir))

    def clips(self) -> list[Clip]:
        root = Path(self.root)
        if not self.root or not root.is_dir():
            raise UserError(f"no folder '{self.root}'. Pass --data.root a folder with {_SUFFIXES} files.")
        manifest = next((root / name for name in _MANIFESTS if (root / name).is_file()), None)
        if manifest is not None:
            rows = dict(_manifest_rows(manifest))
        else:
            files = _files(root)
            rows = {path.relative_to(root).as_posix(): {} for path in files if _is_audio(path)}
            if not rows:
                raise UserError(
                    f"no audio in '{root}' ({len(files)} files, none with a suffix of audio). "
                    f"Pass --data.root a folder with {_SUFFIXES} files."
                )
        return [self._clip(root, name, fields) for name, fields in rows.items()]

    def split_of(self, fields: Mapping[str, str], digest: str) -> Split:
        if fields.get("split"):
            return stated_split(fields["split"], fields.get("path", "a clip"))
        if self.test is not None and self.test.holds(fields, digest):
            return "test"
        return "validation" if self.validation.holds(fields, digest) else "train"

    def _clip(self, root: Path, name: str, fields: dict[str, str]) -> Clip:
        path = root / name
        found = {} if self.pattern is None else _fields_of(self.pattern, name)
        licence = fields.get("licence") or self.licence
        return Clip(
            name,
            {**(found or {}), **fields, "licence": licence},
            open=functools.partial(audio.opened, path),
            digest=functools.partial(_digest, path),
            stamp=_stamp(path),
            refused="" if found is not None or self.unmatched == "unlabelled" else f"name is not {self.pattern}",
        )


def fetched_root(root: str, cache_dir: str | Path) -> str:
    """The folder of recordings on this machine; what is in an object store is copied there, as far as it is audio."""
    if not is_remote(root):
        return root
    return str(remote.fetched(root, cache_dir, lambda name: name in _MANIFESTS or _is_audio(Path(name))))


def _fields_of(pattern: str, name: str) -> dict[str, str] | None:
    """The fields of a file name, or None where the pattern does not match it."""
    subject = name.rsplit(".", 1)[0]
    if "/" not in pattern:
        subject = subject.rsplit("/", 1)[-1]
    match = _compiled(pattern).fullmatch(subject)
    return None if match is None else match.groupdict()


@functools.lru_cache
def _compiled(pattern: str) -> re.Pattern[str]:
    """`{name}` matches anything but a slash; all else stands for itself. Raises UserError for a name used twice."""
    pieces = re.split(r"\{(\w+)\}", pattern)
    expression = "".join(f"(?P<{p}>[^/]+?)" if i % 2 else re.escape(p) for i, p in enumerate(pieces))
    try:
        return re.compile(expression)
    except re.error as error:
        raise UserError(
            f"data.pattern is '{pattern}', which cannot be used ({error}); write {{name}} for each field."
        ) from None


def _digest(path: Path) -> str:
    try:
        with path.open("rb") as file:
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


def _files(root: Path) -> list[Path]:
    return sorted(path for path in root.rglob("*") if path.is_file() and not _hidden(path, root))


def _is_audio(path: Path) -> bool:
    return path.suffix.lower() in audio.AUDIO_SUFFIXES


def _hidden(path: Path, root: Path) -> bool:
    return any(part.startswith(".") for part in path.relative_to(root).parts)


def _manifest_rows(manifest: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """(path, other fields) of each row. Raises UserError for a row without a path, or that cannot be parsed."""
    try:
        text = manifest.read_bytes().decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{manifest} cannot be read as UTF-8 text ({error}).") from None
    rows = _csv_rows(text, manifest) if manifest.suffix == ".csv" else _json_rows(text, manifest)
    seen: set[str] = set()
    for line, row in rows:
        path = row.pop("path", "")
        if not path or path in seen:
            problem = "repeats the path of an earlier line" if path else "has no `path`"
            raise UserError(f"{manifest}, line {line} {problem}; each line names one audio file below the folder.")
        if _NO_TEXT.search("".join([path, *row, *row.values()])):
            raise UserError(f"{manifest}, line {line} holds a character that stands in no text (NUL or half a pair).")
        seen.add(path)
        if row.get("split"):
            stated_split(row["split"], path)
        yield path, row
    if not seen:
        raise UserError(f"{manifest} names no file; it needs a column `path`.")


def _csv_rows(text: str, manifest: Path) -> Iterator[tuple[int, dict[str, str]]]:
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        columns = [name.strip() for name in next(reader, [])]
        for row in reader:
            if row and len(row) != len(columns):
                raise UserError(
                    f"{manifest}, line {reader.line_num} has {len(row)} cells, expected {len(columns)} "
                    f"({', '.join(columns)}); put a cell that holds a comma in double quotes."
                )
            if row:
                yield reader.line_num, {name: cell.strip() for name, cell in zip(columns, row, strict=True)}
    except csv.Error as error:
        raise UserError(f"{manifest}, line {reader.line_num} is not CSV ({error}).") from None


def _json_rows(text: str, manifest: Path) -> Iterator[tuple[int, dict[str, str]]]:
    for line, content in enumerate(text.split("\n"), start=1):
        if content.strip():
            try:
                row = json.loads(content)
            except (
                ValueError,
                RecursionError,
            ) as error:  # of its syntax, a number of thousands of digits, or its depth
                raise UserError(f"{manifest}, line {line} is not JSON ({error}).") from None
            if not isinstance(row, dict) or not isinstance(row.get("path", ""), str):
                raise UserError(f'{manifest}, line {line} is not a JSON object {{"path": "a/b.wav", ...}}.')
            yield line, {key: "" if value is None else str(value) for key, value in row.items()}
