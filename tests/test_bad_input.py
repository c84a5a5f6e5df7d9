"""A user's mistake costs one line and exit code 2, leaves nothing behind, and never shows a traceback."""

import io
import json
import shutil

import numpy as np
import pytest
from conftest import TINY

from jaxgen import audio
from jaxgen.cli import evaluate, generate, prepare, train
from jaxgen.core.errors import UserError
from jaxgen.data.synthetic import PluckedStrings
from jaxgen.training.schedule import Train
from jaxgen.training.telemetry import Telemetry


@pytest.fixture
def refused(command, tmp_path, monkeypatch):
    """Runs an entry point in an empty folder; returns its one line after checking that nothing was left behind."""
    empty = tmp_path / "cwd"
    empty.mkdir()
    monkeypatch.chdir(empty)

    def call(main, *arguments):
        code, out, err = command(main, *arguments)
        lines = [line for line in err.splitlines() if "jaxgen:" in line]
        assert code == 2, err
        assert len(lines) == 1, err
        assert "Traceback" not in err
        assert out == ""
        assert list(empty.iterdir()) == []
        return lines[0]

    return call


@pytest.fixture
def sound(tmp_path):
    """A folder of four short recordings."""
    folder = tmp_path / "sound"
    folder.mkdir()
    for index, clip in enumerate(PluckedStrings(num_clips=4, seconds=0.3).clips()):
        audio.write(folder / f"{index}.wav", clip.load().samples[:, 0], 8_000)
    return folder


both = pytest.mark.parametrize("main", [train.main, prepare.main], ids=["train", "prepare"])


@both
def test_missing_folder(refused, main, tmp_path, cache):
    assert "no folder" in refused(main, "--data.root", tmp_path / "nowhere", "--cache-dir", cache)


@both
def test_folder_without_audio(refused, main, tmp_path, cache):
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.txt").write_text("no sound")
    line = refused(main, "--data.root", tmp_path / "texts", "--cache-dir", cache)
    assert "no audio in" in line
    assert "1 files" in line
    assert ".wav" in line


@both
def test_all_files_refused(refused, main, tmp_path):
    folder = tmp_path / "broken"
    folder.mkdir()
    for index in range(3):
        (folder / f"{index}.wav").write_bytes(b"not a wav")
    (folder / "3.wav").write_bytes(b"")
    line = refused(main, "--data.root", folder, "--cache-dir", tmp_path / "cache")
    assert "all 4 files were refused" in line
    assert "1 empty file" in line
    assert {entry["name"] for entry in json.loads((tmp_path / "cache" / "refused.json").read_text())} == {
        f"{index}.wav" for index in range(4)
    }
    assert not list((tmp_path / "cache" / "store").iterdir())


def test_too_many_files_refused(refused, sound, tmp_path):
    (sound / "broken.wav").write_bytes(b"not a wav")
    line = refused(prepare.main, "--data.root", sound, "--cache-dir", tmp_path / "cache", "--audio.max-refused", "0.1")
    assert "1 of 5 files were refused" in line
    assert "--audio.max-refused" in line


@pytest.mark.parametrize("main", [train.main, prepare.main, generate.main, evaluate.main])
def test_unknown_option(refused, main):
    assert refused(main, "--workdri", "x").endswith("did you mean --workdir?")


def test_unknown_nested_option_names_the_nearest(refused):
    assert refused(train.main, "--train.stepz", "3").endswith("did you mean --train.steps?")


@pytest.mark.parametrize(
    ("main", "arguments", "said"),
    [
        (train.main, ["--train.steps", "many"], "train.steps"),
        (train.main, ["--model.cell", "Perceptron"], "expected one of GRU, "),
        (train.main, ["--objective.dtype", "float8"], "dtype"),
        (train.main, ["--train.steps", "0"], "--train.steps is 0"),
        (train.main, ["--train.steps"], "--train.steps"),
        (train.main, ["--train.seed", "-1"], "--train.seed is -1"),
        (train.main, ["--train.early-stopping", "-1"], "--train.early-stopping is -1"),
        (train.main, ["--evaluation.seconds", "nan"], "--evaluation.seconds is nan"),
        (train.main, ["--config", "nowhere.py"], "no config file at 'nowhere.py'"),
        (train.main, ["--data.name", "fsd"], "did you mean fsdd?"),
        (generate.main, ["--workdir", "w", "--num", "0"], "--num-clips is 0"),
        (generate.main, ["--workdir", "w", "--num", "x"], "--num"),
        (generate.main, ["--workdir", "w", "--seconds", "-1"], "--seconds is -1"),
        (generate.main, ["--workdir", "w", "--seconds", "inf"], "--seconds is inf"),
        (generate.main, ["--workdir", "w", "--seed", "-1"], "--seed is -1"),
        (evaluate.main, ["--workdir", "w", "--seed", "-1"], "--seed is -1"),
        (evaluate.main, ["--workdir", "w", "--num-clips", "0"], "--num-clips is 0"),
        (generate.main, ["--num", "3"], "--workdir"),
        (generate.main, ["--workdir", "w"], "no checkpoint in 'w'"),
        (evaluate.main, ["--workdir", "w"], "no checkpoint in 'w'"),
    ],
)
def test_options_that_make_no_sense(refused, main, arguments, said):
    assert said in refused(main, *arguments)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--label", "timbre=glass"], "expected one of muted, nylon, steel"),
        (["--label", "colour=red"], "trained with timbre, tempo"),
        (["--label", "steel"], "expected name=value"),
        (["--temperature", "-1"], "--temperature"),
        (["--top-p", "0"], "--top-p"),
        (["--prompt", "nowhere.wav"], "no prompt at 'nowhere.wav'"),
        (["--step", "77"], "keeps no checkpoint of step 77"),
    ],
)
def test_generation_that_cannot_be(refused, quickstart, tmp_path, arguments, said):
    assert said in refused(generate.main, "--workdir", quickstart, "--out", tmp_path / "out", *arguments)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("num_samples", "rate", "said"),
    [(16_000, 16_000, "16000 Hz, but the model was trained at 8000 Hz"), (50, 8_000, "has 50 samples, but at least")],
)
def test_a_prompt_that_does_not_fit(refused, quickstart, tmp_path, num_samples, rate, said):
    audio.write(tmp_path / "prompt.wav", np.full(num_samples, 0.1, np.float32), rate)
    options = ["--workdir", quickstart, "--prompt", tmp_path / "prompt.wav", "--out", tmp_path / "out"]
    assert said in refused(generate.main, *options)
    assert not (tmp_path / "out").exists()


def test_a_prompt_that_is_not_audio(refused, quickstart, tmp_path):
    (tmp_path / "prompt.wav").write_text("no sound")
    assert "cannot be read" in refused(generate.main, "--workdir", quickstart, "--prompt", tmp_path / "prompt.wav")


def test_a_workdir_of_another_config(refused, quickstart, cache):
    line = refused(
        train.main, *TINY, "--workdir", quickstart, "--cache-dir", cache, "--features.hop-length", "100",
        "--model.cell", "GRU"
    )  # fmt: skip
    assert "features.hop_length=400 (asked: 100)" in line
    assert "model.cell=LSTM (asked: GRU)" in line


def test_a_checkpoint_whose_config_was_changed(refused, quickstart, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(quickstart, copy)
    for path in copy.glob("checkpoints/*/run/*"):
        text = path.read_text()
        if '"features"' in text:
            at = text.index('"hop_length"')  # of the config, which stands before the data
            path.write_text(text[:at] + text[at:].replace("400", "100", 1))
    line = refused(generate.main, "--workdir", copy, "--out", tmp_path / "out")
    assert "none of the checkpoints in" in line


def test_a_workdir_that_cannot_be_written(refused, tmp_path, cache):
    (tmp_path / "file").write_text("in the way")
    line = refused(train.main, *TINY, "--workdir", tmp_path / "file" / "run", "--cache-dir", cache)
    assert "cannot write to" in line


def test_a_cache_that_cannot_be_written(refused, tmp_path):
    (tmp_path / "file").write_text("in the way")
    assert "cannot write to" in refused(prepare.main, "--cache-dir", tmp_path / "file" / "cache")


def test_a_disk_without_room_for_a_checkpoint(refused, tmp_path, cache, monkeypatch):
    almost_full = shutil.disk_usage("/")._replace(free=2**20)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: almost_full)
    wide = ["--model.cell.hidden-size", "256", "--workdir", tmp_path / "run", "--cache-dir", cache]
    line = refused(train.main, *TINY, *wide)
    assert "checkpoints' (1.0 MB free, a checkpoint needs" in line
    assert not [path for path in (tmp_path / "run" / "checkpoints").iterdir() if path.name.isdigit()]


def test_a_disk_that_is_full_when_metrics_are_written(refused, tmp_path, cache, monkeypatch):
    workdir = tmp_path / "run"

    enter = Telemetry.__enter__

    def enter_full(self):
        self._file.close()
        self._file = io.FileIO("/dev/full", "w")
        return enter(self)

    monkeypatch.setattr(Telemetry, "__enter__", enter_full)
    line = refused(train.main, *TINY, "--workdir", workdir, "--cache-dir", cache)
    assert "metrics.jsonl' (No space left on device); free space" in line


def test_a_single_recording_leaves_nothing_to_validate_on(refused, tmp_path, cache):
    (tmp_path / "one").mkdir()
    audio.write(tmp_path / "one" / "a.wav", PluckedStrings(seconds=1).clips()[0].load().samples[:, 0], 8_000)
    line = refused(train.main, "--data.root", tmp_path / "one", "--cache-dir", cache)
    assert "no clip of 1 is for validation" in line


def test_splits_as_stated_are_kept(refused, sound, cache):
    rows = ["path,split", *(f"{index}.wav,train" for index in range(4))]
    (sound / "manifest.csv").write_text("\n".join(rows))
    line = refused(train.main, "--data.root", sound, "--cache-dir", cache)
    assert "no clip of 4 is for validation" in line


def test_a_damaged_checkpoint(refused, quickstart, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(quickstart, copy)
    for path in copy.glob("checkpoints/*/run/metadata"):
        path.write_text(path.read_text()[:100])
    line = refused(generate.main, "--workdir", copy, "--out", tmp_path / "out")
    assert "none of the checkpoints in" in line


def test_stopping_early_by_no_metric():
    with pytest.raises(UserError, match=r"--train.early-stopping needs a --train.best-metric"):
        Train(steps=1, batch_size=1, seq_len=1, best_metric="", early_stopping=2)


def test_a_best_metric_that_is_none(command, tmp_path, cache):
    asked = [*TINY, "--workdir", tmp_path / "run", "--cache-dir", cache, "--train.best-metric", "bits_per_sample"]
    code, _, err = command(train.main, *asked)
    assert code == 2
    assert "--train.best-metric is 'bits_per_sample', expected one of loss, mse, nats_per_frame" in err


def test_a_pattern_that_names_a_field_no_clip_has(refused, sound, cache):
    options = ["--data.root", sound, "--cache-dir", cache, "--model.labels", "digit"]
    assert "conditioned on 'digit', but no training clip has that field" in refused(train.main, *options)


@pytest.mark.parametrize(
    ("manifest", "content", "said"),
    [
        ("manifest.csv", "file,digit\na.wav,1\n", "line 1 has no `path`"),
        ("manifest.csv", "path,split\n0.wav,holdout\n", "expected train, validation or test"),
        ("manifest.jsonl", '{"path": "0.wav"}\n{"path"\n', "line 2 is not JSON"),
        ("manifest.jsonl", '["0.wav"]\n', "line 1 is not a JSON object"),
    ],
)
def test_manifests_that_cannot_be_read(refused, sound, cache, manifest, content, said):
    (sound / manifest).write_text(content)
    assert said in refused(prepare.main, "--data.root", sound, "--cache-dir", cache)


def test_the_wrong_features_for_a_model(refused, cache):
    assert "WaveRNN models samples" in refused(train.main, "--model", "WaveRNN", "--cache-dir", cache)
