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
from jaxgen.objectives.objective import TrainTask
from jaxgen.training.distributed import AnyProcess, all_gather, is_first, print_from_any_process
from jaxgen.training.feed import prefetch_groups
from jaxgen.training.interrupts import Interrupts
from jaxgen.training.mesh import Devices
from jaxgen.training.profile import Profile
from jaxgen.training.safety import Safety
from jaxgen.training.schedule import Train, group_ends, should_stop_early
from jaxgen.training.telemetry import Telemetry, check_state
from jaxgen.training.watchdog import Watchdog

if TYPE_CHECKING:  # orbax is slow to import
    from jaxgen.training.checkpoint import Checkpoints
    from jaxgen.training.upload import FirstProcessCheckpoints


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
    task: TrainTask,
    batches: Batches,
    checkpoints: "Checkpoints | FirstProcessCheckpoints",
    validate: Callable[[Any, int], Validation],
    train: Train,
    workdir: Path,
    devices: Devices,
    *,
    seconds_per_step: float,
    run: Mapping[str, Any],
    profile: str = "",
) -> Outcome:
    """Trains to `train.steps`, from the newest whole checkpoint if there is one.

    validate: called with the averaged parameters, on one device, and the step. workdir: where this process writes, but
    for checkpoints. seconds_per_step: audio that one update reads. run: JSON value saved with every checkpoint.
    profile: updates to trace, as START:N.
    Raises Diverged where training cannot go on, UserError for a full disk unless training is to go on.
    """
    state, stream = devices.init_state(task.init, random_key(train.seed)), iter(batches)
    train_steps, tracing = devices.compile(scan_updates(task), state), Profile(profile, workdir / "tensorboard")
    start, history = 0, None
    if saved := checkpoints.restore_newest(state):
        start, state, position = saved
        try:
            history = position.pop("history", None)
            stream.set_state(position)
            if history is not None:
                check_state(history)
        except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
            raise UserError(
                f"the checkpoint of step {start} says nothing usable of how far the data was read ({type(error).__name__}: "
                f"{str(error)[:100]}); train anew in another --workdir."
            ) from None
    telemetry = Telemetry(
        workdir,
        start=start,
        saved=history,
        steps=train.steps,
        log_every=train.log_every,
        seconds_per_step=seconds_per_step,
        skipped_in_row=int(state.guard.in_row),
        must_write=train.on_full_disk == "stop",
        diagnose=task.diagnose,
        loggers=train.loggers if is_first() else (),
        config=run.get("config", {}),
    )
    watchdog = Watchdog(telemetry.tell if is_first() else print_from_any_process, train.stuck_after)
    safety = Safety(task, batches, checkpoints, train, workdir, telemetry, devices)
    feed = contextlib.closing(prefetch_groups(stream, start + 1, group_ends(start, train), devices.place))
    any_process = AnyProcess()
    with Interrupts() as interrupts, telemetry, watchdog, tracing, feed as coming:
        if early := should_stop_early(telemetry.history, train):
            return Outcome.EARLY
        for group in telemetry.time_waits(watchdog.watch_items("the wait for data", coming)):
            step = group.last
            tracing.before(step, group.size)
            with watchdog.watch("an update"):
                state, metrics = train_steps(state, group.batches)
                telemetry.record(step, metrics)
            tracing.after(step, state)
            state = safety.check(state, group)
            stop, found = any_process(interrupts.requested), None
            if step == train.steps or (step % train.eval_every == 0 and safety.is_settled()):
                with watchdog.watch("validation"):
                    found = validate(devices.gather(state.average), step)
                if train.best_metric not in ("", *found.metrics, *found.absent):
                    raise UserError(
                        f"--train.best-metric is '{train.best_metric}', expected one of {', '.join(found.metrics)}."
                    )
                telemetry.record_validation(step, found.metrics)
                if reason := found.absent.get(train.best_metric):
                    telemetry.tell(f"step {step}: no {train.best_metric} to find the best checkpoint by: {reason}")
            due = step % train.checkpoint_every == 0 or stop
            saving = found is not None or (due and safety.is_settled())
            if saving:
                with watchdog.watch("a save"):
                    safety.save(state, group, run, None if found is None else found.metrics)
            if stop and saving:
                return Outcome.PREEMPTED
            if found is not None:
                with watchdog.watch("previews"):
                    telemetry.record_clips(step, found.clips, found.sample_rate)
            if early := should_stop_early(telemetry.history, train):
                break
    if any(all_gather(interrupts.requested)):  # while the last update was validated or saved
        return Outcome.PREEMPTED
    return Outcome.EARLY if early else Outcome.FINISHED


def scan_updates(task: TrainTask) -> Callable[[Any, Any], tuple[Any, Any]]:
    """One update after another, in one call: (state, batches [N, ...]) -> (state, metrics [N])."""

    def train_steps(state: Any, batches: Any) -> tuple[Any, Any]:
        return jax.lax.scan(task.train_step, state, batches)

    return train_steps
