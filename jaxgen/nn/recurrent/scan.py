"""The recurrence of a gated cell by `lax.scan`: runs on every device, in any dtype.

Only what is sequential stays in the backward loop: the derivatives of the pointwise part are taken for all steps at once
before it.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array

from jaxgen.nn.recurrent.cell import Carry, Equations, restart
from jaxgen.nn.recurrent.product import dot

Part = Callable[[Array], Array]
"""What becomes of h U [..., G*H] before it meets the input: bias and normalisation."""


def apply_mask(h: Array, mask: Array | None) -> Array:
    """h [..., H] times a constant mask."""
    return h if mask is None else h * jax.lax.stop_gradient(mask)


def forward(
    cell: Equations,
    part: Part,
    kernel: Array,
    initial: Array,
    zx: Array,
    carry: Carry,
    reset: Array,
    mask: Array | None,
) -> tuple[Array, Array, Carry]:
    """(z [B, T, Z*H], h_in [B, T, H], states [B, T, H] each) for zx [B, T, G*H].

    z are the joined pre-activations, h_in is what `kernel` [H, G*H], in the dtype of the products, was multiplied with.
    """

    def body(carry: Carry, inputs: tuple[Array, Array]) -> tuple[Carry, tuple[Array, Array, Carry]]:
        zx, reset = inputs
        carry = restart(initial, carry, reset)
        h = apply_mask(carry[0], mask)
        z = cell.preactivation(zx, part(dot(h.astype(kernel.dtype), kernel)))
        carry = cell.pointwise(z, carry)
        return carry, (z, h, carry)

    _, outputs = jax.lax.scan(body, carry, (jnp.swapaxes(zx, 0, 1), reset.T))
    return jax.tree.map(lambda a: jnp.swapaxes(a, 0, 1), outputs)


def backward(
    cell: Equations,
    part: Part,
    kernel: Array,
    initial: Array,
    z: Array,
    raw: Array,
    states: Carry,
    first: Carry,
    reset: Array,
    mask: Array | None,
    dy: Array,
    dlast: Carry,
) -> tuple[Array, Array, Carry, Array]:
    """(dzx, dzh [B, T, G*H], dfirst, dinitial [S, H]): gradients of what meets in `preactivation`, and of the carries.

    raw: h_in @ kernel [B, T, G*H].
    """
    z, raw, states, dy, reset = jax.tree.map(lambda a: jnp.swapaxes(a, 0, 1), (z, raw, states, dy, reset))
    before = tuple(jnp.concatenate([s[None], ss[:-1]]) for s, ss in zip(first, states, strict=True))
    before = restart(initial, before, reset)
    pull_pointwise = jax.vmap(lambda z, carry: jax.vjp(cell.pointwise, z, carry)[1])(z, before)
    pull_part = jax.vmap(lambda zh: jax.vjp(part, zh)[1])(raw)
    pull_join = jax.linear_transpose(cell.preactivation, raw, raw)
    pull_join_step = jax.linear_transpose(cell.preactivation, raw[0], raw[0])

    def body(state: tuple[Carry, Carry], inputs: tuple) -> tuple[tuple[Carry, Carry], Array]:
        (dh, *dothers), dinitial = state
        pull_pointwise, pull_part, dy, reset = inputs
        dz, (dh, *dothers) = pull_pointwise((dh + dy, *dothers))
        (draw,) = pull_part(pull_join_step(dz)[1])
        dh = dh + apply_mask(dot(draw.astype(kernel.dtype), kernel.T), mask)
        dcarry = (dh, *dothers)
        kept = tuple(jnp.where(reset[:, None], 0, d) for d in dcarry)
        dinitial = tuple(acc + (d - k) for acc, d, k in zip(dinitial, dcarry, kept, strict=True))
        return (kept, dinitial), dz

    start = (dlast, jax.tree.map(jnp.zeros_like, dlast))
    (dfirst, dinitial), dz = jax.lax.scan(body, start, (pull_pointwise, pull_part, dy, reset), reverse=True)
    dzx, dzh = (jnp.swapaxes(d, 0, 1) for d in pull_join(dz))
    return dzx, dzh, dfirst, jnp.stack([d.sum(0) for d in dinitial])
