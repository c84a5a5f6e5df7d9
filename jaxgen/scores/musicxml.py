"""MusicXML scores (partwise, plain or compressed): notes, rests, chords, ties, repeats, keys, metres and tempi."""

import io
import xml.etree.ElementTree as ET
import zipfile
from collections import Counter
from fractions import Fraction

import numpy as np

from jaxgen.core.errors import printable
from jaxgen.scores.chords import LETTERS
from jaxgen.scores.repeats import BarMarks, play_order
from jaxgen.scores.score import KeySignature, Score, ScoreError, Tempo, TimeSignature, Track, ends, make_notes
from jaxgen.scores.source import MOST_BYTES, MOST_NOTES, ScoreFile, check_size

_TICKS = 5_040  # a quarter
_PARTS = 1_000  # of a tick that are told apart: sums of strange fractions would take ever more digits
_MOST_MEASURES = 20_000
_LONGEST_NAME = 200


def parse_musicxml(content: bytes) -> ScoreFile:
    """The score in a MusicXML file's bytes: a track for each voice of each part, which is named by its part.

    Unpitched and grace notes are left out and counted. Raises ScoreError where there is nothing to use.
    """
    check_size(len(content))
    root = _parse(_unpack(content) if content.startswith(b"PK") else content)
    if root.tag != "score-partwise":
        raise ScoreError(f"'{printable(root.tag)[:30]}' and not a partwise MusicXML score")
    names = {part.get("id"): part.findtext("part-name", "") for part in root.iterfind("part-list/score-part")}
    left_out: Counter[str] = Counter()
    tracks: list[Track] = []
    parts, events, length = [], _Events(), 0
    for part in root.iterfind("part"):
        reader = _Part(part, left_out, events)
        for voice, found in sorted(reader.voices.items()):
            known = np.array([note for note in found if note[1] > 0], np.int64).reshape(-1, 3)
            if len(known):
                parts.append(make_notes(known[:, 0], known[:, 1], known[:, 2], 80, len(tracks)))
                name = printable(names.get(part.get("id")) or "")[:_LONGEST_NAME]
                tracks.append(Track(f"{name} {voice}".strip() if len(reader.voices) > 1 else name))
        length = max(length, round(reader.now))
    if not parts:
        raise ScoreError("only drums" if left_out["unpitched notes"] else "no notes")
    notes = np.concatenate(parts)
    title = root.findtext("work/work-title") or root.findtext("movement-title") or ""
    score = Score(
        notes,
        _TICKS,
        max(length, int(ends(notes).max())),
        tuple(tracks),
        tuple(sorted(events.tempi.values())),
        tuple(sorted(events.metres.values())),
        tuple(sorted(events.keys.values())),
        printable(title.strip())[:_LONGEST_NAME],
        printable((root.findtext("identification/rights") or "").strip())[:_LONGEST_NAME],
    )
    return ScoreFile(score, {name: count for name, count in left_out.items() if count})


def _unpack(content: bytes) -> bytes:
    """The score in a compressed file (.mxl): the file that its container names."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            root = _parse(_read(archive, "META-INF/container.xml")).find(".//{*}rootfile")
            return _read(archive, root.get("full-path", "") if root is not None else "")
    except (zipfile.BadZipFile, KeyError, NotImplementedError, RuntimeError, EOFError, OSError, ValueError):
        raise ScoreError("a damaged compressed MusicXML file") from None


def _read(archive: zipfile.ZipFile, name: str) -> bytes:
    with archive.open(name) as file:
        content = file.read(MOST_BYTES + 1)  # whatever size is stated
    check_size(len(content))
    return content


def _parse(content: bytes) -> ET.Element:
    if b"<!ENTITY" in content.replace(b"\0", b""):
        raise ScoreError("it declares XML entities, which no score needs")
    try:
        return ET.fromstring(content)
    except (ET.ParseError, ValueError, LookupError):
        raise ScoreError("damaged, or not MusicXML") from None


class _Events:
    """Changes of tempo, metre and key, by tick; those of all parts together."""

    def __init__(self) -> None:
        self.tempi: dict[int, Tempo] = {}
        self.metres: dict[int, TimeSignature] = {}
        self.keys: dict[int, KeySignature] = {}


class _Part:
    """Plays a part, measure by measure."""

    def __init__(self, part: ET.Element, left_out: Counter[str], events: _Events) -> None:
        self.voices: dict[str, list[tuple[int, int, int]]] = {}
        self.now = Fraction(0)  # ticks at which the measure began
        self._left_out, self._events = left_out, events
        self._divisions, self._transposed = 1, 0
        self._place = self._furthest = Fraction(0)
        self._onset = Fraction(0)  # of the last note: one with <chord/> joins it
        self._tied: dict[tuple[str, int], int] = {}  # index of the note that goes on
        measures = part.findall("measure")
        order = play_order([_marks(measure) for measure in measures])
        if len(order) > _MOST_MEASURES:
            raise ScoreError(f"{len(order)} measures, expected at most {_MOST_MEASURES}")
        for index in order:
            self._measure(measures[index])
            if sum(map(len, self.voices.values())) > MOST_NOTES:
                raise ScoreError(f"more than {MOST_NOTES} notes")

    def _measure(self, measure: ET.Element) -> None:
        self._place = self._furthest = self.now
        for element in measure:
            if element.tag == "note":
                self._note(element)
            elif element.tag == "backup":
                self._place = max(self.now, self._place - self._duration(element))
            elif element.tag == "forward":
                self._place += self._duration(element)
            elif element.tag == "attributes":
                self._attributes(element)
            elif element.tag == "sound":
                self._sound(element)
            elif element.tag == "direction" and (sound := element.find("sound")) is not None:
                self._sound(sound)
            self._furthest = max(self._furthest, self._place)
        self.now = self._furthest

    def _duration(self, element: ET.Element) -> Fraction:
        ticks = _number(element.findtext("duration", "0")) / self._divisions * _TICKS
        return max(Fraction(0), Fraction(round(ticks * _PARTS), _PARTS))

    def _note(self, note: ET.Element) -> None:
        if note.find("grace") is not None:
            self._left_out["grace notes"] += 1
            return
        duration = self._duration(note)
        if note.find("chord") is None:
            self._onset = self._place
            self._place += duration
        if note.find("unpitched") is not None:
            self._left_out["unpitched notes"] += 1
        elif (pitched := note.find("pitch")) is not None:
            ties = {tie.get("type") for tie in note.iterfind("tie")}
            self._sound_note(
                note.findtext("voice", "1").strip()[:20], _pitch(pitched) + self._transposed, duration, ties
            )

    def _sound_note(self, voice: str, pitch: int, duration: Fraction, ties: set[str | None]) -> None:
        if not 0 <= pitch <= 127:
            raise ScoreError(f"a note of MIDI pitch {pitch}, expected 0 to 127")
        found = self.voices.setdefault(voice, [])
        until = round(self._onset + duration)
        going_on = self._tied.pop((voice, pitch), None) if "stop" in ties else None
        if going_on is not None:
            onset = found[going_on][0]
            found[going_on] = (onset, until - onset, pitch)
        else:
            going_on = len(found)
            found.append((round(self._onset), until - round(self._onset), pitch))
        if "start" in ties:
            self._tied[voice, pitch] = going_on

    def _attributes(self, element: ET.Element) -> None:
        tick = round(self._place)
        if (divisions := element.findtext("divisions")) is not None:
            self._divisions = int(_number(divisions))
            if not 1 <= self._divisions <= 100_000:
                raise ScoreError(f"{self._divisions} divisions a quarter")
        if (transposition := element.find("transpose")) is not None:
            octaves = _number(transposition.findtext("octave-change", "0"))
            self._transposed = int(_number(transposition.findtext("chromatic", "0")) + 12 * octaves)
        key = element.find("key")
        if key is not None and (fifths := key.findtext("fifths")) is not None:
            sharps, minor = (
                int(_number(fifths)),
                key.findtext("mode", "major").strip() in ("minor", "dorian", "phrygian"),
            )
            self._events.keys[tick] = KeySignature(tick, (7 * sharps + 9 * minor + self._transposed) % 12, minor)
        beats, kind = element.findtext("time/beats"), element.findtext("time/beat-type")
        if beats is not None and kind is not None:
            numerator, denominator = sum(int(_number(beat)) for beat in beats.split("+")), int(_number(kind))
            if not (1 <= numerator <= 64 and denominator in (1, 2, 4, 8, 16, 32, 64)):
                raise ScoreError(f"the metre {numerator}/{denominator}")
            self._events.metres[tick] = TimeSignature(tick, numerator, denominator)

    def _sound(self, element: ET.Element) -> None:
        if (tempo := element.get("tempo")) is not None and 4 <= (rate := _number(tempo)) <= 6_000:
            tick = round(self._place)
            self._events.tempi[tick] = Tempo(tick, round(60_000_000 / rate))


def _pitch(element: ET.Element) -> int:
    step = element.findtext("step", "").strip()
    if step not in LETTERS:
        raise ScoreError(f"a note of step '{printable(step)[:10]}'")
    octave, alter = _number(element.findtext("octave", "4")), _number(element.findtext("alter", "0"))
    return int(12 * (octave + 1) + LETTERS[step] + round(alter))


def _number(text: str) -> Fraction:
    """A number as XML writes it, of a size that music has."""
    text = text.strip()
    try:
        return Fraction(text if len(text) <= 12 and "e" not in text.lower() and "/" not in text else "")
    except (ValueError, ZeroDivisionError):
        raise ScoreError(f"'{printable(text)[:20]}' where a number was expected") from None


def _marks(measure: ET.Element) -> BarMarks:
    repeats = {element.get("direction") for element in measure.iterfind("barline/repeat")}
    endings = [e.get("number", "") for e in measure.iterfind("barline/ending") if e.get("type") == "start"]
    numbers = {int(number) for number in ",".join(endings).replace(" ", "").split(",") if number in tuple("123456789")}
    return BarMarks("forward" in repeats, "backward" in repeats, endings=frozenset(numbers))
