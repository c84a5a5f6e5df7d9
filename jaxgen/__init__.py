"""jaxgen: audio generation in JAX."""

import os
import sys

# `python -m` looks for modules in the current folder first: a stranger's recordings may have a numpy.py beside them.
if sys.argv[:1] == ["-m"] and sys.path[0] not in ("", os.path.dirname(os.path.dirname(os.path.abspath(__file__)))):
    del sys.path[0]

import importlib
import types
from typing import TYPE_CHECKING, Any

from jaxgen.core import errors
from jaxgen.core.errors import UserError

if TYPE_CHECKING:
    from jaxgen.runs.api import load, train

__all__ = ["UserError", "load", "train"]

__version__ = "0.2.0"

# While Python looks for the module of `python -m jaxgen.train`. Another program's process is left as it is.
if sys.argv[:1] == ["-m"] and any(word.startswith(("jaxgen.", "-mjaxgen.")) for word in sys.orig_argv):
    errors.begin()


def __getattr__(name: str) -> Any:
    """What is asked for is imported then: jax is slow to import, and a command may not need it."""
    if name == "load":
        return importlib.import_module("jaxgen.runs.api").load
    if name in ("features", "nn"):
        return importlib.import_module(f"jaxgen.{name}")
    raise AttributeError(f"module '{__name__}' has no attribute '{name}'")


class _Package(types.ModuleType):
    """`jaxgen.train` is the function, also once the module of `python -m jaxgen.train` was imported."""

    @property
    def train(self) -> Any:
        return importlib.import_module("jaxgen.runs.api").train

    @train.setter
    def train(self, module: types.ModuleType) -> None:
        """The import system puts the module here."""


sys.modules[__name__].__class__ = _Package
