"""The matrix product of cells and convolutions: in the dtype asked for, accumulated in float32, forward and backward."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike

DimensionNumbers = tuple[tuple[tuple[int, ...], tuple[int, ...]], tuple[tuple[()], tuple[()]]]
"""Contracted and batch axes of each side, as `jax.lax.dot_general` takes them."""


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def product(x: Array, kernel: Array, dtype: DTypeLike) -> Array:
    """x [..., D] @ kernel [D, F] in `dtype`, float32 accumulation and result; so are the products of its gradient."""
    return dot(x.astype(dtype), kernel.astype(dtype))


def _forward(x: Array, kernel: Array, dtype: DTypeLike) -> tuple[Array, tuple[Array, Array]]:
    return product(x, kernel, dtype), (x, kernel)


def _backward(dtype: DTypeLike, saved: tuple[Array, Array], dz: Array) -> tuple[Array, Array]:
    x, kernel = saved
    dz = dz.astype(dtype)
    rows, drows = x.astype(dtype).reshape(-1, x.shape[-1]), dz.reshape(-1, dz.shape[-1])
    return dot(dz, kernel.astype(dtype).T).astype(x.dtype), dot(rows.T, drows)


def dot(a: Array, b: Array) -> Array:
    """Matrix product with float32 accumulation and result."""
    return jnp.matmul(a, b, preferred_element_type=jnp.float32)


product.defvjp(_forward, _backward)


def dot_general(x: Array, kernel: Array, dimensions: DimensionNumbers, **options: Any) -> Array:
    """`product` as the `dot_general` of a flax layer, in the dtype of x: its gradient needs no transposed copies."""
    del dimensions, options  # a layer contracts the last axis of x with the first of its kernel
    return product(x, kernel, x.dtype).astype(x.dtype)
