"""The training loop. Its order is a promise: update, telemetry, evaluate, save, previews, and only then the next call.

What is only looked at or listened to comes after the save, and costs nothing but a line where it fails.

One call of the device does `Train.steps_per_call` updates, but never goes past a step at which something is due.
"""

import contextlib
import dataclasses
import enum
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from jaxgen.core.errors import UserError
from jaxgen.core.numerics import random_key
from jaxgen.data.batches import Batches
from jaxgen.objectives.objective import Training
from jaxgen.training.distributed import AnyOf, gathered, is_first, say_aloud
from jaxgen.training.feed import calls
from jaxgen.training.interrupts import Interrupts
from jaxgen.training.mesh import Devices
from jaxgen.training.profile import Profile
from jaxgen.training.safety import Safety
from jaxgen.training.schedule import Train, last_steps, not_improving
from jaxgen.training.telemetry import Telemetry, check_kept
from jaxgen.training.watchdog import Watchdog

if TYPE_CHECKING:  # orbax is slow to import
    from jaxgen.training.checkpoint import Checkpoints
    from jaxgen.training.upload import KeptByFirst


@dataclasses.dataclass(frozen=True)
class Validation:
    """What a validation found."""

    metrics: dict[str, float]
    """Means over validation steps, by unit-bearing name."""
    clips: Iterable[np.ndarray]
    """Generated clips, float32 [nsamp] each; read after the save, so they may be made as they are read."""
    sample_rate: int
    """Hz of the clips."""
    absent: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """Why metrics are missing that could not be computed, by name."""


class Outcome(enum.Enum):
    """Why `fit` came back."""

    FINISHED = "finished"
    EARLY = "stopped early"
    PREEMPTED = "interrupted"


def fit(
    training: Training,
    batches: Batches,
    checkpoints: "Checkpoints | KeptByFirst",
    validate: Callable[[Any, int], Validation],
    train: Train,
    workdir: Path,
    devices: Devices,
    *,
    seconds_per_step: float,
    run: Any,
    profile: str = "",
) -> Outcome:
    """Trains to `train.steps`, from the newest whole checkpoint if there is one.

    validate: called with the averaged parameters, on one device, and the step. workdir: where this process writes, but
    for checkpoints. seconds_per_step: audio that one update reads. run: JSON value saved with every checkpoint.
    profile: updates to trace, as START:N.
    Raises Diverged where training cannot go on, UserError for a full disk unless training is to go on.
    """
    state, stream = devices.start(training.init, random_key(train.seed)), iter(batches)
    train_steps, tracing = devices.compiled(updates(training), state), Profile(profile, workdir / "tensorboard")
    start, history = 0, None
    if saved := checkpoints.restore_newest(state):
        start, state, position = saved
        try:
            history = position.pop("history", None)
            stream.set_state(position)
            if history is not None:
                check_kept(history)
        except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
            raise UserError(
                f"the checkpoint of step {start} says nothing usable of how far the data was read ({type(error).__name__}: "
                f"{str(error)[:100]}); train anew in another --workdir."
            ) from None
    telemetry = Telemetry(
        workdir,
        start=start,
        kept=history,
        steps=train.steps,
        log_every=train.log_every,
        seconds_per_step=seconds_per_step,
        skipped_in_row=int(state.guard.in_row),
        must_write=train.on_full_disk == "stop",
        concern=training.concern,
    )
    watchdog = Watchdog(telemetry.tell if is_first() else say_aloud, train.stuck_after)
    safety = Safety(training, batches, checkpoints, train, workdir, telemetry, devices)
    feed = contextlib.closing(calls(stream, start + 1, last_steps(start, train), devices.place))
    any_process = AnyOf()
    with Interrupts() as interrupts, telemetry, watchdog, tracing, feed as coming:
        if early := not_improving(telemetry.history, train):
            return Outcome.EARLY
        for call in telemetry.waiting(watchdog.waiting("the wait for data", coming)):
            step = call.last
            tracing.before(step, call.size)
            with watchdog.doing("an update"):
                state, metrics = train_steps(state, call.batches)
                telemetry.record(step, metrics)
            tracing.after(step, state)
            state = safety.checked(state, call)
            stop, found = any_process(interrupts.requested), None
            if step == train.steps or (step % train.eval_every == 0 and safety.settled()):
                with watchdog.doing("validation"):
                    found = validate(devices.local(state.average), step)
                if train.best_metric not in ("", *found.metrics, *found.absent):
                    raise UserError(
                        f"--train.best-metric is '{train.best_metric}', expected one of {', '.join(found.metrics)}."
                    )
                telemetry.validated(step, found.metrics)
                if reason := found.absent.get(train.best_metric):
                    telemetry.tell(f"step {step}: no {train.best_metric} to find the best checkpoint by: {reason}")
            due = step % train.checkpoint_every == 0 or stop
            saving = found is not None or (due and safety.settled())
            if saving:
                with watchdog.doing("a save"):
                    safety.save(state, call, run, None if found is None else found.metrics)
            if stop and saving:
                return Outcome.PREEMPTED
            if found is not None:
                with watchdog.doing("previews"):
                    telemetry.heard(step, found.clips, found.sample_rate)
            if early := not_improving(telemetry.history, train):
                break
    if any(gathered(interrupts.requested)):  # while the last update was validated or saved
        return Outcome.PREEMPTED
    return Outcome.EARLY if early else Outcome.FINISHED


def updates(training: Training) -> Callable[[Any, Any], tuple[Any, Any]]:
    """One update after another, in one call: (state, batches [N, ...]) -> (state, metrics [N])."""

    def train_steps(state: Any, batches: Any) -> tuple[Any, Any]:
        return jax.lax.scan(training.train_step, state, batches)

    return train_steps
