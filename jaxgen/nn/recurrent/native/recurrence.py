"""The recurrence of a gated cell on a CPU: the native kernels as jax functions."""

import functools
import re
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.experimental.custom_partitioning import custom_partitioning
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxgen.core.machine import available_cores
from jaxgen.nn.recurrent.cell import Carry, Equations, Params
from jaxgen.nn.recurrent.native import ffi, kernels
from jaxgen.nn.recurrent.native.emit import trace_jaxpr
from jaxgen.nn.recurrent.native.kernels import Lanes
from jaxgen.nn.recurrent.native.matmul import panel_vectors

_CACHE_BYTES = 2**21  # of a core's own: those of servers have 1 to 2 MiB
_LEAST_ROWS = 4


def is_supported(cell: Equations) -> bool:
    """Whether the kernels can run this cell on this machine."""
    return ffi.available() and _known(cell)


@functools.cache
def _known(cell: Equations) -> bool:
    return equations(cell).is_known()


def round_up_to_vectors(hidden_size: int) -> int:
    """The least number of hidden units, at least so many, that fills vectors of the processor: the kernels take no other."""
    lanes = ffi.machine().lanes
    return -(-hidden_size // lanes) * lanes


def widen(arrays: Any, hidden_size: int, width: int) -> Any:
    """Arrays [..., n * hidden_size] as [..., n * width], with zeros behind each of the n parts."""

    def padded(array: Array) -> Array:
        parts = array.reshape(*array.shape[:-1], -1, hidden_size)
        zeros = [(0, 0)] * (parts.ndim - 1) + [(0, width - hidden_size)]
        return jnp.pad(parts, zeros).reshape(*array.shape[:-1], -1)

    return arrays if width == hidden_size else jax.tree.map(padded, arrays)


def widen_params(params: Params, hidden_size: int, width: int) -> Params:
    """Those of a cell whose further units nothing reads."""
    wide = widen(params, hidden_size, width)
    return wide | {"recurrent": append_rows(wide["recurrent"], width)}


def append_rows(matrix: Array, num_rows: int) -> Array:
    """A matrix with zeros below, so many rows in all."""
    return jnp.pad(matrix, ((0, num_rows - len(matrix)), (0, 0)))


def forward(
    cell: Equations, params: Params, zx: Array, carry: Carry, reset: Array, mask: Array
) -> tuple[Array, Array, Carry]:
    """As `jaxgen.nn.recurrent.scan.forward` in float32, but for zx [B, T, G*H] before its bias."""
    hidden, gates = cell.hidden_size, len(cell.gate_bias)
    packed = pack_gates(params["recurrent"], gates, hidden, ffi.machine().lanes)
    rest = [params[name] for name in ("bias", "recurrent_bias", "initial")]
    z, h_in, *states, _ = _forward_call(cell)(zx, packed, *rest, jnp.stack(carry), reset, mask)
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
    """As `jaxgen.nn.recurrent.scan.backward` in float32."""
    hidden, gates = cell.hidden_size, len(cell.gate_bias)
    lanes = ffi.machine().lanes
    vectors = panel_vectors(hidden, lanes)
    packed = params["recurrent"].reshape(-1, vectors, lanes, gates * hidden).transpose(0, 3, 1, 2)
    call = _backward_call(cell)
    *dz, dfirst, dinitial, _ = call(
        z, packed, params["initial"], jnp.stack(first), reset, mask, jnp.stack(dlast), dy, *states
    )
    return dz[0], dz[-1], tuple(dfirst), dinitial.sum(1)


def pack_gates(matrix: Array, gates: int, hidden_size: int, lanes: int) -> Array:
    """A matrix [D, G*H] as [panel, D, G * unit vector, lane]: a panel holds all gates of its units, row by row."""
    units = kernels.forward_units(gates, hidden_size, lanes)
    split = matrix.reshape(len(matrix), gates, -1, units, lanes)
    return split.transpose(2, 0, 1, 3, 4).reshape(-1, len(matrix), gates * units, lanes)


@functools.cache
def _forward_call(cell: Equations) -> Callable[..., Sequence[Array]]:
    """The kernel as a function of its arguments; see `kernels.forward`."""
    hidden, states = cell.hidden_size, cell.num_states

    def call(threads: int, zx: Array, *rest: Array) -> Sequence[Array]:
        widths = (equations(cell).num_preactivations * hidden, *[hidden] * (1 + states))
        results = [jax.ShapeDtypeStruct((*zx.shape[:2], width), jnp.float32) for width in widths]
        results.append(jax.ShapeDtypeStruct((2, len(zx), hidden), jnp.float32))
        target = _forward_target(cell, *_sharing(cell, threads, len(zx)))
        return jax.ffi.ffi_call(target, results)(zx, *rest)

    sequences = ["b t z", "b t h", *["b t h"] * states]
    return over_devices(call, "b t g, p h i l, g, g, s h, s b h, b t, b h", ", ".join([*sequences, "w b h"]))


@functools.cache
def _backward_call(cell: Equations) -> Callable[..., Sequence[Array]]:
    """The kernel as a function of its arguments; see `kernels.backward`."""
    width, states = len(cell.gate_bias) * cell.hidden_size, cell.num_states
    outputs = 1 if equations(cell).shares_gradient else 2

    def call(threads: int, z: Array, *rest: Array) -> Sequence[Array]:
        steps = jax.ShapeDtypeStruct((*z.shape[:2], width), jnp.float32)
        carries = jax.ShapeDtypeStruct((states, len(z), cell.hidden_size), jnp.float32)
        scratch = jax.ShapeDtypeStruct((2, len(z), width), jnp.float32)
        results = [steps] * outputs + [carries] * 2 + [scratch]
        target = _backward_target(cell, *_sharing(cell, threads, len(z)))
        return jax.ffi.ffi_call(target, results)(z, *rest)

    arguments = ["b t z", "p g u l", "s h", "s b h", "b t", "b h", "s b h", "b t h", *["b t h"] * states]
    return over_devices(call, ", ".join(arguments), ", ".join([*["b t g"] * outputs, "s b h", "s b h", "w b g"]))


def over_devices(call: Callable[..., Sequence[Array]], arguments: str, results: str) -> Callable[..., Sequence[Array]]:
    """call(threads, *arguments), which jit may split along its rows `b`, as it splits those of argument 0: each device
    computes its own. Everything else is whole on each. Devices of this process share its cores.
    """
    split = custom_partitioning(lambda *arrays: call(available_cores(), *arrays))

    def partition(mesh: Mesh, shapes: Any, _: Any) -> tuple[Any, ...]:
        spec = tuple(shapes[0].sharding.spec)
        rows = spec[0] if spec else None

        def placed(side: str) -> list[NamedSharding]:
            axes = [[rows if axis == "b" else None for axis in array.split()] for array in side.split(", ")]
            return [NamedSharding(mesh, PartitionSpec(*spec)) for spec in axes]

        part = functools.partial(call, max(1, available_cores() // len(mesh.local_devices)))
        return mesh, part, placed(results), tuple(placed(arguments))

    rule = f"{arguments} -> {results}"
    whole = tuple(dict.fromkeys(axis for axis in re.findall(r"\w+", rule) if axis != "b"))
    split.def_partition(partition, sharding_rule=rule, need_replication_factors=whole)
    return split


@functools.cache
def equations(cell: Equations) -> Lanes:
    """The cell traced for one hidden unit."""
    one = cell.of_width(1)
    gates, states = len(cell.gate_bias), cell.num_states

    def forward(zx: Array, zh: Array, *carry: Array) -> tuple[Array, ...]:
        z = one.preactivation(zx, zh)
        return z, *one.pointwise(z, carry)

    def backward(z: Array, *rest: Array) -> tuple[Array, ...]:
        dz, dcarry = jax.vjp(one.pointwise, z, rest[:states])[1](rest[states:])
        dzx, dzh = jax.linear_transpose(one.preactivation, *[jax.ShapeDtypeStruct((gates,), jnp.float32)] * 2)(dz)
        return dzx, dzh, *dcarry

    unit = [1] * states
    forward_jaxpr = trace_jaxpr(forward, gates, gates, *unit)
    (width,) = forward_jaxpr.out_avals[0].shape
    return Lanes(gates, width, states, forward_jaxpr, trace_jaxpr(backward, width, *unit, *unit))


@functools.cache
def _forward_target(cell: Equations, threads: int, row_groups: int) -> str:
    return kernels.forward(equations(cell), cell.hidden_size, threads, row_groups)


@functools.cache
def _backward_target(cell: Equations, threads: int, row_groups: int) -> str:
    return kernels.backward(equations(cell), cell.hidden_size, threads, row_groups)


def split_work(threads: int, num_rows: int, matrix_bytes: int, panels: int) -> tuple[int, int]:
    """Of so many threads at the most, how many to use, and into how many groups they split the rows.

    As many groups as leave each thread enough rows, and a part of the matrices that stays in a core's own cache from step
    to step; in a group no more threads than there are panels of hidden units to share.
    """
    fitting = (
        groups
        for groups in range(threads, 0, -1)
        if threads % groups == 0
        and num_rows >= _LEAST_ROWS * groups
        and matrix_bytes * groups <= _CACHE_BYTES * threads
    )
    groups = next(fitting, 1)
    return groups * min(threads // groups, panels), groups


def _sharing(cell: Equations, threads: int, num_rows: int) -> tuple[int, int]:
    hidden, lanes = cell.hidden_size, ffi.machine().lanes
    panels = hidden // (lanes * panel_vectors(hidden, lanes))  # of the backward product, which has fewer
    return split_work(threads, num_rows, 4 * len(cell.gate_bias) * hidden**2, panels)
