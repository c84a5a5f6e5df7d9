"""What is only looked at or listened to costs no run; what decides a run outlives its files."""

import contextlib
import dataclasses
import io
import json
import os
import shutil
import signal
from contextlib import closing

import numpy as np
import pytest
from conftest import TINY
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxgen.cli import train
from jaxgen.core.errors import tolerate
from jaxgen.data import report as data_report
from jaxgen.data.pipeline import TrainingBatches
from jaxgen.evaluation import autoregressive, summary
from jaxgen.loggers.tensorboard import Board
from jaxgen.models.mel_rnn import MelRNN
from jaxgen.nn.distributions import Normal
from jaxgen.nn.recurrent import LSTM
from jaxgen.objectives.likelihood import Likelihood
from jaxgen.training import telemetry
from jaxgen.training.checkpoint import Checkpoints
from jaxgen.training.loop import Outcome, Validation, fit
from jaxgen.training.mesh import Devices
from jaxgen.training.schedule import Train
from jaxgen.training.telemetry import Telemetry, read_metrics

pytestmark = pytest.mark.slow

MODEL = MelRNN(cell=LSTM(hidden_size=8), num_layers=1, dropout=0.0, input_noise=0.0, distribution=Normal())
TRAIN = Train(steps=6, batch_size=2, seq_len=8, log_every=1, eval_every=2, checkpoint_every=6)
CLIP = np.zeros(99, np.float32)


@pytest.fixture(autouse=True)
def _handlers():
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def _fit(store, workdir, train=TRAIN, validate=lambda step: Validation({"loss": 9.0 - step}, [CLIP], 8_000)):
    """(outcome, rows of metrics.jsonl, bytes of it, steps saved)"""
    task = Likelihood().build(MODEL, store.spec(()), steps=train.steps, batch_size=train.batch_size)
    batches = TrainingBatches(store, store.spec(()), (), lookback=1, batch_size=2, seq_len=8, seed=0)
    with closing(Checkpoints(workdir / "checkpoints", keep=9)) as checkpoints:
        options = {"seconds_per_step": 1.0, "run": {}}
        outcome = fit(task, batches, checkpoints, lambda _, step: validate(step), train, workdir, Devices(2), **options)
        checkpoints.wait()
        path = workdir / "metrics.jsonl"
        return outcome, read_metrics(path), path.read_bytes(), checkpoints.steps()


@pytest.fixture(scope="module")
def undisturbed(mel_store, tmp_path_factory):
    return _fit(mel_store, tmp_path_factory.mktemp("undisturbed"))


def _raise(*_, **__):
    raise ValueError("no\nway")


def test_what_fails_is_one_line_with_its_kind_and_place(capsys, spared):
    with tolerate("draw", "all goes on"):
        _raise()
    err = capsys.readouterr().err
    line = _raise.__code__.co_firstlineno + 1
    assert err == f"jaxgen: could not draw (ValueError: no, test_decoration.py line {line}); all goes on.\n"
    assert "Traceback" in spared[0]
    spared.clear()
    for error in (KeyboardInterrupt, SystemExit):
        with pytest.raises(error), tolerate("draw", "all goes on"):
            raise error


@pytest.mark.parametrize("name", ["image", "scalar", "close"])
def test_a_board_that_fails_costs_no_run(mel_store, tmp_path, monkeypatch, capsys, undisturbed, spared, name):
    works = getattr(Board, name)
    monkeypatch.setattr(Board, name, lambda *arguments: (works(*arguments), _raise()))
    assert _fit(mel_store, tmp_path) == undisturbed
    told = [line for line in capsys.readouterr().err.splitlines() if "could not" in line]
    assert len(told) == 1
    assert spared
    spared.clear()


def test_previews_come_after_the_save_and_may_fail(mel_store, tmp_path, undisturbed, spared):
    saved = []

    def previews(step):
        saved.append((step, (tmp_path / "checkpoints").exists() and _begun(tmp_path, step)))
        yield CLIP
        _raise()

    found = _fit(mel_store, tmp_path, validate=lambda step: Validation({"loss": 9.0 - step}, previews(step), 8_000))
    assert found == undisturbed
    assert saved == [(2, True), (4, True), (6, True)]
    assert len(spared) == 3
    spared.clear()


def _begun(workdir, step):
    return any(path.name.startswith(str(step)) for path in (workdir / "checkpoints").iterdir())


# ------------------------------------------------------------------------------------------------ signals


@pytest.mark.parametrize("at", ["update", "validation", "save"])
def test_a_signal_at_the_last_update_is_heard(mel_store, tmp_path, monkeypatch, undisturbed, at):
    def heard(step):
        if step == TRAIN.steps:
            os.kill(os.getpid(), signal.SIGTERM)

    def validate(step):
        if at == "validation":
            heard(step)
        return Validation({"loss": 9.0 - step}, [], 8_000)

    with monkeypatch.context() as patch:
        record, save = Telemetry.record, Checkpoints.save
        if at == "update":
            patch.setattr(Telemetry, "record", lambda self, step, rows: (record(self, step, rows), heard(step)))
        if at == "save":
            patch.setattr(Checkpoints, "save", lambda self, step, *rest: (save(self, step, *rest), heard(step)))
        outcome, *stopped = _fit(mel_store, tmp_path, validate=validate)
    assert outcome is Outcome.PREEMPTED
    assert stopped == [*undisturbed[1:]]
    assert _fit(mel_store, tmp_path) == undisturbed


# ------------------------------------------------------------------------------- rows that are damaged

ROWS = [
    {"step": step, "split": split, "loss": 1 / step, "mse": step / 7}
    for step in range(1, 9)
    for split in ("train", "validation")
    if split == "train" or step % 2 == 0
]


def _telemetry(workdir, **options):
    return Telemetry(workdir, steps=8, log_every=1, seconds_per_step=1.0, **options)


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """What a checkpoint of step 8 keeps of these rows, after a checkpoint's JSON; and the file."""
    folder = tmp_path_factory.mktemp("kept")
    with contextlib.redirect_stderr(io.StringIO()), _telemetry(folder, start=0) as recorder:
        for row in ROWS:
            recorder._write(dict(row))
        return json.loads(json.dumps(recorder.get_state())), (folder / "metrics.jsonl").read_bytes()


BLOCKS = st.one_of(st.binary(max_size=40), st.integers(0, 99).map(lambda size: b"\0" * size), st.just(b"\xff\n[" * 9))
DAMAGES = st.tuples(st.integers(0, 700), st.integers(0, 400), BLOCKS)


@settings(max_examples=60, deadline=None)
@given(damages=st.lists(DAMAGES, min_size=1, max_size=3))
def test_rows_outlive_their_file_or_their_loss_is_told(kept, tmp_path_factory, damages):
    content = kept[1]
    for start, length, block in damages:
        content = content[:start] + block + content[start + length :]
    path = tmp_path_factory.getbasetemp() / "damaged.jsonl"
    path.write_bytes(content)
    with contextlib.redirect_stderr(io.StringIO()) as said:
        rows = telemetry.restore_rows([row for row in read_metrics(path) if row["step"] <= 8], kept[0], path)
    assert [row for row in rows if row["split"] == "validation"] == [r for r in ROWS if r["split"] == "validation"]
    if rows != ROWS:
        assert "rows" in said.getvalue()
    if content == kept[1]:
        assert said.getvalue() == ""


@pytest.mark.parametrize(
    "line",
    [
        "[" * 99_999,
        '{"step": 1e400}',
        '{"step": 3, "split": "validation", "loss": "x"}',
        '{"step": true, "split": "train"}',
    ]
    + [
        f'{{"step": 3, "split": "train", "loss": {number}}}'
        for number in ("NaN", "1" + "0" * 400, "[1]", "null", "true")
    ],
)
def test_a_line_that_is_no_row_is_left_out(tmp_path, line):
    (tmp_path / "metrics.jsonl").write_text(f"{line}\n{json.dumps(ROWS[0])}\n")
    assert read_metrics(tmp_path / "metrics.jsonl") == [ROWS[0]]


def test_many_validations_do_not_fill_checkpoints(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(telemetry, "_MOST_KEPT", 2)
    with _telemetry(tmp_path, start=0) as recorder:
        for row in ROWS:
            recorder._write(dict(row))
        kept = recorder.get_state()
    assert [row["step"] for row in kept["validations"]] == [6, 8]
    with _telemetry(tmp_path, start=8, saved=kept) as recorder:
        assert recorder.history == ROWS
    assert "damaged" not in capsys.readouterr().err


def test_early_stopping_does_not_depend_on_the_file(mel_store, tmp_path, capsys):
    """The best validation comes first; without its row the run would go on."""
    stopping = dataclasses.replace(TRAIN, steps=20, early_stopping=3)

    def validate(step):
        return Validation({"loss": {2: 1.0, 4: 3.0, 6: 2.5}.get(step, 2.0)}, [], 8_000)

    twin = _fit(mel_store, tmp_path / "twin", stopping, validate)
    assert (twin[0], twin[1][-1]["step"]) == (Outcome.EARLY, 8)

    def interrupted(step):
        if step == 4:
            os.kill(os.getpid(), signal.SIGTERM)
        return validate(step)

    assert _fit(mel_store, tmp_path, stopping, interrupted)[0] is Outcome.PREEMPTED
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b"".join(line for line in path.read_bytes().splitlines(True) if b"validation" not in line))
    capsys.readouterr()
    assert _fit(mel_store, tmp_path, stopping, validate)[:3] == twin[:3]
    assert "was damaged: validations are those of the checkpoint, 2 were lost" in capsys.readouterr().err
    path.unlink()
    outcome, rows, *_ = _fit(mel_store, tmp_path, stopping, validate)
    assert (outcome, [row for row in rows if row["split"] == "validation"]) == (
        Outcome.EARLY,
        [row for row in twin[1] if row["split"] == "validation"],
    )
    assert "8 of 8 training rows are lost" in capsys.readouterr().err


def test_a_loss_that_cannot_be_computed_is_no_divergence(mel_store, tmp_path, capsys, undisturbed):
    absent = {"loss": "it needs two clips"}
    found = _fit(mel_store, tmp_path, validate=lambda step: Validation({"mse": 1.0}, [], 8_000, absent))
    assert (found[0], found[3]) == (Outcome.FINISHED, undisturbed[3])
    err = capsys.readouterr().err
    assert err.count("no loss to find the best checkpoint by: it needs two clips") == 3
    assert "nan" not in err


# ---------------------------------------------------------------------------------------------- the report


@pytest.fixture
def unreported(quickstart, cache, tmp_path, command):
    """A trained run without its report, and what trains it: `unreported()` -> (exit code, stdout, stderr)."""
    workdir = tmp_path / "quickstart"
    shutil.copytree(quickstart, workdir)
    for path in workdir.glob("report.*"):
        path.unlink()
    (workdir / "spectrograms.png").unlink()
    shutil.rmtree(workdir / "generated")

    def start():
        return command(train.main, *TINY, "--workdir", workdir, "--cache-dir", cache)

    start.workdir = workdir
    return start


def test_pictures_that_fail_leave_the_rest_of_a_report(unreported, monkeypatch, spared, quickstart):
    monkeypatch.setattr(summary, "png", _raise)
    monkeypatch.setattr(data_report, "_picture", _raise)
    code, _, err = unreported()
    assert code == 0
    assert "Traceback" not in err
    assert "could not draw data_report.png (ValueError: no" in err
    names = {path.name for path in unreported.workdir.iterdir()}
    assert {"report.html", "report.json", "generated"} <= names
    page = (unreported.workdir / "report.html").read_text()
    assert "<img" not in page
    assert page.count("<audio") == (quickstart / "report.html").read_text().count("<audio")
    assert spared
    spared.clear()


def test_a_report_that_fails_is_made_by_the_next_start(unreported, monkeypatch, spared):
    with monkeypatch.context() as patch:
        patch.setattr(autoregressive.AutoregressiveEvaluator, "evaluate", _raise)
        code, _, err = unreported()
    assert (code, "Traceback" in err) == (2, False)
    assert "could not make the report (ValueError: no" in err
    assert "the same command makes the report" in err
    assert spared
    spared.clear()
    with monkeypatch.context() as patch:  # a signal is heard meanwhile
        patch.setattr(
            autoregressive.AutoregressiveEvaluator, "evaluate", lambda *_: os.kill(os.getpid(), signal.SIGTERM)
        )
        patch.setattr(os, "_exit", lambda code: (_ for _ in ()).throw(SystemExit(code)))
        code, _, err = unreported()
    assert (code, "stopped by SIGTERM" in err) == (75, True)
    assert not (unreported.workdir / "report.json").exists()
    code, _, err = unreported()
    assert (code, "update" in err, "could not" in err) == (0, False, False)
    assert (unreported.workdir / "report.json").exists()
    assert "finished" in unreported()[1]
