"""What a sweep found: a table of the best validation of each combination, means over seeds, and a plot."""

import csv
import dataclasses
import io
import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxgen.config import Config
from jaxgen.core.errors import tolerate
from jaxgen.core.files import write_atomic
from jaxgen.core.pictures import matplotlib_settings, render_figure, shorten
from jaxgen.training.telemetry import read_metrics

if TYPE_CHECKING:
    pass

NOT_TRAINED = "not trained yet"
SEED = "train.seed"
_NO_FIGURES = ("step", "split")
_LONGEST_NAME = 60  # characters
_DPI = 110


@dataclasses.dataclass(frozen=True)
class Entry:
    """One combination of a sweep."""

    values: Mapping[str, str]
    """By option."""
    config: Config
    status: str
    """How its training ended, or that it has not begun."""

    @property
    def metric(self) -> str:
        """The validation figure that it is judged by; the lowest is the best."""
        return self.config.train.best_metric or "loss"

    def validations(self) -> list[dict[str, Any]]:
        """Its validation rows that have this figure, by step."""
        rows = read_metrics(self.config.folder / "metrics.jsonl")
        return [row for row in rows if row["split"] == "validation" and self.metric in row]

    def best(self) -> dict[str, Any]:
        """The best validation row; an empty one where there is none."""
        return min(self.validations(), key=lambda row: row[self.metric], default={})

    @property
    def others(self) -> str:
        """The combination without its seed."""
        return ", ".join(f"{name}={value}" for name, value in self.values.items() if name != SEED) or "all seeds"


def write_report(folder: Path, entries: Sequence[Entry]) -> None:
    """Writes sweep.csv, sweep.md and sweep.png into the sweep's folder, and seeds.csv where seeds vary.

    Raises UserError where a file cannot be written. A plot that cannot be drawn is told.
    """
    runs, seeds = _run_rows(entries), _seed_rows(entries)
    write_atomic(folder / "sweep.csv", _csv(runs))
    if seeds:
        write_atomic(folder / "seeds.csv", _csv(seeds))
    else:  # those of an earlier grid
        (folder / "seeds.csv").unlink(missing_ok=True)
    write_atomic(folder / "sweep.md", f"# {folder.resolve().name}\n\n{_tables(runs, seeds)}\n![](sweep.png)\n")
    with tolerate("draw the plot of the sweep", "its tables are in sweep.md"):
        write_atomic(folder / "sweep.png", draw(entries))


def print_table(folder: Path, entries: Sequence[Entry]) -> None:
    """Prints what sweep.md holds, and where it is."""
    print(f"\n{_tables(_run_rows(entries), _seed_rows(entries))}\n{folder}/sweep.md, .csv and .png")


def _run_rows(entries: Sequence[Entry]) -> list[dict[str, Any]]:
    """A row for each combination: its values, how it ended, the step of its best validation, and the figures there."""
    rows = []
    for entry in entries:
        best = entry.best()
        figures = {name: value for name, value in best.items() if name not in _NO_FIGURES}
        rows.append({**entry.values, "status": entry.status, "best step": best.get("step", ""), **figures})
    return _filled(rows)


def _seed_rows(entries: Sequence[Entry]) -> list[dict[str, Any]]:
    """A row for each combination of the other options: mean and standard deviation over its finished seeds.

    None where seeds do not vary. The deviation is that of a sample, with n - 1; of a single seed there is none.
    """
    if len({entry.values.get(SEED) for entry in entries}) < 2:
        return []
    groups: dict[str, list[Entry]] = {}
    for entry in entries:
        groups.setdefault(entry.others, []).append(entry)
    rows = []
    for members in groups.values():
        found = [entry.best() for entry in members if entry.status == "done"]
        row: dict[str, Any] = {name: value for name, value in members[0].values.items() if name != SEED}
        row["seeds"] = len(found)
        for name in found[0] if found else ():
            values = [best[name] for best in found if name in best]
            if name not in _NO_FIGURES:
                row[f"{name} mean"] = statistics.mean(values)
                row[f"{name} deviation"] = statistics.stdev(values) if len(values) > 1 else ""
        rows.append(row)
    return _filled(rows)


def _filled(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows with the columns of all of them, empty where one has none."""
    columns = dict.fromkeys(name for row in rows for name in row)
    return [{name: row.get(name, "") for name in columns} for row in rows]


def _csv(rows: Sequence[Mapping[str, Any]]) -> str:
    out = io.StringIO()
    writer = csv.DictWriter(out, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


def _tables(runs: Sequence[Mapping[str, Any]], seeds: Sequence[Mapping[str, Any]]) -> str:
    over_seeds = f"\nMean and standard deviation over finished seeds:\n\n{_markdown(seeds)}" if seeds else ""
    return f"Figures of the best validation of each run:\n\n{_markdown(runs)}{over_seeds}"


def _markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """A table that reads well as text, too: columns are as wide as what they hold."""
    cells = [list(rows[0]), *([_shown(value) for value in row.values()] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = ["| " + " | ".join(map(str.ljust, row, widths)) + " |" for row in cells]
    return "\n".join([lines[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *lines[1:]]) + "\n"


def _shown(value: Any) -> str:
    return f"{value:.5g}" if isinstance(value, float) else str(value).replace("|", r"\|")


@matplotlib_settings()
def draw(entries: Sequence[Entry]) -> bytes:
    """A PNG: on the left the validation figure of each run by step; on the right the best of each, and means over seeds.

    Runs that differ in nothing but their seed have one colour, and one row on the right.
    """
    from matplotlib import colormaps
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    names = list(dict.fromkeys(entry.others for entry in entries))
    colours = colormaps["viridis"]([place / max(1, len(names) - 1) * 0.85 for place in range(len(names))])
    figure: Figure = Figure(figsize=(11, max(3.5, 1.6 + 0.3 * len(names))), layout="constrained")
    curves, dots = figure.subplots(1, 2)
    for row, name in enumerate(names):
        members = [entry for entry in entries if entry.others == name]
        best = [(entry, value) for entry in members if math.isfinite(value := entry.best().get(entry.metric, math.nan))]
        for entry in members:
            rows = entry.validations()
            steps, values = [each["step"] for each in rows], [each[entry.metric] for each in rows]
            curves.plot(steps, values, marker=".", color=colours[row], linewidth=1)
        for entry, value in best:
            dots.plot(value, row, "o" if entry.status == "done" else "x", color=colours[row])
        finished = [value for entry, value in best if entry.status == "done"]
        if len(finished) > 1:
            dots.plot(statistics.mean(finished), row, "|", color=colours[row], markersize=18)
    metric = " or ".join(dict.fromkeys(entry.metric for entry in entries))
    curves.set(xlabel="step", ylabel=f"validation {metric}")
    curves.xaxis.set_major_locator(MaxNLocator(integer=True))
    dots.set(xlabel=f"best validation {metric}", ylim=(len(names) - 0.5, -0.5))
    dots.set_yticks(range(len(names)), [shorten(name, _LONGEST_NAME) for name in names], fontsize=8)
    dots.set_title("a dot a run, x not finished, | mean over seeds", fontsize=8)
    for axis in (curves, dots):
        axis.grid(color="0.9", linewidth=0.6)
        axis.spines[["top", "right"]].set_visible(False)
        axis.tick_params(labelsize=8)
    for place, label in enumerate(dots.get_yticklabels()):
        label.set_color(colours[place])
    return render_figure(figure, dpi=_DPI)
