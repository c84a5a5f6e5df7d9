"""A sweep: what its grid may say, what it trains, what it goes on with, and what its tables hold."""

import csv
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import TINY

from jaxgen.cli import sweep as cli
from jaxgen.cli import train
from jaxgen.core.errors import UserError
from jaxgen.core.errors import run as run_entry
from jaxgen.runs import sweep
from jaxgen.runs.sweep import parse_grid, plan_sweep
from jaxgen.runs.sweep_report import Entry, write_report
from jaxgen.training.interrupts import run_child
from jaxgen.training.telemetry import read_metrics


def test_a_grid_is_every_combination_in_order(tmp_path):
    grid = parse_grid(
        ["--train.seed=0,1", "model.cell=GRU,LSTM", "model.labels=tempo timbre,tempo", "model.residual=true,false"]
    )
    folder, planned = plan_sweep(grid, [], str(tmp_path))
    assert folder == tmp_path
    assert len(planned) == 16
    assert planned[0].name == "train.seed=0,model.cell=GRU,model.labels=tempo timbre,model.residual=true"
    assert len({each.config.workdir for each in planned}) == 16
    last = planned[-1].config
    assert (last.train.seed, type(last.model.cell).__name__) == (1, "LSTM")
    assert (last.model.labels, last.model.residual) == (("tempo",), False)


@pytest.mark.parametrize(
    ("grid", "shared", "says"),
    [
        ([], [], "--grid has no options"),
        (["train.seed"], [], "expected option=value,value"),
        (["train.seed=0,,1"], [], "expected option=value,value"),
        (["train.seed=0,1", "--train.seed=2"], [], "train.seed twice"),
        (["train.seed=0,0"], [], "a value of train.seed twice"),
        (["workdir=a,b"], [], "a folder of its own"),
        (["train.sed=0,1"], [], "unknown option --train.sed; did you mean --train.seed?"),
        (["train.seed=0,one"], [], "--train.seed"),
        (["model.cell=GRU,TRU"], [], "--model.cell is 'TRU', expected one of"),
        (["train.steps=10,0"], [], "--train.steps is 0, expected at least 1"),
        (["model.labels='timbre"], [], "quotes do not match"),
        (["train.seed=0,1"], ["--train.seed", "3"], "--train.seed is among the options of train"),
        (["train.seed=0,1"], ["--workdir", "runs/a"], "pass the sweep's --workdir before --"),
        (["objective.ema-decay=0.5,5e-1"], [], "one experiment twice"),
    ],
)
def test_a_mistake_is_told_before_anything_is_trained(grid, shared, says, tmp_path):
    with pytest.raises(UserError) as told:
        plan_sweep(parse_grid(grid), shared, str(tmp_path / "sweep"))
    assert says in str(told.value)
    assert "\n" not in str(told.value)
    assert not (tmp_path / "sweep").exists()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--grid", "train.seed=0,1", "--data.root", "DIR"], "options of train come after --"),
        (["--grid", "train.seed=0,1", "--workdir", "s3://bucket/sweep"], "is in an object store"),
        ([], "--grid has no options"),
    ],
)
def test_a_mistake_of_the_sweep_itself_is_one_line(words, says, command):
    code, _, err = command(cli.main, *words)
    assert (code, err.count("\n")) == (2, 1)
    assert says in err


def test_a_run_is_no_sweep(quickstart):
    with pytest.raises(UserError, match="holds a run; pass --workdir another folder"):
        plan_sweep(parse_grid(["train.seed=0,1"]), [], str(quickstart))


@pytest.fixture(scope="module")
def trained_here():
    """Trainings of a sweep run in this process: it takes seconds to import all in a new one."""

    def here(command: list[str]) -> tuple[int, bool]:
        assert command[:3] == [sys.executable, "-m", "jaxgen.train"]
        handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", command[2:])
            with pytest.raises(SystemExit) as stop:
                run_entry(train.main)
        for number, handler in handlers.items():
            signal.signal(number, handler)
        return int(stop.value.code or 0), False

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sweep, "run_child", here)
        yield


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


@pytest.mark.nightly
def test_a_sweep_goes_on_past_a_run_that_diverges_and_keeps_what_fits(trained_here, cache, command, tmp_path):
    """It stops at nothing but a stop; a grid that has changed trains what is new alone, also under other names."""
    rate = "objective.optimizer.learning_rate"
    shared = ["--", *TINY, "--cache-dir", cache, "--train.max-skipped", "2"]
    asked = ["--workdir", tmp_path / "sweep", "--grid"]
    code, out, err = command(cli.main, *asked, f"{rate}=1e30,1e-3", *shared)
    assert (code, err.count("diverged at step")) == (76, 1), err
    runs = _rows(tmp_path / "sweep" / "sweep.csv")
    assert [run["status"] for run in runs] == ["diverged", "done"]
    best = tmp_path / "sweep" / f"{rate}=1e-3"
    validations = [row for row in read_metrics(best / "metrics.jsonl") if row["split"] == "validation"]
    row = min(validations, key=lambda row: row["loss"])
    assert (float(runs[1]["loss"]), int(runs[1]["best step"])) == (row["loss"], row["step"])
    assert f"| {row['loss']:.5g} " in out
    assert (tmp_path / "sweep" / "sweep.png").read_bytes().startswith(b"\x89PNG")

    before = {path: path.stat().st_mtime_ns for path in best.rglob("*")}
    code, out, _ = command(cli.main, *asked, f"{rate}=1e-3", "train.seed=0,1", *shared)
    assert code == 0
    assert out.count("holds this run, finished") == 1
    assert before == {path: path.stat().st_mtime_ns for path in best.rglob("*")}
    names = {path.parent.name for path in (tmp_path / "sweep").glob("*/report.json")}
    assert names == {best.name, f"{rate}=1e-3,train.seed=1"}
    (seeds,) = _rows(tmp_path / "sweep" / "seeds.csv")
    losses = [float(run["loss"]) for run in _rows(tmp_path / "sweep" / "sweep.csv")]
    assert float(seeds["loss mean"]) == pytest.approx(np.mean(losses))
    assert float(seeds["loss deviation"]) == pytest.approx(np.std(losses, ddof=1))
    assert seeds["seeds"] == "2"

    code, _, err = command(cli.main, *asked, f"{rate}=1e-3", "train.seed=1", *shared, "--train.eval-every", "2")
    assert (code, err.count("\n")) == (2, 1)
    assert "holds a run of another config: train.eval_every=3 (asked: 2)" in err


def _entry(folder: Path, seed: int, size: int, status: str, losses: list[float]) -> Entry:
    values = {"train.seed": str(seed), "model.cell.hidden_size": str(size)}
    _, (planned,) = plan_sweep({name: [value] for name, value in values.items()}, [], str(folder))
    run = Path(planned.config.workdir)
    run.mkdir(parents=True)
    rows = [
        {"step": 10 * place, "split": "validation", "loss": loss, "mse": -loss} for place, loss in enumerate(losses)
    ]
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return Entry(values, planned.config, status)


def test_means_are_over_seeds_that_finished(tmp_path):
    entries = [
        _entry(tmp_path, 0, 8, "done", [3.0, 1.0, 2.0]),
        _entry(tmp_path, 1, 8, "done", [4.0, 3.0, 2.0]),
        _entry(tmp_path, 2, 8, "diverged", [0.5]),
        _entry(tmp_path, 0, 16, "done", [7.0]),
        _entry(tmp_path, 1, 16, "not trained yet", []),
    ]
    write_report(tmp_path, entries)
    runs, (small, large) = _rows(tmp_path / "sweep.csv"), _rows(tmp_path / "seeds.csv")
    assert [run["loss"] for run in runs] == ["1.0", "2.0", "0.5", "7.0", ""]
    assert [run["mse"] for run in runs] == ["-1.0", "-2.0", "-0.5", "-7.0", ""]  # at the best step, not the lowest
    assert [run["best step"] for run in runs] == ["10", "20", "0", "0", ""]
    assert (small["seeds"], small["loss mean"], small["mse mean"]) == ("2", "1.5", "-1.5")
    assert float(small["loss deviation"]) == pytest.approx(0.5**0.5)
    assert (large["seeds"], large["loss mean"], large["loss deviation"]) == ("1", "7.0", "")
    assert "not trained yet" in (tmp_path / "sweep.md").read_text()


CHILD = """
import signal, sys, time
signal.signal(signal.SIGINT, lambda *_: sys.exit(75))
open(sys.argv[1], "w").close()
time.sleep(60)
"""


def test_a_signal_is_passed_on_once(tmp_path):
    def interrupt() -> None:
        while not (tmp_path / "up").exists():
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    handler = signal.getsignal(signal.SIGINT)
    threading.Thread(target=interrupt).start()
    assert run_child([sys.executable, "-c", CHILD, str(tmp_path / "up")]) == (75, True)
    assert signal.getsignal(signal.SIGINT) is handler


@pytest.mark.parametrize(("code", "told"), [("raise SystemExit(76)", 76), ("import os; os.kill(os.getpid(), 9)", 137)])
def test_how_a_child_ended_is_known(code, told):
    assert run_child([sys.executable, "-c", code]) == (told, False)


@pytest.mark.nightly
@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_sweep_that_is_stopped_goes_on(number, cache, tmp_path):
    """With a sweep that is killed, its training ends too, and is then trained to the end."""
    line = [
        sys.executable,
        "-m",
        "jaxgen.sweep",
        "--workdir",
        str(tmp_path / "sweep"),
        "--grid",
        "train.seed=0,1",
        "--",
    ]
    line += [*TINY, "--train.steps", "400", "--train.eval-every", "200", "--cache-dir", str(cache)]
    first = subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    while not (tmp_path / "sweep" / "train.seed=0" / "checkpoints" / "2").exists():
        assert first.poll() is None
        time.sleep(0.02)
    first.send_signal(number)
    assert "sweep: 1 of 2" in first.stderr.read()  # until the training has ended, too
    assert first.wait() == (75 if number == signal.SIGTERM else -number)
    assert not (tmp_path / "sweep" / "train.seed=0" / "report.json").exists()
    if number == signal.SIGTERM:
        assert [run["status"] for run in _rows(tmp_path / "sweep" / "sweep.csv")] == ["stopped", "not trained yet"]
    subprocess.run(line, check=True, capture_output=True)
    assert [run["status"] for run in _rows(tmp_path / "sweep" / "sweep.csv")] == ["done", "done"]
    starts = [
        len((tmp_path / "sweep" / name / "starts.jsonl").read_text().splitlines())
        for name in ("train.seed=0", "train.seed=1")
    ]
    assert starts == [2, 1]
