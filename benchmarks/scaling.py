"""How the cost of a train step grows: `python -m benchmarks.scaling`.

T, B, H and L grow one at a time from a common size, each point in its own process, the points of a sweep in turn. Beside
the time stands that of the matrix products at the matmul peak of the same sweep; beside the memory, which is that of
all buffers as XLA plans them, what the step must keep at once. Exponents are least squares on log axes: cost ~ size^exponent.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks import chart, measure, recurrent_work
from benchmarks.measure import Row
from benchmarks.processes import ALL_THREADS, Candidate, Measured, compare
from benchmarks.recurrent_work import RecurrentWork
from benchmarks.workloads import train_bytes, train_flops
from jaxgen.config import parse
from jaxgen.core.errors import UserError
from jaxgen.core.serial import to_json

_PEAK = "matmul peak"
_MIB = 2**20
_COSTS = ("seconds", "theory_seconds", "planned_mib", "theory_mib")


@dataclasses.dataclass(frozen=True)
class Options(measure.Repeated):
    """Time and memory of the train step against T, B, H and L."""

    repeats: int = 3
    """Rounds of each sweep."""
    cell: str = "LSTM"
    """LSTM, GRU or RNN."""
    base: tuple[int, int, int, int] = (32, 256, 256, 1)
    """B, T, H and L where they do not grow."""
    seq_lens: tuple[int, ...] = (64, 128, 256, 512, 1024)
    """T."""
    batch_sizes: tuple[int, ...] = (8, 16, 32, 64, 128)
    """B."""
    hidden_sizes: tuple[int, ...] = (64, 128, 256, 512)
    """H."""
    layers: tuple[int, ...] = (1, 2, 3, 4)
    """L."""
    threads: int = ALL_THREADS
    """Threads that each point may use."""
    matmul_size: int = 2048
    """Rows and columns of the matrices whose product is the limit."""
    json: str = ""
    """File to write one JSON line a point to."""
    chart: str = ""
    """Picture to draw of it."""

    def __post_init__(self) -> None:
        if self.cell not in recurrent_work.CELLS:
            raise UserError(f"--cell is '{self.cell}', expected one of {', '.join(recurrent_work.CELLS)}.")
        if any(len(set(sizes)) < 2 for sizes in self.sweeps.values()):
            raise UserError(
                "a sweep needs two sizes: give each of --seq-lens, --batch-sizes, --hidden-sizes, --layers two."
            )

    @property
    def sweeps(self) -> dict[str, tuple[int, ...]]:
        """Sizes by what grows."""
        return {"T": self.seq_lens, "B": self.batch_sizes, "H": self.hidden_sizes, "L": self.layers}


def main(argv: Sequence[str]) -> list[Row]:
    """Measures, prints and returns the figures, a row a point. Raises UserError for a cell that is not known."""
    options = parse(Options, Options(), argv, "python -m benchmarks.scaling")
    place = measure.environment()
    curves = {what: _sweep(what, sizes, options) for what, sizes in options.sweeps.items()}
    rows = [row for curve in curves.values() for row in curve]
    measure.report(rows, place, options, ("grows", "row", *_COSTS, *(f"{cost}_exponent" for cost in _COSTS)))
    measure.save(rows, options.json)
    if options.chart:
        chart.growth(curves, Path(options.chart))
    return rows


def _sweep(what: str, sizes: Sequence[int], options: Options) -> list[Row]:
    """Figures of the points at which one size grows."""
    base = dict(zip("BTHL", options.base, strict=True))
    grown = [base | {what: size} for size in sizes]
    works = {p[what]: RecurrentWork(options.cell, p["B"], p["T"], p["H"], p["L"]) for p in grown}
    measure.say(f"{what} grows: {', '.join(map(str, sizes))} ...")
    results = compare(
        [
            *(_candidate(str(size), work) for size, work in works.items()),
            Candidate(_PEAK, "benchmarks.step_peers.matmul", {"size": options.matmul_size}),
        ],
        options.repeats,
        threads=options.threads,
        say=measure.say,
        required=(*map(str, sizes), _PEAK),
    )
    rows = [_point(what, size, work, results) for size, work in works.items()]
    for cost in _COSTS:
        exponent = fitted_exponent(sizes, [float(row[cost]) for row in rows])
        for row in rows:
            row[f"{cost}_exponent"] = exponent
    return rows


def _candidate(name: str, work: RecurrentWork) -> Candidate:
    return Candidate(name, "benchmarks.step_peers.ours", {"work": to_json(work)})


def _point(what: str, size: int, work: RecurrentWork, results: dict[str, Measured]) -> Row:
    result, peak = results[str(size)], results[_PEAK]
    gflop_per_s = peak.facts["gflop"] / float(np.median(peak.seconds))
    gflop = train_flops(work.workload) / 1e9
    return {
        "benchmark": "scaling",
        "grows": what,
        "size": size,
        "row": work.name,
        **measure.spread(np.array(result.seconds)),
        "gflop": gflop,
        "peak_gflop_per_s": gflop_per_s,
        "theory_seconds": gflop / gflop_per_s,
        "peak_bytes": result.peak_bytes,
        "planned_mib": result.facts["planned_bytes"] / _MIB,
        "theory_mib": train_bytes(work.workload, result.facts["parameters"]) / _MIB,
    }


def fitted_exponent(sizes: Sequence[int], costs: Sequence[float]) -> float:
    """The slope of log cost over log size, by least squares."""
    return float(np.polyfit(np.log(sizes), np.log(costs), 1)[0])


if __name__ == "__main__":
    measure.start(main)
