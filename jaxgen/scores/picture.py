"""A score as a picture: its piano roll, a colour for each track, in rows of bars."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from jaxgen.core.pictures import matplotlib_settings, render_figure, shorten
from jaxgen.scores.score import Score, bar_starts, ends

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_BARS_IN_ROW = 16
_MOST_ROWS = 8
_QUARTERS_IN_ROW = 96  # where bars are long, or there are none
_PITCH_NAMES = ("C", "C♯", "D", "E♭", "E", "F", "F♯", "G", "A♭", "A", "B♭", "B")
_LEAST_KEYS = 12
_QUARTERS_IN_GRID = 64.0
_LONGEST_TITLE = 36  # characters


@matplotlib_settings()
def draw_score(
    score: Score, *, synthetic: bool = False, comment: str = "", kind: str = "png", dpi: float = 100
) -> bytes:
    """The piano roll of a score as the content of a PNG (or what `kind` says): the first 128 bars, 16 in a row.

    Each note is a bar as long as it lasts, fainter where it is soft; a gap stands before a repeated note. synthetic: the
    picture says that a model made the music. comment: stands below, such as the seed.
    """
    from matplotlib.figure import Figure

    edges = _row_edges(score)
    rows = len(edges) - 1
    low, high = _pitch_range(score)
    figure = Figure(figsize=(12, 1.3 + rows * (0.9 + 0.045 * (high - low))), layout="constrained")
    axes = np.atleast_1d(figure.subplots(rows, 1, sharey=True, squeeze=False)[:, 0])
    bars, width = bar_starts(score), int(max(np.diff(edges)))
    for axis, start, stop in zip(axes, edges[:-1], edges[1:], strict=True):
        draw_notes(axis, score, start, stop, start + width)
        inside = [int(bar) for bar in bars if start <= bar <= stop]
        axis.vlines(inside, low, high, color="0.8", linewidth=0.6, zorder=0)
        axis.set_xticks(
            inside[:-1] or inside, [str(int(np.searchsorted(bars, bar)) + 1) for bar in inside[:-1] or inside]
        )
    figure.suptitle(shorten(_title(score, edges), 140), fontsize=11)
    axes[-1].set_xlabel("bar")
    _legend(figure, score)
    mark = "synthetic: made by a model (jaxgen)" if synthetic else ""
    if below := "   ".join(filter(None, (mark, shorten(comment, 120)))):
        figure.supxlabel(below, fontsize=9, color="0.35")
    return render_figure(figure, dpi=dpi, kind=kind)


@matplotlib_settings()
def roll_grid(
    scores: Sequence[tuple[str, Score]], *, columns: int = 4, title: str = "", beside: Sequence[Score] = ()
) -> "Figure":
    """Piano rolls side by side, on one axis of quarter notes and one of pitch: of each piece the first 64 quarters.

    scores: by name. beside: those of another grid that this one stands beside; give each the other's and their axes are
    the same.
    """
    from matplotlib.figure import Figure

    columns = max(1, min(columns, len(scores)))
    rows = max(1, math.ceil(len(scores) / columns))
    every = [*(score for _, score in scores), *beside]
    ranges = [_pitch_range(score) for score in every if len(score.notes)] or [_pitch_range(every[0])]
    low, high = min(bottom for bottom, _ in ranges), max(top for _, top in ranges)
    longest = min(_QUARTERS_IN_GRID, max(score.quarters for score in every))
    figure = Figure(figsize=(0.8 + 2.7 * columns, 0.7 + 1.7 * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
    for place, (name, score) in enumerate(scores):
        axis = axes.flat[place]
        _add_notes(axis, score, 0, round(longest * score.ticks_per_quarter), scale=1 / score.ticks_per_quarter)
        axis.set_title(shorten(name, _LONGEST_TITLE), fontsize=8)
        axis.tick_params(labelsize=7, labelbottom=place + columns >= len(scores))
        axis.axvspan(score.quarters, longest, color="0.9")  # where this piece has ended and another goes on
    for axis in axes.flat[len(scores) :]:
        axis.set_visible(False)
    axes[0, 0].set_xlim(0, longest)
    axes[0, 0].set_ylim(low, high)
    _mark_octaves(axes[0, 0], low, high)
    figure.supxlabel("quarter notes", fontsize=8)
    if title:
        figure.suptitle(shorten(title, columns * _LONGEST_TITLE), fontsize=10)
    return figure


def draw_notes(axis: "Axes", score: Score, start: int, stop: int, end: int) -> None:
    """Draws what sounds from tick `start` to `stop` on matplotlib axes that reach to tick `end`, with a line at each C."""
    low, high = _pitch_range(score)
    _add_notes(axis, score, start, stop)
    axis.hlines(_mark_octaves(axis, low, high), start, end, color="0.9", linewidth=0.6, zorder=0)
    axis.set_xlim(start, end)
    axis.set_ylim(low, high)


def _add_notes(axis: "Axes", score: Score, start: int, stop: int, scale: float = 1.0) -> None:
    """Draws the notes between two ticks, a colour for each track. scale: of the axis, units a tick."""
    from matplotlib.collections import PolyCollection

    shown = score.notes[(score.notes["onset"] < stop) & (ends(score.notes) > start)]
    gap = 0.06 * score.ticks_per_quarter
    for track in range(len(score.tracks)):
        notes = shown[shown["track"] == track]
        left, right = np.maximum(notes["onset"], start), np.minimum(ends(notes), stop)
        right = np.maximum(right - gap, (left + right) / 2)
        left, right = left * scale, right * scale
        bottom, top = notes["pitch"] - 0.45, notes["pitch"] + 0.45
        corners = np.stack([left, bottom, right, bottom, right, top, left, top], axis=-1).reshape(-1, 4, 2)
        colours = [(_colour(track), float(0.35 + 0.65 * velocity / 127)) for velocity in notes["velocity"]]
        axis.add_collection(PolyCollection(list(corners), facecolors=colours))


def _mark_octaves(axis: "Axes", low: float, high: float) -> list[int]:
    octaves = [pitch for pitch in range(int(low), int(high) + 1) if pitch % 12 == 0]
    axis.set_yticks(octaves, [pitch_name(pitch) for pitch in octaves])
    return octaves


def pitch_name(pitch: int) -> str:
    """Name of a MIDI pitch: C4 for 60."""
    return f"{_PITCH_NAMES[pitch % 12]}{pitch // 12 - 1}"


def _colour(track: int) -> str:
    return f"C{track % 10}"


def _row_edges(score: Score) -> list[int]:
    """Ticks between rows."""
    bars = bar_starts(score).tolist()
    longest = _QUARTERS_IN_ROW * score.ticks_per_quarter
    edges = [0]
    end = max(bars[-1], score.length, score.ticks_per_quarter)
    while edges[-1] < end and len(edges) <= _MOST_ROWS:
        place = int(np.searchsorted(bars, edges[-1]))
        following = bars[min(place + _BARS_IN_ROW, len(bars) - 1)] if place < len(bars) - 1 else end
        edges.append(min(following if following > edges[-1] else end, edges[-1] + longest))
    return edges


def _pitch_range(score: Score) -> tuple[float, float]:
    if not len(score.notes):
        return 54.5, 66.5
    low, high = int(score.notes["pitch"].min()), int(score.notes["pitch"].max())
    more = max(0, _LEAST_KEYS - (high - low)) / 2
    return low - 1 - more, high + 1 + more


def _title(score: Score, edges: list[int]) -> str:
    keys = [] if " in " in score.title else [key.name for key in score.key_signatures[:1]]
    metres = [f"{metre.numerator}/{metre.denominator}" for metre in score.time_signatures[:1]]
    tempi = [f"{tempo.quarters_per_minute:.0f} quarters a minute" for tempo in score.tempi[:1]]
    cut = [f"the first {edges[-1] / score.ticks_per_quarter:.0f} of {score.quarters:.0f} quarters"]
    return ", ".join(filter(None, [score.title, *keys, *metres, *tempi, *(cut if edges[-1] < score.length else [])]))


def _legend(figure: "Figure", score: Score) -> None:
    from matplotlib.patches import Patch

    named = [(track, _colour(place)) for place, track in enumerate(score.tracks) if track.name][:10]
    if named:
        patches = [Patch(color=colour, label=shorten(track.name, 24)) for track, colour in named]
        figure.legend(handles=patches, loc="outside upper right", ncols=len(patches), fontsize=8, frameon=False)
