"""The fault campaigns in short: `python -m tests.faults` does the same a hundred times."""

import random
import shutil
import signal
import sys

import numpy as np
import pytest

from tests.faults import damage, kills
from tests.faults.kills import Cut
from tests.faults.trainer import Lost, Trainer, assert_equal, assert_same_state

pytestmark = [
    pytest.mark.nightly,
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="signals and files are as Linux has them"),
]


@pytest.fixture(scope="module")
def twin(tmp_path_factory):
    return kills.twin_of(tmp_path_factory.mktemp("faults") / "twin")


def test_a_run_that_is_killed_damaged_and_stopped_ends_as_its_twin(twin, tmp_path):
    twin, pace = twin
    trainer, told, damaged = Trainer(tmp_path), [], []
    trainer.take_compiled(twin)

    def cuts():
        yield Cut((signal.SIGKILL,), lambda life: life.saves >= 4, 0.3 * pace.save, 0.0)
        damaged.append(trainer.steps()[-1])
        damage.step_emptied(trainer.checkpoints / str(damaged[0]), random.Random(0))
        yield Cut((signal.SIGTERM,), lambda life: life.saves >= 3, 0.0, 0.0)

    kills.killed_run(trainer, twin, cuts(), lambda *what: told.append(what))
    assert [name for name, _ in told] == ["SIGKILL", "SIGTERM"]
    second = (tmp_path / "life-002.log").read_text()
    assert f"the checkpoint of step {damaged[0]} is damaged" in second
    assert [path.name.split("-")[0] for path in (trainer.workdir / "damaged").iterdir()] == [str(damaged[0])]
    assert trainer.lives == 3


def test_one_bit_is_a_difference(twin, tmp_path):
    twin, _ = twin
    shutil.copytree(twin.folder, tmp_path, dirs_exist_ok=True)
    trainer = Trainer(tmp_path)
    assert_equal(trainer, twin)
    path = trainer.workdir / "metrics.jsonl"
    path.write_bytes(path.read_bytes().replace(b"1", b"2", 1))
    with pytest.raises(Lost, match="jsonl differ"):
        assert_equal(trainer, twin)
    with pytest.raises(Lost, match=r"step 7 differs from the twin's in \['a'\]"):
        assert_same_state(7, {"a": np.zeros(3)}, {"a": -np.zeros(3)})
