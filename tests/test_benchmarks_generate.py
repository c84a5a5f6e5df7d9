"""The generation benchmark: its peers compute and draw what jaxgen does, and its figures are what they say."""

import dataclasses
import importlib
import json
import math

import jax
import numpy as np
import pytest

from benchmarks import generate
from benchmarks.generate_peers import ours
from benchmarks.generate_work import ROWS, GenerateWork, given, rows_named
from benchmarks.processes import Measured
from jaxgen.core.errors import UserError

pytestmark = pytest.mark.slow

TINY = GenerateWork(hidden_size=6, streams=3)
IN_PROCESS = ["torch", "torch-script", "onnxruntime"]  # compiling takes half a minute, and what it compiles is this


def prepared(name, numbers, tmp_path, steps):
    library, module = generate.PEERS[name]
    pytest.importorskip(library, reason=f"{library} is not installed (pip install 'jaxgen[bench]')")
    numbers.save(str(tmp_path / "given.npz"))
    spec = {"file": str(tmp_path / "given.npz"), "streams": TINY.streams, "steps": steps}
    return importlib.import_module(f"benchmarks.generate_peers.{module}"), spec


@pytest.mark.parametrize("name", IN_PROCESS)
def test_a_peer_has_the_logits_of_the_model(name, tmp_path):
    module, spec = prepared(name, given(TINY), tmp_path, steps=3)
    facts, run = module.prepare(spec)
    expected, make = ours.prepare({"work": {"hidden_size": 6, "streams": 3}, "steps": 3})
    np.testing.assert_allclose(facts["logits"], expected["logits"], atol=1e-5)
    assert run(1)["distinct_codes"] > 1
    assert generate.disagreeing({"jaxgen": {**expected, **make(1)}, name: {**facts, **run(1)}}) == {}


@pytest.mark.parametrize("name", IN_PROCESS)
def test_a_peer_draws_codes_as_often_as_they_are_likely(name, tmp_path, monkeypatch):
    numbers = given(TINY)
    bias = np.full(256, -np.inf, np.float32)
    bias[[3, 200]] = np.log([0.8, 0.2])
    numbers = dataclasses.replace(numbers, head_kernel=np.zeros_like(numbers.head_kernel), head_bias=bias)
    module, spec = prepared(name, numbers, tmp_path, steps=700)
    made = []
    monkeypatch.setattr(module, "as_candidate", lambda model, steps: made.append(model.generate(steps)))
    module.prepare(spec)
    assert made[0].shape == (3, 700)
    assert set(np.unique(made[0])) == {3, 200}
    assert abs((made[0] == 3).mean() - 0.8) < 5 * math.sqrt(0.16 / 2_100)


def test_torch_compiled_draws_the_inverse_of_the_distribution():
    torch = pytest.importorskip("torch", reason="torch is not installed (pip install 'jaxgen[bench]')")
    from benchmarks.generate_peers.torch_compiled import inverted

    logits = torch.log(torch.tensor([0.1, 0.0, 0.6, 0.3])).repeat(4_000, 1)
    shares = np.bincount(inverted(logits).numpy(), minlength=4) / 4_000
    np.testing.assert_allclose(shares, [0.1, 0.0, 0.6, 0.3], atol=0.04)


def test_peers_that_compute_something_else_are_refused():
    right = {"logits": [[0.0, 1.0]], "distinct_codes": 2}
    facts = {
        "jaxgen": right,
        "same": right,
        "wrong": {"logits": [[0.0, 1.1]], "distinct_codes": 2},
        "broken": {"logits": [[0.0, math.nan]], "distinct_codes": 2},
        "stuck": {"logits": [[0.0, 1.0]], "distinct_codes": 1},
    }
    assert set(generate.disagreeing(facts)) == {"wrong", "broken", "stuck"}


def test_figures_are_of_a_step_and_ratios_of_rounds():
    options = generate.Options(steps=1_000)
    results = {
        "jaxgen": Measured({"first_audio_seconds": 0.01}, [0.05, 0.02, 0.10], 123, None),
        "torch-compile": Measured({}, [0.10, 0.06, 0.50], 456, 0.25),
    }
    row = generate.figures(GenerateWork(256, 8), results, options)
    assert (row["row"], row["peak_bytes"], row["first_audio_seconds"]) == ("lstm-256-8", 123, 0.01)
    assert row["us_per_step"] == pytest.approx(50)
    assert row["samples_per_s"] == pytest.approx(8 / 50e-6)
    assert row["real_time_factor"] == pytest.approx(1 / 50e-6 / 16_000)
    assert row["ratio_to_torch_compile"] == pytest.approx(3)  # the median of 2, 3 and 5
    assert row["torch_compile_us_per_step"] == pytest.approx(100)
    assert row["others_share_of_cores"] == 0.25


def test_rows_and_peers_are_named():
    assert list(ROWS) == [f"lstm-{h}-{n}" for h in (256, 512) for n in (1, 8, 32)]
    assert rows_named(("lstm-16-2",)) == [GenerateWork(16, 2)]
    for wrong in ("gru-256-1", "lstm-256", "lstm-256-0", "lstm-x-1"):
        with pytest.raises(UserError, match="--rows"):
            rows_named((wrong,))
    with pytest.raises(UserError, match="--peers"):
        generate.main(["--peers", "tensorflow"])


def test_the_command_writes_its_rows(tmp_path, capsys):
    pytest.importorskip("onnx", reason="onnx is not installed (pip install 'jaxgen[bench]')")
    options = ["--rows", "lstm-4-1", "lstm-4-2", "--peers", "onnxruntime", "--steps", "20", "--repeats", "1"]
    rows = generate.main([*options, "--json", str(tmp_path / "rows.json")])
    assert [json.loads(line) for line in (tmp_path / "rows.json").read_text().splitlines()] == rows
    assert [row["row"] for row in rows] == ["lstm-4-1", "lstm-4-2"]
    assert rows[0]["cost_of_one_stream"] == 1
    assert all(math.isfinite(v) and v > 0 for row in rows for k, v in row.items() if k.startswith("ratio"))
    assert "ratio_to_onnxruntime" in capsys.readouterr().out


def test_what_peers_are_given_is_what_jaxgen_generates_with():
    params = TINY.task().init(jax.random.key(0)).params
    assert (
        sum(leaf.size for leaf in jax.tree.leaves(params))
        == sum(array.size for name, array in vars(given(TINY)).items() if name != "codes")
        + params["stack"]["layers"][0]["initial"].size
        + given(TINY).bias.size
    )
