"""Checkpoints of a run. The only file that knows orbax."""

import logging
import shutil
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from jaxgen.errors import UserError
from jaxgen.files import writing

managers = ocp.checkpoint_managers

_ROOM = 1.5  # times the state's own size, for the files around it


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
        """Starts a save. metrics: the validation figures at this step, if it was validated.

        Raises UserError where the disk is full or cannot be written.
        """
        needed = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
        with writing(self.directory):
            if (
                free := shutil.disk_usage(self.directory).free
            ) < _ROOM * needed:  # orbax fails loudly, from its threads
                raise OSError(None, f"{free / 1e6:.1f} MB free, a checkpoint needs {_ROOM * needed / 1e6:.1f} MB")
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
        saved = self._read(step, state=ocp.args.StandardRestore(target), data=ocp.args.JsonRestore())
        return saved["state"], saved["data"]

    def run(self, step: int) -> Any:
        """What `save` was given as `run`."""
        return self._read(step, run=ocp.args.JsonRestore())["run"]

    def _read(self, step: int, **items: Any) -> Any:
        try:
            return self.manager.restore(step, args=ocp.args.Composite(**items))
        except (OSError, ValueError, KeyError) as error:
            reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
            raise UserError(
                f"the checkpoint of step {step} in '{self.directory}' cannot be read ({reason}); remove its folder "
                f"'{step}' to go on from the one before."
            ) from error

    def latest(self) -> int | None:
        """Newest step, or None in an empty run."""
        return self.manager.latest_step()

    def steps(self) -> list[int]:
        """All steps kept, oldest first."""
        return sorted(self.manager.all_steps())

    def best(self, metric: str) -> int | None:
        """Step with the lowest validation metric of this name, or None where none was validated."""
        found = {step: self.manager.metrics(step) for step in self.steps()}
        values = {step: metrics[metric] for step, metrics in found.items() if metrics}
        return min(values, key=lambda step: values[step], default=None)

    def wait(self) -> None:
        """Returns when every started save is on disk."""
        with writing(self.directory):
            self.manager.wait_until_finished()

    def close(self) -> None:
        """Finishes saves and ends the writer threads."""
        self.wait()
        self.manager.close()
