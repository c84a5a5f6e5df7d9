"""Maximum likelihood: what counts into the loss, how an update is formed, and that the carry flows."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.core.errors import UserError
from jaxgen.data.spec import DataSpec
from jaxgen.features import LogMel, MuLaw
from jaxgen.models.conditioning import Conditioning
from jaxgen.models.mel_rnn import MelRNN
from jaxgen.models.wave_rnn import WaveRNN
from jaxgen.nn.distributions import Normal
from jaxgen.nn.recurrent import GRU, LSTM
from jaxgen.objectives.likelihood import Likelihood
from jaxgen.objectives.optimizer import AdamW
from tests.rounding import POINTWISE, rounding

pytestmark = pytest.mark.slow

B, T, N_MELS = 4, 6, 3
CARRY = rounding(T * (N_MELS + 3 + 4 + POINTWISE))  # through all steps, of inputs, a label and 4 units
SCORE = CARRY + rounding(B * T)  # a mean over all rows and steps
VOCABULARIES = (("digit", ("one", "two")),)
MEL = DataSpec(
    features=LogMel(sample_rate=8000, n_fft=128, hop_length=32, n_mels=N_MELS),
    vocabularies=VOCABULARIES,
    mean=(-4.0, 0.0, 3.0),
    std=(0.5, 1.0, 2.0),
)
MU = DataSpec(features=MuLaw(sample_rate=8000, q_levels=16), vocabularies=VOCABULARIES)
NOISELESS = {"num_layers": 1, "labels": ("digit",), "label_size": 3, "label_dropout": 0.0}
MEL_RNN = MelRNN(cell=LSTM(4), distribution=Normal(), **NOISELESS)
WAVE_RNN = WaveRNN(cell=GRU(4), embedding_size=3, lookback=1, **NOISELESS)
both_models = pytest.mark.parametrize(("model", "data"), [(MEL_RNN, MEL), (WAVE_RNN, MU)], ids=["MelRNN", "WaveRNN"])


@functools.cache
def build(model, data, steps=50, **options):
    """The objective, its first state, and its step functions jitted: compiled once for all tests."""
    task = Likelihood(**options).build(model, data, steps=steps, batch_size=B)
    compiled = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})  # in half the time
    state = compiled(task.init)(jax.random.key(0))
    return task, state, compiled(task.train_step), compiled(task.eval_step)


def draw_batch(data, num_steps=T, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.integers(16, size=(B, 1 + num_steps)) if data is MU else rng.normal(size=(B, 1 + num_steps, N_MELS))
    return {
        "x": x.astype(data.features.step_dtype),
        "reset": rng.random((B, num_steps)) < 0.2,
        "mask": rng.random((B, num_steps)) < 0.7,
        "end": rng.random((B, num_steps)) < 0.2,
        "labels": {"digit": rng.integers(3, size=(B, num_steps)).astype(np.int32)},
    }


def assert_trees_close(got, expected, **tolerance):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **tolerance), got, expected)


@both_models
def test_scores_and_loss_are_the_models_own_over_real_steps(model, data):
    (task, state, train_step, eval_step), batch = build(model, data), draw_batch(data)
    module = task.module(state.params)
    outputs, last = jax.jit(module.unroll)(batch["x"], Conditioning.of(batch), state.carry, batch["reset"])
    nats = -np.asarray(module.log_prob(outputs, batch["x"][:, 1:], batch["end"]))
    carry, scores, predictions = eval_step(state.params, state.carry, batch)
    np.testing.assert_allclose(scores["loss"], np.where(batch["mask"], nats, 0), rtol=SCORE)
    assert all((score[~batch["mask"]] == 0).all() for score in scores.values())
    np.testing.assert_allclose(predictions, module.predict(outputs), rtol=SCORE, atol=SCORE)
    assert_trees_close(carry, last, atol=CARRY)
    after, metrics = train_step(state, batch)
    np.testing.assert_allclose(metrics["loss"], nats[batch["mask"]].mean(), rtol=SCORE)
    for name, score in scores.items():
        np.testing.assert_allclose(metrics[name], score.sum() / batch["mask"].sum(), rtol=SCORE)
    assert_trees_close(after.carry, last, atol=CARRY)
    assert after.step == 1


@both_models
def test_masked_steps_change_nothing(model, data):
    """Targets, labels and ends behind a row's last real step leave the update as it is; so does a row without any."""
    (_, state, train_step, _), batch, other = build(model, data), draw_batch(data), draw_batch(data, seed=1)
    real = np.array([T, T - 2, 1, 0])[:, None]
    batch["mask"] = np.arange(T) < real
    ahead = np.arange(-1, T) < real  # of x, which begins one step earlier

    def fill(kept, ours, theirs):
        return np.where(kept.reshape(kept.shape + (1,) * (ours.ndim - 2)), ours, theirs)

    ahead[-1] = False
    filled = batch | {
        "x": fill(ahead, batch["x"], other["x"]),
        "end": fill(batch["mask"], batch["end"], other["end"]),
        "labels": {"digit": fill(batch["mask"], batch["labels"]["digit"], other["labels"]["digit"])},
    }
    assert np.any(filled["x"] != batch["x"])
    expected, expected_metrics = train_step(state, batch)
    got, metrics = train_step(state, filled)
    assert_trees_close(got.params, expected.params, rtol=1e-6, atol=1e-7)
    assert_trees_close(metrics, expected_metrics, rtol=1e-6)
    differences = jax.tree.map(lambda a, b: np.abs(a - b).max(), got.carry, expected.carry)
    assert max(jax.tree.leaves(differences)) > 0  # the filling was seen, though it did not count


def test_a_batch_without_real_steps_is_harmless():
    (_, state, train_step, _), batch = build(MEL_RNN, MEL), draw_batch(MEL)
    after, metrics = train_step(state, batch | {"mask": np.zeros((B, T), bool)})
    assert metrics["loss"] == metrics["gradient_norm"] == 0
    assert_trees_close(after.params, state.params, atol=0)


@pytest.mark.parametrize(("model", "data", "accumulation"), [(MEL_RNN, MEL, 2), (WAVE_RNN, MU, 4)])
def test_accumulation_gives_the_update_of_the_whole_batch(model, data, accumulation):
    """Even where the parts have different numbers of real steps."""
    batch = draw_batch(data)
    batch["mask"][0] = False
    (_, state, whole, _), (_, _, in_parts, _) = build(model, data), build(model, data, accumulation=accumulation)
    (expected, expected_metrics), (got, metrics) = whole(state, batch), in_parts(state, batch)
    assert_trees_close(metrics, expected_metrics, rtol=SCORE)
    assert_trees_close(got.carry, expected.carry, atol=CARRY)
    assert_trees_close(got.opt_state, expected.opt_state, rtol=1e-4, atol=1e-7)  # Adam's moments are the gradient's
    assert_trees_close(got.params, expected.params, atol=1e-5)


@both_models
@pytest.mark.parametrize("segment", [1, 3, T])
def test_segments_give_the_update_of_the_whole_chunk(model, data, segment):
    batch = draw_batch(data)
    _, state, train_step, _ = build(model, data)
    expected, metrics = train_step(state, batch)
    _, _, in_segments, _ = build(model, data, segment=segment)
    got, got_metrics = in_segments(state, batch)
    assert_trees_close((got.params, got.carry), (expected.params, expected.carry), atol=1e-5)
    assert_trees_close(got_metrics, metrics, rtol=1e-4)


def test_segments_that_do_not_fill_a_chunk_are_refused():
    _, state, train_step, _ = build(WAVE_RNN, MU, segment=4)
    with pytest.raises(UserError, match=r"6 steps.*segments of 4.*--objective\.segment"):
        train_step(state, draw_batch(MU))


@both_models
def test_the_carry_flows_from_chunk_to_chunk(model, data):
    (_, state, _, eval_step), batch = build(model, data), draw_batch(data, 2 * T)
    last, scores, predictions = eval_step(state.params, state.carry, batch)
    carry, chunks = state.carry, []
    for start in (0, T):
        chunk = jax.tree.map(lambda a, start=start: a[:, start : start + T], batch)
        chunk["x"] = batch["x"][:, start : start + 1 + T]
        carry, *results = eval_step(state.params, carry, chunk)
        chunks.append(results)
    joined = jax.tree.map(lambda a, b: np.concatenate([a, b], axis=1), *chunks)
    assert_trees_close(joined, [scores, predictions], rtol=SCORE, atol=SCORE)
    assert_trees_close(carry, last, atol=CARRY)


def test_training_continues_from_its_own_carry():
    (_, state, train_step, eval_step), batch = build(MEL_RNN, MEL), draw_batch(MEL)
    batch["reset"] = np.zeros((B, T), bool)
    one, _ = train_step(state, batch)
    two, _ = train_step(one, batch)
    assert_trees_close(one.carry, eval_step(state.params, state.carry, batch)[0], atol=CARRY)
    assert_trees_close(two.carry, eval_step(one.params, one.carry, batch)[0], atol=CARRY)


@both_models
def test_loss_falls_on_a_sequence_that_can_be_learned_by_heart(model, data):
    model, optimizer = dataclasses.replace(model, cell=GRU(16)), AdamW(learning_rate=3e-2, warmup_steps=5)
    _, state, train_step, eval_step = build(model, data, steps=150, optimizer=optimizer, ema_decay=0.9)
    batch = draw_batch(data)
    batch["reset"][:] = np.arange(T) == 0
    batch["labels"]["digit"][:] = 1
    batch["x"][1:], batch["mask"][:], batch["end"][:] = batch["x"][0], True, np.arange(T) == T - 1
    losses = []
    for _ in range(150):
        state, metrics = train_step(state, batch)
        losses.append(metrics["loss"])
    floor = 0.0
    if data is MEL:  # Normal() at its mean
        floor = N_MELS * 0.5 * np.log(2 * np.pi) + np.log(MEL.std).sum()
    assert losses[-1] - floor < 0.05 * (losses[0] - floor)
    _, scores, _ = eval_step(state.average, state.carry, batch)
    assert scores["loss"].mean() - floor < 0.1 * (losses[0] - floor)


def test_the_average_is_exponential_with_a_ramp():
    """a <- d a + (1 - d) p with d = min(decay, (1 + n) / (10 + n)) at update n."""
    (_, state, train_step, _), batch = build(WAVE_RNN, MU, ema_decay=0.15), draw_batch(MU)
    expected = jax.tree.map(lambda p: np.asarray(p, np.float64), state.params)
    assert_trees_close(state.average, expected, atol=0)
    for decay in (0.1, 0.15, 0.15):  # 1/10, then 2/11 and 3/12 exceed the decay asked for
        state, _ = train_step(state, batch)
        expected = jax.tree.map(lambda a, p, d=decay: d * a + (1 - d) * np.float64(p), expected, state.params)
        assert_trees_close(state.average, expected, rtol=1e-5, atol=1e-7)


@both_models
def test_bfloat16_computes_near_float32_and_keeps_its_state_in_float32(model, data):
    batch = draw_batch(data)
    (_, _, wide, _), (_, state, half, _) = build(model, data), build(model, data, dtype="bfloat16")
    after, metrics = half(state, batch)
    assert jax.tree.map(lambda a: (a.shape, a.dtype), after) == jax.tree.map(lambda a: (a.shape, a.dtype), state)
    floats = {leaf.dtype for leaf in jax.tree.leaves((after, metrics)) if jnp.issubdtype(leaf.dtype, jnp.floating)}
    assert floats == {jnp.dtype(jnp.float32)}
    _, expected = wide(state, batch)
    np.testing.assert_allclose(metrics["loss"], expected["loss"], rtol=2e-2)
    np.testing.assert_allclose(metrics["gradient_norm"], expected["gradient_norm"], rtol=5e-2)
    assert metrics["loss"] != expected["loss"]


def test_noise_depends_on_the_seed_and_the_step_alone():
    model = MelRNN(cell=LSTM(4), distribution=Normal(), dropout=0.5)
    (_, state, train_step, _), batch = build(model, MEL), draw_batch(MEL)
    losses = [float(train_step(s, batch)[1]["loss"]) for s in (state, state, state._replace(step=state.step + 1))]
    assert losses[0] == losses[1] != losses[2]
    reseeded = state._replace(key=jax.random.key_data(jax.random.key(5)))
    assert train_step(reseeded, batch)[1]["loss"] != losses[0]


@pytest.mark.parametrize("options", [{"accumulation": 0}, {"ema_decay": 1.0}, {"accumulation": 3}])
def test_mistakes_are_named(options):
    with pytest.raises(UserError, match=next(iter(options))):
        build(MEL_RNN, MEL, **options)
