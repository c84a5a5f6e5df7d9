"""Training against the clock: what all candidates share."""

import time
from collections.abc import Callable
from typing import Any


def trained_in_turns(
    turn_seconds: float, update: Callable[[], int], bits_per_sample: Callable[[], float]
) -> Callable[[int], dict[str, Any]]:
    """The `run` of a candidate.

    update: does some updates, waits for them, and says how many they were. One that is under way when a turn ends is
    finished, and the next turn is as much shorter.
    """
    turns, spent, steps = 0, 0.0, 0

    def run(times: int) -> dict[str, Any]:
        nonlocal turns, spent, steps
        turns += times
        started = time.perf_counter() - spent
        while spent < turns * turn_seconds:
            steps += update()
            spent = time.perf_counter() - started
        return {"train_seconds": spent, "steps": steps, "bits_per_sample": bits_per_sample()}

    return run
