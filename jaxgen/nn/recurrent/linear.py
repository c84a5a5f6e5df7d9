"""Cells whose state follows a linear recurrence, h' = a * h + b, with gates that read the input only.

No product stands between h and h', so nothing is left for the loop over time but a multiplication and an addition: all
matrix products are hoisted out of it, forward and backward, and the loop itself can be a parallel scan. In return a
layer cannot look at its own state to decide what to keep; it takes a second layer, whose gates read the first, to make
what is kept depend on the past. Expect to use two or three layers where one LSTM layer would do.
"""

import abc
import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike

from jaxgen.nn.recurrent.cell import Carry, Cell, Params, restart
from jaxgen.nn.recurrent.linear_scan import linear_scan
from jaxgen.nn.recurrent.product import product

_SHARPNESS = 8.0  # c of De et al. 2024, eq. 3
_DECAYS = (0.9, 0.999)  # a ** c of a fresh RGLRU, De et al. 2024, section 2.4
_OUTPUT_SCALE = 0.1  # of a fresh RGLRU: see its init
_TINY = float(jnp.finfo(jnp.float32).tiny)


@dataclasses.dataclass(frozen=True)
class LinearCell(Cell):
    """A cell with G input projections. Its parameters: input [D, G*H], bias [G*H], initial [1, H], and what else it has.

    hidden_mask multiplies h where `read` hands it on, never in the recurrence: no product reads h before that.
    """

    num_projections: ClassVar[int]

    @abc.abstractmethod
    def coefficients(self, params: Params, z: Array) -> tuple[Array, Array]:
        """The decay a in [0, 1] and the drive b, [..., H] each, of the projected inputs z [..., G*H]."""

    def read(self, params: Params, z: Array, h: Array, dtype: DTypeLike) -> Array:
        """The output [..., H] of a step: h itself, unless a cell says otherwise. dtype: of matrix products."""
        del params, z, dtype
        return h

    def init(self, key: Array, in_features: int) -> Params:
        """Fresh float32 parameters: LeCun normal input, zero bias and initial carry."""
        width = self.num_projections * self.hidden_size
        return {
            "input": jax.nn.initializers.lecun_normal()(key, (in_features, width)),
            "bias": jnp.zeros(width),
            "initial": jnp.zeros((1, self.hidden_size)),
        }

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
        z = self._project(params, x)
        a, b = self.coefficients(params, z)
        h = a * carry[0] + b
        return self._output(params, z, h, hidden_mask, x.dtype), (h,)

    def unroll(
        self, params: Params, x: Array, carry: Carry, reset: Array, hidden_mask: Array | None = None
    ) -> tuple[Array, Carry]:
        z = self._project(params, jnp.swapaxes(x, 0, 1))
        a, b = self.coefficients(params, z)
        restarts = reset.T[..., None]  # a restart is a step that forgets, and finds `initial` in its drive
        b = jnp.where(restarts, a * params["initial"] + b, b)
        h = linear_scan(jnp.where(restarts, 0, a), b, carry[0])
        return jnp.swapaxes(self._output(params, z, h, hidden_mask, x.dtype), 0, 1), (h[-1],)

    def _project(self, params: Params, x: Array) -> Array:
        return product(x, params["input"], x.dtype) + params["bias"]

    def _output(self, params: Params, z: Array, h: Array, mask: Array | None, dtype: DTypeLike) -> Array:
        if mask is not None:
            h = h * jax.lax.stop_gradient(mask)
        return self.read(params, z, h, dtype).astype(dtype)


@dataclasses.dataclass(frozen=True)
class MinGRU(LinearCell):
    """The minimal GRU (Feng et al. 2024, section 3.1): h' = (1 - u) * h + u * n, with u = sigma(W x) and n = V x.

    In plain space, without the paper's logarithms (appendix B): they serve a scan that divides by products of decays,
    and would force h above 0. Here h' is a weighted mean of h and n, nothing is divided, and float32 is enough.
    Projections in the order u, n.
    """

    num_projections = 2

    def coefficients(self, params: Params, z: Array) -> tuple[Array, Array]:
        u, n = jnp.split(z, 2, axis=-1)
        return _toward(n, u)


@dataclasses.dataclass(frozen=True)
class MinLSTM(LinearCell):
    """The minimal LSTM (Feng et al. 2024, section 3.2): h' = (f * h + i * n) / (f + i), f, i = sigma(...), n = V x.

    i / (f + i) is computed as the sigmoid of log i - log f (their appendix B), which does not become 0 / 0 where both
    gates close; the recurrence stays in plain space, as in `MinGRU`. Projections in the order f, i, n.
    """

    num_projections = 3

    def coefficients(self, params: Params, z: Array) -> tuple[Array, Array]:
        f, i, n = jnp.split(z, 3, axis=-1)
        return _toward(n, jax.nn.softplus(-f) - jax.nn.softplus(-i))


@dataclasses.dataclass(frozen=True)
class RGLRU(LinearCell):
    """The real-gated linear recurrent unit (De et al. 2024, eq. 1-4) between an input and a gated output projection.

        v = V x,   r, i = sigma(...),   a = sigma(L) ** (8 r),   h' = a * h + sqrt(1 - a^2) * (i * v)
        y = O (gelu(B x) * h') + c

    The unit alone needs inputs as wide as itself and is linear in depth but for its gates, so the cell is the recurrent
    block of the paper (section 2.3) without its convolution: WaveRNN's lookback does that work. The gates read x rather
    than v: the product of their matrix and V is one matrix. hidden_mask multiplies h as the output product reads it.
    Projections in the order v, r, i, B; further parameters: decay [H] (L), output [H, H], output_bias [H].
    """

    num_projections = 4

    def init(self, key: Array, in_features: int) -> Params:
        """Fresh parameters; sigma(L) ** 8 is uniform from 0.9 to 0.999.

        The output product starts at a tenth of LeCun's scale: sqrt(1 - a^2) keeps h near 1 for inputs that are
        independent from step to step, but those of sound are not, and a constant one is raised up to 60-fold.
        """
        input_key, decay_key, output_key = jax.random.split(key, 3)
        hidden = self.hidden_size
        decay = jax.random.uniform(decay_key, (hidden,), minval=_DECAYS[0], maxval=_DECAYS[1]) ** (1 / _SHARPNESS)
        return super().init(input_key, in_features) | {
            "decay": jax.scipy.special.logit(decay),
            "output": _OUTPUT_SCALE * jax.nn.initializers.lecun_normal()(output_key, (hidden, hidden)),
            "output_bias": jnp.zeros(hidden),
        }

    def coefficients(self, params: Params, z: Array) -> tuple[Array, Array]:
        v, r, i, _ = jnp.split(z, 4, axis=-1)
        log_a = _SHARPNESS * jax.nn.sigmoid(r) * jax.nn.log_sigmoid(params["decay"])
        # 1 - a^2 without cancellation; held above 0, where the slope of the root is infinite
        drive = jnp.sqrt(jnp.maximum(-jnp.expm1(2 * log_a), _TINY))
        return jnp.exp(log_a), drive * jax.nn.sigmoid(i) * v

    def read(self, params: Params, z: Array, h: Array, dtype: DTypeLike) -> Array:
        branch = z[..., 3 * self.hidden_size :]
        return product(jax.nn.gelu(branch) * h, params["output"], dtype) + params["output_bias"]


def _toward(target: Array, logit: Array) -> tuple[Array, Array]:
    """Coefficients of h' = (1 - u) * h + u * target, u = sigma(logit)."""
    return jax.nn.sigmoid(-logit), jax.nn.sigmoid(logit) * target
