"""The train step in flax nnx: `nnx.RNN` over `OptimizedLSTMCell`, `GRUCell` or `SimpleCell`, split once, under `jax.jit`.

The carry is handed in: the one that `nnx.RNN` would make draws random numbers, which a jitted step cannot.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from benchmarks.step_peers.given import Given, Layer, load, reordered
from benchmarks.step_peers.optax_training import training


class Network(nnx.Module):
    """From the past to the outputs."""

    def __init__(self, given: Given) -> None:
        rngs = nnx.Rngs(0)
        kind: Any = {"LSTM": nnx.OptimizedLSTMCell, "GRU": nnx.GRUCell, "RNN": nnx.SimpleCell}[given.cell]
        if given.embedding is not None:
            self.embedding = nnx.Embed(*given.embedding.shape, rngs=rngs)
            self.embedding.embedding[...] = jnp.asarray(given.embedding)
        cells = [kind(layer.input.shape[0], given.hidden_size, rngs=rngs) for layer in given.layers]
        for cell, layer in zip(cells, given.layers, strict=True):
            _start_from(cell, given.cell, layer)
        self.recurrent = nnx.List([nnx.RNN(cell, rngs=False) for cell in cells])
        self.initial = nnx.List([nnx.Param(jnp.asarray(layer.initial)) for layer in given.layers])
        head: Any = nnx.Linear(*given.head_kernel.shape, rngs=rngs)
        head.kernel[...], head.bias[...] = jnp.asarray(given.head_kernel), jnp.asarray(given.head_bias)
        self.head = head

    def __call__(self, past: jax.Array, values: jax.Array | None) -> jax.Array:
        """Outputs [B, T, P]. values: the codes as numbers [B, T, 1]."""
        x = past if values is None else jnp.concatenate([self.embedding(past), values], axis=-1)
        for layer, initial in zip(self.recurrent, self.initial, strict=True):
            h, *c = [jnp.broadcast_to(state, (x.shape[0], len(state))) for state in initial[...]]
            x = layer(x, initial_carry=(*c, h) if c else h)
        return self.head(x)


def prepare(spec: dict[str, Any]) -> tuple[dict[str, Any], Callable[[int], dict[str, Any]]]:
    """spec: see `given.load`. Every cell of nnx has one bias; the GRU lacks the recurrent one, which must be 0 here."""
    given = load(spec)
    graph, params, *rest = nnx.split(Network(given), nnx.Param, ...)
    missing = sum(layer.bias.size for layer in given.layers)
    return training(given, params, lambda params, *inputs: nnx.merge(graph, params, *rest)(*inputs), missing)


def _start_from(module: Any, cell: str, layer: Layer) -> None:
    """Takes over the weights."""
    order = (0, 1, 3, 2) if cell == "LSTM" else tuple(range(layer.bias.size // layer.recurrent.shape[0]))
    module.dense_i.kernel[...] = jnp.asarray(reordered(layer.input, order))
    module.dense_h.kernel[...] = jnp.asarray(reordered(layer.recurrent, order))
    biased = module.dense_h if cell == "LSTM" else module.dense_i
    biased.bias[...] = jnp.asarray(reordered(np.add(layer.bias, layer.recurrent_bias), order))
