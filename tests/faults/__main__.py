"""Runs the campaigns, prints a JSON summary, and ends with exit code 1 where anything was lost."""

import collections
import concurrent.futures
import contextlib
import dataclasses
import itertools
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from tqdm import tqdm

from jaxgen.config import parse
from jaxgen.errors import UserError, run
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
    """What befell the runs of a campaign, counted, and a progress bar. Shared by threads."""

    def __init__(self, total: int):
        self.counts: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
        self.lost: list[str] = []
        self.faults = self.runs = 0
        self._bar = tqdm(total=total, unit="fault", dynamic_ncols=True)

    def count(self, what: str, outcome: str) -> None:
        """Counts a fault."""
        self.counts[what][outcome] += 1
        self.faults += 1
        self._bar.update()

    @contextlib.contextmanager
    def run(self, folder: Path) -> Iterator[Path]:
        """A run in a folder; it stays there if anything is lost."""
        try:
            yield folder
            shutil.rmtree(folder)
        except Lost as lost:
            self.lost.append(f"{folder.name}: {lost}")
            self._bar.write(f"LOST in {self.lost[-1]}", file=sys.stderr)
        self.runs += 1

    def close(self) -> None:
        """Ends the progress bar."""
        self._bar.close()


def main() -> int:
    options = parse(Options, Options(), sys.argv[1:], "python -m tests.faults")
    total = options.kills + options.damages + options.damaged_runs + options.full_disks
    if not total:
        raise UserError("there is nothing to do; pass --kills, --damages, --damaged-runs or --full-disks a number.")
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as in the background of a shell; processes inherit it
        signal.signal(signal.SIGINT, signal.default_int_handler)
    for name in ("JAX_COMPILATION_CACHE_DIR", "JAX_ENABLE_COMPILATION_CACHE"):  # each run has a cache of its own
        os.environ.pop(name, None)
    began, folder = time.monotonic(), Path(tempfile.mkdtemp(prefix="jaxgen_faults_"))
    print(f"in {folder}; first a twin that nobody touches", file=sys.stderr)
    twin, pace = kills.twin_of(folder / "twin")
    seconds = {name: round(value, 3) for name, value in dataclasses.asdict(pace).items()}
    print(f"its parts took (seconds) {seconds}", file=sys.stderr)
    campaign = Campaign(total)
    with concurrent.futures.ThreadPoolExecutor(options.jobs) as pool:
        seeds = itertools.count(options.seed)

        def cuts(rng: random.Random) -> Iterator[kills.Cut]:
            numbers = [_SIGNALS[name] for name in options.signals]
            for _ in range(_MOST_CUTS):
                if campaign.faults < options.kills:
                    yield kills.random_cut(rng, pace, numbers)

        def killed_runs(_: int) -> None:
            while campaign.faults < options.kills and len(campaign.lost) < _MOST_LOST:
                with campaign.run(folder / f"killed-{(seed := next(seeds))}") as place:
                    rng, trainer = random.Random(seed), Trainer(place)
                    if rng.random() < _COMPILED:
                        trainer.take_compiled(twin)
                    kills.killed_run(trainer, twin, cuts(rng), campaign.count)

        def damaged_run(seed: int) -> None:
            with campaign.run(folder / f"damaged-{seed}") as place:
                campaign.count(*damage.damaged_run(place, stopped, twin, seed))

        def starved_run(seed: int) -> None:
            with campaign.run(folder / f"starved-{seed}") as place:
                campaign.count(*disk.starved_run(place, twin, seed))

        list(pool.map(killed_runs, range(options.jobs)))
        stopped = damage.stopped_runs(folder, twin, _STOPPED_AT) if options.damages + options.damaged_runs else []
        readers = [damage.Reader(each) for each in stopped]
        for seed in range(options.seed, options.seed + options.damages):
            with campaign.run(folder / f"read-{seed}") as place:
                campaign.count(*readers[seed % len(readers)](place, seed))
        list(pool.map(damaged_run, range(options.seed, options.seed + options.damaged_runs)))
        list(pool.map(starved_run, range(options.seed, options.seed + options.full_disks)))
    campaign.close()
    summary = {
        "options": dataclasses.asdict(options),
        "seconds": seconds,
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
