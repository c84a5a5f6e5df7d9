"""What each choice of a config is worth: `python -m benchmarks.ablation --config configs/digits_mel.py --data-root DIR`.

The config is trained anew with one option changed, each row by the command `python -m jaxgen.train` with that override, for
the same number of updates, and evaluated as every run is. Rows that change nothing are left out. A row is printed, and saved,
as it ends. What follows a word `--` goes to every training.
"""

import dataclasses
import json
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks import measure
from benchmarks.measure import Row
from jaxgen.config import Config, load, parse
from jaxgen.core.errors import UserError

_CELLS = {name: ("--model.cell", name) for name in ("RNN", "LSTM", "GRU", "MinGRU", "RGLRU")}
_COMMON = {
    "as configured": (),
    **_CELLS,
    "1 layer": ("--model.num-layers", "1"),
    "2 layers": ("--model.num-layers", "2"),
    "no average of weights": ("--objective.ema-decay", "0"),
    "no dropout": ("--model.dropout", "0"),
    "dropout 0.3": ("--model.dropout", "0.3"),
    "labels never dropped": ("--model.label-dropout", "0", "--evaluation.sampling.guidance", "0"),
    "no guidance": ("--evaluation.sampling.guidance", "0"),
}
_QUANTISATION = {
    "64 levels": ("--features.q-levels", "64"),
    "16 bits, two bytes": ("--features", "Pcm16", "--model.output", "CoarseFine"),
    "16 bits, logistics": ("--features", "Pcm16", "--model.output", "Logistics"),
}
ROWS: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "MelRNN": _COMMON
    | {
        "mean squared error": ("--model.distribution", "Normal"),
        "one component": ("--model.distribution.num-components", "1"),
        "no input noise": ("--model.input-noise", "0"),
        "one frame a step": ("--features.stack", "1", "--train.seq-len", "64"),
    },
    "WaveRNN": _COMMON
    | _QUANTISATION
    | {"lookback 1": ("--model.lookback", "1"), "lookback 64": ("--model.lookback", "64")},
    "PlannedRNN": {
        "as configured": (),
        **{f"plan: {name}": ("--model.plan.cell", name) for name in ("RNN", "LSTM", "GRU", "MinGRU", "RGLRU")},
        "predictor fitted to past samples": ("--model.samples.context", "LinearPrediction"),
        "no predictor": ("--model.samples.context", "Window"),
        "plan: one component": ("--model.plan.distribution.num-components", "1"),
        "plan: ten components": ("--model.plan.distribution.num-components", "10"),
        "plan: 1 layer": ("--model.plan.num-layers", "1"),
        "plan: no dropout": ("--model.plan.dropout", "0"),
        "plan: dropout 0.3": ("--model.plan.dropout", "0.3"),
        "no average of weights": ("--objective.ema-decay", "0"),
        "no noise on the plan": ("--model.conditioning-noise", "0"),
        "no noise on the past": ("--model.past-noise", "0"),
        "past noise 0.016": ("--model.past-noise", "0.016"),
        "conditioning repeat 1": ("--model.samples.conditioning-repeat", "1"),
        "three tiers": ("--model.samples.frame-sizes", "80", "16"),
        "64 levels": _QUANTISATION["64 levels"],
        "16 bits, two bytes": ("--features", "Pcm16", "--model.samples.output", "CoarseFine"),
        "16 bits, logistics": ("--features", "Pcm16", "--model.samples.output", "Logistics"),
        "batches twice as large": ("--train.batch-size", "8"),
        "labels never dropped": (
            *("--model.plan.label-dropout", "0", "--model.samples.label-dropout", "0"),
            *("--evaluation.sampling.guidance", "0"),
        ),
        "no guidance": ("--evaluation.sampling.guidance", "0"),
        "voices not sharpened": ("--evaluation.sampling.voiced-sharpness", "0"),
    },
    "WaveGAN": {
        "as configured": (),
        **{name: ("--objective.loss", name) for name in ("Hinge", "LeastSquares", "Wasserstein")},
        "penalty 0.05": ("--objective.penalties.0.weight", "0.05"),
        "penalty 5": ("--objective.penalties.0.weight", "5"),
        "no phase shuffle": ("--objective.critic.shuffle", "0"),
        "no shift": ("--objective.critic.shift", "0"),
        "no average of weights": ("--objective.ema-decay", "0"),
        "truncation 0.8": ("--evaluation.sampling.truncation", "0.8"),
    },
    "SampleRNN": _COMMON
    | _QUANTISATION
    | {
        "window 16": ("--model.context.window", "16"),
        "linear prediction": ("--model.context", "LinearPrediction"),
        "three tiers": ("--model.frame-sizes", "80", "16"),
    },
}
"""Overrides by name, for each model."""

_FIGURES = (
    "loss",
    "nats_per_frame",
    "conditional_bits_per_sample",
    "conditional_bits_per_16_bit_sample",
    "bits_per_sample",
    "bits_per_16_bit_sample",
    "classifier_frechet_distance",
    "frechet_distance_db2",
)


@dataclasses.dataclass(frozen=True)
class Options(measure.Options):
    """What each choice of a config is worth: one row an override, equal numbers of updates."""

    config: str = "configs/digits_mel.py"
    """The experiment, a Python file."""
    data_root: str = ""
    """Folder of its recordings; none takes the config's."""
    steps: int = 1_000
    """Updates of each training."""
    rows: tuple[str, ...] = ()
    """Rows by name; none takes all that the model has."""
    out: str = ""
    """File for the figures as JSON lines, after every row."""


def main(argv: Sequence[str]) -> list[Row]:
    """Trains, prints and returns a row for each override. Raises UserError for a row that there is not, or a training
    that fails.
    """
    own = list(argv).index("--") if "--" in argv else len(argv)
    options, more = parse(Options, None, argv[:own], "python -m benchmarks.ablation"), argv[own + 1 :]
    name = type(load(options.config).model).__name__
    known = ROWS.get(name, {})
    if missing := [row for row in options.rows if row not in known]:
        raise UserError(f"there is no row '{missing[0]}' for {name}; expected some of: {', '.join(known)}.")
    place, rows = measure.environment(), list[Row]()
    for row in options.rows or _that_change(options.config, known, more):
        rows.append(_trained(options, name, row, known[row], more))
        measure.say(f"{row}: " + ", ".join(f"{key} {value}" for key, value in rows[-1].items() if key != "row"))
        measure.save(rows, options.out)
    measure.report(rows, place, options)
    return rows


def _that_change(file: str, rows: Mapping[str, Sequence[str]], more: Sequence[str]) -> list[str]:
    """The config as it is, and the rows whose options make another one of it."""
    first, *others = rows
    made = {row: parse(Config, load(file), [*more, *rows[row]], "jaxgen.train") for row in rows}
    return [first, *(row for row in others if made[row] != made[first])]


def _trained(options: Options, model: str, row: str, override: Sequence[str], more: Sequence[str]) -> Row:
    with tempfile.TemporaryDirectory(prefix="jaxgen-ablation-") as folder:
        run = Path(folder) / "run"
        words = ["--config", options.config, "--workdir", str(run), "--train.steps", str(options.steps)]
        words += ["--train.eval-every", str(options.steps), *more, *override]
        words += ["--data.root", options.data_root] if options.data_root else []
        done = subprocess.run([sys.executable, "-m", "jaxgen.train", *words], capture_output=True, text=True)
        if done.returncode:
            last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
            raise UserError(f"the row '{row}' ended with exit code {done.returncode}: {last}")
        metrics = json.loads((run / "report.json").read_text())["metrics"]
    found = {key: metrics[key] for key in metrics if key in _FIGURES or key.endswith("_recognised_of_real")}
    about = {"benchmark": "ablation", "work": f"{model} {options.steps} updates", "row": row}
    return (
        about | {"override": shlex.join(override)} | {key: value for key, value in found.items() if value is not None}
    )


if __name__ == "__main__":
    measure.start(main)
