"""What memory costs: `python -m benchmarks.memory`.

One train step over very long chunks, with activations kept, or gates and all else computed anew in the backward
pass, a segment at a time (`--objective.segment`): time against the largest memory of the process.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from benchmarks import measure
from benchmarks.measure import Row
from benchmarks.processes import ALL_THREADS, Candidate, Measured, compare
from benchmarks.recurrent_work import RecurrentWork
from jaxgen.config import parse
from jaxgen.core.serial import to_json

_KEPT = "all kept"


@dataclasses.dataclass(frozen=True)
class Options(measure.Repeated):
    """Time and memory of the train step, by what the backward pass keeps."""

    repeats: int = 2
    """Rounds."""
    cell: str = "LSTM"
    """LSTM, GRU or RNN."""
    size: tuple[int, int, int, int] = (8, 65_536, 256, 1)
    """B, T, H and L."""
    segments: tuple[int, ...] = (65_536, 16_384, 4_096, 1_024, 256)
    """Lengths of segments that are computed anew."""
    threads: int = ALL_THREADS
    """Threads that each may use."""


def main(argv: Sequence[str]) -> list[Row]:
    """Measures, prints and returns the figures, a row for each way."""
    options = parse(Options, Options(), argv, "python -m benchmarks.memory")
    place = measure.environment()
    ways = {_KEPT: 0} | {f"segments of {length} anew": length for length in options.segments}
    results: dict[str, Measured] = {}
    for name, segment in ways.items():  # one after another: together they need not fit
        measure.say(f"{name} ...")
        work = RecurrentWork(options.cell, *options.size, segment=segment)
        candidate = Candidate(name, "benchmarks.step_peers.ours", {"work": to_json(work)})
        results |= compare([candidate], options.repeats, threads=options.threads, say=measure.say)
    rows = [_row(name, result, results.get(_KEPT), options) for name, result in results.items()]
    measure.report(rows, place, options, ("candidate", "seconds", "peak_gib", "time_over_kept", "memory_over_kept"))
    return rows


def _row(name: str, result: Measured, kept: Measured | None, options: Options) -> Row:
    batch_size, seq_len, hidden, layers = options.size
    row: Row = {
        "benchmark": "memory",
        "work": f"{options.cell} B={batch_size} T={seq_len} H={hidden} L={layers}",
        "candidate": name,
        **measure.spread(np.array(result.seconds)),
        "peak_gib": result.peak_bytes / 2**30,
    }
    if kept is not None:
        row["time_over_kept"] = float(np.median(result.seconds) / np.median(kept.seconds))
        row["memory_over_kept"] = result.peak_bytes / kept.peak_bytes
    return row


if __name__ == "__main__":
    measure.start(main)
