"""The training loop. Its order is a promise: update, telemetry, evaluate, save, and only then the next call.

One call of the device does `Train.steps_per_call` updates, but never goes past a step at which something is due.
"""

import contextlib
import dataclasses
import enum
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from jaxgen.data.pipeline import TrainingBatches
from jaxgen.errors import UserError
from jaxgen.objectives.likelihood import LikelihoodTraining
from jaxgen.training.feed import calls
from jaxgen.training.interrupts import Interrupts
from jaxgen.training.telemetry import Telemetry

if TYPE_CHECKING:  # orbax is slow to import
    from jaxgen.training.checkpoint import Checkpoints


@dataclasses.dataclass(frozen=True)
class Train:
    """How long and how often."""

    steps: int = 2_000
    """Updates."""
    batch_size: int = 32
    """Rows: streams of clips that train side by side."""
    seq_len: int = 128
    """Steps (samples or frames) the gradient sees."""
    seed: int = 0
    """Decides the initial weights, the order of clips and every draw."""
    steps_per_call: int = 1
    """Updates that the device does in one go, where updates take a few milliseconds; best a divisor of log_every. The
    results are the same."""
    log_every: int = 10
    """Steps between training rows in metrics.jsonl."""
    eval_every: int = 500
    """Steps between validations, each with generated audio."""
    checkpoint_every: int = 500
    """Steps between checkpoints; every validation makes one too."""
    keep: int = 2
    """Newest checkpoints kept, beside the best."""
    best_metric: str = "loss"
    """Validation metric whose lowest value marks the best checkpoint."""
    early_stopping: int = 0
    """Stop after this many validations without a better one; 0 never stops early."""
    max_eval_clips: int = 300
    """Validation clips scored while training; the report scores all."""

    def __post_init__(self):
        counts = (
            "steps",
            "batch_size",
            "seq_len",
            "steps_per_call",
            "log_every",
            "eval_every",
            "checkpoint_every",
            "keep",
            "max_eval_clips",
        )
        for name, least in (*((name, 1) for name in counts), ("early_stopping", 0)):
            if getattr(self, name) < least:
                option = f"--train.{name.replace('_', '-')}"
                raise UserError(f"{option} is {getattr(self, name)}, expected at least {least}.")
        check_seed(self.seed)


def check_seed(seed: int) -> None:
    """Raises UserError for a seed that random number generators do not take."""
    if not 0 <= seed < 2**32:
        raise UserError(f"--seed is {seed}, expected 0 to {2**32 - 1}.")


@dataclasses.dataclass(frozen=True)
class Validation:
    """What a validation found."""

    metrics: dict[str, float]
    """Means over validation steps, by unit-bearing name."""
    clips: list[np.ndarray]
    """Generated clips, float32 [nsamp] each."""
    sample_rate: int
    """Hz of the clips."""


class Outcome(enum.Enum):
    """Why `fit` came back."""

    FINISHED = "finished"
    EARLY = "stopped early"
    PREEMPTED = "interrupted"


def fit(
    training: LikelihoodTraining,
    batches: TrainingBatches,
    checkpoints: "Checkpoints",
    validate: Callable[[Any, int], Validation],
    train: Train,
    workdir: Path,
    *,
    seconds_per_step: float,
    run: Any,
) -> Outcome:
    """Trains to `train.steps`, from the newest checkpoint if there is one.

    validate: called with the averaged parameters and the step. seconds_per_step: audio that one update reads.
    run: JSON value saved with every checkpoint. Raises Diverged where a loss is not finite, UserError for a full disk.
    """
    train_steps = updates(training)
    state, stream = jax.jit(training.init)(jax.random.key(train.seed)), iter(batches)
    start = checkpoints.latest() or 0
    if start:
        state, position = checkpoints.restore(start, state)
        stream.set_state(position)
    telemetry = Telemetry(
        workdir, start=start, steps=train.steps, log_every=train.log_every, seconds_per_step=seconds_per_step
    )
    feed = contextlib.closing(calls(stream, start + 1, last_steps(start, train)))
    with Interrupts() as interrupts, telemetry, feed as coming:
        if not_improving(telemetry.history, train):
            return Outcome.EARLY
        for call in telemetry.waiting(coming):
            step = call.last
            state, metrics = train_steps(state, call.batches)
            telemetry.record(step, metrics)
            figures = None
            if step == train.steps or step % train.eval_every == 0:
                validation = validate(state.average, step)
                figures = validation.metrics
                if train.best_metric not in figures:
                    raise UserError(
                        f"--train.best-metric is '{train.best_metric}', expected one of {', '.join(figures)}."
                    )
                telemetry.validated(step, figures)
                telemetry.heard(step, validation.clips, validation.sample_rate)
            if figures is not None or step % train.checkpoint_every == 0 or interrupts.requested:
                telemetry.flush()
                checkpoints.save(step, state, call.position, run, figures)
            if interrupts.requested and step < train.steps:
                return Outcome.PREEMPTED
            if not_improving(telemetry.history, train):
                return Outcome.EARLY
    return Outcome.FINISHED


def updates(training: LikelihoodTraining) -> Callable[[Any, Any], tuple[Any, Any]]:
    """One update after another, in one call: (state, batches [N, ...]) -> (state, metrics [N]). The state is donated."""

    def train_steps(state: Any, batches: Any) -> tuple[Any, Any]:
        return jax.lax.scan(training.train_step, state, batches)

    return jax.jit(train_steps, donate_argnums=0)


def last_steps(start: int, train: Train) -> Iterator[int]:
    """The step that each call ends with, where `start` steps are done."""
    periods = (train.log_every, train.eval_every, train.checkpoint_every)
    while start < train.steps:
        due = min((start // period + 1) * period for period in periods)
        start = min(start + train.steps_per_call, due, train.steps)
        yield start


def not_improving(history: Sequence[Mapping[str, Any]], train: Train) -> bool:
    """Whether early stopping is due: the last `early_stopping` validations were no better than one before them."""
    values = [row[train.best_metric] for row in history if row["split"] == "validation"]
    if not train.early_stopping or not values:
        return False
    return len(values) - 1 - values.index(min(values)) >= train.early_stopping
