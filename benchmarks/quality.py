"""Bits/sample against a PyTorch LSTM, by training time: `python -m benchmarks.quality --ours.data.root DIR`.

jaxgen trains the model of --config as `jaxgen.train` does, without labels, and a PyTorch language model of as many
parameters trains on the same batches (`benchmarks/quality_peers/`): each in its own process with all cores, in turns, while
the other waits. Both are scored alike: the mean over all samples of all validation clips, each clip from a reset state
behind silence. Compilation and scoring do not count as training time.
jaxgen's own means count: the moving average of its weights is what is scored, and batches come from a thread of its own,
while the peer is scored as it is and draws its batches, of the same pipeline, within its time. The learning rate
of both rises and falls by the config's plan over the whole time.
"""

import dataclasses
import importlib.util
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import chart, measure
from benchmarks.measure import Row
from benchmarks.processes import ALL_THREADS, SETTLE, Candidate, Worker, started
from jaxgen.config import Config, load, parse, split_values
from jaxgen.core.errors import UserError
from jaxgen.core.pictures import matplotlib_settings
from jaxgen.core.serial import to_json
from jaxgen.data.preparation import prepare
from jaxgen.features import MuLaw
from jaxgen.objectives.likelihood import Likelihood

OURS, PEER = "jaxgen", "PyTorch LSTM"
_CONFIG = Path(__file__).parent.parent / "configs" / "digits_wave.py"
_COLUMNS = ("candidate", "parameters", "train_seconds", "steps", "bits_per_sample", "lowest", "highest")
_COLOURS = {OURS: "#4c78a8", PEER: "#e45756"}
_PATIENCE = 600.0  # seconds for a candidate to be ready

Score = dict[str, Any]
"""What one turn came to: `train_seconds`, `steps` and `bits_per_sample`, and what was known before the first."""


@dataclasses.dataclass(frozen=True)
class Peer:
    """The PyTorch language model: embedding, nn.LSTM, linear, Adam."""

    hidden_size: int | None = None
    """Width; none makes it as many parameters as jaxgen's model has."""
    num_layers: int = 1
    """Layers of nn.LSTM."""
    embedding_size: int = 64
    """Features a code is embedded into."""
    peak: float | None = None
    """Highest learning rate; none takes the config's."""


@dataclasses.dataclass(frozen=True)
class Options(measure.Options):
    """Bits/sample by training time: jaxgen and a PyTorch LSTM in turns, medians over seeds."""

    ours: Config = dataclasses.field(default_factory=lambda: load(_CONFIG))
    """The experiment: data, model, optimizer, batches. Its labels, steps and seed do not count."""
    peer: Peer = Peer()
    """Whom jaxgen is measured against."""
    minutes: float = 15.0
    """Training time of each, for every seed."""
    turns: int = 15
    """Turns that this time is cut into; each ends with a score."""
    seeds: int = 3
    """Trainings of each."""
    threads: int = ALL_THREADS
    """Threads that each may use."""
    chart: str = ""
    """Picture to draw; none by default."""

    def __post_init__(self) -> None:
        if self.minutes <= 0 or min(self.turns, self.seeds) < 1:
            raise UserError(
                f"--minutes {self.minutes:g}, --turns {self.turns} and --seeds {self.seeds} must be more than 0."
            )


def main(argv: Sequence[str]) -> list[Row]:
    """Trains, prints and returns a row for each candidate and turn. Raises UserError where the model does not read mu-law
    codes, or there is no PyTorch.
    """
    options = _options(argv)
    if importlib.util.find_spec("torch") is None:
        raise UserError("torch is not installed; it is what jaxgen is measured against: pip install 'jaxgen[bench]'")
    place = measure.environment()
    scores: dict[str, list[list[Score]]] = {OURS: [], PEER: []}
    for seed in range(options.seeds):
        for name, found in _trained(options, seed).items():
            scores[name].append(found)
    rows = [_row(options, name, turn) for name, found in scores.items() for turn in zip(*found, strict=True)]
    measure.report(rows, place, options, _COLUMNS)
    if options.chart:
        draw(rows, Path(options.chart))
    return rows


@matplotlib_settings()
def draw(rows: Sequence[Row], path: Path) -> None:
    """Median bits/sample against minutes of training, and between the lowest and the highest of the seeds."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, 4.2), layout="constrained")
    axis = figure.subplots()
    for name in dict.fromkeys(str(row["candidate"]) for row in rows):
        found = [row for row in rows if row["candidate"] == name]
        minutes = [float(row["train_seconds"]) / 60 for row in found]
        lowest, median, highest = (
            [float(row[key]) for row in found] for key in ("lowest", "bits_per_sample", "highest")
        )
        label = f"{name}, {found[0]['parameters']:,} parameters: {median[-1]:.3f}"
        axis.plot(minutes, median, "o-", color=_COLOURS[name], markersize=3, linewidth=1.5, label=label)
        axis.fill_between(minutes, lowest, highest, color=_COLOURS[name], alpha=0.2, linewidth=0)
    axis.set_xlabel("training time in minutes")
    axis.set_ylabel("validation, bits/sample")
    axis.set_title(f"{rows[0]['work']}, {rows[0]['seeds']} seeds", fontsize=10)
    axis.legend(frameon=False, fontsize=9)
    axis.grid(True, color="#dddddd", linewidth=0.6)
    axis.spines[["top", "right"]].set_visible(False)
    chart.save(figure, path)


def _options(argv: Sequence[str]) -> Options:
    """The command line, on top of the experiment that --config names."""
    words, default = split_values(argv), Options()
    if "--config" in words[:-1]:
        at = words.index("--config")
        default = dataclasses.replace(default, ours=load(words[at + 1]))
        words = words[:at] + words[at + 2 :]
    options = parse(Options, default, words, "python -m benchmarks.quality")
    if not isinstance(options.ours.features, MuLaw):
        raise UserError(
            f"the features are {type(options.ours.features).__name__}, but the peer models mu-law codes; pass --config one "
            "with MuLaw features."
        )
    model: Any = options.ours.model
    unconditional = dataclasses.replace(options.ours, model=dataclasses.replace(model, labels=()))
    return dataclasses.replace(options, ours=unconditional)


def _trained(options: Options, seed: int) -> dict[str, list[Score]]:
    """The scores of both after each turn, from one seed."""
    config = dataclasses.replace(options.ours, train=dataclasses.replace(options.ours.train, seed=seed))
    prepare(config.data, config.features, config.audio, config.cache_dir)  # so that neither has to
    common = {"config": to_json(config), "seconds": 60 * options.minutes, "turns": options.turns}
    candidate = Candidate(OURS, "benchmarks.quality_peers.ours", common)
    with started(candidate, options.threads) as ours:
        measure.say(f"seed {seed}: {OURS} compiles ...")
        parameters = ours.ready(_PATIENCE)["parameters"]
        candidate = Candidate(PEER, "benchmarks.quality_peers.torch_lstm", common | _size(options, parameters))
        with started(candidate, options.threads) as peer:
            peer.ready(_PATIENCE)
            return _in_turn([ours, peer], options.turns, seed)


def _in_turn(workers: Sequence[Worker], turns: int, seed: int) -> dict[str, list[Score]]:
    scores: dict[str, list[Score]] = {worker.name: [] for worker in workers}
    for turn in range(turns):
        first = turn % len(workers)
        for worker in [*workers[first:], *workers[:first]]:
            time.sleep(SETTLE)
            others = worker.run(1).others
            scores[worker.name].append(worker.facts | {"others": others or 0.0})
        told = ", ".join(f"{name} {found[-1]['bits_per_sample']:.3f}" for name, found in scores.items())
        measure.say(f"seed {seed}, turn {turn + 1} of {turns}: {told} bits/sample")
    return scores


def _size(options: Options, wanted: int) -> dict[str, Any]:
    """The peer's settings, its width such that it has about as many parameters as are wanted unless that is asked for."""
    peer, features, objective = options.peer, options.ours.features, options.ours.objective
    assert isinstance(features, MuLaw)  # `_options` has refused others
    assert isinstance(objective, Likelihood)
    levels = features.q_levels
    peak = peer.peak or objective.optimizer.learning_rate
    widths = range(1, 1 << 14)
    width = peer.hidden_size or min(
        widths, key=lambda width: abs(parameters(levels, peer.embedding_size, width, peer.num_layers) - wanted)
    )
    return dataclasses.asdict(peer) | {"hidden_size": width, "peak": peak}


def parameters(q_levels: int, embedding_size: int, hidden_size: int, num_layers: int) -> int:
    """How many numbers the peer learns at a size; torch has two biases a gate."""
    inputs = embedding_size + (num_layers - 1) * hidden_size
    layers = 4 * hidden_size * (inputs + num_layers * (hidden_size + 2))
    return q_levels * embedding_size + layers + (hidden_size + 1) * q_levels


def _row(options: Options, name: str, turn: Sequence[Score]) -> Row:
    """Medians over the seeds of one turn."""
    train, model = options.ours.train, type(options.ours.model).__name__
    bits = [score["bits_per_sample"] for score in turn]

    def median(key: str) -> float:
        return float(statistics.median(score[key] for score in turn))

    return {
        "benchmark": "quality",
        "work": f"{model if name == OURS else PEER} B={train.batch_size} T={train.seq_len}",
        "candidate": name,
        "parameters": turn[0]["parameters"],
        "seeds": len(turn),
        "threads": options.threads,
        "train_seconds": median("train_seconds"),
        "steps": median("steps"),
        "bits_per_sample": median("bits_per_sample"),
        "lowest": min(bits),
        "highest": max(bits),
        "warmup_seconds": median("warmup_seconds"),
        "others_share_of_cores": median("others"),
    }


if __name__ == "__main__":
    measure.start(main)
