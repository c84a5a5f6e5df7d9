"""Any folder of sound, with fields from a manifest or from the file names."""

import contextlib
import dataclasses
import functools
import hashlib
import mimetypes
import os
from collections.abc import Mapping, Sequence, Set
from pathlib import Path
from typing import Literal, NoReturn

from jaxgen import audio, storage
from jaxgen.core.errors import UserError
from jaxgen.core.files import cause, open_regular, read_regular, retry_read
from jaxgen.core.names import LeavesFolder, UserPath, display_name, join_inside, normalize
from jaxgen.data import manifest, pattern
from jaxgen.data.clips import Clip, Dataset, HashFraction, Split, SplitRule, parse_split
from jaxgen.data.tree import Tree, walk
from jaxgen.storage import is_remote

_SUFFIXES = ".wav, .flac, .ogg or .mp3"
_MOST_TEXT = 1 << 20  # bytes of a text beside a recording


@dataclasses.dataclass(frozen=True)
class Folder(Dataset):
    """Audio files below a folder.

    `manifest.csv` or `manifest.jsonl` in the folder, where there is one, names the files (column `path`) and their
    fields (all other columns); else every audio file counts. A column `split` (train, validation, test) goes before the
    rules, a column `licence` before the option. A `metadata.csv` as LJSpeech's is a manifest, too. Without one, a.txt beside
    a.wav is its field `text`.
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
    columns: str = ""
    """Names of the columns of a metadata.csv without a header, as path,text,seconds; none for LJSpeech's: path,text or
    path,text,normalised_text."""
    outside: bool = False
    """Whether a manifest may name files outside the folder, by absolute paths or `..`."""

    def is_split_by_hash(self, fields: Mapping[str, str]) -> bool:
        return isinstance(self.validation, HashFraction) and not fields.get("split")

    def list_skipped(self) -> list[tuple[str, str]]:
        tree, found = self._tree(), manifest.find(Path(self.root))
        clips = self._rows()
        texts = set() if found else set(map(_text_file, clips))
        others = [
            (name, _why_left_out(name))
            for name in tree.files
            if name not in clips and name not in texts and Path(self.root, name) != found
        ]
        return [(display_name(name), reason) for name, reason in [*tree.skipped, *others]]

    def fetch(self, cache_dir: str | Path) -> "Folder":
        return dataclasses.replace(self, root=fetch_root(self.root, cache_dir))

    def clips(self) -> list[Clip]:
        clips = [self._clip(name, fields) for name, fields in self._rows().items()]
        return clips if not self.root or manifest.find(Path(self.root)) is None else self._each_file_once(clips)

    def _each_file_once(self, clips: Sequence[Clip]) -> list[Clip]:
        """The clips of a manifest, which may name a file by links as well: that would be a clip in two splits, say."""
        names: dict[tuple[int, int], str] = {}
        once = []
        for clip in clips:
            with contextlib.suppress(OSError, ValueError):
                status = os.stat(Path(self.root, clip.name))
                first = names.setdefault((status.st_dev, status.st_ino), clip.name)
                if first != clip.name and not clip.refused:
                    clip = _untouched(clip.name, clip.fields, f"the same file as '{first}'")
            once.append(clip)
        return once

    def split_of(self, fields: Mapping[str, str], digest: str) -> Split:
        if fields.get("split"):
            return parse_split(fields["split"], fields.get("path", "a clip"))
        if self.test is not None and self.test.matches(fields, digest):
            return "test"
        return "validation" if self._validation.matches(fields, digest) else "train"

    @functools.cached_property
    def _validation(self) -> SplitRule:
        return self.validation if self.test is None else self.validation.exclude(self.test)

    def _tree(self) -> Tree:
        """All below the root. Raises UserError where it cannot be read."""
        try:
            if not self.root:
                raise FileNotFoundError("none is named")
            return walk(Path(self.root))
        except OSError as error:
            at = f", at '{error.filename}'" if error.filename not in (None, self.root) else ""
            raise UserError(
                f"no folder '{self.root}' to read ({cause(error)}{at}). Pass --data.root a folder with {_SUFFIXES} files."
            ) from None

    def _rows(self) -> dict[str, dict[str, str]]:
        """What a manifest says of each file, by its name as the folder spells it. Raises UserError where there is none."""
        if self.root and (found := manifest.find(Path(self.root))) is not None:
            return self._as_spelt(self._below(manifest.read(found, self.columns), found), found)
        tree = self._tree()
        there = set(tree.files)
        rows = {name: self._text_beside(name, there) for name in tree.files if _is_audio(name)}
        if not rows:
            others = "".join(f"; {display_name(name)}: {reason}" for name, reason in tree.skipped[:3])
            raise UserError(
                f"no audio in '{self.root}' ({len(tree.files)} files, none with a suffix of audio{others}). "
                f"Pass --data.root a folder with {_SUFFIXES} files."
            )
        return rows

    def _text_beside(self, name: str, there: Set[str]) -> dict[str, str]:
        """The field `text` of a recording with a text file of its name: a.txt beside a.wav."""
        text = _text_file(name)
        if text not in there:
            return {}
        try:
            content = read_regular(Path(self.root, text))
            if len(content) > _MOST_TEXT:
                raise UserError(
                    f"'{display_name(text)}' has {len(content):,} bytes, expected the text of one recording."
                )
            return {"text": normalize(content.decode("utf-8-sig").strip())}
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(
                f"the text '{display_name(text)}' cannot be read ({error}); save it as UTF-8, or remove it."
            ) from None

    def _below(self, rows: dict[str, dict[str, str]], found: Path) -> dict[str, dict[str, str]]:
        """The rows of a manifest, absolute paths of files in the folder as those below it."""
        start = os.path.join(os.path.abspath(self.root), "")
        below = {name.removeprefix(start): fields for name, fields in rows.items()}
        if len(below) < len(rows):
            raise UserError(f"{found} names a file twice, by its path in the folder and the whole one; remove one.")
        return below

    def _as_spelt(self, rows: dict[str, dict[str, str]], found: Path) -> dict[str, dict[str, str]]:
        """The rows of a manifest, whose accents may be spelt otherwise than those of the files that it means."""
        missing = {name for name in rows if not os.path.lexists(Path(self.root, name))}
        spelt = {normalize(name): name for name in self._tree().files} if missing else {}
        renamed = {spelt.get(normalize(name), name) if name in missing else name: rows[name] for name in rows}
        if len(renamed) < len(rows):
            raise UserError(f"{found} names a file twice, in two spellings of its accents; remove one.")
        return renamed

    def _clip(self, name: str, fields: dict[str, str]) -> Clip:
        shown, root = display_name(name), Path(self.root)
        found = {} if self.pattern is None else pattern.parse(self.pattern).fields(shown)
        licence = fields.get("licence") or self.licence
        fields = {**(found or {}), **fields, "licence": licence}
        if fields.get("split"):
            parse_split(fields["split"], shown)  # else nobody knows which file has it
        unnamed = found is None and self.unmatched == "refuse"
        try:
            path = root / name if self.outside else join_inside(root, name)
        except LeavesFolder:
            return _untouched(shown, fields, "outside the folder; --data.outside takes it")
        status = _status(path)
        return Clip(
            shown,
            fields,
            open=functools.partial(audio.open_recording, path),
            digest=functools.partial(_digest, path),
            stamp="" if status is None else f"{path.absolute()} {status.st_ino} {' '.join(map(str, _times(status)))}",
            is_unchanged=functools.partial(_is_unchanged, path, _times(status)),
            refused=f"name is not {self.pattern}" if unnamed else "",
        )


def _untouched(name: str, fields: Mapping[str, str], reason: str) -> Clip:
    """A clip of whose file nothing is touched."""

    def unopened() -> NoReturn:
        raise audio.AudioError(reason)

    return Clip(name, fields, open=unopened, digest=unopened, refused=reason)


def fetch_root(root: str, cache_dir: str | Path) -> str:
    """The folder of recordings on this machine; what is in an object store is copied there, as far as it is audio."""
    if not is_remote(root):
        return root
    return str(storage.fetch(root, cache_dir, _is_wanted))


def _digest(path: Path) -> str:
    def read() -> str:
        with open_regular(path) as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    try:
        return retry_read(path, read)
    except OSError as error:
        raise audio.AudioError(cause(error)) from None


def _status(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except OSError:
        return None


def _times(status: os.stat_result | None) -> tuple[int, ...]:
    """Size and times of a file; its number may change by itself, on network file systems."""
    return () if status is None else (status.st_size, status.st_mtime_ns, status.st_ctime_ns)


def _is_unchanged(path: Path, times: tuple[int, ...]) -> bool:
    return _times(_status(path)) == times


def _why_left_out(name: str) -> str:
    if name in manifest.NAMES:
        return "a second manifest"
    if os.path.splitext(os.path.basename(name))[0].lower() == "manifest":
        return f"a manifest is named {' or '.join(manifest.NAMES)}, and stands in the folder itself"
    if _is_audio(name):
        return "not named in the manifest"
    kind = mimetypes.guess_type(os.path.basename(name))[0] or ""
    return "audio of a format that is not read" if kind.startswith(("audio/", "video/")) else "not an audio file"


def _is_wanted(name: str) -> bool:
    return name in (*manifest.NAMES, manifest.METADATA) or name.endswith(".txt") or _is_audio(name)


def _text_file(name: str) -> str:
    """The name of the text beside a recording."""
    return f"{os.path.splitext(name)[0]}.txt"


def _is_audio(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in audio.AUDIO_SUFFIXES
