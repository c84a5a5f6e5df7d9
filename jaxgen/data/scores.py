"""Written music as a data set: a folder of MIDI, ABC and MusicXML files, an archive of rolls or voices, or composed pieces."""

import abc
import contextlib
import dataclasses
import functools
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np

from jaxgen.audio import AUDIO_SUFFIXES, AudioError, Recording
from jaxgen.core.errors import UserError
from jaxgen.core.files import cause, open_regular, retry_read
from jaxgen.core.names import UserPath, display_name
from jaxgen.data.clips import Clip, Dataset, HashFraction, Split, SplitRule, parse_split
from jaxgen.data.tree import walk
from jaxgen.scores.archives import read_rolls, read_voices
from jaxgen.scores.compose.chorales import compose_chorale
from jaxgen.scores.compose.tunes import compose_tune
from jaxgen.scores.files import READERS, read_scores
from jaxgen.scores.render import render_blocks
from jaxgen.scores.rolls import from_roll, from_voices, mark_holds
from jaxgen.scores.score import Score, ScoreError
from jaxgen.scores.source import ScoreFile

_RENDERED_RATE = 44_100


def is_written_music(root: str) -> bool:
    """Whether a path is an archive (.npz), or a folder in which files of notes are, and no recordings."""
    if root.endswith(".npz"):
        return True
    try:
        suffixes = {Path(name).suffix.lower() for name in walk(Path(root)).files}
    except OSError:  # Folder says what is wrong with it
        return False
    return bool(suffixes & set(READERS)) and not suffixes & set(AUDIO_SUFFIXES)


class ScoreDataset(Dataset, abc.ABC):
    """Base of the frozen dataclasses whose clips are written music. Models of sound read it as it is rendered."""

    def _piece(
        self, name: str, fields: Mapping[str, str], score: Callable[[], ScoreFile], digest: Callable[[], str]
    ) -> Clip:
        return Clip(name, fields, functools.partial(_rendered, score), digest, score=score)


@contextlib.contextmanager
def _rendered(score: Callable[[], ScoreFile]) -> Iterator[Recording]:
    """The sound of a score as a recording in stereo. Raises AudioError where there is no score."""
    try:
        found = score()
    except ScoreError as error:
        raise AudioError(str(error)) from None
    blocks = render_blocks(found.score, _RENDERED_RATE)
    yield Recording(_RENDERED_RATE, 2, blocks, stated_seconds=found.score.seconds, comment=found.comment)


@dataclasses.dataclass(frozen=True)
class ScoreFolder(ScoreDataset):
    """Files of written music below a folder: .mid, .midi, .abc, .musicxml, .mxl."""

    root: UserPath = ""
    """Folder of the files, nested or not."""
    validation: SplitRule = HashFraction(0.1)
    """Which pieces are for validation."""
    test: SplitRule | None = None
    """Which pieces are for the test."""
    licence: str = "not stated"
    """Licence of the music."""

    def clips(self) -> list[Clip]:
        found = [
            self._one(name, inside, place) for name in self._names() for place, inside in enumerate(self._pieces(name))
        ]
        if not found:
            raise UserError(
                f"no written music in '{self.root}'. Pass --data.root a folder with {', '.join(READERS)} files."
            )
        return found

    def _names(self) -> list[str]:
        try:
            if not self.root:
                raise FileNotFoundError("none is named")
            files = walk(Path(self.root)).files
        except OSError as error:
            raise UserError(
                f"no folder '{self.root}' to read ({cause(error)}). Pass --data.root a folder with {', '.join(READERS)} files."
            ) from None
        return [name for name in files if Path(name).suffix.lower() in READERS]

    def _pieces(self, name: str) -> list[str]:
        """Names of the pieces inside a file; one that is not named for most."""
        if Path(name).suffix.lower() != ".abc":
            return [""]
        try:
            return [inside for inside, _ in read_scores(Path(self.root, name))]
        except ScoreError:
            return [""]

    def _one(self, name: str, inside: str, place: int) -> Clip:
        path = Path(self.root, name)
        shown = display_name(name) + (f"#{inside}" if inside else "")
        return self._piece(
            shown,
            {"licence": self.licence},
            functools.partial(_read_piece, path, place),
            functools.partial(_piece_digest, path, place),
        )

    def split_of(self, fields: Mapping[str, str], digest: str) -> Split:
        if self.test is not None and self.test.matches(fields, digest):
            return "test"
        validation = self.validation if self.test is None else self.validation.exclude(self.test)
        return "validation" if validation.matches(fields, digest) else "train"

    def is_split_by_hash(self, fields: Mapping[str, str]) -> bool:
        return isinstance(self.validation, HashFraction)

    def list_skipped(self) -> list[tuple[str, str]]:
        tree = walk(Path(self.root))
        others = [(name, "not a file of notes") for name in tree.files if Path(name).suffix.lower() not in READERS]
        return [(display_name(name), reason) for name, reason in [*tree.skipped, *others]]


def _read_piece(path: Path, place: int) -> ScoreFile:
    found = read_scores(path)[place][1]
    if isinstance(found, ScoreError):
        raise found
    return found


def _piece_digest(path: Path, place: int) -> str:
    def read() -> bytes:
        with open_regular(path) as file:
            return hashlib.file_digest(file, "sha256").digest()

    try:
        content = retry_read(path, read)
    except OSError as error:
        raise AudioError(cause(error)) from None
    return hashlib.sha256(content + str(place).encode()).hexdigest() if place else content.hex()


@dataclasses.dataclass(frozen=True)
class ScoreArchive(ScoreDataset):
    """An archive (.npz) of piano rolls or voices with the splits that papers use: JSB chorales, Nottingham and the like."""

    root: UserPath = ""
    """The file."""
    frames_per_quarter: int = 4
    """Frames of a quarter note in the archive: 4 for sixteenths."""
    licence: str = "not stated"
    """Licence of the music."""

    def clips(self) -> list[Clip]:
        return [
            self._piece(
                f"{split}/{place:05d}",
                {"split": split, "licence": self.licence},
                functools.partial(self._score, frames),
                functools.partial(_array_digest, frames),
            )
            for split, pieces in self._read().items()
            for place, frames in enumerate(pieces)
        ]

    def split_of(self, fields: Mapping[str, str], digest: str) -> Split:
        return parse_split(fields["split"], "a piece")

    def _read(self) -> Mapping[str, list[np.ndarray]]:
        if not self.root:
            raise UserError("no archive is named. Pass --data.root an .npz file of piano rolls or voices.")
        reasons = []
        for read in (read_rolls, read_voices):
            try:
                return read(self.root)
            except ScoreError as error:
                reasons.append(str(error))
        raise UserError(
            f"'{self.root}' holds no written music ({'; '.join(dict.fromkeys(reasons))}); change --data.root."
        )

    def _score(self, frames: np.ndarray) -> ScoreFile:
        if frames.dtype == bool:
            return ScoreFile(from_roll(frames, None, self.frames_per_quarter))
        return ScoreFile(from_voices(mark_holds(frames), self.frames_per_quarter))


def _array_digest(frames: np.ndarray) -> str:
    return hashlib.sha256(
        str((frames.shape, frames.dtype)).encode() + np.ascontiguousarray(frames).tobytes()
    ).hexdigest()


@dataclasses.dataclass(frozen=True)
class ComposedScores(ScoreDataset):
    """Pieces that are composed by rules on the spot. Subclasses: `ComposedTunes`, `ComposedChorales`."""

    num_clips: int = 400
    """Pieces in all; every tenth is for validation."""
    seed: int = 0
    """Another seed makes other pieces."""

    def __post_init__(self) -> None:
        if self.num_clips < 1 or self.seed < 0:
            raise UserError(
                f"data.num_clips is {self.num_clips} and data.seed {self.seed}, expected at least 1 piece and a seed from 0 on."
            )

    @abc.abstractmethod
    def compose(self, index: int) -> Score:
        """The piece of this number."""

    def clips(self) -> list[Clip]:
        return [self._composed(index) for index in range(self.num_clips)]

    def _composed(self, index: int) -> Clip:
        about = {"split": "validation" if index % 10 == 9 else "train", "licence": "CC0-1.0 (composed)"}
        digest = hashlib.sha256(json.dumps([1, type(self).__name__, self.seed, index]).encode()).hexdigest()
        return self._piece(f"composed/{index:05d}", about, lambda: ScoreFile(self.compose(index)), lambda: digest)

    def split_of(self, fields: Mapping[str, str], digest: str) -> Split:
        return parse_split(fields["split"], "a composed piece")


@dataclasses.dataclass(frozen=True)
class ComposedTunes(ComposedScores):
    """Folk-like tunes with chords."""

    def compose(self, index: int) -> Score:
        return compose_tune(self.seed, index)


@dataclasses.dataclass(frozen=True)
class ComposedChorales(ComposedScores):
    """Chorales of four voices."""

    def compose(self, index: int) -> Score:
        return compose_chorale(self.seed, index)


@dataclasses.dataclass(frozen=True)
class Scores(ScoreDataset):
    """Written music from anywhere: a folder of files, an archive (.npz), or where no root is named pieces that are composed."""

    root: UserPath = ""
    """Folder of .mid, .abc, .musicxml files, or one .npz archive of rolls or voices; none composes pieces by rules."""
    composed: ComposedScores = ComposedTunes()
    """What is composed without a root: ComposedTunes or ComposedChorales."""
    frames_per_quarter: int = 4
    """Of an archive: its frames of a quarter note."""
    validation: SplitRule = HashFraction(0.1)
    """Which pieces of a folder are for validation."""
    test: SplitRule | None = None
    """Which pieces of a folder are for the test."""
    licence: str = "not stated"
    """Licence of the music."""

    @functools.cached_property
    def _source(self) -> Dataset:
        if not self.root:
            return self.composed
        if self.root.endswith(".npz"):
            return ScoreArchive(self.root, self.frames_per_quarter, self.licence)
        return ScoreFolder(self.root, self.validation, self.test, self.licence)

    def clips(self) -> list[Clip]:
        return self._source.clips()

    def split_of(self, fields: Mapping[str, str], digest: str) -> Split:
        return self._source.split_of(fields, digest)

    def is_split_by_hash(self, fields: Mapping[str, str]) -> bool:
        return self._source.is_split_by_hash(fields)

    def list_skipped(self) -> list[tuple[str, str]]:
        return self._source.list_skipped()
