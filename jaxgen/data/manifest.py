"""Manifests: `manifest.csv` or `manifest.jsonl`, which name the files of a folder and their fields."""

import csv
import io
import json
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from jaxgen import audio
from jaxgen.core.errors import UserError
from jaxgen.core.files import cause, read_regular
from jaxgen.core.names import normalize
from jaxgen.data.clips import canonical_field, parse_split

NAMES = ("manifest.csv", "manifest.jsonl")
"""File names; where a folder holds both, the first is read."""

METADATA = "metadata.csv"
"""A manifest, too, where it has a column `path`, or lines of `id|text` as LJSpeech's."""

_LJSPEECH = ("path", "text", "normalised_text")
_NO_TEXT = re.compile("[\\0\ud800-\udfff]")
_UNSEEN = "\ufeff\u200b\u2060"  # marks that editors leave before the first name
_DELIMITERS = {";": "';'", "\t": "a tab", "|": "'|'"}


def find(root: Path) -> Path | None:
    """The manifest of a folder; None where there is none."""
    known = next((root / name for name in NAMES if os.path.lexists(root / name)), None)
    return known or (root / METADATA if _is_manifest(root / METADATA) else None)


def _is_manifest(metadata: Path) -> bool:
    """Whether a metadata.csv names files: others mean something else by that name."""
    try:
        first = read_regular(metadata).split(b"\n", 1)[0].decode("utf-8-sig", "replace")
    except OSError:
        return False
    return "|" in first or "path" in [name.strip() for name in first.split(",")]


def read(manifest: Path, columns: str = "") -> dict[str, dict[str, str]]:
    """The other fields of each path. Paths are normalised (./a.wav is a.wav), and fields have one spelling (NFC).

    columns: names of the columns of a metadata.csv without a header, as "path,text,seconds"; empty for those of LJSpeech.
    Raises UserError, with the line, for what cannot be parsed, for a row without a path, and for two rows of one path.
    """
    try:
        text = read_regular(manifest).decode("utf-8-sig")
    except OSError as error:
        raise UserError(f"{manifest} cannot be read ({cause(error)}).") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{manifest} cannot be read as UTF-8 text ({error}).") from None
    rows = dict[str, dict[str, str]]()
    for line, cells in _rows(text, manifest, columns):
        row = _named(cells, f"{manifest}, line {line}")
        written = row.pop("path", "")
        path = str(PurePosixPath(written)) if written else ""
        if not path or path in rows:
            problem = "repeats the path of an earlier line" if path else f"has no `path`{_instead(row)}"
            raise UserError(f"{manifest}, line {line} {problem}; each line names one audio file below the folder.")
        if _NO_TEXT.search("".join([path, *row, *row.values()])):
            raise UserError(f"{manifest}, line {line} holds a NUL or a lone surrogate, which are no text.")
        if row.get("split"):
            parse_split(row["split"], path)
        rows[path] = row
    if not rows:
        raise UserError(f"{manifest} names no file; it needs a column `path`.")
    return rows


def _rows(text: str, manifest: Path, columns: str) -> Iterator[tuple[int, list[tuple[str, str]]]]:
    if manifest.suffix != ".csv":
        return _json_rows(text, manifest)
    if manifest.name == METADATA and "|" in text.split("\n", 1)[0]:
        return _bar_rows(text, manifest, [name.strip() for name in columns.split(",")] if columns else [])
    return _csv_rows(text, manifest)


def _bar_rows(text: str, manifest: Path, columns: Sequence[str]) -> Iterator[tuple[int, list[tuple[str, str]]]]:
    """(number of the line, (column, cell) of each column) of lines of `id|text`, without quotes and a header."""
    lines = [
        (number, line.rstrip("\r").split("|")) for number, line in enumerate(text.split("\n"), start=1) if line.strip()
    ]
    names = list(columns) or list(_LJSPEECH[: len(lines[0][1])])
    if not columns and len(lines[0][1]) == 3 and all(_is_number(cells[-1]) for _, cells in lines):
        names[-1] = "seconds"  # as other corpora have it, instead of the text in other words
    for number, cells in lines:
        if len(cells) != len(names):
            raise UserError(
                f"{manifest}, line {number} has {len(cells)} cells between '|', expected {len(names)} ({', '.join(names)}); "
                "mend the line, or name the columns, as in --data.columns path,text,seconds."
            )
        row = [(name, cell.strip()) for name, cell in zip(names, cells, strict=True)]
        yield number, [(name, _file_of(cell, manifest.parent) if name == "path" else cell) for name, cell in row]


def _is_number(cell: str) -> bool:
    return re.fullmatch(r"\s*\d+(\.\d+)?\s*", cell) is not None


def _file_of(name: str, root: Path) -> str:
    """The file that an id means, below `root`: in wavs/ or not, with a suffix of audio or not; its name where none is there."""
    choices = [f"{folder}{name}{suffix}" for folder in ("wavs/", "") for suffix in (*sorted(audio.AUDIO_SUFFIXES), "")]
    found = [choice for choice in choices if name and "\0" not in name and (root / choice).is_file()]
    return found[0] if found else name


def _named(cells: Sequence[tuple[str, str]], where: str) -> dict[str, str]:
    """The cells of a row by their names. Raises UserError for a name that stands twice, is empty, or is nearly ours."""
    row = dict[str, str]()
    for column, (name, value) in enumerate(cells, start=1):
        name = normalize(name.strip())
        if not name:
            raise UserError(f"{where}: column {column} of {len(cells)} has no name; is there a comma too many?")
        if name in row:
            raise UserError(f"{where}: two columns are named `{name}`; rename or remove one.")
        if (meant := canonical_field(name)) != name:
            raise UserError(f"{where}: a column is named `{name}`; write `{meant}`.")
        row[name] = value if name == "path" else normalize(value)
    return row


def _instead(names: Iterable[str]) -> str:
    """Which column may be meant for the paths."""
    names = list(names)
    near = [name for name in names if re.search("path|file|audio|wav", name, re.IGNORECASE)]
    return f" but {', '.join(names)}; rename `{near[0]}` to `path`" if near else f" but {', '.join(names) or 'nothing'}"


def _csv_rows(text: str, manifest: Path) -> Iterator[tuple[int, list[tuple[str, str]]]]:
    """(number of the line, (column, cell) of each column) of each row."""
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        columns = [name.strip().strip(_UNSEEN).strip() for name in next(filter(None, reader), [])]
        _check_header(columns, f"{manifest}, line {reader.line_num}")
        for row in reader:
            if row and len(row) != len(columns):
                hint = "remove the comma at its end" if len(row) == len(columns) + 1 and not row[-1].strip() else ""
                raise UserError(
                    f"{manifest}, line {reader.line_num} has {len(row)} cells, expected {len(columns)} "
                    f"({', '.join(columns)}); {hint or 'put a cell that holds a comma in double quotes'}."
                )
            if row:
                yield reader.line_num, [(name, cell.strip()) for name, cell in zip(columns, row, strict=True)]
    except csv.Error as error:
        raise UserError(f"{manifest}, line {reader.line_num} is not CSV ({error}).") from None


def _check_header(columns: Sequence[str], where: str) -> None:
    """Raises UserError for a first line that is no header, or has other delimiters than commas."""
    if not columns:
        return  # an empty file: it names nothing
    _named([(name, "") for name in columns], where)
    if "path" in columns:
        return
    line = ",".join(columns)
    for delimiter, said in _DELIMITERS.items():
        if delimiter in line:
            raise UserError(f"{where}: columns are separated by {said}, expected commas, as in path,word,split.")
    if any(PurePosixPath(name).suffix.lower() in audio.AUDIO_SUFFIXES for name in columns):
        raise UserError(f"{where} names a file, expected the names of the columns, as in path,word,split.")
    raise UserError(f"{where} has no `path`{_instead(columns)}.")


def _json_rows(text: str, manifest: Path) -> Iterator[tuple[int, list[tuple[str, str]]]]:
    """(number of the line, (key, value) of each member) of each object; numbers as they are written."""
    for line, content in enumerate(text.split("\n"), start=1):
        if content.strip():
            try:
                row = _as_written.decode(content)
                if not isinstance(row, _Members) or not all(isinstance(v, str) for k, v in row if k.strip() == "path"):
                    raise UserError(f'{manifest}, line {line} is not a JSON object {{"path": "a/b.wav", ...}}.')
                yield line, [(key, _text(value)) for key, value in row]
            except (ValueError, RecursionError) as error:  # of its syntax, or its depth
                raise UserError(f"{manifest}, line {line} is not JSON ({error}).") from None


class _Members(list[tuple[str, Any]]):
    """The members of a JSON object, of which two may have one name."""


class _Number(str):
    """A number as it was written."""


_as_written = json.JSONDecoder(
    parse_int=_Number, parse_float=_Number, parse_constant=_Number, object_pairs_hook=_Members
)


def _text(value: Any) -> str:
    """A value as it was written; what is no text, number or truth value, as JSON."""
    if isinstance(value, str):
        return str(value)
    return "" if value is None else _json(value)


def _json(value: Any) -> str:
    if isinstance(value, _Number):
        return value
    if isinstance(value, _Members):
        return "{" + ", ".join(f"{json.dumps(key, ensure_ascii=False)}: {_json(item)}" for key, item in value) + "}"
    if isinstance(value, list):
        return f"[{', '.join(map(_json, value))}]"
    return json.dumps(value, ensure_ascii=False)
