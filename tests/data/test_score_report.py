"""The data report of written music says what a musician asks, and nothing about loudness."""

import json
from fractions import Fraction

import numpy as np
import pytest

from jaxgen.cli import prepare as command_line
from jaxgen.core.errors import UserError
from jaxgen.data import report
from jaxgen.data.ingest import AudioPolicy
from jaxgen.data.preparation import prepare
from jaxgen.data.score_report import NOT_STATED, facts_of
from jaxgen.data.scores import ComposedChorales, ComposedTunes, Scores
from jaxgen.features import PianoRoll, Voices
from jaxgen.scores.score import Score, Tempo, TimeSignature, Track, make_notes, quantise

TUNE = "X:{number}\nT:a\nM:{metre}\nL:1/4\nK:{key}\n{notes}\n"
TRIPLETS = "(3C/D/E/ G E C|" * 4


@pytest.fixture
def folder(tmp_path):
    """Three tunes that can be read, of known keys and metres, and two files that cannot."""
    root = tmp_path / "music"
    root.mkdir()
    for number, (key, metre, notes) in enumerate(
        (
            ("G", "3/4", "G B d|g d B|A F D|G3|" * 2),
            ("D", "4/4", "D F A d|A F D2|" * 4),
            ("C", "4/4", TRIPLETS),
        )
    ):
        (root / f"{number}.abc").write_text(TUNE.format(number=number, metre=metre, key=key, notes=notes))
    (root / "broken.abc").write_text("X:1\nT:no key\nCDEF\n")
    (root / "notes.txt").write_text("a letter")
    return root


def test_the_report_of_a_folder(folder, tmp_path, command):
    (tmp_path / "config.py").write_text(
        "import dataclasses\nfrom jaxgen.config import load\n"
        "from jaxgen.data.scores import Scores\nfrom jaxgen.features import PianoRoll\n"
        "from jaxgen.recipes.presets import quickstart\n"
        "CONFIG = dataclasses.replace(quickstart(), data=Scores(), features=PianoRoll())\n"
    )
    code, out, err = command(
        command_line.main,
        *("--config", tmp_path / "config.py", "--data.root", folder, "--workdir", tmp_path / "run"),
        *("--cache-dir", tmp_path / "cache", "--data.licence", "CC0", "--audio.max-refused", "0.5"),
    )
    assert code == 0, err
    for said in (
        "3 pieces",
        "length: 4 to 8 bars, median 8",
        "pitches: all C4 to G5",
        "notes together: 1.0 to 1.0 a piece",
        "keys (estimated): C major 1, D major 1, G major 1",
        "metres: 4/4 2, 3/4 1",
        "tempi (quarters a minute): not stated 3",
        "rhythm: 4 frames a quarter change that of 1 pieces; there 33% of the notes begin up to 0.08 quarters off",
        "licences: CC0 3",
        "broken.abc#1: an ABC tune without a key, K:",
        "notes.txt: not a file of notes",
    ):
        assert said in out, (said, out)
    for meaningless in ("dBFS", "Hz", "channels", "warning"):
        assert meaningless not in out
    found = json.loads((tmp_path / "run" / "data_report.json").read_text())
    assert not {"loudness_dbfs", "sample_rates_hz", "channels"} & found.keys()
    assert [piece["name"] for piece in found["pieces"]] == ["0.abc#1", "1.abc#1", "2.abc#1"]
    assert (tmp_path / "run" / "data_report.png").read_bytes().startswith(b"\x89PNG")


def test_finer_frames_hold_triplets(folder, tmp_path):
    policy = AudioPolicy(max_refused=0.5)
    store = prepare(Scores(root=str(folder)), PianoRoll(frames_per_quarter=12), policy, tmp_path / "cache")
    assert store.report["grid"] == {
        "frames_per_quarter": 12,
        "pieces_shifted": 0,
        "shifted_share": 0.0,
        "largest_shift_quarters": 0.0,
    }
    assert "rhythm:" not in report.summary(store.report)


def test_each_voice_has_its_range(cache):
    store = prepare(ComposedChorales(num_clips=6), Voices(), AudioPolicy(), cache)
    ranges = store.report["pitch_ranges"]
    assert list(ranges) == ["all", *(f"track {n} ({name})" for n, name in enumerate(store.features.names, 1))]
    pitches = [store.features.decode_score(store.steps(clip)).notes for clip in range(6)]
    for track, name in enumerate(list(ranges)[1:]):
        theirs = np.concatenate([notes["pitch"][notes["track"] == track] for notes in pitches])
        assert ranges[name] == {"lowest": theirs.min(), "highest": theirs.max()}
    assert store.report["polyphony"]["median"] == pytest.approx(4)


def test_lengths_are_by_the_pieces_own_tempi(cache):
    data = ComposedTunes(num_clips=4)
    store = prepare(data, PianoRoll(), AudioPolicy(), cache)
    own = [data.compose(place).seconds for place in range(4)]
    assert store.report["hours"] == pytest.approx(sum(own) / 3600, rel=1e-3)
    assert store.report["quarters_per_minute"]["not_stated"] == 0


def test_facts_of_a_known_piece():
    notes = make_notes([0, 24, 48, 0], [24, 24, 24, 72], [60, 64, 67, 48], 80, [0, 0, 0, 1])
    score = Score(
        notes, 24, 72, (Track("a"), Track("b"), Track("none")), (Tempo(0, 600_000),), (TimeSignature(0, 3, 4),)
    )
    moved, error = quantise(score, (4,))
    facts = facts_of(moved, error, 120)
    assert facts.tracks == (("a", 60, 67), ("b", 48, 48))
    assert (facts.key, facts.metre, facts.quarters_per_minute, facts.bars) == ("C major", "3/4", 100, 1)
    assert (facts.seconds, facts.polyphony, facts.shifted_share) == (pytest.approx(1.8), 2, 0)
    plain, error = quantise(Score(make_notes([0, 8], 8, 60), 24, 24), (4,))
    facts = facts_of(plain, error, 120)
    assert (facts.metre, facts.quarters_per_minute) == (NOT_STATED, None)
    assert facts.seconds == pytest.approx(0.5)
    assert (facts.shifted_share, Fraction(facts.largest_shift).limit_denominator(100)) == (0.5, Fraction(1, 12))


def test_a_folder_of_refused_pieces_asks_for_music(tmp_path):
    (tmp_path / "a.abc").write_text("X:1\nT:no key\nCDEF\n")
    with pytest.raises(UserError, match=r"no written music to train on: all 1 files were refused .*\.abc.* files"):
        prepare(Scores(root=str(tmp_path)), PianoRoll(), AudioPolicy(), tmp_path / "cache")
