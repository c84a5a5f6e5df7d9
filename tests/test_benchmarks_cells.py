"""The comparison of cells: equal parameters, equal time, a score a turn, and a picture."""

import json
import math

import pytest

from benchmarks import cells
from jaxgen.core.errors import UserError
from jaxgen.models.wave_rnn import WaveRNN
from jaxgen.nn.recurrent import LSTM

pytestmark = [pytest.mark.slow, pytest.mark.nightly]

TINY = (
    *("--data", "PluckedStrings", "--data.num-clips", "12", "--data.seconds", "0.1", "--model.labels", "timbre"),
    *("--model.cell.hidden-size", "40", "--batch-size", "2", "--seq-len", "16", "--clips", "1"),
)


def test_cells_train_in_turns_for_the_same_time(cache, tmp_path, capsys):
    history, picture = tmp_path / "history.jsonl", tmp_path / "cells.png"
    options = [*TINY, "--minutes", "0.005", "--rounds", "2", "--cache-dir", str(cache), "--chart", str(picture)]
    rows = cells.main([*options, "--record", "--history", str(history)])
    names = [row["candidate"].split()[0] for row in rows]
    assert names == [cell.__name__ for cell, _ in cells.CANDIDATES for _ in range(2)]
    # how far a model has come depends on the speed of the machine, and a tiny one may get worse
    assert all(0 < row["bits_per_sample"] < math.inf for row in rows)
    for early, late in zip(rows[::2], rows[1::2], strict=True):
        assert 0.15 <= early["train_seconds"] < late["train_seconds"]
        assert late["train_seconds"] >= 0.3
        assert 1 < early["steps"] < late["steps"]
    recorded = [json.loads(line) for line in history.read_text().splitlines()]
    assert [full["candidate"] for full in recorded] == [row["candidate"] for row in rows]
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert rows[-1]["candidate"] in capsys.readouterr().out


def test_models_have_equal_parameters(wave_store):
    spec = wave_store.spec(())
    models = cells.equal_models(WaveRNN(cell=LSTM(hidden_size=64)), spec)
    counts = [cells.num_parameters(model, spec) for model in models]
    assert models[0].cell == LSTM(hidden_size=64)
    assert max(counts) <= 1.04 * min(counts)
    # embedding, input, recurrent, two biases, initial states, head
    assert counts[0] == 256 * 64 + (64 + 16) * 256 + 64 * 256 + 2 * 256 + 2 * 64 + 64 * 256 + 256


def test_a_model_too_small_to_match_is_the_users_mistake(wave_store):
    with pytest.raises(UserError, match="hidden-size"):
        cells.equal_models(WaveRNN(cell=LSTM(hidden_size=6), embedding_size=1, lookback=1), wave_store.spec(()))
