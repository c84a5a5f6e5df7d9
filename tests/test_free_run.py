"""Codes that the native kernel draws on its own are those of the model's own step, drawn from one by one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import nightly

from jaxgen.data.spec import DataSpec
from jaxgen.features import MuLaw
from jaxgen.models.conditioning import Conditioning
from jaxgen.models.sequence import RunState, SequenceModel
from jaxgen.models.wave_rnn import WaveRNN
from jaxgen.nn.distributions import Sampling
from jaxgen.nn.recurrent import GRU, LSTM, RNN, MinGRU
from jaxgen.nn.recurrent.native import free_run
from jaxgen.objectives.likelihood import Likelihood
from tests.rounding import POINTWISE, rounding
from tests.vectors import SHAPES, vectors

pytestmark = pytest.mark.slow

T = 60
SILENCE = jnp.uint8(128)


def made(config, q_levels=256, seed=0):
    """A model whose every parameter counts."""
    data = DataSpec(features=MuLaw(sample_rate=8_000, q_levels=q_levels), vocabularies=(("digit", ("a", "b")),))
    task = Likelihood().build(config, data, steps=1, batch_size=1)
    leaves, tree = jax.tree.flatten(task.init(jax.random.key(seed)).params)
    rng = np.random.default_rng(seed)
    return task.module(tree.unflatten([leaf + 0.1 * rng.standard_normal(leaf.shape) for leaf in leaves]))


def start(model, num_rows, q_levels=256):
    rng = np.random.default_rng(1)
    past = rng.integers(q_levels, size=(num_rows, model.lookback), dtype=np.uint8)
    labels = Conditioning({name: jnp.arange(num_rows) % 3 for name in model.labels})
    noise = jax.random.uniform(jax.random.key(2), (num_rows, T, 1))
    return RunState(model.init_carry(num_rows), jnp.asarray(past), jnp.zeros(num_rows, bool)), labels, noise


@pytest.mark.parametrize(
    ("config", "num_rows", "q_levels"),
    [
        (WaveRNN(cell=LSTM(64), labels=("digit",)), 3, 256),
        (WaveRNN(cell=LSTM(24), num_layers=2, lookback=3, labels=("digit",)), 9, 256),
        nightly(WaveRNN(cell=GRU(48), num_layers=2, lookback=1), 1, 64),
        nightly(WaveRNN(cell=RNN(10), num_layers=3, lookback=4), 14, 36),
    ],
    ids=["lstm", "two layers", "gru", "odd sizes"],
)
def test_it_draws_what_the_scan_draws(config, num_rows, q_levels):
    model = made(config, q_levels)
    state, labels, noise = start(model, num_rows, q_levels)
    sampling = Sampling(temperature=0.8)
    assert model.uses_all_cores(sampling)
    after, codes, ends = jax.jit(lambda: model.free_run(state, labels, noise, sampling, SILENCE))()
    expected, expected_codes, _ = SequenceModel.free_run(model, state, labels, noise, sampling, SILENCE)
    np.testing.assert_array_equal(codes, expected_codes)
    np.testing.assert_array_equal(after.past, expected.past)
    for a, b in zip(jax.tree.leaves(after.carry), jax.tree.leaves(expected.carry), strict=True):
        np.testing.assert_allclose(a, b, atol=rounding(T * 2 * (config.cell.hidden_size + POINTWISE), b))
    assert len(np.unique(codes)) > 5
    assert not ends.any()


@pytest.mark.parametrize("width", ["SSE4_2", *SHAPES])
def test_vectors_of_any_width_draw_the_same(width):
    model = made(WaveRNN(cell=GRU(24), num_layers=2), q_levels=64)
    state, labels, noise = start(model, 5, q_levels=64)
    expected = SequenceModel.free_run(model, state, labels, noise, Sampling(), SILENCE)[1]
    with vectors(width):
        codes = jax.jit(lambda: model.free_run(state, labels, noise, Sampling(), SILENCE)[1])()
    np.testing.assert_array_equal(codes, expected)


@pytest.mark.nightly
def test_neither_threads_nor_blocks_change_a_code(monkeypatch):
    model = made(WaveRNN(cell=LSTM(32)))
    state, labels, noise = start(model, 7)
    found = []
    for threads in (1, 2, 3, 16):
        monkeypatch.setattr(free_run, "available_cores", lambda threads=threads: threads)
        first, codes, _ = model.free_run(state, labels, noise[:, :25], Sampling(), SILENCE)
        _, more, _ = model.free_run(first, labels, noise[:, 25:], Sampling(), SILENCE)
        found += [np.hstack([codes, more]), model.free_run(state, labels, noise, Sampling(), SILENCE)[1]]
    for other in found[1:]:
        np.testing.assert_array_equal(found[0], other)


def test_what_the_kernel_does_not_know_takes_the_scan():
    """A choice among the likeliest codes, other cells and residual layers."""
    plain = made(WaveRNN(cell=LSTM(16)))
    assert plain.uses_all_cores(Sampling(temperature=0.5))
    for sampling in (Sampling(temperature=0), Sampling(top_k=3), Sampling(top_p=0.9)):
        assert not plain.uses_all_cores(sampling)
    for config in (WaveRNN(cell=MinGRU(16)), WaveRNN(cell=LSTM(16), num_layers=2, residual=True)):
        assert not made(config).uses_all_cores(Sampling())
    state, labels, noise = start(plain, 2)
    _, codes, _ = plain.free_run(state, labels, noise, Sampling(top_k=1), SILENCE)
    np.testing.assert_array_equal(codes, plain.free_run(state, labels, noise, Sampling(temperature=0), SILENCE)[1])


def test_codes_are_as_frequent_as_the_softmax_says():
    """With no recurrence left, every step draws from one distribution, some codes of which are impossible."""
    model = made(WaveRNN(cell=LSTM(16)), q_levels=32)
    head = model.head.linear
    logits = np.where(np.arange(32) % 5 == 0, -200.0, np.random.default_rng(0).normal(size=32))
    head.kernel[...], head.bias[...] = jnp.zeros((16, 32)), jnp.float32(logits)
    state, labels, _ = start(model, 40, q_levels=32)
    noise = jax.random.uniform(jax.random.key(5), (40, 500, 1))
    _, codes, _ = model.free_run(state, labels, noise, Sampling(), SILENCE)
    shares = np.bincount(np.ravel(codes), minlength=32) / codes.size
    expected = np.asarray(jax.nn.softmax(logits))
    assert (shares[::5] == 0).all()
    np.testing.assert_allclose(shares, expected, atol=5 * np.sqrt(expected.max() / codes.size))
