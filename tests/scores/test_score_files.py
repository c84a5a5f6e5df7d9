"""MusicXML, archives of rolls and voices, and files by their suffix: what they hold is read, what is hostile has one reason."""

import contextlib
import io
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_midi import SCORE

from jaxgen.scores.archives import read_rolls, read_voices
from jaxgen.scores.files import read_scores
from jaxgen.scores.midi import write_midi
from jaxgen.scores.musicxml import parse_musicxml
from jaxgen.scores.rolls import REST, from_roll, from_voices, mark_holds
from jaxgen.scores.score import KeySignature, ScoreError, Tempo, TimeSignature


def note(step: str, octave: int, duration: int, extra: str = "", voice: int = 1, before: str = "") -> str:
    alter = f"<alter>{ {'#': 1, 'b': -1}[step[1]] }</alter>" if step[1:] else ""
    pitch = f"<pitch><step>{step[0]}</step>{alter}<octave>{octave}</octave></pitch>"
    return f"<note>{before}{pitch}<duration>{duration}</duration><voice>{voice}</voice>{extra}</note>"


ATTRIBUTES = (
    "<attributes><divisions>2</divisions><key><fifths>-1</fifths><mode>minor</mode></key>"
    "<time><beats>3</beats><beat-type>4</beat-type></time></attributes>"
)
START, STOP = '<tie type="start"/>', '<tie type="stop"/>'
MEASURES = [
    ATTRIBUTES
    + '<direction><sound tempo="96"/></direction>'
    + note("D", 4, 2)
    + note("F", 4, 2, before="<chord/>")
    + "<note><rest/><duration>2</duration></note>"
    + note("C#", 5, 2, START)
    + "<backup><duration>6</duration></backup>"
    + note("Bb", 2, 6, voice=2),
    note("C#", 5, 6, STOP) + "<note><grace/><pitch><step>A</step><octave>4</octave></pitch></note>",
]


def score_of(*measures: str) -> bytes:
    body = "".join(f"<measure>{measure}</measure>" for measure in measures)
    return (
        '<?xml version="1.0"?><!DOCTYPE score-partwise PUBLIC "-//Recordare//DTD MusicXML 4.0 Partwise//EN" '
        '"http://www.musicxml.org/dtds/partwise.dtd"><score-partwise><work><work-title>A work</work-title></work>'
        "<identification><rights>CC0</rights></identification>"
        '<part-list><score-part id="P1"><part-name>Organ</part-name></score-part></part-list>'
        f'<part id="P1">{body}</part></score-partwise>'
    ).encode()


def compressed(content: bytes, name: str = "a.xml") -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(
            "META-INF/container.xml", f'<container><rootfiles><rootfile full-path="{name}"/></rootfiles></container>'
        )
        archive.writestr("a.xml", content)
    return buffer.getvalue()


@pytest.mark.parametrize("pack", [bytes, compressed])
def test_musicxml_is_read(pack):
    read = parse_musicxml(pack(score_of(*MEASURES)))
    score, quarter = read.score, read.score.ticks_per_quarter
    notes = [(n["onset"] / quarter, n["duration"] / quarter, n["pitch"], n["track"]) for n in score.notes]
    assert notes == [(0, 1, 62, 0), (0, 1, 65, 0), (0, 3, 46, 1), (2, 4, 73, 0)]
    assert score.key_signatures == (KeySignature(0, 2, True),)
    assert score.time_signatures == (TimeSignature(0, 3, 4),)
    assert score.tempi == (Tempo(0, 625_000),)
    assert [track.name for track in score.tracks] == ["Organ 1", "Organ 2"]
    assert (score.title, score.licence, score.quarters) == ("A work", "CC0", 6)
    assert read.left_out == {"grace notes": 1}


def test_repeats_are_played():
    one, two, three = (note(step, 4, 2) for step in "CDE")
    repeated = [
        '<barline><repeat direction="forward"/></barline>' + one,
        '<barline><ending number="1" type="start"/></barline>'
        + two
        + '<barline><repeat direction="backward"/></barline>',
        '<barline><ending number="2" type="start"/></barline>' + three,
    ]
    assert parse_musicxml(score_of(*repeated)).score.notes["pitch"].tolist() == [60, 62, 60, 64]


BOMB = b'<!DOCTYPE a [<!ENTITY b "bbbbbbbb"><!ENTITY c "&b;&b;&b;&b;">]><score-partwise>&c;</score-partwise>'


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "damaged, or not MusicXML"),
        (b"<html/>", "not a partwise"),
        (BOMB, "entities"),
        (BOMB.decode().encode("utf-16"), "entities"),
        (score_of(), "^no notes$"),
        (score_of("<note><unpitched/><duration>1</duration></note>"), "^only drums$"),
        (score_of(note("H", 4, 1)), "step 'H'"),
        (score_of(note("C", 99, 1)), "expected 0 to 127"),
        (score_of("<attributes><divisions>0</divisions></attributes>"), "0 divisions"),
        (score_of(note("C", 4, 999_999)), "expected at most"),
        (score_of(note("C", 4, "1e999")), "a number was expected"),
        (compressed(score_of(*MEASURES), "b.xml"), "damaged compressed"),
        (b"PK\x03\x04nothing", "damaged compressed"),
        (compressed(b" " * (9 << 20)), "expected at most 8 MiB"),
    ],
)
def test_musicxml_that_cannot_be_used_has_one_reason(content, reason):
    with pytest.raises(ScoreError, match=reason):
        parse_musicxml(content)


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_damaged_musicxml_gives_a_score_or_a_reason(data):
    content = bytearray(score_of(*MEASURES))
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(content) - 1))
        content[place : place + data.draw(st.integers(0, 5))] = data.draw(
            st.binary(max_size=3) | st.sampled_from((b"9", b"-", b">"))
        )
    with contextlib.suppress(ScoreError):
        assert len(parse_musicxml(bytes(content)).score.notes)


def packed(rolls: list[np.ndarray]) -> np.ndarray:
    return np.packbits(np.concatenate(rolls), axis=1)


def test_archives_give_the_pieces_of_each_split(tmp_path):
    random = np.random.default_rng(0)
    rolls = [random.random((frames, 88)) < 0.1 for frames in (5, 3, 7)]
    lengths = {"train_len": [5, 3], "valid_len": [7]}
    np.savez(tmp_path / "rolls.npz", train=packed(rolls[:2]), valid=packed(rolls[2:]), **lengths)
    read = read_rolls(tmp_path / "rolls.npz")
    assert list(read) == ["train", "validation"]
    assert all(np.array_equal(a, b) for a, b in zip(read["train"] + read["validation"], rolls, strict=True))
    voices = random.integers(-1, 100, (8, 4)).astype(np.int8)
    np.savez_compressed(tmp_path / "voices.npz", train=voices, train_len=[8])
    assert np.array_equal(read_voices(tmp_path / "voices.npz")["train"][0], voices)


def test_archives_that_cannot_be_used_have_one_reason(tmp_path, monkeypatch):
    frames = np.zeros((4, 11), np.uint8)
    wrong = {
        "pickled": ({"train": np.array([{}], object), "train_len": [1]}, "pickle"),
        "no lengths": ({"train": frames}, "no array 'train_len'"),
        "other lengths": ({"train": frames, "train_len": [3]}, "is not the lengths"),
        "negative": ({"train": frames, "train_len": [5, -1]}, "is not the lengths"),
        "128 keys": ({"train": np.zeros((4, 16), np.uint8), "train_len": [4]}, "expected packed rolls"),
        "voices": ({"train": np.zeros((4, 4), np.int8), "train_len": [4]}, "expected packed rolls"),
    }
    for name, (arrays, reason) in wrong.items():
        np.savez(tmp_path / "a.npz", **arrays)
        with pytest.raises(ScoreError, match=reason):
            read_rolls(tmp_path / "a.npz")
        assert name
    np.savez(tmp_path / "a.npz", train=frames, train_len=[4])
    with pytest.raises(ScoreError, match="expected voices"):
        read_voices(tmp_path / "a.npz")
    (tmp_path / "b.npz").write_bytes((tmp_path / "a.npz").read_bytes()[:-40])
    for path in (tmp_path / "b.npz", tmp_path / "absent.npz", tmp_path):
        with pytest.raises(ScoreError, match="not an archive"):
            read_rolls(path)
    with (
        zipfile.ZipFile(tmp_path / "bomb.npz", "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("train.npy", "w") as file,
    ):
        for _ in range(9):
            file.write(bytes(1 << 20))
    monkeypatch.setattr("jaxgen.scores.archives._MOST_BYTES", 8 << 20)
    with pytest.raises(ScoreError, match="unpacked, expected at most 8 MiB"):
        read_rolls(tmp_path / "bomb.npz")


def test_files_are_told_apart_by_their_suffixes(tmp_path):
    (tmp_path / "a.ABC").write_text("X:1\nK:C\nC\n\nX:2\nT:no key\n")
    (name, read), (other, refused) = read_scores(tmp_path / "a.ABC")
    assert (name, other) == ("1", "2")
    assert isinstance(refused, ScoreError)
    assert not isinstance(read, ScoreError)
    (tmp_path / "a.xml").write_bytes(score_of(*MEASURES))
    assert len(read_scores(tmp_path / "a.xml")) == 1
    os.mkfifo(tmp_path / "pipe.mid")
    for path, reason in (("b.wav", "no suffix"), ("c.mid", "no such file"), ("pipe.mid", "named pipe")):
        with pytest.raises(ScoreError, match=reason):
            read_scores(tmp_path / path)
    with open(tmp_path / "large.mid", "wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(ScoreError, match="expected at most 8 MiB"):
        read_scores(tmp_path / "large.mid")
    pytest.importorskip("symusic", reason="pip install 'jaxgen[music]'")
    write_midi(tmp_path / "a.mid", SCORE)
    ((_, read),) = read_scores(tmp_path / "a.mid")
    assert not isinstance(read, ScoreError)
    assert read.score == SCORE


@pytest.mark.skipif("JAXGEN_DATA" not in os.environ, reason="JAXGEN_DATA names no folder of real data")
def test_the_published_archives_are_read():
    folder = Path(os.environ["JAXGEN_DATA"]) / "jsb"
    rolls, voices = read_rolls(folder / "jsb_chorales_roll88.npz"), read_voices(folder / "jsb16_satb.npz")
    assert {split: len(pieces) for split, pieces in rolls.items()} == {"train": 229, "validation": 76, "test": 77}
    assert {split: len(pieces) for split, pieces in voices.items()} == {"train": 229, "validation": 76, "test": 77}
    score = from_voices(mark_holds(voices["test"][0]), 4)
    assert len(score.tracks) == 4
    assert score.length == len(voices["test"][0])
    assert from_roll(rolls["test"][0], None, 1).length == len(rolls["test"][0])
    assert (voices["train"][0] != REST).mean() > 0.9


@pytest.mark.parametrize("text", ["", "no tune here", "\n\n", "x:1\nK:C\nCDE|\n"])
def test_an_abc_file_without_tunes_says_so(text, tmp_path):
    (tmp_path / "a.abc").write_text(text)
    with pytest.raises(ScoreError, match="no ABC tune: no line begins with X:"):
        read_scores(tmp_path / "a.abc")


def test_an_indented_tune_is_one(tmp_path):
    (tmp_path / "a.abc").write_text(" X:1\nT:x\nK:C\nCDEF|\n")
    ((_, found),) = read_scores(tmp_path / "a.abc")
    assert len(found.score.notes) == 4
