"""What a recurrent cell buys for its time: `python -m benchmarks.cells --data.root DIR --minutes 6 --chart cells.png`.

The sample-level model of configs/digits_wave.py with each cell in turn, at equal parameters: bits/sample of validation
clips against the time spent on training and against updates. All cells read the same batches at the same constant
learning rate (a decay would have to know its last step, and here time runs out, not steps), and are scored by the
moving average of their weights. They train in turns of a few seconds, so that the machine's load hits all alike.
Compilation (the first update of each) and scoring do not count.
"""

import bisect
import dataclasses
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import jax
from flax import nnx

from benchmarks import chart, measure
from benchmarks.measure import Row
from jaxgen.config import load, parse
from jaxgen.core.errors import UserError
from jaxgen.core.pictures import matplotlib_settings
from jaxgen.data.clips import Dataset
from jaxgen.data.ingest import AudioPolicy
from jaxgen.data.pipeline import TrainingBatches
from jaxgen.data.preparation import prepare
from jaxgen.data.spec import DataSpec
from jaxgen.data.store import Store
from jaxgen.evaluation.scoring import Scorer
from jaxgen.features import FeatureSpec
from jaxgen.models.wave_rnn import WaveRNN
from jaxgen.nn.recurrent import GRU, LSTM, RGLRU, Cell, MinGRU
from jaxgen.objectives.learning_rate import Constant
from jaxgen.objectives.likelihood import Likelihood

if TYPE_CHECKING:
    from matplotlib.axes import Axes

CANDIDATES: tuple[tuple[type[Cell], int], ...] = ((LSTM, 1), (GRU, 1), (MinGRU, 3), (RGLRU, 2))
"""Cells and their layers: a gate of a linear recurrence sees the past only through the layer below."""
_DIGITS = load(Path(__file__).parent.parent / "configs" / "digits_wave.py")
_LIKELIHOOD = cast(Likelihood, _DIGITS.objective)
_TOLERANCE = 0.02  # of the number of parameters
_WIDEST = 8192
_STEPS = 10**6  # of a schedule that is constant after its warm-up
_COLOURS = ("#4c78a8", "#72b7b2", "#e45756", "#f2a93b")


@dataclasses.dataclass(frozen=True)
class Options(measure.Options):
    """Bits/sample against training time and updates: LSTM, GRU, MinGRU and RG-LRU at equal parameters."""

    minutes: float = 6.0
    """Training time of each cell."""
    rounds: int = 20
    """Turns that this time is cut into; each ends with a score."""
    data: Dataset = _DIGITS.data
    """Where the sound comes from."""
    features: FeatureSpec = _DIGITS.features
    """What a step of the sequence is: mu-law codes."""
    model: WaveRNN = dataclasses.replace(cast(WaveRNN, _DIGITS.model), residual=True)
    """The model; its cell and layers are those whose parameters all others match."""
    objective: Likelihood = dataclasses.replace(
        _LIKELIHOOD, optimizer=dataclasses.replace(_LIKELIHOOD.optimizer, schedule=Constant())
    )
    """What is minimised and how."""
    batch_size: int = _DIGITS.train.batch_size
    """Rows."""
    seq_len: int = _DIGITS.train.seq_len
    """Steps the gradient sees."""
    clips: int = _DIGITS.train.max_eval_clips
    """Validation clips that are scored."""
    cache_dir: str = _DIGITS.cache_dir
    """Folder of decoded data."""
    chart: str = ""
    """Picture to draw; none by default."""

    def __post_init__(self) -> None:
        if self.minutes <= 0 or self.rounds < 1 or self.clips < 1:
            raise UserError(
                f"--minutes {self.minutes:g}, --rounds {self.rounds} and --clips {self.clips} must be more than 0."
            )


class Learner:
    """One model in training, and the time it has had."""

    def __init__(self, options: Options, model: WaveRNN, store: Store, spec: DataSpec):
        sizes: dict[str, Any] = {"batch_size": options.batch_size, "seq_len": options.seq_len}
        task = options.objective.build(model, spec, steps=_STEPS, batch_size=options.batch_size)
        batches = TrainingBatches(store, spec, model.labels, lookback=model.lookback, seed=0, **sizes)
        validation = store.indices("validation")
        self.name = f"{type(model.cell).__name__} {model.num_layers} x {model.cell.hidden_size}"
        self.parameters = num_parameters(model, spec)
        self.steps, self.seconds = 0, 0.0
        self._store, self._clips = store, validation[:: math.ceil(len(validation) / options.clips)]
        self._scorer = Scorer(task, model, spec, **sizes)
        self._step = jax.jit(task.train_step, donate_argnums=0)
        self._state: Any = task.init(jax.random.key(0))
        self._batches = iter(batches)

    def train(self, seconds: float) -> None:
        """Goes on until the time of all turns reaches `seconds`; 0 does one update, which compiles and does not count."""
        started = time.perf_counter() - self.seconds
        while self.steps == 0 or self.seconds < seconds:
            self._state, _ = jax.block_until_ready(self._step(self._state, next(self._batches)))
            self.steps += 1
            self.seconds = time.perf_counter() - started if seconds else 0.0

    def bits_per_sample(self) -> float:
        """Of the validation clips, by the moving average of the weights."""
        return self._scorer(self._state.average, self._store, self._clips).metrics["bits_per_sample"]


def main(argv: Sequence[str]) -> list[Row]:
    """Trains, prints and returns a row for each cell and turn."""
    options = parse(Options, Options(), argv, "python -m benchmarks.cells")
    place = measure.environment()
    store = prepare(options.data, options.features, AudioPolicy(), options.cache_dir)
    spec = store.spec(options.model.labels)
    if not store.indices("validation"):
        raise UserError("no clip is for validation; change --data.validation or the manifest's `split`.")
    rows = trained([Learner(options, model, store, spec) for model in equal_models(options.model, spec)], options)
    measure.report(rows, place, options)
    if options.chart:
        draw(rows, Path(options.chart))
    return rows


def trained(learners: Sequence[Learner], options: Options) -> list[Row]:
    """All learners in turns; rows are cell by cell."""
    for learner in learners:
        measure.say(f"{learner.name}: {learner.parameters:,} parameters, compiling ...")
        learner.train(0)
    rows: dict[str, list[Row]] = {learner.name: [] for learner in learners}
    for turn in range(1, options.rounds + 1):
        first = turn % len(learners)
        for learner in [*learners[first:], *learners[:first]]:
            learner.train(60 * options.minutes * turn / options.rounds)
            rows[learner.name].append(
                {
                    "benchmark": "cells",
                    "work": f"WaveRNN B={options.batch_size} T={options.seq_len}",
                    "candidate": learner.name,
                    "parameters": learner.parameters,
                    "steps": learner.steps,
                    "train_seconds": learner.seconds,
                    "bits_per_sample": learner.bits_per_sample(),
                }
            )
        scores = (f"{name} {found[-1]['bits_per_sample']:.3f}" for name, found in rows.items())
        measure.say(f"turn {turn} of {options.rounds}: {', '.join(scores)} bits/sample")
    return [row for found in rows.values() for row in found]


def equal_models(model: WaveRNN, spec: DataSpec) -> list[WaveRNN]:
    """The model with each candidate cell, as wide as makes the number of parameters that of `model` within 2 %."""
    wanted = num_parameters(model, spec)
    return [_matched(model, cell, layers, spec, wanted) for cell, layers in CANDIDATES]


def _matched(model: WaveRNN, cell: type[Cell], layers: int, spec: DataSpec, wanted: int) -> WaveRNN:
    def sized(width: int) -> WaveRNN:
        return dataclasses.replace(model, cell=cell(hidden_size=width), num_layers=layers)

    def error(width: int) -> int:
        return abs(num_parameters(sized(width), spec) - wanted)

    above = bisect.bisect_left(range(1, _WIDEST), wanted, key=lambda width: num_parameters(sized(width), spec)) + 1
    best = min(max(1, above - 1), above, key=error)
    if error(best) > _TOLERANCE * wanted:
        raise UserError(
            f"no width of {layers} layers of {cell.__name__} comes within 2 % of {wanted:,} parameters; "
            "raise --model.cell.hidden-size."
        )
    return sized(best)


def num_parameters(model: WaveRNN, spec: DataSpec) -> int:
    """All trained numbers of a model, embeddings and head among them."""
    module = nnx.eval_shape(lambda: model.make(spec, rngs=nnx.Rngs(0)))
    return sum(leaf.size for leaf in jax.tree.leaves(nnx.state(module, nnx.Param)))


@matplotlib_settings()
def draw(rows: Sequence[Row], path: Path) -> None:
    """Bits/sample against seconds and against updates, side by side."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    _panel(left, rows, "train_seconds", "training time in s")
    _panel(right, rows, "steps", "updates")
    left.set_ylabel("validation, bits/sample")
    right.legend(frameon=False, fontsize=8)
    figure.suptitle(f"{rows[0]['work']}, {rows[0]['parameters']:,} parameters each (within 2 %)", fontsize=10)
    chart.save(figure, path)


def _panel(axis: "Axes", rows: Sequence[Row], name: str, label: str) -> None:
    for colour, candidate in zip(_COLOURS, dict.fromkeys(row["candidate"] for row in rows), strict=True):
        points = [(row[name], row["bits_per_sample"]) for row in rows if row["candidate"] == candidate]
        axis.plot(*zip(*points, strict=True), "o-", color=colour, markersize=3, linewidth=1.5, label=candidate)
    axis.set_xlabel(label)
    axis.grid(True, color="#dddddd", linewidth=0.6)
    axis.spines[["top", "right"]].set_visible(False)


if __name__ == "__main__":
    measure.start(main)
