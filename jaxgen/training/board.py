"""TensorBoard events, written where they are made.

tensorboardX's own writer hands them to a thread, which dies on a full disk and leaves training waiting for it forever.
"""

import os
import time
from pathlib import Path
from typing import Any

import numpy as np

from jaxgen.errors import UserError
from jaxgen.files import writing

_FLUSH_EVERY = 30.0  # seconds


class Board:
    """Events of a run in `folder`; those of steps after `start`, from a run that was killed, are hidden.

    Files are made with the first event: the import takes time, in which the device works. Where the disk is full, the
    method raises UserError, and the next event begins a new file.
    """

    def __init__(self, folder: Path, start: int):
        self._folder, self._start = folder, start
        self._writer: Any = None
        self._flushed = 0.0

    def scalar(self, name: str, value: float, step: int) -> None:
        """One point of a curve."""
        from tensorboardX import summary

        self._add(summary.scalar(name, value), step)

    def audio(self, name: str, samples: np.ndarray, sample_rate: int, step: int) -> None:
        """A clip, float32 [nsamp], full scale 1.0, at `sample_rate` Hz."""
        from tensorboardX import summary

        self._add(summary.audio(name, samples[:, None], sample_rate), step)

    def image(self, name: str, image: np.ndarray, step: int) -> None:
        """A picture, uint8 [height, width, 3]."""
        from tensorboardX import summary

        self._add(summary.image(name, image, dataformats="HWC"), step)

    def flush(self) -> None:
        """All events so far are on disk after it."""
        if self._writer is not None:
            self._try(self._writer.flush)

    def close(self) -> None:
        """Ends the file."""
        if self._writer is not None:
            self._try(self._writer.close)
            self._writer = None

    def _add(self, summary: Any, step: int) -> None:
        from tensorboardX.proto.event_pb2 import Event

        if self._writer is None:
            self._try(self._open)
        self._try(lambda: self._writer.write_event(Event(wall_time=time.time(), step=step, summary=summary)))
        if time.monotonic() > self._flushed + _FLUSH_EVERY:
            self._flushed = time.monotonic()
            self.flush()

    def _open(self) -> None:
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto.event_pb2 import Event, SessionLog

        self._folder.mkdir(parents=True, exist_ok=True)
        self._writer = EventsWriter(str(self._folder / "events"), f".{os.getpid()}")
        hidden = Event(step=self._start + 1, session_log=SessionLog(status=SessionLog.START))
        self._writer.write_event(hidden)

    def _try(self, write: Any) -> None:
        try:
            with writing(self._folder):
                write()
        except UserError:
            self._writer = None
            raise
