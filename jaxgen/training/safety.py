"""What the loop does where updates or saves fail."""

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from jaxgen.core.errors import Diverged, SaveFailed
from jaxgen.core.files import write_atomic
from jaxgen.core.numerics import random_key
from jaxgen.data.batches import Batches
from jaxgen.objectives.objective import TrainTask
from jaxgen.objectives.state import TrainState
from jaxgen.training.feed import StepGroup
from jaxgen.training.mesh import Devices
from jaxgen.training.schedule import Train
from jaxgen.training.telemetry import Telemetry

if TYPE_CHECKING:  # orbax is slow to import
    from jaxgen.training.checkpoint import Checkpoints
    from jaxgen.training.upload import FirstProcessCheckpoints

_NAMED = 5  # clips in a message; all are in a file


@dataclasses.dataclass(frozen=True)
class Safety:
    """Goes back to the last checkpoint where updates are skipped again and again, and saves none meanwhile."""

    task: TrainTask
    batches: Batches
    checkpoints: "Checkpoints | FirstProcessCheckpoints"
    train: Train
    workdir: Path
    telemetry: Telemetry
    devices: Devices

    def check(self, state: TrainState, group: StepGroup) -> TrainState:
        """The state after a group of updates: as it is, or with the last checkpoint's parameters and optimiser where too many
        updates in a row were skipped. Step, data and schedule of checks go on, so that other batches follow.

        It is decided at the steps that are logged, so that it does not depend on how steps are grouped. Raises
        Diverged where going back has not helped.
        """
        limit, last = min(self.train.max_skipped, self.train.steps), group.last == self.train.steps
        if not last and group.last % self.train.log_every:
            return state
        if self.telemetry.skipped_in_row + group.size < limit:  # known without asking the device
            return state
        self.telemetry.flush()
        if self.telemetry.skipped_in_row < limit:
            return state
        if last or int(state.guard.rollbacks) >= self.train.max_rollbacks:
            raise self._diverged(group, int(state.guard.rollbacks))
        return self._back(state, group.last)

    def is_settled(self) -> bool:
        """Whether the last update was good, so that the parameters may be saved and validated."""
        self.telemetry.flush()
        return self.telemetry.skipped_in_row == 0

    def save(self, state: TrainState, group: StepGroup, run: Any, figures: dict[str, float] | None) -> None:
        """Starts a checkpoint. Raises SaveFailed where none can be written, unless training is to go on without."""
        self.telemetry.flush()
        data = group.position | {"history": self.telemetry.get_state()}
        try:
            self.checkpoints.save(group.last, state, data, run, figures)
        except SaveFailed as error:
            if self.train.on_full_disk == "stop":
                raise
            self.telemetry.tell(f"jaxgen: {error} Training goes on.")
            try:  # it may have been the save before that failed, and now there may be room
                self.checkpoints.save(group.last, state, data, run, figures)
            except SaveFailed:
                if group.last == self.train.steps:
                    raise

    def _back(self, state: TrainState, step: int) -> TrainState:
        self.checkpoints.wait()
        saved = self.checkpoints.restore_newest(state)
        good = saved.state if saved else self.devices.init_state(self.task.init, random_key(self.train.seed))
        self.telemetry.tell(
            f"step {step}: {self.telemetry.skipped_in_row} updates in a row were skipped; parameters and optimiser go back "
            f"to step {saved.step if saved else 0}"
        )
        self.telemetry.skipped_in_row = 0
        guard = state.guard._replace(in_row=good.guard.in_row, rollbacks=state.guard.rollbacks + 1)
        return state._replace(params=good.params, average=good.average, opt_state=good.opt_state, guard=guard)

    def _diverged(self, group: StepGroup, rollbacks: int) -> Diverged:
        batches = self.devices.gather(group.batches)
        names = self.batches.names(jax.tree.map(lambda array: np.asarray(array[-1]), batches))
        listing = self.workdir / "diverged.json"
        write_atomic(listing, json.dumps({"step": group.last, "clips": names}, indent=2) + "\n")
        more = f" and {len(names) - _NAMED} more (all in {listing})" if len(names) > _NAMED else ""
        return Diverged(
            f"training diverged at step {group.last}: loss or gradient of {self.telemetry.skipped_in_row} updates in a row "
            f"were not finite or spiked, also after going back to a checkpoint {rollbacks} times. The last batch holds "
            f"{', '.join(names[:_NAMED])}{more}. If nothing is wrong with them, lower {self.task.learning_rate_options} "
            "and start again in another --workdir."
        )
