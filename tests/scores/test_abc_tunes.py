"""ABC tunes: notes, repeats and chords as the standard says, against abc2midi where that is there."""

import contextlib
import subprocess
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jaxgen.scores.abc_tunes import parse_abc, split_tunes
from jaxgen.scores.chords import Chord, parse_chord
from jaxgen.scores.repeats import BarMarks, play_order
from jaxgen.scores.score import KeySignature, ScoreError, TimeSignature

HEAD = "X:1\nT:A tune\nM:4/4\nL:1/8\nQ:1/4=90\nK:C\n"


def pitches(body: str, head: str = HEAD) -> list[int]:
    return parse_abc(head + body).score.notes["pitch"].tolist()


def lengths(body: str, head: str = HEAD) -> list[float]:
    """In eighths."""
    score = parse_abc(head + body).score
    return (score.notes["duration"] / score.ticks_per_quarter * 2).tolist()


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("C c c' C, ^C _B =B", [60, 72, 84, 48, 61, 70, 71]),
        ("^C C | C", [61, 61, 60]),  # an accidental lasts to the end of the bar
        ("^C c", [61, 72]),  # in its octave
        ("^C- | C C", [61, 60]),  # a tie carries it on
        ("[CEG] z [ce]", [60, 64, 67, 72, 76]),
        ("[K:G] F [K:F] B", [66, 70]),
        ("|: C :| D", [60, 60, 62]),
        ("C :| D", [60, 60, 62]),
        ("|: C |1 D :|2 E | F", [60, 62, 60, 64, 65]),
        ("|: C |[1 D :|[2 E :| F", [60, 62, 60, 64, 65]),
        ("|: C :: D :|", [60, 60, 62, 62]),
        ("C | D || E :|", [60, 62, 64, 64]),
        ("|: C |1,3 D :|2 E :|4 F |]", [60, 62, 60, 64, 60, 62, 60, 65]),
        ('"Am"!trill!~C {de}D "^slow"E % F', [60, 62, 64, 69 - 24, 57, 60, 64]),
        ("C\nw: la\nD:|", [60, 62, 60, 62]),
    ],
)
def test_what_is_played(body, expected):
    assert sorted(pitches(body)) == sorted(expected)


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("C2 C/ C/2 C// C3/2 C", [2, 0.5, 0.5, 0.25, 1.5, 1]),
        ("(3CDE F", [2 / 3, 2 / 3, 2 / 3, 1]),
        ("C (3CDE|(3CDE (3CDE ((3CD)E (F)", [1, *[2 / 3] * 12, 1]),
        ("(3:2:2C2D F", [4 / 3, 2 / 3, 1]),
        ("C>D E<F G>>A", [1.5, 0.5, 0.5, 1.5, 1.75, 0.25]),
        ("C2-C D-|D", [3, 2]),
        ("[CE]-[CG]", [2, 1, 1]),
    ],
)
def test_how_long_it_lasts(body, expected):
    assert np.allclose(lengths(body), expected)


def test_rests_and_bars_of_rest_take_time():
    score = parse_abc(HEAD + "C z3 | Z2 | D").score
    assert (score.notes["onset"] / score.ticks_per_quarter).tolist() == [0, 10]


@pytest.mark.parametrize(
    ("key", "sharps", "minor", "played"),
    [
        ("G", 1, False, 66),
        ("Em", 1, True, 66),
        ("Ddor", 0, True, 65),
        ("A mix", 2, False, 66),
        ("Bb", -2, False, 65),
        ("F#m", 3, True, 66),
    ],
)
def test_keys_and_modes(key, sharps, minor, played):
    read = parse_abc(f"X:1\nM:6/8\nL:1/8\nK:{key}\nFGA").score
    (signature,) = read.key_signatures
    assert (signature.sharps, signature.minor) == (sharps, minor)
    assert read.notes["pitch"][0] == played
    assert read.time_signatures == (TimeSignature(0, 6, 8),)


def test_tempo_title_voices_and_chords_are_those_of_the_file():
    text = (
        'X:2\nT:Two\nC:Anon\nM:3/4\nL:1/4\nQ:3/4=40\nV:S\nV:B clef=bass\nK:D\nV:S\n"D"FFF|"A7/C#"E3|\nV:B\nD,3|C,3|\n'
    )
    score = parse_abc(text).score
    assert [track.name for track in score.tracks] == ["S", "B", "chords"]
    assert round(score.tempi[0].quarters_per_minute) == 120
    assert score.title == "Two"
    assert score.key_signatures == (KeySignature(0, 2, False),)
    chords = score.notes[score.notes["track"] == 2]
    assert set(chords["onset"] / score.ticks_per_quarter) == {0, 3}
    assert set(chords["pitch"][chords["onset"] > 0] % 12) == {1, 9, 4, 7}
    assert score.notes["pitch"][score.notes["track"] == 1].tolist() == [50, 49]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("G", Chord(7, "", 7)),
        ("Bbm7", Chord(10, "m7", 10)),
        ("F#min/C#", Chord(6, "m", 1)),
        ("Adim", Chord(9, "dim", 9)),
        ("N.C.", None),
        ("Gfoo", None),
    ],
)
def test_names_of_chords(name, expected):
    assert parse_chord(name) == expected


def test_repeats_without_end_are_played_as_often_as_they_say():
    assert play_order([BarMarks(ends_repeat=True)] * 3) == [0, 0, 1, 1, 2, 2]
    assert len(play_order([BarMarks(endings=frozenset({9}), begins_repeat=True, ends_repeat=True)] * 50)) < 1_000
    assert play_order([]) == []


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("X:1\nT:no key\nabc", "without a key"),
        (HEAD + "z4|", "^no notes$"),
        (HEAD + "C0", "note length"),
        (HEAD + "c''''''''", "beyond MIDI"),
        (HEAD + "C Z99999 Z99999 D", "expected at most 50000"),
        ("X:1\nM:7/9\nK:C\nC", "the metre"),
    ],
)
def test_what_cannot_be_used_has_one_reason(text, reason):
    with pytest.raises(ScoreError, match=reason):
        parse_abc(text)


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.too_slow])
@given(body=st.text(alphabet="ABCcg[]|:12\"(3{}!'><-/^_ \nzZVK=", max_size=80))
def test_any_text_gives_a_score_or_a_reason(body):
    with contextlib.suppress(ScoreError):
        assert len(parse_abc(HEAD + body).score.notes)


@pytest.mark.parametrize("text", ["{", '"', "[C", ":", "!", "[CCCCC", "|:", "[K:"])
def test_hostile_text_takes_no_time(text):
    with contextlib.suppress(ScoreError):
        parse_abc(HEAD + "C" + text * 3_001)
    with pytest.raises(ScoreError, match="expected at most"):
        parse_abc(HEAD + "C" + text * 200_000)


def test_a_book_has_tunes():
    assert [
        parse_abc(tune).score.title for tune in split_tunes(f"a preface\n{HEAD}C\n\n{HEAD.replace('A tune', 'B')}D")
    ] == ["A tune", "B"]


TUNE = """X:1
T:Check
M:6/8
L:1/8
Q:3/8=100
K:Emin
|:"Em"E2e "D"dBA|(3GAB d ^c>de|"G"[GB]3- [GB]2 z|1 ~E3 {f}e'3 :|2 E,3-E,3||
|:b/a/g f e2 =c|B,<D G, A3:|
"""


def test_the_notes_are_those_of_abc2midi(tmp_path):
    symusic = pytest.importorskip("symusic", reason="pip install 'jaxgen[music]'")
    from symusic import factory

    (tmp_path / "a.abc").write_text(
        TUNE.replace("{f}", "").replace("~", "").replace("K:Emin", "K:Emin\n%%MIDI gchordoff\n%%MIDI nobarlines")
    )
    program = Path(factory.__file__).parent / "bin" / "abc2midi"
    subprocess.run([program, "a.abc", "-o", "a.mid"], cwd=tmp_path, check=True, capture_output=True)
    theirs = symusic.Score(str(tmp_path / "a.mid"))
    columns = theirs.tracks[0].notes.numpy()
    ours = parse_abc(TUNE).score
    melody = ours.notes[ours.notes["track"] == 0]
    found = sorted(
        zip((melody["onset"] / ours.ticks_per_quarter * 24).round().tolist(), melody["pitch"].tolist(), strict=True)
    )
    expected = sorted(
        zip((columns["time"] / theirs.ticks_per_quarter * 24).round().tolist(), columns["pitch"].tolist(), strict=True)
    )
    assert found == expected
