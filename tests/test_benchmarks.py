"""Benchmarks run and say what they claim to; their arithmetic and their peers are checked, no time is asserted."""

import dataclasses
import itertools
import json
import math
from pathlib import Path

import numpy as np
import pytest

from benchmarks import clips, data, measure, startup
from benchmarks.workloads import MEL, WAVE, plucked, prepared, some_batches, train_flops
from jaxgen.core.errors import UserError
from jaxgen.nn.recurrent import LSTM

pytestmark = [pytest.mark.slow, pytest.mark.nightly]

TINY_WORK = (
    *(
        "--mel.model.cell.hidden-size",
        "4",
        "--mel.model.num-layers",
        "1",
        "--mel.batch-size",
        "2",
        "--mel.seq-len",
        "3",
    ),
    *("--wave.model.cell.hidden-size", "4", "--wave.batch-size", "2", "--wave.seq-len", "3"),
)
SMALL_FIRST_STEP = ("--largest.model.cell.hidden-size", "4", "--largest.batch-size", "2", "--largest.seq-len", "8")
TINY = {
    data: ("--files", "3", "--batches", "2", "--repeats", "2"),
    startup: ("--repeats", "1", "--clips", "12", "--modules", "json", "wave", *SMALL_FIRST_STEP),
}
FIGURES = {
    data: {"candidate"},
    startup: {"candidate"},
}


def shrunk(work, **changes):
    return dataclasses.replace(work, **{"batch_size": 2, "seq_len": 5, **changes})


def with_model(work, **changes):
    return dataclasses.replace(work, model=dataclasses.replace(work.model, **changes))


@pytest.mark.parametrize("benchmark", TINY, ids=lambda module: module.__name__)
def test_a_benchmark_reports_finite_figures(benchmark, capsys, tmp_path):
    history = tmp_path / "history.jsonl"
    options = [*TINY_WORK, *TINY[benchmark], "--history", str(history)]
    rows = benchmark.main([*options, "--record"])
    assert len(rows) >= 4
    printed = capsys.readouterr().out
    recorded = [json.loads(line) for line in history.read_text().splitlines()]
    assert [{k: v for k, v in full.items() if k in row} for full, row in zip(recorded, rows, strict=True)] == rows
    for full in recorded:
        assert {
            "benchmark",
            "work",
            "candidate",
            "commit",
            "device",
            "cpu",
            "load_1min",
            "jax",
            "jaxlib",
        } <= full.keys()
        assert FIGURES[benchmark] <= full.keys()
        assert 0 < full["seconds_q1"] <= full["seconds"] <= full["seconds_q3"]
        assert all(math.isfinite(value) for value in full.values() if isinstance(value, float))
        assert full["candidate"] in printed


def test_trained_runs_make_clips_in_turns(quickstart, tmp_path):
    history = tmp_path / "history.jsonl"
    asked = ["--num-clips", "3", "--repeats", "2", "--record", "--history", str(history)]
    [row] = clips.main(["--runs", str(quickstart), *asked])
    assert row["clips"] == 3
    assert 0 < row["audio_seconds"] <= 3 * 0.6  # those that were learned last half a second
    assert row["real_time_factor"] == pytest.approx(row["audio_seconds"] / row["seconds"])
    assert json.loads(history.read_text())["run"] == str(quickstart)


@pytest.mark.parametrize(
    ("arguments", "told"), [((), "--runs are 0"), (("--runs", "nowhere"), "Pass --runs the folder of a run")]
)
def test_runs_that_make_no_clips_are_told(arguments, told):
    with pytest.raises(UserError, match=told):
        clips.main(arguments)


def test_nothing_is_recorded_unless_asked(capsys, tmp_path):
    options = measure.Options(history=str(tmp_path / "history.jsonl"))
    measure.report([{"candidate": "a", "seconds": 1.5}], {"commit": "c"}, options)
    assert not Path(options.history).exists()


def test_a_table_shows_some_figures_and_the_history_has_all(capsys, tmp_path):
    options = measure.Options(history=str(tmp_path / "history.jsonl"), record=True)
    measure.report(
        [{"candidate": "a", "seconds": 1.5, "gflop": 7.25}], {"commit": "c"}, options, ("candidate", "gflop")
    )
    printed = capsys.readouterr().out
    assert "7.25" in printed
    assert "seconds" not in printed
    assert json.loads(Path(options.history).read_text())["seconds"] == 1.5


def test_a_figure_that_is_not_finite_is_not_recorded(tmp_path):
    options = measure.Options(history=str(tmp_path / "history.jsonl"), record=True)
    with pytest.raises(ValueError, match="JSON"):
        measure.report([{"candidate": "a", "seconds": math.nan}], {}, options)


def test_candidates_take_turns_and_change_places():
    order: list[str] = []
    seconds = measure.alternate({name: lambda name=name: order.append(name) for name in "ab"}, repeats=3)
    assert "".join(order) == "ba" + "ab" + "ba" + "ab"
    assert all(times.shape == (3,) for times in seconds.values())


def test_an_unknown_option_is_the_users_mistake():
    with pytest.raises(UserError, match="--repeats"):
        startup.main(["--repeatz", "2"])


def test_arithmetic_by_hand():
    work = with_model(shrunk(WAVE), cell=LSTM(16), num_layers=2, embedding_size=3)
    weights = (3 + 1) * 64 + 16 * 64 + 16 * 64 + 16 * 64 + 16 * 256
    assert train_flops(work) == 6 * weights * 2 * 5


def test_batches_are_those_of_the_real_pipeline(tmp_path):
    work = shrunk(MEL)
    _, _, batches = prepared(work, plucked(2), str(tmp_path))
    for expected, got in zip(itertools.islice(batches, 4), some_batches(work, 2)[1], strict=True):
        np.testing.assert_array_equal(got["x"], expected["x"])
