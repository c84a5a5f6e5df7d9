"""The ablation: a row is a training with one option changed."""

import pytest
from conftest import TINY

from benchmarks import ablation
from jaxgen.config import load
from jaxgen.core.errors import UserError
from jaxgen.nn.recurrent import LSTM, RNN

pytestmark = [pytest.mark.slow, pytest.mark.nightly]

CONFIG = """
from jaxgen.recipes.presets import quickstart
CONFIG = quickstart()
"""


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "quickstart.py"
    path.write_text(CONFIG)
    return str(path)


def test_a_row_is_trained_with_its_override(config, cache, tmp_path):
    own = ["--config", config, "--steps", "2", "--out", str(tmp_path / "rows.jsonl"), "--rows", "mean squared error"]
    (row,) = ablation.main([*own, "--", *TINY[:8], *TINY[10:14], "--cache-dir", str(cache)])
    assert row["override"] == "--model.distribution Normal"
    assert row["work"] == "MelRNN 2 updates"
    assert row["nats_per_frame"] > 0
    assert len((tmp_path / "rows.jsonl").read_text().splitlines()) == 1


def test_rows_that_change_nothing_are_left_out(config):
    rows = ablation._that_change(config, ablation.ROWS["MelRNN"], [])
    assert rows[0] == "as configured"
    base = load(config).model
    assert ("LSTM" in rows, "RNN" in rows, "2 layers" in rows) == (
        not isinstance(base.cell, LSTM),
        not isinstance(base.cell, RNN),
        base.num_layers != 2,
    )


def test_mistakes_are_told(config, tmp_path):
    with pytest.raises(UserError, match="there is no row 'magic' for MelRNN; expected some of: as configured, RNN"):
        ablation.main(["--config", config, "--rows", "magic"])
    with pytest.raises(UserError, match=r"the row 'RNN' ended with exit code 2: jaxgen: .*--train\.batch-size"):
        ablation.main(["--config", config, "--rows", "RNN", "--", "--train.batch-size", "none"])
