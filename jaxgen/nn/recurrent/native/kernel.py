"""A native kernel under construction: loops, addresses, products, and the meeting of its threads."""

import contextlib
import dataclasses
from collections.abc import Iterator, Sequence

from llvmlite import ir

from jaxgen.nn.recurrent.native import ffi
from jaxgen.nn.recurrent.native.emit import F32, I1, I64, Vectors, pointer
from jaxgen.nn.recurrent.native.matmul import row_products


def const(value: int) -> ir.Constant:
    return ir.Constant(I64, value)


@contextlib.contextmanager
def loop(builder: ir.IRBuilder, start: ir.Value, stop: ir.Value, step: int = 1) -> Iterator[ir.Value]:
    """for index in range(start, stop, step), or downward from stop - 1 to start where step is -1."""
    check, body, end = (builder.append_basic_block(label) for label in ("check", "body", "end"))
    before = builder.block
    first = builder.sub(stop, const(1)) if step < 0 else start
    builder.branch(check)
    builder.position_at_end(check)
    index = builder.phi(I64)
    index.add_incoming(first, before)
    going = builder.icmp_signed(">=", index, start) if step < 0 else builder.icmp_signed("<", index, stop)
    builder.cbranch(going, body, end)
    builder.position_at_end(body)
    yield index
    index.add_incoming(builder.add(index, const(step)), builder.block)
    builder.branch(check)
    builder.position_at_end(end)


@dataclasses.dataclass(frozen=True)
class Operand:
    """A factor a [B, depth], rows `stride` apart, and the packed matrix [panels, depth, vectors, lanes] it meets."""

    a: ir.Value
    stride: ir.Value | int
    depth: int
    packed: ir.Value


class Kernel:
    """A function of the type `ffi.WORK` under construction, and the addresses within its arrays."""

    def __init__(self, name: str, lanes: int):
        self.module = ir.Module(name)
        self.function = ir.Function(self.module, ffi.WORK, name)
        self.frame, self.first, self.last, self.part, self.parts, self.arrivals = self.function.args
        self.builder = ir.IRBuilder(self.function.append_basic_block("entry"))
        self.v = Vectors(self.builder, lanes)

    def at(self, base: ir.Value, offset: ir.Value) -> ir.Value:
        return self.builder.gep(base, [offset], source_etype=F32)

    def offset(self, *terms: tuple[ir.Value | int, ir.Value | int]) -> ir.Value:
        """Sum of products."""
        total: ir.Value = const(0)
        for pair in terms:
            a, b = (const(x) if isinstance(x, int) else x for x in pair)
            total = self.builder.add(total, self.builder.mul(a, b))
        return total

    def flag(self, base: ir.Value, offset: ir.Value) -> ir.Value:
        """A bool of an array, as one bit."""
        byte = self.builder.load(self.builder.gep(base, [offset], source_etype=ir.IntType(8)), typ=ir.IntType(8))
        return self.builder.icmp_unsigned("!=", byte, ir.Constant(ir.IntType(8), 0))

    @contextlib.contextmanager
    def products(
        self, operands: Sequence[Operand], vectors: int, width: int, t: ir.Value
    ) -> Iterator[tuple[ir.Value, ir.Value, list[ir.Value]]]:
        """Loops over panels and rows; yields (panel, row, sums of the row [vectors, lanes] for each operand).

        The panel is the outer loop: it stays in the nearest cache while all rows of this thread use it. Panels are
        taken to and fro at every other step t: those that were last are still in a cache that cannot hold them all.
        """
        b, line = self.builder, vectors * self.v.lanes
        most = ffi.machine().rows_for(vectors)
        sums = [self.scratch(most * line) for _ in operands]
        start, stop = ffi.share(b, const(width // line), self.part, self.parts)
        back = b.trunc(t, I1)
        with loop(b, start, stop) as turn, loop(b, self.first, self.last, most) as row:
            panel = b.select(back, b.sub(b.add(start, stop), b.add(turn, const(1))), turn)
            left = b.sub(self.last, row)
            count = b.select(b.icmp_signed("<", left, const(most)), left, const(most))
            for operand, out in zip(operands, sums, strict=True):
                columns = self.at(operand.packed, self.offset((panel, operand.depth * line)))
                self._rows(operand, row, count, columns, vectors, out)
            with loop(b, const(0), count) as index:
                yield panel, b.add(row, index), [self.at(out, self.offset((index, line))) for out in sums]

    def _rows(
        self, operand: Operand, row: ir.Value, count: ir.Value, columns: ir.Value, vectors: int, out: ir.Value
    ) -> None:
        """out [count, vectors, lanes] = `count` rows of the operand @ columns."""
        b = self.builder
        start = self.at(operand.a, self.offset((row, operand.stride)))
        stride = const(operand.stride) if isinstance(operand.stride, int) else operand.stride
        done = self.function.append_basic_block("done")
        switch = b.switch(count, done)
        for n in range(1, ffi.machine().rows_for(vectors) + 1):
            case = self.function.append_basic_block(f"rows_{n}")
            switch.add_case(const(n), case)
            b.position_at_end(case)
            product = row_products(self.module, n, vectors, self.v.lanes)
            b.call(product, [start, stride, columns, const(operand.depth), out])
            b.branch(done)
        b.position_at_end(done)

    def meet(self, times: ir.Value) -> None:
        """Waits for the other threads of these rows, for the `times`-th time."""
        with self.builder.if_then(self.builder.icmp_signed(">", self.parts, const(1))):
            self.builder.atomic_rmw("add", self.arrivals, const(1), "acq_rel")
            ffi.wait_until(self.builder, self.arrivals, self.builder.mul(times, self.parts))

    def scratch(self, size: int) -> ir.Value:
        """float32 [size] of this thread's own."""
        with self.builder.goto_entry_block():
            return pointer(self.builder, self.builder.alloca(F32, size))
