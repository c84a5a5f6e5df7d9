"""Everything that training changes, as one pytree of arrays."""

from typing import Any, NamedTuple

import jax

from jaxgen.objectives.guard import Guard


class TrainState(NamedTuple):
    """What a checkpoint must hold, beside the data position, for training to go on exactly."""

    step: jax.Array
    """int32 []: updates done."""
    params: Any
    """float32 leaves."""
    average: Any
    """Exponential moving average of `params`; what evaluation and generation use."""
    opt_state: Any
    """The optimiser's moments."""
    carry: Any
    """Recurrent state of each row, carried from chunk to chunk."""
    key: jax.Array
    """uint32 key data; the key of step n is this folded with n."""
    guard: Guard
    """What the updates so far were like."""
