"""Written music in files of any kind that is known, told apart by their suffixes."""

import os
from collections.abc import Callable, Mapping
from pathlib import Path

from jaxgen.core.files import cause, open_regular, retry_read
from jaxgen.scores.abc_tunes import parse_abc, split_tunes
from jaxgen.scores.midi import parse_midi
from jaxgen.scores.musicxml import parse_musicxml
from jaxgen.scores.score import ScoreError
from jaxgen.scores.source import ScoreFile, check_size

Pieces = list[tuple[str, ScoreFile | ScoreError]]
"""(name inside the file, the score or why there is none) of each piece; a file of one piece names it ""."""


def read_scores(path: str | Path) -> Pieces:
    """The pieces in a file of MIDI, ABC tunes or MusicXML.

    Raises ScoreError where the file as a whole cannot be used, TryAgain where it may be readable later, UserError where
    a package is missing.
    """
    suffix = os.path.splitext(path)[1].lower()
    if suffix not in READERS:
        raise ScoreError(f"'{suffix}' is no suffix of written music, expected {', '.join(READERS)}")
    return READERS[suffix](_read(path))


def _read(path: str | Path) -> bytes:
    def read() -> bytes:
        with open_regular(path) as file:
            check_size(os.fstat(file.fileno()).st_size)
            return file.read()

    try:
        return retry_read(path, read)
    except OSError as error:
        raise ScoreError(cause(error)) from None


def _abc_book(content: bytes) -> Pieces:
    pieces: Pieces = []
    tunes = split_tunes(content.decode("utf-8-sig", errors="replace").replace("\r\n", "\n"))
    if not tunes:
        raise ScoreError("no ABC tune: no line begins with X:")
    for place, tune in enumerate(tunes, start=1):
        try:
            pieces.append((str(place), parse_abc(tune)))
        except ScoreError as reason:
            pieces.append((str(place), reason))
    return pieces


READERS: Mapping[str, Callable[[bytes], Pieces]] = {
    ".mid": lambda content: [("", parse_midi(content))],
    ".midi": lambda content: [("", parse_midi(content))],
    ".abc": _abc_book,
    ".musicxml": lambda content: [("", parse_musicxml(content))],
    ".xml": lambda content: [("", parse_musicxml(content))],
    ".mxl": lambda content: [("", parse_musicxml(content))],
}
"""What reads a file, by its suffix in lower case."""
