"""Checkpoints of a run. The only file that knows orbax."""

import logging
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from jaxgen.errors import writing

managers = ocp.checkpoint_managers


class Checkpoints:
    """The checkpoints in `directory`: the newest `keep` and the one with the lowest validation metric.

    Each holds the train state, the data position and `run` (config and data spec), written together and asynchronously:
    a checkpoint is either whole or absent.
    """

    def __init__(self, directory: Path, *, keep: int = 2, best_metric: str = "loss"):
        logging.getLogger("absl").setLevel(logging.ERROR)
        self.directory = directory
        self.best_metric = best_metric
        self.manager = ocp.CheckpointManager(
            directory.absolute(),
            options=ocp.CheckpointManagerOptions(
                preservation_policy=managers.AnyPreservationPolicy(
                    [
                        managers.LatestN(keep),
                        managers.BestN(
                            get_metric_fn=lambda m: m[best_metric],
                            reverse=True,
                            n=1,
                            keep_checkpoints_without_metrics=False,
                        ),
                    ]
                ),
                best_fn=lambda metrics: metrics[best_metric],
                best_mode="min",
            ),
        )

    def save(self, step: int, state: Any, data: dict[str, Any], run: Any, metrics: dict[str, float] | None) -> None:
        """Starts a save. metrics: the validation figures at this step, if it was validated."""
        with writing(self.directory):
            self.manager.save(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.StandardSave(state), data=ocp.args.JsonSave(data), run=ocp.args.JsonSave(run)
                ),
                metrics=metrics,
            )

    def restore(self, step: int, state: Any) -> tuple[Any, dict[str, Any]]:
        """Train state and data position of a step; `state` gives structure, shapes and dtypes."""
        target = jax.tree.map(ocp.utils.to_shape_dtype_struct, state)
        saved = self.manager.restore(
            step, args=ocp.args.Composite(state=ocp.args.StandardRestore(target), data=ocp.args.JsonRestore())
        )
        return saved["state"], saved["data"]

    def run(self, step: int) -> Any:
        """What `save` was given as `run`."""
        return self.manager.restore(step, args=ocp.args.Composite(run=ocp.args.JsonRestore()))["run"]

    def latest(self) -> int | None:
        """Newest step, or None in an empty run."""
        return self.manager.latest_step()

    def steps(self) -> list[int]:
        """All steps kept, oldest first."""
        return sorted(self.manager.all_steps())

    def best(self) -> int | None:
        """Step with the lowest validation metric, or None where none was validated."""
        return self.manager.best_step()

    def wait(self) -> None:
        """Returns when every started save is on disk."""
        with writing(self.directory):
            self.manager.wait_until_finished()

    def close(self) -> None:
        """Finishes saves and ends the writer threads."""
        self.wait()
        self.manager.close()
