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
from jaxgen.recurrent.cell import Carry, Cell, Params, restart

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
        zh = _recurrent_part(params, _product(_masked(carry[0], hidden_mask), params["recurrent"], x.dtype))
        carry = self.pointwise(self.preactivation(zx, zh), carry)
        return carry[0].astype(x.dtype), carry

    def unroll(
        self, params: Params, x: Array, carry: Carry, reset: Array, hidden_mask: Array | None = None
    ) -> tuple[Array, Carry]:
        zx = _input_part(params, jnp.swapaxes(x, 0, 1))
        hs, carry = _scan(self, x.dtype, params, zx, carry, reset.T, hidden_mask)
        return jnp.swapaxes(hs, 0, 1).astype(x.dtype), carry


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


def _masked(h: Array, mask: Array | None) -> Array:
    return h if mask is None else h * jax.lax.stop_gradient(mask)


def _dot(a: Array, b: Array) -> Array:
    return jnp.matmul(a, b, preferred_element_type=jnp.float32)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _product(x: Array, kernel: Array, dtype: DTypeLike) -> Array:
    """x [..., D] @ kernel [D, F] in `dtype`, float32 accumulation and result; so are the products of its gradient."""
    return _dot(x.astype(dtype), kernel.astype(dtype))


def _product_forward(x: Array, kernel: Array, dtype: DTypeLike) -> tuple[Array, Any]:
    return _product(x, kernel, dtype), (x, kernel)


def _product_backward(dtype: DTypeLike, saved: Any, dz: Array) -> tuple[Array, Array]:
    x, kernel = saved
    dz = dz.astype(dtype)
    return _dot(dz, kernel.astype(dtype).T).astype(x.dtype), _kernel_gradient(x.astype(dtype), dz)


def _kernel_gradient(x: Array, dz: Array) -> Array:
    return _dot(x.reshape(-1, x.shape[-1]).T, dz.reshape(-1, dz.shape[-1]))


_product.defvjp(_product_forward, _product_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _scan(
    cell: GatedCell, dtype: DTypeLike, params: Params, zx: Array, carry: Carry, reset: Array, mask: Array | None
) -> tuple[Array, Carry]:
    """The recurrence, time-major: zx [T, B, G*H], reset [T, B] -> (h [T, B, H], carry)."""
    return _scan_forward(cell, dtype, params, zx, carry, reset, mask)[0]


def _scan_forward(
    cell: GatedCell, dtype: DTypeLike, params: Params, zx: Array, carry: Carry, reset: Array, mask: Array | None
) -> tuple[tuple[Array, Carry], Any]:
    kernel = params["recurrent"].astype(dtype)

    def body(carry: Carry, inputs: tuple[Array, Array]) -> tuple[Carry, tuple[Array, Carry]]:
        zx, reset = inputs
        carry = restart(params["initial"], carry, reset)
        zh = _recurrent_part(params, _dot(_masked(carry[0], mask).astype(dtype), kernel))
        z = cell.preactivation(zx, zh)
        carry = cell.pointwise(z, carry)
        return carry, (z, carry)

    last, (z, carries) = jax.lax.scan(body, carry, (zx, reset))
    return (carries[0], last), (params, z, carry, carries, reset, mask)


def _scan_backward(cell: GatedCell, dtype: DTypeLike, saved: Any, cotangents: tuple[Array, Carry]) -> Any:
    params, z, first, carries, reset, mask = saved
    dhs, dlast = cotangents
    kernel = params["recurrent"].astype(dtype)
    before = tuple(jnp.concatenate([s[None], ss[:-1]]) for s, ss in zip(first, carries, strict=True))
    before = restart(params["initial"], before, reset)
    h = _masked(before[0], mask).astype(dtype)
    raw = _dot(h, kernel)  # needed by, and compiled only for, a recurrent part that is not linear: layer_norm
    pull_pointwise = jax.vmap(lambda z, carry: jax.vjp(cell.pointwise, z, carry)[1])(z, before)
    pull_recurrent = jax.vmap(lambda zh: jax.vjp(functools.partial(_recurrent_part, params), zh)[1])(raw)
    pull_join = jax.linear_transpose(cell.preactivation, raw, raw)
    pull_join_step = jax.linear_transpose(cell.preactivation, raw[0], raw[0])

    def body(state: tuple[Carry, Carry], inputs: Any) -> tuple[tuple[Carry, Carry], Array]:
        (dh, *dothers), dinitial = state
        pull_pointwise, pull_recurrent, dy, reset = inputs
        dz, (dh, *dothers) = pull_pointwise((dh + dy, *dothers))
        (draw,) = pull_recurrent(pull_join_step(dz)[1])
        dh = dh + _masked(_dot(draw.astype(dtype), kernel.T), mask)
        dcarry = (dh, *dothers)
        kept = tuple(jnp.where(reset[:, None], 0, d) for d in dcarry)
        dinitial = tuple(acc + (d - k) for acc, d, k in zip(dinitial, dcarry, kept, strict=True))
        return (kept, dinitial), dz

    start = (dlast, jax.tree.map(jnp.zeros_like, dlast))
    (dfirst, dinitial), dz = jax.lax.scan(body, start, (pull_pointwise, pull_recurrent, dhs, reset), reverse=True)
    dzx, dzh = pull_join(dz)
    draw, dparams = jax.vjp(lambda zh, params: _recurrent_part(params, zh), raw, params)[1](dzh)
    dparams["recurrent"] = _kernel_gradient(h, draw.astype(dtype))
    dparams["initial"] = jnp.stack([d.sum(0) for d in dinitial])
    return dparams, dzx, dfirst, None, None


_scan.defvjp(_scan_forward, _scan_backward)
