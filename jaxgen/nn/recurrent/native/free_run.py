"""Free-running generation of codes on a CPU as one native kernel: layers of a gated cell, a softmax, and the draw of the
code that the next step reads.

A step of one stream is some microseconds of arithmetic, less than what the parts of a compiled loop cost each time they
are begun. Here the threads stay within the kernel for a whole block of steps, each with its share of every matrix, which
it finds in its own cache again.
"""

import functools
import math
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from llvmlite import ir

from jaxgen.core.machine import available_cores
from jaxgen.nn.recurrent.cell import Carry, Equations, Params
from jaxgen.nn.recurrent.native import ffi
from jaxgen.nn.recurrent.native.emit import F32, I32
from jaxgen.nn.recurrent.native.kernel import Operand, const, loop
from jaxgen.nn.recurrent.native.kernels import Lanes, Recurrence, add_arrays, forward_units, objects
from jaxgen.nn.recurrent.native.matmul import panel_vectors
from jaxgen.nn.recurrent.native.recurrence import (
    append_rows,
    equations,
    pack_gates,
    round_up_to_vectors,
    split_work,
    widen,
    widen_params,
)

_BELOW_ONE = 1 - 2**-24  # the largest float32 below 1


class Sizes(NamedTuple):
    """What a kernel is compiled for."""

    hidden_size: int
    num_layers: int
    lookback: int
    q_levels: int

    @property
    def lanes(self) -> int:
        """Lanes of a vector, of hidden units as of codes."""
        return ffi.machine().lanes_for(math.gcd(self.hidden_size, self.q_levels))

    @property
    def head_vectors(self) -> int:
        """Vectors in a panel of the head."""
        return panel_vectors(self.q_levels, self.lanes)


class _FreeRun(Recurrence):
    def __init__(self, equations: Lanes, sizes: Sizes):
        self.units = forward_units(equations.num_gates, sizes.hidden_size, sizes.lanes)
        super().__init__("free_run", equations, sizes.hidden_size, self.units, sizes.lanes)
        self.sizes = sizes
        layers = range(sizes.num_layers)
        of_layer = ("input", "recurrent", "recurrent_bias", "first", "bias")
        given = [f"{name}{layer}" for layer in layers for name in of_layer if layer or name != "bias"]
        made = [f"{name}{layer}" for layer in layers for name in ("near", "carry")]
        self.arrays = self.arguments("uniform", "code", "window", "table", "constant", *given, "head", "head_bias")
        self.arrays |= self.results("codes", "history", "logits", *made)
        self.rhythm = sizes.num_layers + 2  # meetings a step

    def build(self, threads: int, groups: int) -> str:
        """Target of (uniform [B, T], code int32 [B], window [B, lookback], table [Q, G*H], constant [B, G*H], then of
        each layer: input and recurrent (packed), recurrent_bias [G*H], first [S, B, H] and, but for the lowest, bias
        [G*H]; then head (packed), head_bias [Q]) -> (codes int32 [B, T], history [B, lookback + T], logits [B, Q], then
        of each layer: near [2, B, H], carry [S, B, H]). See `generate`.
        """
        b = self.builder
        self.begin()
        with loop(b, const(0), self.num_steps) as t:
            for layer in range(self.sizes.num_layers):
                self.layer(layer, t)
                self.meet(self.offset((t, self.rhythm), (2 + layer, 1)))
            self.head(t)
            self.meet(self.offset((t, self.rhythm), (self.rhythm, 1)))
            with self.own_rows() as row:
                self.draw(row, t)
            self.meet(self.offset((t, self.rhythm), (self.rhythm + 1, 1)))
        self.end()
        return ffi.register(self.module, self.function, threads, groups)

    def own_rows(self) -> AbstractContextManager[ir.Value]:
        """Loops over the rows of which this thread alone draws the codes."""
        b = self.builder
        start, stop = ffi.share(b, b.sub(self.last, self.first), self.part, self.parts)
        return loop(b, b.add(self.first, start), b.add(self.first, stop))

    def begin(self) -> None:
        """Copies what later steps change."""
        b, v = self.builder, self.v
        for layer in range(self.sizes.num_layers):
            with loop(b, self.first, self.last) as row, self.vectors() as unit:
                for index in range(self.equations.num_states):
                    state = v.load(self.at(self.state(self.arrays[f"first{layer}"], index, row), unit))
                    v.store(state, self.at(self.state(self.arrays[f"carry{layer}"], index, row), unit))
                    if index == 0:
                        v.store(state, self.at(self.hidden(layer, const(0), row), unit))
        with self.own_rows() as row, loop(b, const(0), const(self.sizes.lookback)) as place:
            value = b.load(
                self.at(self.arrays["window"], b.add(self.offset((row, self.sizes.lookback)), place)), typ=F32
            )
            b.store(value, self.at(self.past(row), place))
        self.meet(const(1))

    def hidden(self, layer: int, t: ir.Value, row: ir.Value) -> ir.Value:
        """A row of h before step t."""
        return self.at(
            self.rows(self.arrays[f"near{layer}"], t, self.hidden_size), self.offset((row, self.hidden_size))
        )

    def past(self, row: ir.Value) -> ir.Value:
        """The codes of a row as numbers; those that step t reads begin at t."""
        return self.at(self.arrays["history"], self.offset((row, self.history_length())))

    def history_length(self) -> ir.Value:
        return self.builder.add(self.num_steps, const(self.sizes.lookback))

    def layer(self, layer: int, t: ir.Value) -> None:
        """h and the other states after step t."""
        b, v, hidden, gates = self.builder, self.v, self.hidden_size, self.equations.num_gates
        after, lookback = b.add(t, const(1)), self.sizes.lookback
        start = const(0)
        recurrent = Operand(self.hidden(layer, t, start), hidden, hidden, self.arrays[f"recurrent{layer}"])
        if layer:
            below = Operand(self.hidden(layer - 1, after, start), hidden, hidden, self.arrays[f"input{layer}"])
        else:
            values = self.at(self.past(start), t)
            below = Operand(values, self.history_length(), lookback, self.arrays["input0"])
        width = gates * hidden
        with self.products([recurrent, below], gates * self.units, width, t) as (panel, row, sums):
            addends = self.addends(layer, row, t)
            for place in range(self.units):
                unit = self.offset((b.add(b.mul(panel, const(self.units)), const(place)), v.lanes))
                slots = [const((gate * self.units + place) * v.lanes) for gate in range(gates)]
                zh, zx = (objects([v.load(self.at(out, slot)) for slot in slots]) for out in sums)
                zh = add_arrays(b, zh, self.load(self.arrays[f"recurrent_bias{layer}"], unit, gates))
                for addend in addends:
                    zx = add_arrays(b, zx, self.load(addend, unit, gates))
                others = range(1, self.equations.num_states)
                kept = [self.state(self.arrays[f"carry{layer}"], index, row) for index in others]
                carry = [self.load(base, unit, 1) for base in (self.hidden(layer, t, row), *kept)]
                _, *states = v.evaluate(self.equations.forward, [zx, zh, *carry])
                self.store(states[0], self.hidden(layer, after, row), unit)
                for index, state in enumerate(states):
                    self.store(state, self.state(self.arrays[f"carry{layer}"], index, row), unit)

    def addends(self, layer: int, row: ir.Value, t: ir.Value) -> list[ir.Value]:
        """What the projected input of a layer is added to, [G*H] each."""
        b, width = self.builder, self.equations.num_gates * self.hidden_size
        if layer:
            return [self.arrays[f"bias{layer}"]]
        drawn = self.at(self.arrays["codes"], b.sub(b.add(self.offset((row, self.num_steps)), t), const(1)))
        given = self.at(self.arrays["code"], row)
        code = b.load(b.select(b.icmp_signed("==", t, const(0)), given, drawn), typ=I32)
        entry = self.at(self.arrays["table"], self.offset((b.sext(code, const(0).type), width)))
        return [entry, self.at(self.arrays["constant"], self.offset((row, width)))]

    def head(self, t: ir.Value) -> None:
        """The logits of step t."""
        b, v, size, vectors = self.builder, self.v, self.sizes.q_levels, self.sizes.head_vectors
        top = self.hidden(self.sizes.num_layers - 1, b.add(t, const(1)), const(0))
        operand = Operand(top, self.hidden_size, self.hidden_size, self.arrays["head"])
        with self.products([operand], vectors, size, t) as (panel, row, (sums,)):
            for place in range(vectors):
                code = self.offset((b.add(b.mul(panel, const(vectors)), const(place)), v.lanes))
                logits = v.load(self.at(sums, const(place * v.lanes)))
                biased = b.fadd(logits, v.load(self.at(self.arrays["head_bias"], code)))
                v.store(biased, self.at(self.arrays["logits"], b.add(self.offset((row, size)), code)))

    def draw(self, row: ir.Value, t: ir.Value) -> None:
        """The code of step t: `jaxgen.nn.distributions.Categorical.sample`, first a group of codes, then a code of it."""
        b, v, size = self.builder, self.v, self.sizes.q_levels
        weights = self.at(self.arrays["logits"], self.offset((row, size)))
        groups = self.scratch(size // v.lanes)
        most = self.scratch(v.lanes)
        v.store(v.load(weights), most)
        with loop(b, const(0), const(size), v.lanes) as code:
            v.store(v.largest(v.load(self.at(weights, code)), v.load(most)), most)
        highest = v.splat(v.reduce("fmax", v.load(most)))
        with loop(b, const(0), const(size // v.lanes)) as group:
            place = self.at(weights, b.mul(group, const(v.lanes)))
            weight = v.exp(b.fsub(v.load(place), highest))
            v.store(weight, place)
            b.store(v.reduce("fadd", weight, ir.Constant(F32, 0.0)), self.at(groups, group))
        uniform = b.load(self.at(self.arrays["uniform"], b.add(self.offset((row, self.num_steps)), t)), typ=F32)
        group, share = self.search_cumulative(groups, size // v.lanes, uniform)
        first = b.mul(group, const(v.lanes))
        place, _ = self.search_cumulative(self.at(weights, first), v.lanes, share)
        code = b.add(first, place)
        chosen = self.at(self.arrays["codes"], b.add(self.offset((row, self.num_steps)), t))
        b.store(b.trunc(code, I32), chosen)
        value = b.fmul(b.sitofp(code, F32), ir.Constant(F32, 2 / size))
        latest = self.at(self.past(row), b.add(t, const(self.sizes.lookback)))
        b.store(b.fsub(value, ir.Constant(F32, 1.0)), latest)

    def search_cumulative(self, weights: ir.Value, count: int, share: ir.Value) -> tuple[ir.Value, ir.Value]:
        """Where the running sum of some weights passes a share of their sum, and how far into that weight it is."""
        b, zero, one = self.builder, ir.Constant(F32, 0.0), ir.Constant(F32, 1.0)

        def weight(index: ir.Value) -> ir.Value:
            return b.load(self.at(weights, index), typ=F32)

        total, running, before, index = (self.scratch(1) for _ in range(4))
        for variable in (total, running, before, index):
            b.store(zero, variable)
        with loop(b, const(0), const(count)) as place:
            b.store(b.fadd(b.load(total, typ=F32), weight(place)), total)
        mark = b.fmul(share, b.load(total, typ=F32))
        with loop(b, const(0), const(count - 1)) as place:  # the last is not passed
            now = b.fadd(b.load(running, typ=F32), weight(place))
            b.store(now, running)
            below = b.fcmp_ordered("<=", now, mark)
            b.store(b.select(below, now, b.load(before, typ=F32)), before)
            b.store(b.fadd(b.load(index, typ=F32), b.select(below, one, zero)), index)
        at, start = b.fptosi(b.load(index, typ=F32), const(0).type), b.load(before, typ=F32)
        inside = b.fdiv(b.fsub(mark, start), weight(at))
        inside = b.select(b.fcmp_ordered("<", inside, zero), zero, inside)
        inside = b.select(
            b.fcmp_ordered(">", inside, ir.Constant(F32, _BELOW_ONE)), ir.Constant(F32, _BELOW_ONE), inside
        )
        return at, inside


def generate(
    cell: Equations,
    layers: Sequence[Params],
    head: Array,
    head_bias: Array,
    table: Array,
    constant: Array,
    code: Array,
    window: Array,
    carry: Sequence[Carry],
    uniform: Array,
) -> tuple[Array, list[Carry]]:
    """Codes int32 [B, T] that follow `code` int32 [B], drawn by `uniform` [B, T], and the carry of each layer.

    The first layer reads table [Q, G*H] at the last code, the numbers of the last codes, window [B, lookback] from -1 to
    1, through its input matrix [lookback, G*H], and constant [B, G*H]; the others read the layer below. Logits are
    h @ head [H, Q] + head_bias [Q]. All float32.
    """
    units = cell.hidden_size
    gates, hidden = len(cell.gate_bias), round_up_to_vectors(units)
    cell, head = cell.of_width(hidden), append_rows(head, hidden)
    table, constant, carry = widen((table, constant, carry), units, hidden)
    sizes = Sizes(hidden, len(layers), window.shape[1], head.shape[1])
    arguments = [uniform, code, window, table, constant]
    for layer, (narrow, first) in enumerate(zip(layers, carry, strict=True)):
        params = widen_params(narrow, units, hidden)
        below = append_rows(params["input"], hidden) if layer else params["input"]
        matrices = [pack_gates(matrix, gates, hidden, sizes.lanes) for matrix in (below, params["recurrent"])]
        biases = [params["bias"]] if layer else []  # that of the lowest layer is in the constant
        arguments += [*matrices, params["recurrent_bias"], jnp.stack(first), *biases]
    panels = head.reshape(hidden, -1, sizes.head_vectors, sizes.lanes).transpose(1, 0, 2, 3)
    near, all_states = (2, len(uniform), hidden), (cell.num_states, len(uniform), hidden)
    history, logits = (len(uniform), sizes.lookback + uniform.shape[1]), (len(uniform), sizes.q_levels)
    shapes = (history, logits, *[near, all_states] * len(layers))
    results = [jax.ShapeDtypeStruct(uniform.shape, jnp.int32), *(jax.ShapeDtypeStruct(s, jnp.float32) for s in shapes)]
    matrix_bytes = 4 * hidden * (gates * hidden * (2 * len(layers) - 1) + sizes.q_levels)
    panel = sizes.lanes * forward_units(gates, hidden, sizes.lanes)
    target = _target(cell, sizes, *split_work(available_cores(), len(uniform), matrix_bytes, hidden // panel))
    codes, _, _, *made = jax.ffi.ffi_call(target, results)(*arguments, panels, head_bias)
    return codes, [tuple(states[..., :units]) for states in made[1::2]]


@functools.cache
def _target(cell: Equations, sizes: Sizes, threads: int, groups: int) -> str:
    return _FreeRun(equations(cell), sizes).build(threads, groups)
