"""The main job from the command line: what it leaves, and that a stopped run goes on as if it had never stopped."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from conftest import TINY, nightly

from jaxgen.audio import read
from jaxgen.cli import train
from jaxgen.config import Config
from jaxgen.core.serial import from_json
from jaxgen.data.spec import DataSpec
from jaxgen.provenance.record import read as read_mark
from jaxgen.runs.run import build_task
from jaxgen.training import loop
from jaxgen.training.checkpoint import Checkpoints
from jaxgen.training.telemetry import read_metrics

pytestmark = pytest.mark.slow


def _final_state(workdir: Path):
    """(state, data position) of the newest checkpoint."""
    checkpoints = Checkpoints(workdir / "checkpoints")
    latest, run = checkpoints.newest_run()
    task = build_task(from_json(run["config"], Config, "the run"), from_json(run["data"], DataSpec, "the run"))
    saved = checkpoints.restore(latest, jax.eval_shape(task.init, jax.random.key(0)))
    checkpoints.close()
    return saved.state, saved.data


def _assert_same_run(workdir: Path, other: Path):
    (state, position), (other_state, other_position) = _final_state(workdir), _final_state(other)
    assert position == other_position
    jax.tree.map(np.testing.assert_array_equal, state, other_state)
    assert read_metrics(workdir / "metrics.jsonl") == read_metrics(other / "metrics.jsonl")


def test_a_run_leaves_all_that_it_promises(quickstart):
    names = {path.name for path in quickstart.iterdir()}
    assert {"config.json", "checkpoints", "metrics.jsonl", "tensorboard", "generated"} <= names
    assert {"report.html", "report.json", "spectrograms.png", "data_report.json", "data_report.png"} <= names
    rows = read_metrics(quickstart / "metrics.jsonl")
    assert [row["step"] for row in rows if row["split"] == "train"] == [1, 2, 3, 4, 5, 6]
    assert [row["step"] for row in rows if row["split"] == "validation"] == [3, 6]
    assert {"loss", "nats_per_frame", "mse"} <= rows[-1].keys()
    wavs = sorted((quickstart / "generated").glob("*.wav"))
    assert len(wavs) == 1
    assert np.isfinite(read(wavs[0]).samples).all()
    assert read_mark(wavs[0]) == json.loads(wavs[0].with_suffix(".json").read_text())
    metrics = json.loads((quickstart / "report.json").read_text())["metrics"]
    assert {"nats_per_frame", "mse", "copy_previous_frame_mse", "memorisation_ratio"} <= metrics.keys()


def test_tensorboard_has_scalars_audio_and_spectrograms(quickstart):
    from tensorboardX.proto.event_pb2 import Event

    events = b"".join(path.read_bytes() for path in (quickstart / "tensorboard").iterdir())
    tags = set()
    while events:
        size = int.from_bytes(events[:8], "little")
        for value in Event.FromString(events[12 : 12 + size]).summary.value:
            tags.add((value.tag, value.WhichOneof("value")))
        events = events[16 + size :]
    assert ("validation/loss", "simple_value") in tags
    assert ("speed/steps_per_second", "simple_value") in tags
    assert ("generated/0", "audio") in {(tag.removesuffix("/audio"), kind) for tag, kind in tags}
    assert ("generated/0", "image") in {(tag.removesuffix("/image"), kind) for tag, kind in tags}


def test_the_same_command_finds_the_finished_run(quickstart, cache, command):
    before = {path: path.stat().st_mtime_ns for path in quickstart.rglob("*")}
    code, out, _ = command(train.main, *TINY, "--workdir", quickstart, "--cache-dir", cache)
    assert code == 0
    assert "finished" in out
    assert before == {path: path.stat().st_mtime_ns for path in quickstart.rglob("*")}


def test_an_interrupted_run_resumes_exactly(quickstart, cache, command, tmp_path, monkeypatch):
    asked = [*TINY, "--workdir", tmp_path / "quickstart", "--cache-dir", cache]
    record = loop.Telemetry.record

    def interrupt(self, step, metrics):
        record(self, step, metrics)
        if step == 4:
            os.kill(os.getpid(), signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(loop.Telemetry, "record", interrupt)
        code, _, err = command(train.main, *asked)
    assert code == 75
    assert "the same command continues" in err
    assert not (tmp_path / "quickstart" / "report.json").exists()
    code, _, _ = command(train.main, *asked)
    assert code == 0
    _assert_same_run(tmp_path / "quickstart", quickstart)


def test_a_killed_run_resumes_exactly(quickstart, cache, tmp_path):
    workdir = tmp_path / "quickstart"
    line = [sys.executable, "-m", "jaxgen.train", *TINY, "--workdir", str(workdir), "--cache-dir", str(cache)]
    first = subprocess.Popen(line, stderr=subprocess.DEVNULL)
    while not (workdir / "checkpoints" / "2").exists():  # appears only when that checkpoint is whole
        assert first.poll() is None
        time.sleep(0.02)
    first.kill()
    first.wait()
    subprocess.run(line, check=True, capture_output=True)
    _assert_same_run(workdir, quickstart)


def test_more_steps_are_another_run_as_the_schedule_is_another(quickstart, cache, command):
    code, _, err = command(train.main, *TINY, "--workdir", quickstart, "--cache-dir", cache, "--train.steps", "9")
    assert code == 2
    assert "train.steps=6 (asked: 9)" in err


def test_early_stopping_ends_a_run_that_no_longer_improves(cache, command, tmp_path, monkeypatch):
    asked = [*TINY, "--workdir", tmp_path / "run", "--cache-dir", cache, "--train.early-stopping", "1"]
    asked += ["--train.steps", "20", "--objective.optimizer.learning-rate", "1e-30", "--objective.ema-decay", "0"]
    code, _, _ = command(train.main, *asked)
    assert code == 0
    validations = [row for row in read_metrics(tmp_path / "run" / "metrics.jsonl") if row["split"] == "validation"]
    assert len(validations) == 2
    assert (tmp_path / "run" / "report.html").exists()
    code, out, _ = command(train.main, *asked)
    assert (code, "finished" in out) == (0, True)


def test_a_loss_that_is_not_finite_stops_the_run(cache, command, tmp_path):
    asked = [*TINY, "--workdir", tmp_path / "run", "--cache-dir", cache, "--objective.optimizer.learning-rate", "1e30"]
    code, _, err = command(train.main, *asked, "--train.max-skipped", "2", "--train.eval-every", "6")
    assert code == 76
    assert "update skipped, 2 in a row" in err
    assert "parameters and optimiser go back to step 0" in err
    assert "diverged at step" in err
    assert err.count("jaxgen: ") == 1


@pytest.mark.parametrize("name", ["nats_per_frame", "mse"])
def test_validation_of_the_run_is_what_the_report_says(quickstart, name):
    """The report scores the best checkpoint on the same clips as the validation that chose it."""
    rows = [row for row in read_metrics(quickstart / "metrics.jsonl") if row["split"] == "validation"]
    best = min(rows, key=lambda row: row["loss"])
    metrics = json.loads((quickstart / "report.json").read_text())["metrics"]
    assert metrics[name] == pytest.approx(best[name], rel=1e-5)


@pytest.mark.parametrize("schedule", ["Constant", nightly("WarmupStableDecay")])
def test_a_finished_run_is_trained_on(schedule, cache, command, tmp_path):
    """Where nothing depends on the last step, it ends as one that was to be longer from the start."""
    asked = [*TINY, "--objective.optimizer.schedule", schedule, "--objective.optimizer.warmup-steps", "2"]
    asked += ["--objective.optimizer.schedule.decay-share", "0.5"] * (schedule == "WarmupStableDecay")
    asked += ["--cache-dir", cache]
    longer, whole = (
        ("--train.steps", "9", "--workdir", tmp_path / "run"),
        ("--train.steps", "9", "--workdir", tmp_path / "whole"),
    )
    assert command(train.main, *asked, "--workdir", tmp_path / "run")[0] == 0
    assert command(train.main, *asked, *longer)[0] == 0
    assert command(train.main, *asked, *whole)[0] == 0
    rows = [
        [(row["step"], row["split"], row["loss"]) for row in read_metrics(folder / "metrics.jsonl")]
        for folder in (tmp_path / "run", tmp_path / "whole")
    ]
    assert [row[:2] for row in rows[0]] == [row[:2] for row in rows[1]]
    assert (rows[0] == rows[1]) == (schedule == "Constant")
    assert json.loads((tmp_path / "run" / "report.json").read_text())["about"]["checkpoint"].startswith("step ")
    code, _, err = command(train.main, *asked, "--train.steps", "3", "--workdir", tmp_path / "run")
    assert (code, "train.steps=9 (asked: 3)" in err) == (2, True), err


def test_a_run_whose_learning_rate_has_fallen_is_not(quickstart, cache, command):
    code, _, err = command(train.main, *TINY, "--train.steps", "9", "--workdir", quickstart, "--cache-dir", cache)
    assert code == 2
    assert "train.steps=6 (asked: 9)" in err
    assert "--objective.optimizer.schedule Constant" in err
