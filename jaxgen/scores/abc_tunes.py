"""Tunes in ABC notation (the standard 2.1): melodies, voices, and chords by name. One tune gives one score.

Read are notes, rests, chords, ties, tuplets, broken rhythms, repeats with endings, keys with modes, changes of key, metre
and tempo, and several voices. Ornaments and grace notes are left out; lyrics and layout say nothing of the notes.
"""

import dataclasses
import itertools
import math
import re
from collections import Counter
from fractions import Fraction

import numpy as np

from jaxgen.core.errors import printable
from jaxgen.scores.chords import LETTERS, chord_notes, parse_chord
from jaxgen.scores.repeats import BarMarks, play_order
from jaxgen.scores.score import KeySignature, Notes, Score, ScoreError, Tempo, TimeSignature, Track, ends, make_notes
from jaxgen.scores.source import ScoreFile

_MOST_CHARACTERS = 1 << 17
_TICKS = 5_040  # a quarter: tuplets of 3, 5, 7 and 9 divide it, and 64ths
_MODES = {
    "": 0,
    "maj": 0,
    "ion": 0,
    "mix": -1,
    "dor": -2,
    "m": -3,
    "min": -3,
    "aeo": -3,
    "phr": -4,
    "loc": -5,
    "lyd": 1,
}
_MINOR = ("m", "min", "aeo", "dor", "phr", "loc")
_SHARPS = {"C": 0, "G": 1, "D": 2, "A": 3, "E": 4, "B": 5, "F": -1}
_ORDER_OF_SHARPS = "FCGDAEB"
_TUPLET_TIME = {2: 3, 3: 2, 4: 3, 6: 2, 8: 3}

_TOKEN = re.compile(
    r"""
    (?P<field>\[[A-Za-z]:[^\]\n]{0,200}\])
  | (?P<chord>"[^"\n]{0,200}")
  | (?P<bar>:{0,3}\|+[\]:|]*\s*(?:\[?\d[\d,-]*)?|::+|\[\|+\]?|\|?\[\d[\d,-]*)
  | (?P<grace>\{[^}\n]{0,200}\})
  | (?P<ornament>![^!\n]{0,40}!|\+[A-Za-z.()<>]{1,20}\+|[~.HLMOPSTuv])
  | (?P<tuplet>\(\d(?::\d{0,2}){0,2})
  | (?P<note>(?:\[(?:[=^_]{0,2}[A-Ga-g][,']{0,9}[\d/]{0,9}-?|"[^"\n]{0,200}"|![^!\n]{0,40}!|\s){1,40}\]
            |[=^_]{0,2}[A-Ga-g][,']{0,9}|[zxZX])[\d/]{0,9})
  | (?P<tie>-)
  | (?P<broken>>+|<+)
  | (?P<nothing>(?:[\s)`\\y$*;]|\((?!\d))+)
  | (?P<other>.)
    """,
    re.VERBOSE,
)
_PITCH = re.compile(r"([=^_]*)([A-Ga-g])([,']*)([\d/]*)(-?)")
_LENGTH = re.compile(r"(\d*)(/*)(\d*)")


@dataclasses.dataclass
class _Bar:
    tokens: list[tuple[str, str]]
    marks: BarMarks


def split_tunes(text: str) -> list[str]:
    """The tunes of a tune book: each begins with a line X:."""
    starts = [found.start() for found in re.finditer(r"^[ \t]*X:", text, re.MULTILINE)]
    return [text[start:stop].lstrip(" \t") for start, stop in itertools.pairwise([*starts, len(text)])]


def parse_abc(tune: str) -> ScoreFile:
    """The score of one tune: a track for each voice, and a last one, "chords", where chords are named.

    A key in another mode than major and minor has the signature of the major or minor scale with the same sharps or
    flats. Raises ScoreError where there is nothing to use.
    """
    if len(tune) > _MOST_CHARACTERS:
        raise ScoreError(f"a tune of {len(tune)} characters, expected at most {_MOST_CHARACTERS}")
    header, body = _split(tune)
    if "K" not in header:
        raise ScoreError("an ABC tune without a key, K:")
    left_out: Counter[str] = Counter()
    voices = _split_voices(body)
    players = [_Player(header, left_out) for _ in voices]
    for player, text in zip(players, voices.values(), strict=True):
        player.play(_bars(text))
    first = players[0]
    parts = [player.notes(track) for track, player in enumerate(players)]
    if not sum(map(len, parts)):
        raise ScoreError("no notes")
    tracks = [Track(name) for name in voices]
    length = max(math.ceil(player.now) for player in players)
    named = [(tick, name) for tick, name in first.chords if parse_chord(name)]
    left_out["unknown chords"] += len(first.chords) - len(named)
    if named:
        tracks.append(Track("chords"))
        parts += [
            chord_notes(chord, tick, until - tick, len(voices))
            for (tick, name), until in zip(named, [tick for tick, _ in named[1:]] + [length], strict=True)
            if until > tick and (chord := parse_chord(name))
        ]
    notes = np.concatenate(parts)
    score = Score(
        notes,
        _TICKS,
        max(length, int(ends(notes).max())),
        tuple(tracks),
        tuple(first.tempi.values()),
        tuple(first.metres.values()),
        tuple(first.keys.values()),
        printable(header.get("T", "")),
    )
    return ScoreFile(score, {name: count for name, count in left_out.items() if count})


def _split(tune: str) -> tuple[dict[str, str], list[str]]:
    """Fields up to the key, the first of each; then the lines of music without comments."""
    header: dict[str, str] = {}
    lines = [re.sub(r"(?<!\\)%.*", "", line).rstrip() for line in tune.splitlines()]
    for place, line in enumerate(lines):
        if found := re.match(r"([A-Za-z]):(.*)", line):
            header.setdefault(found[1], found[2].strip())
            if found[1] == "K":
                return header, lines[place + 1 :]
    return header, []


def _split_voices(lines: list[str]) -> dict[str, str]:
    """The music of each voice; fields of the body stand in it as inline fields."""
    voices: dict[str, list[str]] = {}
    name = ""
    for line in lines:
        for part in re.split(r"(\[V:[^\]]*\]|^V:.*$)", line):
            if found := re.match(r"\[?V:\s*([^\s\]]*)", part):
                name = printable(found[1])[:40]
            elif found := re.match(r"([KMLQ]):(.*)", part):
                voices.setdefault(name, []).append(f"[{found[1]}:{found[2]}]")
            elif part and not re.match(r"[A-Za-z+]:(?![|:])", part):
                voices.setdefault(name, []).append(part.rstrip("\\"))
    played = {name: "\n".join(parts) for name, parts in voices.items()}
    if len(played) > 1 and not re.search(r"[A-Ga-g]", played.get("", "")):
        played.pop("", None)
    return played or {"": ""}


def _bars(text: str) -> list[_Bar]:
    bars: list[_Bar] = []
    tokens: list[tuple[str, str]] = []
    begins, endings = False, frozenset[int]()
    for found in _TOKEN.finditer(text):
        kind, value = found.lastgroup or "other", found.group()
        if kind != "bar":
            tokens.append((kind, value))
            continue
        line = value.rstrip("0123456789,-")
        marks = BarMarks(begins, line.startswith(":"), "||" in line or "]" in line or "[|" in line, endings)
        if any(name in ("note", "field", "chord") for name, _ in tokens) or endings or marks.ends_repeat:
            bars.append(_Bar(tokens, marks))
            tokens = []
            begins, endings = False, frozenset()
        begins = begins or line.rstrip().rstrip("[").endswith(":")
        endings = endings or _numbers(value[len(line) :])
    return [*bars, _Bar(tokens, BarMarks(begins, endings=endings))]


def _numbers(text: str) -> frozenset[int]:
    """Those of an ending such as "1,3-4"."""
    found: set[int] = set()
    for low, high in re.findall(r"(\d)(?:-(\d))?", text):
        found |= set(range(int(low), int(high or low) + 1))
    return frozenset(found)


class _Player:
    """Plays a voice: what its notes are depends on what came before."""

    def __init__(self, header: dict[str, str], left_out: Counter[str]) -> None:
        self.left_out = left_out
        self.now = Fraction(0)
        self.tempi: dict[int, Tempo] = {}
        self.metres: dict[int, TimeSignature] = {}
        self.keys: dict[int, KeySignature] = {}
        self.chords: list[tuple[int, str]] = []
        self._found: list[tuple[Fraction, Fraction, int]] = []
        self._tied: dict[str, tuple[int, int]] = {}  # pitch and index of the notes that a tie would go on from, by name
        self._accidentals: dict[str, int] = {}
        self._of_bar: dict[str, int] = {}
        self._unit, self._metre = Fraction(1, 8), (4, 4)
        self._tuplet: tuple[Fraction, int] = (Fraction(1), 0)
        self._broken = Fraction(1)
        self._duration = Fraction(0)  # of the last note
        self._ties = False
        for kind in "MLQK":
            if kind in header:
                self._set(kind, header[kind], unit_stated="L" in header)

    def notes(self, track: int) -> Notes:
        edges = [(round(start), round(end), pitch) for start, end, pitch in self._found]
        known = np.array([edge for edge in edges if edge[1] > edge[0]], np.int64).reshape(-1, 3)
        return make_notes(known[:, 0], known[:, 1] - known[:, 0], known[:, 2], 80, track)

    def play(self, bars: list[_Bar]) -> None:
        for place in play_order([bar.marks for bar in bars]):
            self._of_bar = {}
            for kind, value in bars[place].tokens:
                if kind == "note":
                    self._note(value)
                elif kind == "field":
                    self._set(value[1], value[3:-1].strip(), unit_stated=True)
                elif kind == "chord" and value[1:2] not in tuple("^_<>@"):
                    self.chords.append((round(self.now), value[1:-1]))
                elif kind == "tie":
                    self._ties = True
                elif kind == "broken":
                    self._break(value)
                elif kind == "tuplet":
                    self._begin_tuplet(value)
                elif kind == "grace":
                    self.left_out["grace notes"] += 1
                elif kind == "other":
                    self.left_out["unknown signs"] += 1

    def _set(self, kind: str, value: str, *, unit_stated: bool) -> None:
        tick = round(self.now)
        metre = {"C": "4/4", "C|": "2/2"}.get(value, value)
        if kind == "M" and (found := re.fullmatch(r"(\d{1,3})/(\d{1,3})", metre)):
            numerator, denominator = int(found[1]), int(found[2])
            if not (1 <= numerator <= 64 and denominator in (1, 2, 4, 8, 16, 32)):
                raise ScoreError(f"the metre '{printable(value)[:20]}'")
            self._metre = numerator, denominator
            self.metres[tick] = TimeSignature(tick, numerator, denominator)
            if not unit_stated:
                self._unit = Fraction(1, 8 if 4 * numerator >= 3 * denominator else 16)
        elif kind == "L" and (found := re.fullmatch(r"1/(\d{1,3})|1", value)):
            self._unit = Fraction(1, max(1, min(512, int(found[1] or 1))))
        elif kind == "Q":
            self._set_tempo(tick, value)
        elif kind == "K":
            self._set_key(tick, value)

    def _set_tempo(self, tick: int, value: str) -> None:
        beats = sum((Fraction(int(a), int(b)) for a, b in re.findall(r"(\d{1,3})/([1-9]\d{0,2})", value)), Fraction(0))
        rate = re.search(r"=\s*(\d{1,4})\b", value) or re.fullmatch(r"(\d{1,4})", value)
        if rate and int(rate[1]):
            quarters = 4 * (beats or (self._unit if "=" not in value else Fraction(1, 4))) * int(rate[1])
            self.tempi[tick] = Tempo(tick, min(max(round(60e6 / float(quarters)), 10_000), 0xFFFFFF))

    def _set_key(self, tick: int, value: str) -> None:
        if value.split(" ")[0].lower() in ("none", ""):
            self._accidentals = {}
            return
        if value[:2] in ("HP", "Hp"):
            value = "D"
        if not (found := re.match(r"([A-G])([#b]?)\s*([A-Za-z]*)", value)):
            return  # only a clef, or the like
        mode = found[3].lower()[:3] if found[3] != "M" else ""
        if mode not in _MODES:
            mode = "m" if found[3] == "m" else ""
        sharps = _SHARPS[found[1]] + 7 * {"#": 1, "b": -1, "": 0}[found[2]] + _MODES[mode]
        if abs(sharps) > 7:
            raise ScoreError(f"the key '{printable(value)[:20]}'")
        order = _ORDER_OF_SHARPS[:sharps] if sharps >= 0 else _ORDER_OF_SHARPS[::-1][:-sharps]
        self._accidentals = dict.fromkeys(order, 1 if sharps > 0 else -1)
        for accidental, letter in re.findall(r"\s([=^_])([A-Ga-g])(?![A-Za-z])", value):
            self._accidentals[letter.upper()] = {"=": 0, "^": 1, "_": -1}[accidental]
        minor = mode in _MINOR
        self.keys[tick] = KeySignature(tick, (7 * sharps + 9 * minor) % 12, minor)

    def _note(self, text: str) -> None:
        if text[0] in "ZX":
            self.now += _length(text[1:]) * Fraction(*self._metre) * 4 * _TICKS
            return
        if text[0] == "[":
            inner, _, outer = text[1:].rpartition("]")
            heads = list(_PITCH.finditer(re.sub(r'"[^"]*"|![^!]*!', "", inner)))
            length = _length(outer) * (_length(heads[0][4]) if heads else 1)
        else:
            heads = [found] if (found := _PITCH.fullmatch(text)) else []
            length = _length(text[1:] if text[0] in "zx" else heads[0][4])
        duration = length * self._unit * 4 * _TICKS * self._broken
        self._broken = Fraction(1)
        scale, left = self._tuplet
        if left:
            duration *= scale
            self._tuplet = (scale, left - 1)
        continued, self._tied = (self._tied if self._ties else {}), {}
        self._ties = any(head[5] for head in heads)
        for head in heads:
            name = head[2] + head[3]
            before, index = continued.get(name, (-1, -1))
            pitch = before if index >= 0 and not head[1] else self._pitch(*head.groups()[:3])
            if pitch == before:
                self._found[index] = (self._found[index][0], self.now + duration, pitch)
            else:
                index = len(self._found)
                self._found.append((self.now, self.now + duration, pitch))
            self._tied[name] = pitch, index
        self._duration = duration
        self.now += duration

    def _pitch(self, accidental: str, letter: str, octave: str) -> int:
        name = letter + octave
        if accidental:
            self._of_bar[name] = accidental.count("^") - accidental.count("_")
        shift = self._of_bar.get(name, self._accidentals.get(letter.upper(), 0))
        pitch = 60 + LETTERS[letter.upper()] + 12 * (letter.islower() + octave.count("'") - octave.count(",")) + shift
        if not 0 <= pitch <= 127:
            raise ScoreError(f"the note '{printable(name)[:20]}' is beyond MIDI pitches 0 to 127")
        return pitch

    def _break(self, marks: str) -> None:
        """a>b: the note before gains what the next one loses."""
        share = Fraction(1, 2 ** min(len(marks), 4))
        factor = 2 - share if marks[0] == ">" else share
        change = self._duration * (factor - 1)
        for _, index in self._tied.values():
            start, end, pitch = self._found[index]
            self._found[index] = (start, end + change, pitch)
        self.now += change
        self._broken = 2 - factor

    def _begin_tuplet(self, text: str) -> None:
        numbers = [int(number) if number else 0 for number in text[1:].split(":")]
        notes = max(1, numbers[0])
        compound = self._metre[0] % 3 == 0 and self._metre[1] >= 8
        time = numbers[1] if len(numbers) > 1 and numbers[1] else _TUPLET_TIME.get(notes, 3 if compound else 2)
        self._tuplet = (Fraction(time, notes), numbers[2] if len(numbers) > 2 and numbers[2] else notes)


def _length(text: str) -> Fraction:
    """Of 3/2, /, //, /4 and the like."""
    found = _LENGTH.fullmatch(text)
    if not found:
        raise ScoreError(f"the note length '{printable(text)[:20]}'")
    numerator = int(found[1] or 1)
    divisor = int(found[3] or 2 ** len(found[2]))
    if not numerator or not 0 < divisor <= 512:
        raise ScoreError(f"the note length '{printable(text)[:20]}'")
    return Fraction(numerator, divisor)
