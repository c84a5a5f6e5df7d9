"""The recurrence of a gated cell on a CPU: the native kernels as jax functions."""

import functools
import os

import jax
import jax.numpy as jnp
from jax import Array

from jaxgen.recurrent.cell import Carry, Equations, Params
from jaxgen.recurrent.native import ffi, kernels
from jaxgen.recurrent.native.emit import UnknownOperation, traced
from jaxgen.recurrent.native.kernels import Lanes


def suits(cell: Equations) -> bool:
    """Whether the kernels can run this cell on this machine."""
    if not ffi.available():
        return False
    try:
        _forward_target(cell, _threads())
        _backward_target(cell, _threads())
    except UnknownOperation:
        return False
    return True


def forward(
    cell: Equations, params: Params, zx: Array, carry: Carry, reset: Array, mask: Array
) -> tuple[Array, Array, Carry]:
    """As `jaxgen.recurrent.scan.forward` in float32, but for zx [B, T, G*H] before its bias."""
    batch_size, num_steps, _ = zx.shape
    hidden, gates = cell.hidden_size, len(cell.gate_bias)
    lanes, units = ffi.machine().lanes_for(hidden), kernels.forward_units(gates, hidden)
    # [H, G, panel, unit vector, lane] -> a panel holds all gates of its units, row by row
    packed = params["recurrent"].reshape(hidden, gates, -1, units, lanes).transpose(2, 0, 1, 3, 4)
    equations = _equations(cell)
    sizes = (equations.num_preactivations * hidden, *[hidden] * (1 + cell.num_states))
    results = [jax.ShapeDtypeStruct((batch_size, num_steps, size), jnp.float32) for size in sizes]
    results.append(jax.ShapeDtypeStruct((batch_size, hidden), jnp.float32))
    call = jax.ffi.ffi_call(_forward_target(cell, _threads()), results)
    z, h_in, *states, _ = call(
        zx, packed, params["bias"], params["recurrent_bias"], params["initial"], jnp.stack(carry), reset, mask
    )
    return z, h_in, tuple(states)


def backward(
    cell: Equations,
    params: Params,
    z: Array,
    states: Carry,
    first: Carry,
    reset: Array,
    mask: Array,
    dy: Array,
    dlast: Carry,
) -> tuple[Array, Array, Carry, Array]:
    """As `jaxgen.recurrent.scan.backward` in float32."""
    hidden, gates = cell.hidden_size, len(cell.gate_bias)
    lanes, vectors = ffi.machine().lanes_for(hidden), kernels.backward_vectors(hidden)
    packed = params["recurrent"].reshape(-1, vectors, lanes, gates * hidden).transpose(0, 3, 1, 2)
    steps = jax.ShapeDtypeStruct((*dy.shape[:2], gates * hidden), jnp.float32)
    carries = jax.ShapeDtypeStruct((cell.num_states, len(dy), hidden), jnp.float32)
    scratch = jax.ShapeDtypeStruct((len(dy), gates * hidden), jnp.float32)
    results = [steps] * (1 if _equations(cell).joined else 2) + [carries] * 2 + [scratch]
    call = jax.ffi.ffi_call(_backward_target(cell, _threads()), results)
    *dz, dfirst, dinitial, _ = call(
        z, packed, params["initial"], jnp.stack(first), reset, mask, jnp.stack(dlast), dy, *states
    )
    return dz[0], dz[-1], tuple(dfirst), dinitial.sum(1)


@functools.cache
def _equations(cell: Equations) -> Lanes:
    """The cell traced for one hidden unit."""
    one = cell.for_one_unit()
    gates, states = len(cell.gate_bias), cell.num_states

    def forward(zx: Array, zh: Array, *carry: Array) -> tuple[Array, ...]:
        z = one.preactivation(zx, zh)
        return z, *one.pointwise(z, carry)

    def backward(z: Array, *rest: Array) -> tuple[Array, ...]:
        dz, dcarry = jax.vjp(one.pointwise, z, rest[:states])[1](rest[states:])
        dzx, dzh = jax.linear_transpose(one.preactivation, *[jax.ShapeDtypeStruct((gates,), jnp.float32)] * 2)(dz)
        return dzx, dzh, *dcarry

    unit = [1] * states
    forward_jaxpr = traced(forward, gates, gates, *unit)
    (width,) = forward_jaxpr.out_avals[0].shape
    return Lanes(gates, width, states, forward_jaxpr, traced(backward, width, *unit, *unit))


@functools.cache
def _forward_target(cell: Equations, threads: int) -> str:
    return kernels.forward(_equations(cell), cell.hidden_size, threads)


@functools.cache
def _backward_target(cell: Equations, threads: int) -> str:
    return kernels.backward(_equations(cell), cell.hidden_size, threads)


def _threads() -> int:
    """Cores for each of this process's devices."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // jax.local_device_count())
