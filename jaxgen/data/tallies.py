"""Counts and histograms that data reports are made of."""

import collections
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

_BINS = 40


def histogram(values: np.ndarray) -> dict[str, Any]:
    """Least, median and largest of values [N], N > 0, and how many are in each of 40 bins; JSON-able."""
    counts, edges = np.histogram(values, bins=_BINS)
    return {
        "min": float(values.min()),
        "median": float(np.median(values)),
        "max": float(values.max()),
        "counts": counts.tolist(),
        "edges": edges.tolist(),
    }


def count(values: Iterable[str]) -> dict[str, int]:
    """How often each value is there, sorted by value."""
    return dict(sorted(collections.Counter(values).items()))


def listed(counts: Mapping[str, int]) -> str:
    """Counts as a text: value and count, value and count."""
    return ", ".join(f"{value or '(none)'} {count}" for value, count in counts.items())
