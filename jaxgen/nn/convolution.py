"""Convolutions, each as one product with what its kernel sees: matrix products are what XLA does best on a CPU."""

import functools

import jax
import jax.numpy as jnp
from flax import nnx

from jaxgen.nn.recurrent.product import product

_SMALLER = 1.5  # so many times fewer numbers must be copied, or sums of rows after the product are no faster


class Conv(nnx.Module):
    """A convolution [B, H, W, in] to [B, ceil(H / stride), ceil(W / stride), out], kernel and stride for each axis."""

    def __init__(self, num_in: int, num_out: int, kernel: tuple[int, int], stride: tuple[int, int], rngs: nnx.Rngs):
        self.kernel, self.stride = kernel, stride
        self.product = nnx.Linear(num_in * kernel[0] * kernel[1], num_out, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        kernel, bias = self.product.kernel[...].reshape(*self.kernel, x.shape[-1], -1), self.product.bias
        assert bias is not None
        return convolve(x, kernel, self.stride) + bias[...]


def convolve(x: jax.Array, kernel: jax.Array, stride: tuple[int, int]) -> jax.Array:
    """x [B, H, W, in] by a kernel [KH, KW, in, out]: [B, ceil(H / stride), ceil(W / stride), out].

    Output n sees KH // 2 rows before stride * n, and KH rows in all; zeros beyond the ends. What the kernel sees is copied,
    all of it or, where it is less, that of each of its rows beside what they give.
    """
    high, wide, num_in, num_out = kernel.shape
    if stride[0] == 1 and _SMALLER * (wide * num_in + high * num_out) <= high * wide * num_in:
        seen = jnp.concatenate(_seen(x, (1, wide), stride), axis=-1)
        by_row = kernel.transpose(1, 2, 0, 3).reshape(-1, high * num_out)
        return _summed(_product(seen, by_row).reshape(*seen.shape[:3], high, num_out))
    if stride[0] == 1 < stride[1] and num_in == 1:  # what stands side by side is copied in one piece
        along = _blocks_seen(x.reshape(-1, x.shape[2], 1, 1), (wide, 1), (stride[1], 1))
        rows = jnp.concatenate(along, axis=-1).reshape(*x.shape[:2], -1, wide)
        return convolve(rows, kernel.reshape(high, 1, wide, num_out), (1, 1))
    in_blocks = x.shape[2] == wide == 1 < stride[0]
    seen = jnp.concatenate((_blocks_seen if in_blocks else _seen)(x, (high, wide), stride), axis=-1)
    return _product(seen, kernel.reshape(-1, num_out))


def _product(seen: jax.Array, kernel: jax.Array) -> jax.Array:
    """[B, H, W, D] by [D, F]. As one product of rows, or the gradient would copy what is seen once more, transposed."""
    return product(seen.reshape(-1, seen.shape[-1]), kernel, seen.dtype).reshape(*seen.shape[:3], -1)


def _blocks_seen(x: jax.Array, kernel: tuple[int, int], strides: tuple[int, int]) -> list[jax.Array]:
    """As `_seen`, joined, of a sequence [B, H, 1, C], by slices of blocks [B, ?, 1, stride * C], not of places apart."""
    length, features, reach, stride = x.shape[1], x.shape[-1], kernel[0], strides[0]
    size, front = -(-length // stride), -(reach // 2) % stride
    before, blocks = front + reach // 2, -(-(front + reach) // stride)
    needed = (size - 1 + blocks) * stride
    padded = jnp.pad(x, [(0, 0), (before, max(0, needed - before - length)), (0, 0), (0, 0)])[:, :needed]
    padded = padded.reshape(len(x), -1, 1, stride * features)
    seen = [padded[:, i : i + size] for i in range(blocks)]
    seen[-1] = seen[-1][..., : ((front + reach - 1) % stride + 1) * features]
    seen[0] = seen[0][..., front * features :]
    return seen


def _seen(x: jax.Array, kernel: tuple[int, int], stride: tuple[int, int]) -> list[jax.Array]:
    """What each element of a kernel sees of x [B, H, W, C], zeros beyond the ends."""
    sizes = [-(-length // step) for length, step in zip(x.shape[1:3], stride, strict=True)]
    margins = [
        (reach // 2, max(0, (size - 1) * step + reach - reach // 2 - length))
        for length, size, reach, step in zip(x.shape[1:3], sizes, kernel, stride, strict=True)
    ]
    padded = jnp.pad(x, [(0, 0), *margins, (0, 0)])
    return [
        padded[
            :, i : i + (sizes[0] - 1) * stride[0] + 1 : stride[0], j : j + (sizes[1] - 1) * stride[1] + 1 : stride[1]
        ]
        for i in range(kernel[0])
        for j in range(kernel[1])
    ]


@jax.custom_vjp
def _summed(given: jax.Array) -> jax.Array:
    """What each row of a kernel gives of each row, [B, H, W, KH, C], summed where it is seen."""
    length, reach = given.shape[1], given.shape[3]
    padded = jnp.pad(given, [(0, 0), (reach // 2, reach - 1 - reach // 2), (0, 0), (0, 0), (0, 0)])
    return functools.reduce(jnp.add, [padded[:, i : i + length, :, i] for i in range(reach)])


def _summed_forward(given: jax.Array) -> tuple[jax.Array, int]:
    return _summed(given), given.shape[3]


def _summed_backward(reach: int, dsum: jax.Array) -> tuple[jax.Array]:
    # as XLA would write it, each number would ask whether it is in the margin
    padded = jnp.pad(dsum, [(0, 0), (reach - 1 - reach // 2, reach // 2), (0, 0), (0, 0)])
    padded = jax.lax.optimization_barrier(padded)
    return (jnp.stack([padded[:, i : i + dsum.shape[1]] for i in reversed(range(reach))], axis=3),)


_summed.defvjp(_summed_forward, _summed_backward)
