"""The devices of all processes on one named axis: which rows each one has, and where the train state lies."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from jaxgen.core.errors import UserError
from jaxgen.data.batches import Batch
from jaxgen.objectives.state import TrainState

_AXIS = "data"

Step = Callable[[TrainState, Batch], tuple[TrainState, Any]]


class Devices:
    """All devices of all processes; each has an equal part of the rows of a batch and of the recurrent carry.

    The rest of the state is whole on each device, or, with `shard_parameters`, split: parameters, their average and the
    optimiser's moments along the longest axis that divides. A single device is left alone: it compiles and computes what
    it would without this class.
    """

    def __init__(
        self,
        batch_size: int,
        *,
        accumulation: int = 1,
        shard_parameters: bool = False,
        devices: Sequence[jax.Device] | None = None,
    ):
        """devices: those to use, none takes all. Raises UserError where they cannot share the rows evenly."""
        devices = jax.devices() if devices is None else devices
        self.batch_size, self._count = batch_size, len(devices)
        if batch_size // accumulation % self._count:
            parts = f" in {accumulation} parts" if accumulation > 1 else ""
            raise UserError(
                f"a batch of {batch_size} rows{parts} does not divide over {self._count} devices; make "
                f"--train.batch-size a multiple of {self._count * accumulation}, or use fewer devices."
            )
        self._alone = self._count == 1
        self._on_cpu = devices[0].platform == "cpu"
        self._mesh = jax.make_mesh((self._count,), (_AXIS,), axis_types=(AxisType.Auto,), devices=devices)
        self._shard_parameters = shard_parameters
        self._whole = NamedSharding(self._mesh, PartitionSpec())

    @property
    def rows(self) -> list[int]:
        """The rows of a batch that this process reads, in rising order."""
        split = NamedSharding(self._mesh, PartitionSpec(_AXIS))
        parts = split.addressable_devices_indices_map((self.batch_size,)).values()
        return sorted(row for part in parts if part for row in range(self.batch_size)[part[0]])

    def init_state(self, init: Callable[[jax.Array], TrainState], key: jax.Array) -> TrainState:
        """init(key), made where it belongs."""
        if self._alone:
            return jax.jit(init)(key)
        return jax.jit(init, out_shardings=self.shardings(jax.eval_shape(init, key)))(key)

    def shardings(self, state: TrainState) -> Any:
        """The sharding of each array of a state of several devices."""
        places = jax.tree.map(lambda _: self._whole, state)._replace(
            carry=jax.tree.map(lambda _: NamedSharding(self._mesh, PartitionSpec(_AXIS)), state.carry)
        )
        if not self._shard_parameters:
            return places
        split = {name: jax.tree.map(self._split, getattr(state, name)) for name in ("params", "average", "opt_state")}
        return places._replace(**split)

    def place(self, batches: Batch) -> Batch:
        """Batches [N, rows of this process, ...] of numpy as arrays [N, B, ...] on the devices."""
        if self._alone:
            return jax.device_put(batches)
        split = NamedSharding(self._mesh, PartitionSpec(None, _AXIS))

        def placed(array: np.ndarray) -> jax.Array:
            shape = (len(array), self.batch_size, *array.shape[2:])
            return jax.make_array_from_process_local_data(split, array, shape)

        return jax.tree.map(placed, batches)

    def compile(self, update: Step, state: TrainState) -> Step:
        """jit of update(state, batches) -> (state, metrics): donates the state and leaves the next where that lay.

        state: as `init_state` gives it. Metrics are whole on each device.
        """
        if self._alone:
            return jax.jit(update, donate_argnums=0)

        def spread(state: TrainState, batches: Batch) -> tuple[TrainState, Any]:
            with jax.sharding.use_abstract_mesh(self._mesh.abstract_mesh):
                return update(state, batches)

        step = jax.jit(spread, donate_argnums=0, out_shardings=(self.shardings(state), self._whole))
        # Of many updates under way, devices of a CPU, which share few threads, may wait for each other for ever.
        return (lambda *operands: jax.block_until_ready(step(*operands))) if self._on_cpu else step

    def gather(self, tree: Any) -> Any:
        """The same arrays, whole on one device of this process. All processes must ask, as they must give what they have."""
        if self._alone:
            return tree
        gathered = jax.block_until_ready(jax.jit(_same, out_shardings=self._whole)(tree))
        return jax.tree.map(lambda array: array.addressable_data(0), gathered)

    def _split(self, leaf: Any) -> NamedSharding:
        axes = [axis for axis, size in enumerate(leaf.shape) if size % self._count == 0 and size]
        if not axes:
            return self._whole
        longest = max(axes, key=lambda axis: leaf.shape[axis])
        return NamedSharding(self._mesh, PartitionSpec(*[None] * longest, _AXIS))


def _same(tree: Any) -> Any:
    return tree
