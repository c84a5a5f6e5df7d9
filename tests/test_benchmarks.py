"""Benchmarks run, and say what they claim to; nothing timed is asserted."""

import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import data, generate, measure, startup, step

TINY = {
    step: ["--hidden-size", "4", "--batch-size", "2", "--seq-len", "3"],
    generate: ["--streams", "1", "2", "--hidden-size", "4", "--seconds", "0.05"],
    data: ["--files", "6", "--batches", "3"],
    startup: ["--hidden-size", "4"],
}


@pytest.mark.parametrize("benchmark", TINY, ids=lambda module: module.__name__)
def test_a_benchmark_reports_finite_figures(benchmark, capsys, monkeypatch):
    monkeypatch.setattr(startup, "MODULES", ("json",))
    rows = benchmark.main([*TINY[benchmark], "--repeats", "1"])
    assert len(rows) >= 2
    out = capsys.readouterr().out
    for row in rows:
        assert {"benchmark", "candidate", "commit", "device", "jax"} <= row.keys()
        assert row["candidate"] in out
        figures = [value for value in row.values() if isinstance(value, float)]
        assert figures
        assert all(map(math.isfinite, figures))


def test_history_is_strict_json_and_written_only_if_asked(tmp_path, monkeypatch):
    monkeypatch.setattr(measure, "HISTORY", tmp_path / "history.jsonl")
    measure.finish("x", [{"candidate": "a", "seconds": 1.5}], record=False)
    assert not (tmp_path / "history.jsonl").exists()
    measure.finish("x", [{"candidate": "a", "seconds": 1.5}], record=True)
    measure.finish("x", [{"candidate": "b", "seconds": 2.5}], record=True)
    rows = [json.loads(line) for line in (tmp_path / "history.jsonl").read_text().splitlines()]
    assert [(row["candidate"], row["seconds"]) for row in rows] == [("a", 1.5), ("b", 2.5)]


def test_the_arithmetic_of_a_step_is_what_its_products_need():
    """XLA's own count for the same products, unrolled; the rest of a step is small beside it."""
    hidden, batch, steps = 64, 8, 4

    def loss(params, x):
        h = jnp.zeros((batch, hidden))
        total = 0.0
        for t in range(steps):
            z = x[:, t] @ params["input"] + h @ params["recurrent"]
            h = z[:, :hidden]
            total += (h @ params["head"]).sum()
        return total

    shapes = {"input": (step.EMBEDDING, 4 * hidden), "recurrent": (hidden, 4 * hidden), "head": (hidden, step.Q_LEVELS)}
    params = {name: jnp.ones(shape) for name, shape in shapes.items()}
    x = jnp.ones((batch, steps, step.EMBEDDING))
    compiled = jax.jit(jax.grad(loss, argnums=(0, 1))).lower(params, x).compile()
    counted = compiled.cost_analysis()["flops"] / 1e9
    # the backward pass needs no product for the last head, and the first state is zero: the count is a little less
    assert 0.6 * step.gflop_per_step(hidden, batch, steps) < counted < 1.1 * step.gflop_per_step(hidden, batch, steps)


def test_alternating_runs_every_candidate_in_turn():
    order = []
    measure.alternate({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, repeats=2)
    assert order == ["a", "b"] * 3


def test_candidates_of_the_step_start_from_the_same_loss():
    """All three see the same data and predict codes; at the start each is near log 256 nats."""
    codes = np.random.default_rng(0).integers(256, size=(4, 9)).astype(np.uint8)
    _, metrics = step.jaxgen_step(8, codes)()
    assert abs(float(metrics["loss"]) - math.log(256)) < 1.0
