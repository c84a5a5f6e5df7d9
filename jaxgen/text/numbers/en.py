"""Number words of English."""

from jaxgen.text.language import words

ONES = words(
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen "
    "seventeen eighteen nineteen"
)
TENS = ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]
_SCALES = ("thousand", "million", "billion", "trillion")
_IRREGULAR = {
    "one": "first",
    "two": "second",
    "three": "third",
    "five": "fifth",
    "eight": "eighth",
    "nine": "ninth",
    "twelve": "twelfth",
}
DIGITS = {str(digit): ONES[digit] for digit in range(10)}
"""The names of the digits."""
MOST_DIGITS = 15
"""Of a number that has a name."""


def cardinal(number: int) -> str:
    """The words of a number from 0 to 10^15 - 1: "one thousand two hundred and one"."""
    if number < 20:
        return ONES[number]
    if number < 100:
        return TENS[number // 10 - 2] + (f"-{ONES[number % 10]}" if number % 10 else "")
    if number < 1000:
        return f"{ONES[number // 100]} hundred" + (f" and {cardinal(number % 100)}" if number % 100 else "")
    scale = (len(str(number)) - 1) // 3
    high, rest = divmod(number, 1000**scale)
    joint = " and " if 0 < rest < 100 else " "
    return f"{cardinal(high)} {_SCALES[scale - 1]}" + (joint + cardinal(rest) if rest else "")


def ordinal(number: int) -> str:
    """The words of a place, from 0 on: "twenty-first"."""
    words = cardinal(number)
    cut = max(words.rfind(" "), words.rfind("-")) + 1
    last = words[cut:]
    regular = f"{last[:-1]}ieth" if last.endswith("y") else f"{last}th"
    return words[:cut] + _IRREGULAR.get(last, regular)


def year(number: int) -> str:
    """The words of a year: "nineteen twelve", "nineteen oh five", "two thousand and five"."""
    century, rest = divmod(number, 100)
    if not 1000 <= number <= 9999 or (century % 10 == 0 and rest < 10):
        return cardinal(number)
    return f"{cardinal(century)} " + (f"oh {ONES[rest]}" if 0 < rest < 10 else cardinal(rest) if rest else "hundred")
