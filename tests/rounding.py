"""How far apart two float32 results may lie that differ only in the order of their sums."""

import numpy as np
from numpy.typing import ArrayLike

POINTWISE = 8
"""Roundings of a cell's equations behind its sums: a few products, and functions that are right to some units."""


def rounding(count: int, scale: ArrayLike = 1.0) -> float:
    """Bound of the difference between two evaluations of one formula whose results come of `count` roundings.

    A sum of n products, in whatever order and fused or not, is within n u of the sum of their magnitudes (u = eps / 2;
    Higham 2002, sec. 3.1); so two of them are within n eps. Which order a program takes depends on the width of the
    processor's vectors, on its threads and on the compiler. Sums one after another add their counts, as long as none
    enlarges an error relative to its result. Errors are mostly of the order of the root of the count: what is left is
    room for results a little smaller than `scale`, the largest magnitude of the terms or (an array) of its entries.
    """
    return count * float(np.finfo(np.float32).eps) * float(np.max(np.abs(scale), initial=0))
