"""A trace of some updates, for TensorBoard's profile page or xprof."""

import re
from pathlib import Path
from typing import Any, Self

import jax

from jaxgen.core.errors import UserError, tolerate


def span(asked: str) -> tuple[int, int] | None:
    """(first update, number of updates) of "START:N"; None where nothing is asked. Raises UserError for anything else."""
    if not asked:
        return None
    match = re.fullmatch(r"(\d+):([1-9]\d*)", asked)
    if match is None:
        raise UserError(f"--profile is '{asked}', expected START:N, as 100:5 for 5 updates from the 100th on.")
    return int(match[1]), int(match[2])


class Profile:
    """Records a trace of the updates that are asked for (`span`) into a TensorBoard folder."""

    def __init__(self, asked: str, folder: Path):
        self._span, self._folder, self._running = span(asked), folder, False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._running:
            self._stop()

    def before(self, last: int, size: int) -> None:
        """To be called before the call of `size` updates that ends with the update `last`."""
        if self._span and not self._running and last >= self._span[0] and last - size + 1 < sum(self._span):
            with tolerate("start the trace of --profile", "training goes on"):
                jax.profiler.start_trace(str(self._folder))
                self._running = True
            if not self._running:
                self._span = None

    def after(self, last: int, result: Any) -> None:
        """To be called when that call is under way to `result`."""
        if self._span and self._running and last >= sum(self._span) - 1:
            jax.block_until_ready(result)
            self._stop()

    def _stop(self) -> None:
        with tolerate("write the trace of --profile", "training goes on"):
            jax.profiler.stop_trace()
        self._span, self._running = None, False
