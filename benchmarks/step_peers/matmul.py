"""The limit of all arithmetic here: the product of two square float32 matrices, at jax's default precision."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp


def prepare(spec: dict[str, Any]) -> tuple[dict[str, Any], Callable[[int], None]]:
    """spec: `size`, rows and columns. Facts: `gflop` of one product; a multiplication and an addition count as two."""
    size = spec["size"]
    a, b = jax.random.normal(jax.random.key(0), (2, size, size))
    product = jax.jit(jnp.matmul)

    def run(times: int) -> None:
        for _ in range(times):
            jax.block_until_ready(product(a, b))

    return {"gflop": 2e-9 * size**3}, run
