"""A trace of some updates, for TensorBoard's profile page or xprof."""

import re
from pathlib import Path
from typing import Any, Self

import jax

from jaxgen.errors import UserError


class Profile:
    """Records a trace of `num` updates from `start` on, into a TensorBoard folder.

    asked: "START:N", or nothing for no trace. Raises UserError for anything else.
    """

    def __init__(self, asked: str, folder: Path):
        match = re.fullmatch(r"(\d+):([1-9]\d*)", asked or "0:1")
        if match is None:
            raise UserError(f"--profile is '{asked}', expected START:N, as 100:5 for 5 updates from the 100th on.")
        self._start, self._num = map(int, match.groups())
        self._asked, self._folder, self._running = bool(asked), folder, False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._running:
            self._stop()

    def before(self, first: int) -> None:
        """To be called before the update `first`."""
        if self._asked and not self._running and first >= self._start:
            jax.profiler.start_trace(str(self._folder))
            self._running = True

    def after(self, last: int, result: Any) -> None:
        """To be called when the update `last` is under way to `result`."""
        if self._running and last >= self._start + self._num - 1:
            jax.block_until_ready(result)
            self._stop()

    def _stop(self) -> None:
        jax.profiler.stop_trace()
        self._asked = self._running = False
