"""What this process may use of the machine."""

import contextlib
import ctypes
import math
import os
import sys
from pathlib import Path

_TRIM_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -4, -8  # of glibc's mallopt(3)
_QUOTA = Path("/sys/fs/cgroup/cpu.max")  # of a container: microseconds of processor time in a period of so many, or max


def available_cores() -> int:
    """Processor cores that this process may keep busy, at least 1."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with contextlib.suppress(OSError, ValueError):
        quota, period = map(int, _QUOTA.read_text(encoding="utf-8").split())
        return max(1, min(cores, math.ceil(quota / period)))
    return cores


def keep_freed_memory() -> None:
    """Has malloc keep what is freed for the next allocation, where the C library is glibc.

    By default large blocks go back to the system, and come from it anew, page by page, with every train step on a CPU:
    a third of the time of a small one. Needs all three settings, made before the threads of XLA start; one arena for all
    of them costs XLA's compiler half a second.
    """
    if sys.platform != "linux":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        for parameter, value in ((_TRIM_THRESHOLD, -1), (_MMAP_MAX, 0), (_ARENA_MAX, 1)):
            mallopt(parameter, value)
