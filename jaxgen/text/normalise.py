"""Written text to spoken text: signs are folded to plain ones, then a language's rules read all that is no word."""

import dataclasses
import functools
import re
import unicodedata

from jaxgen.text.language import Language

_FOLDED = {
    **dict.fromkeys("‘’‚‛′ʼʻ`´‹›", "'"),
    **dict.fromkeys("“”„‟″«»", '"'),
    **dict.fromkeys("—―", " - "),
    **dict.fromkeys("‐‑−", "-"),
    **dict.fromkeys("[{", "("),
    **dict.fromkeys("]}", ")"),
    "ß": "ss",
    "æ": "ae",
    "Æ": "Ae",
    "ø": "o",
    "Ø": "O",
    "œ": "oe",
    "Œ": "Oe",
    "ł": "l",
    "Ł": "L",
    "đ": "d",
    "Đ": "D",
    "ð": "d",
    "Ð": "D",
    "þ": "th",
    "Þ": "Th",
    "ı": "i",
    "⁄": "/",
    "ẞ": "SS",
}
_KEPT = "0123456789²³–"  # which the rules read
_SHOUTED = 3  # words in capitals, from which on a text of capitals alone is not one of acronyms


@dataclasses.dataclass(frozen=True)
class Spoken:
    """A text as it is read aloud."""

    text: str
    """Of the language's alphabet alone, in small letters, without spaces at its ends."""
    unknown: tuple[str, ...]
    """Symbols that nobody can read, each once, in the order in which they came; they are not in the text."""


def normalise(written: str, language: Language) -> Spoken:
    """The text as a speaker of the language reads it. Takes time linear in its length, and any text at all.

    Its own output stays as it is.
    """
    folded, unknown = _fold(unicodedata.normalize("NFC", written), language)
    text = _tidy(folded)
    if len(re.findall(r"[^\W\d_]{2,}", text)) >= _SHOUTED and text == text.upper():
        text = text.lower()
    for pattern, read in (language.abbreviations, *language.rules):
        text = pattern.sub(read, text)
    text = "".join(_said(sign, language) for sign in text.lower())
    pattern, read = language.abbreviations
    text = _MARK_BETWEEN.sub(r"\1 ", _tidy(text))
    return Spoken(_tidy(pattern.sub(read, text).lower()), unknown)


def _said(sign: str, language: Language) -> str:
    return sign if sign in language.alphabet else f" {language.symbols.get(sign, '').lower()} "


def _fold(text: str, language: Language) -> tuple[str, tuple[str, ...]]:
    """The text in signs that the rules know, and what cannot be written so."""
    folded = {sign: _plain(sign, language.alphabet + "".join(language.symbols)) for sign in dict.fromkeys(text)}
    unknown = tuple(sign for sign, plain in folded.items() if plain is None)
    return "".join(folded[sign] or "" for sign in text), unknown


@functools.lru_cache(maxsize=4096)
def _plain(sign: str, known: str) -> str | None:
    """A sign as one or more known ones; empty for what is not seen, None for what is not known."""
    if sign in _KEPT or sign in known or sign.lower() in known:
        return sign
    if sign in _FOLDED:
        return _FOLDED[sign]
    kind = unicodedata.category(sign)
    if kind in ("Zs", "Zl", "Zp", "Cc"):
        return " "
    if kind in ("Cf", "Mn", "Me"):  # marks without a letter, joiners, soft hyphens
        return ""
    if kind == "Nd":
        return str(unicodedata.decimal(sign))
    parts = unicodedata.normalize("NFKD", sign)
    if parts == sign:
        return None
    plain = [_plain(part, known) for part in parts]
    fraction = " " if unicodedata.decomposition(sign).startswith("<fraction>") else ""
    return None if None in plain else fraction + "".join(part or "" for part in plain)


_DASH_OF_NUMBERS = re.compile(r"(?<=\d) ?–(?= ?\d)")
_SPACES = re.compile(r"\s+")
_BEFORE_MARK = re.compile(r" (?=[,.;:!?)](?!\d))|(?<=\() ")
_MARK_BETWEEN = re.compile(r"(?<=[^\W\d_])([.,;:!?])(?=[^\W\d_])")  # else what was read may look like an address
_REPEATED = re.compile(r"([,.;:!?])[,.;:!?]+(?!\d)")
_AT_START = re.compile(r"^[ ,.;:!?)-]+(?!\d)")


def _tidy(text: str) -> str:
    """One space between words, none before a mark, one mark of several, and none before the first word."""
    text = _DASH_OF_NUMBERS.sub("-", text).replace("–", " - ")
    for pattern, plain in ((_SPACES, " "), (_BEFORE_MARK, ""), (_REPEATED, r"\1")):
        text = pattern.sub(plain, text)
    return text.strip()
