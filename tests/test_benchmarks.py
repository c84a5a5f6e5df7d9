"""Benchmarks run and say what they claim to; their arithmetic and their peers are checked, no time is asserted."""

import dataclasses
import importlib.util
import itertools
import json
import math
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import data, generate, measure, peers, startup, step
from benchmarks.workloads import MEL, WAVE, bound, forward_flops, plucked, prepared, some_batches, train_flops
from jaxgen.errors import UserError
from jaxgen.recurrent import GRU, LSTM, RNN

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
    *("--wave.model.cell.hidden-size", "4", "--wave.batch-size", "2", "--wave.seq-len", "3", "--repeats", "2"),
)
TINY = {
    step: ("--clips", "2", "--matmul.size", "8"),
    generate: (
        *("--clips", "2", "--matmul.size", "8", "--streams", "1", "2"),
        *("--wave-steps", "5", "--mel-steps", "2", "--peer-steps", "2"),
    ),
    data: ("--files", "3", "--batches", "2"),
    startup: ("--clips", "2", "--modules", "json", "wave"),
}
FIGURES = {
    step: {"gflop", "gflop_per_s", "peak_gflop_per_s", "share_of_peak", "audio_s_per_s", "jaxgen_speedup"},
    generate: {"streams", "us_per_step", "share_of_peak", "jaxgen_speedup"},
    data: {"candidate"},
    startup: {"candidate"},
}
CELLS = [RNN(64), LSTM(64), GRU(64)]
WORKS = [MEL, WAVE]


def shrunk(work, **changes):
    return dataclasses.replace(work, **{"batch_size": 2, "seq_len": 5, **changes})


def with_model(work, **changes):
    return dataclasses.replace(work, model=dataclasses.replace(work.model, **changes))


@pytest.mark.parametrize("benchmark", TINY, ids=lambda module: module.__name__)
def test_a_benchmark_reports_finite_figures(benchmark, capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(peers, "HAS_TORCH", False)  # its import alone takes seconds; it has a test of its own
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
        assert 0 < full["seconds_q1"] <= full["seconds"] <= full["seconds_q3"] or full["candidate"] == "jaxgen"
        assert all(math.isfinite(value) for value in full.values() if isinstance(value, float))
        assert full["candidate"] in printed


def test_nothing_is_recorded_unless_asked(capsys, tmp_path):
    options = measure.Options(history=str(tmp_path / "history.jsonl"))
    measure.report([{"candidate": "a", "seconds": 1.5}], {"commit": "c"}, options)
    assert not Path(options.history).exists()


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
        step.main(["--repeatz", "2"])


@pytest.mark.parametrize("cell", CELLS, ids=lambda cell: type(cell).__name__)
@pytest.mark.parametrize("work", WORKS, ids=lambda work: work.name)
def test_arithmetic_of_a_step_is_what_xla_counts(work, cell):
    """One step of time, so that XLA counts the body of the loop as often as it runs; the rest is small beside it."""
    work = with_model(shrunk(work, batch_size=256, seq_len=1), cell=cell, num_layers=1)
    spec, batches = some_batches(work, 2)
    training = bound(work, spec)
    state = jax.eval_shape(training.init, jax.random.key(0))
    counted = jax.jit(training.train_step).lower(state, batches[0]).compile().cost_analysis()["flops"]
    assert train_flops(work) < counted < 1.25 * train_flops(work)


def test_arithmetic_by_hand():
    work = with_model(shrunk(WAVE), cell=LSTM(16), num_layers=2, embedding_size=3)
    weights = (3 + 1) * 64 + 16 * 64 + 16 * 64 + 16 * 64 + 16 * 256
    assert forward_flops(work) == 2 * weights
    assert train_flops(work) == 6 * weights * 2 * 5


@pytest.mark.parametrize("work", WORKS, ids=lambda work: work.name)
def test_the_scan_computes_the_same_update(work):
    work = with_model(shrunk(work), cell=LSTM(8))
    spec, batches = some_batches(work, 2)
    states, losses = [], []
    for training in (bound(work, spec), bound(work, spec, peers.ScanTraining)):
        state, metrics = jax.jit(training.train_step)(training.init(jax.random.key(0)), batches[0])
        states.append(state.params)
        losses.append(metrics["loss"])
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-4), *states)


@pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="torch is not installed (pip install torch)")
@pytest.mark.parametrize("work", WORKS, ids=lambda work: work.name)
def test_torch_does_the_same_work(work):
    """As many parameters (but for the learned initial carry), the same loss for the same outputs, and it learns."""
    import torch

    from benchmarks import torch_peer

    work = with_model(shrunk(work), cell=LSTM(8))
    spec, batches = some_batches(work, 2)
    training = bound(work, spec)
    params = training.init(jax.random.key(0)).params
    count = sum(leaf.size for leaf in jax.tree.leaves(params)) - work.model.num_layers * 2 * 8
    network, likelihood = torch_peer.build(work)
    assert sum(p.numel() for p in network.parameters()) == count

    batch = batches[0]
    target, end = batch["x"][:, 1:], batch["end"]
    outputs = np.random.default_rng(0).normal(size=(*end.shape, network.head.out_features)).astype(np.float32)
    scores = training.module(params).scores(jnp.asarray(outputs), target, end)
    nats = likelihood.nats(
        torch.from_numpy(outputs), torch.from_numpy(torch_peer.standardised(target, spec)), torch.from_numpy(end.copy())
    )
    constant = np.log(spec.std).sum() if spec.std else 0.0  # the density of frames that are not standardised
    np.testing.assert_allclose(nats.numpy() + constant, scores["loss"], rtol=1e-4, atol=1e-3)

    update = torch_peer.train_step(work, spec, batches[:1])
    losses = [update() for _ in range(20)]
    assert losses[-1] < losses[0]
    assert math.isfinite(torch_peer.generation(work, spec, streams=2, steps=3)())


def test_batches_are_those_of_the_real_pipeline(tmp_path):
    work = shrunk(MEL)
    _, _, batches = prepared(work, plucked(2), str(tmp_path))
    for expected, got in zip(itertools.islice(batches, 4), some_batches(work, 2)[1], strict=True):
        np.testing.assert_array_equal(got["x"], expected["x"])
