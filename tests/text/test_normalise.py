"""Written text becomes what a speaker says: golden lines, numbers against num2words, and what holds for any text."""

import random
import re
import time
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from jaxgen.core.errors import UserError
from jaxgen.text import find_language, normalise
from jaxgen.text.numbers import de, en

LANGUAGES = {"en": en, "de": de}
GOLDEN = {
    code: [line.split("\t") for line in (Path(__file__).parent / f"golden_{code}.tsv").read_text().splitlines()]
    for code in LANGUAGES
}
each_language = pytest.mark.parametrize("code", LANGUAGES)
PIECES = st.sampled_from(
    re.split(
        r"\s+",
        """1 12 1912 3. 3rd 9:45 $3.50 3,50 € 1/2 2½ . .. , ! … - – — / @ www. http:// a.b@c.de e.g. etc. z. B. usw. Dr. St. No.
        # XIV Henry Karl BBC TVs km/h 5kg °C % 1,234.5 1.234,5 00 +49 555-0123 Uhr Mai May am der 🙂 ä é ß ² ( " ' I A. U.S. _
        * ²³ ½ ٣ １ 1st 90s 90er v. Chr. Mio. \u00ad \u200d""",
    )
)
JOINED = st.tuples(st.lists(PIECES, max_size=12), st.sampled_from(["", " "])).map(lambda parts: parts[1].join(parts[0]))
TEXTS = st.one_of(st.text(max_size=60), JOINED)


def test_there_are_enough_golden_lines():
    assert all(len(lines) >= 200 and all(len(line) == 2 for line in lines) for lines in GOLDEN.values())


@pytest.mark.parametrize(("code", "written", "spoken"), [(code, *line) for code in GOLDEN for line in GOLDEN[code]])
def test_golden_line(code, written, spoken):
    said = normalise(written, find_language(code))
    assert (said.text, said.unknown) == (spoken, ())


@each_language
@settings(max_examples=200, deadline=None)
@given(text=TEXTS)
@example(text="e.!g.")
@example(text="9" * 5_000)
@example(text="\ud800 \x00")
def test_what_holds_for_any_text(code, text):
    language = find_language(code)
    said = normalise(text, language)
    assert set(said.text) <= set(language.alphabet)
    assert not re.search(r"\d", said.text)
    again = normalise(said.text, language)
    assert (again.text, again.unknown) == (said.text, ())
    assert not set(said.unknown) & set(language.alphabet)


@each_language
@pytest.mark.parametrize(
    "piece",
    ["word ", "1", "1,111,", "1.111.", "1-", "a.", "A.", "a-b.", "ab@", "1/", "1:", "(", "I", "Henry ", "am 3. ", "$1 ",
     " .", "etc.", "1 ", "-1", "🙂", "+1 ", "u. ", "www.", "A", "0 12 "],
)  # fmt: skip
def test_time_is_linear(code, piece):
    def seconds(times: int) -> float:
        begun = time.process_time()
        normalise(piece * times, language)
        return time.process_time() - begun

    language = find_language(code)
    seconds(100)
    short, long = (min(seconds(times) for _ in range(2)) for times in (500, 5_000))
    assert long < 30 * max(short, 0.002), (short, long)


@each_language
def test_ten_thousand_words(code):
    text = " ".join(written for written, _ in GOLDEN[code]) + " "
    text = (text * 12)[:60_000]
    begun = time.process_time()
    assert len(normalise(text, find_language(code)).text) > 50_000
    assert time.process_time() - begun < 5


def numbers() -> list[int]:
    random_numbers = random.Random(0)
    some = [random_numbers.randrange(10 ** random_numbers.randrange(3, 15)) for _ in range(2_000)]
    return [*range(1_300), *some, *(10**size for size in range(15)), *(2 * 10**size for size in range(15))]


@each_language
def test_numbers_are_those_of_num2words(code):
    reference = pytest.importorskip("num2words", reason="pip install 'jaxgen[dev]'").num2words
    module = LANGUAGES[code]

    def theirs(number: int, kind: str) -> str:
        return reference(number, lang=code, to=kind).replace(",", "").replace("oh-", "oh ").lower()

    for number in numbers():
        assert module.cardinal(number).lower() == theirs(number, "cardinal")
        assert module.ordinal(number).lower() == theirs(number, "ordinal")
    for number in range(1_100, 2_100):
        assert module.year(number) == theirs(number, "year")


def test_symbols_that_nobody_can_read_are_told():
    said = normalise("Good 🙂 day, Привет ☃!", find_language("en"))
    assert said.text == "good day,!" or said.text == "good day,"
    assert said.unknown == ("🙂", "П", "р", "и", "в", "е", "т", "☃")
    assert normalise("🙂🙂", find_language("de")).text == ""


def test_marks_without_a_sound_are_not_told():
    assert normalise("soft\u00adhy\u200dphen\ufeff e\u0301te\u0301", find_language("en")).unknown == ()


def test_a_language_that_is_not_there():
    with pytest.raises(UserError, match="the language of a text is 'fr', expected one of de, en"):
        find_language("fr")
