"""What a traced function says of devices that share its rows.

`jaxgen.training.mesh` traces under a mesh of one axis, over which jit splits the rows of a batch. Elsewhere there is no
mesh, and these functions change nothing.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import jax
from jax.sharding import PartitionSpec

T = TypeVar("T")


def replicate(tree: T) -> T:
    """The same arrays, put together on each device if they were split."""
    if jax.sharding.get_abstract_mesh().empty:
        return tree
    return jax.lax.with_sharding_constraint(tree, PartitionSpec())


def shard_map_batch(function: Callable[..., Any]) -> Callable[..., Any]:
    """function(first, *rows), of which each device computes its own rows: for what jit cannot split.

    first: arrays that are whole on each device. rows and results: arrays [B, ...]; no row may depend on another.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        return function

    def call(first: Any, *rows: Any) -> Any:
        split = PartitionSpec(*mesh.axis_names)
        specs = (PartitionSpec(), *[split] * len(rows))
        return jax.shard_map(function, mesh=mesh, in_specs=specs, out_specs=split, check_vma=False)(first, *rows)

    return call
