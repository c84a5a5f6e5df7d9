"""How long training takes, how often what is done, and when it ends."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

from jaxgen.core.errors import UserError
from jaxgen.loggers import Logger, TensorBoard


@dataclasses.dataclass(frozen=True)
class Train:
    """How long and how often."""

    steps: int = 2_000
    """Updates in all; more take longer and learn more."""
    batch_size: int = 32
    """Rows: clips that train side by side; more are steadier, and take more time and memory."""
    seq_len: int = 128
    """Steps (samples or frames) that a gradient looks back; more take more time and memory."""
    seed: int = 0
    """Another seed draws initial weights, order of clips and noise anew."""
    steps_per_call: int = 1
    """Updates that the device does in one go, where updates take a few milliseconds; best a divisor of log_every. The
    results are the same."""
    log_every: int = 10
    """Updates between training rows in metrics.jsonl."""
    eval_every: int = 500
    """Updates between validations, each with generated audio; fewer take more time."""
    checkpoint_every: int = 500
    """Updates between checkpoints, beside one at every validation; what a kill loses is at most so many."""
    keep: int = 2
    """Newest checkpoints that stay on disk, beside the best."""
    best_metric: str = "loss"
    """Validation metric whose lowest value marks the best checkpoint; empty takes the newest for the best."""
    early_stopping: int = 0
    """Stop after this many validations without a better one; 0 never stops early."""
    shard_parameters: bool = False
    """Split parameters, their average and the optimiser's moments over the devices, which saves memory; else each device
    has all of them."""
    max_eval_clips: int = 300
    """Clips that a validation scores; fewer are faster and less exact. The report scores all."""
    max_skipped: int = 10
    """Updates that may be skipped in a row, where their loss or gradient is not finite (or spikes, see
    --objective.spike); then, at the next step that is logged, the parameters of the last checkpoint are put back."""
    max_rollbacks: int = 1
    """Times that parameters may be put back before training stops."""
    on_full_disk: Literal["stop", "continue"] = "stop"
    """What to do where the disk is full: stop, or train on and write when there is room."""
    stuck_after: float = 60.0
    """Seconds after which an update or a wait for data is reported as stuck, if it also takes ten times as long as
    usual."""
    loggers: tuple[Logger, ...] = (TensorBoard(),)
    """Where figures, clips and pictures go beside metrics.jsonl; by name, as --train.loggers TensorBoard WandB."""

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
        for name, least in (
            *((name, 1) for name in (*counts, "max_skipped")),
            *(("early_stopping", 0), ("max_rollbacks", 0), ("stuck_after", 0.1)),
        ):
            if getattr(self, name) < least:
                option = f"--train.{name.replace('_', '-')}"
                raise UserError(f"{option} is {getattr(self, name)}, expected at least {least}.")
        if self.early_stopping and not self.best_metric:
            raise UserError("--train.early-stopping needs a --train.best-metric to go by.")
        check_seed(self.seed)


def check_seed(seed: int) -> None:
    """Raises UserError for a seed that random number generators do not take."""
    if not 0 <= seed < 2**32:
        raise UserError(f"--seed is {seed}, expected 0 to {2**32 - 1}.")


def group_ends(start: int, train: Train) -> Iterator[int]:
    """The last step of each group of updates, where `start` steps are done."""
    periods = (train.log_every, train.eval_every, train.checkpoint_every)
    while start < train.steps:
        due = min((start // period + 1) * period for period in periods)
        start = min(start + train.steps_per_call, due, train.steps)
        yield start


def should_stop_early(history: Sequence[Mapping[str, Any]], train: Train) -> bool:
    """Whether early stopping is due: the last `early_stopping` validations were no better than one before them."""
    values = [row[train.best_metric] for row in history if row["split"] == "validation" and train.best_metric in row]
    if not train.early_stopping or not values:
        return False
    return len(values) - 1 - values.index(min(values)) >= train.early_stopping
