"""What a run tells: metrics.jsonl for scripts, TensorBoard for looking, a progress bar for waiting."""

import functools
import json
import math
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self, TypeVar

import jax
import numpy as np
from tqdm import tqdm

from jaxgen.errors import Diverged
from jaxgen.evaluation.plots import spectrogram_image
from jaxgen.files import write_whole, writing

T = TypeVar("T")


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The rows of a metrics.jsonl; none where the file is not there. A last line cut short by a crash is left out."""
    if not path.exists():
        return []
    lines = path.read_text().splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith("\n")]


class Telemetry:
    """Records a run from `start` steps on; rows of later steps, from a run that was killed, are taken out first.

    Rows of metrics.jsonl hold no times, so that a resumed run writes the same file as one that was never stopped.
    """

    def __init__(self, workdir: Path, *, start: int, steps: int, log_every: int, seconds_per_step: float):
        self.path = workdir / "metrics.jsonl"
        self.history = [row for row in read_metrics(self.path) if row["step"] <= start]
        self._workdir, self._start = workdir, start
        self._log_every, self._seconds_per_step = log_every, seconds_per_step
        with writing(workdir):
            write_whole(self.path, "".join(json.dumps(row) + "\n" for row in self.history))
            self._file = self.path.open("a")
        self._bar = tqdm(
            total=steps,
            initial=start,
            unit="step",
            dynamic_ncols=True,
            mininterval=0.2 if sys.stderr.isatty() else 10.0,
        )
        self._pending: tuple[int, Mapping[str, jax.Array]] | None = None
        self._window = _Window()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()
        if "_board" in vars(self):
            self._board.close()
        self._file.close()

    @functools.cached_property
    def _board(self) -> Any:
        """Made when it is first written to: its import takes time, in which the device works."""
        import tensorboardX

        with writing(self._workdir):
            return tensorboardX.SummaryWriter(str(self._workdir / "tensorboard"), purge_step=self._start + 1)

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

        Raises Diverged where the loss or the gradient of the call before is not finite.
        """
        self.flush()
        self._pending = step, metrics
        self._bar.update(len(metrics["loss"]))

    def flush(self) -> None:
        """Reads and writes the metrics still on the device. Raises Diverged as `record`."""
        if self._pending is None:
            return
        last, on_device = self._pending
        self._pending = None
        columns = {name: np.asarray(values).tolist() for name, values in on_device.items()}
        for back, values in enumerate(zip(*columns.values(), strict=True), start=1 - len(columns["loss"])):
            self._recorded(last + back, dict(zip(columns, values, strict=True)))

    def _recorded(self, step: int, metrics: dict[str, float]) -> None:
        if not all(math.isfinite(value) for value in metrics.values()):
            self._write({"step": step, "split": "train"} | {k: v for k, v in metrics.items() if math.isfinite(v)})
            raise Diverged(
                f"training diverged at step {step} (loss {metrics['loss']:.4g}, gradient norm "
                f"{metrics['gradient_norm']:.4g}); lower --objective.optimizer.peak or --objective.optimizer.clip-norm "
                "and start again in another --workdir."
            )
        if step % self._log_every == 0:
            self._log(step, metrics)

    def validated(self, step: int, metrics: Mapping[str, float]) -> None:
        """Writes the figures of a validation. Raises Diverged where the loss is not finite."""
        self.flush()
        if not math.isfinite(metrics["loss"]):
            raise Diverged(
                f"the validation loss at step {step} is {metrics['loss']}; lower --objective.optimizer.peak."
            )
        self._write({"step": step, "split": "validation", **metrics})
        self._scalars(step, "validation", metrics)
        train = next((row["loss"] for row in reversed(self.history) if row["split"] == "train"), math.nan)
        self._bar.write(
            f"step {step}: validation loss {metrics['loss']:.4f}, training loss {train:.4f}", file=sys.stderr
        )
        self._window = _Window()

    def heard(self, step: int, clips: Sequence[np.ndarray], sample_rate: int) -> None:
        """Puts generated clips, float32 [nsamp] each, and their spectrograms into TensorBoard."""
        for index, clip in enumerate(clips):
            image = spectrogram_image(clip, sample_rate)
            self._board.add_audio(f"generated/{index}", clip[:, None], step, sample_rate=sample_rate)
            self._board.add_image(f"generated/{index}", image, step, dataformats="HWC")

    def _log(self, step: int, metrics: dict[str, float]) -> None:
        self._write({"step": step, "split": "train", **metrics})
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
            self._bar.set_postfix_str(f"loss {metrics['loss']:.3f}, {audio:.0f} s audio/s, data wait {waiting:.0%}")

    def _write(self, row: dict[str, Any]) -> None:
        self.history.append(row)
        with writing(self.path):
            self._file.write(json.dumps(row) + "\n")
            self._file.flush()

    def _scalars(self, step: int, group: str, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._board.add_scalar(f"{group}/{name}", value, step)


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
