"""Linear recurrences: `unroll` is repeated `step`, and both are the published formulas, values and gradients.

References: the papers' formulas in float64, one step after another, under plain automatic differentiation.
"""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import nightly
from flax import nnx

from jaxgen.data.pipeline import TrainingBatches
from jaxgen.models.wave_rnn import WaveRNN
from jaxgen.nn.recurrent import RGLRU, MinGRU, MinLSTM, Stack
from jaxgen.nn.recurrent.linear_scan import linear_scan, parallel, sequential
from jaxgen.objectives.likelihood import Likelihood
from jaxgen.objectives.optimizer import AdamW
from tests.rounding import POINTWISE, rounding

pytestmark = pytest.mark.slow

T, D, H = 4, 3, 4
RESETS = np.array(list(itertools.product([False, True], repeat=T)))  # every pattern: one row each
B = len(RESETS)
ROUNDING = rounding(2 * T * (D + H + POINTWISE) + B * T)  # through all steps and back; gradients are sums over all rows
CELLS = [MinGRU, MinLSTM, RGLRU]
SPLITS = [(4,), (1, 2, 1)]
FAST = {"xla_backend_optimization_level": 0}  # compiles in half the time


def draw(cell, seed=0, shape=(B, T)):
    """Random values for everything: params, x [B, T, D], the first carry, a mask of h, and weights of a scalar loss."""
    rng = np.random.default_rng(seed)
    rows, steps = shape
    shapes = jax.eval_shape(functools.partial(cell.init, in_features=D), jax.random.key(0))
    params = {name: rng.normal(size=s.shape, scale=0.7) for name, s in shapes.items()}
    x, weights = rng.normal(size=(rows, steps, D)), rng.normal(size=(rows, steps, H))
    carry, last_weights = rng.normal(size=(2, rows, H))
    mask = 2.0 * rng.integers(2, size=(rows, H))
    return jax.tree.map(np.float32, (params, x, carry, mask, (weights, last_weights)))


def by_unroll(split, cell, params, x, carry, mask, resets):
    carry, ys = (carry,), []
    for a, b in itertools.pairwise(np.cumsum((0, *split))):
        y, carry = cell.unroll(params, x[:, a:b], carry, resets[:, a:b], mask)
        ys.append(y)
    return jnp.concatenate(ys, axis=1), carry[0]


def by_step(cell, params, x, carry, mask, resets):
    def body(carry, inputs):
        y, carry = cell.step(params, inputs[0], carry, inputs[1], mask)
        return carry, y

    carry, ys = jax.lax.scan(body, (carry,), (jnp.swapaxes(x, 0, 1), resets.T))
    return jnp.swapaxes(ys, 0, 1), carry[0]


def by_formula(cell, params, x, h, mask, resets):
    """The papers' formulas, on whatever dtype comes in."""

    def body(h, inputs):
        x, reset = inputs
        h = jnp.where(reset[:, None], params["initial"], h)
        h, y = formula(cell, params, x, h, mask)
        return h, y

    h, ys = jax.lax.scan(body, h, (jnp.swapaxes(x, 0, 1), resets.T))
    return jnp.swapaxes(ys, 0, 1), h


def sigmoid(x):
    return 1 / (1 + jnp.exp(-x))


def formula(cell, params, x, h, mask):
    """(h', y) of one step; each projection by itself."""
    weights, biases = np.split(np.arange(params["bias"].size), cell.num_projections), params["bias"]
    z = [x @ params["input"][:, columns] + biases[columns] for columns in weights]
    if isinstance(cell, MinGRU):
        h = (1 - sigmoid(z[0])) * h + sigmoid(z[0]) * z[1]
        return h, h * mask
    if isinstance(cell, MinLSTM):
        f, i = sigmoid(z[0]), sigmoid(z[1])
        h = f / (f + i) * h + i / (f + i) * z[2]
        return h, h * mask
    v, r, i, branch = z
    a = sigmoid(params["decay"]) ** (8 * sigmoid(r))
    h = a * h + jnp.sqrt(1 - a**2) * (sigmoid(i) * v)
    gelu = branch / 2 * (1 + jnp.tanh(np.sqrt(2 / np.pi) * (branch + 0.044715 * branch**3)))
    return h, (gelu * h * mask) @ params["output"] + params["output_bias"]


@functools.cache
def value_and_gradients(run, cell):
    """A jitted function of what `draw` gives: gradients of a loss in params, x and carry, and the outputs."""

    def scalar(params, x, carry, mask, weights, resets):
        ys, last = run(cell, params, x, carry, mask, resets)
        return (ys * weights[0]).sum() + (last * weights[1]).sum(), (ys, last)

    gradients = jax.grad(scalar, argnums=(0, 1, 2), has_aux=True)
    return jax.jit(gradients, compiler_options=FAST)


UNROLLED = {split: functools.partial(by_unroll, split) for split in SPLITS}


def float64(tree):
    return jax.tree.map(lambda a: np.asarray(a, np.float64), tree)


def in_float64(cell, *drawn, resets):
    with jax.enable_x64(True):
        return jax.device_get(value_and_gradients(by_formula, cell)(*float64(drawn), resets))


def assert_close(got, expected, tolerance):
    """Tolerance relative to the largest magnitude of each array."""
    for (path, a), b in zip(jax.tree_util.tree_leaves_with_path(got), jax.tree.leaves(expected), strict=True):
        a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
        np.testing.assert_allclose(a, b, atol=tolerance * max(1e-3, np.abs(b).max()), err_msg=str(path))


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(jnp.float32, ROUNDING), nightly(jnp.bfloat16, 2e-2)], ids=["f32", "bf16"]
)
@pytest.mark.parametrize("cell", CELLS)
def test_unroll_is_repeated_step(cell, dtype, tolerance):
    """Every reset pattern, in several splits of time; values and gradients, with a mask of h."""
    params, x, *others = draw(cell(H))
    arguments = params, jnp.asarray(x, dtype), *others, RESETS
    expected = value_and_gradients(by_step, cell(H))(*arguments)
    for split in SPLITS:
        got = value_and_gradients(UNROLLED[split], cell(H))(*arguments)
        assert jax.tree.map(lambda a: a.dtype, got) == jax.tree.map(lambda a: a.dtype, expected)
        assert (got[1][0].dtype, got[1][1].dtype) == (dtype, jnp.float32)
        assert_close(got, expected, tolerance)


@pytest.mark.parametrize("cell", CELLS)
def test_unroll_is_the_formula_in_float64(cell):
    drawn = draw(cell(H), seed=1)
    got = value_and_gradients(UNROLLED[4,], cell(H))(*drawn, RESETS)
    expected = in_float64(cell(H), *drawn, resets=RESETS)
    assert expected[1][0].dtype == np.float64
    assert_close(got, expected, ROUNDING)


@pytest.mark.parametrize("cell", CELLS)
def test_plain_float32_is_enough_for_long_sequences(cell):
    """4096 steps of units that remember up to 1000 steps: values and gradients, without logarithms."""
    params = cell(H).init(jax.random.key(0), D)  # those of RGLRU do from the start
    if cell is not RGLRU:
        params["bias"] = params["bias"].at[:H].set(np.linspace(0, 7, H) * (-1 if cell is MinGRU else 1))
        params["bias"] = params["bias"].at[H : 2 * H].set(-np.linspace(0, 7, H) if cell is MinLSTM else 0)
    drawn = params, *draw(cell(H), shape=(2, 4096))[1:]
    resets = np.zeros((2, 4096), bool)
    got = value_and_gradients(UNROLLED[4096,], cell(H))(*drawn, resets)
    assert_close(got, in_float64(cell(H), *drawn, resets=resets), 3e-5)


UNROLLED[4096,] = functools.partial(by_unroll, (4096,))


@pytest.mark.parametrize("size", [200.0, -200.0])
@pytest.mark.parametrize("cell", CELLS)
def test_saturated_gates_give_finite_values_and_gradients(cell, size):
    """Where every gate is closed or open, f / (f + i) is 0 / 0 and the slope of sqrt(1 - a^2) infinite."""
    cell = cell(H)
    params, x, *others = draw(cell)
    params["bias"] = np.full_like(params["bias"], size)
    got = value_and_gradients(UNROLLED[4,], cell)(params, x, *others, RESETS)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(got))


@pytest.mark.parametrize("cell", [MinGRU, MinLSTM])
def test_the_state_is_a_weighted_mean_of_what_came_in(cell):
    """So it cannot leave the range of its candidates, for any gates and any length."""
    cell = cell(H)
    params, x, *_ = draw(cell, shape=(3, 500))
    y, _ = jax.jit(cell.unroll)(params, x, (jnp.zeros((3, H)),), np.zeros((3, 500), bool))
    candidates = x @ params["input"][:, -H:] + params["bias"][-H:]
    assert (y <= np.maximum(candidates.max(axis=1, keepdims=True), 0) + 1e-5).all()
    assert (y >= np.minimum(candidates.min(axis=1, keepdims=True), 0) - 1e-5).all()


def test_fresh_rglru_units_forget_as_slowly_as_published():
    """sigma(L) ** 8 is uniform from 0.9 to 0.999; without input r is 1/2, and a^2 is that."""
    cell = RGLRU(256)
    params = cell.init(jax.random.key(0), D)
    a, _ = cell.coefficients(params, params["bias"])
    decays = np.square(a)
    assert 0.9 - 1e-6 <= decays.min() < 0.905
    assert 0.995 < decays.max() <= 0.999 + 1e-6
    assert decays.mean() == pytest.approx(0.9495, abs=0.006)


@pytest.mark.parametrize("cell", CELLS)
def test_fresh_cells_answer_long_constant_sounds_mildly(cell):
    """Silence is a constant input: the slow units of RGLRU raise it up to sqrt((1 + a) / (1 - a)) = 60 times."""
    cell = cell(64)
    params = cell.init(jax.random.key(0), 64)
    x = jnp.broadcast_to(jax.random.normal(jax.random.key(1), (4, 1, 64)), (4, 2000, 64))
    y, _ = jax.jit(cell.unroll)(params, x, (jnp.zeros((4, 64)),), np.zeros((4, 2000), bool))
    assert 0.1 < np.sqrt(np.square(y[:, -1]).mean()) < 2


@pytest.mark.parametrize("scan", [linear_scan, sequential, parallel])
@pytest.mark.parametrize("steps", [1, 13])
def test_a_scan_is_the_recurrence_in_float64(scan, steps):
    """Values and gradients, with decays of 0 and 1 among them."""
    rng = np.random.default_rng(steps)
    a = np.float32(rng.choice([0, 0.3, 0.9, 1], size=(steps, 3)))
    b, weights = np.float32(rng.normal(size=(2, steps, 3)))
    first = np.float32(rng.normal(size=3))

    def loop(a, b, h):
        hs = []
        for step in range(steps):
            h = a[step] * h + b[step]
            hs.append(h)
        return jnp.stack(hs)

    def gradients(run, *arguments):
        def loss(a, b, first):
            h = run(a, b, first)
            return (h * weights).sum(), h

        return jax.jit(jax.grad(loss, argnums=(0, 1, 2), has_aux=True), compiler_options=FAST)(*arguments)

    with jax.enable_x64(True):
        expected = jax.device_get(gradients(loop, *float64((a, b, first))))
    assert_close(gradients(scan, a, b, first), expected, rounding(4 * steps))


@pytest.mark.parametrize("scan", [sequential, parallel])
def test_a_scan_runs_backwards(scan):
    rng = np.random.default_rng(0)
    a, b = np.float32(rng.uniform(size=(2, 9, 3)))
    forwards = scan(a[::-1], b[::-1], b[0])[::-1]
    np.testing.assert_allclose(scan(a, b, b[0], reverse=True), forwards, rtol=1e-6)


@pytest.mark.parametrize(("platform", "loops"), [("cpu", True), ("cuda", False), ("tpu", False)])
def test_the_scan_suits_the_platform(platform, loops):
    """One loop over time on CPU; no loop at all on accelerators, forward and backward."""
    shapes = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in [(16, 4), (16, 4), (4,)]]
    gradient = jax.jit(jax.grad(lambda *args: linear_scan(*args).sum(), argnums=(0, 1, 2)))
    lowered = jax.export.export(gradient, platforms=[platform])(*shapes).mlir_module()
    assert ("stablehlo.while" in lowered) == loops


def test_the_gradient_keeps_only_decays_and_states():
    shapes = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in [(512, 64), (512, 64), (64,)]]
    _, pull = jax.eval_shape(lambda *args: jax.vjp(linear_scan, *args), *shapes)
    assert sum(leaf.size for leaf in jax.tree.leaves(pull)) <= 2 * 512 * 64 + 64


@pytest.mark.parametrize("cell", CELLS)
def test_a_stack_of_them_unrolls_as_it_steps(cell):
    rng = np.random.default_rng(0)
    stack = Stack(cell(H), 2, D, residual=True, dropout=0.5, rngs=nnx.Rngs(0))
    x, reset = np.float32(rng.normal(size=(2, 6, D))), rng.random((2, 6)) < 0.3
    carry = stack.init_carry(2)
    y, last = stack.unroll(x, carry, reset)
    steps = []
    for t in range(6):
        out, carry = stack.step(x[:, t], carry, reset[:, t])
        steps.append(out)
    np.testing.assert_allclose(y, np.stack(steps, axis=1), atol=2 * ROUNDING)  # two layers
    assert_close(last, carry, 2 * ROUNDING)
    dropped, kept = stack.unroll(x, stack.init_carry(2), reset, jax.random.key(0))
    assert np.abs(dropped - y).max() > 1e-3
    assert jax.tree.map(jnp.shape, kept) == jax.tree.map(jnp.shape, last)


@pytest.mark.nightly
@pytest.mark.parametrize("cell", CELLS)
def test_a_wave_model_learns_with_them(cell, wave_store):
    model = WaveRNN(cell=cell(hidden_size=16), embedding_size=8)
    spec = wave_store.spec(())
    task = Likelihood(optimizer=AdamW(learning_rate=1e-2, warmup_steps=2)).build(model, spec, steps=100, batch_size=4)
    batch = next(iter(TrainingBatches(wave_store, spec, (), lookback=16, batch_size=4, seq_len=64, seed=0)))
    step, state, losses = jax.jit(task.train_step, compiler_options=FAST), task.init(jax.random.key(0)), []
    for _ in range(30):
        state, metrics = step(state, batch)
        losses.append(float(metrics["loss"]))
    assert losses[-1] < 0.8 * losses[0]
    assert np.all(np.diff(losses[5:]) < 0)
