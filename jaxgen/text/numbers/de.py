"""Number words of German."""

import re

from jaxgen.text.language import words

ONES = words(
    "null eins zwei drei vier fünf sechs sieben acht neun zehn elf zwölf dreizehn vierzehn fünfzehn sechzehn "
    "siebzehn achtzehn neunzehn"
)
TENS = ["zwanzig", "dreißig", "vierzig", "fünfzig", "sechzig", "siebzig", "achtzig", "neunzig"]
_SCALES = (("eine Million", "Millionen"), ("eine Milliarde", "Milliarden"), ("eine Billion", "Billionen"))
_ORDINALS = {1: "erste", 3: "dritte", 7: "siebte", 8: "achte"}
_ROUND = {0: "nullte", 100: "hundertste", 1000: "tausendste"}
DIGITS = {str(digit): ONES[digit] for digit in range(10)}
"""The names of the digits."""
MOST_DIGITS = 15
"""Of a number that has a name."""


def joined(number: int) -> str:
    """A number below a million as it stands before others: "ein", "einundzwanzig"."""
    if number == 1:
        return "ein"
    if number < 20:
        return ONES[number]
    if number < 100:
        ones = f"{joined(number % 10)}und" if number % 10 else ""
        return ones + TENS[number // 10 - 2]
    size, word = (100, "hundert") if number < 1000 else (1000, "tausend")
    return f"{joined(number // size)}{word}" + (_final(number % size) if number % size else "")


def _final(number: int) -> str:
    """A number below a million as it stands last: 101 is "einhunderteins"."""
    return "eins" if number == 1 else joined(number)


def cardinal(number: int) -> str:
    """The words of a number from 0 to 10^15 - 1: "eintausendzweihunderteins", "zwei Millionen drei"."""
    millions, rest = divmod(number, 1_000_000)
    words = [] if number and not rest else [_final(rest)]
    for one, many in _SCALES:
        millions, count = divmod(millions, 1000)
        if count:
            words.insert(0, one if count == 1 else f"{joined(count)} {many}")
    return " ".join(words)


def ordinal(number: int) -> str:
    """The words of a place, from 0 on, with the ending of "der": "erste", "zwanzigste"."""
    head, last = divmod(number, 100)
    if number in _ROUND:
        return _ROUND[number]
    words = cardinal(number)
    if 0 < last < 20:
        word = _ORDINALS.get(last, f"{ONES[last]}te")
        return words.removesuffix(_final(last)) + word if head else word
    if number % 1_000_000 == 0 and number:
        return (
            f"{re.sub(r'(?<=[dn])en$', '', words.removeprefix('eine ').replace(' ', '').lower()).removesuffix('e')}ste"
        )
    return f"{words}ste"


def year(number: int) -> str:
    """The words of a year: "neunzehnhundertzwölf", "zweitausendfünf"."""
    century, rest = divmod(number, 100)
    if not 1100 <= number <= 1999:
        return cardinal(number)
    return f"{joined(century)}hundert" + (_final(rest) if rest else "")
