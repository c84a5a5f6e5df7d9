"""The recurrent contract: `unroll` is repeated `step`, and both are the published formulas, values and gradients.

References: the formulas in float64 under plain automatic differentiation, and flax's cells.
"""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import nightly
from flax import nnx

from jaxgen.core.errors import UserError
from jaxgen.nn.recurrent import GRU, LSTM, RGLRU, RNN, MinGRU, MinLSTM, Stack, gated
from tests.rounding import POINTWISE, rounding

T, D, H = 4, 3, 4
RESETS = np.array(list(itertools.product([False, True], repeat=T)))  # every pattern: one row each
B = len(RESETS)
ROUNDING = rounding(2 * T * (D + H + POINTWISE) + B * T)  # through all steps and back; gradients are sums over all rows
SPLIT = (1, 3)
CELLS = [RNN, LSTM, GRU]


def draw(cell, seed=0):
    """Random values for everything: params, x [B, T, D], the first carry, a mask of h, and weights of a scalar loss."""
    rng = np.random.default_rng(seed)
    shapes = jax.eval_shape(functools.partial(cell.init, in_features=D), jax.random.key(0))
    params = {name: rng.normal(size=s.shape, scale=0.7) for name, s in shapes.items()}
    x, weights = rng.normal(size=(B, T, D)), rng.normal(size=(B, T, H))
    carry, last_weights = rng.normal(size=(2, cell.num_states, B, H))
    mask = 2.0 * rng.integers(2, size=(B, H))
    return jax.tree.map(np.float32, (params, x, tuple(carry), mask, (weights, tuple(last_weights))))


def loss(ys, carry, weights):
    return (ys * weights[0]).sum() + sum((c * w).sum() for c, w in zip(carry, weights[1], strict=True))


def by_unroll(cell, params, x, carry, mask):
    ys = []
    for a, b in itertools.pairwise(np.cumsum((0, *SPLIT))):
        y, carry = cell.unroll(params, x[:, a:b], carry, RESETS[:, a:b], mask)
        ys.append(y)
    return jnp.concatenate(ys, axis=1), carry


def by_step(cell, params, x, carry, mask):
    def body(carry, inputs):
        y, carry = cell.step(params, inputs[0], carry, inputs[1], mask)
        return carry, y

    carry, ys = jax.lax.scan(body, carry, (jnp.swapaxes(x, 0, 1), RESETS.T))
    return jnp.swapaxes(ys, 0, 1), carry


def by_formula(cell, params, x, carry, mask):
    """The papers' formulas, one step after another, on whatever dtype comes in."""
    ys = []
    for t in range(T):
        carry = [jnp.where(RESETS[:, t, None], start, c) for start, c in zip(params["initial"], carry, strict=True)]
        zx, zh = x[:, t] @ params["input"], (carry[0] * mask) @ params["recurrent"]
        if cell.layer_norm:
            zx, zh = normalised(zx) * params["input_gain"], normalised(zh) * params["recurrent_gain"]
        carry = formula(cell, zx + params["bias"], zh + params["recurrent_bias"], carry)
        ys.append(carry[0])
    return jnp.stack(ys, axis=1), tuple(carry)


def normalised(z):
    return (z - z.mean(-1, keepdims=True)) / jnp.sqrt(z.var(-1, keepdims=True) + 1e-3)


def formula(cell, zx, zh, carry):
    def sigmoid(x):
        return 1 / (1 + jnp.exp(-x))

    def gate(z, index):
        return z[:, index * H : (index + 1) * H]

    if isinstance(cell, RNN):
        sigma = {"tanh": jnp.tanh, "relu": lambda z: jnp.maximum(z, 0), "sigmoid": sigmoid}[cell.activation]
        return [sigma(zx + zh)]
    if isinstance(cell, LSTM):
        i, f, o, g = (gate(zx + zh, index) for index in range(4))
        c = sigmoid(f) * carry[1] + sigmoid(i) * jnp.tanh(g)
        return [sigmoid(o) * jnp.tanh(c), c]
    r, update = sigmoid(gate(zx + zh, 0)), sigmoid(gate(zx + zh, 1))
    n = jnp.tanh(gate(zx, 2) + r * gate(zh, 2))
    return [(1 - update) * n + update * carry[0]]


@functools.cache
def value_and_gradients(run, cell):
    """A jitted function of what `draw` gives: gradients of the loss in params, x and carry, and the outputs."""

    def scalar(params, x, carry, mask, weights):
        ys, last = run(cell, params, x, carry, mask)
        return loss(ys, last, weights), (ys, last)

    gradients = jax.grad(scalar, argnums=(0, 1, 2), has_aux=True)
    return jax.jit(gradients, compiler_options={"xla_backend_optimization_level": 0})  # compiles in half the time


def assert_close(got, expected, tolerance):
    """Tolerance relative to the largest magnitude of each array."""
    for (path, a), b in zip(jax.tree_util.tree_leaves_with_path(got), jax.tree.leaves(expected), strict=True):
        a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
        np.testing.assert_allclose(a, b, atol=tolerance * max(1e-3, np.abs(b).max()), err_msg=str(path))


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(jnp.float32, ROUNDING), nightly(jnp.bfloat16, 2e-2)], ids=["f32", "bf16"]
)
@pytest.mark.parametrize("layer_norm", [False, True], ids=["plain", "norm"])
@pytest.mark.parametrize("cell", CELLS)
def test_unroll_is_repeated_step(cell, layer_norm, dtype, tolerance):
    """Every reset pattern, in two chunks; values and gradients, with a mask of h."""
    cell = cell(H, layer_norm=layer_norm)
    params, x, *others = draw(cell)
    arguments = params, jnp.asarray(x, dtype), *others
    expected = value_and_gradients(by_step, cell)(*arguments)
    got = value_and_gradients(by_unroll, cell)(*arguments)
    assert jax.tree.map(lambda a: a.dtype, got) == jax.tree.map(lambda a: a.dtype, expected)
    assert got[1][0].dtype == dtype
    assert got[1][1][0].dtype == jnp.float32
    assert_close(got, expected, tolerance)


@pytest.mark.slow
@pytest.mark.parametrize(
    "cell",
    [RNN(H), RNN(H, "relu"), RNN(H, "sigmoid"), LSTM(H), GRU(H), *(cell(H, layer_norm=True) for cell in CELLS)],
    ids=repr,
)
def test_unroll_is_the_formula_in_float64(cell):
    """RNN: h_t = sigma(W x_t + U h_(t-1) + b), and so on; the gradient is plain automatic differentiation."""
    drawn = draw(cell, seed=1)
    got = value_and_gradients(by_unroll, cell)(*drawn)
    with jax.enable_x64(True):
        expected = value_and_gradients(by_formula, cell)(*jax.tree.map(lambda a: np.asarray(a, np.float64), drawn))
    assert expected[1][0].dtype == np.float64
    assert_close(got, jax.device_get(expected), 2 * ROUNDING)


def flax_cell(cell, params):
    """flax's cell with our parameters; flax orders the gates of an LSTM i, f, g, o."""
    names = {"input": "kernel", "bias": "bias"}, {"recurrent": "kernel", "recurrent_bias": "bias"}
    if isinstance(cell, RNN):
        module = nnx.SimpleCell(D, H, rngs=nnx.Rngs(0), keep_rngs=False)
    elif isinstance(cell, LSTM):
        module = nnx.OptimizedLSTMCell(D, H, rngs=nnx.Rngs(0), keep_rngs=False)
    else:
        module = nnx.GRUCell(D, H, rngs=nnx.Rngs(0), keep_rngs=False)
    for layer, ours in zip((module.dense_i, module.dense_h), names, strict=True):
        for name, theirs in ours.items():
            value = params[name]
            if isinstance(cell, LSTM):
                i, f, o, g = np.split(value, 4, axis=-1)
                value = np.concatenate([i, f, g, o], axis=-1)
            param = getattr(layer, theirs)
            if param is not None:
                param[...] = jnp.asarray(value)
    return module


@pytest.mark.parametrize("cell", CELLS)
def test_unroll_is_flax(cell):
    cell = cell(H)
    params, x, carry, *_ = draw(cell, seed=2)
    absent = {"bias"} if cell == LSTM(H) else {"recurrent_bias"}  # flax has one bias where we have two
    params |= {name: np.zeros_like(params[name]) for name in absent}
    got, last = jax.jit(cell.unroll)(params, x, carry, np.zeros((B, T), bool))
    module = flax_cell(cell, params)
    state = (carry[1], carry[0]) if cell.num_states == 2 else carry[0]
    for t in range(T):
        state, y = module(state, x[:, t])
        np.testing.assert_allclose(got[:, t], y, atol=ROUNDING)
    np.testing.assert_allclose(last[-1], state[0] if cell.num_states == 2 else state, atol=ROUNDING)


def test_reset_starts_from_the_learnable_initial_state():
    """A row that resets does not know what came before, and is the only one that learns the initial state."""
    cell = LSTM(H)
    params, x, carry, *_ = draw(cell)
    fresh = tuple(jnp.broadcast_to(start, (B, H)) for start in params["initial"])
    reset = np.arange(T) == 2
    resets = np.broadcast_to(reset, (B, T))
    y, _ = cell.unroll(params, x, carry, resets)
    expected, _ = cell.unroll(params, x[:, 2:], fresh, np.zeros((B, T - 2), bool))
    np.testing.assert_allclose(y[:, 2:], expected, atol=ROUNDING)

    @jax.jit
    @jax.grad
    def gradient(params, resets):
        return cell.unroll(params, x, carry, resets)[0].sum()

    assert np.abs(gradient(params, resets)["initial"]).min() > 0
    assert np.abs(gradient(params, np.zeros((B, T), bool))["initial"]).max() == 0


@pytest.fixture
def stack():
    return make_stack()


def make_stack(**options):
    stack = Stack(LSTM(H), 2, H, rngs=nnx.Rngs(params=0), **options)
    for layer in stack.layers:  # a state to start from that is not 0
        layer["initial"][...] = jax.random.normal(jax.random.key(1), layer["initial"].shape)
    return stack


@nnx.jit
def run(stack, x, reset, dropout_key=None):
    return stack.unroll(x, stack.init_carry(len(x)), reset, dropout_key)


def stack_inputs(rows=2, steps=6):
    rng = np.random.default_rng(0)
    return rng.normal(size=(rows, steps, H)).astype(np.float32), rng.random((rows, steps)) < 0.3


@pytest.mark.slow
@pytest.mark.parametrize("residual", [False, True])
def test_stack_unroll_is_repeated_step_and_layer_above_layer(residual):
    stack = make_stack(residual=residual)
    x, reset = stack_inputs()
    first = carry = stack.init_carry(len(x))
    y, last = run(stack, x, reset)
    steps = []
    for t in range(x.shape[1]):
        out, carry = stack.step(x[:, t], carry, reset[:, t])
        steps.append(out)
    np.testing.assert_allclose(y, np.stack(steps, axis=1), atol=ROUNDING)
    assert_close(last, carry, ROUNDING)
    below = x
    for depth, (layer, state) in enumerate(zip(stack.layers, first, strict=True)):
        above, _ = stack.cell.unroll({name: p[...] for name, p in layer.items()}, below, state, reset)
        below = below + above if residual and depth else above
    np.testing.assert_allclose(y, below, atol=ROUNDING)


def test_stack_layers_start_differently(stack):
    assert len({np.asarray(layer["recurrent"]).tobytes() for layer in stack.layers}) == 2


def test_stack_computes_in_its_dtype_and_keeps_state_in_float32():
    stack = make_stack(dtype=jnp.bfloat16)
    x, reset = stack_inputs()
    y, carry = run(stack, x, reset)
    assert y.dtype == jnp.bfloat16
    assert {leaf.dtype for leaf in jax.tree.leaves((carry, nnx.state(stack)))} == {jnp.dtype(jnp.float32)}
    np.testing.assert_allclose(y.astype(jnp.float32), run(make_stack(), x, reset)[0], atol=0.03)


def test_dropout_is_off_without_a_key():
    x, reset = stack_inputs()
    plain, dropped = make_stack(), make_stack(dropout=0.5)
    expected, _ = run(plain, x, reset)
    np.testing.assert_array_equal(run(dropped, x, reset)[0], expected)
    np.testing.assert_array_equal(run(plain, x, reset, jax.random.key(0))[0], expected)
    assert np.abs(run(dropped, x, reset, jax.random.key(0))[0] - expected).max() > 0.01


def test_dropout_leaves_out_the_same_units_at_every_step():
    """With all-ones inputs and recurrence, a linear cell shows the masks: each is constant in time, and unbiased."""
    rows, rate = 400, 0.25
    stack = Stack(RNN(1, "relu"), 1, H, dropout=rate, rngs=nnx.Rngs(0))
    layer = stack.layers[0]
    layer["input"][...], layer["recurrent"][...] = jnp.ones((H, 1)), jnp.ones((1, 1))
    y, _ = run(stack, np.ones((rows, T, H), np.float32), np.zeros((rows, T), bool), jax.random.key(0))
    y = np.asarray(y)[..., 0]
    inputs = y[:, 0]  # the sum of the kept inputs, each worth 1 / (1 - rate)
    kept = inputs * (1 - rate)
    np.testing.assert_allclose(kept, np.round(kept), atol=1e-5)
    np.testing.assert_allclose(inputs.mean(), H, atol=0.3)
    hidden = (y[:, 1] - inputs) / np.where(inputs, inputs, 1)  # 0 or 1 / (1 - rate)
    np.testing.assert_allclose(hidden[inputs > 0].mean(), 1, atol=0.15)
    for t in range(1, T):
        np.testing.assert_allclose(y[:, t], inputs + hidden * y[:, t - 1], rtol=1e-5)


@pytest.mark.parametrize("cell", CELLS)
def test_weight_drop_is_the_stack_without_some_weights(monkeypatch, cell):
    """A gradient of 0 shows what is left out: with those weights at 0, and the others larger, a plain stack is the same."""
    share, width, key = 0.4, 24, jax.random.key(3)
    rng = np.random.default_rng(0)
    x, reset = rng.normal(size=(2, 6, width)).astype(np.float32), rng.random((2, 6)) < 0.3

    def make(weight_drop):
        return Stack(cell(width), 2, width, weight_drop=weight_drop, rngs=nnx.Rngs(0))

    def total(stack, key):
        return jnp.square(run.__wrapped__(stack, x, reset, key)[0]).sum()

    plain, dropping = make(0.0), make(share)
    expected = run(plain, x, reset)[0]
    np.testing.assert_array_equal(run(dropping, x, reset)[0], expected)
    np.testing.assert_array_equal(run(plain, x, reset, key)[0], expected)
    gradients = nnx.jit(nnx.grad(total))(dropping, key)
    kept = [np.asarray(layer["recurrent"][...]) != 0 for layer in gradients["layers"].values()]
    assert np.mean(kept) == pytest.approx(1 - share, abs=0.03)
    assert (kept[0] != kept[1]).any()
    for layer, mask in zip(plain.layers, kept, strict=True):
        layer["recurrent"][...] = layer["recurrent"][...] * (mask / np.float32(1 - share))
    dropped = run(dropping, x, reset, key)[0]
    np.testing.assert_array_equal(run(plain, x, reset)[0], dropped)
    with monkeypatch.context() as patch:
        patch.setattr(gated, "runs_natively", lambda cell, dtype: False)
        np.testing.assert_allclose(nnx.jit(run.__wrapped__)(dropping, x, reset, key)[0], dropped, atol=10 * ROUNDING)


def test_weight_drop_needs_weights_between_hidden_states():
    for cell in (MinGRU, MinLSTM, RGLRU):
        with pytest.raises(UserError, match=f"{cell.__name__} has no weights between hidden states"):
            Stack(cell(H), 1, H, weight_drop=0.1, rngs=nnx.Rngs(0))
        Stack(cell(H), 1, H, rngs=nnx.Rngs(0))


@pytest.mark.parametrize(
    ("words", "make"),
    [
        ("hidden_size", lambda: LSTM(0)),
        ("activation", lambda: RNN(4, "softsign")),
        ("num_layers", lambda: Stack(LSTM(4), 0, 4, rngs=nnx.Rngs(0))),
        ("dropout", lambda: make_stack(dropout=1.0)),
        ("weight_drop", lambda: make_stack(weight_drop=1.0)),
    ],
)
def test_mistakes_are_named(words, make):
    with pytest.raises(UserError, match=words):
        make()
