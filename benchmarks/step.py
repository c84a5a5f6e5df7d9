"""The yardstick: throughput of the train step beside its peers': `python -m benchmarks.step`.

A row is a model and a size: cell-B-T-H-L, or the generator's kind before the same sizes where it learns against a critic.
`benchmarks/recurrent_work.py` and `adversarial_work.py` say what a step is, `benchmarks/step_peers/` and
`adversarial_peers/` how each framework does it. All start from the same weights and read the same batch, each in its own
process with the same threads, and take turns. A peer counts only if its first losses, and the progress of its first update
in each, are those of jaxgen. Ratios are medians over rounds of their throughput; the matmul peak is a candidate too.
"""

import dataclasses
import importlib.util
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import chart, measure, step_rows
from benchmarks.measure import Row
from benchmarks.processes import ALL_THREADS, Candidate, Measured, compare
from benchmarks.step_work import StepWork
from jaxgen.config import parse
from jaxgen.core.errors import UserError
from jaxgen.core.serial import to_json

_OURS, _PEAK = "jaxgen", "matmul peak"
_COLUMNS = ("row", "step_seconds", "gflop_per_s", "matmul_share", "peak_bytes", "others_share_of_cores")
_QUIET = 0.05  # of all cores: above it, threads that spin (PyTorch's) lose most, and ratios flatter us
_LOSS_TOLERANCE = 2e-5  # of the first loss, much of which, for frames, is a constant
_PROGRESS_TOLERANCE = 0.1  # of the first update: where biases are merged into one, it learns half as fast


@dataclasses.dataclass(frozen=True)
class Peer:
    """A framework on the same work."""

    library: str
    """What must be installed."""
    module: str
    """Its candidate, in the package of a row's peers; where there is none, it has no part in the row."""


PEERS = {
    "torch": Peer("torch", "torch_eager"),
    "torch-compile": Peer("torch", "torch_compiled"),
    "keras": Peer("tensorflow", "keras_function"),
    "flax": Peer("flax", "flax_linen"),
    "nnx": Peer("flax", "flax_nnx"),
}


@dataclasses.dataclass(frozen=True)
class Options(measure.Repeated):
    """Throughput of the train step: jaxgen, its peers, and the matmul peak."""

    rows: tuple[str, ...] = ()
    """What is measured, as model-B-T-H-L, e.g. lstm-32-256-512-1 or vocoder-16-32-192-6; none takes all."""
    peers: tuple[str, ...] = tuple(PEERS)
    """Whom jaxgen is measured against: torch, torch-compile, keras, flax (linen), nnx."""
    threads: int = ALL_THREADS
    """Threads that each may use."""
    row_seconds: float = 60.0
    """Time after which a row begins no further round, if it has two."""
    matmul_size: int = 2048
    """Rows and columns of the matrices whose product is the limit."""
    json: str = ""
    """File to write one JSON line a row to."""
    chart: str = ""
    """Picture to draw of the ratios."""


def main(argv: Sequence[str]) -> list[Row]:
    """Measures, prints and returns the figures. Raises UserError for a row or peer that is not known."""
    options = parse(Options, Options(), argv, "python -m benchmarks.step")
    works, peers = step_rows.rows_named(options.rows), _installed(options.peers)
    place = measure.environment()
    measure.save([], options.json)
    rows: list[Row] = []
    for work in works:
        rows.append(measured(work, peers, options))
        if float(rows[-1].get("others_share_of_cores", 0)) > _QUIET:
            measure.say(f"{work.name}: other processes took part of the cores; measure again on an idle machine")
        measure.save(rows, options.json)
    measure.report(rows, place, options, (*_COLUMNS, *(ratio_name(peer) for peer in peers)))
    if options.chart:
        chart.ratios(rows, Path(options.chart))
    return rows


def measured(work: StepWork, peers: Mapping[str, Peer], options: Options) -> Row:
    """Figures of one row."""
    modules = {name: f"{work.peers}.{peer.module}" for name, peer in peers.items()}
    modules = {name: module for name, module in modules.items() if importlib.util.find_spec(module)}
    measure.say(f"{work.name}: {', '.join(modules) or 'no peers'} ...")
    with tempfile.TemporaryDirectory() as folder:
        file = str(Path(folder, "given.npz"))
        work.given().save(file)
        spec = {"work": to_json(work), "file": file}
        candidates = [
            Candidate(_OURS, "benchmarks.step_peers.ours", spec),
            *(Candidate(name, module, spec) for name, module in modules.items()),
            Candidate(_PEAK, "benchmarks.step_peers.matmul", {"size": options.matmul_size}),
        ]
        results = compare(
            candidates,
            options.repeats,
            threads=options.threads,
            say=lambda text: measure.say(f"{work.name}: {text}"),
            refuse=disagreeing,
            required=(_OURS, _PEAK),
            row_seconds=options.row_seconds,
        )
    return figures(work, results, options.threads)


def disagreeing(facts: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """Peers that do not compute what jaxgen does, and how it shows, from the facts of all candidates."""
    ours = facts.get(_OURS)
    if ours is None:
        return {}
    refused = {}
    for name, theirs in facts.items():
        if "losses" not in theirs:
            continue
        count = theirs["parameters"] + theirs["missing"]
        if count != ours["parameters"]:
            refused[name] = f"it has {count} parameters, jaxgen {ours['parameters']}"
            continue
        for kind, loss in _losses_of(ours).items():
            (first, second), (their_first, their_second) = ours[kind][:2], theirs[kind][:2]
            learnt, progress = their_first - their_second, first - second
            if not abs(their_first - first) <= _LOSS_TOLERANCE * abs(first):
                refused[name] = f"its first {loss} is {their_first:.6f}, jaxgen's {first:.6f}"
            elif not abs(learnt - progress) <= _PROGRESS_TOLERANCE * abs(progress):
                refused[name] = f"its first update lowers the {loss} by {learnt:.6f}, jaxgen's by {progress:.6f}"
    return refused


def _losses_of(facts: Mapping[str, Any]) -> dict[str, str]:
    """The facts that are losses (`StepWork.losses`), and what one of each is called."""
    return {kind: kind.replace("_", " ").removesuffix("es") for kind in facts if kind.endswith("losses")}


def figures(work: StepWork, results: Mapping[str, Measured], threads: int) -> Row:
    """The row of the table: jaxgen's own figures, and for each peer the ratio of throughputs, above 1 where jaxgen is
    faster, its seconds, memory and parameters.
    """
    ours, peak = results[_OURS], results[_PEAK]
    seconds, peaks = np.array(ours.seconds), peak.facts["gflop"] / np.array(peak.seconds)
    gflop = work.flops() / 1e9
    row: Row = {
        "benchmark": "step",
        "row": work.name,
        "threads": threads,
        "rounds": len(seconds),
        **{f"step_{name}": value for name, value in measure.spread(seconds).items()},
        f"{work.unit}s_per_s": work.steps / float(np.median(seconds)),
        "gflop": gflop,
        "gflop_per_s": gflop / float(np.median(seconds)),
        "peak_gflop_per_s": float(np.median(peaks)),
        "matmul_share": float(np.median(gflop / seconds / peaks)),
        "parameters": ours.facts["parameters"],
        "first_loss": ours.facts["losses"][0],
        "peak_bytes": ours.peak_bytes,
        "imported_bytes": ours.facts["imported_bytes"],
    }
    if shares := [result.others for result in results.values() if result.others is not None]:
        row["others_share_of_cores"] = max(shares)
    for name, peer in results.items():
        if name not in (_OURS, _PEAK):
            key = name.replace("-", "_")
            row |= {
                ratio_name(name): measure.median_ratio(np.array(peer.seconds), seconds),
                f"{key}_seconds": float(np.median(peer.seconds)),
                f"{key}_peak_bytes": peer.peak_bytes,
                f"{key}_imported_bytes": peer.facts["imported_bytes"],
                f"{key}_parameters": peer.facts["parameters"],
                f"{key}_first_loss": peer.facts["losses"][0],
            }
    return row


def ratio_name(peer: str) -> str:
    """What jaxgen's throughput over a peer's is filed under."""
    return f"ratio_to_{peer.replace('-', '_')}"


def _installed(names: Sequence[str]) -> dict[str, Peer]:
    """The peers that can run here; whoever cannot is told once. Raises UserError for a name that no peer has."""
    if unknown := [name for name in names if name not in PEERS]:
        raise UserError(f"--peers has '{unknown[0]}', but the peers are {', '.join(PEERS)}.")
    found = {name: PEERS[name] for name in names if importlib.util.find_spec(PEERS[name].library)}
    for name in names:
        if name not in found:
            measure.say(f"{name} could not run: {PEERS[name].library} is not installed (pip install 'jaxgen[bench]')")
    return found


if __name__ == "__main__":
    measure.start(main)
