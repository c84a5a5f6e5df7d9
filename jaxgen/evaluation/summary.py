"""EvaluationResult for people and scripts: report.html, report.json, and the headline."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from jaxgen.core.descriptions import find_description
from jaxgen.core.errors import tolerate
from jaxgen.core.files import explain_write_errors, write_atomic
from jaxgen.evaluation.figure_rows import FigureRow, figure_rows, in_words, key_rows, terminal_table
from jaxgen.evaluation.memorisation import Memorisation
from jaxgen.evaluation.metrics import Absent, add_reasons, split_absent
from jaxgen.evaluation.plots import png, spectrogram_grid, spectrogram_mosaic, training_curves
from jaxgen.evaluation.report import (
    Cell,
    Comparison,
    Grid,
    Image,
    KeyFigure,
    KeyFigures,
    Named,
    Player,
    Section,
    Side,
    Table,
    write_html,
    write_json,
)
from jaxgen.evaluation.result import ClipGroup, EvaluationResult
from jaxgen.scores.picture import roll_grid

T = TypeVar("T")
_AGAIN = "report.json has all figures, and jaxgen.evaluate makes the report again"
_NOT_FINITE = "it is not a finite number"
_GRID_SECONDS = 2.0  # of each clip in the listening grid, so that a page stays small

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def write_report(
    out: Path,
    title: str,
    result: EvaluationResult,
    history: Sequence[Mapping[str, Any]],
    *,
    sample_rate: int,
    num_players: int,
    about: Mapping[str, Any],
) -> None:
    """Writes report.html, report.json and spectrograms.png (real and generated in turn) into a folder that it makes.

    history: rows of metrics.jsonl. about: what was measured and with which settings, for both files. Where the page or
    the picture fail it is told, and report.json, which says that the report is there, is written all the same.
    """
    with explain_write_errors(out):
        out.mkdir(parents=True, exist_ok=True)
    with tolerate(f"write '{out / 'report.html'}'", _AGAIN):
        write_html(out / "report.html", title, _sections(result, history, sample_rate, num_players, about))
    with tolerate(f"draw '{out / 'spectrograms.png'}'", _AGAIN):
        write_atomic(out / "spectrograms.png", png(_pairs(result, sample_rate, num_players)))
    metrics, absent = split_absent(add_reasons(result.metrics, _NOT_FINITE))
    table = {column: split_absent(add_reasons(figures, _NOT_FINITE)) for column, figures in result.table.items()}
    content = {
        "about": about,
        "metrics": metrics,
        "table": {column: known for column, (known, _) in table.items()},
        "absent": {"metrics": absent, "table": {column: reasons for column, (_, reasons) in table.items() if reasons}},
        "notes": result.notes,
        "nearest_training_clips": result.memorisation.nearest if result.memorisation else [],
    }
    write_json(out / "report.json", content)


def headline(result: EvaluationResult) -> str:
    """The few figures that matter, as a table for a terminal."""
    return terminal_table(key_rows(figure_rows(result)))


def _sections(
    result: EvaluationResult,
    history: Sequence[Mapping[str, Any]],
    sample_rate: int,
    num_players: int,
    about: Mapping[str, Any],
) -> list[Section]:
    groups = {group.name: group for group in result.groups}
    real, made = groups["held-out data"], groups["generated"]
    rows = figure_rows(result)
    return [
        KeyFigures(
            "Key figures",
            [_key_figure(row) for row in key_rows(rows)],
            note="Each figure of the model, and below it what to read it against. All figures are further down.",
        ),
        Comparison(
            "Listen",
            _side("Real, held out", real, made, result, sample_rate, num_players),
            _side("Generated", made, real, result, sample_rate, num_players),
            note=f"{result.side_by_side}; generated clips are synthetic and marked so in their metadata.",
        ),
        *_curves(result, history),
        *_model(result, rows),
        *_clips(result, rows),
        *_not_computed(result),
        *_listening_grid(result, sample_rate),
        *([_nearest(result.memorisation)] if result.memorisation else []),
        Table("What the figures rest on", ["", ""], [[name, note] for name, note in result.notes.items()]),
        Table("About", ["", ""], [[_spoken(key), _text(value)] for key, value in about.items()]),
    ]


def _key_figure(row: FigureRow) -> KeyFigure:
    described = row.description
    return KeyFigure(
        described.name,
        in_words(row.value) if isinstance(row.value, Absent) else row.show(row.value),
        described.unit,
        described.better.value,
        described.meaning,
        row.shown_references,
        described.reference,
    )


def _named(row: FigureRow) -> Named:
    described = row.description
    known = f" {_sentence(described.reference)}" if described.reference else ""
    return Named(described.title, f"{described.meaning} {_sentence(described.better.value)}{known}")


def _curves(result: EvaluationResult, history: Sequence[Mapping[str, Any]]) -> list[Image]:
    """Training and validation by step; none before there are two rows."""
    if len(history) < 2:
        return []
    curve, tells = "loss", "A gap that widens while validation rises is overfitting."
    if not result.losses_are_comparable:
        curve, tells = "frechet_distance_db2", "It is the validation's: a generator's loss says little by itself."
    title = find_description(result.descriptions, curve).title
    picture = _drawn("the training curves", lambda: training_curves(history, curve, title))
    return [Image("Training", picture, f"{title} by step; lower is better. {tells}")]


def _model(result: EvaluationResult, rows: Sequence[FigureRow]) -> list[Table]:
    """Figures of the model that no set of clips has."""
    own: list[list[Cell]] = [
        [_named(row), row.show(row.value), _beside(row)] for row in rows if row.name not in result.table["generated"]
    ]
    note = "Of held-out clips."
    return [Table("The model", ["Figure", "Value", "Beside it"], own, note)] if own else []


def _beside(row: FigureRow) -> str:
    return ", ".join(" ".join(pair) for pair in row.shown_references) or row.description.reference or "–"


def _clips(result: EvaluationResult, rows: Sequence[FigureRow]) -> list[Table]:
    """What sets of clips are like, and what those are like for which not all labels were said."""
    columns = [name for name in result.table if name not in result.partly_labelled]
    tables = [_by_column("What the clips are like", columns, result, rows)]
    if result.partly_labelled:
        note = (
            "Labels that are not said are drawn as training clips have them together, and each clip is measured by all."
        )
        columns = ["held-out data", "generated", *result.partly_labelled]
        tables.append(_by_column("When not all labels are said", columns, result, rows, note))
    return tables


def _by_column(
    title: str, columns: Sequence[str], result: EvaluationResult, rows: Sequence[FigureRow], note: str = ""
) -> Table:
    counts = {group.name: len(group.clips) for group in result.groups}
    heads = [f"{name} ({counts[name]:,} clips)" if name in counts else name for name in columns]
    cells: list[list[Cell]] = [
        [_named(row), *(row.show(result.table[name].get(row.name)) for name in columns)]
        for row in rows
        if row.name in result.table["generated"]
    ]
    return Table(title, ["Figure", *heads], cells, note)


def _not_computed(result: EvaluationResult) -> list[Table]:
    """Why figures are missing; none where all are there."""
    places = {"the model": result.metrics, **result.table}
    rows: list[list[Cell]] = [
        [find_description(result.descriptions, name).name, place, reason]
        for place, figures in places.items()
        for name, reason in split_absent(add_reasons(figures, _NOT_FINITE))[1].items()
        if place != "the model" or name not in result.table["generated"]
    ]
    return [Table("Not computed", ["Figure", "Of", "Why"], rows)] if rows else []


def _pairs(result: EvaluationResult, sample_rate: int, count: int) -> "Figure":
    """Real and generated clips of the same labels beside each other."""
    groups = {group.name: group for group in result.groups}
    titles, real, made = _titles(result, count), groups["held-out data"], groups["generated"]
    if made.scores:
        pieces = zip(titles, real.scores, made.scores, strict=False)
        return roll_grid(list(_in_turn(pieces)), columns=4)
    return spectrogram_grid(list(_in_turn(zip(titles, real.clips, made.clips, strict=False))), sample_rate, columns=4)


def _in_turn(pairs: Iterable[tuple[str, T, T]]) -> Iterator[tuple[str, T]]:
    for title, real, made in pairs:
        yield f"real: {title}", real
        yield f"generated: {title}", made


def _titles(result: EvaluationResult, count: int) -> list[str]:
    labels = [", ".join(f"{key} {value}" for key, value in row.items()) for row in result.labels[:count]]
    return [label or f"clip {index}" for index, label in enumerate(labels)]


def _side(
    title: str, group: ClipGroup, beside: ClipGroup, result: EvaluationResult, sample_rate: int, count: int
) -> Side:
    names, clips = _titles(result, count), group.clips[:count]
    players = [
        Player(name, f"{len(clip) / sample_rate:.2f} s", clip, sample_rate)
        for name, clip in zip(names, clips, strict=False)
    ]

    def picture() -> "Figure":
        if group.scores:
            named = list(zip(names, group.scores, strict=False))
            return roll_grid(named, columns=2, title=title, beside=beside.scores[:count])
        named_clips = list(zip(names, clips, strict=True))
        return spectrogram_grid(named_clips, sample_rate, columns=2, title=title, beside=beside.clips[:count])

    return Side(title, players, _drawn(title, picture))


def _listening_grid(result: EvaluationResult, sample_rate: int) -> list[Grid]:
    """The first clips of each pair of values of the first two labels, real above generated; none without two labels."""
    names = list(result.labels[0])[:2]
    if len(names) < 2:
        return []
    real, made = (next(c.clips for c in result.groups if c.name == name) for name in ("held-out data", "generated"))
    cells: dict[tuple[str, str], tuple[np.ndarray, np.ndarray]] = {}
    for labels, *pair in zip(result.labels, real, made, strict=False):  # of written music not all have sound
        if all(name in labels for name in names):
            row, column = (f"{name} {labels[name]}" for name in names)
            cells.setdefault((row, column), (_heard(pair[0], sample_rate), _heard(pair[1], sample_rate)))
    if not cells:
        return []
    rows, columns = (sorted({place[axis] for place in cells})[:most] for axis, most in ((0, 12), (1, 8)))
    cells = {place: pair for place, pair in cells.items() if place[0] in rows and place[1] in columns}
    players = {
        place: [Player(name, "", clip, sample_rate) for name, clip in zip(("real", "generated"), pair, strict=True)]
        for place, pair in cells.items()
    }
    picture = _drawn("the grid", lambda: spectrogram_mosaic(rows, columns, cells, sample_rate))
    note = "Above the real, held-out recording, below it the generated clip of the same labels."
    return [Grid(f"By {names[0]} and {names[1]}", rows, columns, players, picture, note)]


def _drawn(what: str, draw: "Callable[[], Figure]") -> bytes:
    """A figure as a PNG file; empty where it cannot be drawn, which is told."""
    with tolerate(f"draw {what} of the report", _AGAIN):
        return png(draw())
    return b""


def _heard(clip: np.ndarray, sample_rate: int) -> np.ndarray:
    return clip[: round(_GRID_SECONDS * sample_rate)]


def _nearest(found: Memorisation) -> Table:
    rows: list[list[Cell]] = [
        [match.generated, match.generated_seconds, match.training, match.training_seconds, match.distance_db]
        for match in found.nearest[:8]
    ]
    return Table(
        "Nearest training clips",
        ["Generated", "at (s)", "Training clip", "at (s)", "Distance (dB)"],
        rows,
        note="The generated chunks of 0.25 s that come closest to the training data. Memorisation: "
        f"{found.in_words}. {found.medians_in_words}",
    )


def _spoken(name: str) -> str:
    return name.replace("_", " ")


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}."


def _text(value: Any) -> str:
    if isinstance(value, int):
        return f"{value:,}"
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
