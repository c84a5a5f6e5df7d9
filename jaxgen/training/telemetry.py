"""What a run tells: metrics.jsonl for scripts, loggers for looking, a progress bar for waiting."""

import contextlib
import hashlib
import json
import math
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self, TypeVar

import jax
import numpy as np
from tqdm import tqdm

from jaxgen.core.errors import Diverged, UserError, say, tolerate
from jaxgen.core.files import append_atomic, explain_write_errors, read_regular, write_atomic
from jaxgen.evaluation.plots import spectrogram_image
from jaxgen.loggers import Logger, RunDescription
from jaxgen.loggers.threads import LoggerThreads
from jaxgen.training.distributed import broadcast_from_first

T = TypeVar("T")

_ROWS_OF_WORRY = 10
_MOST_MEANT = 1_000  # updates that means are taken over
_MOST_KEPT = 1_000  # validations in a checkpoint


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The rows of a metrics.jsonl; none where the file is not there. Lines that are damaged, or cut short by a crash, are
    left out. Raises UserError for a file that cannot be read.
    """
    try:
        lines = read_regular(path).decode(errors="replace").split("\n")[:-1]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise UserError(
            f"cannot read '{path}' ({error.strerror or error}); mend that, or move the file away."
        ) from None
    rows = []
    for line in lines:
        with contextlib.suppress(ValueError, OverflowError, RecursionError):
            row = json.loads(line)
            if _is_row(row):
                rows.append(row)
    return rows


def restore_rows(rows: list[dict[str, Any]], saved: Mapping[str, Any], path: Path) -> list[dict[str, Any]]:
    """The rows of a metrics.jsonl up to a checkpoint, in order, with the validations that the checkpoint has kept; what is
    restored or lost is told. saved: what `Telemetry.get_state` gave for that checkpoint.
    """
    train, found = ([row for row in rows if row["split"] == split] for split in ("train", "validation"))
    validations = list(saved["validations"])
    if len(validations) == _MOST_KEPT:
        validations = [row for row in found if row["step"] < validations[0]["step"]] + validations
    if validations != found:
        count = len([row for row in validations if row not in found])
        say(f"jaxgen: '{path}' was damaged: validations are those of the checkpoint, {count} were lost or changed")
    if _digest(train).hexdigest() != saved["train_sha256"]:
        count = saved["train_rows"]
        change = (
            f"{count - len(train)} of {count} training rows are lost" if len(train) < count else "rows were changed"
        )
        say(f"jaxgen: '{path}' was damaged: {change}; they cannot be restored")
    return sorted(train + validations, key=lambda row: (row["step"], row["split"] == "validation"))


def check_state(saved: Any) -> None:
    """Raises TypeError for what `Telemetry.get_state` never gives: a checkpoint may be a stranger's."""
    types = {"validations": list, "train_rows": int, "train_sha256": str}
    if not isinstance(saved, dict) or {name: type(value) for name, value in saved.items()} != types:
        raise TypeError(f"its history is none of {', '.join(types)}")
    if not all(map(_is_row, saved["validations"])):
        raise TypeError("its validations are no rows of figures")


def _is_row(row: Any) -> bool:
    """Whether this is what `Telemetry` writes: a step, a split, and finite numbers."""
    return (
        isinstance(row, dict)
        and type(row.get("step")) is int
        and row.get("split") in ("train", "validation")
        and all(type(value) in (int, float) and math.isfinite(value) for name, value in row.items() if name != "split")
    )


class Telemetry:
    """Records a run from `start` steps on; rows of later steps, from a run that was killed, are taken out first.

    Rows of metrics.jsonl hold no times, so that a resumed run writes the same file as one that was never stopped.
    saved: what `get_state` gave when the checkpoint of `start` was saved; what the file has lost since is restored, or told.
    skipped_in_row: updates that were skipped at the end of what is done. must_write: whether a disk that is full ends
    the run; else rows wait in memory until there is room. concern: what is wrong with a training whose updates have these
    metrics, means from one train row to the next; it is told where there is something ten times after each other.
    loggers: where else all goes. config: what they are told of the run, as JSON.
    """

    def __init__(
        self,
        workdir: Path,
        *,
        start: int,
        saved: Mapping[str, Any] | None = None,
        steps: int,
        log_every: int,
        seconds_per_step: float,
        skipped_in_row: int = 0,
        must_write: bool = True,
        diagnose: Callable[[Mapping[str, float]], str] = lambda _: "",
        loggers: Sequence[Logger] = (),
        config: Mapping[str, Any] | None = None,
    ):
        self.skipped_in_row = skipped_in_row
        self._diagnose, self._worried = diagnose, 0
        self._since_row: deque[dict[str, float]] = deque(maxlen=_MOST_MEANT)
        self._must_write, self._told_full = must_write, False
        self._unwritten: list[str] = []
        self.path = workdir / "metrics.jsonl"
        self.history = broadcast_from_first(lambda: self._read(start, saved))
        self._train_digest = _digest(row for row in self.history if row["split"] == "train")
        self._log_every, self._seconds_per_step = log_every, seconds_per_step
        with explain_write_errors(workdir):
            write_atomic(self.path, "".join(map(_line, self.history)))
            self._file = self.path.open("ab", buffering=0)
        self._bar = tqdm(
            total=steps,
            initial=start,
            unit="step",
            dynamic_ncols=True,
            mininterval=0.2 if sys.stderr.isatty() else 10.0,
        )
        self._loggers = LoggerThreads(loggers, RunDescription(workdir, config or {}, start), self.tell)
        self._pending: tuple[int, Mapping[str, jax.Array]] | None = None
        self._window = _Window()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._loggers.finish()
        self._bar.close()
        self._file.close()

    def time_waits(self, items: Iterator[T]) -> Iterator[T]:
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

    def get_state(self) -> dict[str, Any]:
        """What a checkpoint is to keep of the rows so far: the validations, which decide when to stop, and how many
        training rows there are, with their SHA-256.
        """
        train = sum(row["split"] == "train" for row in self.history)
        validations = [row for row in self.history if row["split"] == "validation"]
        return {
            "validations": validations[-_MOST_KEPT:],
            "train_rows": train,
            "train_sha256": self._train_digest.hexdigest(),
        }

    def record_validation(self, step: int, metrics: Mapping[str, float]) -> None:
        """Writes the figures of a validation. Raises Diverged where the loss is not finite."""
        self.flush()
        if not math.isfinite(metrics.get("loss", 0.0)):
            raise Diverged(
                f"training diverged: the validation loss at step {step} is {metrics['loss']}; lower "
                "the learning rate and start again in another --workdir."
            )
        self._write({"step": step, "split": "validation", **metrics})
        self._scalars(step, "validation", metrics)
        losses = (row["loss"] for row in reversed(self.history) if row["split"] == "train" and "loss" in row)
        beside = "" if (train := next(losses, None)) is None else f", training loss {train:.4f}"
        loss = f"{metrics['loss']:.4f}" if "loss" in metrics else "not computed"
        self.tell(f"step {step}: validation loss {loss}{beside}")
        self._window = _Window()

    def record_clips(self, step: int, clips: Iterable[np.ndarray], sample_rate: int) -> None:
        """Gives generated clips, float32 [nsamp] each, and their spectrograms to the loggers; where that fails, it is told."""
        if not self._loggers:
            return
        with tolerate(f"make the previews of step {step}", "training goes on", self.tell):
            for index, clip in enumerate(clips):
                self._loggers.audio(f"generated/{index}", clip, sample_rate, step)
                self._loggers.image(f"generated/{index}", spectrogram_image(clip, sample_rate), step)

    def _log(self, step: int, metrics: dict[str, float]) -> None:
        self._write({"step": step, "split": "train", **metrics})
        found = self._diagnose(_means(self._since_row))
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
        self._unwritten.append(_line(row))
        if row["split"] == "train":
            self._train_digest.update(_line(row).encode())
        self._writing(self._write_rows)

    def _write_rows(self) -> None:
        with explain_write_errors(self.path):
            append_atomic(self._file, "".join(self._unwritten).encode())
        self._unwritten.clear()

    def _writing(self, write: Callable[[], None]) -> None:
        """Writes; a disk that is full ends the run, or is told once, by policy."""
        try:
            write()
        except UserError as error:
            if self._must_write:
                raise
            if not self._told_full:
                self.tell(f"jaxgen: {error} Training goes on.")
            self._told_full = True
        else:
            self._told_full = False

    def _scalars(self, step: int, group: str, values: Mapping[str, float]) -> None:
        self._loggers.scalars(group, {name: value for name, value in values.items() if math.isfinite(value)}, step)

    def _read(self, start: int, saved: Mapping[str, Any] | None) -> list[dict[str, Any]]:
        rows = [row for row in read_metrics(self.path) if row["step"] <= start]
        return rows if saved is None else restore_rows(rows, saved, self.path)


def _line(row: Mapping[str, Any]) -> str:
    return json.dumps(row) + "\n"


def _digest(rows: Iterable[Mapping[str, Any]]) -> "hashlib._Hash":
    return hashlib.sha256("".join(map(_line, rows)).encode())


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
