"""Loggers: what they are given, that none costs a run, and that a resumed run goes on in the same place."""

import dataclasses
import json
import os
import signal
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import TINY

from jaxgen.cli import train
from jaxgen.config import Config
from jaxgen.core.errors import UserError
from jaxgen.loggers import Logger, MLflow, RunDescription, TensorBoard, WandB, threads
from jaxgen.loggers.threads import LoggerThreads
from jaxgen.recipes.presets import load_config
from jaxgen.runs.saved_run import config_hash, describe

KEY = "5ec2e7" * 6 + "abcd"
WITHOUT_WANDB = "needs Weights & Biases: pip install 'jaxgen[wandb]'"
WITHOUT_MLFLOW = "needs MLflow: pip install 'jaxgen[mlflow]'"
ENTRIES: list[tuple[Any, ...]] = []
ANSWERED = threading.Event()


@pytest.fixture(autouse=True)
def _forgotten():
    ENTRIES.clear()


@dataclasses.dataclass(frozen=True)
class Kept(Logger):
    """Keeps in memory what it is given."""

    fails: tuple[str, ...] = ()
    """Methods that raise."""

    def start(self, run):
        return self._keep("start", run.id)

    def scalars(self, session, values, step):
        self._keep("scalars", dict(values), step)

    def audio(self, session, name, samples, sample_rate, step):
        self._keep("audio", name, len(samples), sample_rate, step)

    def finish(self, session):
        self._keep("finish")

    def _keep(self, method, *rest):
        if method in self.fails:
            raise OSError("no\nnetwork")
        ENTRIES.append((method, *rest))


@dataclasses.dataclass(frozen=True)
class Slow(Logger):
    """Waits for a network that does not answer."""

    finish_seconds = 0.2

    def start(self, run):
        ANSWERED.wait(30)

    def scalars(self, session, values, step):
        pass


def log(folder, logger, steps, told, start=0):
    described = LoggerThreads([logger], RunDescription(folder, {}, start), told.append)
    for step in steps:
        described.scalars("train", {"loss": 1 / step}, step)
    described.audio("generated/0", np.zeros(9, np.float32), 8_000, steps[-1])
    described.image("generated/0", np.zeros((2, 2, 3), np.uint8), steps[-1])
    described.finish()


def test_a_logger_is_given_all_in_order(tmp_path):
    logger, told = Kept(), []
    log(tmp_path, logger, range(1, 4), told)
    run_id = (tmp_path / "loggers" / "run_id").read_text().strip()
    figures = [("scalars", {"train/loss": 1 / step}, step) for step in range(1, 4)]
    assert [("start", run_id), *figures, ("audio", "generated/0", 9, 8_000, 3), ("finish",)] == ENTRIES
    assert told == []


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"train": "x"}', None])
def test_after_a_kill_it_is_the_same_run_and_no_step_comes_twice(tmp_path, damage):
    logger = Kept()
    log(tmp_path, logger, range(1, 8), [])
    (about,) = (tmp_path / "loggers").glob("Kept_*.json")
    if damage is not None:
        about.write_text(damage)
    log(tmp_path, logger, range(5, 11), [], start=4)
    first, second = (entry[1] for entry in ENTRIES if entry[0] == "start")
    steps = [entry[2] for entry in ENTRIES if entry[0] == "scalars"]
    assert first == second
    assert steps == ([*range(1, 11)] if damage is None else [*range(1, 8), *range(5, 11)])


@pytest.mark.parametrize("content", ["", "../../x", "A" * 32, "0" * 31, "\n"])
def test_a_run_id_that_is_none_is_made_anew(tmp_path, content):
    (tmp_path / "loggers").mkdir()
    (tmp_path / "loggers" / "run_id").write_text(content)
    made = RunDescription(tmp_path, {}, 0).id
    assert len(made) == 32
    assert made == RunDescription(tmp_path, {}, 5).id != content


def test_tensorboard_is_given_the_steps_that_it_hides(tmp_path):
    for start in (0, 4):
        log(tmp_path, TensorBoard(), range(start + 1, 8), [], start=start)
    from tensorboardX.proto.event_pb2 import Event

    steps = []
    for path in sorted((tmp_path / "tensorboard").iterdir()):
        content, events = path.read_bytes(), []
        while content:
            (size,) = struct.unpack("<Q", content[:8])
            events.append(Event.FromString(content[12 : 12 + size]))
            content = content[16 + size :]
        steps.append([event.step for event in events if event.summary.value and event.summary.value[0].simple_value])
    assert steps == [[*range(1, 8)], [*range(5, 8)]]


def test_what_fails_is_told_once_and_costs_nothing_else(tmp_path, spared):
    told: list[str] = []
    logger = Kept(fails=("scalars", "finish"))
    log(tmp_path, logger, range(1, 9), told)
    assert [entry[0] for entry in ENTRIES] == ["start", "audio"]
    assert [message.partition(" (")[0] for message in told] == [
        "jaxgen: could not log scalars with Kept",
        "jaxgen: could not log finish with Kept",
    ]
    assert "no network" not in told[0]
    assert "\n" not in told[0]
    spared.clear()


def test_one_that_does_not_start_is_told_and_left_alone(tmp_path, spared):
    told: list[str] = []
    logger = Kept(fails=("start", "scalars"))
    log(tmp_path, logger, range(1, 9), told)
    assert ENTRIES == []
    assert [message.partition(" (")[0] for message in told] == ["jaxgen: could not start Kept"]
    spared.clear()


def test_one_that_never_answers_makes_nobody_wait(tmp_path):
    told: list[str] = []
    started = time.monotonic()
    log(tmp_path, Slow(), range(1, threads._MOST_WAITING + 100), told)
    assert time.monotonic() - started < 20
    assert [message.partition(",")[0] for message in told] == [
        "jaxgen: Slow is too slow",
        "jaxgen: Slow has not sent everything yet; what is left when the program ends is lost.",
    ]
    ANSWERED.set()


# ---------------------------------------------------------------------------------------------- in a config


def test_loggers_are_chosen_by_name_and_keep_what_the_config_says():
    def chosen(*words):
        return load_config(words, "test").train.loggers

    assert chosen() == (TensorBoard(),)
    assert chosen("--train.loggers") == ()
    both = chosen("--train.loggers", "TensorBoard", "WandB", "--train.loggers.1.project", "mine", "--train.steps", "3")
    assert both == (TensorBoard(), WandB(project="mine"))
    with pytest.raises(
        UserError, match=r"--train.loggers has 'Wandb', expected some of .*MLflow, .*TensorBoard, WandB"
    ):
        chosen("--train.loggers", "Wandb")


def test_metrics_are_chosen_by_name_too():
    kept = load_config([], "test").evaluation.metrics[0]
    found = load_config(["--evaluation.metrics", "Prosody", "Melody"], "test").evaluation.metrics
    assert found[1] == kept  # with its own scale, which the class alone does not have
    assert type(found[0]).__name__ == "Prosody"


def test_a_run_is_the_same_whatever_its_loggers():
    config = load_config([], "test")
    other = dataclasses.replace(config, train=dataclasses.replace(config.train, loggers=(Kept(), WandB())))
    assert config_hash(config) == config_hash(other)
    assert "Kept" not in json.dumps(describe(other, None))  # else its file would be needed to open the run


@pytest.mark.parametrize("uri", ["https://me:secret@host/", "https://token@host", "postgresql://me:secret@host/db"])
def test_an_address_with_a_password_is_refused(uri):
    with pytest.raises(UserError, match="MLFLOW_TRACKING_PASSWORD") as told:
        MLflow(tracking_uri=uri)
    assert "secret" not in str(told.value)


@pytest.mark.parametrize(("logger", "package"), [("WandB", "wandb"), ("MLflow", "mlflow")])
def test_a_package_that_is_missing_is_one_line_before_the_first_step(
    logger, package, command, tmp_path, cache, monkeypatch
):
    monkeypatch.setitem(sys.modules, package, None)
    asked = (*TINY, "--workdir", tmp_path / "run", "--cache-dir", cache, "--train.loggers", logger)
    code, _, err = command(train.main, *asked)
    assert (code, err.count("jaxgen: ")) == (2, 1)
    assert f"pip install 'jaxgen[{package}]'" in err
    assert not (tmp_path / "run").exists()


# ------------------------------------------------------------------------------- the packages themselves


def wandb_rows(folder: Path) -> list[dict[str, Any]]:
    """The rows of a run that was logged offline, from the records of its file (LevelDB's log format)."""
    from wandb.proto.wandb_internal_pb2 import Record

    (path,) = folder.glob("*.wandb")
    content, place, parts, rows = path.read_bytes(), 7, b"", []
    while place + 7 <= len(content):
        if (left := 32_768 - place % 32_768) < 7:
            place += left
            continue
        _, size, kind = struct.unpack("<IHB", content[place : place + 7])
        parts += content[place + 7 : place + 7 + size]
        place += 7 + size
        if kind in (1, 4):  # whole, last
            history, parts = Record.FromString(parts).history, b""
            rows.append({(".".join(item.nested_key) or item.key): json.loads(item.value_json) for item in history.item})
    return [row for row in rows if row]


@pytest.mark.nightly
def test_weights_and_biases_offline(tmp_path, monkeypatch):
    wandb = pytest.importorskip("wandb", reason=WITHOUT_WANDB)
    monkeypatch.setattr(WandB, "finish_seconds", 300)
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    WandB().check()
    told: list[str] = []
    for start, end in ((0, 7), (4, 11)):
        log(tmp_path, WandB(), range(start + 1, end), told, start=start)
        time.sleep(1.1)  # a folder is named by the second
    assert told == []
    folders = sorted((tmp_path / "wandb").glob("offline-run-*"))
    run_id = (tmp_path / "loggers" / "run_id").read_text().strip()
    assert [folder.name.rpartition("-")[2] for folder in folders] == [run_id] * 2
    rows = [row for folder in folders for row in wandb_rows(folder)]
    assert [(row["_step"], row["train/loss"]) for row in rows] == [(step, 1 / step) for step in range(1, 11)]
    assert [len(list(folder.rglob("*.wav"))) for folder in folders] == [1, 1]
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and KEY.encode() in path.read_bytes()]
    wandb.teardown()


@pytest.mark.nightly
def test_mlflow_in_a_local_database(tmp_path):
    mlflow = pytest.importorskip("mlflow", reason=WITHOUT_MLFLOW)
    pytest.importorskip("sqlalchemy", reason=WITHOUT_MLFLOW)
    told: list[str] = []
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    (tmp_path / "run").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MLflow, "finish_seconds", 300)
        patch.chdir(tmp_path)  # where artifacts of a local database are
        for start, end in ((0, 7), (4, 11)):
            log(tmp_path / "run", MLflow(tracking_uri=uri), range(start + 1, end), told, start=start)
        assert told == []
        client = mlflow.MlflowClient(tracking_uri=uri)
        (experiment,) = [each for each in client.search_experiments() if each.name == "jaxgen"]
        (run,) = client.search_runs([experiment.experiment_id])
        points = [(point.step, point.value) for point in client.get_metric_history(run.info.run_id, "train/loss")]
        assert points == [(step, 1 / step) for step in range(1, 11)]
        assert run.info.status == "FINISHED"
        assert run.data.tags["jaxgen.run_id"] == (tmp_path / "run" / "loggers" / "run_id").read_text().strip()
        kept = {each.path for each in client.list_artifacts(run.info.run_id, "generated/0")}
        assert kept == {f"generated/0/step_{step}.{kind}" for step in (6, 10) for kind in ("wav", "png")}


KILLED = """
import dataclasses, json, os, signal, time
from pathlib import Path

from jaxgen.loggers import Logger, MLflow, TensorBoard, WandB
from jaxgen.recipes.presets import quickstart
from jaxgen.training.telemetry import Telemetry

WandB.finish_seconds = MLflow.finish_seconds = 300


@dataclasses.dataclass(frozen=True)
class Lines(Logger):
    '''Figures as lines of text.'''

    def start(self, run):
        return run.folder / "lines.txt"

    def scalars(self, session, values, step):
        with session.open("a") as file:
            file.write(f"{step} {','.join(sorted(values))}\\n")


def killed(self, step, metrics):
    record(self, step, metrics)
    while step == 5 and not Path("killed").exists():
        reached = [json.loads(path.read_text())["train"] for path in Path("run", "loggers").glob("*.json")]
        if reached == [4] * len(LOGGERS):
            Path("killed").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(0.1)


record = Telemetry.record
if Path("mine.py").exists():  # in the folder of the test's own process
    Telemetry.record = killed
LOGGERS = (LOGGED)
CONFIG = dataclasses.replace(quickstart(), train=dataclasses.replace(quickstart().train, loggers=LOGGERS))
"""


def trained(tmp_path, cache, **environment):
    line = [
        sys.executable,
        "-m",
        "jaxgen.train",
        "--config",
        "mine.py",
        *TINY,
        "--workdir",
        "run",
        "--cache-dir",
        cache,
    ]
    root = str(Path(__file__).parent.parent)
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("WANDB", "MLFLOW"))}
    done = subprocess.run(
        line, cwd=tmp_path, env=clean | {"PYTHONPATH": root} | environment, capture_output=True, text=True, timeout=500
    )
    return done.returncode, done.stderr


@pytest.mark.nightly
def test_a_logger_from_a_config_file_needs_one_class_and_outlives_a_kill(tmp_path, cache):
    (tmp_path / "mine.py").write_text(KILLED.replace("LOGGED", "Lines(),"))
    assert trained(tmp_path, cache)[0] == -signal.SIGKILL
    code, err = trained(tmp_path, cache)
    assert code == 0, err
    rows = [line.split() for line in (tmp_path / "run" / "lines.txt").read_text().splitlines()]
    assert [int(step) for step, names in rows if "train/loss" in names] == [1, 2, 3, 4, 5, 6]
    assert [int(step) for step, names in rows if "validation/loss" in names] == [3, 6]
    assert not (tmp_path / "run" / "code").exists()  # the run opens without it


@pytest.mark.nightly
def test_a_killed_run_goes_on_in_weights_and_biases_and_mlflow(tmp_path, cache):
    pytest.importorskip("wandb", reason=WITHOUT_WANDB)
    mlflow = pytest.importorskip("mlflow", reason=WITHOUT_MLFLOW)
    pytest.importorskip("sqlalchemy", reason=WITHOUT_MLFLOW)
    (tmp_path / "mine.py").write_text(KILLED.replace("LOGGED", "Lines(), WandB(), MLflow()"))
    environment = {"WANDB_MODE": "offline", "WANDB_API_KEY": KEY, "MLFLOW_TRACKING_PASSWORD": KEY}
    assert trained(tmp_path, cache, **environment)[0] == -signal.SIGKILL
    code, err = trained(tmp_path, cache, **environment)
    assert code == 0, err
    assert "could not" not in err
    folders = sorted((tmp_path / "run" / "wandb").glob("offline-run-*"))
    assert len({folder.name.rpartition("-")[2] for folder in folders}) == 1
    client = mlflow.MlflowClient(tracking_uri=f"sqlite:///{tmp_path}/mlflow.db")
    (experiment,) = [each for each in client.search_experiments() if each.name == "jaxgen"]
    (run,) = client.search_runs([experiment.experiment_id])
    by_wandb = [row["_step"] for folder in folders for row in wandb_rows(folder) if "train/loss" in row]
    by_mlflow = [point.step for point in client.get_metric_history(run.info.run_id, "train/loss")]
    for steps in (by_wandb, by_mlflow):
        assert steps == [1, 2, 3, 4, 5, 6]
    written = [path for path in (tmp_path / "run").rglob("*") if path.is_file()]
    assert not [path for path in written if KEY.encode() in path.read_bytes()]


@pytest.mark.nightly
def test_without_a_key_and_online_it_is_one_line_before_the_first_step(tmp_path, cache):
    pytest.importorskip("wandb", reason=WITHOUT_WANDB)
    (tmp_path / "mine.py").write_text(KILLED.replace("LOGGED", "WandB(mode='online'),"))
    code, err = trained(tmp_path, cache, HOME=str(tmp_path))
    assert (code, err.count("jaxgen: ")) == (2, 1), err
    assert "run `wandb login`, set WANDB_API_KEY, or log offline with WANDB_MODE=offline" in err
    assert not (tmp_path / "run").exists()


def test_a_config_has_its_loggers_in_its_file(tmp_path):
    (tmp_path / "mine.py").write_text(KILLED.replace("LOGGED", "Lines(), TensorBoard()"))
    config = load_config(["--config", str(tmp_path / "mine.py")], "test")
    assert isinstance(config, Config)
    assert [type(logger).__name__ for logger in config.train.loggers] == ["Lines", "TensorBoard"]
    assert [
        type(logger).__name__
        for logger in load_config(
            ["--config", str(tmp_path / "mine.py"), "--train.loggers", "WandB", "Lines"], "test"
        ).train.loggers
    ] == ["WandB", "Lines"]
