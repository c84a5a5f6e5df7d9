"""TensorBoard events, written where they are made.

tensorboardX's own writer hands them to a thread, which dies on a full disk and leaves training waiting for it forever.
"""

import dataclasses
import io
import os
import socket
import struct
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jaxgen.core.files import append_atomic, explain_write_errors
from jaxgen.loggers.logger import Logger, RunDescription


@dataclasses.dataclass(frozen=True)
class TensorBoard(Logger):
    """Events in `tensorboard` in the run's folder, also of object stores."""

    takes_back = True
    finish_seconds = 120.0  # no network, but the import may take its time

    def start(self, run: RunDescription) -> "Board":
        return Board(run.folder / "tensorboard", run.start)

    def scalars(self, session: "Board", values: Mapping[str, float], step: int) -> None:
        for name, value in values.items():
            session.scalar(name, value, step)

    def audio(self, session: "Board", name: str, samples: np.ndarray, sample_rate: int, step: int) -> None:
        session.audio(name, samples, sample_rate, step)

    def image(self, session: "Board", name: str, image: np.ndarray, step: int) -> None:
        session.image(name, image, step)

    def finish(self, session: "Board") -> None:
        session.close()


class Board:
    """Events of a run in `folder`; those of steps after `start`, from a run that was killed, are hidden.

    The file is made with the first event: the import takes time, in which the device works. Where the disk is full, an
    event is left out and UserError raised.
    """

    def __init__(self, folder: Path, start: int):
        self._folder, self._start = folder, start
        self._file: io.FileIO | None = None

    def scalar(self, name: str, value: float, step: int) -> None:
        """One point of a curve."""
        from tensorboardX import summary

        self._add(summary.scalar(name, value), step)

    def audio(self, name: str, samples: np.ndarray, sample_rate: int, step: int) -> None:
        """A clip, float32 [nsamp] or [nsamp, nch], full scale 1.0, at `sample_rate` Hz."""
        from tensorboardX import summary

        self._add(summary.audio(name, samples.reshape(len(samples), -1), sample_rate), step)

    def image(self, name: str, image: np.ndarray, step: int) -> None:
        """A picture, uint8 [height, width, 3]."""
        from tensorboardX import summary

        self._add(summary.image(name, image, dataformats="HWC"), step)

    def close(self) -> None:
        """Ends the file."""
        if self._file is not None:
            self._file.close()

    def _add(self, summary: Any, step: int) -> None:
        from tensorboardX.proto.event_pb2 import Event

        now = time.time()
        with explain_write_errors(self._folder):
            if self._file is None:
                self._file = self._begun()
            append_atomic(self._file, _record(Event(wall_time=now, step=step, summary=summary)))

    def _begun(self) -> io.FileIO:
        from tensorboardX.proto.event_pb2 import Event, SessionLog

        version = Event(wall_time=time.time(), file_version="brain.Event:2")
        hidden = Event(step=self._start + 1, session_log=SessionLog(status=SessionLog.START))
        self._folder.mkdir(parents=True, exist_ok=True)
        name = f"events.out.tfevents.{time.time_ns()}.{socket.gethostname()}.{os.getpid()}"
        file = (self._folder / name).open("ab", buffering=0)
        try:
            append_atomic(file, _record(version) + _record(hidden))
        except OSError:
            file.close()
            raise
        return file


def _record(event: Any) -> bytes:
    """An event in TensorFlow's framing: length, its checksum, content, its checksum."""
    from tensorboardX.record_writer import masked_crc32c

    content = event.SerializeToString()
    length = struct.pack("<Q", len(content))
    checksums = [struct.pack("<I", masked_crc32c(part)) for part in (length, content)]
    return length + checksums[0] + content + checksums[1]
