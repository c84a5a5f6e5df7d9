"""A kind of model from outside the package trains, resumes, generates and is evaluated without a change inside."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from jaxgen import audio
from jaxgen.cli import evaluate, generate, train

TOY = Path(__file__).parent / "toy.py"


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def run(command, cache, tmp_path):
    """Calls a command with the toy's config and the run's folder: its exit code, stdout and stderr."""

    def call(main, *options, workdir=tmp_path / "run"):
        return command(main, "--config", TOY, "--workdir", workdir, "--cache-dir", cache, *options)

    return call


def centroid_hz(samples: np.ndarray, rate: int) -> float:
    power = np.square(np.abs(np.fft.rfft(samples)))
    return float(np.fft.rfftfreq(len(samples), 1 / rate) @ power / power.sum())


def test_it_trains_generates_and_is_measured(run, tmp_path):
    whole = tmp_path / "whole"
    assert run(train.main, workdir=whole)[0] == 0
    report = json.loads((whole / "report.json").read_text())
    made, real = report["table"]["generated"], report["table"]["held-out data"]
    for band in ("low", "high"):
        assert made[f"centroid_{band}_hz"] == pytest.approx(real[f"centroid_{band}_hz"], rel=0.15)
    assert report["metrics"]["loss"] < 0.5
    page = (whole / "report.html").read_text()
    assert "Centre of low sounds" in page  # in the metric's own words
    assert "its metric does not say which way is better" in page  # of the loss, which nobody describes
    assert "centroid_" not in page
    rows = [json.loads(line) for line in (whole / "metrics.jsonl").read_text().splitlines()]
    assert rows[0]["loss"] > 2 * rows[-1]["loss"]

    assert run(generate.main, "--label", "band=high", "--num-clips", "3", "--seconds", "0.5", workdir=whole)[0] == 0
    wavs = sorted((whole / "generated" / "seed_0").glob("*.wav"))
    assert len(wavs) == 3
    for wav in wavs:
        clip = audio.read(wav)
        assert len(clip.samples) == 4_000
        assert centroid_hz(clip.samples[:, 0], clip.sample_rate) > 2_000

    assert run(evaluate.main, "--num-clips", "4", workdir=whole)[0] == 0
    assert (whole / "evaluation" / "report.html").exists()


def test_a_stopped_run_of_it_goes_on_as_if_it_had_not_been(run, tmp_path, monkeypatch):
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    assert run(train.main, workdir=whole)[0] == 0
    assert run(train.main, workdir=stopped)[0] == 0
    for step in (30, 40):
        (stopped / "report.json").unlink(missing_ok=True)
        for path in sorted((stopped / "checkpoints" / str(step)).rglob("*"), reverse=True):
            path.unlink() if path.is_file() else path.rmdir()
        (stopped / "checkpoints" / str(step)).rmdir()
    assert run(train.main, workdir=stopped)[0] == 0
    tables = [json.loads((folder / "report.json").read_text())["metrics"] for folder in (whole, stopped)]
    for table in tables:
        table.pop("real_time_factor", None)
    assert tables[0] == tables[1]


def test_what_it_cannot_do_is_told(run):
    assert run(train.main)[0] == 0
    for options, said in (
        (("--interpolate", "3"), "the run's model shapes noise; leave out --interpolate"),
        (("--temperature", "0.5"), "the run's model shapes noise; leave out --temperature"),
        (("--refinements", "1"), "a ShapedNoise is no vocoder"),
    ):
        code, _, err = run(generate.main, *options)
        assert (code, said in err) == (2, True), err


@pytest.mark.nightly
def test_without_its_file_its_run_is_one_line(run, cache, tmp_path):
    assert run(train.main)[0] == 0
    line = ["-m", "jaxgen.generate", "--workdir", tmp_path / "run", "--cache-dir", cache]
    done = subprocess.run([sys.executable, *line], capture_output=True, text=True)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert "--config a file that defines the same classes" in done.stderr
