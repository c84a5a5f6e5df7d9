"""The data report: what was found, what was refused and why; as JSON, as a picture, and as text."""

import collections
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from jaxgen.core.errors import printable, tolerate
from jaxgen.core.files import explain_write_errors, write_atomic
from jaxgen.core.pictures import matplotlib_settings, render_figure, shorten
from jaxgen.data.score_report import ScoreFacts, describe_scores, draw_music, music_lines, music_rows
from jaxgen.data.tallies import count, histogram, listed
from jaxgen.features import FeatureSpec, ScoreSpec

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MOST_VALUES = 50  # a field with more values is a name or a text, not a label
_SHOWN_REFUSED = 10
_TICK_LENGTH = 25  # characters
_NAME_LENGTH = 60
_MUCH_WEAKER = 0.1  # of the recording's peak: 20 dB
_MOST_KINDS = 5  # of reasons


class ClipSummary(Protocol):
    """What is said of a clip; see `jaxgen.data.store.StoredClip`."""

    @property
    def split(self) -> str: ...
    @property
    def fields(self) -> Mapping[str, str]: ...
    @property
    def digest(self) -> str: ...
    @property
    def num_samples(self) -> int: ...
    @property
    def source_rate(self) -> int: ...
    @property
    def source_channels(self) -> int: ...
    @property
    def loudness_dbfs(self) -> float: ...
    @property
    def source_peak(self) -> float: ...
    @property
    def peak(self) -> float: ...
    @property
    def music(self) -> ScoreFacts | None: ...
    @property
    def trimmed(self) -> int: ...
    @property
    def streams(self) -> Mapping[str, tuple[int, int]]: ...


def describe(
    clips: Sequence[ClipSummary],
    refused: Sequence[tuple[str, str]],
    features: FeatureSpec,
    sequences: Sequence[str] = (),
) -> dict[str, Any]:
    """A JSON-able report of accepted clips, as the features take them, and of (name, reason) of refused ones.

    sequences: streams, such as a text, that have a length of their own.
    """
    pieces = [clip.music for clip in clips if clip.music is not None]
    if isinstance(features, ScoreSpec):
        lengths, of_its_kind = [piece.seconds for piece in pieces], describe_scores(pieces, features.frames_per_quarter)
    else:
        lengths, of_its_kind = [clip.num_samples / features.sample_rate for clip in clips], _of_sound(clips, features)
    trained = {clip.digest for clip in clips if clip.split == "train"}
    names = sorted({name for clip in clips for name in clip.fields} - {"licence", "split"})
    values = {name: count(clip.fields.get(name, "") for clip in clips) for name in names}
    return {
        "clips": len(clips),
        "is_symbolic": features.is_symbolic,
        "hours": sum(lengths) / 3600,
        "splits": {
            split: {"clips": number, "hours": _hours(clips, lengths, split)}
            for split, number in count(clip.split for clip in clips).items()
        },
        "duplicates": len(clips) - len({clip.digest for clip in clips}),
        "held_out_in_train": sum(clip.split != "train" and clip.digest in trained for clip in clips),
        "licences": count(clip.fields.get("licence", "not stated") for clip in clips),
        "labels": {name: counts for name, counts in values.items() if len(counts) <= _MOST_VALUES},
        "other_fields": [name for name, counts in values.items() if len(counts) > _MOST_VALUES],
        "seconds": histogram(np.array(lengths)),
        **of_its_kind,
        "streams": {name: _lengths([clip.streams[name][1] for clip in clips], lengths) for name in sequences},
        "refused": _listing(refused),
    }


def _of_sound(clips: Sequence[ClipSummary], features: FeatureSpec) -> dict[str, Any]:
    sample_rate = features.sample_rate
    loud = [clip.source_peak for clip in clips if clip.source_peak > 1]
    return {
        "sample_rate_hz": sample_rate,
        "sample_rates_hz": count(str(clip.source_rate) for clip in clips),
        "channels": count(str(clip.source_channels) for clip in clips),
        "resampled": sum(clip.source_rate != sample_rate for clip in clips),
        "channels_taken": features.channels,
        "mixed_down": sum(clip.source_channels > features.channels for clip in clips),
        "duplicated": sum(clip.source_channels < features.channels for clip in clips),
        "weakened": sum(clip.peak < _MUCH_WEAKER * clip.source_peak for clip in clips),
        "above_full_scale": {"clips": len(loud), "peak": max(loud, default=0.0)},
        "loudness_dbfs": histogram(np.array([clip.loudness_dbfs for clip in clips])),
        "trimmed": {
            "clips": sum(clip.trimmed > 0 for clip in clips),
            "seconds": sum(clip.trimmed for clip in clips) / features.sample_rate,
        },
    }


def _lengths(lengths: Sequence[int], seconds: Sequence[float]) -> dict[str, Any]:
    """Of a stream with a length of its own: how many values clips have, and how many a second."""
    counts = np.array(lengths, np.float64)
    return {"values": histogram(counts), "values_a_second": histogram(counts / np.array(seconds))}


def add_refused(report: Mapping[str, Any], others: Sequence[tuple[str, str]]) -> dict[str, Any]:
    """The report with more (name, reason) of what was not read."""
    return {**report, "refused": [*report["refused"], *_listing(others)]}


def _listing(refused: Sequence[tuple[str, str]]) -> list[dict[str, str]]:
    return [{"name": name, "reason": reason} for name, reason in refused]


def count_kinds(reasons: Iterable[str]) -> str:
    """How often there is each kind of reason, the most frequent first, without what they say of single files."""
    kinds = collections.Counter(re.split("[:;(]", reason)[0].strip() for reason in reasons).most_common()
    rest = sum(count for _, count in kinds[_MOST_KINDS:])
    return ", ".join([f"{count} {kind}" for kind, count in kinds[:_MOST_KINDS]] + [f"{rest} others"] * (rest > 0))


def summary(report: Mapping[str, Any]) -> str:
    """The report as lines for a terminal."""
    refused, unit = report["refused"], "pieces" if report["is_symbolic"] else "clips"
    splits = ", ".join(f"{name} {s['clips']} ({s['hours']:.2f} h)" for name, s in report["splits"].items())
    lines = [
        f"{report['clips']} {unit}, {report['hours']:.2f} h: {splits}",
        *(music_lines(report) if report["is_symbolic"] else _sound_lines(report)),
        *(_said_of(name, stream) for name, stream in report["streams"].items()),
        f"licences: {listed(report['licences'])}",
        *(f"{name}: {listed(counts)}" for name, counts in report["labels"].items()),
        *([] if report["is_symbolic"] else _sound_warnings(report)),
    ]
    if "validation" not in report["splits"]:
        lines.append("warning: no validation clip; see --data.validation")
    if report["duplicates"]:
        lines.append(f"duplicates: {report['duplicates']} {unit} have the content of another")
    if report["held_out_in_train"]:
        lines.append(f"warning: {report['held_out_in_train']} held-out {unit} have the content of a training clip")
    why = count_kinds(entry["reason"] for entry in refused)
    lines.append(f"refused or left out: {len(refused)}{why and f' ({why})'}")
    lines += [f"  {entry['name']}: {entry['reason']}" for entry in refused[:_SHOWN_REFUSED]]
    if len(refused) > _SHOWN_REFUSED:
        lines.append(f"  and {len(refused) - _SHOWN_REFUSED} more in data_report.json")
    return "\n".join(map(printable, lines))


def _sound_lines(report: Mapping[str, Any]) -> list[str]:
    seconds, loudness, cut = report["seconds"], report["loudness_dbfs"], report["trimmed"]
    return [
        f"length: {seconds['min']:.2f} to {seconds['max']:.2f} s, median {seconds['median']:.2f} s",
        f"sample rates (Hz): {listed(report['sample_rates_hz'])}; {report['resampled']} resampled to "
        f"{report['sample_rate_hz']} Hz",
        f"channels: {listed(report['channels'])}; {_channels_made(report)}",
        f"loudness: {loudness['min']:.1f} to {loudness['max']:.1f} dBFS, median {loudness['median']:.1f} dBFS",
        *([f"quiet ends cut: {cut['seconds']:.1f} s of {cut['clips']} clips"] if cut["clips"] else []),
    ]


def _sound_warnings(report: Mapping[str, Any]) -> list[str]:
    rate, loud, lines = report["sample_rate_hz"], report["above_full_scale"], list[str]()
    if lower := sum(number for name, number in report["sample_rates_hz"].items() if int(name) < rate):
        lines.append(f"warning: {lower} of the clips have lower rates and hold nothing above half of them")
    if report["weakened"]:
        lines.append(
            f"warning: {report['weakened']} of the clips lost over 20 dB of their peak when mixed down or resampled"
        )
    if loud["clips"]:
        lines.append(
            f"above full scale: {loud['clips']} of the clips, up to {loud['peak']:.2f}; what is made ends at 1.00"
        )
    return lines


def _said_of(name: str, stream: Mapping[str, Any]) -> str:
    values, rate = stream["values"], stream["values_a_second"]
    return (
        f"{name}: {values['min']:.0f} to {values['max']:.0f} values, median {values['median']:.0f}; "
        f"{rate['min']:.1f} to {rate['max']:.1f} a second, median {rate['median']:.1f}"
    )


def _channels_made(report: Mapping[str, Any]) -> str:
    if report["channels_taken"] == 1:
        return f"{report['mixed_down']} mixed down"
    cut = f", {report['mixed_down']} cut to two" if report["mixed_down"] else ""
    return f"stereo, {report['duplicated']} of them mono made both channels{cut}"


def write(report: Mapping[str, Any], directory: Path) -> None:
    """Writes data_report.json and its picture, data_report.png. Raises UserError where it cannot write the former; that
    there is no picture is told.
    """
    with explain_write_errors(directory):
        directory.mkdir(parents=True, exist_ok=True)
    write_atomic(directory / "data_report.json", json.dumps(report, indent=2) + "\n")
    with tolerate("draw data_report.png", "data_report.json has all figures"):
        write_atomic(directory / "data_report.png", _picture(report))


@matplotlib_settings()
def _picture(report: Mapping[str, Any]) -> bytes:
    """Figures of the clips and the counts of each label, as the bytes of a PNG file."""
    from matplotlib.figure import Figure  # slow to import

    labels = {name: counts for name, counts in report["labels"].items() if len(counts) > 1}
    above = music_rows(report) if report["is_symbolic"] else 1
    rows = above + -(-len(labels) // 2)
    figure = Figure(figsize=(11, 1.2 + 1.8 * rows), layout="constrained")
    grid = figure.add_gridspec(rows, 2)
    (draw_music if report["is_symbolic"] else _draw_sound)(figure, grid, report)
    for place, (name, counts) in enumerate(labels.items()):
        axis = figure.add_subplot(grid[above + place // 2, place % 2])
        ticks = [shorten(value, _TICK_LENGTH) for value in counts]
        upright = sum(map(len, ticks)) > 60
        axis.bar(range(len(counts)), list(counts.values()), color="#72b7b2")
        axis.set_xticks(range(len(counts)), ticks, rotation=90 if upright else 0)
        axis.set_xlabel(shorten(name, _NAME_LENGTH))
        axis.set_ylabel("clips")
    unit = "pieces" if report["is_symbolic"] else "clips"
    licences = f"\nlicences: {shorten(listed(report['licences']), 120)}" if report["is_symbolic"] else ""
    figure.suptitle(f"{report['clips']} {unit}, {report['hours']:.2f} h, {len(report['refused'])} refused{licences}")
    return render_figure(figure, dpi=100)


def _draw_sound(figure: "Figure", grid: Any, report: Mapping[str, Any]) -> None:
    for column, (name, label) in enumerate((("seconds", "length (s)"), ("loudness_dbfs", "loudness (dBFS, RMS)"))):
        axis, found = figure.add_subplot(grid[0, column]), report[name]
        axis.stairs(found["counts"], found["edges"], fill=True, color="#4c78a8")
        axis.set(xlabel=label, ylabel="clips")


def _hours(clips: Sequence[ClipSummary], seconds: Sequence[float], split: str) -> float:
    return sum(length for clip, length in zip(clips, seconds, strict=True) if clip.split == split) / 3600
