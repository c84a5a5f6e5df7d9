"""Labels as vectors, which training sometimes hides, so that a model also knows what to do without them."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxgen.core.errors import UserError
from jaxgen.data.spec import DataSpec

Labels = Mapping[str, jax.Array | np.ndarray]
"""Indices of values, int32 [...], by the name of the label; 0 is unknown."""


class LabelEmbedding(nnx.Module):
    """One learned vector a label value, concatenated over the named labels; value 0 stands for "unknown".

    `dropout` is the share of clips that are trained as unknown (as in classifier-free guidance, Ho and Salimans 2021),
    so that generation without a label is a trained case. Raises UserError for a name that the data does not have.
    """

    def __init__(
        self, data: DataSpec, names: tuple[str, ...], size: int, *, dropout: float, dtype: Any, rngs: nnx.Rngs
    ):
        sizes = {name: len(values) for name, values in data.vocabularies}
        if unknown := [name for name in names if name not in sizes]:
            raise UserError(
                f"the model asks for label '{unknown[0]}', but the data has {', '.join(sizes) or 'no labels'}; "
                "change --model.labels."
            )
        if size < 1 or not 0 <= dropout <= 1:
            raise UserError(
                f"--model.label-size is {size} and --model.label-dropout {dropout}; expected at least 1 feature, and a "
                "share from 0 to 1."
            )
        self.names = names
        self.dropout = dropout
        self.num_features = size * len(names)
        self.tables = nnx.Dict(
            {
                name: nnx.Embed(
                    sizes[name] + 1,
                    size,
                    embedding_init=nnx.initializers.normal(1.0),
                    dtype=dtype,
                    rngs=rngs,
                )
                for name in names
            }
        )

    def __call__(self, labels: Labels) -> jax.Array | None:
        """labels: int32 [...] each -> [..., num_features]; None where the model has no labels.

        Where values are mixed: their shares, float32 [..., V], for which their vectors are.
        """
        if not self.names:
            return None
        return jnp.concatenate([self._vectors(name, jnp.asarray(labels[name])) for name in self.names], axis=-1)

    def _vectors(self, name: str, label: jax.Array) -> jax.Array:
        table = self.tables[name]
        if jnp.issubdtype(label.dtype, jnp.integer):
            return table(label)
        return label.astype(table.dtype) @ table.embedding[...].astype(table.dtype)

    def drop(self, labels: Labels, reset: jax.Array, key: jax.Array | None) -> Labels:
        """Sets labels of randomly chosen clips to unknown, all steps of a clip in this chunk alike."""
        if key is None or self.dropout == 0.0 or not self.names:
            return labels
        batch_size, num_steps = reset.shape
        start = jax.lax.cummax(jnp.where(reset, jnp.arange(num_steps), 0), axis=1)
        keep = jax.random.uniform(key, (batch_size, num_steps)) >= self.dropout
        keep = jnp.take_along_axis(keep, start, axis=1)
        return {name: jnp.where(keep, labels[name], 0) for name in self.names}
