"""Weights & Biases: `pip install 'jaxgen[wandb]'`."""

import dataclasses
import os
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np

from jaxgen.core.errors import UserError
from jaxgen.core.packages import import_package
from jaxgen.loggers.logger import Logger, RunDescription

_FINISH_SECONDS = 30  # that the end of the program waits for uploads


@dataclasses.dataclass(frozen=True)
class WandB(Logger):
    """A run of Weights & Biases, whose id is the run's own; its files are in `wandb` in the run's folder.

    The key is that of `wandb login` or WANDB_API_KEY. `wandb sync FOLDER/wandb/offline-run-*` sends what was logged offline.
    """

    project: str = "jaxgen"
    """Where the run is listed."""
    entity: str = ""
    """User or team; none takes your own."""
    mode: Literal["", "online", "offline"] = ""
    """Whether to upload; none takes WANDB_MODE, and without it online."""

    def check(self) -> None:
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # to its makers
        wandb = import_package("wandb", "wandb")
        mode = self.mode or wandb.setup().settings.mode
        if mode == "online" and not wandb.login(prompt=False, verify=False):
            raise UserError(
                "Weights & Biases has no key of yours: run `wandb login`, set WANDB_API_KEY, or log offline with "
                "WANDB_MODE=offline."
            )

    def start(self, run: RunDescription) -> Any:
        wandb = import_package("wandb", "wandb")
        return wandb.init(
            project=self.project,
            entity=self.entity or None,
            mode=self.mode or None,
            name=run.name,
            id=run.id,
            resume="allow",
            reinit="create_new",
            dir=run.folder,
            config=dict(run.config),
            allow_val_change=True,
            settings=wandb.Settings(
                console="off",
                silent=True,
                disable_code=True,
                disable_git=True,  # the address of a remote may hold a token
                x_disable_meta=True,  # so may a command line
                x_save_requirements=False,
                finish_timeout=_FINISH_SECONDS,
            ),
        )

    def scalars(self, session: Any, values: Mapping[str, float], step: int) -> None:
        self._log(session, dict(values), step)

    def audio(self, session: Any, name: str, samples: np.ndarray, sample_rate: int, step: int) -> None:
        wandb = import_package("wandb", "wandb")
        self._log(session, {name: wandb.Audio(samples, sample_rate=sample_rate)}, step)

    def image(self, session: Any, name: str, image: np.ndarray, step: int) -> None:
        wandb = import_package("wandb", "wandb")
        self._log(session, {f"{name}/spectrogram": wandb.Image(image)}, step)

    def finish(self, session: Any) -> None:
        session.finish()

    def _log(self, session: Any, values: dict[str, Any], step: int) -> None:
        session.log(values, step=max(step, session.step))  # it drops what goes back, as after a kill
