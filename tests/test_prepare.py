"""The command that decodes ahead of training, from the command line to its report."""

import json
from unittest import mock

import numpy as np
import pytest
import soundfile

from jaxgen import audio
from jaxgen.cli import prepare


@pytest.fixture
def sound(tmp_path):
    """A folder of twelve short clips and one file that is no audio."""
    folder = tmp_path / "sound"
    folder.mkdir()
    for index in range(12):
        samples = np.random.default_rng(index).uniform(-0.5, 0.5, 4_000)
        soundfile.write(folder / f"{'high' if index % 2 else 'low'}_{index}.wav", samples, 16_000)
    (folder / "low_99.wav").write_text("no sound")
    return folder


def options(sound, tmp_path):
    return ["--data.root", sound, "--workdir", tmp_path / "run", "--cache-dir", tmp_path / "cache"]


def test_prints_and_saves_the_report(sound, tmp_path, command):
    code, out, err = command(prepare.main, *options(sound, tmp_path), "--data.pattern", "{band}_{index}")
    assert (code, err) == (0, "")
    assert "12 clips" in out
    assert "band: high 6, low 6" in out
    assert "low_99.wav: not audio" in out
    found = json.loads((tmp_path / "run" / "data_report.json").read_text())
    assert (found["clips"], found["sample_rates_hz"], found["resampled"]) == (12, {"16000": 12}, 0)
    assert (tmp_path / "run" / "data_report.png").is_file()


def test_what_was_decoded_is_found_again(sound, tmp_path, command, monkeypatch):
    assert command(prepare.main, *options(sound, tmp_path), "--features.sample-rate", 8_000)[0] == 0
    read = mock.Mock(wraps=audio.read)
    monkeypatch.setattr(audio, "read", read)
    assert command(prepare.main, *options(sound, tmp_path), "--features.sample-rate", 8_000)[0] == 0
    assert read.call_count <= 1  # one to learn the recordings' rate


def test_options_of_the_policy_reach_it(sound, tmp_path, command):
    code, out, err = command(prepare.main, *options(sound, tmp_path), "--audio.max-refused", 0)
    assert (code, out) == (2, "")
    assert err.startswith("jaxgen: 1 of 13 files were refused (1 not audio, or damaged; list in ")
    assert err.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_a_workdir_that_cannot_be_made(sound, tmp_path, command):
    (tmp_path / "run").write_text("in the way")
    code, _, err = command(prepare.main, *options(sound, tmp_path))
    assert code == 2
    assert "cannot write to" in err
