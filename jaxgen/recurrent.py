"""Recurrent cells, written once, and the two ways to run them: one step, or unrolled over time.

A cell is one input projection, one recurrent product and a pointwise function of the two:

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
from flax import nnx
from jax import Array
from jax.typing import DTypeLike

from jaxgen.errors import UserError

Carry = tuple[Array, ...]
"""Recurrent state of a cell, float32 [B, H] each; the first is the hidden state h."""
Params = dict[str, Array]
"""input [D, G*H], recurrent [H, G*H], bias and recurrent_bias [G*H], initial [num_states, H], all float32;
with layer normalisation also input_gain and recurrent_gain [G*H]."""

_NORM_EPSILON = 1e-3  # a zero state has zh = 0, where the slope of the normalisation is epsilon ** -0.5


@dataclasses.dataclass(frozen=True)
class Cell:
    """What unroll and step need to know of a recurrent cell with G gates and `num_states` carried vectors."""

    hidden_size: int = 256
    """Width H of the hidden state."""
    layer_norm: bool = dataclasses.field(default=False, kw_only=True)
    """Normalise both pre-activations (Ba et al. 2016, eq. 20-21, without the normalised LSTM output)."""

    gate_bias: ClassVar[tuple[float, ...]]  # initial bias of each gate
    num_states: ClassVar[int] = 1

    def __post_init__(self) -> None:
        if self.hidden_size < 1:
            raise UserError(f"hidden_size is {self.hidden_size}; a recurrent cell needs at least 1 hidden unit.")

    def preactivation(self, zx: Array, zh: Array) -> Array:
        """Joins input and recurrent pre-activations [..., G*H] into all that `pointwise` needs of them (linear)."""
        return zx + zh

    def pointwise(self, z: Array, carry: Carry) -> Carry:
        """The next carry from the joined pre-activations z [..., *] and the carry [..., H]."""
        raise NotImplementedError

    def hidden(self, carry: Carry) -> Array:
        """The hidden state h, which is also the output."""
        return carry[0]

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


@dataclasses.dataclass(frozen=True)
class RNN(Cell):
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
class LSTM(Cell):
    """Long short-term memory with forget gate (Gers et al. 2000), gates in the order i, f, o, g; carry (h, c)."""

    gate_bias = (0.0, 1.0, 0.0, 0.0)  # forget bias of Jozefowicz et al. 2015
    num_states = 2

    def pointwise(self, z: Array, carry: Carry) -> Carry:
        scale = jnp.repeat(jnp.array([0.5, 0.5, 0.5, 1.0], z.dtype), self.hidden_size)
        i, f, o, g = jnp.split(jnp.tanh(scale * z), 4, axis=-1)  # one tanh: sigmoid(x) = (tanh(x / 2) + 1) / 2
        c = 0.5 * ((f + 1) * carry[1] + (i + 1) * g)
        return 0.5 * (o + 1) * jnp.tanh(c), c


@dataclasses.dataclass(frozen=True)
class GRU(Cell):
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


def step(
    cell: Cell, params: Params, x: Array, carry: Carry, reset: Array | None = None, hidden_mask: Array | None = None
) -> tuple[Array, Carry]:
    """One step: (y [B, H], carry). x [B, D] is float32 or bfloat16; arguments and dtypes as in `unroll`."""
    if reset is not None:
        carry = _restart(params["initial"], carry, reset)
    zx = _input_part(params, x)
    zh = _recurrent_part(params, _product(_masked(cell.hidden(carry), hidden_mask), params["recurrent"], x.dtype))
    carry = cell.pointwise(cell.preactivation(zx, zh), carry)
    return cell.hidden(carry).astype(x.dtype), carry


def unroll(
    cell: Cell, params: Params, x: Array, carry: Carry, reset: Array, hidden_mask: Array | None = None
) -> tuple[Array, Carry]:
    """Runs the cell over time: (y [B, T, H] in the dtype of x, float32 carry after the last step).

    x: [B, T, D], float32 or bfloat16: the dtype of the matrix products, which accumulate in float32.
    carry: float32 [B, H] each. reset: bool [B, T], True replaces the carry before that step by params["initial"].
    hidden_mask: float32 [B, H], multiplies h before the recurrent product at every step (variational dropout,
    Gal & Ghahramani 2016); a constant: no gradient reaches it. The gradient is reverse mode only.
    """
    zx = _input_part(params, jnp.swapaxes(x, 0, 1))
    hs, carry = _scan(cell, x.dtype, params, zx, carry, reset.T, hidden_mask)
    return jnp.swapaxes(hs, 0, 1).astype(x.dtype), carry


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


def _restart(initial: Array, carry: Carry, reset: Array) -> Carry:
    return tuple(jnp.where(reset[..., None], start, state) for start, state in zip(initial, carry, strict=True))


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
    cell: Cell, dtype: DTypeLike, params: Params, zx: Array, carry: Carry, reset: Array, mask: Array | None
) -> tuple[Array, Carry]:
    """The recurrence, time-major: zx [T, B, G*H], reset [T, B] -> (h [T, B, H], carry)."""
    return _scan_forward(cell, dtype, params, zx, carry, reset, mask)[0]


def _scan_forward(
    cell: Cell, dtype: DTypeLike, params: Params, zx: Array, carry: Carry, reset: Array, mask: Array | None
) -> tuple[tuple[Array, Carry], Any]:
    kernel = params["recurrent"].astype(dtype)

    def body(carry: Carry, inputs: tuple[Array, Array]) -> tuple[Carry, tuple[Array, Carry]]:
        zx, reset = inputs
        carry = _restart(params["initial"], carry, reset)
        zh = _recurrent_part(params, _dot(_masked(cell.hidden(carry), mask).astype(dtype), kernel))
        z = cell.preactivation(zx, zh)
        carry = cell.pointwise(z, carry)
        return carry, (z, carry)

    last, (z, carries) = jax.lax.scan(body, carry, (zx, reset))
    return (cell.hidden(carries), last), (params, z, carry, carries, reset, mask)


def _scan_backward(cell: Cell, dtype: DTypeLike, saved: Any, cotangents: tuple[Array, Carry]) -> Any:
    params, z, first, carries, reset, mask = saved
    dhs, dlast = cotangents
    kernel = params["recurrent"].astype(dtype)
    before = tuple(jnp.concatenate([s[None], ss[:-1]]) for s, ss in zip(first, carries, strict=True))
    before = _restart(params["initial"], before, reset)
    h = _masked(cell.hidden(before), mask).astype(dtype)
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


class Stack(nnx.Module):
    """Layers of one cell, each reading the outputs of the layer below. Its carry is a tuple, one cell carry a layer.

    residual adds the input of a layer to its output, from the second layer on. dropout is the rate of variational
    dropout (Gal & Ghahramani 2016) on the input and the hidden state of every layer: one mask for a whole unroll.
    dtype is that of the outputs and matrix products; parameters and carry are float32.
    """

    def __init__(
        self,
        cell: Cell,
        num_layers: int,
        in_features: int,
        *,
        residual: bool = False,
        dropout: float = 0.0,
        dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ) -> None:
        if num_layers < 1:
            raise UserError(f"num_layers is {num_layers}; a recurrent stack needs at least 1 layer.")
        if not 0 <= dropout < 1:
            raise UserError(f"dropout is {dropout}; it is the share of units left out, at least 0 and below 1.")
        self.cell, self.residual, self.dropout, self.dtype = cell, residual, dropout, dtype
        widths = [in_features] + [cell.hidden_size] * (num_layers - 1)
        self.layers = nnx.List(
            [nnx.Dict({k: nnx.Param(v) for k, v in cell.init(rngs.params(), width).items()}) for width in widths]
        )

    def init_carry(self, batch_size: int) -> tuple[Carry, ...]:
        """The learnable initial carry for each of `batch_size` rows; gradients flow to it."""
        width = (batch_size, self.cell.hidden_size)
        return tuple(tuple(jnp.broadcast_to(s, width) for s in params["initial"]) for params in self._params())

    def step(self, x: Array, carry: tuple[Carry, ...], reset: Array | None = None) -> tuple[Array, tuple[Carry, ...]]:
        """One step of every layer, without dropout: x [B, D], reset bool [B] -> (y [B, H], carry)."""
        x, after = x.astype(self.dtype), []
        for layer, params in enumerate(self._params()):
            y, state = step(self.cell, params, x, carry[layer], reset)
            x = x + y if self.residual and layer else y
            after.append(state)
        return x, tuple(after)

    def unroll(
        self, x: Array, carry: tuple[Carry, ...], reset: Array, dropout_key: Array | None = None
    ) -> tuple[Array, tuple[Carry, ...]]:
        """All steps of every layer: x [B, T, D], reset bool [B, T] -> (y [B, T, H], carry).

        dropout_key: draws the dropout masks of this call; None leaves dropout off.
        """
        x, after = x.astype(self.dtype), []
        for layer, params in enumerate(self._params()):
            dropped, hidden_mask = x, None
            if dropout_key is not None and self.dropout:
                input_key, hidden_key = jax.random.split(jax.random.fold_in(dropout_key, layer))
                dropped = x * self._mask(input_key, x.shape[0], x.shape[2])[:, None].astype(x.dtype)
                hidden_mask = self._mask(hidden_key, x.shape[0], self.cell.hidden_size)
            y, state = unroll(self.cell, params, dropped, carry[layer], reset, hidden_mask)
            x = x + y if self.residual and layer else y
            after.append(state)
        return x, tuple(after)

    def _params(self) -> list[Params]:
        return [{name: param[...] for name, param in layer.items()} for layer in self.layers]

    def _mask(self, key: Array, batch_size: int, width: int) -> Array:
        keep = 1 - self.dropout
        return jax.random.bernoulli(key, keep, (batch_size, width)) / jnp.float32(keep)
