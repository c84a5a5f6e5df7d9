"""MIDI files: what is written is read again, by symusic and so by others; what is damaged costs one line."""

import contextlib
import dataclasses
import json
import os
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_score import scores

from jaxgen.core.errors import UserError
from jaxgen.provenance import record
from jaxgen.scores import source
from jaxgen.scores.midi import midi_bytes, parse_midi, write_midi
from jaxgen.scores.score import KeySignature, Score, ScoreError, Tempo, TimeSignature, Track, ends, make_notes

pytest.importorskip("symusic", reason="pip install 'jaxgen[music]'")

SCORE = Score(
    make_notes([0, 480, 960, 0], [480, 240, 960, 1920], [60, 64, 67, 36], [90, 1, 127, 64], [0, 0, 0, 1]),
    480,
    1920,
    (Track("Sopran ü", 40), Track("bass", 43)),
    (Tempo(0, 434_783), Tempo(960, 600_000)),
    (TimeSignature(0, 3, 4), TimeSignature(1440, 6, 8)),
    (KeySignature(0, 7, False), KeySignature(960, 2, True)),
    "A tune – Ŧ",
    "CC0 1.0",
)


def file_of(*events: bytes, division: int = 96, tracks: int = 1) -> bytes:
    """A MIDI file of one track made of raw events."""
    body = b"".join(events) + b"\x00\xff\x2f\x00"
    return struct.pack(">4sIHHH", b"MThd", 6, 0, tracks, division) + struct.pack(">4sI", b"MTrk", len(body)) + body


def note(pitch: int = 60, channel: int = 0, length: int = 10) -> bytes:
    return bytes((0, 0x90 | channel, pitch, 80, length, 0x80 | channel, pitch, 0))


def test_all_of_a_score_survives():
    again = parse_midi(midi_bytes(SCORE, "made by a machine"))
    assert again.score == SCORE
    assert again.comment == "made by a machine"
    assert not again.left_out


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.too_slow])
@given(score=scores(per_quarter=st.integers(1, 0x7FFF), overlap=False))
def test_any_score_survives(score):
    if not len(score.notes):
        with pytest.raises(ScoreError, match="no notes"):
            parse_midi(midi_bytes(score))
        return
    again = parse_midi(midi_bytes(score)).score
    assert np.array_equal(again.notes, score.notes)
    assert again.length == ends(score.notes).max()
    ticks = np.arange(0, 6_000, 97)
    assert [_at(again.tempi, t) for t in ticks] == [_at(score.tempi, t) for t in ticks]
    assert [_at(again.time_signatures, t) for t in ticks] == [_at(score.time_signatures, t) for t in ticks]
    assert [_at(again.key_signatures, t) for t in ticks] == [_at(score.key_signatures, t) for t in ticks]


def _at(events, tick):
    """What holds at a tick, whatever was said twice."""
    return dataclasses.replace([event for event in events if event.tick <= tick][-1], tick=0)


def test_many_tracks_keep_apart_and_none_becomes_drums():
    pitches = np.arange(30, 70)
    score = Score(make_notes(0, 4, pitches, track=np.arange(40)), 4, 4, tuple(Track(f"t{i}") for i in range(40)))
    again = parse_midi(midi_bytes(score))
    assert again.score == score
    assert not again.left_out


def test_a_note_that_is_struck_again_ends_there():
    score = Score(make_notes([0, 2, 2, 4], [10, 1, 3, 1], 60), 4, 10)
    assert parse_midi(midi_bytes(score)).score.notes[["onset", "duration"]].tolist() == [(0, 2), (2, 2), (4, 1)]


def test_drums_and_empty_notes_are_left_out_and_counted():
    empty = bytes((0, 0x90, 64, 80, 0, 0x80, 64, 0))
    read = parse_midi(file_of(note(), note(40, 9), note(41, 9), empty))
    assert read.left_out == {"drum notes": 2, "notes without duration": 1}
    assert read.score.notes["pitch"].tolist() == [60]


def test_impossible_tempi_and_signatures_are_left_out_and_counted():
    tempo, metre, key = (
        b"\x00\xff\x51\x03\x00\x00\x00",
        b"\x00\xff\x58\x04\x00\x02\x18\x08",
        b"\x00\xff\x59\x02\x09\x00",
    )
    read = parse_midi(file_of(tempo, metre, key, note()))
    assert read.left_out == {"impossible tempi": 1, "impossible time signatures": 1, "impossible key signatures": 1}
    assert read.score.tempi == read.score.time_signatures == read.score.key_signatures == ()


LONG_WAIT = b"\xff\xff\xff\x7f\xff\x01\x00"  # 2^28 - 1 ticks, then an empty text
REFUSED = {
    "empty": (b"", "^empty$"),
    "words": (b"hello", "^not a MIDI file$"),
    "header": (b"MThd\x00\x00", "breaks off"),
    "cut": (midi_bytes(SCORE)[:-30], "damaged"),
    "film": (file_of(note(), division=0xE728), "SMPTE"),
    "no ticks": (file_of(note(), division=0), "0 ticks a quarter"),
    "no notes": (file_of(), "^no notes$"),
    "never ends": (file_of(bytes((0, 0x90, 60, 80))), "^no notes$"),
    "drums": (file_of(note(40, 9)), "^only drums$"),
    "endless": (file_of(bytes((0, 0x90, 60, 80)), LONG_WAIT, bytes((0, 0x80, 60, 0))), "expected at most 50000"),
    "slow": (file_of(b"\x00\xff\x51\x03\xff\xff\xff", note(length=127) * 7_000), "24 h"),
    "wrong chunk": (midi_bytes(SCORE).replace(b"MTrk", b"MTrl"), "damaged|no notes"),
    "high bit": (midi_bytes(SCORE).replace(bytes((0x90, 60)), bytes((0x90, 188))), "damaged"),
    "large": (file_of(note() * 1_100_000), "expected at most 8 MiB"),
    "signatures": (file_of(b"\x00\xff\x59\x02\x01\x00" * 100_001, note()), "changes of tempo"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_used_has_one_reason(name):
    content, reason = REFUSED[name]
    with pytest.raises(ScoreError, match=reason) as caught:
        parse_midi(content)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 160


def test_too_many_notes_are_refused_before_they_cost_memory(monkeypatch):
    monkeypatch.setattr("jaxgen.scores.midi.MOST_NOTES", 3)
    with pytest.raises(ScoreError, match="notes"):
        parse_midi(file_of(note() * 4))


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_damage_gives_a_score_or_a_reason(data):
    content = bytearray(midi_bytes(SCORE, "x" * 50))
    for _ in range(data.draw(st.integers(1, 8))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(
            st.sampled_from((0, 127, 128, 0x90, 0xF0, 0xFF))
        )
    content = content[: data.draw(st.integers(0, len(content)))]
    with contextlib.suppress(ScoreError):
        read = parse_midi(bytes(content))
        assert read.score.quarters <= source.MOST_QUARTERS
        assert len(read.score.notes) > 0


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.too_slow])
@given(content=st.binary(max_size=200))
def test_anything_behind_a_header_gives_a_score_or_a_reason(content):
    head = file_of()[:14]
    for body in (content, struct.pack(">4sI", b"MTrk", len(content)) + content):
        with contextlib.suppress(ScoreError):
            assert len(parse_midi(head + body).score.notes)


def test_what_a_file_cannot_hold_is_one_line(tmp_path):
    with pytest.raises(UserError, match="Quantise it, or crop it"):
        midi_bytes(Score(make_notes(0, 1, 60), 0x8000, 1))
    with pytest.raises(UserError, match="cannot write"):
        write_midi(tmp_path / "absent" / "a.mid", SCORE)


def test_a_file_says_that_it_is_synthetic():
    mark = record.Provenance(model="M", checkpoint="a/1", config_sha256="0", data_manifest_sha256="1", seed=3, clip=0)
    content = midi_bytes(SCORE, json.dumps(dataclasses.asdict(mark), indent=2))
    assert parse_midi(content).score == SCORE
    found = record.parse(parse_midi(content).comment)
    assert found is not None
    assert found["synthetic"] is True


@pytest.mark.skipif("JAXGEN_DATA" not in os.environ, reason="JAXGEN_DATA names no folder of real data")
def test_real_files_are_read_and_written_again():
    paths = sorted((Path(os.environ["JAXGEN_DATA"]) / "nottingham_midi").glob("*.mid"))[::10]
    for path in paths:
        score = parse_midi(path.read_bytes()).score
        assert len(score.notes) > 20
        assert score.key_signatures
        again = parse_midi(midi_bytes(score)).score
        assert np.array_equal(again.notes[["onset", "pitch"]], score.notes[["onset", "pitch"]])
        assert (again.tempi, again.time_signatures, again.key_signatures) == (
            score.tempi,
            score.time_signatures,
            score.key_signatures,
        )
