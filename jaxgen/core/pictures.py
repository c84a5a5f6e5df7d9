"""The one door to matplotlib: figures look the same everywhere, and no text in them is TeX.

What a user has set up for other programs (MPLBACKEND, a matplotlibrc, styles, fonts) changes no figure and breaks none.
"""

import contextlib
import importlib.util
import io
import os
import sys
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING
from unittest import mock

from jaxgen.core.errors import printable

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_one_at_a_time = threading.RLock()  # matplotlib's settings and Python's warnings belong to the whole process


@contextlib.contextmanager
def matplotlib_settings() -> Iterator[ModuleType]:
    """While entered, or as a decorator, matplotlib has its own settings; those of the process come back at the end.

    Everything that makes a figure or renders one is within this. A script that the font lacks is drawn as boxes.
    """
    with _one_at_a_time, warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of glyphs that the font lacks, and text that leaves no room
        matplotlib = _imported()
        defaults = {name: value for name, value in matplotlib.rcParamsDefault.items() if name != "backend"}
        with matplotlib.rc_context(defaults | {"text.parse_math": False, "text.usetex": False}):
            yield matplotlib


@matplotlib_settings()
def render_figure(figure: "Figure", *, dpi: float, kind: str = "png") -> bytes:
    """The figure as the content of a file; the same figure gives the same PNG."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format=kind, dpi=dpi, metadata={"Software": None} if kind == "png" else None)
    return buffer.getvalue()


def shorten(text: str, most: int) -> str:
    """The text on one line of at most `most` characters, in which anything may stand."""
    line = printable(text)
    return line if len(line) <= most else f"{line[: most - 1]}…"


def _imported() -> ModuleType:
    """matplotlib; without the user's settings where it cannot be imported with them."""
    try:
        import matplotlib
    except (ValueError, OSError):  # a backend that is not installed here, a matplotlibrc that cannot be read
        for name in [name for name in sys.modules if name.partition(".")[0] == "matplotlib"]:
            del sys.modules[name]  # half imported
        (folder,) = importlib.util.find_spec("matplotlib").submodule_search_locations  # type: ignore[union-attr,misc]
        own = str(Path(folder) / "mpl-data" / "matplotlibrc")
        with mock.patch.dict(os.environ, MPLBACKEND="", MATPLOTLIBRC=own):
            import matplotlib
    return matplotlib
