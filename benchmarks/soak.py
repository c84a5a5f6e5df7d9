"""Load: `python -m benchmarks.soak`. Commands of jaxgen as processes, watched from outside.

soak         trains a small model for minutes on hours of hostile recordings: slope of its memory, open files, threads, and
             whether it slows down
short-files  prepares very many short recordings, then opens them again
long-file    prepares one recording of many hours, then opens it again
"""

import contextlib
import dataclasses
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import soundfile
from scipy.stats import theilslopes

from benchmarks import measure
from benchmarks.hostile import write_hostile
from benchmarks.measure import Row
from jaxgen.config import parse
from jaxgen.core.errors import ExitCode, UserError

Part = Literal["soak", "short-files", "long-file"]

_WARM_UP = 0.2  # share of the time after which memory is expected to be flat
_WATCH_SECONDS = 2.0


@dataclasses.dataclass(frozen=True)
class Options(measure.Options):
    """Training for long, and preparing very much, with what they cost in memory."""

    parts: tuple[Part, ...] = ("soak", "short-files", "long-file")
    """Which are done."""
    minutes: float = 10.0
    """How long soak trains."""
    hostile_hours: float = 2.0
    """Audio that soak trains on."""
    files: int = 20_000
    """Recordings of short-files, about 1 s each."""
    hours: float = 10.0
    """Length of the recording of long-file, 44.1 kHz stereo."""
    train: tuple[str, ...] = ()
    """Further options of the training command."""


def main(argv: Sequence[str]) -> list[Row]:
    """Measures, prints and returns the figures, a row for each part."""
    options = parse(Options, Options(), argv, "python -m benchmarks.soak")
    place = measure.environment()
    rows: list[Row] = []
    for part in dict.fromkeys(options.parts):
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary)
            (folder / "sound").mkdir()
            if part == "soak":
                row = _soak(folder, options)
            else:
                measure.say(f"{part}: writing ...")
                write = _write_short_files if part == "short-files" else _write_long_file
                hours = write(folder / "sound", options)
                row = _ingested(folder, hours)
            rows.append({"benchmark": "soak", "part": part, **row})
            measure.report(rows[-1:], place, options)
    return rows


def _soak(folder: Path, options: Options) -> Row:
    measure.say(f"soak: writing {options.hostile_hours:g} h ...")
    written = write_hostile(folder / "sound", options.hostile_hours)
    command: list[str | Path] = [
        *("train", "--data.root", folder / "sound", "--workdir", folder / "run", "--cache-dir", folder / "cache"),
        *("--model.cell.hidden-size", "64", "--model.num-layers", "1", "--train.batch-size", "16"),
        *("--train.seq-len", "64", "--train.steps", "1000000000", "--train.eval-every", "1000"),
        *("--train.checkpoint-every", "500", "--evaluation.num-previews", "2", "--evaluation.seconds", "1"),
        *("--train.max-eval-clips", "20", "--audio.max-refused", "0.9", *options.train),
    ]
    measure.say(f"soak: training on {written} files for {options.minutes:g} min ...")
    run = folder / "run"
    with _command(command, folder) as process:
        samples, started = [], time.monotonic()
        while time.monotonic() - started < 60 * options.minutes and (seen := _look(process.pid)):
            if (step := _last_step(run / "metrics.jsonl")) > 0:
                samples.append((time.monotonic() - started, step, *seen))
            time.sleep(_WATCH_SECONDS)
        os.kill(process.pid, signal.SIGTERM)
        code, peak_bytes = _ended(process)
    if code != ExitCode.PREEMPTED or len(samples) < 10:
        raise UserError(f"training ended with exit code {code}: {_last_line(folder)}; give it more --minutes.")
    report = json.loads((run / "data_report.json").read_text())
    config = json.loads((run / "config.json").read_text())
    steps_per_epoch = _frames(report, config) / (16 * 64)
    return {
        "files": written,
        "refused": len(report["refused"]),
        "hours": report["hours"],
        **_figures(np.array(samples), steps_per_epoch),
        "peak_gib": peak_bytes / 2**30,
    }


def _frames(report: dict, config: dict) -> float:
    """Frames in an epoch of training."""
    features = config["features"]
    return report["splits"]["train"]["hours"] * 3600 * features["sample_rate"] / features["hop_length"]


def _figures(samples: np.ndarray, steps_per_epoch: float) -> Row:
    """From rows of (seconds, step, processor seconds, resident bytes, of these no files, open files, threads).

    The rate is also told per second of processor time, which other work on the machine hardly changes.
    """
    warm = samples[samples[:, 0] >= samples[0, 0] + _WARM_UP * (samples[-1, 0] - samples[0, 0])]
    seconds, steps, _, resident, anonymous, files, threads = warm.T
    thirds = [third[-1, :3] - third[0, :3] for third in np.array_split(warm, 3)]
    first, _, last = (float(steps / seconds) for seconds, steps, _ in thirds)
    cpu_first, _, cpu_last = (float(steps / cpu_seconds) for _, steps, cpu_seconds in thirds)
    per_step = [float(theilslopes(memory, steps).slope) / 1e6 for memory in (resident, anonymous)]
    return {
        "minutes": float(seconds[-1] - seconds[0]) / 60,
        "steps": int(steps[-1]),
        "epochs": float(steps[-1] / steps_per_epoch),
        "resident_mb": float(np.median(resident)) / 1e6,
        "resident_mb_per_1000_steps": 1000 * per_step[0],
        "anonymous_mb_per_1000_steps": 1000 * per_step[1],
        "anonymous_mb_per_epoch": steps_per_epoch * per_step[1],
        "open_files": f"{files.min():.0f} to {files.max():.0f}, at the end {np.median(files[-20:]):.0f}",
        "threads": f"{threads.min():.0f} to {threads.max():.0f}, at the end {np.median(threads[-20:]):.0f}",
        "steps_per_s_first_third": first,
        "steps_per_s_last_third": last,
        "rate_drift": last / first - 1,
        "steps_per_cpu_s_first_third": cpu_first,
        "steps_per_cpu_s_last_third": cpu_last,
        "cpu_rate_drift": cpu_last / cpu_first - 1,
    }


def _look(pid: int) -> tuple[float, ...]:
    """What `_figures` is told of a process, after seconds and step; nothing of one that has ended."""
    status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines())
    if "VmRSS" not in status:
        return ()
    resident, anonymous = (1024 * int(status[name].split()[0]) for name in ("VmRSS", "RssAnon"))
    ticks = (
        Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rsplit(")", 1)[1].split()[11:13]
    )  # in this process, and in the kernel for it
    cpu_seconds = sum(map(int, ticks)) / os.sysconf("SC_CLK_TCK")
    return cpu_seconds, resident, anonymous, len(os.listdir(f"/proc/{pid}/fd")), int(status["Threads"])


def _last_step(metrics: Path) -> int:
    """The last step that the training told of; 0 before any."""
    with contextlib.suppress(OSError, ValueError, IndexError), metrics.open("rb") as file:
        file.seek(max(0, metrics.stat().st_size - 4096))
        return int(json.loads(file.read().splitlines()[-1])["step"])
    return 0


def _ingested(folder: Path, hours: float) -> Row:
    """What preparing the folder `sound` takes, for the first and for the second time."""
    places = ("--data.root", folder / "sound", "--workdir", folder / "run", "--cache-dir", folder / "cache")
    found: list[tuple[float, int]] = []
    for what in ("preparing", "opening again"):
        measure.say(f"{what} ...")
        started = time.monotonic()
        with _command(["prepare", *places], folder) as process:
            code, peak_bytes = _ended(process)
        if code != ExitCode.DONE:
            raise UserError(f"preparing ended with exit code {code}: {_last_line(folder)}.")
        found.append((time.monotonic() - started, peak_bytes))
    (seconds, peak_bytes), (again_seconds, again_bytes) = found
    report = json.loads((folder / "run" / "data_report.json").read_text())
    return {
        "files": report["clips"],
        "refused": len(report["refused"]),
        "hours": report["hours"],
        "seconds": seconds,
        "hours_per_minute": hours / (seconds / 60),
        "peak_gib": peak_bytes / 2**30,
        "again_seconds": again_seconds,
        "again_peak_gib": again_bytes / 2**30,
    }


def _write_short_files(folder: Path, options: Options) -> float:
    """Writes mono wav files of 0.5 to 1.5 s at 16 kHz in folders of a thousand; returns their hours."""
    random, rate, total = np.random.default_rng(0), 16_000, 0
    for index in range(options.files):
        place = folder / f"{index // 1000:03d}"
        place.mkdir(exist_ok=True)
        samples = random.integers(-9_000, 9_000, random.integers(rate // 2, 3 * rate // 2), np.int16)
        soundfile.write(place / f"{index:06d}.wav", samples, rate)
        total += len(samples)
    return total / rate / 3600


def _write_long_file(folder: Path, options: Options) -> float:
    """Writes one wav (RF64, which may be longer than 4 GiB) of 44.1 kHz, stereo, 16 bits; returns its hours."""
    random, rate = np.random.default_rng(0), 44_100
    minutes = max(1, round(60 * options.hours))
    with soundfile.SoundFile(folder / "long.wav", "w", rate, channels=2, subtype="PCM_16", format="RF64") as file:
        for _ in range(minutes):
            file.write(random.integers(-9_000, 9_000, (60 * rate, 2), np.int16))
    return minutes / 60


@contextlib.contextmanager
def _command(words: Sequence[str | Path], folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """An entry point of jaxgen as a process, whose words go to a file; it ends with the block."""
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", f"jaxgen.{words[0]}", *map(str, words[1:])], stdout=log, stderr=log
        )
        try:
            yield process
        finally:
            if process.returncode is None:
                process.kill()
                process.wait()


def _ended(process: subprocess.Popen[bytes]) -> tuple[int, int]:
    """Exit code and largest resident memory in bytes."""
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    return process.returncode, usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _last_line(folder: Path) -> str:
    lines = (folder / "log").read_text(errors="replace").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), "it said nothing")


if __name__ == "__main__":
    measure.start(main)
