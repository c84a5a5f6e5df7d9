"""Batches are prefetched in a thread: those of one group of updates, stacked and already on the device."""

import collections
import concurrent.futures
import dataclasses
from collections.abc import Callable, Generator, Iterable, Iterator
from typing import Any, TypeVar

import jax
import numpy as np

from jaxgen.data.batches import Batch, Stream

T = TypeVar("T")

_AHEAD = 2  # groups that wait while one runs


@dataclasses.dataclass(frozen=True)
class StepGroup:
    """Updates that the device does in one call."""

    last: int
    """The step they end with."""
    batches: Batch
    """Arrays [N, B, ...] on the device, one batch an update."""
    position: dict[str, Any]
    """Where the data stands after them."""

    @property
    def size(self) -> int:
        """How many they are."""
        return len(jax.tree.leaves(self.batches)[0])


def prefetch_groups(
    stream: Stream, first: int, group_ends: Iterable[int], place: Callable[[Batch], Batch] = jax.device_put
) -> Generator[StepGroup]:
    """Groups that end with the steps `group_ends`, the first of them from step `first`, made in a thread ahead of use.

    place: puts stacked batches on the devices. To be closed (`contextlib.closing`), which ends the thread.
    """
    return _ahead(_made(stream, first, group_ends, place))


def _made(
    stream: Stream, first: int, group_ends: Iterable[int], place: Callable[[Batch], Batch]
) -> Iterator[StepGroup]:
    for last in group_ends:
        batches = [next(stream) for _ in range(first, last + 1)]
        stacked = jax.tree.map(lambda *arrays: np.stack(arrays), *batches)
        yield StepGroup(last, place(stacked), stream.get_state())
        first = last + 1


def _ahead(items: Iterator[T]) -> Generator[T]:
    """The items, each made in a thread while those before it are used; raises what making it raised."""
    with concurrent.futures.ThreadPoolExecutor(1, "batches") as thread:
        waiting = collections.deque(thread.submit(next, items, None) for _ in range(_AHEAD))
        while (item := waiting.popleft().result()) is not None:
            waiting.append(thread.submit(next, items, None))
            yield item
