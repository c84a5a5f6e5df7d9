"""What every peer is given: the same numbers in, the same weights, and what is to be computed of them.

The work is the train step of `jaxgen.models.wave_rnn` with a lookback of 1: inputs are the embedding of a code beside the
code as a number, then recurrent layers that start from a learned carry, a linear head, the mean cross-entropy of the next
code, and an update of all parameters by plain Adam. Or that of `jaxgen.models.mel_rnn` with unit normals: inputs are
frames, and the loss is half the squared error and a constant, and the cross-entropy of the clip's end, which never comes.
"""

import dataclasses
import math
from typing import Any, NamedTuple

import numpy as np

Array = np.ndarray
LEARNING_RATE = 1e-4
"""Of Adam, with decays 0.9 and 0.999 and epsilon 1e-8: small, so that after one update losses still agree."""


class Layer(NamedTuple):
    """Weights of a recurrent layer; gates of an LSTM in the order i, f, o, g, of a GRU r, z, n."""

    input: Array
    """[D, G*H]"""
    recurrent: Array
    """[H, G*H]"""
    bias: Array
    """[G*H]"""
    recurrent_bias: Array
    """[G*H]: as PyTorch has it. Frameworks with one bias start from the sum of the two."""
    initial: Array
    """[S, H]: h, and c of an LSTM."""


@dataclasses.dataclass(frozen=True)
class Given:
    """The work and where it starts. Arrays are float32 but for codes."""

    cell: str
    """LSTM, GRU or RNN (with tanh)."""
    past: Array
    """int64 [B, T] codes or [B, T, D] frames."""
    target: Array
    """The next ones, shaped likewise."""
    embedding: Array | None
    """[256, E]; none for frames."""
    layers: list[Layer]
    """From the first to the last."""
    head_kernel: Array
    """[H, P]: P is 256 for codes, and D + 1 for frames, the last being the logit of the end."""
    head_bias: Array
    """[P]"""

    @property
    def hidden_size(self) -> int:
        """H."""
        return self.head_kernel.shape[0]

    @property
    def constant(self) -> float:
        """What the loss of frames is above half their squared error: the normalisation of the density."""
        return 0.5 * math.log(2 * math.pi) * self.target.shape[-1]

    def values(self) -> Array:
        """Codes [B, T, 1] as numbers."""
        return self.past[..., None].astype(np.float32) * (2 / 256) - 1

    def save(self, path: str) -> None:
        """Writes everything to a file of numpy arrays."""
        flat = {
            f"layer{i}_{name}": array for i, layer in enumerate(self.layers) for name, array in layer._asdict().items()
        }
        rest = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name != "layers"}
        np.savez(path, **flat, **{name: value for name, value in rest.items() if value is not None})


def load(spec: dict[str, Any]) -> Given:
    """spec: `file`, as `Given.save` wrote it."""
    with np.load(spec["file"]) as file:
        arrays = dict(file)
    count = sum(name.endswith("_input") for name in arrays)
    return Given(
        cell=str(arrays["cell"]),
        past=arrays["past"],
        target=arrays["target"],
        embedding=arrays.get("embedding"),
        layers=[Layer(*(arrays[f"layer{i}_{name}"] for name in Layer._fields)) for i in range(count)],
        head_kernel=arrays["head_kernel"],
        head_bias=arrays["head_bias"],
    )


def gates(array: Array, order: tuple[int, ...]) -> list[Array]:
    """The gates on the last axis, in another order."""
    return [np.split(array, max(order) + 1, axis=-1)[i] for i in order]


def reordered(array: Array, order: tuple[int, ...]) -> Array:
    """As it was, with its gates in another order."""
    return np.concatenate(gates(array, order), axis=-1)
