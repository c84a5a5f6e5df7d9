"""Pictures for reports and TensorBoard: spectrograms and training curves. matplotlib is imported on first use."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from jaxgen.core.pictures import matplotlib_settings, render_figure, shorten
from jaxgen.evaluation.metrics import FLOOR_DB, FRAME_SECONDS, Samples, log_mel_db

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Values = NDArray[np.float64]

_N_MELS = 80
_RANGE_DB = 70.0
_QUIETEST_TOP_DB = -40.0  # colours reach down from the loudest level, but faint noise must not be painted as loud
_MOST_COLUMNS = 1024
_LONGEST_TITLE = 36  # characters
_LONGEST_TICK = 24
_COLOURS = "magma"
_TRAIN, _VALIDATION = "#4c78a8", "#e45756"
_DPI = 110


@matplotlib_settings()
def spectrogram_grid(
    clips: Sequence[tuple[str, Samples]],
    sample_rate: int,
    *,
    columns: int = 4,
    title: str = "",
    beside: Sequence[Samples] = (),
) -> "Figure":
    """Log-mel spectrograms side by side, on one time axis, one frequency axis and one colour scale.

    clips: (name, float32 [nsamp], full scale 1.0) at `sample_rate` Hz; NaN and infinity are drawn as silence.
    beside: clips of another grid that this one stands beside; give each the other's and their scales are the same.
    """
    from matplotlib.figure import Figure

    columns = max(1, min(columns, len(clips)))
    rows = max(1, math.ceil(len(clips) / columns))
    levels = [_levels(samples, sample_rate) for _, samples in clips]
    bottom, top = _colour_range([*levels, *(_levels(samples, sample_rate) for samples in beside)])
    longest = max([*(len(samples) for _, samples in clips), *map(len, beside), 1])
    figure = Figure(figsize=(0.8 + 2.7 * columns, 0.7 + 1.7 * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
    image = None
    for place, ((name, samples), level) in enumerate(zip(clips, levels, strict=True)):
        axis = axes.flat[place]
        image = axis.imshow(
            level.T,
            origin="lower",
            aspect="auto",
            interpolation="nearest",
            cmap=_COLOURS,
            vmin=bottom,
            vmax=top,
            extent=(0, max(len(samples) / sample_rate, FRAME_SECONDS), 0, _N_MELS),
        )
        axis.set_title(shorten(name, _LONGEST_TITLE), fontsize=8)
        axis.tick_params(labelsize=7, labelbottom=place + columns >= len(clips))
        axis.set_facecolor("0.9")  # where this clip has ended and another goes on
    for axis in axes.flat[len(clips) :]:
        axis.set_visible(False)
    _hertz(axes[0, 0], sample_rate)
    axes[0, 0].set_xlim(0, longest / sample_rate)
    figure.supxlabel("time in s", fontsize=8)
    figure.supylabel("frequency in Hz (mel scale)", fontsize=8)
    if image is not None:
        bar = figure.colorbar(image, ax=axes, aspect=15 * rows, pad=0.01)
        bar.set_label("dB, full-scale sine = 0", fontsize=8)
        bar.ax.tick_params(labelsize=7)
    if title:
        figure.suptitle(shorten(title, columns * _LONGEST_TITLE), fontsize=10)
    return figure


@matplotlib_settings()
def spectrogram_mosaic(
    rows: Sequence[str],
    columns: Sequence[str],
    cells: Mapping[tuple[str, str], Sequence[Samples]],
    sample_rate: int,
) -> "Figure":
    """Small log-mel spectrograms by row and column on one time axis and colour scale, those of a cell above each other.

    cells: by (row, column), each float32 [nsamp] at `sample_rate` Hz; a cell may be missing, or have fewer clips.
    """
    from matplotlib.figure import Figure

    levels = {place: [_levels(clip, sample_rate)[:, ::2] for clip in clips] for place, clips in cells.items()}
    every = [level for stack in levels.values() for level in stack]
    bottom, top = _colour_range(every)
    height, width, deep = _N_MELS // 2, max(map(len, every)), max(map(len, levels.values()))
    tall, wide = deep * height + 6, width + 3
    canvas = np.full((len(rows) * tall, len(columns) * wide), np.nan, np.float32)
    for (row, column), stack in levels.items():
        y, x = rows.index(row) * tall, columns.index(column) * wide
        for above, level in enumerate(stack):
            start = y + above * (height + 1)
            canvas[start : start + height, x : x + len(level)] = level.T[::-1]
    figure = Figure(figsize=(10, 0.6 + min(20.0, 0.95 * len(rows))), layout="constrained")
    axis = figure.subplots()
    axis.imshow(canvas, cmap=_COLOURS, vmin=bottom, vmax=top, aspect="auto", interpolation="nearest")
    axis.set_facecolor("0.9")
    axis.set_xticks(
        (np.arange(len(columns)) + 0.5) * wide, [shorten(name, _LONGEST_TICK) for name in columns], fontsize=8
    )
    axis.set_yticks((np.arange(len(rows)) + 0.5) * tall, [shorten(name, _LONGEST_TICK) for name in rows], fontsize=8)
    axis.tick_params(length=0, top=False, labeltop=True, labelbottom=False)
    axis.set_xlabel(f"a column is {width * FRAME_SECONDS:.2f} s wide; 0 to {sample_rate / 2:,.0f} Hz", fontsize=8)
    return figure


def spectrogram_image(samples: Samples, sample_rate: int) -> NDArray[np.uint8]:
    """Log-mel spectrogram without axes, for TensorBoard: time to the right, low frequencies at the bottom.

    samples: float32 [nsamp], full scale 1.0; NaN and infinity are drawn as silence.
    Returns uint8 [160, W, 3]; two columns every 10 ms up to 10 s, the loudest of neighbours beyond.
    """
    levels = _levels(samples, sample_rate)
    levels = np.maximum.reduceat(levels, np.arange(0, len(levels), math.ceil(len(levels) / _MOST_COLUMNS)))
    bottom, top = _colour_range([levels])
    scaled = np.clip((levels - bottom) / (top - bottom), 0, 1)
    with matplotlib_settings() as matplotlib:
        pixels = matplotlib.colormaps[_COLOURS](scaled.T[::-1], bytes=True)[..., :3]
    return np.ascontiguousarray(pixels.repeat(2, axis=0).repeat(2, axis=1))


@matplotlib_settings()
def training_curves(rows: Sequence[Mapping[str, Any]], metric: str, title: str = "") -> "Figure":
    """Training and validation values of a metric that is better when lower, the gap between them, the best validation.

    rows: of metrics.jsonl, each with `step`, `split` ("train" or "validation") and metrics by name. Rows without the
    metric, and values that are not finite, are left out. Training values are drawn faint, their centred moving average
    over a twentieth of the run on top; the shaded gap is validation minus that average. title: of the metric, with its unit.
    """
    from matplotlib.figure import Figure

    steps, values = _series(rows, "train", metric)
    valid_steps, valid_values = _series(rows, "validation", metric)
    figure = Figure(figsize=(7, 3.6), layout="constrained")
    axis = figure.subplots()
    if len(steps):
        smooth = _moving_average(values, max(1, len(values) // 20))
        axis.plot(steps, values, color=_TRAIN, alpha=0.25, linewidth=0.8)
        axis.plot(steps, smooth, color=_TRAIN, linewidth=1.5, label="train, smoothed")
    if len(valid_steps):
        axis.plot(valid_steps, valid_values, color=_VALIDATION, marker="o", markersize=3, label="validation")
        best = int(np.argmin(valid_values))
        label = f"best {valid_values[best]:.4g} at step {valid_steps[best]:,.0f}"
        axis.axvline(valid_steps[best], color="0.5", linewidth=0.8, linestyle=":")
        axis.plot(valid_steps[best], valid_values[best], "*", color=_VALIDATION, markersize=11, label=label)
    if len(steps) and len(valid_steps):
        both = np.union1d(steps, valid_steps)
        both = both[(both >= valid_steps[0]) & (both <= valid_steps[-1])]
        train_there, valid_there = np.interp(both, steps, smooth), np.interp(both, valid_steps, valid_values)
        label = f"gap, {valid_there[-1] - train_there[-1]:+.3g} at the end"
        axis.fill_between(both, train_there, valid_there, color=_VALIDATION, alpha=0.12, linewidth=0, label=label)
    if len(steps) + len(valid_steps):
        axis.set_ylim(*_limits(values, valid_values))
        axis.legend(fontsize=8, frameon=False)
    axis.set_xlabel("step", fontsize=9)
    axis.set_ylabel(title or metric, fontsize=9)
    axis.tick_params(labelsize=8)
    axis.grid(color="0.9", linewidth=0.6)
    axis.spines[["top", "right"]].set_visible(False)
    return figure


def png(figure: "Figure") -> bytes:
    """The figure as a PNG file; the same figure gives the same bytes."""
    return render_figure(figure, dpi=_DPI)


def _levels(samples: Samples, sample_rate: int) -> NDArray[np.float32]:
    finite = np.nan_to_num(np.asarray(samples, np.float32), nan=0.0, posinf=0.0, neginf=0.0)
    return log_mel_db(finite, sample_rate, _N_MELS)


def _colour_range(levels: Sequence[NDArray[np.float32]]) -> tuple[float, float]:
    """The darkest and brightest level in dB."""
    top = max([_QUIETEST_TOP_DB, *(float(level.max()) for level in levels)])
    return max(top - _RANGE_DB, FLOOR_DB), top


def _hertz(axis: "Axes", sample_rate: int) -> None:
    """Labels mel bands in Hz at round frequencies."""
    import librosa

    centres = librosa.mel_frequencies(_N_MELS + 2, fmin=0.0, fmax=sample_rate / 2)[1:-1]
    ticks = [hertz for hertz in (250, 500, 1000, 2000, 4000, 8000, 16000) if hertz <= centres[-1]]
    axis.set_yticks(np.interp(ticks, centres, np.arange(_N_MELS) + 0.5), [f"{hertz:,}" for hertz in ticks])
    axis.set_ylim(0, _N_MELS)


def _series(rows: Sequence[Mapping[str, Any]], split: str, metric: str) -> tuple[Values, Values]:
    pairs = [(row["step"], row[metric]) for row in rows if row.get("split") == split and row.get(metric) is not None]
    steps, values = np.array(sorted(pairs), np.float64).reshape(-1, 2).T
    finite = np.isfinite(values)
    return steps[finite], values[finite]


def _moving_average(values: Values, width: int) -> Values:
    """Mean over a centred window that shrinks at the ends."""
    sums = np.concatenate([[0.0], np.cumsum(values)])
    places = np.arange(len(values))
    reach = np.minimum(np.minimum(places, places[::-1]), width // 2)
    return (sums[places + reach + 1] - sums[places - reach]) / (2 * reach + 1)


def _limits(train: Values, validation: Values) -> tuple[float, float]:
    """Room for all values but the highest few of training, which are the first steps and spikes."""
    lowest = min([*train, *validation])
    highest = max([*(np.percentile(train, [97]) if len(train) else []), *validation])
    room = 0.05 * (highest - lowest) or 0.05 * abs(highest) or 1.0
    return lowest - room, highest + room
