"""Layers of recurrent cells."""

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array
from jax.typing import DTypeLike

from jaxgen.core.errors import UserError
from jaxgen.nn.recurrent.cell import Carry, Cell, Params

_MOST_LAYERS = 256  # more are a mistake, which would take hours to be traced
_WEIGHTS = 2**31  # folded into the key of a layer, for the masks of its weights


class Stack(nnx.Module):
    """Layers of one cell, each reading the outputs of the layer below. Its carry is a tuple, one cell carry a layer.

    residual adds the input of a layer to its output, from the second layer on. dropout is the rate of variational
    dropout (Gal & Ghahramani 2016) on the input and the hidden state of every layer: one mask for a whole unroll.
    weight_drop is the share of the weights between hidden states that is left out, the same ones for a whole unroll and
    for all rows (DropConnect: Wan et al. 2013; on recurrent matrices: Merity et al. 2018, section 2).
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
        weight_drop: float = 0.0,
        dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ) -> None:
        if not 1 <= num_layers <= _MOST_LAYERS:
            raise UserError(f"num_layers is {num_layers}; a recurrent stack has 1 to {_MOST_LAYERS} layers.")
        if not 0 <= dropout < 1:
            raise UserError(f"dropout is {dropout}; it is the share of units left out, at least 0 and below 1.")
        if not 0 <= weight_drop < 1:
            raise UserError(
                f"weight_drop is {weight_drop}; it is the share of weights left out, at least 0 and below 1."
            )
        if weight_drop and not cell.recurrent_matrices:
            raise UserError(
                f"weight_drop is {weight_drop}, but {type(cell).__name__} has no weights between hidden states; set it to 0, or "
                "use RNN, LSTM or GRU as the cell."
            )
        self.cell, self.residual, self.dropout, self.weight_drop, self.dtype = (
            cell,
            residual,
            dropout,
            weight_drop,
            dtype,
        )
        widths = [in_features] + [cell.hidden_size] * (num_layers - 1)
        self.layers = nnx.List(
            [nnx.Dict({k: nnx.Param(v) for k, v in cell.init(rngs.params(), width).items()}) for width in widths]
        )

    def init_carry(self, batch_size: int) -> tuple[Carry, ...]:
        """The learnable initial carry for each of `batch_size` rows; gradients flow to it."""
        width = (batch_size, self.cell.hidden_size)
        return tuple(tuple(jnp.broadcast_to(s, width) for s in params["initial"]) for params in self.parameters())

    def step(self, x: Array, carry: tuple[Carry, ...], reset: Array | None = None) -> tuple[Array, tuple[Carry, ...]]:
        """One step of every layer, without dropout: x [B, D], reset bool [B] -> (y [B, H], carry)."""
        x, after = x.astype(self.dtype), []
        for layer, params in enumerate(self.parameters()):
            y, state = self.cell.step(params, x, carry[layer], reset)
            x = x + y if self.residual and layer else y
            after.append(state)
        return x, tuple(after)

    def unroll(
        self, x: Array, carry: tuple[Carry, ...], reset: Array, dropout_key: Array | None = None
    ) -> tuple[Array, tuple[Carry, ...]]:
        """All steps of every layer: x [B, T, D], reset bool [B, T] -> (y [B, T, H], carry).

        dropout_key: draws the masks of this call, of units and of weights; None leaves both off.
        """
        x, after = x.astype(self.dtype), []
        for layer, params in enumerate(self.parameters()):
            dropped, hidden_mask = x, None
            if dropout_key is not None and self.weight_drop:
                params = self._drop_weights(
                    params, jax.random.fold_in(jax.random.fold_in(dropout_key, layer), _WEIGHTS)
                )
            if dropout_key is not None and self.dropout:
                input_key, hidden_key = jax.random.split(jax.random.fold_in(dropout_key, layer))
                dropped = x * self._mask(input_key, x.shape[0], x.shape[2])[:, None].astype(x.dtype)
                hidden_mask = self._mask(hidden_key, x.shape[0], self.cell.hidden_size)
            y, state = self.cell.unroll(params, dropped, carry[layer], reset, hidden_mask)
            x = x + y if self.residual and layer else y
            after.append(state)
        return x, tuple(after)

    def parameters(self) -> list[Params]:
        """Those of each layer, as its cell names them."""
        return [{name: param[...] for name, param in layer.items()} for layer in self.layers]

    def _drop_weights(self, params: Params, key: Array) -> Params:
        """The parameters of a layer, without a share of the weights between hidden states; the others are larger by as much."""
        names = self.cell.recurrent_matrices
        masks = [
            _keep(jax.random.fold_in(key, place), 1 - self.weight_drop, params[name].shape)
            for place, name in enumerate(names)
        ]
        return params | {name: params[name] * mask for name, mask in zip(names, masks, strict=True)}

    def _mask(self, key: Array, batch_size: int, width: int) -> Array:
        return _keep(key, 1 - self.dropout, (batch_size, width))


def _keep(key: Array, share: float, shape: tuple[int, ...]) -> Array:
    """Float32 of this shape: 0, or for a share of it what makes up for the rest."""
    return jax.random.bernoulli(key, share, shape) / jnp.float32(share)
