"""Bad updates, bad checkpoints, full disks, long waits: what is told, and that nothing good is lost."""

import dataclasses
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from contextlib import closing

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.core.errors import Diverged, Preempted, UserError
from jaxgen.core.files import append_atomic
from jaxgen.data.pipeline import TrainingBatches
from jaxgen.loggers import tensorboard
from jaxgen.loggers.tensorboard import Board
from jaxgen.models.mel_rnn import MelRNN
from jaxgen.nn.distributions import Normal
from jaxgen.nn.recurrent import LSTM
from jaxgen.objectives.guard import Guard
from jaxgen.objectives.likelihood import Likelihood
from jaxgen.recipes.presets import quickstart
from jaxgen.runs.lock import run_lock
from jaxgen.training import checkpoint
from jaxgen.training.checkpoint import Checkpoints, Damaged, SaveFailed
from jaxgen.training.interrupts import Interrupts, raise_on_signal
from jaxgen.training.loop import Outcome, Validation, fit
from jaxgen.training.mesh import Devices
from jaxgen.training.profile import Profile
from jaxgen.training.schedule import Train
from jaxgen.training.telemetry import read_metrics
from jaxgen.training.watchdog import Watchdog

pytestmark = pytest.mark.slow

MODEL = MelRNN(cell=LSTM(hidden_size=8), num_layers=1, distribution=Normal())
TRAIN = Train(steps=12, batch_size=2, seq_len=8, log_every=2, eval_every=6, checkpoint_every=4, max_skipped=3)


class Poisoned:
    """Batches of which some, by their place, hold NaN."""

    def __init__(self, store, places):
        self._of = TrainingBatches(store, store.spec(()), (), lookback=1, batch_size=2, seq_len=8, seed=0)
        self._places = places
        self.names = self._of.names

    def __iter__(self):
        return _PoisonedStream(iter(self._of), self._places)


class _PoisonedStream:
    def __init__(self, stream, places):
        self._stream, self._places, self._place = stream, places, 0

    def __next__(self):
        batch, self._place = next(self._stream), self._place + 1
        if self._place in self._places:
            batch["x"][:] = np.nan
        return batch

    def get_state(self):
        return {"place": self._place, "of": self._stream.get_state()}

    def set_state(self, state):
        self._place = state["place"]
        self._stream.set_state(state["of"])


def run(store, workdir, poison=(), train=TRAIN, saver=Checkpoints, **options):
    """(outcome, state of the newest checkpoint, rows) of a short training with poisoned batches."""
    task = Likelihood(**options).build(MODEL, store.spec(()), steps=train.steps, batch_size=train.batch_size)
    checkpoints = saver(workdir / "checkpoints", keep=4)

    def validate(params, step):
        return Validation({"loss": float(sum(leaf.sum() for leaf in jax.tree.leaves(params)))}, [], 8_000)

    with closing(checkpoints):
        batches, devices = Poisoned(store, poison), Devices(train.batch_size)
        options = {"seconds_per_step": 1.0, "run": {}}
        outcome = fit(task, batches, checkpoints, validate, train, workdir, devices, **options)
        saved = checkpoints.restore_newest(jax.eval_shape(task.init, jax.random.key(0)))
    return outcome, saved, read_metrics(workdir / "metrics.jsonl")


def assert_same(one, other):
    jax.tree.map(np.testing.assert_array_equal, one[1], other[1])
    assert one[2] == other[2]


def test_the_guard_is_welfords_moments_with_decay():
    losses = np.random.default_rng(0).normal(3.0, 0.5, 400).astype(np.float32)
    guard = Guard.new()
    update = jax.jit(lambda guard, loss: guard.update(loss, jnp.float32(1.0), 4.0))
    for loss in losses:
        good, guard = update(guard, loss)
        assert good or loss > 3.0 + 3 * 0.5
    assert guard.mean == pytest.approx(3.0, abs=0.15)
    assert np.sqrt(guard.variance) == pytest.approx(0.5, abs=0.15)
    before = guard
    for bad in (np.nan, np.inf, 3.0 + 10 * 0.5):
        good, guard = update(guard, jnp.float32(bad))
        assert not good
    assert (guard.skipped - before.skipped, guard.in_row) == (3, 3)
    assert (guard.mean, guard.variance) == (before.mean, before.variance)
    assert update(guard, jnp.float32(3.0))[1].in_row == 0
    early, _ = update(Guard.new(), jnp.float32(1e6))  # nothing is usual yet
    assert early


def test_a_gradient_that_is_not_finite_is_bad():
    good, _ = Guard.new().update(jnp.float32(1.0), jnp.float32(jnp.inf), 0.0)
    assert not good


def test_a_bad_batch_changes_nothing_but_the_step(mel_store):
    task = Likelihood().build(MODEL, mel_store.spec(()), steps=5, batch_size=2)
    step, state = jax.jit(task.train_step), jax.jit(task.init)(jax.random.key(0))
    good, bad = itertools.islice(Poisoned(mel_store, {2}), 2)
    before, _ = step(state, good)
    after, metrics = step(before, bad)
    same = before._replace(step=before.step + 1, guard=after.guard)
    jax.tree.map(np.testing.assert_array_equal, after, same)
    assert (int(metrics["skipped"]), int(metrics["skipped_in_row"])) == (1, 1)
    assert not np.isfinite(metrics["loss"])


@pytest.mark.nightly
@pytest.mark.usefixtures("as_users_compile")
@pytest.mark.parametrize("poison", [{3}, {8, 9, 10}], ids=["one", "three in a row"])
def test_training_gets_past_bad_batches_alike_in_any_calls(mel_store, tmp_path, capsys, poison):
    one = run(mel_store, tmp_path / "one", poison)
    told = capsys.readouterr().err
    assert one[0] is Outcome.FINISHED
    assert one[2][-2]["skipped"] == len(poison)
    assert told.count("update skipped") == len(poison)
    assert int(one[1].state.guard.rollbacks) == (len(poison) == 3)
    assert ("go back to step 6" in told) == (len(poison) == 3)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(one[1].state))
    other = run(mel_store, tmp_path / "other", poison, dataclasses.replace(TRAIN, steps_per_call=3))
    assert_same(one, other)


def test_a_run_killed_after_going_back_goes_on_alike(mel_store, tmp_path):
    poison = {5, 6, 7, 8}
    one = run(mel_store, tmp_path / "one", poison)
    run(mel_store, tmp_path / "other", poison)
    for later in ("8", "12"):  # as if killed before the save of step 8, when parameters had gone back
        shutil.rmtree(tmp_path / "other" / "checkpoints" / later)
    assert_same(one, run(mel_store, tmp_path / "other", poison))


def test_training_that_only_meets_bad_batches_stops_and_names_the_clips(mel_store, tmp_path):
    with pytest.raises(Diverged, match=r"at step 10: .* 4 updates in a row .* 1 times.*pluck.*--objective") as told:
        run(mel_store, tmp_path, set(range(3, 99)))
    listed = json.loads((tmp_path / "diverged.json").read_text())
    assert listed["step"] == 10
    names = {clip.name for clip in mel_store.clips}
    assert listed["clips"]
    assert set(listed["clips"]) <= names
    assert all(name in str(told.value) for name in listed["clips"][:5])
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == [
        "6"
    ]  # after going back; none while skipping


def test_a_spike_is_skipped_where_it_is_asked(mel_store, tmp_path):
    task = Likelihood(spike=4.0).build(MODEL, mel_store.spec(()), steps=5, batch_size=2)
    state = jax.jit(task.init)(jax.random.key(0))
    settled = state.guard._replace(good=jnp.int32(500), mean=jnp.float32(-1e3), variance=jnp.float32(1.0))
    batch = next(iter(Poisoned(mel_store, ())))
    after, metrics = jax.jit(task.train_step)(state._replace(guard=settled), batch)
    assert np.isfinite(metrics["loss"])
    assert int(metrics["skipped"]) == 1
    jax.tree.map(np.testing.assert_array_equal, after.params, state.params)


STATE = {
    "weights": jnp.arange(12.0).reshape(3, 4),
    "step": jnp.int32(7),
    "half": jnp.ones(3, jnp.bfloat16),
    "flag": jnp.array([True, False]),
}


@pytest.fixture
def saved(tmp_path):
    """A folder with checkpoints of steps 1, 2 and 3, the first the best."""
    with closing(Checkpoints(tmp_path / "checkpoints", keep=3)) as checkpoints:
        for step in (1, 2, 3):
            state = STATE | {"step": jnp.int32(step)}
            checkpoints.save(step, state, {"next": step}, {"config": 1}, {"loss": float(step)})
    return tmp_path / "checkpoints"


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


@pytest.mark.parametrize(
    "damage",
    [
        lambda step: [shutil.rmtree(path) if path.is_dir() else path.unlink() for path in step.iterdir()],
        lambda step: shutil.rmtree(step / "state"),
        lambda step: shutil.rmtree(step / "data"),
        lambda step: [os.truncate(p, p.stat().st_size // 2) for p in step.rglob("*") if p.is_file()],
        lambda step: [flip(p) for p in (step / "state").rglob("d/*") if p.is_file()],
        lambda step: [(step / "data" / "metadata").write_text('{"position": {"next": 9}, "metrics": {}}')],
        lambda step: [(step / "data" / "metadata").write_text("[]")],
        lambda step: [p.write_text(p.read_text().replace("1", "2", 1)) for p in [step / "run" / "metadata"]],
    ],
    ids=["empty", "no state", "no data", "truncated", "bits flipped", "no seal", "other JSON", "another run"],
)
def test_the_newest_whole_checkpoint_is_found_and_the_damaged_one_told(saved, damage, capsys):
    damage(saved / "3")
    with closing(Checkpoints(saved, keep=3)) as checkpoints:
        found = checkpoints.restore_newest(STATE)
        assert (found.step, int(found.state["step"]), found.data) == (2, 2, {"next": 2})
        assert "checkpoint of step 3 is damaged" in capsys.readouterr().err
        assert checkpoints.best("loss") == 1
        checkpoints.save(3, STATE, {"next": 3}, {}, None)  # saving goes on
    with closing(Checkpoints(saved)) as checkpoints:
        assert checkpoints.restore_newest(STATE).step == 3
    assert len(list((saved.parent / "damaged").iterdir())) == 1


def test_reading_a_damaged_checkpoint_moves_nothing(saved):
    shutil.rmtree(saved / "3" / "state")
    with closing(Checkpoints(saved)) as checkpoints:
        with pytest.raises(Damaged):
            checkpoints.restore(3, STATE)
        assert checkpoints.newest_run() == (3, {"config": 1})
        (saved / "3" / "run" / "metadata").write_text('{"config": 2}')
        assert checkpoints.newest_run() == (2, {"config": 1})
    assert (saved / "3").is_dir()


def test_the_best_is_kept_across_starts(saved):
    for step in (4, 5):
        with closing(Checkpoints(saved, keep=1)) as checkpoints:
            checkpoints.save(step, STATE, {}, {}, {"loss": float(step)})
    assert sorted(path.name for path in saved.iterdir()) == ["1", "5"]


def test_where_no_metric_tells_the_best_the_newest_is_kept(saved):
    with closing(Checkpoints(saved, keep=1, best_metric="")) as checkpoints:
        checkpoints.save(4, STATE, {}, {}, {"loss": 4.0})
        assert checkpoints.best("") is None
    assert sorted(path.name for path in saved.iterdir()) == ["4"]


def test_a_killed_save_is_cleaned_up_by_the_next_training_only(saved):
    left = saved / "4.orbax-checkpoint-tmp"
    left.mkdir()
    Checkpoints(saved).close()
    assert left.exists()
    with closing(Checkpoints(saved, keep=3)) as checkpoints:
        checkpoints.save(4, STATE, {}, {}, None)
        checkpoints.wait()
        assert not left.exists()
        assert checkpoints.steps()[-1] == 4


class FullOnce(Checkpoints):
    """The first save fails, as on a full disk: `how` says whether before it begins or in orbax's thread."""

    how = "no room"
    saves = 0

    def save(self, step, *arguments):
        FullOnce.saves += 1
        with pytest.MonkeyPatch.context() as patch:
            if FullOnce.saves == 1 and FullOnce.how == "no room":
                patch.setattr(checkpoint.shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10, 9, 1))
            super().save(step, *arguments)
            if FullOnce.saves == 1 and FullOnce.how == "in the thread":
                broken = OSError(28, "No space left on device")
                patch.setattr(self.manager, "wait_until_finished", lambda: (_ for _ in ()).throw(broken))
                self.wait()


@pytest.mark.parametrize("how", ["no room", "in the thread"])
@pytest.mark.parametrize("policy", ["stop", "continue"])
def test_a_full_disk_stops_training_or_not_as_asked(mel_store, tmp_path, capsys, monkeypatch, how, policy):
    monkeypatch.setattr(FullOnce, "saves", 0)
    monkeypatch.setattr(FullOnce, "how", how)
    train = dataclasses.replace(TRAIN, on_full_disk=policy)
    if policy == "stop":
        with pytest.raises(SaveFailed, match="cannot save a checkpoint in"):
            run(mel_store, tmp_path, train=train, saver=FullOnce)
        return
    outcome, found, _ = run(mel_store, tmp_path, train=train, saver=FullOnce)
    assert (outcome, found.step) == (Outcome.FINISHED, 12)
    assert "Training goes on" in capsys.readouterr().err


def test_a_line_is_appended_whole_or_not_at_all(tmp_path):
    class Short:
        def __init__(self, file):
            self.fileno, self.truncate, self._file = file.fileno, file.truncate, file

        def write(self, content):
            return self._file.write(content[:3])

    path = tmp_path / "lines"
    path.write_bytes(b"one\n")
    with path.open("ab", buffering=0) as file, pytest.raises(OSError, match="No space"):
        append_atomic(Short(file), b"two\n")
    assert path.read_bytes() == b"one\n"


def test_a_board_on_a_full_disk_is_an_error_not_a_wait(tmp_path, monkeypatch):
    def no_room(file, content):
        raise OSError(28, "No space left on device")

    full_board = Board(tmp_path, 0)
    with monkeypatch.context() as patch:
        patch.setattr(tensorboard, "append_atomic", no_room)
        for step in range(20):
            with pytest.raises(UserError, match="No space left"):
                full_board.scalar("loss", 1.0, step)
    full_board.scalar("loss", 1.0, 20)
    full_board.close()
    assert max(path.stat().st_size for path in tmp_path.iterdir()) > 50


def test_a_signal_where_nothing_runs_is_preemption_at_once():
    before = signal.getsignal(signal.SIGTERM)
    with raise_on_signal():
        with pytest.raises(Preempted, match="SIGTERM"):
            os.kill(os.getpid(), signal.SIGTERM)
        with Interrupts() as interrupts:
            os.kill(os.getpid(), signal.SIGTERM)
            assert interrupts.requested
    assert signal.getsignal(signal.SIGTERM) == before


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_ends_the_process(second):
    code = f"""
import os, signal, time
from jaxgen.training.interrupts import Interrupts
with Interrupts() as interrupts:
    os.kill(os.getpid(), signal.SIGTERM)
    assert interrupts.requested
    os.kill(os.getpid(), {int(second)})
    time.sleep(60)
"""
    assert subprocess.run([sys.executable, "-c", code]).returncode == 75


def test_the_watchdog_tells_where_it_is_stuck_and_only_then():
    told, stuck = [], threading.Event()
    with Watchdog(lambda text: (told.append(text), stuck.set()), 0.1) as watchdog:
        for _ in range(3):
            with watchdog.watch("an update"):
                time.sleep(0.001)
        assert told == []

        def a_long_wait():
            assert stuck.wait(60)

        with watchdog.watch("an update"):
            a_long_wait()
    assert "an update has taken" in told[0]
    assert "usually 0.0" in told[0]
    assert "in a_long_wait" in told[0]


def test_a_folder_is_trained_in_by_one_process(tmp_path):
    (tmp_path / "starts.jsonl").write_text(json.dumps({"pid": 7, "host": "laptop", "time": "noon"}) + "\n")
    code = f"""
import pathlib, time
from jaxgen.runs.lock import run_lock
with run_lock(pathlib.Path({str(tmp_path)!r})):
    print("locked", flush=True)
    time.sleep(60)
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline() == "locked\n"
        with pytest.raises(UserError, match=r"another process trains .* \(process 7 on laptop, since noon\)"):
            run_lock(tmp_path).__enter__()
        holder.kill()
    with run_lock(tmp_path):  # a killed process lets go
        pass


def test_a_trace_is_of_the_updates_asked_for(tmp_path):
    step = jax.jit(lambda x: x + 1)
    with Profile("2:2", tmp_path) as profile:
        for number in range(1, 6):
            profile.before(number, 1)
            profile.after(number, step(number))
            assert bool(list(tmp_path.rglob("*.xplane.pb"))) == (number >= 3)
    with pytest.raises(UserError, match=r"--profile is '5', expected START:N"):
        dataclasses.replace(quickstart(), profile="5")
