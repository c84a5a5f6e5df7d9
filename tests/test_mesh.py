"""Rows over several devices: the same loss curve, whatever their number, and however the state is split."""

import json
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from jaxgen.core.errors import UserError
from jaxgen.data.pipeline import TrainingBatches
from jaxgen.training.mesh import Devices

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def found(mel_store, tmp_path_factory):
    """What `on_devices.py` says of a process with eight devices."""
    script = Path(__file__).parent / "on_devices.py"
    folder = tmp_path_factory.mktemp("moved") / "checkpoints"
    line = [sys.executable, str(script), str(mel_store.directory), str(folder)]
    done = subprocess.run(line, capture_output=True, text=True, check=False, cwd=script.parent.parent)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def assert_same(losses, others):
    assert len(losses) == len(others) == 8
    np.testing.assert_allclose(losses, others, rtol=2e-5)


@pytest.mark.nightly
@pytest.mark.parametrize("way", ["4 replicated", "8 sharded"])
def test_the_loss_curve_is_that_of_one_device(found, way):
    alone = found["curves"]["1"]
    assert alone[-1] < alone[0]
    assert_same(found["curves"][way], alone)


@pytest.mark.nightly
def test_so_it_is_where_a_generator_learns_against_a_critic(found):
    assert_same(found["curves"]["adversarial, 4 sharded"], found["curves"]["adversarial, 1"])


@pytest.mark.nightly
def test_a_device_holds_its_share_of_a_split_state(found):
    assert 0.125 <= found["share"] < 0.2


@pytest.mark.nightly
def test_a_run_moves_to_another_number_of_devices(found):
    assert_same(found["moved"], found["curves"]["1"])


@pytest.mark.nightly
def test_evaluation_gets_the_whole_average_on_one_device(found):
    assert found["local"] == [1]


def test_one_device_is_left_alone():
    devices = Devices(3)
    state = devices.init_state(lambda key: jax.random.normal(key, (3,)), jax.random.key(0))
    step = devices.compile(lambda state, batch: (state + batch, batch), state)
    ours = step.lower(state, state).as_text()
    assert ours == jax.jit(lambda state, batch: (state + batch, batch), donate_argnums=0).lower(state, state).as_text()
    assert devices.rows == [0, 1, 2]
    assert devices.gather(state) is state


@pytest.mark.parametrize(("rows", "accumulation", "multiple"), [(6, 1, 4), (12, 2, 8)])
def test_rows_that_do_not_divide_are_told(rows, accumulation, multiple):
    four = jax.devices() * 4
    with pytest.raises(UserError, match=f"--train.batch-size a multiple of {multiple}"):
        Devices(rows, accumulation=accumulation, devices=four)


@pytest.mark.parametrize("seed", [0, 1])
def test_processes_read_disjoint_rows_of_one_order(mel_store, seed):
    """Each reads its rows only, and all know the same of where the data stands."""

    def stream(rows):
        options = {"lookback": 3, "batch_size": 5, "seq_len": 6, "seed": seed, "rows": rows}
        return iter(TrainingBatches(mel_store, mel_store.spec(("timbre",)), ("timbre",), **options))

    whole, parts = stream(None), [stream([0, 3]), stream([1, 2]), stream([4])]
    for _ in range(12):
        batch, split = next(whole), [next(part) for part in parts]
        joined = jax.tree.map(lambda *arrays: np.concatenate(arrays)[[0, 2, 3, 1, 4]], *split)
        jax.tree.map(np.testing.assert_array_equal, joined, batch)
        assert all(part.get_state() == whole.get_state() for part in parts)
    parts[0].set_state(whole.get_state())
    np.testing.assert_array_equal(next(parts[0])["x"], next(whole)["x"][[0, 3]])
