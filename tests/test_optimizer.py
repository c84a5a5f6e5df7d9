"""What an optimiser changes beside the gradient: weight decay, on matrices alone. How the learning rate goes."""

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from jaxgen.config import load
from jaxgen.core.errors import UserError
from jaxgen.data.spec import DataSpec
from jaxgen.models.mel_rnn import MelRNN
from jaxgen.nn.recurrent import GRU, LSTM, RGLRU, RNN, MinGRU, MinLSTM
from jaxgen.objectives.learning_rate import Constant, Cosine, WarmupStableDecay
from jaxgen.objectives.likelihood import Likelihood
from jaxgen.objectives.optimizer import AdamW, Optimizer

CONFIGS = sorted((Path(__file__).parent.parent / "configs").glob("*.py"))
MATRICES = {"kernel", "embedding", "over_time", "input", "recurrent", "output"}
CELLS = [RNN(4, layer_norm=True), LSTM(4, layer_norm=True), GRU(4), MinGRU(4), MinLSTM(4), RGLRU(4)]


def decayed(params):
    """The names of parameters that an update without a gradient makes smaller, and those it leaves alone."""
    params = jax.tree.map(lambda leaf: jnp.ones([1] * leaf.ndim), params)
    optimizer = AdamW(weight_decay=0.1, warmup_steps=0).make(10)
    updates, _ = optimizer.update(jax.tree.map(jnp.zeros_like, params), optimizer.init(params), params)
    names: tuple[set[str], set[str]] = set(), set()
    for path, update in jax.tree_util.tree_leaves_with_path(updates):
        names[0 if update.sum() else 1].add(path[-1].key)
    return names


@pytest.mark.parametrize("file", CONFIGS, ids=lambda path: path.stem)
def test_what_multiplies_is_decayed_and_nothing_else(file):
    config = load(file)
    size = int(np.prod(config.features.step_shape)) if config.features.step_dtype.kind == "f" else 0
    labels = tuple((name, ("a", "b")) for name in getattr(config.model, "labels", ()))
    spec = DataSpec(config.features, labels, (0.0,) * size, (1.0,) * size, streams=tuple(config.streams.items()))
    module = nnx.eval_shape(lambda: config.model.make(spec, dtype=jnp.float32, rngs=nnx.Rngs(0)))
    smaller, same = decayed(nnx.to_pure_dict(nnx.state(module, nnx.Param)))
    assert smaller
    assert smaller <= MATRICES
    assert not same & MATRICES


@pytest.mark.parametrize("cell", CELLS, ids=lambda cell: type(cell).__name__)
def test_no_cell_has_the_carry_that_it_starts_from_decayed(cell):
    smaller, same = decayed(jax.eval_shape(lambda key: cell.init(key, 3), jax.random.key(0)))
    assert "initial" in same
    assert smaller == MATRICES & (smaller | same)


def test_the_learning_rate_rises_stays_and_falls():
    steps, warmup = 100, 10
    rates = {}
    for schedule in (Cosine(0.1), Constant(), WarmupStableDecay(decay_share=0.3, final_lr_ratio=0.1)):
        by_step = AdamW(1.0, warmup, schedule).learning_rate_by_step(steps)
        rates[type(schedule).__name__] = np.array([by_step(step) for step in range(steps + 1)])
    for rate in rates.values():
        np.testing.assert_allclose(rate[: warmup + 1], np.linspace(1 / 11, 1, warmup + 1), rtol=1e-5)
    expected = optax.warmup_cosine_decay_schedule(1 / 11, 1.0, warmup, steps, 0.1)
    np.testing.assert_allclose(rates["Cosine"], [expected(i) for i in range(steps + 1)], rtol=1e-6)
    np.testing.assert_array_equal(rates["Constant"][warmup:], 1)
    np.testing.assert_allclose(rates["WarmupStableDecay"][warmup:71], 1, rtol=1e-6)
    np.testing.assert_allclose(rates["WarmupStableDecay"][70:], np.linspace(1, 0.1, 31), rtol=1e-5)


@dataclasses.dataclass(frozen=True)
class Lion(Optimizer):
    """Another optimiser of optax, as a config would define it."""

    def transform(self, learning_rate):
        return optax.lion(learning_rate)


@dataclasses.dataclass(frozen=True)
class Unscheduled(Optimizer):
    def transform(self, learning_rate):
        return optax.sgd(0.1)


def test_any_optimiser_of_optax_trains(mel_store):
    model = MelRNN(cell=GRU(4), num_layers=1)
    spec = mel_store.spec(())
    config = Likelihood(optimizer=Lion(learning_rate=1e-2, warmup_steps=0))
    task = config.build(model, spec, steps=20, batch_size=2)
    batches = config.batches(model, mel_store, spec, batch_size=2, seq_len=8, seed=0)
    state, losses, step = task.init(jax.random.key(0)), [], jax.jit(task.train_step)
    for _, batch in zip(range(20), batches, strict=False):
        state, metrics = step(state, batch)
        losses.append(float(metrics["loss"]))
        rate = float(metrics["learning_rate"])
    assert np.mean(losses[-5:]) < np.mean(losses[:5])
    assert rate == pytest.approx(float(config.optimizer.learning_rate_by_step(20)(19)), rel=1e-5)
    task = Likelihood(optimizer=Unscheduled()).build(model, spec, steps=20, batch_size=2)
    with pytest.raises(UserError, match="does not use its learning rate"):
        task.train_step(task.init(jax.random.key(0)), next(iter(batches)))
