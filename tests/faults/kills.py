"""Runs that are cut short again and again, at random moments, until they are done."""

import dataclasses
import random
import signal
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from tests.faults.trainer import LOG_EVERY, STEPS, Life, Lost, Trainer, assert_equal

_SECOND = 0.3  # share of SIGTERM and SIGINT that a second one follows
_GRACEFUL = {signal.SIGTERM, signal.SIGINT}
_AT_ONCE = (75, 130, 143, -signal.SIGTERM, -signal.SIGINT)
"""How a process may end that was not yet, or no longer, training, or was asked twice."""
_SAVED = 75


@dataclasses.dataclass(frozen=True)
class Pace:
    """Seconds that the parts of an undisturbed run take."""

    start: float
    """Until the first row of metrics.jsonl."""
    save: float
    """Median from the first file of a checkpoint until it is whole."""
    validation: float
    """Median between the last update before a validation and its checkpoint."""
    report: float
    whole: float


def twin_of(folder: Path) -> tuple[Trainer, Pace]:
    """A run that nobody touches, and how long its parts took."""
    twin = Trainer(folder)
    life = twin.start()
    spans: dict[str, list[float]] = {"save": [], "validation": []}
    began: dict[str, float] = {}
    start = report = 0.0
    while life.running():
        now = life.age
        life.check_patience()
        start = start or (now if twin.rows() else 0.0)
        report = report or (now if life.reporting() else 0.0)
        for part, goes_on in (("save", bool(twin.saving())), ("validation", life.validating())):
            if goes_on:
                began.setdefault(part, now)
            elif part in began:
                spans[part].append(now - began.pop(part))
    life.check(0)
    median = {part: statistics.median(found) for part, found in spans.items()}
    return twin, Pace(start, median["save"], median["validation"], life.age - report, life.age)


@dataclasses.dataclass(frozen=True)
class Cut:
    """When a life ends, and how."""

    signals: tuple[signal.Signals, ...]
    """The first, and perhaps a second one."""
    reached: Callable[[Life], bool]
    """What it waits for, ..."""
    delay: float
    """... then seconds more."""
    between: float
    """Seconds between the signals."""

    def __call__(self, life: Life) -> str | None:
        """Follows a life to its end; the phase in which a signal ended it, or None. Raises Lost where it does not end."""
        due = None
        while life.running():
            life.check_patience()
            if due is None and self.reached(life):
                due = time.monotonic() + self.delay
            if due is not None and time.monotonic() >= due:
                phase = self._send(life)
                return phase if life.process.returncode else None
        return None

    def _send(self, life: Life) -> str:
        first, *more = self.signals
        before = life.phase() if first in _GRACEFUL else ""
        life.process.send_signal(first)
        for number in more:
            time.sleep(self.between)
            life.process.send_signal(number)
        while life.running():
            life.check_patience()
        return before or life.phase()

    def __str__(self) -> str:
        return self.signals[0].name + " twice" * (len(self.signals) > 1)


def random_cut(rng: random.Random, pace: Pace, numbers: Sequence[signal.Signals]) -> Cut:
    """A moment of a life: anywhere, or within its start, a save, a validation or the report."""
    number = rng.choice(numbers)
    twice = number in _GRACEFUL and rng.random() < _SECOND
    saves = rng.randint(1, 10)
    moments: list[tuple[int, Callable[[Life], bool], float]] = [
        (3, lambda life: True, pace.start),
        (2, lambda life: True, pace.whole),
        (8, lambda life: life.saves >= saves, 1.5 * pace.save),  # so that some are just over, and old ones deleted
        (2, Life.validating, pace.validation),
        (2, Life.reporting, pace.report),
    ]
    weights = [weight for weight, _, _ in moments]
    _, reached, longest = rng.choices(moments, weights)[0]
    between = rng.choice([0.0, rng.uniform(0, 2 * pace.save), rng.uniform(0, 1)])
    return Cut((number, number) if twice else (number,), reached, rng.uniform(0, longest), between)


def killed_run(trainer: Trainer, twin: Trainer, cuts: Iterable[Cut], tell: Callable[[str, str], None]) -> None:
    """Trains a run to its end, cutting short one life after another, then leaving it alone.

    tell: called with the signal and the phase of each cut. Raises Lost for whatever a run must not do.
    """
    newest = 0
    for cut in cuts:
        life = trainer.start()
        try:
            phase = cut(life)
        finally:
            life.end()
        if phase is None:
            life.check(0)
            break
        tell(str(cut), phase)
        check_cut(life, cut, phase)
        if (now := max(trainer.steps(), default=0)) < newest:
            raise Lost(f"the newest checkpoint was of step {newest} and is now of step {now}; see {life.log}")
        newest = now
    trainer.finish()
    assert_equal(trainer, twin)


def check_cut(life: Life, cut: Cut, phase: str) -> None:
    """Raises Lost where a life did not end as its signal asks, or left less than it said."""
    if cut.signals[0] is signal.SIGKILL:
        life.check(-signal.SIGKILL)
        return
    last = max((row["step"] for row in life.trainer.rows()), default=0)
    in_training = phase in ("training", "validation", "save") and last <= STEPS - LOG_EVERY
    asked_once = len(cut.signals) == 1
    life.check(*([_SAVED] if in_training and asked_once else _AT_ONCE))
    if "Traceback" in life.said() and phase not in ("start", "decoding"):
        raise Lost(f"a traceback in {life.log}")
    if in_training and asked_once and max(life.trainer.steps(), default=0) < last:
        raise Lost(f"it said that it saved, but step {last} is in no checkpoint; see {life.log}")
