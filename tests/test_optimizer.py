"""What an optimiser changes beside the gradient: weight decay, on matrices alone."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxgen.config import load
from jaxgen.data.spec import DataSpec
from jaxgen.nn.recurrent import GRU, LSTM, RGLRU, RNN, MinGRU, MinLSTM
from jaxgen.objectives.optimizer import AdamW

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
    spec = DataSpec(config.features, labels, (0.0,) * size, (1.0,) * size)
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
