"""Reports: one HTML file that holds its own sound and pictures, and strict JSON for scripts."""

import base64
import dataclasses
import html
import io
import itertools
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxgen.core.descriptions import show_figure
from jaxgen.core.files import write_atomic
from jaxgen.evaluation.metrics import Samples


@dataclasses.dataclass(frozen=True)
class Named:
    """A cell that names its row."""

    name: str
    note: str
    """What it means, in small print; none where empty."""


Cell = str | int | float | Named | None


@dataclasses.dataclass(frozen=True)
class Player:
    """A clip to listen to."""

    title: str
    caption: str
    samples: Samples
    """float32 [nsamp], full scale 1.0; NaN and infinity are played as silence, what is beyond full scale is clipped."""
    sample_rate: int


@dataclasses.dataclass(frozen=True)
class Table:
    """Figures. Numbers are shown with four significant digits; None and NaN as a dash."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    note: str = ""


@dataclasses.dataclass(frozen=True)
class KeyFigure:
    """A figure with all that a reader needs to judge it, as texts."""

    name: str
    value: str
    unit: str
    better: str
    """Which way it is better."""
    meaning: str
    references: Sequence[tuple[str, str]]
    """What it is read against, and the value there."""
    reference: str
    """The same in words, where it is known beforehand; none where empty."""


@dataclasses.dataclass(frozen=True)
class KeyFigures:
    """Figures to see first, a card each."""

    title: str
    figures: Sequence[KeyFigure]
    note: str = ""


@dataclasses.dataclass(frozen=True)
class Image:
    """A picture, given as the bytes of a PNG file."""

    title: str
    png: bytes
    """None where empty."""
    caption: str = ""


@dataclasses.dataclass(frozen=True)
class Side:
    """One column of a `Comparison`."""

    title: str
    players: Sequence[Player]
    png: bytes = b""
    """A picture of these clips as the bytes of a PNG file; none where empty."""


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Two sets of clips side by side, the first of one beside the first of the other."""

    title: str
    left: Side
    right: Side
    note: str = ""


@dataclasses.dataclass(frozen=True)
class Grid:
    """Clips by two properties: a table of players, those of a cell one above the other."""

    title: str
    rows: Sequence[str]
    columns: Sequence[str]
    cells: Mapping[tuple[str, str], Sequence[Player]]
    """By row and column; a cell may be missing."""
    png: bytes
    """A picture of the clips in the same places, as the bytes of a PNG file; none where empty."""
    note: str = ""


Section = Player | Table | KeyFigures | Image | Comparison | Grid


def write_html(path: Path, title: str, sections: Sequence[Section]) -> None:
    """Writes one self-contained page that asks nothing of the network; all text is escaped.

    Raises UserError where `path` cannot be written; a page that was there is then left as it was.
    """
    body = "\n".join(_SECTION[type(section)](section) for section in sections)
    page = _PAGE.format(title=html.escape(title), style=_STYLE, body=body)
    write_atomic(path, page)


def write_json(path: Path, value: Any) -> None:
    """Writes strict JSON: NaN and infinity become null; dataclasses become objects, arrays lists.

    Raises UserError where `path` cannot be written; a file that was there is then left as it was.
    """
    write_atomic(path, json.dumps(_plain(value), indent=2, allow_nan=False, ensure_ascii=False) + "\n")


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, np.ndarray | np.generic):
        return _plain(value.tolist())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value


def _player(player: Player, side: str = "") -> str:
    import soundfile

    finite = np.nan_to_num(np.asarray(player.samples, np.float32), nan=0.0, posinf=0.0, neginf=0.0)
    wav = io.BytesIO()
    soundfile.write(wav, finite, player.sample_rate, format="WAV", subtype="PCM_16")
    return (
        f'<div class="player">{_small("side", side)}<b>{html.escape(player.title)}</b>'
        f'<audio controls preload="metadata" src="{_data_uri("audio/wav", wav.getvalue())}"></audio>'
        f"{_small('caption', player.caption)}</div>"
    )


def _small(kind: str, text: str) -> str:
    return f'<small class="{kind}">{html.escape(text)}</small>' if text else ""


def _key_figures(section: KeyFigures) -> str:
    cards = "".join(
        f'<div class="card"><h3>{html.escape(figure.name)}</h3><p class="value">{html.escape(figure.value)} '
        f'<span class="unit">{html.escape(figure.unit or "no unit")}</span></p>'
        f'<p class="better">{html.escape(figure.better)}</p><dl>'
        + "".join(f"<dt>{html.escape(name)}</dt><dd>{html.escape(value)}</dd>" for name, value in figure.references)
        + f"</dl>{_reference(figure.reference)}{_note(figure.meaning)}</div>"
        for figure in section.figures
    )
    return (
        f'<section><h2>{html.escape(section.title)}</h2>{_note(section.note)}<div class="cards">{cards}</div></section>'
    )


def _reference(text: str) -> str:
    return f'<p class="reference">{html.escape(text)}</p>' if text else ""


def _image(image: Image) -> str:
    return f"<section><h2>{html.escape(image.title)}</h2>{_figure(image.png, image.title, image.caption)}</section>"


def _table(table: Table) -> str:
    head = "".join(f"<th>{html.escape(column)}</th>" for column in table.columns)
    rows = "".join(f"<tr>{''.join(_cell(value) for value in row)}</tr>" for row in table.rows)
    return (
        f'<section><h2>{html.escape(table.title)}</h2><div class="scroll"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{rows}</tbody></table></div>{_note(table.note)}</section>"
    )


def _comparison(comparison: Comparison) -> str:
    sides = (comparison.left, comparison.right)
    figures = "".join(_figure(side.png, side.title, side.title) for side in sides)
    heads = "".join(f"<h3>{html.escape(side.title)}</h3>" for side in sides)
    pairs = itertools.zip_longest(comparison.left.players, comparison.right.players)
    players = "".join(
        _player(player, side.title) if player else '<div class="none"></div>'
        for pair in pairs
        for side, player in zip(sides, pair, strict=True)
    )
    return (
        f'<section><h2>{html.escape(comparison.title)}</h2>{_note(comparison.note)}<div class="figures">{figures}</div>'
        f'<div class="pairs">{heads}{players}</div></section>'
    )


def _grid(grid: Grid) -> str:
    head = "".join(f"<th>{html.escape(column)}</th>" for column in grid.columns)
    rows = "".join(
        f"<tr><th>{html.escape(row)}</th>"
        + "".join(f"<td>{''.join(map(_player, grid.cells.get((row, column), ())))}</td>" for column in grid.columns)
        + "</tr>"
        for row in grid.rows
    )
    return (
        f"<section><h2>{html.escape(grid.title)}</h2>{_note(grid.note)}{_figure(grid.png, grid.title, grid.title)}"
        f'<div class="scroll"><table class="grid"><thead><tr><th></th>{head}</tr></thead><tbody>{rows}</tbody></table></div>'
        "</section>"
    )


_SECTION: dict[type, Any] = {
    Player: lambda player: f"<section>{_player(player)}</section>",
    Table: _table,
    KeyFigures: _key_figures,
    Image: _image,
    Comparison: _comparison,
    Grid: _grid,
}


def _figure(png: bytes, alternative: str, caption: str) -> str:
    if not png:
        return ""
    source = _data_uri("image/png", png)
    return (
        f'<figure><img src="{source}" alt="{html.escape(alternative)}">'
        f"<figcaption>{html.escape(caption)}</figcaption></figure>"
    )


def _note(text: str) -> str:
    return f'<p class="note">{html.escape(text)}</p>' if text else ""


def _cell(value: Cell) -> str:
    if isinstance(value, Named):
        return f'<th scope="row">{html.escape(value.name)}{_small("note", value.note)}</th>'
    if isinstance(value, str):
        return f"<td>{html.escape(value)}</td>"
    return f'<td class="number">{show_figure(value)}</td>'


def _data_uri(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"


_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; img-src data:; media-src data:; style-src 'unsafe-inline'">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<h1>{title}</h1>
{body}
</body>
</html>
"""

_STYLE = """
:root { color-scheme: light dark; --text: #1b1f24; --faint: #636c76; --page: #fff; --card: #f5f6f8; --line: #d8dce1 }
@media (prefers-color-scheme: dark) {
  :root { --text: #e4e7eb; --faint: #9aa4af; --page: #14171a; --card: #1d2126; --line: #343a41 }
}
* { box-sizing: border-box }
body { max-width: 66rem; margin: 0 auto; padding: 1rem; background: var(--page); color: var(--text);
  font: 1rem/1.5 system-ui, sans-serif; overflow-wrap: anywhere }
h1 { font-size: 1.5rem; line-height: 1.25 } h2 { font-size: 1.15rem; margin: 0 0 .5rem }
h3 { font-size: 1rem; margin: .25rem 0 }
section { margin: 0 0 2.25rem }
small, .note, figcaption { color: var(--faint); font-size: .85rem } .note { margin: .4rem 0 }
figure { margin: 0 } figcaption { margin-top: .25rem }
img { display: block; max-width: 100%; height: auto; border-radius: 4px; background: #fff }
.scroll { overflow-x: auto }
table { border-collapse: collapse; font-size: .92rem; font-variant-numeric: tabular-nums; overflow-wrap: normal }
th, td { text-align: left; vertical-align: top; padding: .4rem .9rem .4rem 0; border-bottom: 1px solid var(--line) }
thead th { color: var(--faint); font-weight: 600 } td.number { white-space: nowrap }
tbody th { min-width: 11rem; max-width: 24rem } tbody th .note { display: block; margin: 0; font-weight: 400 }
.cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 15rem), 1fr)); gap: .75rem }
.card { padding: .75rem; border-radius: 6px; background: var(--card); min-width: 0 } .card p { margin: 0 }
.card .value { font-size: 1.6rem; line-height: 1.2; font-weight: 600 } .card .better { font-size: .9rem }
.card .unit, .card .reference { color: var(--faint); font-size: .9rem; font-weight: 400 }
.card h3 { margin: 0 } .card .note { margin-top: .4rem }
dl { display: grid; grid-template-columns: minmax(6rem, 1fr) auto; gap: 0 .75rem; margin: .4rem 0 0; font-size: .9rem;
  font-variant-numeric: tabular-nums } dt { color: var(--faint) } dd { margin: 0; text-align: right }
.figures, .pairs { display: grid; grid-template-columns: repeat(2, minmax(0, 1fr)); gap: .6rem 1rem }
.figures { margin-bottom: .75rem }
.player { display: flex; flex-direction: column; gap: .3rem; padding: .6rem; border-radius: 6px;
  background: var(--card); min-width: 0 }
.player b { font-size: .9rem } .side { display: none } audio { width: 100%; min-width: 0; height: 2.75rem }
.grid .player { padding: .2rem; margin-bottom: .2rem } .grid audio { width: 9rem }
.grid td { padding-right: .3rem } .grid tbody th { min-width: 5rem }
@media (max-width: 40rem) {
  .figures, .pairs { grid-template-columns: 1fr } .pairs h3, .none { display: none } .side { display: block }
  th, td { padding-right: .6rem }
}
"""
