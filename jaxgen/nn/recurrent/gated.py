"""Gated cells, written once, and the two ways to run them: one step, or unrolled over time.

A gated cell is one input projection, one recurrent product and a pointwise function of the two:

    zx = x W + b,   zh = h U + c,   carry' = pointwise(preactivation(zx, zh), carry)

`unroll` equals repeated `step` in values and gradients. It hoists the input projection out of the loop, and its
gradient (generic over cells) leaves in the loop only what is sequential: the gradients of W and U are large products
after it.
"""

import abc
import dataclasses
import functools
from collections.abc import Callable
from typing import Any, ClassVar, Literal, Self

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike

from jaxgen.core.errors import UserError
from jaxgen.nn.recurrent import cudnn, scan
from jaxgen.nn.recurrent.cell import Carry, Cell, Params, restart
from jaxgen.nn.recurrent.native import recurrence
from jaxgen.nn.recurrent.product import dot, product
from jaxgen.nn.recurrent.scan import apply_mask

_NORM_EPSILON = 1e-3  # a zero state has zh = 0, where the slope of the normalisation is epsilon ** -0.5


@dataclasses.dataclass(frozen=True)
class GatedCell(Cell):
    """A cell with G gates. Its parameters: input [D, G*H], recurrent [H, G*H], bias and recurrent_bias [G*H], initial;
    with layer normalisation also input_gain and recurrent_gain [G*H].
    """

    layer_norm: bool = dataclasses.field(default=False, kw_only=True)
    """Normalise both pre-activations (Ba et al. 2016, eq. 20-21, without the normalised LSTM output)."""

    gate_bias: ClassVar[tuple[float, ...]]  # initial bias of each gate
    recurrent_matrices = ("recurrent",)

    def preactivation(self, zx: Array, zh: Array) -> Array:
        """Joins input and recurrent pre-activations [..., G*H] into all that `pointwise` needs of them (linear)."""
        return zx + zh

    @abc.abstractmethod
    def pointwise(self, z: Array, carry: Carry) -> Carry:
        """The next carry from the joined pre-activations z [..., *] and the carry [..., H]."""

    def of_width(self, hidden_size: int) -> Self:
        """The same equations with another H."""
        return dataclasses.replace(self, hidden_size=hidden_size)

    def init(self, key: Array, in_features: int) -> Params:
        """Fresh float32 parameters: LeCun normal input, orthogonal recurrence for each gate, zero initial carry."""
        hidden, gates = self.hidden_size, len(self.gate_bias)
        input_key, *gate_keys = jax.random.split(key, 1 + gates)
        orthogonal = functools.partial(jax.nn.initializers.orthogonal(), shape=(hidden, hidden))
        recurrent = jax.lax.map(orthogonal, jnp.stack(gate_keys))  # a loop: compiled once
        params = {
            "input": jax.nn.initializers.lecun_normal()(input_key, (in_features, gates * hidden)),
            "recurrent": jnp.concatenate(list(recurrent), axis=1),
            "bias": jnp.repeat(jnp.array(self.gate_bias, jnp.float32), hidden),
            "recurrent_bias": jnp.zeros(gates * hidden),
            "initial": jnp.zeros((self.num_states, hidden)),
        }
        if self.layer_norm:
            params |= {name: jnp.ones(gates * hidden) for name in ("input_gain", "recurrent_gain")}
        return params

    def step(
        self,
        params: Params,
        x: Array,
        carry: Carry,
        reset: Array | None = None,
        hidden_mask: Array | None = None,
    ) -> tuple[Array, Carry]:
        if reset is not None:
            carry = restart(params["initial"], carry, reset)
        zx, zh = _from_input(params, x), _from_hidden(params, apply_mask(carry[0], hidden_mask), x.dtype)
        carry = self.pointwise(self.preactivation(zx, zh), carry)
        return carry[0].astype(x.dtype), carry

    def unroll(
        self, params: Params, x: Array, carry: Carry, reset: Array, hidden_mask: Array | None = None
    ) -> tuple[Array, Carry]:
        hidden = self.hidden_size
        wide = recurrence.round_up_to_vectors(hidden) if runs_natively(self, x.dtype) else hidden
        params = recurrence.widen_params(params, hidden, wide)
        carry, hidden_mask = recurrence.widen((carry, hidden_mask), hidden, wide)
        hs, carry = _unroll(self.of_width(wide), x.dtype, params, x, carry, reset, hidden_mask)
        return hs[..., :hidden].astype(x.dtype), tuple(state[:, :hidden] for state in carry)


@dataclasses.dataclass(frozen=True)
class RNN(GatedCell):
    """h' = sigma(W x + U h + b) (Elman 1990)."""

    activation: Literal["tanh", "relu", "sigmoid"] = "tanh"
    """Nonlinearity sigma."""

    gate_bias = (0.0,)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.activation not in _ACTIVATIONS:
            raise UserError(f"activation is {self.activation!r}; RNN takes one of {', '.join(_ACTIVATIONS)}.")

    def pointwise(self, z: Array, carry: Carry) -> Carry:
        return (_ACTIVATIONS[self.activation](z),)


@dataclasses.dataclass(frozen=True)
class LSTM(GatedCell):
    """Long short-term memory with forget gate (Gers et al. 2000), gates in the order i, f, o, g; carry (h, c)."""

    gate_bias = (0.0, 1.0, 0.0, 0.0)  # forget bias of Jozefowicz et al. 2015
    num_states = 2

    def pointwise(self, z: Array, carry: Carry) -> Carry:
        scale = jnp.repeat(jnp.array([0.5, 0.5, 0.5, 1.0], z.dtype), self.hidden_size)
        i, f, o, g = jnp.split(jnp.tanh(scale * z), 4, axis=-1)  # one tanh: sigmoid(x) = (tanh(x / 2) + 1) / 2
        c = 0.5 * ((f + 1) * carry[1] + (i + 1) * g)
        return 0.5 * (o + 1) * jnp.tanh(c), c

    def unroll(
        self, params: Params, x: Array, carry: Carry, reset: Array, hidden_mask: Array | None = None
    ) -> tuple[Array, Carry]:
        by_us = super().unroll
        if not cudnn.available() or x.dtype != jnp.float32 or self.layer_norm or hidden_mask is not None:
            return by_us(params, x, carry, reset, hidden_mask)
        return jax.lax.cond(  # cuDNN knows no resets but the one before the first step
            reset[:, 1:].any(),
            lambda: by_us(params, x, carry, reset),
            lambda: cudnn.unroll(params, x, restart(params["initial"], carry, reset[:, 0])),
        )


@dataclasses.dataclass(frozen=True)
class GRU(GatedCell):
    """Gated recurrent unit (Cho et al. 2014), gates in the order r, z, n.

    The reset gate acts after the product, n = tanh(zx_n + r * zh_n), as in cuDNN, PyTorch and flax.
    """

    gate_bias = (0.0, 0.0, 0.0)

    def preactivation(self, zx: Array, zh: Array) -> Array:
        both = 2 * self.hidden_size
        return jnp.concatenate([zx[..., :both] + zh[..., :both], zx[..., both:], zh[..., both:]], axis=-1)

    def pointwise(self, z: Array, carry: Carry) -> Carry:
        r, update, zx_n, zh_n = jnp.split(z, 4, axis=-1)
        n = jnp.tanh(zx_n + _sigmoid(r) * zh_n)
        return (n + _sigmoid(update) * (carry[0] - n),)


def _sigmoid(x: Array) -> Array:
    return 0.5 * jnp.tanh(0.5 * x) + 0.5


_ACTIVATIONS: dict[str, Callable[[Array], Array]] = {"tanh": jnp.tanh, "relu": jax.nn.relu, "sigmoid": _sigmoid}


def _from_input(params: Params, x: Array) -> Array:
    return _normalised(product(x, params["input"], x.dtype), params.get("input_gain")) + params["bias"]


def _from_hidden(params: Params, h: Array, dtype: DTypeLike) -> Array:
    return _recurrent_part(params, product(h, params["recurrent"], dtype))


def _recurrent_part(params: Params, zh: Array) -> Array:
    return _normalised(zh, params.get("recurrent_gain")) + params["recurrent_bias"]


def _normalised(z: Array, gain: Array | None) -> Array:
    if gain is None:
        return z
    centred = z - z.mean(-1, keepdims=True)
    return gain * centred * jax.lax.rsqrt(jnp.square(centred).mean(-1, keepdims=True) + _NORM_EPSILON)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _unroll(
    cell: GatedCell, dtype: DTypeLike, params: Params, x: Array, carry: Carry, reset: Array, mask: Array | None
) -> tuple[Array, Carry]:
    """x [B, T, D], reset [B, T] -> (float32 h [B, T, H], carry)."""
    return _unroll_forward(cell, dtype, params, x, carry, reset, mask)[0]


def _unroll_forward(
    cell: GatedCell, dtype: DTypeLike, params: Params, x: Array, carry: Carry, reset: Array, mask: Array | None
) -> tuple[tuple[Array, Carry], Any]:
    def by_scan() -> tuple[Array, Array, Carry]:
        kernel, part = params["recurrent"].astype(dtype), functools.partial(_recurrent_part, params)
        return scan.forward(cell, part, kernel, params["initial"], _from_input(params, x), carry, reset, mask)

    def natively() -> tuple[Array, Array, Carry]:
        return recurrence.forward(cell, params, dot(x, params["input"]), carry, reset, _ones(mask, carry))

    z, h_in, states = _on_device(cell, dtype, natively, by_scan)()
    saved = (params, x, z, h_in, states, carry, reset, mask)
    return (states[0], tuple(s[:, -1] for s in states)), saved


def _unroll_backward(cell: GatedCell, dtype: DTypeLike, saved: Any, cotangents: tuple[Array, Carry]) -> Any:
    params, x, z, h_in, states, first, reset, mask = saved
    _, pull_input = jax.vjp(_from_input, params, x)  # products that nobody reads are not compiled
    _, pull_hidden = jax.vjp(functools.partial(_from_hidden, dtype=dtype), params, h_in)

    def by_scan() -> tuple[Array, Array, Carry, Array]:
        kernel, part = params["recurrent"].astype(dtype), functools.partial(_recurrent_part, params)
        raw = dot(h_in.astype(dtype), kernel)
        return scan.backward(cell, part, kernel, params["initial"], z, raw, states, first, reset, mask, *cotangents)

    def natively() -> tuple[Array, Array, Carry, Array]:
        return recurrence.backward(cell, params, z, states, first, reset, _ones(mask, first), *cotangents)

    dzx, dzh, dfirst, dinitial = _on_device(cell, dtype, natively, by_scan)()
    dparams, dx = pull_input(dzx)
    dparams = jax.tree.map(jnp.add, dparams, pull_hidden(dzh)[0]) | {"initial": dinitial}
    return dparams, dx, dfirst, None, None


_unroll.defvjp(_unroll_forward, _unroll_backward)


def runs_natively(cell: Cell, dtype: DTypeLike) -> bool:
    """Whether native code runs the cell: in float32, on a CPU, where it knows the operations of its equations."""
    if jax.default_backend() != "cpu" or dtype != jnp.float32:
        return False
    return isinstance(cell, GatedCell) and not cell.layer_norm and recurrence.is_supported(cell)


def _on_device(
    cell: GatedCell, dtype: DTypeLike, natively: Callable[[], Any], by_scan: Callable[[], Any]
) -> Callable[[], Any]:
    """Native code where it can be had, the scan elsewhere, also where a program is lowered for another platform."""
    if not runs_natively(cell, dtype):
        return by_scan
    return functools.partial(jax.lax.platform_dependent, cpu=natively, default=by_scan)


def _ones(mask: Array | None, carry: Carry) -> Array:
    """The mask, or one that changes nothing."""
    return jnp.ones_like(carry[0]) if mask is None else mask
