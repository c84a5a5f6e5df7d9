"""Native kernels as other processors run them: with fewer instructions, or with vectors of another shape."""

import contextlib
import os
from collections.abc import Iterator

import pytest

from jaxgen.nn.recurrent.native import ffi, free_run, recurrence
from jaxgen.nn.recurrent.native.matmul import Machine

SHAPES = {"arm64": Machine(lanes=4, registers=32), "16 lanes": Machine(lanes=16, registers=32)}
"""Vectors that LLVM makes of whatever this processor has."""

VECTORS = ("SSE4_2", "AVX", "AVX2", *SHAPES)
"""Instruction sets, which leave out what lies beyond them, and shapes."""


@contextlib.contextmanager
def vectors(width: str | None) -> Iterator[None]:
    """Has kernels made anew, by one of the above or (None) as they are made here; XLA's own programs stay as they are."""
    with pytest.MonkeyPatch.context() as patch:
        if width in SHAPES:
            patch.setattr(ffi, "machine", lambda: SHAPES[width])
        elif width:
            patch.setenv("XLA_FLAGS", f"{os.environ.get('XLA_FLAGS', '')} --xla_cpu_max_isa={width}")
        _forget()
        yield
    _forget()


def _forget() -> None:
    of_calls = (recurrence._forward_call, recurrence._backward_call)
    of_targets = (recurrence._forward_target, recurrence._backward_target, free_run._target)
    for function in (*of_calls, *of_targets, ffi.features, ffi.machine):
        if hasattr(function, "cache_clear"):  # but for what a test put in its place
            function.cache_clear()
