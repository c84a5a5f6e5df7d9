"""What the data report says of written music: keys, ranges, metres, tempi, lengths, and what the grid moved."""

import collections
import dataclasses
import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxgen.core.pictures import shorten
from jaxgen.data.tallies import histogram
from jaxgen.scores.analysis import measure_score
from jaxgen.scores.estimation import estimate_key
from jaxgen.scores.picture import draw_notes, pitch_name
from jaxgen.scores.score import GridError, KeySignature, Score, Track, bar_starts, crop_ticks, make_notes

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NOT_STATED = "not stated"
_EXCERPT_QUARTERS = 64  # of a piece that is drawn
_MOST_VOICES = 8  # whose ranges are told one by one
_MOST_VALUES = 8  # in a line
_MOST_COLUMNS = 24  # of a picture


@dataclasses.dataclass(frozen=True)
class ScoreFacts:
    """What is known of a piece, before the features choose what they take of it."""

    tracks: tuple[tuple[str, int, int], ...]
    """(name, lowest, highest MIDI pitch) of each track that has notes."""
    key: str
    """Estimated, as "G major"."""
    metre: str
    """The first that the piece states, as "3/4", or NOT_STATED."""
    quarters_per_minute: float | None
    """The first tempo that it states."""
    bars: int
    seconds: float
    """By its tempi; where it states none, by that of the features."""
    polyphony: float
    """Notes that sound together, on average while any does."""
    shifted_share: float
    """Share of the notes that the grid moved so far that it is heard (`GridError.shifted_share`)."""
    largest_shift: float
    """Quarters by which a note's beginning was moved, at most."""


def facts_of(score: Score, error: GridError, quarters_per_minute: float) -> ScoreFacts:
    """Facts of a score with notes, which is on the grid. error: of putting it there. quarters_per_minute: of the features."""
    notes, key, figures = score.notes, estimate_key(score), measure_score(score)
    pitches = [(track.name, notes["pitch"][notes["track"] == place]) for place, track in enumerate(score.tracks)]
    return ScoreFacts(
        tracks=tuple((name, int(each.min()), int(each.max())) for name, each in pitches if len(each)),
        key="none" if key is None else KeySignature(0, key.tonic, key.minor).name,
        metre=next((f"{each.numerator}/{each.denominator}" for each in score.time_signatures), NOT_STATED),
        quarters_per_minute=next((tempo.quarters_per_minute for tempo in score.tempi), None),
        bars=len(bar_starts(score)) - 1,
        seconds=score.seconds if score.tempi else score.quarters * 60 / quarters_per_minute,
        polyphony=0.0 if figures is None else figures.polyphony,
        shifted_share=error.shifted_share,
        largest_shift=error.largest_shift,
    )


def describe_scores(pieces: Sequence[ScoreFacts], frames_per_quarter: int) -> dict[str, Any]:
    """The JSON-able part of a report that is about written music."""
    tempi = np.array([piece.quarters_per_minute for piece in pieces if piece.quarters_per_minute is not None])
    shifted = [piece for piece in pieces if piece.shifted_share]
    return {
        "keys_estimated": _most_frequent(piece.key for piece in pieces),
        "metres": _most_frequent(piece.metre for piece in pieces),
        "quarters_per_minute": {"not_stated": len(pieces) - len(tempi), **(histogram(tempi) if len(tempi) else {})},
        "bars": histogram(np.array([piece.bars for piece in pieces])),
        "polyphony": histogram(np.array([piece.polyphony for piece in pieces])),
        "pitch_ranges": _ranges(pieces),
        "grid": {
            "frames_per_quarter": frames_per_quarter,
            "pieces_shifted": len(shifted),
            "shifted_share": float(np.mean([piece.shifted_share for piece in shifted])) if shifted else 0.0,
            "largest_shift_quarters": max((piece.largest_shift for piece in pieces), default=0.0),
        },
    }


def _ranges(pieces: Sequence[ScoreFacts]) -> dict[str, dict[str, int]]:
    """Lowest and highest pitch of all tracks and, where no piece has many, of the first, second ... track."""
    named = [("all", track) for piece in pieces for track in piece.tracks]
    most = max(len(piece.tracks) for piece in pieces)
    if 1 < most <= _MOST_VOICES:
        for place in range(most):
            there = [piece.tracks[place] for piece in pieces if place < len(piece.tracks)]
            name, count = collections.Counter(name for name, _, _ in there).most_common(1)[0]
            title = f"track {place + 1}" + (f" ({name})" if name and 2 * count > len(there) else "")
            named += [(title, track) for track in there]
    return {
        title: {
            "lowest": min(low for each, (_, low, _) in named if each == title),
            "highest": max(high for each, (_, _, high) in named if each == title),
        }
        for title in dict.fromkeys(title for title, _ in named)
    }


def excerpt(name: str, score: Score) -> dict[str, Any]:
    """The beginning of a piece as JSON: its tracks, and (onset, duration, pitch, track) of its notes in ticks."""
    stop = min(score.length, _EXCERPT_QUARTERS * score.ticks_per_quarter)
    notes = crop_ticks(score, 0, stop).notes
    columns = [notes[column].tolist() for column in ("onset", "duration", "pitch", "track")]
    return {
        "name": name,
        "ticks_per_quarter": score.ticks_per_quarter,
        "length": stop,
        "tracks": [track.name for track in score.tracks],
        "notes": [list(note) for note in zip(*columns, strict=True)],
    }


def music_lines(report: Mapping[str, Any]) -> list[str]:
    """Lines for a terminal."""
    bars, seconds, polyphony = report["bars"], report["seconds"], report["polyphony"]
    tempi, grid = report["quarters_per_minute"], report["grid"]
    told = [f"{tempi['min']:.0f} to {tempi['max']:.0f}, median {tempi['median']:.0f}"] if "median" in tempi else []
    told += [f"{NOT_STATED} {tempi['not_stated']}"] if tempi["not_stated"] else []
    ranges = [
        f"{title} {pitch_name(each['lowest'])} to {pitch_name(each['highest'])}"
        for title, each in report["pitch_ranges"].items()
    ]
    lines = [
        f"length: {bars['min']:.0f} to {bars['max']:.0f} bars, median {bars['median']:.0f}; "
        f"{seconds['min']:.1f} to {seconds['max']:.1f} s, median {seconds['median']:.1f} s",
        f"pitches: {', '.join(ranges)}",
        f"notes together: {polyphony['min']:.1f} to {polyphony['max']:.1f} a piece, median {polyphony['median']:.1f}",
        f"keys (estimated): {_first(report['keys_estimated'])}",
        f"metres: {_first(report['metres'])}",
        f"tempi (quarters a minute): {', '.join(told)}",
    ]
    if grid["pieces_shifted"]:
        lines.append(
            f"rhythm: {grid['frames_per_quarter']} frames a quarter change that of {grid['pieces_shifted']} pieces; there "
            f"{grid['shifted_share']:.0%} of the notes begin up to {grid['largest_shift_quarters']:.2f} quarters off "
            "(--features.frames-per-quarter)"
        )
    return lines


def draw_music(figure: "Figure", grid: Any, report: Mapping[str, Any]) -> None:
    """Draws the report's excerpts as piano rolls into the upper rows of a grid of two columns, figures into the lower ones."""
    excerpts = report.get("pieces", [])
    for row, piece in enumerate(excerpts):
        _draw_excerpt(figure.add_subplot(grid[row, :]), piece, is_last=row == len(excerpts) - 1)
    for place, draw in enumerate(_panels(report)):
        draw(figure.add_subplot(grid[len(excerpts) + place // 2, place % 2]))


def music_rows(report: Mapping[str, Any]) -> int:
    """Rows of the grid that `draw_music` needs."""
    return len(report.get("pieces", [])) + -(-len(_panels(report)) // 2)


def _panels(report: Mapping[str, Any]) -> list[Callable[[Any], None]]:
    """What draws each figure on its axes."""
    shown: list[Callable[[Any], None]] = [
        functools.partial(_draw_counts, counts=report["keys_estimated"], label="key (estimated)"),
        functools.partial(_draw_counts, counts=report["metres"], label="metre"),
        functools.partial(_draw_histogram, found=report["bars"], label="length (bars)"),
        functools.partial(_draw_histogram, found=report["seconds"], label="length (s)"),
        functools.partial(_draw_histogram, found=report["polyphony"], label="notes together (mean of a piece)"),
        functools.partial(_draw_ranges, ranges=report["pitch_ranges"]),
    ]
    if "counts" in report["quarters_per_minute"]:
        label = "tempo (quarters a minute)"
        shown.append(functools.partial(_draw_histogram, found=report["quarters_per_minute"], label=label))
    return shown


def _draw_histogram(axis: Any, found: Mapping[str, Any], label: str) -> None:
    axis.stairs(found["counts"], found["edges"], fill=True, color="#4c78a8")
    axis.set(xlabel=label, ylabel="pieces")


def _draw_excerpt(axis: Any, piece: Mapping[str, Any], is_last: bool) -> None:
    columns = zip(*piece["notes"], strict=True)
    onset, duration, pitch, track = map(np.array, columns)
    score = Score(
        make_notes(onset, duration, pitch, 127, track),
        piece["ticks_per_quarter"],
        piece["length"],
        tuple(map(Track, piece["tracks"])),
    )
    draw_notes(axis, score, 0, score.length, _EXCERPT_QUARTERS * score.ticks_per_quarter)
    axis.set_title(shorten(piece["name"], 60), fontsize=9, loc="left")
    ticks = range(0, _EXCERPT_QUARTERS + 1, 4)
    axis.set_xticks([tick * score.ticks_per_quarter for tick in ticks], [str(tick) for tick in ticks])
    if is_last:
        axis.set_xlabel("quarters")


def _draw_counts(axis: Any, counts: Mapping[str, int], label: str) -> None:
    shown = dict(list(counts.items())[:_MOST_COLUMNS])
    if rest := sum(counts.values()) - sum(shown.values()):
        shown["others"] = rest
    axis.bar(range(len(shown)), list(shown.values()), color="#72b7b2")
    axis.set_xticks(
        range(len(shown)), [shorten(name, 20) for name in shown], rotation=90 if sum(map(len, shown)) > 60 else 0
    )
    axis.set(xlabel=label, ylabel="pieces")


def _draw_ranges(axis: Any, ranges: Mapping[str, Mapping[str, int]]) -> None:
    low, high = ([each[end] for each in ranges.values()] for end in ("lowest", "highest"))
    places = np.arange(len(ranges))[::-1]
    axis.barh(places, 1 + np.subtract(high, low), left=np.subtract(low, 0.5), height=0.6, color="#e9a15b")
    axis.set_yticks(places, [shorten(title, 24) for title in ranges])
    octaves = range(12 * (min(low) // 12), max(high) + 12, 12)
    axis.set_xticks(octaves, [pitch_name(pitch) for pitch in octaves])
    axis.set_xlabel("pitch range")


def _most_frequent(values: Iterable[str]) -> dict[str, int]:
    """Counts, the most frequent first, those of equal ones by value."""
    return dict(sorted(collections.Counter(values).items(), key=lambda each: (-each[1], each[0])))


def _first(counts: Mapping[str, int]) -> str:
    shown = [f"{name} {count}" for name, count in list(counts.items())[:_MOST_VALUES]]
    rest = sum(list(counts.values())[_MOST_VALUES:])
    return ", ".join([*shown, *([f"others {rest}"] if rest else [])])
