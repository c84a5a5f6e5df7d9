"""What a training loop asks of the data: batches for ever, and where they stand."""

from collections.abc import Iterator, Mapping
from typing import Any, Protocol

Batch = dict[str, Any]
"""Numpy arrays [B, ...] by name. Whatever the kind, `clip`, int32 [B, ...], says of which clips of the store they are."""


def check_position(value: Any) -> int:
    """A number of a stream's state. Raises ValueError for what is none: the state may be a stranger's."""
    if type(value) is not int or not 0 <= value < 2**63:
        raise ValueError(f"{str(value)[:40]!r} is no place")
    return value


class Stream(Iterator[Batch], Protocol):
    """Batches, one after another."""

    def get_state(self) -> dict[str, Any]:
        """Where the stream stands after the batches drawn so far, as JSON."""

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Goes on from where `get_state` was asked. Raises an error of Python's for what `get_state` never gives."""


class Batches(Protocol):
    """Endless batches of the training clips."""

    def __iter__(self) -> Stream: ...

    def names(self, batch: Mapping[str, Any]) -> list[str]:
        """Names of the clips that a batch holds."""
