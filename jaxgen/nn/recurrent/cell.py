"""What every recurrent cell offers: fresh parameters, one step, and the unrolling of that step over time."""

import abc
import dataclasses
from typing import ClassVar, Protocol, Self

import jax.numpy as jnp
from jax import Array

from jaxgen.core.errors import UserError

Carry = tuple[Array, ...]
"""Recurrent state of a cell, float32 [B, H] each; the first is the hidden state h, which is also the output."""
Params = dict[str, Array]
"""float32 arrays by name; `initial` [num_states, H] is the carry that sequences start from."""


@dataclasses.dataclass(frozen=True)
class Cell(abc.ABC):
    """The contract. `unroll` equals repeated `step`, in outputs and gradients, for any split of time and any resets."""

    hidden_size: int = 256
    """Width H of the hidden state; a wider one learns more and is slower."""

    num_states: ClassVar[int] = 1
    recurrent_matrices: ClassVar[tuple[str, ...]] = ()
    """Names of the parameters that multiply the hidden state of the step before."""

    def __post_init__(self) -> None:
        if self.hidden_size < 1:
            raise UserError(f"hidden_size is {self.hidden_size}; a recurrent cell needs at least 1 hidden unit.")

    @abc.abstractmethod
    def init(self, key: Array, in_features: int) -> Params:
        """Fresh parameters for inputs of width `in_features`. Each matrix in them is multiplied once a step."""

    @abc.abstractmethod
    def step(
        self,
        params: Params,
        x: Array,
        carry: Carry,
        reset: Array | None = None,
        hidden_mask: Array | None = None,
    ) -> tuple[Array, Carry]:
        """One step: (y [B, H], carry). x [B, D] is float32 or bfloat16; arguments and dtypes as in `unroll`."""

    @abc.abstractmethod
    def unroll(
        self, params: Params, x: Array, carry: Carry, reset: Array, hidden_mask: Array | None = None
    ) -> tuple[Array, Carry]:
        """Runs the cell over time: (y [B, T, H] in the dtype of x, float32 carry after the last step).

        x: [B, T, D], float32 or bfloat16: the dtype of the matrix products, which accumulate in float32.
        carry: float32 [B, H] each. reset: bool [B, T], True replaces the carry before that step by params["initial"].
        hidden_mask: float32 [B, H], multiplies h wherever a product reads it (variational dropout, Gal & Ghahramani
        2016); a constant: no gradient reaches it. The gradient is reverse mode only.
        """


def restart(initial: Array, carry: Carry, reset: Array) -> Carry:
    """The carry [..., H] with `initial` [num_states, H] where reset [...] says so."""
    return tuple(jnp.where(reset[..., None], start, state) for start, state in zip(initial, carry, strict=True))


class Equations(Protocol):
    """A gated cell as the ways to unroll it see it: see `jaxgen.nn.recurrent.gated.GatedCell`."""

    num_states: ClassVar[int]
    gate_bias: ClassVar[tuple[float, ...]]

    @property
    def hidden_size(self) -> int:
        """Width H."""

    def of_width(self, hidden_size: int) -> Self:
        """The same cell with another H."""

    def __hash__(self) -> int: ...

    def preactivation(self, zx: Array, zh: Array) -> Array:
        """Joins [..., G*H] of input and recurrence into [..., Z*H]; linear."""

    def pointwise(self, z: Array, carry: Carry) -> Carry:
        """The next carry, [..., H] each."""
