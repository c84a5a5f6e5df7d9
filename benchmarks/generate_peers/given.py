"""What every peer is given: the weights of a sample-level LSTM, and codes whose logits must be jaxgen's.

The work is free-running generation with `jaxgen.models.wave_rnn` at a lookback of 1: inputs are the embedding of the last
code beside the code as a number, then one LSTM layer and a linear head; the next code is drawn from the softmax of its
256 logits. All streams start from code 128, which is silence, and a carry of zeros.
"""

import dataclasses
from typing import Any, Protocol

import numpy as np

Array = np.ndarray
SILENCE = 128
"""The code that comes before the first."""


@dataclasses.dataclass(frozen=True)
class Given:
    """Weights, float32, gates in the order i, f, o, g."""

    embedding: Array
    """[256, E]"""
    input: Array
    """[E + 1, 4 H]"""
    recurrent: Array
    """[H, 4 H]"""
    bias: Array
    """[4 H]: both biases of the layer."""
    head_kernel: Array
    """[H, 256]"""
    head_bias: Array
    """[256]"""
    codes: Array
    """int64 [S]: after each of them, logits are compared."""

    @property
    def hidden_size(self) -> int:
        """H."""
        return self.recurrent.shape[0]

    def save(self, path: str) -> None:
        """Writes everything to a file of numpy arrays."""
        np.savez(path, **{field.name: getattr(self, field.name) for field in dataclasses.fields(self)})


class Model(Protocol):
    """A peer."""

    def logits(self) -> Array:
        """After each of the given codes [S, 256], for one stream."""

    def generate(self, steps: int) -> Array:
        """So many codes of each stream, [streams, steps]."""


def load(spec: dict[str, Any]) -> Given:
    """spec: `file`, as `Given.save` wrote it."""
    with np.load(spec["file"]) as file:
        return Given(**file)


def reordered(array: Array, order: tuple[int, int, int, int]) -> Array:
    """The same with the gates of the last axis in another order."""
    gates = np.split(array, 4, axis=-1)
    return np.concatenate([gates[i] for i in order], axis=-1)


def as_candidate(model: Model, steps: int) -> tuple[dict[str, Any], Any]:
    """Facts and run of a peer, as `benchmarks.processes` wants them: a piece of work is `steps` steps of all streams."""

    def run(times: int) -> dict[str, Any]:
        for _ in range(times):
            codes = model.generate(steps)
        return {"distinct_codes": len(np.unique(codes))}

    return {"logits": model.logits().tolist()}, run
