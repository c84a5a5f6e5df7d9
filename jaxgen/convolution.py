"""Convolutions, each as one product with what its kernel sees: on a CPU several times faster than XLA's own."""

import jax
import jax.numpy as jnp
from flax import nnx


class Conv(nnx.Module):
    """A convolution [B, H, W, in] to [B, ceil(H / stride), ceil(W / stride), out], kernel and stride for each axis."""

    def __init__(self, num_in: int, num_out: int, kernel: tuple[int, int], stride: tuple[int, int], rngs: nnx.Rngs):
        self.num_in, self.kernel, self.stride = num_in, kernel, stride
        self.product = nnx.Linear(num_in * kernel[0] * kernel[1], num_out, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        kernel, bias = self.product.kernel[...].reshape(*self.kernel, self.num_in, -1), self.product.bias
        assert bias is not None
        return convolved(x, kernel, self.stride) + bias[...]


def convolved(x: jax.Array, kernel: jax.Array, stride: tuple[int, int]) -> jax.Array:
    """x [B, H, W, in] by a kernel [KH, KW, in, out]: [B, ceil(H / stride), ceil(W / stride), out].

    Output n sees KH // 2 places before stride * n, and as many rows in all as the kernel has; zeros beyond the ends.
    """
    num_in, num_out = kernel.shape[2:]
    sequence = x.shape[2] == kernel.shape[1] == 1  # of images, what is done for it took longer
    if sequence and stride == (1, 1) and 4 * num_out <= num_in:
        return _summed(jnp.tensordot(x[:, :, 0], kernel[:, 0], axes=(2, 1)))[:, :, None]
    in_blocks = sequence and stride[0] > 1
    seen = _blocks_seen(x, kernel.shape[0], stride[0]) if in_blocks else _seen(x, kernel.shape[:2], stride)
    return jnp.concatenate(seen, axis=-1) @ kernel.reshape(-1, num_out)


def _blocks_seen(x: jax.Array, reach: int, stride: int) -> list[jax.Array]:
    """As `_seen`, joined, of a sequence [B, H, 1, C], by slices of blocks [B, ?, 1, stride * C], not of places apart."""
    length, features = x.shape[1], x.shape[-1]
    size, front = -(-length // stride), -(reach // 2) % stride
    before, blocks = front + reach // 2, -(-(front + reach) // stride)
    needed = (size - 1 + blocks) * stride
    padded = jnp.pad(x, [(0, 0), (before, max(0, needed - before - length)), (0, 0), (0, 0)])[:, :needed]
    padded = padded.reshape(len(x), -1, 1, stride * features)
    seen = [padded[:, i : i + size] for i in range(blocks)]
    seen[-1] = seen[-1][..., : ((front + reach - 1) % stride + 1) * features]
    seen[0] = seen[0][..., front * features :]
    return seen


def _seen(x: jax.Array, kernel: tuple[int, ...], stride: tuple[int, int]) -> list[jax.Array]:
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


def _summed(given: jax.Array) -> jax.Array:
    """The transpose of `_seen`: what each element of a kernel gives, [B, H, KH, C], summed where it is seen. Of few outputs
    it is the smaller copy.
    """
    length, reach = given.shape[1:3]
    padded = jnp.pad(given, [(0, 0), (reach // 2, reach - 1 - reach // 2), (0, 0), (0, 0)])
    return jnp.stack([padded[:, i : i + length, i] for i in range(reach)]).sum(axis=0)
