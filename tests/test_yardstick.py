"""The yardstick measures the same work everywhere: peers compute what jaxgen does, or are refused; its figures are sound."""

import dataclasses
import importlib
import importlib.util
import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import chart, scaling, step, step_rows
from benchmarks.processes import CouldNotRun, Measured
from benchmarks.recurrent_work import RECURRENT, RecurrentWork
from benchmarks.step_peers import flax_linen
from benchmarks.step_peers import given as given_module
from benchmarks.step_rows import ROWS
from benchmarks.step_work import StepWork
from benchmarks.workloads import train_bytes, train_flops
from jaxgen.core.errors import UserError
from jaxgen.core.serial import from_json, to_json

pytestmark = [pytest.mark.slow, pytest.mark.nightly]

TINY = [
    RecurrentWork("LSTM", 3, 4, 16, 2),
    RecurrentWork("GRU", 3, 4, 16, 2, frames=True),
    RecurrentWork("RNN", 3, 4, 16, 2),
]
IN_PROCESS = [  # tensorflow is left to a process of its own: it takes seconds to import and warns
    pytest.param(
        name,
        marks=pytest.mark.skipif(
            importlib.util.find_spec(peer.library) is None, reason=f"{peer.library} is not installed"
        ),
    )
    for name, peer in step.PEERS.items()
    if name in ("torch", "flax", "nnx")
]


def told(module, spec, package="benchmarks.step_peers", runs=2):
    """Facts of a candidate after some runs, in this process."""
    facts, run = importlib.import_module(f"{package}.{module}").prepare(spec)
    for _ in range(runs):
        facts |= run(1)
    return facts


@pytest.fixture(scope="module", params=TINY, ids=lambda work: work.name)
def work(request):
    return request.param


@pytest.fixture(scope="module")
def ours(work):
    return told("ours", {"work": to_json(work)})


def saved(given, folder):
    given.save(str(folder / "given.npz"))
    return {"file": str(folder / "given.npz")}


@pytest.mark.parametrize("peer", IN_PROCESS)
def test_a_peer_computes_the_same_loss_and_update(work, ours, peer, tmp_path):
    theirs = told(step.PEERS[peer].module, saved(work.given(), tmp_path))
    assert step.disagreeing({"jaxgen": ours, peer: theirs}) == {}
    np.testing.assert_allclose(theirs["losses"][0], ours["losses"][0], rtol=1e-6)
    assert ours["losses"][1] < ours["losses"][0]


@pytest.mark.parametrize("field", ["recurrent", "initial"])
@pytest.mark.parametrize("work", TINY[1:2], ids=lambda work: work.name, indirect=True)
def test_a_peer_with_other_weights_is_refused(work, ours, field, tmp_path):
    given = work.given()
    gates = getattr(given.layers[1], field)
    layers = [given.layers[0], given.layers[1]._replace(**{field: np.roll(gates, 1, axis=-1)})]
    theirs = told("flax_linen", saved(dataclasses.replace(given, layers=layers), tmp_path))
    assert "jaxgen's" in step.disagreeing({"jaxgen": ours, "flax": theirs})["flax"]


def test_what_makes_peers_disagree():
    ours = {"parameters": 100, "missing": 0, "losses": [5.0, 4.9]}
    theirs = {
        "same": {"parameters": 90, "missing": 10, "losses": [5.00005, 4.905]},
        "size": {"parameters": 90, "missing": 0, "losses": [5.0, 4.9]},
        "loss": {"parameters": 100, "missing": 0, "losses": [5.001, 4.901]},
        "update": {"parameters": 100, "missing": 0, "losses": [5.0, 4.95]},
        "broken": {"parameters": 100, "missing": 0, "losses": [math.nan, math.nan]},
        "matmul peak": {"gflop": 1.0},
    }
    refused = step.disagreeing({"jaxgen": ours, **theirs})
    assert refused.keys() == {"size", "loss", "update", "broken"}
    assert refused["size"] == "it has 90 parameters, jaxgen 100"


def test_given_numbers_come_back(work, tmp_path):
    given = work.given()
    again = given_module.load(saved(given, tmp_path))
    jax.tree.map(np.testing.assert_array_equal, dataclasses.asdict(again), dataclasses.asdict(given))


@pytest.mark.parametrize(
    "work", [RecurrentWork("LSTM", 256, 1, 64, 1), RecurrentWork("GRU", 256, 1, 64, 1, frames=True)], ids=str
)
def test_arithmetic_of_a_step_is_what_xla_counts(work):
    """Of flax's model, with one step of time, so that XLA counts the body of the loop as often as it runs."""
    given = work.given()
    embedding_size = 0 if given.embedding is None else given.embedding.shape[1]
    network = flax_linen.Network(work.cell, 64, 1, given.head_kernel.shape[1], embedding_size)
    inputs = (given.past, None) if work.frames else (given.past.astype(np.int32), given.values())

    def loss(params):
        return jnp.square(network.apply(params, *inputs)).sum()

    params = jax.eval_shape(network.init, jax.random.key(0), *inputs)
    counted = jax.jit(jax.grad(loss)).lower(params).compile().cost_analysis()["flops"]
    assert train_flops(work.workload) * 0.999 < counted < 1.25 * train_flops(work.workload)


def test_memory_by_hand():
    work = RecurrentWork("LSTM", 2, 5, 16, 2)
    kept = (64 + 1) + (4 * 16 + 4 * 16 + 2 * 16 + 16) * 2 + 2 * 256
    assert train_bytes(work.workload, 1000) == 4 * (5 * 1000 + 2 * 5 * kept)


def test_the_rows_are_those_that_were_agreed():
    assert len(RECURRENT) == 21
    assert {"lstm-32-256-512-1", "gru-16-1024-768-1", "rnn-8-2048-128-1", "lstm-128-128-256-2"} <= ROWS.keys()
    assert [row for row, work in RECURRENT.items() if work.frames] == [
        f"{c}-32-64-512-2" for c in ("lstm", "gru", "rnn")
    ]
    assert ROWS["lstm-32-256-512-1"].workload.model.embedding_size == 128


@pytest.mark.parametrize(("option", "known"), [("--rows", "lstm-32-256-256-1"), ("--peers", "torch-compile")])
def test_a_name_that_nobody_knows_is_the_users_mistake(option, known):
    with pytest.raises(UserError, match=f"{option} has 'haste', but the .* are .*{known}"):
        step.main([option, "haste"])


def measured(seconds, facts, peak_bytes=1000):
    return Measured({"imported_bytes": 10, **facts}, seconds, peak_bytes, 0.01)


def test_ratios_are_medians_of_rounds():
    work = ROWS["gru-32-256-256-1"]
    facts = {"parameters": 7, "losses": [5.0, 4.0]}
    results = {
        "jaxgen": measured([1.0, 2.0, 4.0], facts),
        "torch-compile": measured([2.0, 2.0, 12.0], facts, 2000),
        "matmul peak": measured([0.5, 1.0, 2.0], {"gflop": 10.0}),
    }
    row = step.figures(work, results, threads=2)
    gflop = train_flops(work.workload) / 1e9
    assert row["row"] == "gru-32-256-256-1"
    assert row["step_seconds"] == 2.0
    assert row["ratio_to_torch_compile"] == 2.0  # of 2, 1 and 3: the ratio of the medians would be 1
    assert row["gflop_per_s"] == pytest.approx(gflop / 2)
    assert row["peak_gflop_per_s"] == 10.0
    assert row["matmul_share"] == pytest.approx(gflop / 20)
    assert (row["peak_bytes"], row["torch_compile_peak_bytes"]) == (1000, 2000)
    assert row["samples_per_s"] == 32 * 256 / 2
    assert row["others_share_of_cores"] == 0.01


def test_a_row_is_measured_in_real_processes(monkeypatch, tmp_path, capsys):
    work = RecurrentWork("GRU", 2, 5, 8, 2)
    monkeypatch.setitem(step_rows.ROWS, work.name, work)
    peers = [name for name in ("torch", "keras", "flax") if importlib.util.find_spec(step.PEERS[name].library)]
    files = {name: tmp_path / name for name in ("lines.jsonl", "history.jsonl", "chart.png")}
    options = ["--rows", work.name, "--peers", *peers, "--repeats", "2", "--matmul-size", "16", "--threads", "1"]
    outputs = [str(path) for path in files.values()]
    step.main([*options, "--json", outputs[0], "--record", "--history", outputs[1], "--chart", outputs[2]])
    (line,) = [json.loads(text) for text in files["lines.jsonl"].read_text().splitlines()]
    told = capsys.readouterr()
    assert line["row"] == work.name
    assert line["rounds"] == 2
    for name in ("step_seconds", "matmul_share", "gflop_per_s", "peak_gflop_per_s", "peak_bytes"):
        assert line[name] > 0
    for peer in peers:
        assert line[f"ratio_to_{peer}"] > 0, told.err
        assert line[f"{peer}_first_loss"] == pytest.approx(line["first_loss"], rel=1e-4)
        assert line[f"{peer}_peak_bytes"] > line[f"{peer}_imported_bytes"] > 10_000_000
    (recorded,) = [json.loads(text) for text in files["history.jsonl"].read_text().splitlines()]
    assert line.items() <= recorded.items()
    assert "commit" in recorded
    assert files["chart.png"].read_bytes().startswith(b"\x89PNG")
    assert work.name in told.out


def test_a_peer_that_is_not_installed_is_told_once(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(step, "PEERS", {"torch": step.Peer("no_such_library", "torch_eager")})
    monkeypatch.setattr(step, "measured", lambda work, peers, options: {"row": work.name, "peers": len(peers)})
    step.main(["--rows", "lstm-32-256-256-1", "gru-32-256-256-1", "--peers", "torch"])
    assert capsys.readouterr().err.count("no_such_library is not installed") == 1


def test_the_chart_is_drawn_from_a_file(tmp_path):
    rows, picture = tmp_path / "rows.jsonl", tmp_path / "step.png"
    rows.write_text("".join(json.dumps({"row": row, "ratio_to_torch": 1.2}) + "\n" for row in RECURRENT))
    assert len(chart.main(["--json", str(rows), "--chart", str(picture)])) == 21
    assert picture.read_bytes().startswith(b"\x89PNG")
    for bad in ("", "no json", '{"row": "lstm-1-1-1-1"}'):
        rows.write_text(bad)
        with pytest.raises(UserError):
            chart.main(["--json", str(rows), "--chart", str(picture)])


def test_an_exponent_is_that_of_a_power_law():
    sizes = [8, 16, 64, 128]
    assert scaling.fitted_exponent(sizes, [3e-3 * size**1.7 for size in sizes]) == pytest.approx(1.7)


def test_growth_is_fitted_for_each_size_alone(monkeypatch, tmp_path):
    """Of a machine whose time is B T^2 H^0.5 L and whose memory is 2 MiB a row."""

    def compare(candidates, repeats, **options):
        found = {}
        for candidate in candidates:
            if "work" in candidate.spec:
                work = from_json(candidate.spec["work"], StepWork, "the order")
                seconds = work.batch_size * work.seq_len**2 * work.hidden_size**0.5 * work.num_layers * 1e-6
                facts = {"parameters": 9, "planned_bytes": work.batch_size * 2 * 2**20}
                found[candidate.name] = measured([seconds] * repeats, facts)
            else:
                found[candidate.name] = measured([1.0] * repeats, {"gflop": 50.0})
        return found

    monkeypatch.setattr(scaling, "compare", compare)
    lines, picture = tmp_path / "lines.jsonl", tmp_path / "growth.png"
    rows = scaling.main(["--cell", "GRU", "--json", str(lines), "--chart", str(picture)])
    assert [json.loads(text) for text in lines.read_text().splitlines()] == rows
    exponents = {row["grows"]: row["seconds_exponent"] for row in rows}
    assert exponents == pytest.approx({"T": 2, "B": 1, "H": 0.5, "L": 1})
    memory = {row["grows"]: row["planned_mib_exponent"] for row in rows}
    assert memory == pytest.approx({"T": 0, "B": 1, "H": 0, "L": 0}, abs=1e-6)
    theory = {row["grows"]: row["theory_seconds_exponent"] for row in rows}
    assert theory["T"] == pytest.approx(1)
    assert theory["B"] == pytest.approx(1)
    assert 1 < theory["H"] < 2
    assert picture.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("options", [["--cell", "QRNN"], ["--layers", "3"]])
def test_a_sweep_that_cannot_be_is_the_users_mistake(options):
    with pytest.raises(UserError):
        scaling.main(options)


def test_a_step_that_cannot_run_is_not_passed_over():
    work = RecurrentWork("LSTM", 2, 5, 8, 0)  # no layers
    with pytest.raises((CouldNotRun, UserError)):
        step.measured(work, {}, step.Options())
