"""What the two flax peers share: the loss, the update and the jitted step with donated state."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from benchmarks.step_peers.given import LEARNING_RATE, Given


def training(
    given: Given, params: Any, outputs_of: Callable[..., jax.Array], missing: int
) -> tuple[dict[str, Any], Callable[[int], dict[str, Any]]]:
    """What `prepare` returns, for `outputs_of(params, past, values)` -> [B, T, P] of a network."""
    adam = optax.adam(LEARNING_RATE)
    past, target = given.past.astype("int32") if given.embedding is not None else given.past, given.target
    values = None if given.embedding is None else given.values()

    def loss_of(params: Any, past: jax.Array, values: jax.Array | None, target: jax.Array) -> jax.Array:
        outputs = outputs_of(params, past, values)
        if values is not None:
            return optax.softmax_cross_entropy_with_integer_labels(outputs, target).mean()
        squares = 0.5 * jnp.square(outputs[..., :-1] - target).sum(-1)
        return (squares + jax.nn.softplus(outputs[..., -1])).mean() + given.constant

    def step(params: Any, moments: Any, *batch: Any) -> tuple[Any, Any, jax.Array]:
        loss, gradient = jax.value_and_grad(loss_of)(params, *batch)
        updates, moments = adam.update(gradient, moments, params)
        return optax.apply_updates(params, updates), moments, loss

    jitted = jax.jit(step, donate_argnums=(0, 1))
    state = jax.tree.map(jnp.asarray, params)
    moments, batch = adam.init(state), jax.tree.map(jnp.asarray, (past, values, target))

    losses: list[float] = []

    def run(times: int) -> dict[str, Any]:
        nonlocal state, moments
        for _ in range(times):
            state, moments, loss = jitted(state, moments, *batch)
        losses.append(float(jax.block_until_ready((loss, state))[0]))
        return {"losses": losses}

    return {"parameters": sum(leaf.size for leaf in jax.tree.leaves(params)), "missing": missing}, run
