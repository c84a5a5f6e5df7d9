"""Packages that only some users need: they come with an extra of jaxgen."""

import importlib
from types import ModuleType

from jaxgen.core.errors import UserError


def import_package(module: str, extra: str) -> ModuleType:
    """A module of one of jaxgen's extras. Raises UserError where it is not installed."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise UserError(
            f"{module.partition('.')[0]} is not installed ({error}): pip install 'jaxgen[{extra}]'"
        ) from None
