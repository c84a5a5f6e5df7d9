"""Turns traced jax functions of a few scalars into vector instructions: the equations of a cell, written once in jax,
become the inner loop of a native kernel.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal
from llvmlite import ir

F32, I1, I32, I64 = ir.FloatType(), ir.IntType(1), ir.IntType(32), ir.IntType(64)
POINTER = ir.PointerType()

# Rational approximation of Eigen and XLA: within a few units in the last place.
_TANH_BOUND, _TANH_LINEAR = 7.90531110763549805, 4e-4
_TANH_TOP = (
    -2.76076847742355e-16,
    2.00018790482477e-13,
    -8.60467152213735e-11,
    5.12229709037114e-08,
    1.48572235717979e-05,
    6.37261928875436e-04,
    4.89352455891786e-03,
)
_TANH_BOTTOM = (1.19825839466702e-06, 1.18534705686654e-04, 2.26843463243900e-03, 4.89352518554385e-03)

_TO_READ_SOON = (0, 2, 1)  # of llvm.prefetch: read, kept in the nearer caches, data

# Cephes' expf: exp(x) = 2^n exp(r) with |r| <= ln(2) / 2, r in two parts so that none of it is lost.
_EXP_BOUND, _LN2_HIGH, _LN2_LOW = 87.0, 0.693359375, -2.12194440e-4
_EXP = (1.9875691500e-4, 1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 5.0000001201e-1)


class UnknownOperation(Exception):
    """A function uses an operation that has no vector form here."""


def pointer(builder: ir.IRBuilder, address: ir.Value) -> ir.Value:
    """An address as a plain pointer: llvmlite gives functions and what `alloca` makes a type of their own."""
    return builder.inttoptr(builder.ptrtoint(address, I64), POINTER)


class Vectors:
    """Arithmetic on vectors of `lanes` float32 in one place of the code under construction."""

    def __init__(self, builder: ir.IRBuilder, lanes: int):
        self.builder, self.lanes = builder, lanes
        self.type = ir.VectorType(F32, lanes)

    def constant(self, value: float) -> ir.Constant:
        """`value` in every lane."""
        exact = float(np.float32(value))
        return ir.Constant(self.type, [ir.Constant(F32, exact)] * self.lanes)

    def splat(self, scalar: ir.Value) -> ir.Value:
        """A scalar in every lane."""
        zeros = ir.Constant(ir.VectorType(I32, self.lanes), [0] * self.lanes)
        first = self.builder.insert_element(ir.Constant(self.type, ir.Undefined), scalar, ir.Constant(I32, 0))
        return self.builder.shuffle_vector(first, ir.Constant(self.type, ir.Undefined), zeros)

    def load(self, address: ir.Value) -> ir.Value:
        return self.builder.load(address, align=4, typ=self.type)

    def store(self, value: ir.Value, address: ir.Value) -> None:
        self.builder.store(value, address, align=4)

    def stream(self, value: ir.Value, address: ir.Value) -> None:
        """Stores at an address aligned to the vector, past the caches: for what is read much later, after a fence."""
        store = self.builder.store(value, address, align=4 * self.lanes)
        store.set_metadata("nontemporal", self.builder.module.add_metadata([I32(1)]))

    def prefetch(self, address: ir.Value) -> None:
        """Asks for the cache line of an address, which need not be valid, ahead of its use."""
        name, module = "llvm.prefetch.p0", self.builder.module
        kind = ir.FunctionType(ir.VoidType(), [POINTER, I32, I32, I32])
        function = module.globals.get(name) or ir.Function(module, kind, name)
        self.builder.call(function, [address, *(ir.Constant(I32, how) for how in _TO_READ_SOON)])

    def multiply_add(self, a: ir.Value, b: ir.Value, c: ir.Value) -> ir.Value:
        """a b + c, fused where the processor can."""
        return self._intrinsic("llvm.fmuladd", a, b, c)

    def tanh(self, x: ir.Value) -> ir.Value:
        """Hyperbolic tangent."""
        b = self.builder
        clamped = self._intrinsic("llvm.minnum", x, self.constant(_TANH_BOUND))
        clamped = self._intrinsic("llvm.maxnum", clamped, self.constant(-_TANH_BOUND))
        square = b.fmul(clamped, clamped)
        top = b.fmul(clamped, self._polynomial(square, _TANH_TOP))
        curved = b.fdiv(top, self._polynomial(square, _TANH_BOTTOM))
        near = b.fcmp_ordered("<", self._intrinsic("llvm.fabs", x), self.constant(_TANH_LINEAR))
        finite = b.select(near, x, curved)
        return b.select(b.fcmp_unordered("uno", x, x), x, finite)  # a nan stays one: divergence must be seen

    def exp(self, x: ir.Value) -> ir.Value:
        """Exponential; 0 below -87."""
        b = self.builder
        clamped = self._intrinsic("llvm.minnum", x, self.constant(_EXP_BOUND))
        clamped = self._intrinsic("llvm.maxnum", clamped, self.constant(-_EXP_BOUND))
        power = self._intrinsic("llvm.rint", b.fmul(clamped, self.constant(math.log2(math.e))))
        rest = self.multiply_add(power, self.constant(-_LN2_HIGH), clamped)
        rest = self.multiply_add(power, self.constant(-_LN2_LOW), rest)
        one = self.constant(1.0)
        curved = self.multiply_add(self._polynomial(rest, _EXP), b.fmul(rest, rest), b.fadd(rest, one))
        whole = ir.VectorType(I32, self.lanes)
        exponent = b.add(b.fptosi(power, whole), ir.Constant(whole, [127] * self.lanes))
        scale = b.bitcast(b.shl(exponent, ir.Constant(whole, [23] * self.lanes)), self.type)
        finite = b.select(b.fcmp_ordered("<", x, self.constant(-_EXP_BOUND)), self.constant(0.0), b.fmul(curved, scale))
        return b.select(b.fcmp_unordered("uno", x, x), x, finite)

    def largest(self, a: ir.Value, b: ir.Value) -> ir.Value:
        """The larger of each pair, a nan where there is one."""
        return self._either(">", a, b)

    def smallest(self, a: ir.Value, b: ir.Value) -> ir.Value:
        """The smaller of each pair, a nan where there is one."""
        return self._either("<", a, b)

    def _either(self, comparison: str, a: ir.Value, b: ir.Value) -> ir.Value:
        choice = self.builder.select(self.builder.fcmp_unordered(comparison, a, b), a, b)
        return self.builder.select(self.builder.fcmp_unordered("uno", b, b), b, choice)

    def reduce(self, operation: str, x: ir.Value, *start: ir.Value) -> ir.Value:
        """A scalar of all lanes; operation: fmax, or fadd after a start."""
        module, name = self.builder.module, f"llvm.vector.reduce.{operation}.v{self.lanes}f32"
        kind = ir.FunctionType(F32, [F32] * len(start) + [self.type])
        function = module.globals.get(name) or ir.Function(module, kind, name)
        return self.builder.call(function, [*start, x], fastmath=("reassoc",))

    def evaluate(self, function: ClosedJaxpr, arguments: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Runs a traced function on arrays of vectors (object arrays; each element is one vector of lanes).

        Raises UnknownOperation for a primitive that is not in the table below.
        """
        return self._run(function.jaxpr, function.consts, arguments)

    def _run(self, jaxpr: Jaxpr, consts: Sequence[Any], arguments: Sequence[np.ndarray]) -> list[np.ndarray]:
        values: dict[Any, np.ndarray] = dict(zip(jaxpr.invars, arguments, strict=True))
        values |= {var: self._constants(c) for var, c in zip(jaxpr.constvars, consts, strict=True)}

        def read(atom: Any) -> np.ndarray:
            return self._constants(atom.val) if isinstance(atom, Literal) else values[atom]

        for equation in jaxpr.eqns:
            inputs = [read(atom) for atom in equation.invars]
            outputs = self._apply(equation.primitive.name, equation.params, inputs)
            values.update(zip(equation.outvars, outputs, strict=True))
        return [read(atom) for atom in jaxpr.outvars]

    def _apply(self, name: str, params: dict[str, Any], inputs: list[np.ndarray]) -> list[np.ndarray]:
        if name in _CALLS:
            inner = params.get("jaxpr") or params["call_jaxpr"]
            return self._run(inner.jaxpr, inner.consts, inputs)
        if name in _SHAPES:
            return _SHAPES[name](params, *inputs)
        if name not in _ELEMENTWISE:
            raise UnknownOperation(name)
        function = functools.partial(_ELEMENTWISE[name], self, params)
        return [np.vectorize(function, otypes=[object])(*inputs)]

    def _constants(self, value: Any) -> np.ndarray:
        array = np.asarray(value)
        out = np.empty(array.shape, object)
        for index in np.ndindex(array.shape):
            out[index] = self.constant(array[index].item())
        return out

    def _polynomial(self, x: ir.Value, coefficients: Sequence[float]) -> ir.Value:
        total: ir.Value = self.constant(coefficients[0])
        for coefficient in coefficients[1:]:
            total = self.multiply_add(total, x, self.constant(coefficient))
        return total

    def _intrinsic(self, name: str, *arguments: ir.Value) -> ir.Value:
        name, module = f"{name}.v{self.lanes}f32", self.builder.module
        function = module.globals.get(name)
        if function is None:
            function = ir.Function(module, ir.FunctionType(self.type, [self.type] * len(arguments)), name)
        return self.builder.call(function, arguments)


def trace_jaxpr(function: Callable[..., Any], *sizes: int) -> ClosedJaxpr:
    """The jaxpr of a function of float32 vectors of these sizes."""
    return jax.make_jaxpr(function)(*(jax.ShapeDtypeStruct((size,), np.float32) for size in sizes))


def _power(v: Vectors, params: dict[str, Any], x: ir.Value) -> ir.Value:
    if params["y"] < 1:
        raise UnknownOperation(f"integer_pow {params['y']}")
    return functools.reduce(v.builder.fmul, [x] * params["y"])


def _logistic(v: Vectors, params: dict[str, Any], x: ir.Value) -> ir.Value:
    half = v.constant(0.5)
    return v.multiply_add(v.tanh(v.builder.fmul(half, x)), half, half)


_CALLS = {"jit", "pjit", "closed_call", "custom_jvp_call", "custom_vjp_call"}  # of a function, once
_ELEMENTWISE: dict[str, Callable[..., ir.Value]] = {
    "add": lambda v, _, a, b: v.builder.fadd(a, b),
    "add_any": lambda v, _, a, b: v.builder.fadd(a, b),
    "sub": lambda v, _, a, b: v.builder.fsub(a, b),
    "mul": lambda v, _, a, b: v.builder.fmul(a, b),
    "div": lambda v, _, a, b: v.builder.fdiv(a, b),
    "neg": lambda v, _, a: v.builder.fneg(a),
    "exp": lambda v, _, a: v.exp(a),
    "max": lambda v, _, a, b: v.largest(a, b),
    "min": lambda v, _, a, b: v.smallest(a, b),
    "gt": lambda v, _, a, b: v.builder.fcmp_ordered(">", a, b),
    "lt": lambda v, _, a, b: v.builder.fcmp_ordered("<", a, b),
    "ge": lambda v, _, a, b: v.builder.fcmp_ordered(">=", a, b),
    "le": lambda v, _, a, b: v.builder.fcmp_ordered("<=", a, b),
    "eq": lambda v, _, a, b: v.builder.fcmp_ordered("==", a, b),
    "ne": lambda v, _, a, b: v.builder.fcmp_unordered("!=", a, b),
    "select_n": lambda v, _, which, a, b: v.builder.select(which, b, a),
    "square": lambda v, _, a: v.builder.fmul(a, a),
    "integer_pow": _power,
    "tanh": lambda v, _, a: v.tanh(a),
    "logistic": _logistic,
}


def _split(params: dict[str, Any], x: np.ndarray) -> list[np.ndarray]:
    return np.split(x, np.cumsum(params["sizes"])[:-1], axis=params["axis"])


def _broadcast(params: dict[str, Any], x: np.ndarray) -> list[np.ndarray]:
    shape = [1] * len(params["shape"])
    for axis, size in zip(params["broadcast_dimensions"], x.shape, strict=True):
        shape[axis] = size
    return [np.broadcast_to(x.reshape(shape), params["shape"])]


def _slice(params: dict[str, Any], x: np.ndarray) -> list[np.ndarray]:
    starts, limits = params["start_indices"], params["limit_indices"]
    strides = params["strides"] or (1,) * x.ndim
    return [x[tuple(slice(*bounds) for bounds in zip(starts, limits, strides, strict=True))]]


def _pad(params: dict[str, Any], x: np.ndarray, value: np.ndarray) -> list[np.ndarray]:
    if any(low < 0 or high < 0 or inside for low, high, inside in params["padding_config"]):
        raise UnknownOperation("pad")
    shape = [low + size + high for (low, high, _), size in zip(params["padding_config"], x.shape, strict=True)]
    out = np.full(shape, value[()], object)
    out[tuple(slice(low, low + n) for (low, _, _), n in zip(params["padding_config"], x.shape, strict=True))] = x
    return [out]


_SHAPES: dict[str, Callable[..., list[np.ndarray]]] = {
    "split": _split,
    "broadcast_in_dim": _broadcast,
    "slice": _slice,
    "pad": _pad,
    "reshape": lambda params, x: [x.reshape(params["new_sizes"])],
    "squeeze": lambda params, x: [np.squeeze(x, params["dimensions"])],
    "concatenate": lambda params, *xs: [np.concatenate(xs, params["dimension"])],
    "copy": lambda params, x: [x],
}
