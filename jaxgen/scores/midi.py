"""Standard MIDI files: read by symusic, with all that is wrong in one named as such, and written without it."""

import bisect
import struct
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from jaxgen.core.errors import UserError, printable
from jaxgen.core.files import write_atomic
from jaxgen.core.packages import import_package
from jaxgen.scores.score import KeySignature, Notes, Score, ScoreError, Tempo, TimeSignature, Track, ends, make_notes
from jaxgen.scores.source import MOST_EVENTS, MOST_NOTES, ScoreFile, check_size

_HEADER = struct.Struct(">4sIHHH")
_TEXT, _COPYRIGHT, _NAME, _END, _TEMPO, _METRE, _KEY = 0x01, 0x02, 0x03, 0x2F, 0x51, 0x58, 0x59
_SHORTEST_QUARTER = 10_000  # microseconds: 6,000 quarters a minute
_LONGEST_DELTA = (1 << 28) - 1  # ticks that four bytes of seven bits hold
_DRUM_CHANNEL = 9
_LONGEST_NAME = 200


def parse_midi(content: bytes) -> ScoreFile:
    """The score in a MIDI file's bytes: one track for each track, channel and program that has notes.

    Drums, notes without duration and impossible tempi and signatures are left out and counted; notes that never end are
    not there. The score ends with its last note. Raises ScoreError where there is nothing to use, UserError where
    symusic is not installed.
    """
    symusic = import_package("symusic", "music")
    if not content:
        raise ScoreError("empty")
    if not content.startswith(b"MThd"):
        raise ScoreError("not a MIDI file")
    if len(content) < _HEADER.size:
        raise ScoreError("a damaged MIDI file: it breaks off in its header")
    division = _HEADER.unpack_from(content)[-1]
    if division >= 0x8000:
        raise ScoreError("its time is in seconds of film (SMPTE), not in beats")
    if division == 0:
        raise ScoreError("a damaged MIDI file: it states 0 ticks a quarter")
    check_size(len(content))
    try:
        parsed = symusic.Score.from_midi(content)
    except (RuntimeError, ValueError, MemoryError) as error:
        raise ScoreError(f"a damaged MIDI file ({_brief(error)})") from None

    left_out: Counter[str] = Counter()
    parts: list[Notes] = []
    tracks: list[Track] = []
    for track in parsed.tracks:
        columns = track.notes.numpy()
        lasting = columns["duration"] != 0
        left_out["drum notes" if track.is_drum else "notes without duration"] += int(
            len(lasting) if track.is_drum else np.sum(~lasting)
        )
        if track.is_drum or not lasting.any():
            continue
        onset, duration, pitch, velocity = (
            columns[name][lasting] for name in ("time", "duration", "pitch", "velocity")
        )
        parts.append(make_notes(onset, duration, pitch, velocity, len(tracks)))
        tracks.append(Track(_name_of(track), track.program & 0x7F))
        if len(tracks) > MOST_EVENTS // 100 or sum(map(len, parts)) > MOST_NOTES:
            raise ScoreError(f"more than {MOST_EVENTS // 100} tracks or {MOST_NOTES} notes")
    if not parts:
        raise ScoreError("only drums" if left_out["drum notes"] else "no notes")
    notes = np.concatenate(parts)
    if notes["onset"].min() < 0 or notes["duration"].min() < 0:
        raise ScoreError("longer than 2^31 ticks")
    texts = dict(reversed(list(_first_texts(content))))  # of each kind the first
    score = Score(
        notes=notes,
        ticks_per_quarter=division,
        length=int(ends(notes).max()),
        tracks=tuple(tracks),
        tempi=_tempi(parsed.tempos, left_out),
        time_signatures=_metres(parsed.time_signatures, left_out),
        key_signatures=_keys(parsed.key_signatures, left_out),
        title=texts.get(_NAME, ""),
        licence=texts.get(_COPYRIGHT, ""),
    )
    return ScoreFile(score, {name: count for name, count in left_out.items() if count}, texts.get(_TEXT, ""))


def _brief(error: Exception) -> str:
    line = next(iter(str(error).splitlines()), "")
    return printable(line.removeprefix("MiniMidi: "))[:80].rstrip(".:! ") or "unreadable"


def _name_of(track: Any) -> str:
    try:
        return printable(track.name)[:_LONGEST_NAME]
    except UnicodeDecodeError:
        return ""


def _tempi(events: Any, left_out: Counter[str]) -> tuple[Tempo, ...]:
    known = [
        Tempo(event.time, event.mspq) for event in _few(events) if event.mspq >= _SHORTEST_QUARTER and event.time >= 0
    ]
    left_out["impossible tempi"] += len(events) - len(known)
    return _changes(known)


def _metres(events: Any, left_out: Counter[str]) -> tuple[TimeSignature, ...]:
    known = [
        TimeSignature(event.time, event.numerator, event.denominator)
        for event in _few(events)
        if 1 <= event.numerator <= 64 and event.denominator in (1, 2, 4, 8, 16, 32, 64) and event.time >= 0
    ]
    left_out["impossible time signatures"] += len(events) - len(known)
    return _changes(known)


def _keys(events: Any, left_out: Counter[str]) -> tuple[KeySignature, ...]:
    known = [
        KeySignature(event.time, (7 * event.key + 9 * event.tonality) % 12, bool(event.tonality))
        for event in _few(events)
        if -7 <= event.key <= 7 and event.tonality in (0, 1) and event.time >= 0
    ]
    left_out["impossible key signatures"] += len(events) - len(known)
    return _changes(known)


def _few(events: Any) -> Any:
    if len(events) > MOST_EVENTS:
        raise ScoreError(f"more than {MOST_EVENTS} changes of tempo, metre or key")
    return events


def _changes(events: Iterable[Any]) -> tuple[Any, ...]:
    """Sorted by tick; at one tick the last holds, and what says the same as before is no change."""
    at = {event.tick: event for event in sorted(events, key=lambda event: event.tick)}
    kept: list[Any] = []
    for event in at.values():
        if not kept or {**vars(event), "tick": 0} != {**vars(kept[-1]), "tick": 0}:
            kept.append(event)
    return tuple(kept)


def _first_texts(content: bytes) -> Iterator[tuple[int, str]]:
    """(kind, text) of the texts at the start of the first track, up to its first event of another kind that sounds."""
    place, end = _HEADER.size + 8, len(content)
    while place + 2 < end:
        while place < end and content[place] >= 0x80:  # the time before it
            place += 1
        place += 1
        if content[place : place + 1] != b"\xff" or place + 2 >= end:
            return
        kind, place, size = content[place + 1], place + 2, 0
        while place < end:
            size, place = (size << 7) | (content[place] & 0x7F), place + 1
            if content[place - 1] < 0x80:
                break
        if kind in (_TEXT, _COPYRIGHT, _NAME):
            yield kind, content[place : place + min(size, 1 << 16)].decode(errors="replace")
        if kind == _END:
            return
        place += size


def midi_bytes(score: Score, comment: str = "") -> bytes:
    """The score as a MIDI file (format 1), which any player opens: its tracks with their names and programs, the title, the
    licence as copyright, tempi, time signatures and keys.

    comment: a text at the start of the file, as the mark of what is synthetic; empty for none. A note that another of its
    track and pitch strikes ends there. Tracks beyond 15 share channels; none is the drums' channel. Raises UserError
    where a file cannot hold the score.
    """
    if score.ticks_per_quarter >= 0x8000 or score.length > _LONGEST_DELTA:
        raise UserError(
            f"the score has {score.ticks_per_quarter} ticks a quarter and {score.length} in all; a MIDI file holds at most "
            f"{0x7FFF} and {_LONGEST_DELTA}. Quantise it, or crop it."
        )
    events = [(0, _meta(kind, text.encode())) for kind, text in _texts(score, comment) if text]
    events += [(tempo.tick, _meta(_TEMPO, tempo.microseconds.to_bytes(3, "big"))) for tempo in score.tempi]
    for metre in score.time_signatures:
        data = bytes((metre.numerator, metre.denominator.bit_length() - 1, 24, 8))
        events.append((metre.tick, _meta(_METRE, data)))
    events += [(key.tick, _meta(_KEY, struct.pack(">bB", key.sharps, key.minor))) for key in score.key_signatures]
    chunks = [_chunk(events, score.length)]
    for index, track in enumerate(score.tracks):
        channel = index % 15 + (index % 15 >= _DRUM_CHANNEL)
        begin = [(0, _meta(_NAME, track.name.encode(errors="replace"))), (0, bytes((0xC0 | channel, track.program)))]
        notes = _struck(score.notes[score.notes["track"] == index])
        chunks.append(_chunk(begin + list(_note_events(notes, channel)), score.length))
    header = _HEADER.pack(b"MThd", 6, 1, len(chunks), score.ticks_per_quarter)
    return b"".join([header, *chunks])


def write_midi(path: Path, score: Score, comment: str = "") -> None:
    """Writes `midi_bytes` to a file that is whole or absent. Raises UserError where it cannot be written."""
    write_atomic(path, midi_bytes(score, comment))


def _texts(score: Score, comment: str) -> list[tuple[int, str]]:
    texts = [(_NAME, score.title), (_COPYRIGHT, score.licence), (_TEXT, comment)]
    return [(kind, text.encode(errors="replace").decode()) for kind, text in texts]


def _struck(notes: Notes) -> Notes:
    """The notes, each cut where the next of its pitch begins; of those that begin together the longest."""
    notes = np.sort(notes, order=("pitch", "onset", "duration"))
    same = notes["pitch"][1:] == notes["pitch"][:-1]
    room = np.where(same, notes["onset"][1:] - notes["onset"][:-1], np.iinfo(np.int64).max)
    notes["duration"][:-1] = np.minimum(notes["duration"][:-1], room)
    return notes[notes["duration"] > 0]


def _note_events(notes: Notes, channel: int) -> Iterator[tuple[int, bytes]]:
    """Ends stand before beginnings of the same tick."""
    for note in notes.tolist():
        onset, duration, pitch, velocity, _ = note
        yield onset + duration, bytes((0x80 | channel, pitch, 0))
    for onset, _, pitch, velocity, _ in notes.tolist():
        yield onset, bytes((0x90 | channel, pitch, velocity))


def _chunk(events: list[tuple[int, bytes]], length: int) -> bytes:
    body, now = bytearray(), 0
    for tick, data in [*sorted(events, key=lambda event: event[0]), (length, _meta(_END, b""))]:
        body += _variable(tick - now) + data
        now = tick
    return struct.pack(">4sI", b"MTrk", len(body)) + bytes(body)


def _meta(kind: int, data: bytes) -> bytes:
    return bytes((0xFF, kind)) + _variable(len(data)) + data


def _variable(value: int) -> bytes:
    """A number in bytes of seven bits, the highest first."""
    sizes = bisect.bisect_right((1 << 7, 1 << 14, 1 << 21), value)
    return bytes((value >> 7 * place & 0x7F) | (0x80 if place else 0) for place in range(sizes, -1, -1))
