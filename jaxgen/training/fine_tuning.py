"""Training that starts from another run's parameters, and leaves some parameters as they are."""

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from jaxgen.core.errors import UserError
from jaxgen.objectives.objective import Batch, Metrics, TrainTask
from jaxgen.objectives.state import TrainState

_NAMED = 5  # parameters in a message


@dataclasses.dataclass(frozen=True)
class Taken:
    """Which parameters come from another run."""

    average: Mapping[str, np.ndarray]
    """Those that do, float32, by path."""
    told: tuple[str, ...]
    """What became of each part, a line each."""


def take_parameters(own: Any, others: Any, pattern: str) -> Taken:
    """The parameters of another run (`others`) that fit: of the same path and shape as in `own`, whose path holds `pattern`.

    own: the shapes of the averaged parameters of this run. Raises UserError where none fits.
    """
    wanted, known = parameters_by_path(own), parameters_by_path(others)
    matching = {path for path in wanted if _search(pattern, path, "--init-only")}
    fitting = {path for path in matching & known.keys() if wanted[path].shape == known[path].shape}
    if not fitting:
        raise UserError(
            f"no parameter of --init-from fits{f' --init-only {pattern}' if pattern else ''}; it has {_some(known)}, and this "
            f"model has {_some(wanted)}."
        )
    others_size = [path for path in matching & known.keys() if path not in fitting]
    lines = [f"{len(fitting)} of {len(wanted)} parameters are taken"]
    lines += [
        f"new, as it has another size: {path} {wanted[path].shape}, there {known[path].shape}" for path in others_size
    ]
    lines += [f"new, as it is not there: {path}" for path in sorted(matching - known.keys())]
    lines += [f"left: {path}" for path in sorted(known.keys() - wanted.keys())]
    return Taken({path: np.asarray(known[path]) for path in sorted(fitting)}, tuple(lines))


def parameters_by_path(params: Any) -> dict[str, Any]:
    """The arrays of a tree by their path, as `stack/layers/0/input`."""
    return {_path(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(params)}


class FineTuning(TrainTask):
    """A task that starts from taken parameters, and in which those whose path holds `frozen` do not change."""

    def __init__(self, task: TrainTask, taken: Mapping[str, np.ndarray], frozen: str):
        """Raises UserError where `frozen` matches no parameter."""
        self._task, self._taken, self._frozen = task, taken, frozen
        self.learning_rate_options = task.learning_rate_options
        if frozen:
            names = parameters_by_path(jax.eval_shape(task.init, jax.random.key(0)).params)
            if not any(_search(frozen, path, "--freeze") for path in names):
                raise UserError(f"--freeze is '{frozen}', which no parameter matches; there are {_some(names)}.")

    def init(self, key: jax.Array) -> TrainState:
        state = self._task.init(key)
        if not self._taken:
            return state
        average = jax.tree_util.tree_map_with_path(lambda path, leaf: self._taken.get(_path(path), leaf), state.average)
        return self._task.start_from(state, jax.tree.map(jax.numpy.asarray, average))

    def train_step(self, state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        new, metrics = self._task.train_step(state, batch)
        if not self._frozen:
            return new, metrics
        params, average = (
            jax.tree_util.tree_map_with_path(
                lambda path, new, old: old if re.search(self._frozen, _path(path)) else new, after, before
            )
            for after, before in ((new.params, state.params), (new.average, state.average))
        )
        return new._replace(params=params, average=average), metrics

    def module(self, params: Any) -> Any:
        return self._task.module(params)

    def diagnose(self, figures: Mapping[str, float]) -> str:
        return self._task.diagnose(figures)


def _search(pattern: str, path: str, option: str) -> bool:
    try:
        return re.search(pattern, path) is not None
    except re.error as error:
        raise UserError(f"{option} is '{pattern}', which is no regular expression ({error}).") from None


def _some(names: Mapping[str, Any]) -> str:
    shown = sorted(names)[:_NAMED]
    return ", ".join(shown) + (f" and {len(names) - _NAMED} more" if len(names) > _NAMED else "")


def _path(path: jax.tree_util.KeyPath) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")
