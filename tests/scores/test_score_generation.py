"""Written music from a run: tempo and metre of what was given, SoundFonts, and the same from Python."""

import dataclasses
import json
import sys

import numpy as np
import pytest

import jaxgen
from jaxgen import audio
from jaxgen.cli import generate
from jaxgen.config import Config
from jaxgen.core.errors import UserError
from jaxgen.data.scores import ComposedChorales
from jaxgen.evaluation.score_evaluation import ScoreEvaluation
from jaxgen.features import Melody, Voices
from jaxgen.models.score_rnn import ScoreRNN
from jaxgen.nn.note_heads import VoiceByVoice
from jaxgen.nn.recurrent import GRU
from jaxgen.scores.files import read_scores
from jaxgen.scores.midi import write_midi
from jaxgen.scores.score import KeySignature, Score, Tempo, TimeSignature, Track, crop, make_notes, select_tracks
from jaxgen.training.schedule import Train

pytest.importorskip("symusic", reason="MIDI files need jaxgen[music]")
pytestmark = pytest.mark.slow

RATE = 8_000
FEATURES = Voices(names=("alto", "tenor", "bass"), tracks=(1, 2, 3), frames_per_quarter=12, sample_rate=RATE)
SLOW, BAR = 50.0, 3  # quarters a minute, and in a bar of the melody
ONSETS = [0, 8, 16, 24, 36, 48, 72, 84, 96, 108, 112, 116, 120, 132, 144, 168, 180, 192]  # triplets among them


def melody_score():
    """Six bars of three quarters, slow, in D minor, 24 ticks a quarter."""
    onsets = np.array([*(2 * np.array(ONSETS)), 432])
    pitches = 62 + np.array([0, 2, 3, 5, 7, 5, 3, 2, 0, 2, 3, 5, 7, 8, 7, 5, 3, 0])
    return Score(
        make_notes(onsets[:-1], np.diff(onsets), pitches),
        24,
        432,
        (Track("tune"),),
        (Tempo(0, round(60e6 / SLOW)), Tempo(216, round(60e6 / 60))),
        (TimeSignature(0, BAR, 4),),
        (KeySignature(0, 2, True),),
    )


SECONDS = 9 * 60 / SLOW + 9 * 60 / 60


@pytest.fixture(scope="module")
def melody(tmp_path_factory):
    path = tmp_path_factory.mktemp("music") / "tune.mid"
    write_midi(path, melody_score())
    return path


@pytest.fixture(scope="module")
def run(tmp_path_factory, cache):
    """It has hardly learned; what is tested here does not depend on what it has learned."""
    config = Config(
        data=ComposedChorales(num_clips=10),
        features=FEATURES,
        streams={"melody": Melody()},
        model=ScoreRNN(
            cell=GRU(8), num_layers=1, output=VoiceByVoice(width=8), context_streams=("melody",), context_cell=GRU(4)
        ),
        train=Train(steps=2, batch_size=9, seq_len=2_000, eval_every=2, checkpoint_every=2),
        evaluation=ScoreEvaluation(num_clips=1, num_previews=1),
    )
    return jaxgen.train(config, workdir=tmp_path_factory.mktemp("runs") / "music", cache_dir=str(cache))


def grid(score):
    """(onset, duration, pitch) in twelfths of a quarter."""
    notes, ticks = score.notes, score.ticks_per_quarter
    return [(12 * o // ticks, 12 * d // ticks, p) for o, d, p in notes[["onset", "duration", "pitch"]].tolist()]


def test_a_melody_keeps_its_tempo_metre_and_triplets(run, melody, command, cache, tmp_path):
    options = ("--workdir", run.workdir, "--cache-dir", cache, "--out", tmp_path, "--num-clips", "1")
    code, _, err = command(generate.main, *options, "--melody", melody)
    assert (code, err) == (0, "")
    given, made = melody_score(), read_scores(tmp_path / "000.mid")[0][1].score
    assert [round(tempo.quarters_per_minute) for tempo in made.tempi] == [SLOW, 60]
    assert made.tempi[1].tick / made.ticks_per_quarter == 9
    assert [(each.numerator, each.denominator) for each in made.time_signatures] == [(BAR, 4)]
    assert made.key_signatures == given.key_signatures
    assert grid(select_tracks(made, [0])) == grid(given)
    assert len(audio.read(tmp_path / "000.wav").samples) == pytest.approx(SECONDS * RATE, abs=2)


def test_clips_from_python_are_those_of_the_command(run, melody, command, cache, tmp_path):
    clips = run.generate(2, melody=melody, seed=3)
    asked = ("--melody", melody, "--seed", "3", "--num-clips", "2", "--out", tmp_path / "by_command")
    assert command(generate.main, "--workdir", run.workdir, "--cache-dir", cache, *asked)[0] == 0
    clips.save(tmp_path / "by_python")
    ours, theirs = (sorted((tmp_path / name).iterdir()) for name in ("by_python", "by_command"))
    assert [path.name for path in ours] == [f"00{n}.{kind}" for n in range(2) for kind in ("json", "mid", "png", "wav")]
    for a, b in zip(ours, theirs, strict=True):
        assert a.read_bytes() == b.read_bytes(), a.name
    assert grid(select_tracks(clips.scores[0], [0])) == grid(melody_score())
    assert len(clips[1].scores) == 1
    assert clips[1].scores[0] is clips.scores[1]


def test_bars_are_those_of_the_melody(run, melody):
    (score,) = run.generate(1, melody=melody, bars=4).scores
    assert score.quarters == 4 * BAR
    assert grid(select_tracks(score, [0])) == [note for note in grid(melody_score()) if note[0] < 4 * BAR * 12]
    with pytest.raises(UserError, match=r"has 6 bars; pass --bars 6 or fewer, or leave it out"):
        run.generate(1, melody=melody, bars=7)


def test_a_prompt_is_the_path_of_a_file(run, tmp_path):
    chorale = ComposedChorales(seed=3).compose(1)
    begin = crop(chorale, 0, 2)
    for name, score in (("whole.mid", chorale), ("prompt.mid", begin)):
        write_midi(tmp_path / name, score)
    clips = run.generate(1, prompt=tmp_path / "prompt.mid", melody=tmp_path / "whole.mid")
    (score,) = clips.scores
    assert score.quarters == chorale.quarters
    assert score.tempi[0].quarters_per_minute == pytest.approx(chorale.tempi[0].quarters_per_minute, rel=1e-3)
    until = round(begin.quarters * 12)
    for track in range(4):
        kept, asked = (grid(select_tracks(each, [track])) for each in (score, begin))
        assert [note[0::2] for note in kept if note[0] < until] == [note[0::2] for note in asked]
    (wav,) = clips.save(tmp_path / "out")
    assert json.loads(wav.with_suffix(".json").read_text())["prompt"] == str(tmp_path / "prompt.mid")
    with pytest.raises(UserError, match="the prompt is an array, and the run writes music"):
        run.generate(1, prompt=np.zeros(8, np.float32), melody=tmp_path / "whole.mid")
    with pytest.raises(UserError, match=r"the prompt '.*none\.mid' cannot be used"):
        run.generate(1, prompt=tmp_path / "none.mid", melody=tmp_path / "whole.mid")


def test_what_states_no_tempo_has_that_of_the_features(run, tmp_path):
    (tmp_path / "tune.abc").write_text("X:1\nM:6/8\nL:1/8\nK:G\nGAB c2d|G3 G3|\n")
    (score,) = run.generate(1, melody=tmp_path / "tune.abc").scores
    assert [tempo.quarters_per_minute for tempo in score.tempi] == [FEATURES.quarters_per_minute]
    assert [(each.numerator, each.denominator) for each in score.time_signatures] == [(6, 8)]
    own = FEATURES.decode_score(np.zeros((24, 3), np.uint8))
    assert own.time_signatures == (TimeSignature(0, 4, 4),)
    waltz = dataclasses.replace(FEATURES, quarters_per_bar=3).timing()
    assert waltz.time_signatures == (TimeSignature(0, 3, 4),)


def test_a_rhythm_that_the_grid_changes_is_told(melody, capsys):
    coarse = dataclasses.replace(FEATURES, frames_per_quarter=4)
    Melody().parse(str(melody), coarse)
    line = capsys.readouterr().err
    assert line.startswith("jaxgen: 4 places a quarter, which the model was trained with, change the rhythm of '")
    assert line.endswith("': 22% of its notes begin up to 0.08 quarters off.\n")
    Melody().parse(str(melody), FEATURES)
    assert capsys.readouterr().err == ""


def test_a_soundfont_plays_what_is_written(run, melody, command, cache, tmp_path):
    pytest.importorskip("tinysoundfont", reason="pip install 'jaxgen[soundfont]'")
    from test_soundfont import sine_font

    font = sine_font(tmp_path / "sine.sf2")
    options = ("--workdir", run.workdir, "--cache-dir", cache, "--num-clips", "2", "--melody", melody)
    code, _, err = command(generate.main, *options, "--soundfont", font, "--out", tmp_path / "a")
    assert (code, err) == (0, "")
    mark = json.loads((tmp_path / "a" / "000.json").read_text())
    assert (mark["synthetic"], mark["soundfont"]) == (True, "sine.sf2")
    played = [audio.read(tmp_path / "a" / f"00{place}.wav") for place in range(2)]
    assert {clip.samples.shape for clip in played} == {(round((SECONDS + 2) * RATE), 2)}  # and what rings on
    plain = run.generate(2, melody=melody)
    assert plain.scores[0] == run.generate(2, melody=melody, soundfont=font).scores[0]
    assert not np.allclose(played[0].samples[: len(plain.samples[0])], plain.samples[0], atol=0.01)
    assert min(np.abs(clip.samples).max() for clip in played) > 0.01


def test_a_soundfont_that_cannot_be_used_is_one_line(run, melody, command, cache, tmp_path, monkeypatch):
    (tmp_path / "a.sf2").write_bytes(b"nothing")
    options = ("--workdir", run.workdir, "--cache-dir", cache, "--melody", melody, "--out", tmp_path / "out")

    def refused(*more):
        code, _, err = command(generate.main, *options, *more)
        assert (code, err.count("\n"), (tmp_path / "out").exists() and any((tmp_path / "out").iterdir())) == (
            2,
            1,
            False,
        )
        return err

    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "tinysoundfont", None)
        assert "pip install 'jaxgen[soundfont]'" in refused("--soundfont", tmp_path / "a.sf2")
    pytest.importorskip("tinysoundfont", reason="pip install 'jaxgen[soundfont]'")
    assert "no SoundFont" in refused("--soundfont", tmp_path / "a.sf2")
    assert "cannot read" in refused("--soundfont", tmp_path / "none.sf2")


def test_a_model_of_sound_takes_no_soundfont(quickstart, command, cache, tmp_path):
    options = ("--workdir", quickstart, "--cache-dir", cache, "--out", tmp_path / "out")
    code, _, err = command(generate.main, *options, "--soundfont", tmp_path / "a.sf2")
    assert (code, err.count("\n")) == (2, 1)
    assert err.endswith("leave out --soundfont.\n")
