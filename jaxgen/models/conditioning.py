"""What a model is conditioned on, as one value: labels of the clip, one value a step, and sequences of another length."""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen.core.errors import UserError
from jaxgen.data.spec import DataSpec
from jaxgen.nn.label_embedding import Labels

Array = jax.Array | np.ndarray


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Context:
    """A sequence of its own length, such as a text: rows are padded at their end."""

    values: Array
    """[B, N, ...]; after `SequenceModel.encode_context` whatever that made of them."""
    mask: Array
    """bool [B, N]; false where a row is padded."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Conditioning:
    """All that a model may read beside the steps before. A model reads what its config names and ignores the rest.

    B is rows and T steps. Of one step (`at`, and what `SequenceModel.step` is given) the axis T is missing.
    """

    static: Labels = dataclasses.field(default_factory=dict)
    """One value a clip: indices of labels int32 [B, T], since rows of a batch pass from clip to clip; or [B] of one step."""
    aligned: Mapping[str, Array] = dataclasses.field(default_factory=dict)
    """One value a step: [B, T, ...] each."""
    context: Mapping[str, Context] = dataclasses.field(default_factory=dict)
    """Sequences of their own length. All steps of a row read the same one."""

    @classmethod
    def of(cls, batch: Mapping[str, Any]) -> Self:
        """The conditioning of a batch (`jaxgen.data.pipeline`, `jaxgen.data.padded`)."""
        context = {name: Context(*pair) for name, pair in batch.get("context", {}).items()}
        return cls(batch["labels"], batch.get("aligned", {}), context)

    def at(self, step: int | jax.Array) -> Self:
        """The conditioning of one of T steps."""
        return self.each_step(lambda array: array[:, step])

    def part(self, start: int | jax.Array, count: int) -> Self:
        """The conditioning of `count` of T steps, from `start` on."""
        return self.each_step(lambda array: jax.lax.dynamic_slice_in_dim(array, start, count, axis=1))

    def each_step(self, function: Callable[[Any], Any]) -> Self:
        """The same with `function` of all that has an axis of steps."""
        static, aligned = jax.tree.map(function, (dict(self.static), dict(self.aligned)))
        return dataclasses.replace(self, static=static, aligned=aligned)

    def over_time(self, num_steps: int) -> Self:
        """Labels of one step as those of T steps alike; what has an axis of steps stays as it is."""
        static = {name: jnp.repeat(value[:, None], num_steps, axis=1) for name, value in self.static.items()}
        return dataclasses.replace(self, static=static)


def stream_sizes(data: DataSpec, names: Sequence[str]) -> dict[str, int]:
    """Features that one value of each of these streams becomes (`stream_features`).

    Raises UserError for a stream that the data does not have.
    """
    known = dict(data.streams)
    if unknown := [name for name in names if name not in known]:
        raise UserError(
            f"the model reads the stream '{unknown[0]}', but the data has {', '.join(known) or 'no streams'}; name it in "
            "the config's `streams`."
        )
    return {name: (known[name].num_values or 1) * math.prod(known[name].step_shape) for name in names}


def stream_features(values: Array, size: int, num_axes: int) -> jax.Array:
    """Float32 [..., size] of a stream's values at `num_axes` axes of rows and steps: integers one-hot, numbers as they are."""
    values, leading = jnp.asarray(values), values.shape[:num_axes]
    if jnp.issubdtype(values.dtype, jnp.integer):
        each = values.reshape(*leading, -1)
        values = jax.nn.one_hot(each, size // each.shape[-1])
    return values.reshape(*leading, size)
