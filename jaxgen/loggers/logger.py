"""The contract of a logger: what it is told of a run, and what it is given to log."""

import abc
import dataclasses
import functools
import re
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from jaxgen.core.files import read_regular, write_atomic

FOLDER = "loggers"
"""Of what jaxgen itself keeps for loggers, in the run's folder."""
_ID = re.compile(r"[0-9a-f]{32}")


@dataclasses.dataclass(frozen=True)
class RunDescription:
    """What a logger is told of the run."""

    folder: Path
    """Folder of the run on this machine; a logger may keep files in one of its own below it."""
    config: Mapping[str, Any]
    """The resolved config as JSON."""
    start: int
    """Updates done: 0 for a run that begins. Later ones, of a process that was killed, are done again."""

    @property
    def name(self) -> str:
        """Name of the run's folder."""
        return self.folder.resolve().name

    @functools.cached_property
    def id(self) -> str:
        """32 hexadecimal digits, the same at every start: the file `loggers/run_id` in the folder keeps them."""
        path = self.folder / FOLDER / "run_id"
        try:
            kept = read_regular(path).decode(errors="replace").strip()
        except FileNotFoundError:
            kept = ""
        if _ID.fullmatch(kept):
            return kept
        new = uuid.uuid4().hex
        path.parent.mkdir(exist_ok=True)
        write_atomic(path, new + "\n")
        return new


@dataclasses.dataclass(frozen=True)
class Logger(abc.ABC):
    """One more place for figures, clips and pictures of a training.

    All but `check` is called in a thread of the logger's own, one call after another, so it may wait for a network. What it
    raises is told once and costs no run. Secrets belong in the environment: fields are saved with the run.
    """

    takes_back: ClassVar[bool] = False
    """Whether `start` takes back what was logged of steps after `run.start`. Where it does not, figures of steps that the logger
    has been given, by a process that was killed, are not given again."""

    finish_seconds: ClassVar[float] = 10.0
    """How long the end of training waits for what is left; a machine may be about to be taken away."""

    def check(self) -> None:  # noqa: B027
        """Raises UserError before the first step where something is missing, such as a package."""

    @abc.abstractmethod
    def start(self, run: RunDescription) -> Any:
        """Begins, or goes on with, the run whose `run.id` this is. Returns what the other methods are to be given."""

    @abc.abstractmethod
    def scalars(self, session: Any, values: Mapping[str, float], step: int) -> None:
        """Figures after so many updates, by name, as `train/loss`; all are finite."""

    def audio(self, session: Any, name: str, samples: np.ndarray, sample_rate: int, step: int) -> None:  # noqa: B027
        """A clip, float32 [nsamp], full scale 1.0, at `sample_rate` Hz."""

    def image(self, session: Any, name: str, image: np.ndarray, step: int) -> None:  # noqa: B027
        """A picture, uint8 [height, width, 3]."""

    def finish(self, session: Any) -> None:  # noqa: B027
        """Called once, when training ends or is stopped; not where the process is killed."""
