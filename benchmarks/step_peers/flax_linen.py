"""The train step in flax linen: `nn.RNN` over `OptimizedLSTMCell`, `GRUCell` or `SimpleCell`, under one `jax.jit`."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen

from benchmarks.step_peers.given import Given, Layer, gates, load
from benchmarks.step_peers.optax_training import training


class Network(linen.Module):
    """From the past to the outputs."""

    cell: str
    hidden_size: int
    num_layers: int
    num_outputs: int
    embedding_size: int

    @linen.compact
    def __call__(self, past: jax.Array, values: jax.Array | None) -> jax.Array:
        """Outputs [B, T, P]. values: the codes as numbers [B, T, 1]."""
        x: Any = past
        if values is not None:
            x = jnp.concatenate([linen.Embed(256, self.embedding_size, name="embedding")(past), values], axis=-1)
        kind = {"LSTM": linen.OptimizedLSTMCell, "GRU": linen.GRUCell, "RNN": linen.SimpleCell}[self.cell]
        states = 2 if self.cell == "LSTM" else 1
        for i in range(self.num_layers):
            initial = self.param(f"initial{i}", linen.initializers.zeros, (states, self.hidden_size))
            h, *c = [jnp.broadcast_to(state, (x.shape[0], self.hidden_size)) for state in initial]
            x = linen.RNN(kind(self.hidden_size, name=f"cell{i}"))(x, initial_carry=(*c, h) if c else h)
        return linen.Dense(self.num_outputs, name="head")(x)


def prepare(spec: dict[str, Any]) -> tuple[dict[str, Any], Callable[[int], dict[str, Any]]]:
    """spec: see `given.load`. Every cell of linen keeps the sum of two biases, but for the last gate of the GRU."""
    given = load(spec)
    embedding_size = 0 if given.embedding is None else given.embedding.shape[1]
    network = Network(given.cell, given.hidden_size, len(given.layers), given.head_kernel.shape[1], embedding_size)
    merged = 2 if given.cell == "GRU" else given.layers[0].bias.size // given.hidden_size
    missing = merged * given.hidden_size * len(given.layers)

    def outputs_of(params: Any, *inputs: Any) -> Any:
        return network.apply({"params": params}, *inputs)

    return training(given, _params(given), outputs_of, missing)


def _params(given: Given) -> dict[str, Any]:
    params: dict[str, Any] = {"head": {"kernel": given.head_kernel, "bias": given.head_bias}}
    if given.embedding is not None:
        params["embedding"] = {"embedding": given.embedding}
    for i, layer in enumerate(given.layers):
        params[f"initial{i}"] = layer.initial
        params[f"cell{i}"] = _cell_params(given.cell, layer)
    return params


def _cell_params(cell: str, layer: Layer) -> dict[str, Any]:
    names = {"LSTM": "ifog", "GRU": "rzn", "RNN": [""]}[cell]
    order = tuple(range(len(names)))
    inputs, recurrent, bias, recurrent_bias = (gates(array, order) for array in layer[:4])
    params = {f"i{name}": {"kernel": kernel} for name, kernel in zip(names, inputs, strict=True)}
    params |= {f"h{name}": {"kernel": kernel} for name, kernel in zip(names, recurrent, strict=True)}
    side = "h" if cell == "LSTM" else "i"
    for name, b, c in zip(names, bias, recurrent_bias, strict=True):
        params[f"{side}{name}"]["bias"] = b + c
    if cell == "GRU":
        params["in"]["bias"], params["hn"]["bias"] = bias[2], recurrent_bias[2]
    return params
