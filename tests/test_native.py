"""The native recurrence computes what the scan computes, whatever the sizes, threads and equations."""

import dataclasses
import functools
import itertools
import re

import jax
import jax.numpy as jnp
import llvmlite.binding as llvm
import numpy as np
import pytest
from conftest import nightly

from jaxgen.nn.recurrent import GRU, LSTM, RNN, GatedCell
from jaxgen.nn.recurrent.native import ffi, recurrence
from tests.rounding import POINTWISE, rounding
from tests.vectors import VECTORS, vectors

pytestmark = pytest.mark.slow

CELLS = [RNN, LSTM, GRU, functools.partial(RNN, activation="relu"), functools.partial(RNN, activation="sigmoid")]
D, T = 3, 5


def draw(cell, batch_size, seed=0):
    """Parameters, x, carry, reset, mask and weights of the outputs, all random."""
    rng = np.random.default_rng(seed)
    shapes = jax.eval_shape(functools.partial(cell.init, in_features=D), jax.random.key(0))
    scale = 1 / np.sqrt(cell.hidden_size)
    params = {name: np.float32(rng.normal(size=s.shape, scale=scale)) for name, s in shapes.items()}
    hidden = (batch_size, cell.hidden_size)
    x = np.float32(rng.normal(size=(batch_size, T, D)))
    carry = tuple(np.float32(rng.normal(size=hidden)) for _ in range(cell.num_states))
    reset = rng.random((batch_size, T)) < 0.3
    mask = np.float32(2 * rng.integers(2, size=hidden))
    weights = np.float32(rng.normal(size=(batch_size, T, cell.hidden_size)))
    return params, x, carry, reset, mask, weights


def results(cell, params, x, carry, reset, mask, weights):
    """Outputs, last carry, and the gradients of a loss of both."""

    def loss(params, x, carry):
        y, last = cell.unroll(params, x, carry, reset, mask)
        return (y * weights).sum() + sum(jnp.square(state).sum() for state in last), (y, last)

    return jax.jit(jax.grad(loss, argnums=(0, 1, 2), has_aux=True))(params, x, carry)


def by_scan(monkeypatch, cell, *arguments):
    with monkeypatch.context() as patch:
        patch.setattr(recurrence, "is_supported", lambda cell: False)
        return results(cell, *arguments)


def assert_close(got, expected):
    """Within the rounding of all steps and back, and of gradients, which are sums over all rows."""
    batch_size, _, hidden_size = expected[1][0].shape
    count = 2 * T * (D + hidden_size + POINTWISE) + batch_size * T
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, atol=rounding(count, np.append(b, 1)))


def test_the_native_code_runs_here():
    """Otherwise nothing below compares two ways."""
    for cell in CELLS:
        assert recurrence.is_supported(cell(hidden_size=16))


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize(("batch_size", "hidden_size"), [(13, 6), *map(nightly, (1, 3, 8, 29), (1, 64, 48, 80))])
def test_it_is_the_scan(monkeypatch, cell, batch_size, hidden_size):
    """For panels of every width, and rows that fill neither the threads nor the registers."""
    cell = cell(hidden_size=hidden_size)
    drawn = draw(cell, batch_size)
    assert_close(results(cell, *drawn), by_scan(monkeypatch, cell, *drawn))


@pytest.mark.parametrize("width", VECTORS)
def test_it_is_the_scan_in_vectors_of_any_width(monkeypatch, width):
    """Those of processors that this one is not, too."""
    cell = GRU(hidden_size=84)  # fills no vector of 8 or 16
    drawn = draw(cell, batch_size=9)
    with vectors(width):
        assert_close(results(cell, *drawn), by_scan(monkeypatch, cell, *drawn))


def test_the_instructions_that_xla_may_use_are_the_kernels_own_limit(monkeypatch):
    lanes = {}
    for limit in ("SSE4_2", "AVX", "AVX2", "AVX512"):
        with vectors(limit):
            lanes[limit] = ffi.machine().lanes
            on = {name for name, there in ffi.features().items() if there}
        assert limit not in ("SSE4_2", "AVX") or "fma" not in on
        assert limit == "AVX512" or "avx512f" not in on
    assert lanes["SSE4_2"] == 4
    assert lanes["AVX"] <= lanes["AVX2"] <= 8
    with vectors("AVX512"):  # no limit, where the processor ends before it
        assert ffi.machine().lanes == lanes["AVX512"]


def test_a_processor_whose_features_llvm_cannot_tell_has_vectors_of_four(monkeypatch):
    def untold():
        raise RuntimeError("failed to get host cpu features.")

    monkeypatch.setattr(llvm, "get_host_cpu_features", untold)
    cell = LSTM(hidden_size=8)
    drawn = draw(cell, batch_size=2)
    with vectors(None):
        assert ffi.machine().lanes == 4
        assert_close(results(cell, *drawn), by_scan(monkeypatch, cell, *drawn))


def test_the_kernels_compile_for_arm64(monkeypatch):
    """To its own fused products of four float32, without a call of what no library there has."""
    codes = []
    compiled = ffi._compile
    monkeypatch.setattr(ffi, "_compile", lambda code: codes.append(code) or compiled(code))
    monkeypatch.setattr(ffi, "_names", set())  # nothing was compiled before
    with vectors("arm64"):
        cell = LSTM(hidden_size=16)
        results(cell, *draw(cell, batch_size=2))
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    assert len(codes) == 2  # forward and backward
    for code, triple in itertools.product(codes, ("aarch64-unknown-linux-gnu", "arm64-apple-darwin")):
        module = llvm.parse_assembly(code)
        module.triple = triple
        assembly = llvm.Target.from_triple(triple).create_target_machine(opt=3).emit_assembly(module)
        assert "fmla" in assembly
        called = set(re.findall(r"\bbl\s+_?(\w+)", assembly)) | set(re.findall(r"\b_?(\w+)@GOTPAGE\b", assembly))
        assert "sched_yield" in called
        assert called - set(re.findall(r"^_?(\w+):", assembly, re.M)) <= {
            "sched_yield",
            "pthread_create",
            "pthread_join",
        }


@pytest.mark.parametrize("cell", [LSTM, GRU])
@pytest.mark.parametrize(("batch_size", "hidden_size"), [(16, 32), nightly(2, 192), nightly(8, 192)])
def test_threads_change_nothing(monkeypatch, cell, batch_size, hidden_size):
    """Each row is computed alike, whichever thread it falls to, and also where threads share its hidden units."""
    cell, found = cell(hidden_size), []
    drawn = draw(cell, batch_size)
    shares = [recurrence._sharing(cell, threads, batch_size) for threads in (1, 2, 3, 16)]
    assert len(set(shares)) > 2
    for threads in (1, 2, 3, 16):
        recurrence._forward_call.cache_clear()
        recurrence._backward_call.cache_clear()
        monkeypatch.setattr(recurrence, "available_cores", lambda threads=threads: threads)
        found.append(jax.tree.leaves(results(cell, *drawn)))
    for other in found[1:]:
        for a, b in zip(found[0], other, strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("cell", [LSTM, GRU])
def test_a_nan_shows(cell):
    cell = cell(16)
    params, x, *rest = draw(cell, batch_size=4)
    x[1, 2] = np.nan
    (gradients, *_), (y, _) = results(cell, params, x, *rest)
    assert np.isnan(y[1, 2:][~np.logical_or.accumulate(rest[1][1, 2:] & (np.arange(T - 2) > 0))]).all()
    assert not np.isnan(np.delete(y, 1, axis=0)).any()
    assert np.isnan(gradients["recurrent"]).any()


@dataclasses.dataclass(frozen=True)
class Sine(GatedCell):
    """h' = sin(zx + zh): an operation that the native code has no form of."""

    gate_bias = (0.0,)

    def pointwise(self, z, carry):
        return (jnp.sin(z),)


@dataclasses.dataclass(frozen=True)
class Leaky(GatedCell):
    """A cell of two gates that is defined nowhere else: h' = h + sigmoid(a) max(b, -1)^2."""

    gate_bias = (0.0, 0.5)

    def pointwise(self, z, carry):
        a, b = jnp.split(z, 2, axis=-1)
        return (0.5 * carry[0] + jax.nn.sigmoid(a) * jnp.maximum(b, -1.0) ** 2,)


def test_a_new_cell_needs_its_equations_only(monkeypatch):
    cell = Leaky(32)
    assert recurrence.is_supported(cell)
    drawn = draw(cell, batch_size=5)
    assert_close(results(cell, *drawn), by_scan(monkeypatch, cell, *drawn))


@dataclasses.dataclass(frozen=True)
class Iterated(GatedCell):
    """h' is a pre-activation squared over and over, in a loop of its own."""

    gate_bias = (0.0,)

    def pointwise(self, z, carry):
        return (jax.lax.fori_loop(0, 3, lambda _, z: 0.5 * z * z, z),)


def test_a_loop_is_not_run_once():
    assert not recurrence.is_supported(Iterated(8))


def test_the_larger_of_a_number_and_a_nan_is_a_nan():
    for function in (jnp.maximum, jnp.minimum):
        for first in (True, False):

            @dataclasses.dataclass(frozen=True)
            class Bounded(GatedCell):
                gate_bias = (0.0,)

                def pointwise(self, z, carry, function=function, first=first):
                    return (function(z, 0 * z) if first else function(0.5, z),)

            cell = Bounded(4)
            assert recurrence.is_supported(cell)
            params, x, carry, reset, mask, _ = draw(cell, batch_size=1)
            assert np.isnan(cell.unroll(params, np.full_like(x, np.nan), carry, reset, mask)[0]).all()


def test_a_cell_of_unknown_operations_takes_the_scan():
    cell = Sine(16)
    assert not recurrence.is_supported(cell)
    params, x, carry, reset, mask, _ = draw(cell, batch_size=2)
    y, _ = cell.unroll(params, x, carry, reset, mask)
    h = np.where(reset[:, 0, None], params["initial"][0], carry[0]) * mask
    z = x[:, 0] @ params["input"] + params["bias"] + h @ params["recurrent"] + params["recurrent_bias"]
    np.testing.assert_allclose(y[:, 0], np.sin(z), atol=1e-5)


def test_tanh_is_exact_to_a_few_units_in_the_last_place():
    """By an RNN without weights, whose output is tanh of its bias."""
    x = np.concatenate([np.linspace(-12, 12, 4001), np.logspace(-30, 1, 95), [np.inf, -np.inf, 0.0, -0.0]])
    x = np.float32(x)
    cell = RNN(hidden_size=len(x))
    shapes = jax.eval_shape(functools.partial(cell.init, in_features=1), jax.random.key(0))
    params = {name: np.zeros(a.shape, np.float32) for name, a in shapes.items()}
    params["bias"] = x
    zeros = np.zeros((1, len(x)), np.float32)
    y, _ = jax.jit(cell.unroll)(params, np.zeros((1, 1, 1), np.float32), (zeros,), np.zeros((1, 1), bool))
    np.testing.assert_allclose(y[0, 0], np.tanh(np.float64(x)), rtol=5e-7)
