"""A candidate for `benchmarks.processes` that behaves, or not, as its spec says."""

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any


def prepare(spec: dict[str, Any]) -> tuple[dict[str, Any], Callable[[int], dict[str, Any]]]:
    """spec: log, a file for a line a run; name; and what goes wrong: fails, dies, hangs, stops (the run it dies in),
    or bytes to take while it runs."""
    print("this is not an answer")
    if spec.get("fails"):
        raise ValueError("it is broken\nin two lines")
    if spec.get("dies"):
        print("no such instruction", file=sys.stderr, flush=True)
        os._exit(3)
    if spec.get("hangs"):
        time.sleep(600)
    runs = 0

    def run(times: int) -> dict[str, Any]:
        nonlocal runs
        runs += 1
        if runs == spec.get("stops"):
            os._exit(4)
        if "log" in spec:
            with Path(spec["log"]).open("a") as log:
                log.write(f"{spec['name']} {times}\n")
        time.sleep(spec.get("seconds", 0.0) * times)
        return {"runs": runs, "taken": len(b"x" * spec.get("bytes", 0))}

    return {"pid": os.getpid(), "threads": os.environ["OMP_NUM_THREADS"]}, run
