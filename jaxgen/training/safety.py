"""What the loop does where updates or saves fail."""

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from jaxgen.core.errors import Diverged, SaveFailed
from jaxgen.core.files import write_whole
from jaxgen.core.numerics import random_key
from jaxgen.data.batches import Batches
from jaxgen.objectives.objective import Training
from jaxgen.objectives.state import TrainState
from jaxgen.training.feed import Call
from jaxgen.training.mesh import Devices
from jaxgen.training.schedule import Train
from jaxgen.training.telemetry import Telemetry

if TYPE_CHECKING:  # orbax is slow to import
    from jaxgen.training.checkpoint import Checkpoints
    from jaxgen.training.upload import KeptByFirst

_NAMED = 5  # clips in a message; all are in a file


@dataclasses.dataclass(frozen=True)
class Safety:
    """Goes back to the last checkpoint where updates are skipped again and again, and saves none meanwhile."""

    training: Training
    batches: Batches
    checkpoints: "Checkpoints | KeptByFirst"
    train: Train
    workdir: Path
    telemetry: Telemetry
    devices: Devices

    def checked(self, state: TrainState, call: Call) -> TrainState:
        """The state after a call: as it is, or with the last checkpoint's parameters and optimiser where too many updates
        in a row were skipped. Step, data and schedule of checks go on, so that other batches follow.

        It is decided at the steps that are logged, so that it does not depend on which steps are one call. Raises
        Diverged where going back has not helped.
        """
        limit, last = min(self.train.max_skipped, self.train.steps), call.last == self.train.steps
        if not last and call.last % self.train.log_every:
            return state
        if self.telemetry.skipped_in_row + call.size < limit:  # known without asking the device
            return state
        self.telemetry.flush()
        if self.telemetry.skipped_in_row < limit:
            return state
        if last or int(state.guard.rollbacks) >= self.train.max_rollbacks:
            raise self._diverged(call, int(state.guard.rollbacks))
        return self._back(state, call.last)

    def settled(self) -> bool:
        """Whether the last update was good, so that the parameters may be saved and validated."""
        self.telemetry.flush()
        return self.telemetry.skipped_in_row == 0

    def save(self, state: TrainState, call: Call, run: Any, figures: dict[str, float] | None) -> None:
        """Starts a checkpoint. Raises SaveFailed where none can be written, unless training is to go on without."""
        self.telemetry.flush()
        data = call.position | {"history": self.telemetry.kept()}
        try:
            self.checkpoints.save(call.last, state, data, run, figures)
        except SaveFailed as error:
            if self.train.on_full_disk == "stop":
                raise
            self.telemetry.tell(f"jaxgen: {error} Training goes on.")
            try:  # it may have been the save before that failed, and now there may be room
                self.checkpoints.save(call.last, state, data, run, figures)
            except SaveFailed:
                if call.last == self.train.steps:
                    raise

    def _back(self, state: TrainState, step: int) -> TrainState:
        self.checkpoints.wait()
        saved = self.checkpoints.restore_newest(state)
        good = saved.state if saved else self.devices.start(self.training.init, random_key(self.train.seed))
        self.telemetry.tell(
            f"step {step}: {self.telemetry.skipped_in_row} updates in a row were skipped; parameters and optimiser go back "
            f"to step {saved.step if saved else 0}"
        )
        self.telemetry.skipped_in_row = 0
        guard = state.guard._replace(in_row=good.guard.in_row, rollbacks=state.guard.rollbacks + 1)
        return state._replace(params=good.params, average=good.average, opt_state=good.opt_state, guard=guard)

    def _diverged(self, call: Call, rollbacks: int) -> Diverged:
        batches = self.devices.local(call.batches)
        names = self.batches.names(jax.tree.map(lambda array: np.asarray(array[-1]), batches))
        listing = self.workdir / "diverged.json"
        write_whole(listing, json.dumps({"step": call.last, "clips": names}, indent=2) + "\n")
        more = f" and {len(names) - _NAMED} more (all in {listing})" if len(names) > _NAMED else ""
        return Diverged(
            f"training diverged at step {call.last}: loss or gradient of {self.telemetry.skipped_in_row} updates in a row "
            f"were not finite or spiked, also after going back to a checkpoint {rollbacks} times. The last batch holds "
            f"{', '.join(names[:_NAMED])}{more}. If nothing is wrong with them, lower {self.training.pace} "
            "and start again in another --workdir."
        )
