"""The LSTM of NVIDIA's cuDNN, through `jax.experimental.rnn`."""

import jax
import jax.numpy as jnp
from jax import Array
from jax.experimental import rnn

from jaxgen.core.sharding import shard_map_batch
from jaxgen.nn.recurrent.cell import Carry, Params

_OPTIONS = {"num_layers": 1, "dropout": 0.0, "bidirectional": False}


def available() -> bool:
    """Whether this process computes on NVIDIA GPUs."""
    return jax.default_backend() == "gpu" and "NVIDIA" in jax.devices()[0].device_kind


def unroll(params: Params, x: Array, carry: Carry) -> tuple[Array, Carry]:
    """An LSTM without resets, masks and layer normalisation: x float32 [B, T, D] -> (h [B, T, H], carry)."""
    return shard_map_batch(_unroll)(pack_weights(params), x, carry)


def _unroll(weights: Array, x: Array, carry: Carry) -> tuple[Array, Carry]:
    batch_size, num_steps, in_features = x.shape
    h, c = carry
    lengths = jnp.full(batch_size, num_steps, jnp.int32)
    sizes = {"input_size": in_features, "hidden_size": h.shape[-1]}
    y, h, c = rnn.lstm(x, h[None], c[None], weights, lengths, **sizes, **_OPTIONS)
    return y, (h[0], c[0])


def pack_weights(params: Params) -> Array:
    """Our parameters as cuDNN's: one vector of W_ih, W_hh [4H, .], b_ih, b_hh [4H], with gates in the order i, f, g, o."""
    names = ("input", "recurrent", "bias", "recurrent_bias")
    return jnp.concatenate([_in_order(params[name]).T.reshape(-1) for name in names])


def _in_order(array: Array) -> Array:
    i, f, o, g = jnp.split(array, 4, axis=-1)
    return jnp.concatenate([i, f, g, o], axis=-1)
