"""The figures of an evaluation with what each is read against: for the page, and as a table for a terminal."""

import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from jaxgen.core.descriptions import Better, Description, find_description, show_figure
from jaxgen.core.pictures import shorten
from jaxgen.evaluation.metrics import Absent
from jaxgen.evaluation.result import EvaluationResult

_MOST_KEY = 12
_COLUMNS = 80
_LONGEST_TITLE = 34
_BRIEF = {"held-out data": "held-out", "training data": "training", "untrained model": "untrained"}


@dataclass(frozen=True)
class FigureRow:
    """A figure of the model, and the same figure of what it is read against."""

    name: str
    """In report.json."""
    description: Description
    value: float
    references: Mapping[str, float]
    """By what they are of, those that a reader compares with first in front; only finite ones."""

    def show(self, value: float | None) -> str:
        """The value, or one of what it is read against, in the row's unit, which is named elsewhere."""
        return show_figure(value, self.description.unit)

    @property
    def shown_references(self) -> list[tuple[str, str]]:
        """What the figure is read against, each with its value."""
        return [(name, self.show(value)) for name, value in self.references.items()]


def figure_rows(result: EvaluationResult) -> list[FigureRow]:
    """A row for each figure that is not a reference of another, in the order of the result."""
    values = {**result.table["generated"], **result.metrics}
    described = {name: find_description(result.descriptions, name) for name in values}
    others = [column for column in result.table if column not in ("generated", *result.partly_labelled)]
    columns = [column for column in (*result.references, *others) if column in result.table]
    references: dict[str, dict[str, float]] = {
        name: {column: result.table[column][name] for column in dict.fromkeys(columns) if name in result.table[column]}
        for name in values
    }
    for name, value in values.items():
        if (beside := described[name].reference_of) in values:
            references[beside].setdefault(described[name].name, value)
    return [
        FigureRow(name, described[name], value, _finite(references[name]))
        for name, value in values.items()
        if described[name].reference_of not in values
    ]


def key_rows(rows: Sequence[FigureRow]) -> list[FigureRow]:
    """The few that a reader looks at first, the most important in front; figures that nobody described come last."""
    chosen = [row for row in rows if row.description.importance or row.description.better is Better.UNKNOWN]
    return sorted(chosen, key=lambda row: -row.description.importance)[:_MOST_KEY]


def terminal_table(rows: Sequence[FigureRow]) -> str:
    """A table of at most 80 columns: a line for each row, and one for each that could not be computed."""
    cells = [
        (
            shorten(row.description.title, _LONGEST_TITLE),
            row.show(row.value),
            row.description.better.brief,
        )
        for row in rows
    ]
    head = ("figure", "model", "better")
    first, second, third = (max(map(len, column)) for column in zip(head, *cells, strict=True))
    room = _COLUMNS - (first + second + third + 6)
    lines = [
        f"{title:<{first}}  {value:>{second}}  {better:<{third}}  {beside}".rstrip()
        for (title, value, better), beside in zip(
            [head, *cells], ["beside it", *(_beside(row, room) for row in rows)], strict=True
        )
    ]
    lines += [
        textwrap.fill(f"{row.description.name}: {in_words(row.value)}", _COLUMNS, subsequent_indent="  ")
        for row in rows
        if isinstance(row.value, Absent)
    ]
    return "\n".join(lines)


def in_words(value: float) -> str:
    """Why a figure is absent."""
    return f"not computed ({value.reason})" if isinstance(value, Absent) else show_figure(value)


def _beside(row: FigureRow, room: int) -> str:
    """As many references as there is room for, at least one."""
    parts = [f"{_BRIEF.get(name, name)} {shown}" for name, shown in row.shown_references] or [row.description.reference]
    text = parts[0]
    for part in parts[1:]:
        if len(text) + len(part) + 2 <= room:
            text = f"{text}, {part}"
    return shorten(text, room)


def _finite(values: Mapping[str, float]) -> dict[str, float]:
    return {name: value for name, value in values.items() if math.isfinite(value)}
