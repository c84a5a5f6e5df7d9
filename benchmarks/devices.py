"""One train step on one device, on two and in two processes: `python -m benchmarks.devices`.

The batch is the same in all; its rows are split over two CPU devices of one process, or over two processes that are
pinned to half of the cores each. The ways take turns. A way counts only if its first loss is that of one device.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from benchmarks import measure, step_rows
from benchmarks.measure import Row
from benchmarks.processes import ALL_THREADS, Candidate, Measured, compare
from benchmarks.step_work import StepWork
from jaxgen.config import parse
from jaxgen.core.serial import to_json

_ONE, _DEVICES, _PROCESSES = "1 device", "2 devices", "2 processes"
_SPLIT = {_DEVICES: {"devices": 2, "processes": 1}, _PROCESSES: {"devices": 1, "processes": 2}}
_LOSS_TOLERANCE = 1e-4  # of the first loss
_COLUMNS = ("row", "step_seconds", "throughput_of_2_devices", "throughput_of_2_processes", "others_share_of_cores")


@dataclasses.dataclass(frozen=True)
class Options(measure.Repeated):
    """Throughput of the train step on two devices and in two processes, over that on one device."""

    rows: tuple[str, ...] = ("lstm-32-256-256-1", "lstm-128-128-256-2", "lstm-8-2048-128-1", "lstm-64-512-512-2")
    """What is measured, as cell-B-T-H-L (rows of `benchmarks.step`)."""
    threads: int = ALL_THREADS
    """Cores that each way may use, all its devices and processes together."""
    row_seconds: float = 60.0
    """Time after which a row begins no further round, if it has two."""
    json: str = ""
    """File to write one JSON line a row to."""


def main(argv: Sequence[str]) -> list[Row]:
    """Measures, prints and returns the figures, a row each. Raises UserError for a row that is not known."""
    options = parse(Options, Options(), argv, "python -m benchmarks.devices")
    works = step_rows.rows_named(options.rows)
    place = measure.environment()
    measure.save([], options.json)
    rows: list[Row] = []
    for work in works:
        rows.append(_measured(work, options))
        measure.save(rows, options.json)
    measure.report(rows, place, options, _COLUMNS)
    return rows


def _measured(work: StepWork, options: Options) -> Row:
    measure.say(f"{work.name} ...")
    spec = {"work": to_json(work)}
    candidates = [
        Candidate(_ONE, "benchmarks.step_peers.ours", spec),
        *(Candidate(name, "benchmarks.step_peers.sharded", spec | split) for name, split in _SPLIT.items()),
    ]
    results = compare(
        candidates,
        options.repeats,
        threads=options.threads,
        say=lambda text: measure.say(f"{work.name}: {text}"),
        refuse=disagreeing,
        required=(_ONE,),
        row_seconds=options.row_seconds,
    )
    return figures(work, results, options.threads)


def disagreeing(facts: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """Ways whose first loss is not that of one device, and how it shows, from the facts of all."""
    first = facts[_ONE]["losses"][0]
    return {
        name: f"its first loss is {told['losses'][0]:.6f}, that of one device {first:.6f}"
        for name, told in facts.items()
        if not abs(told["losses"][0] - first) <= _LOSS_TOLERANCE * abs(first)
    }


def figures(work: StepWork, results: Mapping[str, Measured], threads: int) -> Row:
    """The row of the table: seconds of one device, and for each other way its seconds, memory (of all its processes) and
    throughput over that of one device, above 1 where it is faster.
    """
    seconds = np.array(results[_ONE].seconds)
    row: Row = {
        "benchmark": "devices",
        "row": work.name,
        "threads": threads,
        "rounds": len(seconds),
        **{f"step_{name}": value for name, value in measure.spread(seconds).items()},
        "peak_bytes": results[_ONE].peak_bytes,
        "first_loss": results[_ONE].facts["losses"][0],
    }
    # of two processes the harness sees one, and takes the other for somebody else's
    others = [result.others for name, result in results.items() if name != _PROCESSES and result.others is not None]
    if others:
        row["others_share_of_cores"] = max(others)
    for name, result in results.items():
        if name != _ONE:
            key = name.replace(" ", "_")
            row |= {
                f"throughput_of_{key}": measure.median_ratio(seconds, np.array(result.seconds)),
                f"{key}_seconds": float(np.median(result.seconds)),
                f"{key}_peak_bytes": result.peak_bytes + result.facts.get("partners_peak_bytes", 0),
                f"{key}_first_loss": result.facts["losses"][0],
            }
    return row


if __name__ == "__main__":
    measure.start(main)
