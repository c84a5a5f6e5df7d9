"""What a run tells: metrics.jsonl for scripts, TensorBoard for looking, a progress bar for waiting."""

import contextlib
import json
import math
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self, TypeVar

import jax
import numpy as np
from tqdm import tqdm

from jaxgen.errors import Diverged, UserError
from jaxgen.evaluation.plots import spectrogram_image
from jaxgen.files import append_whole, write_whole, writing
from jaxgen.training.board import Board
from jaxgen.training.distributed import from_first

T = TypeVar("T")

_ROWS_OF_WORRY = 10
_MOST_MEANT = 1_000  # updates that means are taken over


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The rows of a metrics.jsonl; none where the file is not there. Lines that are damaged, or cut short by a crash, are
    left out.
    """
    if not path.exists():
        return []
    rows = []
    for line in path.read_text(encoding="utf-8", errors="replace").split("\n")[:-1]:
        with contextlib.suppress(ValueError):
            row = json.loads(line)
            if isinstance(row, dict) and isinstance(row.get("step"), int) and "split" in row:
                rows.append(row)
    return rows


class Telemetry:
    """Records a run from `start` steps on; rows of later steps, from a run that was killed, are taken out first.

    Rows of metrics.jsonl hold no times, so that a resumed run writes the same file as one that was never stopped.
    skipped_in_row: updates that were skipped at the end of what is done. must_write: whether a disk that is full ends
    the run; else rows wait in memory until there is room. concern: what is wrong with a training whose updates have these
    metrics, means from one train row to the next; it is told where there is something ten times after each other.
    """

    def __init__(
        self,
        workdir: Path,
        *,
        start: int,
        steps: int,
        log_every: int,
        seconds_per_step: float,
        skipped_in_row: int = 0,
        must_write: bool = True,
        concern: Callable[[Mapping[str, float]], str] = lambda _: "",
    ):
        self.skipped_in_row = skipped_in_row
        self._concern, self._worried = concern, 0
        self._since_row: deque[dict[str, float]] = deque(maxlen=_MOST_MEANT)
        self._must_write, self._told_full = must_write, False
        self._unwritten: list[str] = []
        self.path = workdir / "metrics.jsonl"
        self.history = from_first(lambda: [row for row in read_metrics(self.path) if row["step"] <= start])
        self._workdir, self._start = workdir, start
        self._log_every, self._seconds_per_step = log_every, seconds_per_step
        with writing(workdir):
            write_whole(self.path, "".join(json.dumps(row) + "\n" for row in self.history))
            self._file = self.path.open("ab", buffering=0)
        self._bar = tqdm(
            total=steps,
            initial=start,
            unit="step",
            dynamic_ncols=True,
            mininterval=0.2 if sys.stderr.isatty() else 10.0,
        )
        self._board = Board(workdir / "tensorboard", start)
        self._pending: tuple[int, Mapping[str, jax.Array]] | None = None
        self._window = _Window()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()
        self._board.close()
        self._file.close()

    def waiting(self, items: Iterator[T]) -> Iterator[T]:
        """The items, which are data to train on; the time that each is waited for is counted."""
        while True:
            started = time.perf_counter()
            item = next(items, None)
            self._window.waited += time.perf_counter() - started
            if item is None:
                return
            yield item

    def record(self, step: int, metrics: Mapping[str, jax.Array]) -> None:
        """Takes the metrics [N] of a call that ends with `step`, as they are on the device; those of the call before
        are read and written.
        """
        self.flush()
        self._pending = step, metrics
        self._bar.update(len(metrics["loss"]))

    def flush(self) -> None:
        """Reads and writes the metrics still on the device, and rows that the disk had no room for."""
        if self._unwritten:
            self._writing(self._write_rows)
        if self._pending is None:
            return
        last, on_device = self._pending
        self._pending = None
        columns = {name: np.asarray(values).tolist() for name, values in on_device.items()}
        for back, values in enumerate(zip(*columns.values(), strict=True), start=1 - len(columns["loss"])):
            self._recorded(last + back, dict(zip(columns, values, strict=True)))

    def _recorded(self, step: int, metrics: dict[str, float]) -> None:
        self.skipped_in_row = int(metrics["skipped_in_row"])
        if self.skipped_in_row:
            self.tell(
                f"step {step}: update skipped, {self.skipped_in_row} in a row (loss {metrics['loss']:.4g}, "
                f"gradient norm {metrics['gradient_norm']:.4g})"
            )
        self._since_row.append(metrics)
        if step % self._log_every == 0:
            self._log(step, metrics)
            self._since_row.clear()

    def tell(self, message: str) -> None:
        """Says something on stderr, above the progress bar."""
        self._bar.write(message, file=sys.stderr)

    def validated(self, step: int, metrics: Mapping[str, float]) -> None:
        """Writes the figures of a validation. Raises Diverged where the loss is not finite."""
        self.flush()
        if not math.isfinite(metrics["loss"]):
            raise Diverged(
                f"training diverged: the validation loss at step {step} is {metrics['loss']}; lower "
                "the learning rate and start again in another --workdir."
            )
        self._write({"step": step, "split": "validation", **metrics})
        self._scalars(step, "validation", metrics)
        train = next((row.get("loss", math.nan) for row in reversed(self.history) if row["split"] == "train"), math.nan)
        self.tell(f"step {step}: validation loss {metrics['loss']:.4f}, training loss {train:.4f}")
        self._window = _Window()

    def heard(self, step: int, clips: Sequence[np.ndarray], sample_rate: int) -> None:
        """Puts generated clips, float32 [nsamp] each, and their spectrograms into TensorBoard."""
        for index, clip in enumerate(clips):
            image = spectrogram_image(clip, sample_rate)
            self._writing(self._board.audio, f"generated/{index}", clip, sample_rate, step)
            self._writing(self._board.image, f"generated/{index}", image, step)

    def _log(self, step: int, metrics: dict[str, float]) -> None:
        self._write({"step": step, "split": "train", **metrics})
        found = self._concern(_means(self._since_row))
        self._worried = self._worried + 1 if found else 0
        if self._worried == _ROWS_OF_WORRY:
            self.tell(f"step {step}: {found}")
        steps_per_second, waiting = self._window.rates(step)
        audio = steps_per_second * self._seconds_per_step
        self._scalars(step, "train", metrics)
        if steps_per_second:
            rates = {
                "steps_per_second": steps_per_second,
                "audio_seconds_per_second": audio,
                "data_wait_share": waiting,
            }
            self._scalars(step, "speed", rates)
            skipped = f", {metrics['skipped']:.0f} updates skipped" if metrics["skipped"] else ""
            self._bar.set_postfix_str(
                f"loss {metrics['loss']:.3f}, {audio:.0f} s audio/s, data wait {waiting:.0%}{skipped}"
            )

    def _write(self, row: dict[str, Any]) -> None:
        row = {name: value for name, value in row.items() if not isinstance(value, float) or math.isfinite(value)}
        self.history.append(row)
        self._unwritten.append(json.dumps(row) + "\n")
        self._writing(self._write_rows)

    def _write_rows(self) -> None:
        with writing(self.path):
            append_whole(self._file, "".join(self._unwritten).encode())
        self._unwritten.clear()

    def _writing(self, write: Callable[..., None], *arguments: Any) -> None:
        """Writes; a disk that is full ends the run, or is told once, by policy."""
        try:
            write(*arguments)
        except UserError as error:
            if self._must_write:
                raise
            if not self._told_full:
                self.tell(f"jaxgen: {error} Training goes on.")
            self._told_full = True
        else:
            self._told_full = False

    def _scalars(self, step: int, group: str, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            if math.isfinite(value):
                self._writing(self._board.scalar, f"{group}/{name}", value, step)


def _means(rows: deque[dict[str, float]]) -> dict[str, float]:
    """Means of the values that are finite; NaN where none is."""
    known = {name: [row[name] for row in rows if math.isfinite(row[name])] for name in rows[0]}
    return {name: sum(values) / len(values) if values else math.nan for name, values in known.items()}


class _Window:
    """Rates since the last log line; validations are not counted."""

    def __init__(self) -> None:
        self.waited = 0.0
        self._step: int | None = None
        self._start = time.perf_counter()

    def rates(self, step: int) -> tuple[float, float]:
        """Steps per second and the share of time waiting for data; zeros for the first line, which holds compilation."""
        now = time.perf_counter()
        elapsed, first = now - self._start, self._step is None
        rate, share = (0.0, 0.0) if first else ((step - (self._step or 0)) / elapsed, self.waited / elapsed)
        self._step, self._start, self.waited = step, now, 0.0
        return rate, share
