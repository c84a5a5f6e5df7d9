"""The training loop: how many updates a call does changes nothing but how often the host is asked."""

import dataclasses
import itertools
import math
import threading
from contextlib import closing

import jax
import numpy as np
import pytest
from conftest import nightly

from jaxgen.core.errors import Diverged, UserError
from jaxgen.data.pipeline import TrainingBatches
from jaxgen.models.mel_rnn import MelRNN
from jaxgen.nn.distributions import Normal
from jaxgen.nn.recurrent import LSTM
from jaxgen.objectives.likelihood import Likelihood
from jaxgen.objectives.optimizer import AdamW
from jaxgen.training import loop
from jaxgen.training.checkpoint import Checkpoints
from jaxgen.training.feed import prefetch_groups
from jaxgen.training.loop import Outcome, Validation, fit
from jaxgen.training.mesh import Devices
from jaxgen.training.schedule import Train, group_ends
from jaxgen.training.telemetry import Telemetry, check_state, read_metrics

pytestmark = pytest.mark.slow

MODEL = MelRNN(cell=LSTM(hidden_size=8), num_layers=1, dropout=0.1, input_noise=0.1, distribution=Normal())
TRAIN = Train(steps=16, batch_size=2, seq_len=8, log_every=4, eval_every=8, checkpoint_every=6)


def _batches(store, train=TRAIN):
    return TrainingBatches(
        store, store.spec(()), (), lookback=1, batch_size=train.batch_size, seq_len=train.seq_len, seed=train.seed
    )


def _fit(store, workdir, train, objective=Likelihood()):
    """(outcome, rows of metrics.jsonl, state and data position of the newest checkpoint, steps validated)."""
    task = objective.build(MODEL, store.spec(()), steps=train.steps, batch_size=train.batch_size)
    checkpoints, validated = Checkpoints(workdir / "checkpoints", keep=2), []

    def validate(params, step):
        validated.append(step)
        return Validation({"loss": float(sum(leaf.sum() for leaf in jax.tree.leaves(params)))}, [], 8_000)

    options = {"seconds_per_step": 1.0, "run": {}}
    with closing(checkpoints):
        outcome = fit(
            task, _batches(store), checkpoints, validate, train, workdir, Devices(train.batch_size), **options
        )
        newest = checkpoints.restore_newest(jax.eval_shape(task.init, jax.random.key(0)))[1:]
    return outcome, read_metrics(workdir / "metrics.jsonl"), newest, validated


@pytest.fixture(scope="module")
def one_by_one(mel_store, tmp_path_factory, as_users_compile):
    return _fit(mel_store, tmp_path_factory.mktemp("one"), TRAIN)


def _assert_same(run, other):
    assert run[1] == other[1]
    jax.tree.map(np.testing.assert_array_equal, run[2], other[2])


@pytest.mark.parametrize("steps_per_call", [3, nightly(2)])
def test_updates_per_call_change_nothing(mel_store, tmp_path, one_by_one, steps_per_call):
    train = dataclasses.replace(TRAIN, steps_per_call=steps_per_call)
    run = _fit(mel_store, tmp_path, train)
    assert run[0] is Outcome.FINISHED
    assert [row["step"] for row in run[1]] == [4, 8, 8, 12, 16, 16]
    assert run[3] == [8, 16]
    _assert_same(run, one_by_one)


@pytest.mark.nightly
def test_a_run_stopped_between_calls_goes_on_with_other_calls(mel_store, tmp_path, one_by_one, monkeypatch):
    class Stopped(loop.Interrupts):
        asked = 0

        @property
        def requested(self):
            Stopped.asked += 1
            return Stopped.asked > 6

        @requested.setter
        def requested(self, _):
            pass

    with monkeypatch.context() as patch:
        patch.setattr(loop, "Interrupts", Stopped)
        outcome, rows, _, _ = _fit(mel_store, tmp_path, dataclasses.replace(TRAIN, steps_per_call=3))
    assert outcome is Outcome.PREEMPTED
    assert rows[-1]["step"] < TRAIN.steps
    run = _fit(mel_store, tmp_path, dataclasses.replace(TRAIN, steps_per_call=2))
    assert run[0] is Outcome.FINISHED
    _assert_same(run, one_by_one)


@pytest.mark.nightly
def test_a_loss_that_is_not_finite_is_told_with_its_own_step(mel_store, tmp_path):
    told = []
    for steps_per_call in (1, 4):
        train = dataclasses.replace(TRAIN, steps_per_call=steps_per_call, max_skipped=3)
        with pytest.raises(Diverged, match="at step 8: ") as error:
            _fit(
                mel_store, tmp_path / str(steps_per_call), train, Likelihood(AdamW(learning_rate=1e30, warmup_steps=0))
            )
        told.append(str(error.value))
    assert told[0] == told[1]


def test_a_diagnosis_is_told_once_of_means_between_rows(tmp_path, capsys):
    """One bad update in two is none; ten rows of nothing else are. What is not finite is left out of both."""
    good = dict.fromkeys(("skipped", "skipped_in_row", "loss", "gradient_norm"), 0.0)

    def diagnose(figures):
        return "all is wrong" if figures["share"] > 0.9 else ""

    options = {"start": 0, "steps": 80, "log_every": 2, "seconds_per_step": 1.0, "diagnose": diagnose}
    with Telemetry(tmp_path, **options) as telemetry:
        for step in range(1, 81):
            share = 1.0 if step % 2 == 0 or step > 40 else 0.5 if step > 20 else math.nan
            figures = {name: np.array([value]) for name, value in (good | {"share": share}).items()}
            telemetry.record(step, figures | {"never": np.array([math.nan])})
        telemetry.flush()
    err = capsys.readouterr().err
    assert [line for line in err.splitlines() if "wrong" in line] == ["step 20: all is wrong", "step 60: all is wrong"]
    rows = read_metrics(tmp_path / "metrics.jsonl")
    assert (len(rows), [row for row in rows if "never" in row]) == (40, [])


@pytest.mark.parametrize("start", [0, 3, 11])
@pytest.mark.parametrize("steps_per_call", [1, 4, 7])
def test_calls_end_where_something_is_due(start, steps_per_call):
    train = Train(steps=47, steps_per_call=steps_per_call, log_every=10, eval_every=15, checkpoint_every=6)
    lasts = list(group_ends(start, train))
    due = [s for s in range(start + 1, 48) if s == 47 or any(s % every == 0 for every in (10, 15, 6))]
    assert set(due) <= set(lasts)
    sizes = np.diff([start, *lasts])
    assert sizes.min() >= 1
    assert sizes.max() <= steps_per_call
    most = sum(math.ceil(gap / steps_per_call) for gap in np.diff([start, *due]))
    assert len(lasts) == most


def test_a_call_cannot_be_empty():
    with pytest.raises(UserError, match="steps-per-call is 0"):
        Train(steps_per_call=0)


def test_a_feed_stacks_the_batches_and_knows_the_position_after_them(mel_store):
    expected = list(itertools.islice(_batches(mel_store), 6))
    stream = iter(_batches(mel_store))
    with closing(prefetch_groups(stream, 1, iter([1, 4, 6]))) as feed:
        call = next(itertools.islice(feed, 1, None))
        assert call.last == 4
        for place, batch in enumerate(expected[1:4]):
            jax.tree.map(lambda got, want, at=place: np.testing.assert_array_equal(got[at], want), call.batches, batch)
        assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(call.batches))
        other = iter(_batches(mel_store))
        other.set_state(call.position)
        np.testing.assert_array_equal(next(other)["x"], expected[4]["x"])
    assert not any("batches" in thread.name for thread in threading.enumerate())


def test_a_feed_passes_on_what_making_a_batch_raised():
    def broken():
        raise OSError("gone")
        yield

    with pytest.raises(OSError, match="gone"), closing(prefetch_groups(broken(), 1, [1])) as feed:
        next(feed)


@pytest.mark.parametrize(
    "change",
    [
        *({"next": "x"}, {"next": -1}, {"next": 10**400}, {"rows": 5}, {"rows": []}, {"rows": [["a"], [0]]}),
        *({"rows": [[10**9, 0], [0]]}, {"rows": [[-1, 0], [0]]}, {"rows": [[0, {}], [0]]}, {"rows": [[], []]}),
    ],
)
def test_a_position_that_no_stream_gives_is_an_error_at_once(mel_store, change):
    stream = iter(TrainingBatches(mel_store, mel_store.spec(()), (), lookback=1, batch_size=2, seq_len=8, seed=0))
    next(stream)
    with pytest.raises((LookupError, TypeError, ValueError)):
        stream.set_state(stream.get_state() | change)


@pytest.mark.parametrize(
    "kept",
    [
        *(5, [], {}),
        {"validations": 5, "train_rows": 1, "train_sha256": ""},
        {"validations": [{"step": "3"}], "train_rows": 1, "train_sha256": ""},
        {"validations": [], "train_rows": None, "train_sha256": ""},
    ],
)
def test_a_history_that_no_run_keeps_is_an_error_at_once(kept):
    with pytest.raises(TypeError):
        check_state(kept)
