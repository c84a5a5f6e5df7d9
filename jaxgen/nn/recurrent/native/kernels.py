"""The recurrence of a gated cell on a CPU, forward and backward, as one native kernel each.

XLA runs a scan as a loop of small operations: it packs the recurrent matrix anew at each step, and works on one thread
between products. Here each thread takes its rows of the batch, and of them its part of the hidden units, through all of
time; only threads that share rows wait for each other, once a step. The matrix is packed once, and the cell's own
equations (`Cell.pointwise`, traced) run where a product leaves its sums.
"""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager

import numpy as np
from jax.extend.core import ClosedJaxpr
from llvmlite import ir

from jaxgen.nn.recurrent.native import ffi
from jaxgen.nn.recurrent.native.emit import UnknownOperation
from jaxgen.nn.recurrent.native.kernel import Kernel, Operand, const, loop
from jaxgen.nn.recurrent.native.matmul import panel_vectors


@dataclasses.dataclass(frozen=True)
class Lanes:
    """The equations of a cell, traced for a single hidden unit: what happens in each lane.

    forward(zx [G], zh [G], carry [1] each) -> (z [Z], carry [1] each)
    backward(z [Z], carry [1] each, dcarry [1] each) -> (dzx [G], dzh [G], dcarry [1] each)
    """

    num_gates: int
    num_preactivations: int
    num_states: int
    forward: ClosedJaxpr
    backward: ClosedJaxpr

    @property
    def shares_gradient(self) -> bool:
        """Whether dzx and dzh are one and the same."""
        return self.backward.jaxpr.outvars[0] is self.backward.jaxpr.outvars[1]

    def is_known(self) -> bool:
        """Whether all their operations have a native form."""
        draft = Kernel("draft", 1)
        try:
            for function in (self.forward, self.backward):
                zeros = [np.full(shape.shape, draft.v.constant(0.0), object) for shape in function.in_avals]
                draft.v.evaluate(function, zeros)
        except UnknownOperation:
            return False
        return True


class Recurrence(Kernel):
    """What all kernels of a gated cell share: sizes, and where the carry before a step lies."""

    def __init__(self, name: str, equations: Lanes, hidden_size: int, panel_units: int, lanes: int):
        """panel_units: vectors of hidden units in a panel, which no two threads share. lanes divide hidden_size."""
        super().__init__(name, lanes)
        self.equations, self.hidden_size = equations, hidden_size
        width = panel_units * self.v.lanes
        panels = ffi.share(self.builder, const(hidden_size // width), self.part, self.parts)
        self.first_unit, self.last_unit = (self.builder.mul(panel, const(width)) for panel in panels)
        self.batch_size = ffi.dimension(self.builder, self.frame, 0, 0)
        self.num_steps = ffi.dimension(self.builder, self.frame, 0, 1)

    def arguments(self, *names: str) -> dict[str, ir.Value]:
        return {name: ffi.data(self.builder, self.frame, index) for index, name in enumerate(names)}

    def results(self, *names: str) -> dict[str, ir.Value]:
        return {name: ffi.data(self.builder, self.frame, index, result=True) for index, name in enumerate(names)}

    def vectors(self) -> AbstractContextManager[ir.Value]:
        """Loops over the hidden units of this thread, a vector at a time."""
        return loop(self.builder, self.first_unit, self.last_unit, self.v.lanes)

    def rows(self, base: ir.Value, t: ir.Value, width: int) -> ir.Value:
        """What all threads of these rows read of step t, [B, width]: by turns one half of [2, B, width], so that those
        ahead write where nobody reads.
        """
        return self.at(base, self.offset((self.builder.and_(t, const(1)), self.offset((self.batch_size, width)))))

    def states(self) -> list[str]:
        return [f"state{index}" for index in range(self.equations.num_states)]

    def step(self, row: ir.Value, t: ir.Value, width: int) -> ir.Value:
        """Offset of [row, t] in an array [B, T, width]."""
        return self.offset((self.builder.add(self.builder.mul(row, self.num_steps), t), width))

    def unit(self, base: ir.Value, unit: ir.Value, slot: int = 0) -> ir.Value:
        """Address of a hidden unit in vector `slot` of several of width H that follow each other."""
        return self.at(base, self.builder.add(unit, const(slot * self.hidden_size)))

    def state(self, base: ir.Value, index: int, row: ir.Value) -> ir.Value:
        """Address of a row of state `index` in an array [S, B, H]."""
        before = self.builder.mul(const(index), self.batch_size)
        return self.at(base, self.offset((self.builder.add(before, row), self.hidden_size)))

    def before(self, arrays: Mapping[str, ir.Value], row: ir.Value, t: ir.Value, reset: ir.Value) -> list[ir.Value]:
        """Addresses of the carry that step t of a row starts from."""
        b, found = self.builder, []
        start = b.icmp_signed("==", t, const(0))
        for index, name in enumerate(self.states()):
            previous = self.at(arrays[name], self.step(row, b.sub(t, const(1)), self.hidden_size))
            carried = b.select(start, self.state(arrays["first"], index, row), previous)
            initial = self.at(arrays["initial"], const(index * self.hidden_size))
            found.append(b.select(reset, initial, carried))
        return found

    def load(self, base: ir.Value, unit: ir.Value, count: int) -> np.ndarray:
        """Vectors at a hidden unit, from each of `count` vectors of width H."""
        return objects([self.v.load(self.unit(base, unit, slot)) for slot in range(count)])

    def store(self, values: Iterable[ir.Value], base: ir.Value, unit: ir.Value) -> None:
        for slot, value in enumerate(values):
            self.v.store(value, self.unit(base, unit, slot))

    def stream(self, values: Iterable[ir.Value], base: ir.Value, unit: ir.Value) -> None:
        """Stores what only the other direction reads."""
        for slot, value in enumerate(values):
            self.v.stream(value, self.unit(base, unit, slot))

    def prefetch(self, base: ir.Value, unit: ir.Value, count: int) -> None:
        """Asks for what `load` will read at the next step, while there are sums to be computed."""
        for slot in range(count):
            self.v.prefetch(self.unit(base, unit, slot))

    def end(self) -> None:
        self.builder.fence("seq_cst")
        self.builder.ret_void()


def objects(values: Sequence[ir.Value]) -> np.ndarray:
    array = np.empty(len(values), object)
    array[:] = values
    return array


def add_arrays(builder: ir.IRBuilder, left: Iterable[ir.Value], right: Iterable[ir.Value]) -> np.ndarray:
    return objects([builder.fadd(a, b) for a, b in zip(left, right, strict=True)])


def forward(equations: Lanes, hidden_size: int, threads: int, row_groups: int) -> str:
    """Target of (zx [B, T, G*H], recurrent (packed), bias and recurrent_bias [G*H], initial [S, H], first [S, B, H],
    reset bool [B, T], mask [B, H]) -> (z [B, T, Z*H], h_in [B, T, H], states [B, T, H] each, scratch
    [2, B, H]). h_in is what the recurrent matrix was multiplied with.
    """
    gates = equations.num_gates
    lanes, width = ffi.machine().lanes, gates * hidden_size
    units = forward_units(gates, hidden_size, lanes)
    k = Recurrence("forward", equations, hidden_size, units, lanes)
    b, v = k.builder, k.v
    arrays = k.arguments("zx", "recurrent", "bias", "recurrent_bias", "initial", "first", "reset", "mask")
    arrays |= k.results("z", "h_in", *k.states(), "rows")
    with loop(b, const(0), k.num_steps) as t:
        rows = k.rows(arrays["rows"], t, hidden_size)
        with loop(b, k.first, k.last) as row:
            (before, *_) = k.before(arrays, row, t, k.flag(arrays["reset"], k.step(row, t, 1)))
            mask = k.at(arrays["mask"], k.offset((row, hidden_size)))
            kept = k.at(arrays["h_in"], k.step(row, t, hidden_size))
            near = k.at(rows, k.offset((row, hidden_size)))
            with k.vectors() as unit:
                h = b.fmul(v.load(k.at(before, unit)), v.load(k.at(mask, unit)))
                v.store(h, k.at(kept, unit))
                v.store(h, k.at(near, unit))
        k.meet(b.add(t, const(1)))
        operand = Operand(rows, hidden_size, hidden_size, arrays["recurrent"])
        with k.products([operand], gates * units, width, t) as (panel, row, (sums,)):
            carries = k.before(arrays, row, t, k.flag(arrays["reset"], k.step(row, t, 1)))
            zx, zx_next = (k.at(arrays["zx"], k.step(row, s, width)) for s in (t, b.add(t, const(1))))
            z_out = k.at(arrays["z"], k.step(row, t, equations.num_preactivations * hidden_size))
            for place in range(units):
                unit = k.offset((b.add(b.mul(panel, const(units)), const(place)), v.lanes))
                zh = [v.load(k.at(sums, const((gate * units + place) * v.lanes))) for gate in range(gates)]
                zh_biased = add_arrays(b, zh, k.load(arrays["recurrent_bias"], unit, gates))
                zx_biased = add_arrays(b, k.load(zx, unit, gates), k.load(arrays["bias"], unit, gates))
                k.prefetch(zx_next, unit, gates)
                carry = [k.load(address, unit, 1) for address in carries]
                z, *after = v.evaluate(equations.forward, [zx_biased, zh_biased, *carry])
                k.stream(z, z_out, unit)
                for name, state in zip(k.states(), after, strict=True):
                    k.store(state, k.at(arrays[name], k.step(row, t, hidden_size)), unit)
    k.end()
    return ffi.register(k.module, k.function, threads, row_groups)


def backward(equations: Lanes, hidden_size: int, threads: int, row_groups: int) -> str:
    """Target of (z [B, T, Z*H], transposed recurrent (packed), initial [S, H], first [S, B, H], reset bool [B, T],
    mask [B, H], dlast [S, B, H], dy [B, T, H], states [B, T, H] each) -> (dzx [B, T, G*H], dzh like it where the two
    differ, dfirst [S, B, H], dinitial [S, B, H], scratch [2, B, G*H]).
    """
    lanes, depth = ffi.machine().lanes, equations.num_gates * hidden_size
    vectors = panel_vectors(hidden_size, lanes)
    k = Recurrence("backward", equations, hidden_size, vectors, lanes)
    b, v, z_width = k.builder, k.v, equations.num_preactivations * hidden_size
    arrays = k.arguments("z", "recurrent", "initial", "first", "reset", "mask", "dlast", "dy", *k.states())
    gradients = ["dzx"] if equations.shares_gradient else ["dzx", "dzh"]
    arrays |= k.results(*gradients, "dcarry", "dinitial", "rows")

    def restarted(index: int, row: ir.Value, unit: ir.Value, reset: ir.Value, value: ir.Value) -> None:
        """Hands the gradient of a state to the step before, or to the initial carry."""
        handed = k.at(k.state(arrays["dcarry"], index, row), unit)
        with b.if_else(reset) as (then, otherwise):
            with then:
                initial = k.at(k.state(arrays["dinitial"], index, row), unit)
                v.store(b.fadd(v.load(initial), value), initial)
                v.store(v.constant(0.0), handed)
            with otherwise:
                v.store(value, handed)

    with loop(b, k.first, k.last) as row:
        for index in range(equations.num_states):
            with k.vectors() as unit:
                last = v.load(k.at(k.state(arrays["dlast"], index, row), unit))
                v.store(last, k.at(k.state(arrays["dcarry"], index, row), unit))
                v.store(v.constant(0.0), k.at(k.state(arrays["dinitial"], index, row), unit))
    with loop(b, const(0), k.num_steps, -1) as t:
        rows = k.rows(arrays["rows"], t, depth)
        with loop(b, k.first, k.last) as row:
            reset = k.flag(arrays["reset"], k.step(row, t, 1))
            carries = k.before(arrays, row, t, reset)
            z_in = k.at(arrays["z"], k.step(row, t, z_width))
            dy = k.at(arrays["dy"], k.step(row, t, hidden_size))
            with k.vectors() as unit:
                carry = [k.load(address, unit, 1) for address in carries]
                dcarry = [k.load(k.state(arrays["dcarry"], i, row), unit, 1) for i in range(equations.num_states)]
                dcarry[0] = objects([b.fadd(dcarry[0][0], v.load(k.at(dy, unit)))])
                z = k.load(z_in, unit, equations.num_preactivations)
                dzx, dzh, (dh,), *dothers = v.evaluate(equations.backward, [z, *carry, *dcarry])
                for name, values in zip(gradients, (dzx, dzh), strict=False):
                    k.stream(values, k.at(arrays[name], k.step(row, t, depth)), unit)
                k.store(dzh, k.at(rows, k.offset((row, depth))), unit)
                v.store(dh, k.at(k.state(arrays["dcarry"], 0, row), unit))
                for index, (dother,) in enumerate(dothers, start=1):
                    restarted(index, row, unit, reset, dother)
        k.meet(b.sub(k.num_steps, t))
        operand = Operand(rows, depth, depth, arrays["recurrent"])
        with k.products([operand], vectors, hidden_size, t) as (panel, row, (sums,)):
            reset = k.flag(arrays["reset"], k.step(row, t, 1))
            z_next = k.at(arrays["z"], k.step(row, b.sub(t, const(1)), z_width))
            for place in range(vectors):
                unit = k.offset((b.add(b.mul(panel, const(vectors)), const(place)), v.lanes))
                k.prefetch(z_next, unit, equations.num_preactivations)
                mask = v.load(k.at(arrays["mask"], b.add(k.offset((row, hidden_size)), unit)))
                through = v.load(k.at(sums, const(place * v.lanes)))
                direct = v.load(k.at(k.state(arrays["dcarry"], 0, row), unit))
                restarted(0, row, unit, reset, v.multiply_add(mask, through, direct))
    k.end()
    return ffi.register(k.module, k.function, threads, row_groups)


def forward_units(num_gates: int, hidden_size: int, lanes: int) -> int:
    """Vectors of hidden units in a panel of the forward product, which holds all gates of each."""
    return panel_vectors(hidden_size, lanes, max(1, 4 // num_gates))
