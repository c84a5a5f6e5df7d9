"""What is said in a clip, as a stream: the characters of its text as it is read aloud, or its phones."""

import dataclasses
import re
import sys
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from jaxgen.audio import AudioError
from jaxgen.core.errors import UserError
from jaxgen.core.names import CACHE_DIR, UserPath, expand
from jaxgen.core.serial import content_hash
from jaxgen.features.spec import FeatureSpec, require
from jaxgen.features.streams import Example, StreamSpec
from jaxgen.text import PHONES, Lexicon, Spoken, find_language, normalise, read_lexicon, transcribe

_MOST_NAMED = 3  # clips in a message
_FEWEST = 10  # clips, from which on a median says something
_SLACK = 0.5  # seconds of pauses, which weigh much in a short clip


@dataclasses.dataclass(frozen=True)
class Text(StreamSpec):
    """The text of a clip as it is read aloud, int32 [N]: places of its characters in the language's alphabet.

    Numbers, dates, abbreviations and units become words first. docs/reference/text.md says which.
    """

    language: str = "en"
    """Language of the text: en or de."""
    field: str = "text"
    """Field of the manifest, or of the file-name pattern, that holds the text."""
    lexicon: UserPath = ""
    """File with a word, a tab and its spelling on each line, for words that are to be written otherwise; none for none."""
    rate_factor: float = 2.0
    """Clips are left out that have so many times more, or fewer, characters a second than the corpus: sound and text do not
    belong together, or there is a long pause."""
    spellings: tuple[str, ...] = ()
    """Lines of a lexicon; those of the file stand here in a trained model, which needs no file."""

    is_aligned = False

    def __post_init__(self) -> None:
        find_language(self.language)
        require(self.rate_factor > 1, f"streams: rate_factor is {self.rate_factor:g}, expected more than 1.")

    @property
    def symbols(self) -> str:
        """What is told apart; a value is a place in it."""
        return find_language(self.language).alphabet

    @property
    def step_dtype(self) -> np.dtype:
        return np.dtype(np.int32)

    @property
    def num_values(self) -> int:
        return len(self.symbols)

    def settled(self) -> "Text":
        if not self.lexicon:
            return self
        return dataclasses.replace(self, lexicon="", spellings=(*read_lexicon(self.lexicon).lines, *self.spellings))

    def spoken(self, written: str) -> Spoken:
        """A text as it is read, and the symbols of it that cannot be."""
        respelt = Lexicon(self.settled().spellings).respell(written)
        return normalise(respelt, find_language(self.language))

    def encode_clip(self, example: Example, features: FeatureSpec) -> np.ndarray:
        spoken = self.spoken(example.fields.get(self.field, ""))
        if spoken.unknown:
            raise AudioError(f"its {self.field} has {_named(spoken.unknown[0])}, which cannot be read")
        if not _has_words(spoken.text):
            raise AudioError(f"no {self.field}")
        return self._places(spoken.text)

    def parse(self, said: str, features: FeatureSpec) -> np.ndarray:
        spoken = self.spoken(said)
        if not _has_words(spoken.text):
            raise UserError(f"the {self.field} {said[:40]!r} has no word to read; pass one with letters or numbers.")
        if spoken.unknown:
            skipped = ", ".join(map(_named, spoken.unknown[:20]))
            print(f"jaxgen: {skipped} cannot be read; skipped in the {self.field}.", file=sys.stderr)
        return self._places(spoken.text)

    def check_clips(self, clips: Mapping[str, Mapping[str, str]]) -> None:
        found = {name: self.spoken(fields.get(self.field, "")).unknown for name, fields in clips.items()}
        unknown = {name: symbols for name, symbols in found.items() if symbols}
        if unknown:
            some = list(unknown.items())[:_MOST_NAMED]
            named = "; ".join(f"'{name}': {', '.join(map(_named, symbols[:5]))}" for name, symbols in some)
            more = f" and {len(unknown) - len(some)} more" if len(unknown) > len(some) else ""
            raise UserError(
                f"the {self.field} of {len(unknown)} clips has symbols that cannot be read in '{self.language}' ({named}{more}). "
                "Remove them there, or say in a lexicon how they are read (the stream's lexicon)."
            )

    def misfits(self, lengths: Sequence[int], seconds: Sequence[float]) -> dict[int, str]:
        if len(lengths) < _FEWEST:
            return {}
        count, length = np.array(lengths, np.float64), np.array(seconds)
        usual = float(np.median(count / length))
        shortest, longest = count / usual / self.rate_factor - _SLACK / 2, count / usual * self.rate_factor + _SLACK
        return {
            int(clip): f"{count[clip] / length[clip]:.1f} characters a second, where the others have {usual:.1f}; its "
            f"{self.field} may be another's (the stream's rate_factor)"
            for clip in np.flatnonzero((length < shortest) | (length > longest))
        }

    def _places(self, spoken: str) -> np.ndarray:
        """Places of the symbols of a spoken text."""
        places = {symbol: place for place, symbol in enumerate(self.symbols)}
        return np.array([places[symbol] for symbol in spoken], np.int32)


@dataclasses.dataclass(frozen=True)
class Phones(Text):
    """The phones of a clip's text, int32 [N], by an installed espeak-ng, which is a program of its own."""

    language: str = "en-us"
    """Voice of espeak-ng; its first part is the language of the text."""
    cache_dir: UserPath = CACHE_DIR
    """Folder where the phones of each sentence are kept."""

    def __post_init__(self) -> None:
        find_language(self._written)
        require(bool(re.fullmatch(r"[a-z0-9-]+", self.language)), f"streams: '{self.language}' names no voice.")
        require(self.rate_factor > 1, f"streams: rate_factor is {self.rate_factor:g}, expected more than 1.")

    @property
    def _written(self) -> str:
        return self.language.partition("-")[0]

    @property
    def symbols(self) -> str:
        return PHONES

    def spoken(self, written: str) -> Spoken:
        respelt = Lexicon(self.settled().spellings).respell(written)
        return normalise(respelt, find_language(self._written))

    def fingerprint(self) -> str:
        return content_hash([type(self).__name__, dataclasses.asdict(dataclasses.replace(self, cache_dir=""))])[:16]

    def _places(self, spoken: str) -> np.ndarray:
        phones = transcribe(spoken, self.language, Path(expand(self.cache_dir)))
        places = {symbol: place for place, symbol in enumerate(self.symbols)}
        if unknown := [symbol for symbol in phones if symbol not in places]:
            raise UserError(
                f"espeak-ng writes {_named(unknown[0])}, which Phones does not know; use Text, or report it."
            )
        return np.array([places[symbol] for symbol in phones], np.int32)


def _named(symbol: str) -> str:
    """A symbol that a terminal may not show, and its number."""
    return f"'{symbol}' (U+{ord(symbol):04X} {unicodedata.name(symbol, 'without a name').lower()})"


def _has_words(spoken: str) -> bool:
    return any(symbol.isalpha() for symbol in spoken)
