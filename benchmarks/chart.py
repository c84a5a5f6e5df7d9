"""Pictures of what was measured: `python -m benchmarks.chart --json FILE --chart FILE` draws that of `benchmarks.step`."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks import measure
from benchmarks.measure import Row
from jaxgen.config import parse
from jaxgen.core.errors import UserError
from jaxgen.core.files import write_atomic
from jaxgen.core.pictures import matplotlib_settings, render_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_PEERS = {
    "ratio_to_torch": ("PyTorch", "o", "#e45756"),
    "ratio_to_torch_compile": ("torch.compile", "v", "#f2a49b"),
    "ratio_to_flax": ("flax linen", "s", "#4c78a8"),
    "ratio_to_nnx": ("flax nnx", "D", "#9ecae9"),
    "ratio_to_keras": ("tf.keras", "^", "#72b7b2"),
}
_GREY = "#888888"
_TICKS = (0.25, 0.5, 1, 2, 4, 8, 16)


@dataclasses.dataclass(frozen=True)
class Options:
    """Draws the rows of a file that `benchmarks.step --json` wrote."""

    json: str
    """JSON lines; several files of rows may stand one after another in it."""
    chart: str = "step.png"
    """Picture to write."""


def main(argv: Sequence[str]) -> list[Row]:
    """Draws and returns the rows. Raises UserError where there are none."""
    options = parse(Options, None, argv, "python -m benchmarks.chart")
    try:
        rows = [json.loads(line) for line in Path(options.json).read_text(encoding="utf-8").splitlines() if line]
    except (OSError, ValueError) as error:
        raise UserError(f"--json is '{options.json}', expected JSON lines of benchmarks.step ({error}).") from None
    ratios(rows, Path(options.chart))
    return rows


@matplotlib_settings()
def ratios(rows: Sequence[Row], path: Path) -> None:
    """How many times the throughput of each peer jaxgen has, a line a row. Raises UserError where no row has a peer."""
    from matplotlib.figure import Figure

    present = [name for name in _PEERS if any(name in row for row in rows)]
    if not present:
        raise UserError("there is no peer to draw; measure with --peers torch flax keras, where those are installed.")
    figure = Figure(figsize=(7.2, 1.3 + 0.24 * len(rows)), layout="constrained")
    axis = figure.subplots()
    for name in present:
        label, marker, colour = _PEERS[name]
        points = [(row[name], place) for place, row in enumerate(rows) if name in row]
        axis.plot(*zip(*points, strict=True), marker, color=colour, label=label, markersize=6, alpha=0.9, clip_on=False)
    axis.axvline(1, color=_GREY, linewidth=1)
    _scale(axis, [float(row[name]) for row in rows for name in present if name in row])
    axis.set_yticks(range(len(rows)), [_label(str(row["row"])) for row in rows], family="monospace", fontsize=8)
    axis.set_ylim(len(rows) - 0.4, -0.6)
    axis.set_xlabel("throughput of jaxgen / throughput of the peer  (right of 1: jaxgen is faster)")
    figure.legend(loc="outside upper center", ncols=len(present), frameon=False, fontsize=9, columnspacing=1.2)
    _quiet(axis)
    save(figure, path)


@matplotlib_settings()
def growth(curves: Mapping[str, Sequence[Mapping[str, Any]]], path: Path) -> None:
    """Seconds and memory of a step against one size at a time, on log axes.

    curves: by the name of what grows, its points {size, seconds, planned_mib, exponents...} and their theory; see
    `benchmarks.scaling`.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(2.6 * len(curves) + 0.6, 5.0), layout="constrained")
    axes = figure.subplots(2, len(curves), squeeze=False, sharey="row")
    for column, (what, points) in enumerate(curves.items()):
        sizes = [point["size"] for point in points]
        for axis, measured, theory in (
            (axes[0, column], "seconds", "theory_seconds"),
            (axes[1, column], "planned_mib", "theory_mib"),
        ):
            axis.loglog(sizes, [p[measured] for p in points], "o-", color="#4c78a8", markersize=4, label="measured")
            axis.loglog(sizes, [p[theory] for p in points], "--", color=_GREY, linewidth=1, label="theory")
            exponents = f"{what}^{points[0][f'{measured}_exponent']:.2f}", f"{points[0][f'{theory}_exponent']:.2f}"
            axis.set_title(f"{exponents[0]}  (theory {exponents[1]})", fontsize=9)
            axis.set_xticks(sizes, [str(size) for size in sizes], fontsize=8)
            axis.minorticks_off()
            axis.yaxis.set_major_formatter("{x:g}")
            _quiet(axis)
        axes[1, column].set_xlabel(what)
    axes[0, 0].set_ylabel("seconds a step")
    axes[1, 0].set_ylabel("memory of all buffers, MiB")
    axes[0, 0].legend(frameon=False, fontsize=8)
    save(figure, path)


def save(figure: "Figure", path: Path) -> None:
    """Writes the picture whole or not at all. Raises UserError where it cannot."""
    write_atomic(path, render_figure(figure, dpi=130, kind=path.suffix.removeprefix(".") or "png"))


def _label(row: str) -> str:
    cell, batch, steps, hidden, layers = row.split("-")
    return f"{cell.upper():4} B={batch:>3} T={steps:>4} H={hidden:>3} L={layers}"


def _scale(axis: "Axes", values: Sequence[float]) -> None:
    """A logarithmic axis with plain numbers."""
    axis.set_xscale("log", base=2)
    axis.set_xlim(min(0.5, 0.9 * min(values)), max(2, 1.1 * max(values)))
    low, high = axis.get_xlim()
    ticks = [tick for tick in _TICKS if low <= tick <= high]
    axis.set_xticks(ticks, [f"{tick:g}" for tick in ticks])


def _quiet(axis: "Axes") -> None:
    axis.grid(True, color="#dddddd", linewidth=0.6)
    axis.set_axisbelow(True)
    axis.spines[["top", "right"]].set_visible(False)
    axis.tick_params(length=0)


if __name__ == "__main__":
    measure.start(main)
