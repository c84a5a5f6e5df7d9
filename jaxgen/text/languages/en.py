"""English, as it is read in America: years in pairs of digits, months before days in dates of digits alone."""

import re

from jaxgen.text.language import (
    ROMAN,
    Language,
    Rule,
    abbreviations,
    address,
    after,
    apart,
    at_start,
    before,
    digits,
    ends_sentence,
    roman,
    words,
)
from jaxgen.text.numbers.en import DIGITS, MOST_DIGITS, ONES, TENS, cardinal, ordinal, year

_INTEGER = r"(?:\d{1,3}(?:,\d{3})++(?!\d)|\d++)"
_NUMBER = rf"(?:{_INTEGER}(?:\.\d++)?+)"


def _integer(text: str) -> str:
    plain = text.replace(",", "")
    if len(plain) > MOST_DIGITS or (plain.startswith("0") and plain != "0"):
        return digits(plain, DIGITS)
    return cardinal(int(plain))


def number(text: str) -> str:
    """A number as it is written: "1,234.5"."""
    whole, point, rest = text.partition(".")
    return _integer(whole) + (f" point {digits(rest, DIGITS)}" if point else "")


_MONTHS = (
    words(
    "January February March April May June July August September October November December"
)
)  # fmt: skip
_SHORT_MONTHS = {month[:3]: month for month in _MONTHS} | {"Sept": "September"}
_MONTH = rf"(?:(?P<month>{'|'.join(_MONTHS)})|(?P<short>{'|'.join(_SHORT_MONTHS)})\.?)"


def _month(match: re.Match[str]) -> str:
    return match["month"] or _SHORT_MONTHS[match["short"]]


def _year_behind(match: re.Match[str]) -> str:
    return f" {year(int(match['year']))}" if match["year"] else ""


def _day_month(match: re.Match[str]) -> str:
    the = "" if re.search(r"\bthe $", before(match), re.IGNORECASE) else "the "
    of = f"{the}{ordinal(int(match['day']))} of {_month(match)}"
    return of + _year_behind(match)


def _month_day(match: re.Match[str]) -> str:
    spoken = f"{_month(match)} {ordinal(int(match['day']))}"
    return spoken + (f",{_year_behind(match)}" if match["year"] else "")


def _digit_date(match: re.Match[str]) -> str:
    month, day = int(match["m"]), int(match["d"])
    if month > 12 >= day:
        month, day = day, month
    if not (1 <= month <= 12 and 1 <= day <= 31):
        return match[0]
    return f"{_MONTHS[month - 1]} {ordinal(day)}, {year(int(match['year']))}"


def _half(match: re.Match[str]) -> str:
    """A.m. or p.m., spelled."""
    said = match["half"]
    if not said:
        return ""
    stop = "." if said.endswith(".") and ends_sentence(match) else ""
    return f" {'ay' if said[0] in 'aA' else 'pee'} em{stop}"


def _time(match: re.Match[str]) -> str:
    hour, minute, second = int(match["hour"]), int(match["minute"]), match["second"]
    if hour > 24 or minute > 59:
        return f"{cardinal(hour)} to {cardinal(minute)}"
    half = _half(match)
    minutes = f" {cardinal(minute)}" if minute > 9 else f" oh {ONES[minute]}" if minute else ""
    if not minute and not half and not second:
        minutes = " o'clock" if 1 <= hour <= 12 else " hundred hours"
    seconds = ""
    if second:
        seconds = f" and {cardinal(int(second))} second{'s' * (int(second) != 1)}"
    return cardinal(hour) + minutes + seconds + half


def _full_hour(match: re.Match[str]) -> str:
    return cardinal(int(match["hour"])) + _half(match)


_CURRENCIES = {
    "$": ("dollar", "dollars", "cent", "cents"),
    "£": ("pound", "pounds", "penny", "pence"),
    "€": ("euro", "euros", "cent", "cents"),
    "¥": ("yen", "yen", "sen", "sen"),
}
_LARGE = r"(?: (?P<large>thousand|million|billion|trillion)\b)?"


def _money(match: re.Match[str]) -> str:
    one, many, cent, cents = _CURRENCIES[match["sign"] or match["sign_behind"]]
    amount = (match["amount"] or match["amount_before"]).replace(",", "")
    whole, _, rest = amount.partition(".")
    large = match["large"] or match["large_before"]
    if large:
        return f"{number(amount)} {large} {many}"
    if len(rest) != 2:
        return f"{number(amount)} {one if amount == '1' else many}"
    parts = [f"{_integer(whole)} {one if whole == '1' else many}"] if whole.strip("0") else []
    if int(rest):
        parts.append(f"{cardinal(int(rest))} {cent if int(rest) == 1 else cents}")
    return " and ".join(parts) or f"zero {many}"


_UNITS = {
    "km/h": ("kilometer per hour", "kilometers per hour"),
    "m/s": ("meter per second", "meters per second"),
    "mph": ("mile per hour", "miles per hour"),
    **{unit: (name, f"{name}s") for unit, name in {
        "km": "kilometer", "m": "meter", "cm": "centimeter", "mm": "millimeter", "kg": "kilogram", "g": "gram",
        "mg": "milligram", "lb": "pound", "lbs": "pound", "oz": "ounce", "mi": "mile", "yd": "yard", "ml": "milliliter",
        "l": "liter", "L": "liter", "ha": "hectare", "kW": "kilowatt", "W": "watt", "MW": "megawatt", "V": "volt",
        "kWh": "kilowatt hour", "kB": "kilobyte", "KB": "kilobyte", "MB": "megabyte", "GB": "gigabyte",
        "TB": "terabyte", "ms": "millisecond", "s": "second", "min": "minute", "h": "hour", "hr": "hour",
        "hrs": "hour", "sec": "second", "km²": "square kilometer", "m²": "square meter", "m³": "cubic meter",
        "cm²": "square centimeter", "dB": "decibel", "°": "degree",
    }.items()},
    **{unit: (name, name) for unit, name in {
        "Hz": "hertz", "kHz": "kilohertz", "MHz": "megahertz", "GHz": "gigahertz", "%": "percent",
    }.items()},
    "ft": ("foot", "feet"),
    "°C": ("degree celsius", "degrees celsius"),
    "°F": ("degree fahrenheit", "degrees fahrenheit"),
}  # fmt: skip
_UNIT = "|".join(re.escape(unit) for unit in sorted(_UNITS, key=len, reverse=True))


def _unit(match: re.Match[str]) -> str:
    amount, unit = match["amount"], match["unit"]
    stop = "." if match[0].endswith(".") and ends_sentence(match) else ""
    until = f" to {number(match['until'])}" if match["until"] else ""
    return f"{number(amount)}{until} {_UNITS[unit][0 if amount == '1' and not until else 1]}{stop}"


_PARTS = {2: ("half", "halves"), 4: ("quarter", "quarters")}


def _fraction(match: re.Match[str]) -> str:
    whole, top, bottom = match["whole"], int(match["top"]), int(match["bottom"])
    if not 1 < bottom <= 100 or not 0 < top < bottom:
        return f"{(whole and cardinal(int(whole)) + ' ') or ''}{cardinal(top)} slash {cardinal(bottom)}"
    one, many = _PARTS.get(bottom, (ordinal(bottom), f"{ordinal(bottom)}s"))
    said = f"{cardinal(top)} {one if top == 1 else many}"
    if not whole:
        return said
    return f"{number(whole)} and {said.replace('one ', 'a ', 1) if bottom == 2 else said}"


def _decade(match: re.Match[str]) -> str:
    century, tens = match["century"], int(match["tens"])
    names = {0: "hundreds" if century else "two thousands", 1: "tens"}
    plural = names.get(tens) or f"{TENS[tens - 2][:-1]}ies"
    if century == "20" and not tens:
        return "two thousands"
    return f"{cardinal(int(century))} {plural}" if century else plural


_YEAR_WORDS = re.compile(
    r"\b(in|since|by|from|until|till|before|after|during|around|about|circa|year|early|late|mid|spring|summer|autumn|fall|"
    rf"winter|of|{'|'.join(_MONTHS)}),? $",
    re.IGNORECASE,
)
_COUNTED = re.compile(
    r" (?:[a-z]+ )?(?!(?:was|is|has|does|this|its|his|as|us|thus)\b)(?:[a-z]+s|people|men|women|children)\b"
)


def _maybe_year(match: re.Match[str]) -> str:
    is_year = _YEAR_WORDS.search(before(match)) or not (match[0] < "1100" or _COUNTED.match(after(match)))
    return (year if is_year else cardinal)(int(match[0]))


def _years(match: re.Match[str]) -> str:
    start, stop = match["start"], match["stop"]
    return f"{year(int(start))} to {year(int(stop)) if len(stop) == 4 else cardinal(int(stop))}"


_RULERS = (
    "Alexander|Alfonso|Benedict|Catherine|Charles|Christian|Clement|Edward|Elizabeth|Francis|Frederick|George|Gregory|"
    "Gustav|Henry|Innocent|Ivan|James|John|Leo|Leopold|Louis|Mary|Napoleon|Nicholas|Otto|Paul|Peter|Philip|Philippe|Pius|"
    "Ramses|Richard|Robert|Rudolf|Urban|Victor|Wilhelm|William|Xerxes"
)
_NUMBERED = (
    "Chapter|Part|Act|Scene|Book|Volume|Section|Article|Appendix|War|Type|Class|Phase|Level|Apollo|Grade|Lesson|Title"
)


def _roman(match: re.Match[str]) -> str:
    total = roman(match["numeral"])
    if match["ruler"]:
        return f"{match['ruler']} the {ordinal(total)}"
    return f"{match['numbered']} {cardinal(total)}"


_IN_ADDRESSES = {".": "dot", "@": "at", "/": "slash", "-": "dash", "_": "underscore", ":": "colon", "~": "tilde"}


def _address(match: re.Match[str]) -> str:
    return address(match[0], _IN_ADDRESSES, LANGUAGE.spell("www"))


def _acronym(match: re.Match[str]) -> str:
    word, plural = match["word"], match["plural"] or ""
    return match[0] if word in LANGUAGE.said_as_words else LANGUAGE.spell(word) + plural


def _dotted(match: re.Match[str]) -> str:
    return LANGUAGE.spell(match[0].replace(".", "")) + ("." if ends_sentence(match) else "")


def _degrees_below(match: re.Match[str]) -> str:
    return f"minus {match[1]}"


_TITLES = {
    "Mr.": "mister", "Mrs.": "missus", "Ms.": "miz", "Dr.": "doctor", "Prof.": "professor", "Jr.": "junior",
    "Sr.": "senior", "Gen.": "general", "Col.": "colonel", "Capt.": "captain", "Lt.": "lieutenant", "Sgt.": "sergeant",
    "Rev.": "reverend", "Gov.": "governor", "Sen.": "senator", "Mt.": "mount", "Ave.": "avenue", "Blvd.": "boulevard",
    "Rd.": "road", "Inc.": "incorporated", "Ltd.": "limited", "Corp.": "corporation", "Co.": "company",
    "Bros.": "brothers", "PhD": "pee aitch dee",
}  # fmt: skip
_MAY_CLOSE = {"jr.", "sr.", "ave.", "blvd.", "rd.", "inc.", "ltd.", "corp.", "co.", "bros.", "etc.", "et al."}
_ABBREVIATIONS = {
    "e. g.": "for example", "i. e.": "that is", "etc.": "et cetera", "vs.": "versus", "approx.": "approximately",
    "et al.": "and others", "dept.": "department", "w/o": "without",
}  # fmt: skip
_WITH_NUMBER = {
    "no.": "number", "nos.": "numbers", "fig.": "figure", "vol.": "volume", "p.": "page", "pp.": "pages", "ch.": "chapter",
    "sec.": "section", "ca.": "circa", "c.": "circa", "op.": "opus", "#": "number",
}  # fmt: skip


def _title(match: re.Match[str]) -> str:
    return _TITLES[match[0]] + ("." if match[0].lower() in _MAY_CLOSE and ends_sentence(match) else "")


def _saint(match: re.Match[str]) -> str:
    if re.match(r" [A-Z]", after(match)):
        return "saint"
    return "street." if ends_sentence(match) else "street"


_HALF = r"(?P<half>[ap]\.? ?m\b\.?|[AP]\.? ?M\b\.?)"
_YEAR = r"(?P<year>[12]\d{3})(?!\d)"
_RULES: tuple[Rule, ...] = (
    (re.compile(r"(?<![\w./:@+-])(?:https?://|www\.)(?=\w)[^\s()\"']+", re.IGNORECASE), _address),
    (re.compile(r"(?<![\w.+@-])[\w.+-]++@[\w-]++(?:\.[\w-]++)+"), _address),
    (re.compile(r"(?<![\w.@-])(?:[a-z][a-z0-9-]*+\.)+?(?:com|org|net|edu|gov|io)(?:/[^\s()\"']*)?(?![\w-])"), _address),
    (at_start(r"(?P<year>[12]\d{3})-(?P<m>\d\d)-(?P<d>\d\d)(?![\d-])"), _digit_date),
    (at_start(r"(?<!/)(?P<m>\d{1,2})/(?P<d>\d{1,2})/(?P<year>[12]\d{3})(?![\d/])"), _digit_date),
    (
        at_start(rf"(?P<day>[12]?\d|3[01])(?:st|nd|rd|th)?(?: of)? {_MONTH}(?!\w)(?:,? {_YEAR})?"),
        _day_month,
    ),
    (
        re.compile(rf"\b{_MONTH} (?P<day>[12]?\d|3[01])(?:st|nd|rd|th)?(?![\d:]|,\d|\.\d)(?:,? {_YEAR})?"),
        _month_day,
    ),
    (re.compile(r"\b(?P<short>Jan|Feb|Mar|Apr|Jun|Jul|Aug|Sept?|Oct|Nov|Dec)\.(?= \d)"), lambda m: _SHORT_MONTHS[m[1]]),
    (
        at_start(rf"(?P<hour>\d{{1,2}}):(?P<minute>\d\d)(?::(?P<second>\d\d))?(?![\d:])(?: ?{_HALF})?"),
        _time,
    ),
    (at_start(rf"(?P<hour>1[0-2]|\d) ?{_HALF}"), _full_hour),
    (at_start(r"(?P<a>\d++):(?P<b>\d++)(?![\d:])"), lambda m: f"{_integer(m['a'])} to {_integer(m['b'])}"),
    (
        re.compile(
            rf"(?P<sign>[$£€¥]) ?(?P<amount>{_NUMBER}){_LARGE}"
            rf"|(?<!\d)(?<!\d[.,])(?P<amount_before>{_NUMBER})(?: (?P<large_before>million|billion))? ?(?P<sign_behind>[$£€¥])"
        ),
        _money,
    ),
    (
        re.compile(r"(?<![\d.,-])\(\d{3}\) ?\d{3}-\d{4}(?!\d)|(?<![\d.,-])(?:\d-)?(?:\d{3}-)?\d{3}-\d{4}(?![\d-])"),
        lambda match: digits(match[0], DIGITS),
    ),
    (re.compile(r"(?<![\d+])\+\d++(?:[ -]\d++)++"), lambda match: "plus " + digits(match[0], DIGITS)),
    (at_start(r"(?P<century>1[1-9]|20)?(?P<tens>\d)0'?s\b"), _decade),
    (at_start(rf"(?P<number>{_INTEGER})(?:st|nd|rd|th)\b"), lambda m: _place(m["number"])),
    (at_start(r"(?:(?P<whole>\d{1,6}) )?(?P<top>\d{1,3})/(?P<bottom>\d{1,3})(?![\d/])"), _fraction),
    (re.compile(r"(?<![\w)])-(?=\d)"), lambda match: "minus "),
    (
        at_start(rf"(?P<amount>{_NUMBER})(?:-(?P<until>{_NUMBER}))?[ -]?(?P<unit>{_UNIT})(?![\w²³/])(?:\.(?= [a-z]))?"),
        _unit,
    ),
    (at_start(r"(?P<start>1[0-9]\d\d|20\d\d)-(?P<stop>1[0-9]\d\d|20\d\d|\d\d)(?![\d-])"), _years),
    (at_start(r"(?<!-)(?P<a>\d++)-(?P<b>\d++)(?![-\d])"), lambda m: f"{_integer(m['a'])} to {_integer(m['b'])}"),
    (re.compile(rf"\b(?:(?P<ruler>{_RULERS})|(?P<numbered>{_NUMBERED})) (?=[IVX]){ROMAN}\b"), _roman),
    (re.compile(rf"\b(?:{'|'.join(map(re.escape, _TITLES))})(?!\w)"), _title),
    (re.compile(r"\bSt\."), _saint),
    (re.compile(r"(?<!\w)(?:no|nos|fig|vol|pp?|ch|sec|ca?|op)\.(?= ?\d)|#(?=\d)", re.IGNORECASE),
     lambda match: _WITH_NUMBER[match[0].lower()] + " "),
    (re.compile(r"(?<![\w.])(?:[A-Z]\.){2,}"), _dotted),
    (re.compile(r"(?<![\w.])(?P<letter>[A-HJ-Z])\.(?= ?[A-Z])"), lambda match: LANGUAGE.spell(match["letter"])),
    (re.compile(r"(?<!\w)(?P<word>[A-Z]{2,4})(?P<plural>s)?(?![a-zA-Z])"), _acronym),
    (re.compile(r"(?<=\d)(?:(?P<word>[A-Z]{1,5})(?P<plural>s)?)(?![a-zA-Z])"), lambda match: f" {_acronym(match)}"),
    (re.compile(r"(?<![\w'])(?P<word>[B-HJ-NP-Z])(?P<plural>s)?(?![\w'.])|(?<![\w'])(?P<w>[A-Z])(?=\d)"),
     lambda match: LANGUAGE.spell(match["word"] or match["w"]) + (match["plural"] or "")),
    (at_start(r"(?:1\d\d\d|20\d\d)(?![\d]|,\d{3}|[.:/]\d)"), _maybe_year),
    (at_start(rf"{_INTEGER}(?:\.\d++){{2,}}+"), lambda m: " point ".join(map(_integer, m[0].split(".")))),
    (re.compile(r"(?<!\d)\.(?=\d)"), lambda match: " point "),
    (at_start(_NUMBER), lambda match: apart(match, number(match[0]))),
    (re.compile(r"\d+"), lambda match: apart(match, _integer(match[0]))),
    (re.compile(r"\b(and|or)/(or|and)\b"), lambda match: f"{match[1]} {match[2]}"),
)  # fmt: skip


def _place(text: str) -> str:
    plain = text.replace(",", "")
    return ordinal(int(plain)) if len(plain) <= MOST_DIGITS else _integer(plain)


LANGUAGE: Language = Language(
    letters="abcdefghijklmnopqrstuvwxyz",
    letter_names=dict(
        zip(
            "abcdefghijklmnopqrstuvwxyz",
            words("ay bee see dee ee eff gee aitch eye jay kay ell em en oh pee cue ar ess tee you vee double-you ex why zee"),
            strict=True,
        )
    ),
    symbols={
        "%": "percent", "&": "and", "+": "plus", "=": "equals", "@": "at", "#": "hash", "/": "slash", "°": "degrees",
        "$": "dollars", "£": "pounds", "€": "euros", "¥": "yen", "§": "section", "×": "times", "÷": "divided by",
        "±": "plus or minus", "<": "less than", ">": "greater than", "²": "squared", "³": "cubed", "~": "about",
        "_": "underscore", "*": "star", "\\": "backslash", "|": "bar", "^": "caret", "©": "copyright", "¢": "cents",
        "№": "number",
    },
    rules=_RULES,
    abbreviations=abbreviations(_ABBREVIATIONS, _MAY_CLOSE),
    said_as_words=frozenset(
        words(
    "AIDS AND ALL AM ARE BUT CAN DO FOR GO HE IF IN IS IT LASER ME MY NASA NATO NEVER NO NOT NOW OF OFF ON "
    "OPEC OR PIN RADAR RAM ROM SHE SIM SO STOP THAT THE THEY TO UNESCO UNICEF UP VERY WE WHO WHY YES YOU ZIP "
    "MUST WILL HELP HERE"
)
    ),
)  # fmt: skip
