"""The benchmark of the training loop runs and says what it claims to; no time is asserted."""

import math

import pytest

from benchmarks import overhead

pytestmark = [pytest.mark.slow, pytest.mark.nightly]


def test_the_loop_is_measured_beside_the_bare_step(capsys):
    asked = ("--repeats", "1", "--steps", "20", "--clips", "12", "--hidden-size", "4", "--steps-per-call", "5")
    rows = overhead.main(asked)
    assert [row["work"] for row in rows] == ["lstm-8-2048-128-1", "quickstart"]
    for row in rows:
        assert row["candidate"] == "5 updates a call"
        assert row["step_seconds"] > 0
        assert math.isclose(row["overhead_share"], row["seconds"] / row["step_seconds"] - 1, abs_tol=0.5)
        assert 0 <= row["data_wait_share"] < 1
    assert "overhead_share" in capsys.readouterr().out
