"""What every benchmark shares: alternating timing, where it ran, and how figures are told."""

import dataclasses
import datetime
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import jax
import numpy as np

from jaxgen.core.errors import run
from jaxgen.core.files import write_atomic

Row = dict[str, str | int | float]
"""Figures of one candidate on one piece of work, by a name that bears the unit."""

_ROOT = Path(__file__).parent.parent
_PACKAGES = (
    "jax",
    "jaxlib",
    "flax",
    "optax",
    "orbax-checkpoint",
    "numpy",
    "torch",
    "tensorflow",
    "keras",
    "onnxruntime",
)


@dataclasses.dataclass(frozen=True)
class Options:
    """Options of every benchmark."""

    record: bool = False
    """Append the figures to the history."""
    history: str = str(_ROOT / "benchmarks" / "history.jsonl")
    """File that --record appends to."""


@dataclasses.dataclass(frozen=True)
class Repeated(Options):
    """Options of a benchmark that measures several times."""

    repeats: int = 5
    """Measurements of each candidate."""


def alternate(candidates: Mapping[str, Callable[[], object]], repeats: int, warmups: int = 1) -> dict[str, np.ndarray]:
    """Seconds [repeats] of each candidate.

    The candidates take turns, and the order rotates from round to round: whatever else the machine does hits them alike.
    What a candidate returns is waited for (`jax.block_until_ready`). Warm-ups are not counted.
    """
    names = list(candidates)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(-warmups, repeats):
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            started = time.perf_counter()
            jax.block_until_ready(candidates[name]())
            if turn >= 0:
                seconds[name].append(time.perf_counter() - started)
    return {name: np.array(values) for name, values in seconds.items()}


def spread(seconds: np.ndarray, scale: float = 1.0) -> Row:
    """Median and quartiles of some times, each divided by `scale` (the number of equal things that were done)."""
    low, median, high = np.percentile(seconds / scale, (25, 50, 75))
    return {"seconds": float(median), "seconds_q1": float(low), "seconds_q3": float(high)}


def median_ratio(seconds: np.ndarray, reference: np.ndarray) -> float:
    """Median over the rounds of one candidate's time over another's."""
    return float(np.median(seconds / reference))


def environment() -> Row:
    """Where and when: to be asked before the work starts, so that the load is that of others."""
    device = jax.devices()[0]
    return {
        "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "commit": _commit(),
        "device": device.device_kind,
        "devices": jax.device_count(),
        "cpu": _cpu(),
        "cores": os.cpu_count() or 1,
        "load_1min": os.getloadavg()[0],
        "python": platform.python_version(),
        **_versions(),
    }


def report(rows: Sequence[Row], place: Row, options: Options, columns: Sequence[str] = ()) -> None:
    """Prints the table (of all figures, or of some) and where it was measured; with --record, appends strict JSON lines
    to the history.
    """
    print(table([{name: row[name] for name in columns or row if name in row} for row in rows]))
    print(", ".join(f"{name} {_text(value)}" for name, value in place.items()))
    if options.record:
        with open(options.history, "a", encoding="utf-8") as file:
            file.write(_json_lines([row | place for row in rows]))
        print(f"recorded in {options.history}")


def save(rows: Sequence[Row], file: str) -> None:
    """Writes strict JSON lines to a file, or nothing where none is named. Called after every row: a run that ends early
    leaves what it has measured.
    """
    if file:
        write_atomic(Path(file), _json_lines(rows))


def table(rows: Sequence[Row]) -> str:
    """Rows under the names of all their figures, in columns; quartiles are left to the history."""
    names = list(dict.fromkeys(name for row in rows for name in row if not name.endswith(("_q1", "_q3"))))
    cells = [names] + [[_text(row.get(name, "")) for name in names] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in cells)


def say(text: str) -> None:
    """Progress, beside the result."""
    print(text, file=sys.stderr, flush=True)


def start(main: Callable[[Sequence[str]], list[Row]]) -> None:
    """Runs a benchmark from the shell; a mistake in its options becomes one line."""

    def entry() -> None:
        main(sys.argv[1:])

    run(entry)


def _json_lines(rows: Sequence[Row]) -> str:
    return "".join(json.dumps(row, allow_nan=False) + "\n" for row in rows)


def _text(value: str | int | float) -> str:
    if not isinstance(value, float):
        return str(value)
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def _commit() -> str:
    """Short hash of the commit that runs, marked where files differ from it; the history itself does not count."""
    try:
        head = _git("rev-parse", "--short", "HEAD")
        changed = _git("status", "--porcelain", "--", ".", ":!benchmarks/history.jsonl")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return f"{head}-dirty" if changed else head


def _git(*words: str) -> str:
    return subprocess.run(["git", *words], cwd=_ROOT, capture_output=True, text=True, check=True).stdout.strip()


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or platform.machine()


def _versions() -> Row:
    found: Row = {}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found
