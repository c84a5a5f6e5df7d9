"""German, as it is read in Germany: decimal commas, points between thousands, ordinals that agree with their nouns."""

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
from jaxgen.text.numbers.de import DIGITS, MOST_DIGITS, TENS, cardinal, joined, ordinal, year

_INTEGER = r"(?:\d{1,3}(?:\.\d{3})++(?!\d)|\d++)"
_NUMBER = rf"(?:{_INTEGER}(?:,\d++)?+)"
_FEMININE = re.compile(r"[a-zäöüß-]*(?:e|ung|heit|keit|ion|tät|schaft|ik|ur|[^l]in)\b", re.IGNORECASE)


def _integer(text: str) -> str:
    plain = text.replace(".", "")
    if len(plain) > MOST_DIGITS or (plain.startswith("0") and plain != "0"):
        return digits(plain, DIGITS)
    return cardinal(int(plain))


def number(text: str) -> str:
    """A number as it is written: "1.234,5"."""
    whole, comma, rest = text.partition(",")
    return _integer(whole) + (f" Komma {digits(rest, DIGITS)}" if comma else "")


def _counting(text: str, noun: str) -> str:
    """A number before a noun, with which "eins" agrees."""
    if text != "1":
        return number(text)
    return "eine" if _FEMININE.match(noun) else "ein"


def _place(text: str) -> str:
    """An ordinal as it is written, digit by digit where it has no name."""
    plain = text.replace(".", "")
    return ordinal(int(plain)) if len(plain) <= MOST_DIGITS else digits(plain, DIGITS)


_MONTHS = words("Januar Februar März April Mai Juni Juli August September Oktober November Dezember")
_SHORT_MONTHS = {
    **{month[:3]: month for month in _MONTHS if month not in ("Mai", "Juni", "Juli")},
    "Sept": "September",
    "Mrz": "März",
    "Jun": "Juni",
    "Jul": "Juli",
    "Jänner": "Jänner",
}
_MONTH = rf"(?:(?P<month>{'|'.join(_MONTHS)})|(?P<short>{'|'.join(_SHORT_MONTHS)})\.?)"

_WEAK_N = re.compile(
    r"\b(?:am|im|vom|zum|beim|zur|den|dem|des|einem|einen|einer|eines|diesem|diesen|dieses|jedem|jeden|"
    r"seinem|seinen|seiner|ihrem|ihren|ihrer|meinem|meinen|meiner|unserem|unseren|unserer|"
    r"(?:in|mit|von|bei|nach|aus|seit|zu|vor|während|wegen|an|auf|ab|bis zu|unter|über|trotz) (?:der|dieser|jeder)) $",
    re.IGNORECASE,
)
_WEAK_E = re.compile(r"\b(?:der|die|das|eine|dieser|diese|jede|jeder|seine|ihre|meine|unsere) $", re.IGNORECASE)
_STRONG_S = re.compile(r"\b(?:ein|kein|sein|ihr|mein) $", re.IGNORECASE)
_PREPOSITION = re.compile(r"\b(?:ab|bis|seit|vor|nach|mit) $", re.IGNORECASE)


def _inflected(words: str, match: re.Match[str], neuter: bool = False) -> str:
    """An ordinal with the ending that what stands before it asks for; alone that of "dritter Mai"."""
    said = before(match)
    if _WEAK_N.search(said) or _PREPOSITION.search(said):
        return f"{words}n"
    if _WEAK_E.search(said):
        return words
    return words + ("s" if neuter and _STRONG_S.search(said) else "r")


def _date(match: re.Match[str]) -> str:
    month = match["month"] or _SHORT_MONTHS[match["short"]]
    spoken = f"{_inflected(ordinal(int(match['day'])), match)} {month}"
    return spoken + (f" {year(int(match['year']))}" if match["year"] else "")


def _digit_date(match: re.Match[str]) -> str:
    day, month = int(match["day"]), int(match["m"])
    if not (1 <= month <= 12 and 1 <= day <= 31):
        return match[0]
    spoken = " ".join(_inflected(ordinal(each), match) for each in (day, month))
    written = match["year"]
    return f"{spoken} {year(int(written))}" if written else spoken


def _whole_date(match: re.Match[str]) -> str:
    month, day = int(match["m"]), int(match["d"])
    if not (1 <= month <= 12 and 1 <= day <= 31):
        return match[0]
    return f"{_inflected(ordinal(day), match)} {_MONTHS[month - 1]} {year(int(match['year']))}"


def _time(match: re.Match[str]) -> str:
    hour, minute, second = int(match["hour"]), int(match["minute"]), match["second"]
    if hour > 24 or minute > 59:
        return f"{cardinal(hour)} zu {cardinal(minute)}"
    spoken = f"{'ein' if hour == 1 else cardinal(hour)} Uhr" + (f" {cardinal(minute)}" if minute else "")
    return spoken + (
        f" und {_counting(str(int(second)), 'Sekunde')} Sekunde{'n' * (int(second) != 1)}" if second else ""
    )


_CURRENCIES = {
    "€": ("Euro", "Cent"), "EUR": ("Euro", "Cent"), "$": ("Dollar", "Cent"), "£": ("Pfund", "Pence"),
    "CHF": ("Franken", "Rappen"), "¥": ("Yen", "Sen"),
}  # fmt: skip
_LARGE = {"Mio.": ("Million", "Millionen"), "Mrd.": ("Milliarde", "Milliarden"), "Tsd.": ("Tausend", "Tausend")}
_SIGN = "[€$£¥]|EUR|CHF"


def _money(match: re.Match[str]) -> str:
    unit, small = _CURRENCIES[match["sign"] or match["sign_before"]]
    amount, large = match["amount"] or match["amount_behind"], match["large"]
    if large:
        return f"{_large_number(amount, large)} {unit}"
    whole, _, rest = amount.replace(".", "").partition(",")
    if amount.endswith(",-") or rest in ("-", "–"):
        rest = ""
    if rest and len(rest) != 2:
        return f"{number(amount)} {unit}"
    if rest and not whole.strip("0") and int(rest):
        return f"{_counting(str(int(rest)), unit)} {small}"
    return f"{_counting(whole, unit)} {unit}" + (f" {cardinal(int(rest))}" if rest and int(rest) else "")


def _large_number(amount: str, large: str) -> str:
    one, many = _LARGE.get(large, (large, large))
    return f"eine {one}" if amount == "1" and one != many else f"{number(amount)} {many}"


_UNITS = {
    unit: (article, *(names.split("|") * 2)[:2])
    for article, units in {
        "ein": {
            "km/h": "Kilometer pro Stunde|Kilometer pro Stunde", "m/s": "Meter pro Sekunde|Meter pro Sekunde", "km": "Kilometer",
            "m": "Meter", "cm": "Zentimeter", "mm": "Millimeter", "kg": "Kilogramm", "g": "Gramm", "mg": "Milligramm",
            "l": "Liter", "ml": "Milliliter", "ha": "Hektar", "kW": "Kilowatt", "W": "Watt", "MW": "Megawatt", "V": "Volt",
            "A": "Ampere", "PS": "PS", "kB": "Kilobyte", "MB": "Megabyte", "GB": "Gigabyte", "TB": "Terabyte",
            "Hz": "Hertz", "kHz": "Kilohertz", "MHz": "Megahertz", "GHz": "Gigahertz", "dB": "Dezibel", "%": "Prozent",
            "km²": "Quadratkilometer", "m²": "Quadratmeter", "cm²": "Quadratzentimeter", "m³": "Kubikmeter",
            "qm": "Quadratmeter", "°C": "Grad Celsius", "°F": "Grad Fahrenheit", "°": "Grad",
        },
        "eine": {
            "t": "Tonne|Tonnen", "kWh": "Kilowattstunde|Kilowattstunden", "h": "Stunde|Stunden", "Std.": "Stunde|Stunden",
            "min": "Minute|Minuten", "Min.": "Minute|Minuten", "s": "Sekunde|Sekunden", "Sek.": "Sekunde|Sekunden",
            "ms": "Millisekunde|Millisekunden",
        },
    }.items()
    for unit, names in units.items()
}  # fmt: skip
_UNIT = "|".join(re.escape(unit) for unit in sorted(_UNITS, key=len, reverse=True))


def _unit(match: re.Match[str]) -> str:
    amount, (article, one, many) = match["amount"], _UNITS[match["unit"]]
    stop = "." if ends_sentence(match) else ""
    if match["until"]:
        return f"{number(amount)} bis {number(match['until'])} {many}{stop}"
    name = one if amount == "1" else many
    return f"{article if amount == '1' else number(amount)} {LANGUAGE.spell(name) if name == 'PS' else name}{stop}"


def _part(bottom: int) -> str:
    return f"{ordinal(bottom)[:-2]}tel" if bottom < 20 else f"{ordinal(bottom)}l"


def _fraction(match: re.Match[str]) -> str:
    whole, top, bottom = match["whole"], int(match["top"]), int(match["bottom"])
    if not 1 < bottom <= 100 or not 0 < top < bottom:
        return f"{whole + ' ' if whole else ''}{cardinal(top)} Schrägstrich {cardinal(bottom)}"
    if bottom == 2:
        return f"{joined(int(whole))}einhalb" if whole and 0 < int(whole) < 1000 else "ein halb"
    said = f"{joined(top)} {_part(bottom).capitalize()}"
    return f"{number(whole)} {said}" if whole else said


def _decade(match: re.Match[str]) -> str:
    tens, century = int(match["tens"]), match["century"]
    if century == "20":
        return f"{cardinal(2000 + 10 * tens)}er"
    word = "zehner" if tens == 1 else f"{TENS[tens - 2]}er" if tens else "er"
    return (f"{joined(int(century))}hundert" if century else "") + word


_YEAR_WORDS = re.compile(
    r"\b(?:jahr|jahre|jahren|jahres|seit|ab|bis|von|um|vor|nach|und|anfang|mitte|ende|sommer|winter|frühling|frühjahr|herbst|"
    rf"in|{'|'.join(_MONTHS)}) $",
    re.IGNORECASE,
)


def _maybe_year(match: re.Match[str]) -> str:
    is_counted = re.match(r" [A-ZÄÖÜ][a-zäöüß]+", after(match)) and not _YEAR_WORDS.search(before(match))
    return (cardinal if is_counted else year)(int(match[0]))


def _years(match: re.Match[str]) -> str:
    start, stop = match["start"], match["stop"]
    return f"{year(int(start))} bis {year(int(stop)) if len(stop) == 4 else cardinal(int(stop))}"


_QUEENS = "Elisabeth|Katharina|Maria|Anna|Margarete|Christina|Beatrix|Isabella"
_KINGS = (
    "Albrecht|Alexander|August|Benedikt|Christian|Clemens|Ernst|Ferdinand|Franz|Friedrich|Georg|Gregor|Gustav|Heinrich|"
    "Innozenz|Iwan|Jakob|Johann|Johannes|Joseph|Karl|Konrad|Leo|Leopold|Ludwig|Maximilian|Napoleon|Nikolaus|Otto|Paul|"
    "Peter|Philipp|Pius|Richard|Rudolf|Wilhelm"
)
_OF_KINGS = re.compile(r"\b(?:von|mit|unter|bei|nach|seit|zu|vom|dem|könig|kaiser|papst) $", re.IGNORECASE)
_DATIVE = re.compile(r"\b(?:von|mit|unter|bei|nach|seit|zu|vom|dem)(?: (?:König|Kaiser|Papst|Königin|Kaiserin))? $")


def _ruler(match: re.Match[str]) -> str:
    place = ordinal(roman(match["numeral"]))
    stop = "." if ends_sentence(match) and not re.match(r" [A-ZÄÖÜ]", after(match)) else ""
    dative = _DATIVE.search(before(match))
    if match["queen"]:
        case = f"der {place}n" if match["of_queen"] or dative else f"die {place}"
        return f"{match['queen']}{match['of_queen']} {case}{stop}"
    case = f"des {place}n" if match["of_king"] else f"dem {place}n" if dative else f"der {place}"
    return f"{match['king']}{match['of_king']} {case}{stop}"


_ORDERED = (
    "Jahrhunderts?|Jh\\.|Weltkriegs?|Stock|Klasse|Platz|Auflage|Kapitels?|Mal|Tag(?:es)?|Geburtstags?|Bundesliga|Etage|Runde|"
    "Woche|Semester|Spieltag|Lebensjahr|Preis|Teil|Band|Akt|Satz|Stunde|Minute|Jahrestag|Advent|Klässler"
)


def _ordered(match: re.Match[str]) -> str:
    neuter = re.match(r" (?:Kapitel|Mal|Semester|Jahrhundert|Kind|Jahr|Tor|Lebensjahr)", after(match)) is not None
    return _inflected(_place(match["number"]), match, neuter)


def _after_article(match: re.Match[str]) -> str:
    """An ordinal, where an article stands before it; else a number at the end of a sentence."""
    said = before(match)
    if any(words.search(said) for words in (_WEAK_N, _WEAK_E, _STRONG_S)):
        return _ordered(match)
    return match[0]


_IN_ADDRESSES = {
    ".": "Punkt", "@": "ät", "/": "Schrägstrich", "-": "Minus", "_": "Unterstrich", ":": "Doppelpunkt", "~": "Tilde",
}  # fmt: skip


def _address(match: re.Match[str]) -> str:
    return address(match[0], _IN_ADDRESSES, LANGUAGE.spell("www"))


def _acronym(match: re.Match[str]) -> str:
    word, plural = match["word"], match["plural"] or ""
    return match[0] if word in LANGUAGE.said_as_words else LANGUAGE.spell(word) + plural


_BEFORE_NUMBERS = {
    "nr.": "Nummer", "s.": "Seite", "bd.": "Band", "kap.": "Kapitel", "abs.": "Absatz", "art.": "Artikel", "abb.": "Abbildung",
    "tel.": "Telefon", "§": "Paragraf", "op.": "Opus", "ca.": "zirka", "§§": "Paragrafen", "#": "Nummer",
}  # fmt: skip
_MAY_CLOSE = {"usw.", "etc.", "u.s.w.", "u.a.", "jh.", "v.chr.", "n.chr.", "u.ä.", "o.ä.", "u.v.m.", "hbf.", "jr."}
_ABBREVIATIONS = {
    "z. B.": "zum Beispiel", "usw.": "und so weiter", "u. s. w.": "und so weiter", "d. h.": "das heißt",
    "u. a.": "unter anderem", "bzw.": "beziehungsweise", "ca.": "zirka", "evtl.": "eventuell", "ggf.": "gegebenenfalls",
    "inkl.": "inklusive", "vgl.": "vergleiche", "v. Chr.": "vor Christus", "n. Chr.": "nach Christus",
    "etc.": "et cetera", "o. ä.": "oder ähnliches", "u. ä.": "und ähnliches", "i. d. R.": "in der Regel",
    "z. T.": "zum Teil", "z. Zt.": "zur Zeit", "m. E.": "meines Erachtens", "sog.": "sogenannte",
    "bzgl.": "bezüglich",
   
    "zzgl.": "zuzüglich", "u. v. m.": "und vieles mehr", "Jh.": "Jahrhundert",
    "Hbf.": "Hauptbahnhof", "allg.": "allgemein", "bes.": "besonders", "mind.": "mindestens",
    "i. A.": "im Auftrag", "s. o.": "siehe oben", "s. u.": "siehe unten", "u. U.": "unter Umständen",
}  # fmt: skip
_TITLES = {
    "Dr.": "Doktor", "Prof.": "Professor", "Hr.": "Herr", "Hrn.": "Herrn", "Fr.": "Frau", "St.": "Sankt", "Dipl.": "Diplom",
    "Ing.": "Ingenieur", "geb.": "geboren", "gest.": "gestorben", "verh.": "verheiratet", "Jr.": "Junior",
    "Mio.": "Millionen", "Mrd.": "Milliarden", "Tsd.": "Tausend", "MwSt.": "Mehrwertsteuer", "Nr.": "Nummer",
    "GmbH": "ge em be ha", "Lkw": "el ka we", "Pkw": "pe ka we", "TÜV": "tüf",
}  # fmt: skip

_YEAR = r"(?P<year>[12]\d{3})(?!\d)"
_RULES: tuple[Rule, ...] = (
    (re.compile(r"(?<![\w./:@+-])(?:https?://|www\.)(?=\w)[^\s()\"']+", re.IGNORECASE), _address),
    (re.compile(r"(?<![\w.+@-])[\w.+-]++@[\w-]++(?:\.[\w-]++)+"), _address),
    (re.compile(r"(?<![\w.@-])(?:[a-z][a-z0-9-]*+\.)+?(?:de|com|org|net|at|ch|eu)(?:/[^\s()\"']*)?(?![\w-])"), _address),
    (at_start(r"(?P<year>[12]\d{3})-(?P<m>\d\d)-(?P<d>\d\d)(?![\d-])"), _whole_date),
    (
        at_start(r"(?P<a>\d{1,2})\. (?P<and>und|bis|oder) (?P<b>\d{1,2})\.(?= [A-ZÄÖÜ])"),
        lambda m: f"{_inflected(_place(m['a']), m)} {m['and']} {_inflected(_place(m['b']), m)}",
    ),
    (at_start(rf"(?P<day>0?[1-9]|[12]\d|3[01])\. ?{_MONTH}(?![\wäöü])(?: {_YEAR})?"), _date),
    (
        at_start(r"(?P<day>0?[1-9]|[12]\d|3[01])\. ?(?P<m>0?[1-9]|1[0-2])\.(?: ?(?P<year>[12]\d{3})(?!\d)|(?![\d.]))"),
        _digit_date,
    ),
    (at_start(r"(?P<hour>\d{1,2})[:.](?P<minute>\d\d)(?::(?P<second>\d\d))?(?![\d:]) Uhr\b"), _time),
    (at_start(r"(?P<hour>\d{1,2}):(?P<minute>\d\d)(?::(?P<second>\d\d))?(?![\d:])"), _time),
    (at_start(r"1(?= Uhr\b)"), lambda match: "ein"),
    (at_start(r"(?P<a>\d++):(?P<b>\d++)(?![\d:])"), lambda m: f"{_integer(m['a'])} zu {_integer(m['b'])}"),
    (
        re.compile(
            rf"(?<!\d)(?<!\d[.,])(?P<amount>{_INTEGER}(?:,(?:\d++|-))?+)(?: (?P<large>Mio\.|Mrd\.|Tsd\.|Millionen|Milliarden|"
            rf"Million|Milliarde))? ?(?P<sign>{_SIGN})(?!\w)|(?P<sign_before>[€$£¥]) ?(?P<amount_behind>{_NUMBER})"
        ),
        _money,
    ),
    (at_start(rf"(?P<amount>{_NUMBER}) (?P<large>Mio\.|Mrd\.|Tsd\.)"), lambda m: _large_number(m["amount"], m["large"])),
    (re.compile(r"(?<![\d+])\+\d++(?:[ /-]\d++)++"), lambda match: "plus " + digits(match[0], DIGITS)),
    (at_start(r"0\d++(?:[ /-]\d{2,}+)++"), lambda match: digits(match[0], DIGITS)),
    (at_start(r"(?P<century>1[1-9]|20)?(?P<tens>[1-9])0er(?:n)?\b"), _decade),
    (at_start(r"(?:(?P<whole>\d{1,6}) )?(?P<top>\d{1,3})/(?P<bottom>\d{1,3})(?![\d/])"), _fraction),
    (re.compile(r"(?<![\w)])-(?=\d)"), lambda match: "minus "),
    (at_start(rf"(?P<amount>{_NUMBER})(?:-(?P<until>{_NUMBER}))?[ -]?(?P<unit>{_UNIT})(?![\wäöüß²³/])"), _unit),
    (at_start(r"(?P<start>1[0-9]\d\d|20\d\d)-(?P<stop>1[0-9]\d\d|20\d\d|\d\d)(?![\d-])"), _years),
    (at_start(r"(?<!-)(?P<a>\d++)-(?P<b>\d++)(?![-\d])"), lambda m: f"{_integer(m['a'])} bis {_integer(m['b'])}"),
    (
        re.compile(
            rf"\b(?:(?P<queen>{_QUEENS})(?P<of_queen>s?)|(?P<king>{_KINGS})(?P<of_king>s?)) (?=[IVX]){ROMAN}\b\.?"
        ),
        _ruler,
    ),
    (
        re.compile(rf"(?<!\d)(?<!\d[.,])(?P<number>\d{{1,4}})\.(?= (?:{_ORDERED})(?![a-zäöüß]))"),
        _ordered,
    ),
    (
        re.compile(r"(?<![\d.,])(?P<number>\d{1,3})\.(?= [A-ZÄÖÜ][a-zäöüß])"),
        _after_article,
    ),
    (re.compile(rf"(?<!\w)(?:{'|'.join(map(re.escape, _TITLES))})(?![\wäöüß])"), lambda match: _TITLES[match[0]]),
    (re.compile(r"(?<![\w.])(?:(?:nr|s|bd|kap|abs|art|abb|tel|op|ca)\.(?= ?\d)|§{1,2}(?= ?\d)|#(?=\d))", re.IGNORECASE),
     lambda match: _BEFORE_NUMBERS[match[0].lower()] + " "),
    (re.compile(r"(?<=[a-zß])str\.(?!\w)"), lambda match: "straße" + ("." if ends_sentence(match) else "")),
    (re.compile(r"\bStr\."), lambda match: "Straße" + ("." if ends_sentence(match) else "")),
    (re.compile(r"(?<![\w.])(?:[A-ZÄÖÜ]\.){2,}"), lambda m: LANGUAGE.spell(m[0].replace(".", "")) + "." * ends_sentence(m)),
    (re.compile(r"(?<![\w.])(?P<letter>[A-ZÄÖÜ])\.(?= ?[A-ZÄÖÜ])"), lambda match: LANGUAGE.spell(match["letter"])),
    (re.compile(r"(?<!\w)(?P<word>[A-ZÄÖÜ]{2,4})(?P<plural>s)?(?![a-zA-ZäöüßÄÖÜ])"), _acronym),
    (re.compile(r"(?<=\d)(?:(?P<word>[A-Z]{1,5})(?P<plural>s)?)(?![a-zA-Z])"), lambda match: f" {_acronym(match)}"),
    (re.compile(r"(?<![\w'])(?P<word>[A-Z])(?![\w'.])|(?<![\w'])(?P<w>[A-Z])(?=\d)"),
     lambda match: LANGUAGE.spell(match["word"] or match["w"])),
    (at_start(r"(?:1[1-9]\d\d|20\d\d)(?!\d|\.\d{3}|,\d|[:/]\d)"), _maybe_year),
    (at_start(r"1(?= (?P<noun>[A-ZÄÖÜ][a-zäöüß]{1,40}))"), lambda match: _counting("1", after(match, 42).strip())),
    (at_start(r"\d++(?:\.\d++){1,}+(?<!\.\d{3})"), lambda m: " Punkt ".join(map(_integer, m[0].split(".")))),
    (at_start(_NUMBER), lambda match: apart(match, number(match[0]))),
    (re.compile(r"[,.](?=\d)"), lambda match: " Komma "),
    (re.compile(r"\d+"), lambda match: apart(match, _integer(match[0]))),
    (re.compile(r"\b(und|oder)/(oder|und)\b"), lambda match: f"{match[1]} {match[2]}"),
)  # fmt: skip


LANGUAGE: Language = Language(
    letters="abcdefghijklmnopqrstuvwxyzäöüß",
    letter_names=dict(
        zip(
            "abcdefghijklmnopqrstuvwxyzäöü",
            words(
    "a be ce de e eff ge ha i jott ka ell emm enn o pe ku err ess te u vau we ix ypsilon zett ä ö ü"
),
            strict=True,
        )
    ),
    symbols={
        "%": "Prozent", "&": "und", "+": "plus", "=": "gleich", "@": "ät", "#": "Raute", "/": "Schrägstrich", "°": "Grad",
        "$": "Dollar", "£": "Pfund", "€": "Euro", "¥": "Yen", "§": "Paragraf", "×": "mal", "÷": "geteilt durch",
        "±": "plus minus", "<": "kleiner als", ">": "größer als", "²": "Quadrat", "³": "hoch drei", "~": "etwa",
        "_": "Unterstrich", "*": "Stern", "\\": "Rückstrich", "|": "Strich", "^": "Zirkumflex", "©": "Copyright",
        "¢": "Cent", "№": "Nummer",
    },
    rules=_RULES,
    abbreviations=abbreviations(_ABBREVIATIONS, _MAY_CLOSE),
    said_as_words=frozenset(
        words(
    "AIDS AUF AUS BEI BIN BIST DAS DEM DEN DER DES DIE DU EIN EINE ER ES FÜR HAT ICH IHR IM IN IST JA MAN MIR "
    "MIT NACH NASA NATO NEIN NICHT NIE NUN NUR ODER SEHR SIE SIND SO STOP UM UNO UND VON VOR WAR WAS WER WIE "
    "WIR WO ZU"
)
    ),
)  # fmt: skip
