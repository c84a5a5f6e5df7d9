"""What a data set is: clips with fields, and the rule that says to which split a clip belongs."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Literal

from jaxgen.audio import Recording, Waveform
from jaxgen.core.errors import UserError
from jaxgen.core.names import normalize
from jaxgen.core.serial import content_hash
from jaxgen.scores.source import ScoreFile

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = ("train", "validation", "test")


@dataclasses.dataclass(frozen=True)
class Clip:
    """One recording, not yet decoded."""

    name: str
    """Unique in its data set; for files the path below the root, with forward slashes."""
    fields: Mapping[str, str]
    """All that is known of it: labels, `text`, `split`, `licence`."""
    open: Callable[[], AbstractContextManager[Recording]]
    """Opens it, to be decoded block by block. Raises audio.AudioError where that cannot be."""
    digest: Callable[[], str]
    """SHA-256 of its content, hexadecimal. Raises audio.AudioError where that cannot be read, TryAgain where it may be later."""
    stamp: str = ""
    """Changes when its content does, as far as can be told without reading it; empty where that cannot be told."""
    refused: str = ""
    """Why it is refused before it is read; empty for none."""
    is_unchanged: Callable[[], bool] = lambda: True
    """Whether its content is still that of the stamp."""
    score: Callable[[], ScoreFile] | None = None
    """Reads written music, which `open` makes sound of; None for a recording. Raises scores.ScoreError."""

    def load(self) -> Waveform:
        """All of it, in memory. Raises audio.AudioError where it cannot be decoded."""
        with self.open() as recording:
            return recording.read_all()


class SplitRule:
    """A frozen dataclass that says which clips belong to a split, by their fields or content; never by chance."""

    def matches(self, fields: Mapping[str, str], digest: str) -> bool:
        """Whether the clip belongs. Raises UserError where the rule cannot tell."""
        raise NotImplementedError

    def exclude(self, other: "SplitRule") -> "SplitRule":
        """This rule for the clips that another leaves. Raises UserError where both name the same clips."""
        return self


@dataclasses.dataclass(frozen=True)
class HashFraction(SplitRule):
    """A share of the clips, chosen by the hash of their content: a clip stays in its split when others come or go."""

    fraction: float = 0.1
    """Share of the clips, 0 to 1."""
    start: float = 0.0
    """Where the share begins: two that do not overlap have no clip in common."""

    def __post_init__(self) -> None:
        if not 0 <= self.fraction < 1:
            raise UserError(f"a split's fraction is {self.fraction}, expected at least 0 and below 1.")
        if self.start < 0 or self.stop > 1:
            raise UserError(
                f"a split takes the share {self.start:g} to {self.stop:g} of the clips, expected 0 to 1; lower the "
                "fraction of data.validation or data.test."
            )

    @property
    def stop(self) -> float:
        """Where the share ends."""
        return self.start + self.fraction

    def matches(self, fields: Mapping[str, str], digest: str) -> bool:
        return self.start * 16**12 <= int(digest[:12], 16) < self.stop * 16**12

    def exclude(self, other: SplitRule) -> "HashFraction":
        """The next range of hashes, where this one overlaps that of `other`."""
        if isinstance(other, HashFraction) and self.start < other.stop and other.start < self.stop:
            return dataclasses.replace(self, start=other.stop)
        return self


@dataclasses.dataclass(frozen=True)
class FieldHash(SplitRule):
    """A share of the values of a field, chosen by their hash: clips of one value, as takes of one prompt, stay together."""

    field: str = "text"
    """Field of the file-name pattern or the manifest."""
    fraction: float = 0.1
    """Share of the values, 0 to 1."""
    start: float = 0.0
    """Where the share begins: two that do not overlap have no value in common."""

    def __post_init__(self) -> None:
        HashFraction(self.fraction, self.start)  # which raises

    def matches(self, fields: Mapping[str, str], digest: str) -> bool:
        if self.field not in fields:
            raise UserError(
                f"the split is decided by the field '{self.field}', but a clip has only "
                f"{', '.join(sorted(fields)) or 'no fields'}; name it in data.pattern or in the manifest."
            )
        return HashFraction(self.fraction, self.start).matches(fields, content_hash(fields[self.field]))

    def exclude(self, other: SplitRule) -> SplitRule:
        """The next range of hashes, where this one overlaps that of `other`, of the same field."""
        if not isinstance(other, FieldHash) or other.field != self.field:
            return self
        rest = HashFraction(self.fraction, self.start).exclude(HashFraction(other.fraction, other.start))
        return dataclasses.replace(self, start=rest.start)


@dataclasses.dataclass(frozen=True)
class FieldIn(SplitRule):
    """The clips whose field has one of the values: `FieldIn("index", range(5, 10))`."""

    field: str
    """Field of the file-name pattern or the manifest."""
    values: tuple[str, ...] | Iterable[int]
    """Values that belong to the split."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "values", tuple(normalize(str(value)) for value in self.values))

    def matches(self, fields: Mapping[str, str], digest: str) -> bool:
        if self.field not in fields:
            raise UserError(
                f"the split is decided by the field '{self.field}', but a clip has only "
                f"{', '.join(sorted(fields)) or 'no fields'}; name it in data.pattern or in the manifest."
            )
        return fields[self.field] in tuple(self.values)

    def exclude(self, other: SplitRule) -> SplitRule:
        if not isinstance(other, FieldIn) or other.field != self.field:
            return self
        if same := set(self.values) & set(other.values):
            raise UserError(
                f"data.validation and data.test both take {self.field} {', '.join(sorted(map(str, same))[:5])}; "
                "a clip belongs to one split."
            )
        return self


class Dataset:
    """Base of the frozen dataclasses that name a source of clips."""

    @property
    def pattern(self) -> str | None:
        """How file names hold fields, as {digit}_{speaker}_{index}; None where they hold none."""
        return None

    def fetch(self, cache_dir: str | Path) -> "Dataset":
        """The same data on this machine: for data in an object store, those of a local copy, which this brings up to date.

        Raises UserError where there is none, or the store cannot be reached.
        """
        return self

    def clips(self) -> list[Clip]:
        """Every clip, in a stable order. Raises UserError where there is none to be had."""
        raise NotImplementedError

    def split_of(self, fields: Mapping[str, str], digest: str) -> Split:
        """The split of a clip: its `split` field, or the data set's rule."""
        raise NotImplementedError

    def is_split_by_hash(self, fields: Mapping[str, str]) -> bool:
        """Whether nothing but a hash put the clip into its split, so that one may be moved where validation is empty."""
        return False

    def list_skipped(self) -> list[tuple[str, str]]:
        """(name, reason) of what stands beside the clips and is none: other files, what cannot be read, runs."""
        return []


_WORDS: Mapping[str, Split] = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("validation", "valid", "val", "dev"), "validation"),
    **dict.fromkeys(("test", "testing"), "test"),
}


def canonical_field(name: str) -> str:
    """The field that jaxgen knows by a name in other letters: `split` for `Split`. Any other name is itself."""
    known = {"path": "path", "split": "split", "licence": "licence", "license": "licence"}
    return known.get(name.lower(), name)


def parse_split(value: str, name: str) -> Split:
    """A `split` field as it was written. Raises UserError for a word that is none of `SPLITS` nor one of its short forms."""
    if (word := value.strip().lower()) not in _WORDS:
        raise UserError(f"the split of '{name}' is '{value}', expected train, validation or test (or val, dev).")
    return _WORDS[word]
