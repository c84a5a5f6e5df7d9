"""Runs the campaigns, prints a JSON summary, and ends with exit code 1 where anything was lost."""

import collections
import concurrent.futures
import dataclasses
import functools
import itertools
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

from tqdm import tqdm

from jaxgen.config import parse
from jaxgen.core.errors import UserError, run
from tests.faults import damage, disk, kills
from tests.faults.trainer import Lost, Trainer

_SIGNALS = {"kill": signal.SIGKILL, "term": signal.SIGTERM, "int": signal.SIGINT}
_MOST_CUTS = 12  # of one run
_MOST_LOST = 5  # runs, after which no more are killed
_COMPILED = 0.9  # share of runs that need not compile: the others do it anew, and are killed meanwhile
_STOPPED_AT = (6, 16)  # saves after which the runs to be damaged are killed


@dataclasses.dataclass(frozen=True)
class Options:
    """Faults for real training processes. Exit code 1 where anything was lost; what is left of that run is kept."""

    kills: int = 0
    """Signals to send, at random moments."""
    signals: tuple[Literal["kill", "term", "int"], ...] = ("kill",)
    """Which, drawn at random; some SIGTERM and SIGINT are followed by a second one."""
    damages: int = 0
    """Newest checkpoints to damage and to read as the next start would."""
    damaged_runs: int = 0
    """Stopped runs to damage likewise, and to train to their end."""
    full_disks: int = 0
    """Runs whose disk is full for a while; needs the right to mount a tmpfs."""
    jobs: int = 2
    """Runs side by side."""
    seed: int = 0
    """Decides every draw, but not what a process happens to do at that moment."""


class Campaign:
    """Runs in folders of their own beside their twin, and what befell them, counted. Shared by threads."""

    def __init__(self, options: Options, folder: Path):
        self.counts: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
        self.lost: list[str] = []
        self.faults = self.runs = 0
        self._options, self._folder = options, folder
        print(f"in {folder}; first a twin that nobody touches", file=sys.stderr)
        self._twin, self.pace = kills.twin_of(folder / "twin")
        total = options.kills + options.damages + options.damaged_runs + options.full_disks
        self._bar = tqdm(total=total, unit="fault", dynamic_ncols=True)

    def __call__(self) -> None:
        """Does all that is asked for."""
        options, first = self._options, self._options.seed
        with concurrent.futures.ThreadPoolExecutor(options.jobs) as pool:
            seeds = itertools.count(first)
            list(pool.map(self._kill_runs, [seeds] * options.jobs))
            if options.damages + options.damaged_runs:
                stopped = damage.stopped_runs(self._folder, self._twin, _STOPPED_AT)
                readers = [damage.Reader(each) for each in stopped]
                for seed in range(first, first + options.damages):
                    self._train("read", seed, lambda place, seed: readers[seed % len(readers)](place, seed))
                for seed in range(first, first + options.damaged_runs):
                    pool.submit(
                        self._train, "damaged", seed, functools.partial(damage.damaged_run, stopped, self._twin)
                    )
            for seed in range(first, first + options.full_disks):
                pool.submit(self._train, "starved", seed, functools.partial(disk.starved_run, self._twin))
        self._bar.close()

    def _kill_runs(self, seeds: Iterator[int]) -> None:
        """Kills one run after another, until there were enough kills."""
        while self.faults < self._options.kills and len(self.lost) < _MOST_LOST:
            self._train("killed", next(seeds), self._kill_run)

    def _kill_run(self, folder: Path, seed: int) -> None:
        rng, trainer = random.Random(seed), Trainer(folder)
        if rng.random() < _COMPILED:
            trainer.take_compiled(self._twin)
        kills.killed_run(trainer, self._twin, self._cuts(rng), self._count)

    def _cuts(self, rng: random.Random) -> Iterator[kills.Cut]:
        numbers = [_SIGNALS[name] for name in self._options.signals]
        for _ in range(_MOST_CUTS):
            if self.faults < self._options.kills:
                yield kills.random_cut(rng, self.pace, numbers)

    def _train(self, kind: str, seed: int, train: Callable[[Path, int], tuple[str, str] | None]) -> None:
        """A run in a folder, which stays where anything is lost. What `train` returns is counted."""
        folder = self._folder / f"{kind}-{seed}"
        try:
            if fault := train(folder, seed):
                self._count(*fault)
            shutil.rmtree(folder)
        except Exception as error:  # also those of our own making: a campaign goes on
            self.lost.append(f"{folder}: {error if isinstance(error, Lost) else repr(error)}")
            self._bar.write(f"LOST in {self.lost[-1]}", file=sys.stderr)
        self.runs += 1

    def _count(self, what: str, outcome: str) -> None:
        self.counts[what][outcome] += 1
        self.faults += 1
        self._bar.update()


def main() -> int:
    options = parse(Options, Options(), sys.argv[1:], "python -m tests.faults")
    if not options.kills + options.damages + options.damaged_runs + options.full_disks:
        raise UserError("there is nothing to do; pass --kills, --damages, --damaged-runs or --full-disks a number.")
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as in the background of a shell; processes inherit it
        signal.signal(signal.SIGINT, signal.default_int_handler)
    for name in ("JAX_COMPILATION_CACHE_DIR", "JAX_ENABLE_COMPILATION_CACHE"):  # each run has a cache of its own
        os.environ.pop(name, None)
    began, folder = time.monotonic(), Path(tempfile.mkdtemp(prefix="jaxgen_faults_"))
    if options.full_disks:
        disk.check(folder / "disk")
    campaign = Campaign(options, folder)
    campaign()
    summary = {
        "options": dataclasses.asdict(options),
        "seconds": {name: round(value, 3) for name, value in dataclasses.asdict(campaign.pace).items()},
        "runs": campaign.runs,
        "faults": campaign.counts,
        "lost": campaign.lost,
        "minutes": round((time.monotonic() - began) / 60, 1),
    }
    print(json.dumps(summary, indent=2))
    if campaign.lost:
        return 1
    shutil.rmtree(folder)
    return 0


if __name__ == "__main__":
    run(main)
