"""A user's own lexicon: how words are to be written before they are read."""

import dataclasses
import functools
import re
from collections.abc import Mapping
from pathlib import Path

from jaxgen.core.errors import UserError
from jaxgen.core.files import cause, read_regular
from jaxgen.core.names import normalize

_MOST_BYTES = 64 << 20
_AROUND = "\"'“”„‘’«»()[]{}.,;:!?…"
_PIECE = re.compile(r"\w+|[^\w\s]")


@dataclasses.dataclass(frozen=True)
class Lexicon:
    """Words and their spellings, as lines of a word, a tab and a spelling."""

    lines: tuple[str, ...] = ()

    @functools.cached_property
    def _spellings(self) -> Mapping[str, str]:
        return {word.casefold(): spelling for word, _, spelling in (line.partition("\t") for line in self.lines)}

    def respell(self, text: str) -> str:
        """The text with each word that the lexicon has, in whatever capitals, as it spells it.

        A word is looked for as it stands between spaces, then without marks around it, then piece by piece.
        """
        return re.sub(r"\S+", self._respelled, normalize(text)) if self.lines else text

    def _respelled(self, match: re.Match[str]) -> str:
        token = match[0]
        if (spelling := self._spellings.get(token.casefold())) is not None:
            return spelling
        core = token.strip(_AROUND)
        if core and (spelling := self._spellings.get(core.casefold())) is not None:
            at = token.index(core)
            return token[:at] + spelling + token[at + len(core) :]
        return _PIECE.sub(lambda piece: self._spellings.get(piece[0].casefold(), piece[0]), token)


def read_lexicon(path: str) -> Lexicon:
    """The lexicon of a file: UTF-8, one word a line, a tab, its spelling; empty lines and those that start with # are notes.

    Raises UserError, with the number of the line, for anything else.
    """
    try:
        content = read_regular(Path(path))
    except OSError as error:
        raise UserError(f"the lexicon '{path}' cannot be read ({cause(error)}); change the stream's lexicon.") from None
    if len(content) > _MOST_BYTES:
        raise UserError(f"the lexicon '{path}' has {len(content):,} bytes, expected {_MOST_BYTES:,} at most.")
    try:
        text = normalize(content.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        place = content[: error.start].count(b"\n") + 1
        raise UserError(
            f"the lexicon '{path}', line {place} is not UTF-8 ({error.reason}); save it as UTF-8."
        ) from None
    entries, places = [], dict[str, int]()
    for place, line in enumerate(text.split("\n"), start=1):
        if not line.strip() or line.startswith("#"):
            continue
        cells = [cell.strip() for cell in line.split("\t")]
        if len(cells) != 2 or not all(cells) or len(cells[0].split()) != 1:
            raise UserError(
                f"the lexicon '{path}', line {place} is {line.strip()[:60]!r}, expected one word, a tab and its spelling."
            )
        if (first := places.setdefault(cells[0].casefold(), place)) != place:
            raise UserError(f"the lexicon '{path}', line {place} repeats the word of line {first}; remove one of them.")
        entries.append("\t".join(cells))
    return Lexicon(tuple(entries))
