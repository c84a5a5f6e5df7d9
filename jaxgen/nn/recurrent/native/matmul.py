"""The matrix product of a native kernel: a few rows times one packed panel of columns, kept in registers."""

import dataclasses

from llvmlite import ir

from jaxgen.nn.recurrent.native.emit import F32, I64, POINTER, Vectors


@dataclasses.dataclass(frozen=True)
class Machine:
    """What the processor offers."""

    lanes: int
    """float32 in a vector register."""
    registers: int
    """Vector registers."""

    def lanes_for(self, width: int) -> int:
        """The widest vector that divides `width`."""
        return next(lanes for lanes in (16, 8, 4, 2, 1) if lanes <= self.lanes and width % lanes == 0)

    def rows_for(self, vectors: int) -> int:
        """Rows whose sums, for a panel of `vectors` columns, stay in registers beside the panel and one factor."""
        return max(1, (self.registers - vectors - 1) // vectors)


def panel_vectors(width: int, lanes: int, vectors: int = 4) -> int:
    """Vectors in a panel of a matrix of `width` columns: as many as divide it, at most `vectors`."""
    return next(n for n in range(vectors, 0, -1) if width // lanes % n == 0)


def row_products(module: ir.Module, rows: int, vectors: int, lanes: int) -> ir.Function:
    """The module's function (a, stride, panel, depth, out): out [rows, vectors, lanes] = a [rows, depth] @ panel.

    The panel is [depth, vectors, lanes], rows of `a` begin `stride` apart; all are float32.
    """
    name = f"products_{rows}x{vectors}"
    if name in module.globals:
        return module.globals[name]
    signature = ir.FunctionType(ir.VoidType(), [POINTER, I64, POINTER, I64, POINTER])
    function = ir.Function(module, signature, name)
    function.linkage = "internal"
    a, stride, panel, depth, out = function.args
    entry, loop, end = (function.append_basic_block(label) for label in ("entry", "loop", "end"))
    builder = ir.IRBuilder(entry)
    v = Vectors(builder, lanes)
    starts = [builder.gep(a, [builder.mul(stride, ir.Constant(I64, r))], source_etype=F32) for r in range(rows)]
    builder.branch(loop)

    builder.position_at_end(loop)
    k = builder.phi(I64)
    k.add_incoming(ir.Constant(I64, 0), entry)
    sums = [[builder.phi(v.type) for _ in range(vectors)] for _ in range(rows)]
    base = builder.mul(k, ir.Constant(I64, vectors * lanes))
    columns = [
        v.load(builder.gep(panel, [builder.add(base, ir.Constant(I64, j * lanes))], source_etype=F32))
        for j in range(vectors)
    ]
    following = builder.add(k, ir.Constant(I64, 1))
    for r in range(rows):
        factor = v.splat(builder.load(builder.gep(starts[r], [k], source_etype=F32), align=4, typ=F32))
        for j in range(vectors):
            total = v.multiply_add(factor, columns[j], sums[r][j])
            sums[r][j].add_incoming(v.constant(0.0), entry)
            sums[r][j].add_incoming(total, loop)
    k.add_incoming(following, loop)
    builder.cbranch(builder.icmp_unsigned("<", following, depth), loop, end)

    builder.position_at_end(end)
    for r in range(rows):
        for j in range(vectors):
            address = builder.gep(out, [ir.Constant(I64, (r * vectors + j) * lanes)], source_etype=F32)
            v.store(_incoming(sums[r][j], loop), address)
    builder.ret_void()
    return function


def _incoming(phi: ir.PhiInstr, block: ir.Block) -> ir.Value:
    return next(value for value, source in phi.incomings if source is block)
