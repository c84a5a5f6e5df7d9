"""The train step in `tf.keras`, as one `tf.function`: `LSTM`, `GRU` (reset after the product) or `SimpleRNN`."""

import os
from collections.abc import Callable
from typing import Any

os.environ["KERAS_BACKEND"] = "tensorflow"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
import tensorflow as tf

from benchmarks.step_peers.given import LEARNING_RATE, Array, Given, Layer, load, reordered

_ORDERS = {"LSTM": (0, 1, 3, 2), "GRU": (1, 0, 2), "RNN": (0,)}  # the gates of keras, by their place in ours


class Network(keras.Model):
    """From the past to the outputs."""

    def __init__(self, given: Given) -> None:
        super().__init__()
        kind = {"LSTM": keras.layers.LSTM, "GRU": keras.layers.GRU, "RNN": keras.layers.SimpleRNN}[given.cell]
        self.embedding = None
        if given.embedding is not None:
            self.embedding = keras.layers.Embedding(*given.embedding.shape)
        self.recurrent = [kind(given.hidden_size, return_sequences=True) for _ in given.layers]
        self.head = keras.layers.Dense(given.head_kernel.shape[1])
        self.initial = [self.add_weight(shape=weights.initial.shape) for weights in given.layers]

    def call(self, past: tf.Tensor, values: tf.Tensor | None = None) -> tf.Tensor:
        """Outputs [B, T, P]. values: the codes as numbers [B, T, 1]."""
        x = past if self.embedding is None else tf.concat([self.embedding(past), values], axis=-1)
        for layer, initial in zip(self.recurrent, self.initial, strict=True):
            x = layer(x, initial_state=[tf.broadcast_to(s, (x.shape[0], *s.shape)) for s in tf.unstack(initial)])
        return self.head(x)

    def start_from(self, given: Given) -> None:
        """Takes over the weights; the model has been called before."""
        if self.embedding is not None:
            self.embedding.set_weights([given.embedding])
        for layer, initial, weights in zip(self.recurrent, self.initial, given.layers, strict=True):
            layer.set_weights(_weights(given.cell, weights))
            initial.assign(weights.initial)
        self.head.set_weights([given.head_kernel, given.head_bias])


def prepare(spec: dict[str, Any]) -> tuple[dict[str, Any], Callable[[int], dict[str, Any]]]:
    """spec: see `given.load`."""
    given = load(spec)
    network, adam = Network(given), keras.optimizers.Adam(LEARNING_RATE, epsilon=1e-8)
    past, target = tf.constant(given.past), tf.constant(given.target)
    values = None if given.embedding is None else tf.constant(given.values())
    network(past[:, :1], None if values is None else values[:, :1])
    network.start_from(given)
    adam.build(network.trainable_variables)

    @tf.function
    def step() -> tf.Tensor:
        with tf.GradientTape() as tape:
            loss = _loss(given, network(past, values), target)
        adam.apply(tape.gradient(loss, network.trainable_variables))
        return loss

    losses: list[float] = []

    def run(times: int) -> dict[str, Any]:
        for _ in range(times):
            loss = step()
        losses.append(float(loss))
        return {"losses": losses}

    # The LSTM and the simple cell keep the sum of the two biases.
    missing = 0 if given.cell == "GRU" else sum(layer.recurrent_bias.size for layer in given.layers)
    return {"parameters": network.count_params(), "missing": missing}, run


def _loss(given: Given, outputs: tf.Tensor, target: tf.Tensor) -> tf.Tensor:
    if given.embedding is not None:
        return tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(target, outputs))
    squares = 0.5 * tf.reduce_sum(tf.square(outputs[..., :-1] - target), axis=-1)
    return tf.reduce_mean(squares + tf.nn.softplus(outputs[..., -1])) + given.constant


def _weights(cell: str, layer: Layer) -> list[Array]:
    order = _ORDERS[cell]
    biases = [reordered(layer.bias, order), reordered(layer.recurrent_bias, order)]
    bias = np.stack(biases) if cell == "GRU" else biases[0] + biases[1]
    return [reordered(layer.input, order), reordered(layer.recurrent, order), bias]
