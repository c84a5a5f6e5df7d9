"""Frozen dataclasses as JSON and back: configs, features and data specs, as they stand in checkpoints and stores."""

import dataclasses
import importlib
from collections.abc import Callable
from typing import Any

from jaxgen.errors import UserError


def to_json(value: Any) -> Any:
    """Plain JSON of a config; dataclasses carry their class's import path."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        cls = type(value)
        fields = {f.name: to_json(getattr(value, f.name)) for f in dataclasses.fields(value)}
        return {"class": f"{cls.__module__}.{cls.__qualname__}", **fields}
    if isinstance(value, tuple | list):
        return [to_json(item) for item in value]
    return value


def from_json(value: Any) -> Any:
    """The inverse of `to_json`. Raises UserError where a class or field is unknown to this installation."""
    if isinstance(value, list):
        return tuple(from_json(item) for item in value)
    if not isinstance(value, dict):
        return value
    module, _, name = value["class"].rpartition(".")
    try:
        cls: Callable[..., Any] = getattr(importlib.import_module(module), name)
        return cls(**{key: from_json(item) for key, item in value.items() if key != "class"})
    except (ImportError, AttributeError, TypeError) as error:
        raise UserError(
            f"a saved config names {value['class']}, which this installation cannot build ({error}); "
            "use the version of jaxgen that wrote it, or put the module on PYTHONPATH."
        ) from None
