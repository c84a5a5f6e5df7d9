"""Gated cells, written once, and the two ways to run them: one step, or unrolled over time.

A gated cell is one input projection, one recurrent product and a pointwise function of the two:

    zx = x W + b,   zh = h U + c,   carry' = pointwise(preactivation(zx, zh), carry)

`unroll` equals repeated `step` in values and gradients. It hoists the input projection out of the loop, and its
gradient (generic over cells) leaves in the loop only what is sequential: the derivatives of the pointwise part are
taken for all steps at once before the backward scan, and the gradient of U is one large product after it.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike

from jaxgen.errors import UserError
from jaxgen.recurrent import scan
from jaxgen.recurrent.cell import Carry, Cell, Params, restart
from jaxgen.recurrent.native import recurrence
from jaxgen.recurrent.scan import dot, masked

_NORM_EPSILON = 1e-3  # a zero state has zh = 0, where the slope of the normalisation is epsilon ** -0.5


@dataclasses.dataclass(frozen=True)
class GatedCell(Cell):
    """A cell with G gates. Its parameters: input [D, G*H], recurrent [H, G*H], bias and recurrent_bias [G*H], initial;
    with layer normalisation also input_gain and recurrent_gain [G*H].
    """

    layer_norm: bool = dataclasses.field(default=False, kw_only=True)
    """Normalise both pre-activations (Ba et al. 2016, eq. 20-21, without the normalised LSTM output)."""

    gate_bias: ClassVar[tuple[float, ...]]  # initial bias of each gate

    def preactivation(self, zx: Array, zh: Array) -> Array:
        """Joins input and recurrent pre-activations [..., G*H] into all that `pointwise` needs of them (linear)."""
        return zx + zh

    def pointwise(self, z: Array, carry: Carry) -> Carry:
        """The next carry from the joined pre-activations z [..., *] and the carry [..., H]."""
        raise NotImplementedError

    def init(self, key: Array, in_features: int) -> Params:
        """Fresh float32 parameters: LeCun normal input, orthogonal recurrence for each gate, zero initial carry."""
        hidden, gates = self.hidden_size, len(self.gate_bias)
        input_key, *gate_keys = jax.random.split(key, 1 + gates)
        orthogonal = jax.nn.initializers.orthogonal()
        params = {
            "input": jax.nn.initializers.lecun_normal()(input_key, (in_features, gates * hidden)),
            "recurrent": jnp.concatenate([orthogonal(k, (hidden, hidden)) for k in gate_keys], axis=1),
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
        zx = _input_part(params, x)
        zh = _recurrent_part(params, _product(masked(carry[0], hidden_mask), params["recurrent"], x.dtype))
        carry = self.pointwise(self.preactivation(zx, zh), carry)
        return carry[0].astype(x.dtype), carry

    def unroll(
        self, params: Params, x: Array, carry: Carry, reset: Array, hidden_mask: Array | None = None
    ) -> tuple[Array, Carry]:
        hs, carry = _recurrence(self, x.dtype, params, _input_part(params, x), carry, reset, hidden_mask)
        return hs.astype(x.dtype), carry


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


def _input_part(params: Params, x: Array) -> Array:
    return _normalised(_product(x, params["input"], x.dtype), params.get("input_gain")) + params["bias"]


def _recurrent_part(params: Params, zh: Array) -> Array:
    return _normalised(zh, params.get("recurrent_gain")) + params["recurrent_bias"]


def _normalised(z: Array, gain: Array | None) -> Array:
    if gain is None:
        return z
    centred = z - z.mean(-1, keepdims=True)
    return gain * centred * jax.lax.rsqrt(jnp.square(centred).mean(-1, keepdims=True) + _NORM_EPSILON)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _product(x: Array, kernel: Array, dtype: DTypeLike) -> Array:
    """x [..., D] @ kernel [D, F] in `dtype`, float32 accumulation and result; so are the products of its gradient."""
    return dot(x.astype(dtype), kernel.astype(dtype))


def _product_forward(x: Array, kernel: Array, dtype: DTypeLike) -> tuple[Array, Any]:
    return _product(x, kernel, dtype), (x, kernel)


def _product_backward(dtype: DTypeLike, saved: Any, dz: Array) -> tuple[Array, Array]:
    x, kernel = saved
    dz = dz.astype(dtype)
    return dot(dz, kernel.astype(dtype).T).astype(x.dtype), _kernel_gradient(x.astype(dtype), dz)


def _kernel_gradient(x: Array, dz: Array) -> Array:
    return dot(x.reshape(-1, x.shape[-1]).T, dz.reshape(-1, dz.shape[-1]))


_product.defvjp(_product_forward, _product_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _recurrence(
    cell: GatedCell, dtype: DTypeLike, params: Params, zx: Array, carry: Carry, reset: Array, mask: Array | None
) -> tuple[Array, Carry]:
    """zx [B, T, G*H], reset [B, T] -> (h [B, T, H], carry)."""
    return _recurrence_forward(cell, dtype, params, zx, carry, reset, mask)[0]


def _recurrence_forward(
    cell: GatedCell, dtype: DTypeLike, params: Params, zx: Array, carry: Carry, reset: Array, mask: Array | None
) -> tuple[tuple[Array, Carry], Any]:
    recurrent, initial = params["recurrent"], params["initial"]
    part = functools.partial(_recurrent_part, params)

    def by_scan(zx: Array, carry: Carry) -> tuple[Array, Array, Carry]:
        return scan.forward(cell, dtype, part, recurrent, initial, zx, carry, reset, mask)

    def natively(zx: Array, carry: Carry) -> tuple[Array, Array, Carry]:
        ones = _ones_like(mask, carry[0])
        return recurrence.forward(cell, params["recurrent_bias"], recurrent, initial, zx, carry, reset, ones)

    z, h_in, states = _on_device(cell, dtype, natively, by_scan)(zx, carry)
    return (states[0], tuple(s[:, -1] for s in states)), (params, z, h_in, states, carry, reset, mask)


def _recurrence_backward(cell: GatedCell, dtype: DTypeLike, saved: Any, cotangents: tuple[Array, Carry]) -> Any:
    params, z, h_in, states, first, reset, mask = saved
    recurrent, initial = params["recurrent"], params["initial"]
    part = functools.partial(_recurrent_part, params)

    def by_scan(dy: Array, dlast: Carry) -> tuple[Array, Array, Carry, Array]:
        return scan.backward(cell, dtype, part, recurrent, initial, z, h_in, states, first, reset, mask, dy, dlast)

    def natively(dy: Array, dlast: Carry) -> tuple[Array, Array, Carry, Array]:
        ones = _ones_like(mask, first[0])
        return recurrence.backward(cell, recurrent, initial, z, states, first, reset, ones, dy, dlast)

    dzx, dzh, dfirst, dinitial = _on_device(cell, dtype, natively, by_scan)(*cotangents)
    h_in = h_in.astype(dtype)
    raw = scan.dot(h_in, recurrent.astype(dtype))  # compiled only where the recurrent part is not linear
    draw, dparams = jax.vjp(lambda zh, params: _recurrent_part(params, zh), raw, params)[1](dzh)
    dparams["recurrent"] = _kernel_gradient(h_in, draw.astype(dtype))
    dparams["initial"] = dinitial
    return dparams, dzx, dfirst, None, None


_recurrence.defvjp(_recurrence_forward, _recurrence_backward)


def _on_device(cell: GatedCell, dtype: DTypeLike, natively: Callable[..., Any], by_scan: Callable[..., Any]) -> Any:
    """Native code for float32 on a CPU where it knows the cell; the scan elsewhere."""
    if jax.default_backend() != "cpu" or dtype != jnp.float32 or cell.layer_norm or not recurrence.suits(cell):
        return by_scan
    return functools.partial(jax.lax.platform_dependent, cpu=natively, default=by_scan)


def _ones_like(mask: Array | None, h: Array) -> Array:
    return jnp.ones_like(h) if mask is None else mask
