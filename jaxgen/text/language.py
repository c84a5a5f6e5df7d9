"""What a language says of how its texts are read; each language is a module in `jaxgen.text.languages`."""

import dataclasses
import functools
import importlib
import pkgutil
import re
from collections.abc import Callable, Mapping, Set

from jaxgen.core.errors import UserError
from jaxgen.text import languages

MARKS = " '\"-,.;:!?()"
"""What may stand in spoken text beside small letters."""

Rule = tuple[re.Pattern[str], Callable[[re.Match[str]], str]]
"""What is looked for, and how it is read. A pattern must not look at a piece of text more than a few times: a run of digits,
say, is found from its start alone, and taken whole."""


@dataclasses.dataclass(frozen=True)
class Language:
    """Letters of a language and the rules by which it is read."""

    letters: str
    """Its small letters. Others are read as these where only an accent is different."""
    letter_names: Mapping[str, str]
    """How each letter is said in an acronym."""
    symbols: Mapping[str, str]
    """How single symbols are said that no rule has read, such as "%"."""
    rules: tuple[Rule, ...]
    """Applied one after the other to the text as it is written, its signs folded to plain ones."""
    abbreviations: Rule
    """Applied before all rules, and once more in the end, to the text in small letters."""
    said_as_words: Set[str]
    """Words in capitals that are not spelled."""
    plural: str = "s"
    """What a small letter behind an acronym is, as in "TVs"."""

    @property
    def alphabet(self) -> str:
        """All that spoken text is made of."""
        return MARKS + self.letters

    def spell(self, word: str) -> str:
        """The names of the letters of a word; what is no letter stays as it is."""
        return " ".join(self.letter_names.get(letter, letter) for letter in word.lower())


@functools.cache
def find_language(code: str) -> Language:
    """The language of a code, such as "en". Raises UserError where there is none."""
    known = [module.name for module in pkgutil.iter_modules(languages.__path__)]
    if code not in known:
        raise UserError(f"streams: the language of a text is '{code}', expected one of {', '.join(known)}.")
    language: Language = importlib.import_module(f"{languages.__name__}.{code}").LANGUAGE
    return language


def words(text: str) -> list[str]:
    """Words between spaces; a hyphen in one stands for a space."""
    return [word.replace("-", " ") for word in text.split()]


def at_start(pattern: str) -> re.Pattern[str]:
    """A pattern of a number, which must not begin within another one."""
    return re.compile(rf"(?<!\d)(?<!\d[.,]){pattern}")


def before(match: re.Match[str], length: int = 24) -> str:
    """What stands before a match."""
    return match.string[max(0, match.start() - length) : match.start()]


def after(match: re.Match[str], length: int = 24) -> str:
    """What stands behind a match."""
    return match.string[match.end() : match.end() + length]


def apart(match: re.Match[str], said: str) -> str:
    """What is said of a match, with spaces towards letters that it touches, and behind a mark."""
    touches = before(match, 1).isalpha() or before(match, 1) in {*",.;:!?"}
    return " " * touches + said + " " * after(match, 1).isalpha()


def ends_sentence(match: re.Match[str]) -> bool:
    """Whether a full stop at the end of a match is that of the sentence, too."""
    return match[0].endswith(".") and re.match(r"[\"')]*(\s*$|\s+[\"'(]*[A-ZÄÖÜ])", after(match)) is not None


def abbreviations(table: Mapping[str, str], closing: Set[str], word: str = "a-zäöüß") -> Rule:
    """The rule of abbreviations with their full stops; those of `closing` may end a sentence, and then leave a stop."""
    folded = {name.lower().replace(" ", ""): said for name, said in table.items()}
    names = sorted(table, key=len, reverse=True)
    choices = "|".join(re.escape(name).replace(r"\ ", " ?") for name in names)
    pattern = re.compile(rf"(?<![{word}.])(?:{choices})(?![{word}])", re.IGNORECASE)

    def read(match: re.Match[str]) -> str:
        name = match[0].lower().replace(" ", "")
        return folded[name] + ("." if name in closing and ends_sentence(match) else "")

    return pattern, read


ROMAN = r"(?P<numeral>X{0,3}(?:IX|IV|V?I{0,3}))"
"""A Roman numeral below 40."""


def roman(numeral: str) -> int:
    """The number that a Roman numeral of I, V and X stands for."""
    values = [{"I": 1, "V": 5, "X": 10}[sign] for sign in numeral]
    return sum(-a if a < b else a for a, b in zip(values, [*values[1:], 0], strict=True))


def address(written: str, names: Mapping[str, str], www: str) -> str:
    """An address of a page or of mail, its signs by their names; marks at its end are those of the sentence."""
    body = re.sub(r"^https?://", "", written.rstrip(".,;:!?)"), flags=re.IGNORECASE)
    ending = written[len(written.rstrip(".,;:!?)")) :]
    body = re.sub(r"^www\b", www, body.rstrip("/"), flags=re.IGNORECASE)
    return "".join(f" {names[sign]} " if sign in names else sign for sign in body).strip() + ending


def digits(number: str, names: Mapping[str, str]) -> str:
    """The digits of a number one by one; groups with a comma between them, anything between digits parts groups."""
    groups = [" ".join(names[digit] for digit in group) for group in re.findall(r"\d+", number)]
    return ", ".join(groups)
