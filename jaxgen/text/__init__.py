"""Written text to spoken text: numbers, dates, abbreviations and units in words, a user's own lexicon, phones."""

from jaxgen.text.language import Language, Rule, find_language
from jaxgen.text.lexicon import Lexicon, read_lexicon
from jaxgen.text.normalise import Spoken, normalise
from jaxgen.text.phones import PHONES, transcribe

__all__ = [
    "PHONES",
    "Language",
    "Lexicon",
    "Rule",
    "Spoken",
    "find_language",
    "normalise",
    "read_lexicon",
    "transcribe",
]
