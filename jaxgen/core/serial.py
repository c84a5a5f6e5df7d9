"""Frozen dataclasses as JSON and back: configs, features and data specs, as they stand in checkpoints and stores.

JSON comes from outside and never becomes code. It may name a class, but declared types decide what is made: a dataclass
that derives from its field's type. It is jaxgen's own, or of code that the user has loaded, such as a config file.
A class of jaxgen is saved by its name alone, so that its module may move; any other by its import path.
"""

import collections.abc
import dataclasses
import functools
import hashlib
import importlib
import inspect
import json
import math
import pkgutil
import sys
import types
import typing
from collections.abc import Iterator
from typing import Any, TypeVar

from jaxgen.core.errors import UserError

T = TypeVar("T")

_LARGEST = 2**63 - 1  # that an array can hold
_SEQUENCES = (tuple, list, collections.abc.Sequence, collections.abc.Iterable)
_MAPPINGS = (dict, collections.abc.Mapping)


class UnknownClass(UserError):
    """What is read names a class that nothing loaded has."""


class _Unfit(Exception):
    """A value is not of its declared type; the text says where, what it is and what was expected."""


class _Unknown(_Unfit):
    """The value names a class that nothing loaded has."""


def to_json(value: Any) -> Any:
    """Plain JSON of a config; dataclasses carry the name of their class."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        cls = type(value)
        fields = {f.name: to_json(getattr(value, f.name)) for f in dataclasses.fields(value)}
        return {"class": _name(cls), **fields}
    if isinstance(value, tuple | list):
        return [to_json(item) for item in value]
    if isinstance(value, collections.abc.Mapping):
        return {name: to_json(item) for name, item in value.items()}
    return value


def from_json(value: Any, expected: type[T], source: str) -> T:
    """The inverse of `to_json`: an instance of the dataclass `expected`, or of one that derives from it.

    source: what holds the JSON, as it is to be named in a message. Raises UserError where a class is none of those (and
    UnknownClass where nothing loaded has its name), a field is unknown or missing, or a value is not of its declared type.
    """
    try:
        built: T = _value(value, expected, "")
    except (_Unfit, RecursionError) as error:
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else error
        kind = UnknownClass if isinstance(error, _Unknown) else UserError
        raise kind(f"{source} cannot be used: {reason}.") from None
    return built


def parse_json(content: str | bytes, source: str) -> Any:
    """The value of a JSON text. Raises UserError, which names `source`, where it is none."""
    try:
        return json.loads(content)
    except (ValueError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else str(error).splitlines()[0]
        raise UserError(f"{source} is not JSON that can be read ({reason}).") from None


def classes_from_outside(value: Any) -> set[str]:
    """Import paths of the classes in what `to_json` gave that are not jaxgen's own."""
    if isinstance(value, list):
        return set().union(*map(classes_from_outside, value))
    if not isinstance(value, dict):
        return set()
    found = set().union(*map(classes_from_outside, value.values()))
    name = value.get("class")
    return found | {name} if isinstance(name, str) and "." in name else found


def content_hash(value: Any) -> str:
    """SHA-256 of a JSON value, hexadecimal."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def differences(saved: Any, asked: Any, ignore: frozenset[str] = frozenset(), prefix: str = "") -> list[str]:
    """What differs between two configs, as `path=saved (asked: value)`; paths in `ignore` may differ."""
    if prefix in ignore or saved == asked:
        return []
    if type(saved) is type(asked) and dataclasses.is_dataclass(saved):
        names = [f.name for f in dataclasses.fields(saved)]
        path = prefix + "." if prefix else ""
        return [d for n in names for d in differences(getattr(saved, n), getattr(asked, n), ignore, path + n)]
    return [f"{prefix}={_shown(saved)} (asked: {_shown(asked)})"]


def _shown(value: Any) -> str:
    return type(value).__name__ if dataclasses.is_dataclass(value) else json.dumps(to_json(value))


def subclasses(base: type[Any]) -> list[type[Any]]:
    """The dataclasses that derive from a class, or the class itself, where they can be made; modules beside its own are
    imported to find them.
    """
    for module in _siblings(base):
        importlib.import_module(module)
    return [
        cls for cls in _known(base) if not inspect.isabstract(cls) and (cls is not base or not cls.__subclasses__())
    ]


def _known(base: type[Any]) -> Iterator[type[Any]]:
    """The dataclasses among a class and all that derive from it, as far as they are loaded."""
    if dataclasses.is_dataclass(base):
        yield base
    for derived in base.__subclasses__():
        yield from _known(derived)


def _siblings(base: type[Any]) -> list[str]:
    """The modules beside that of a class, by their full names; they are not imported."""
    package = base.__module__.rpartition(".")[0]
    if package in ("", "jaxgen"):  # a class of a config file, or one whose kind stands in its module alone
        return []
    return [module.name for module in pkgutil.iter_modules(sys.modules[package].__path__, package + ".")]


def _named(name: Any, base: type[Any], place: str) -> type[Any]:
    """The class of this name, of those that derive from `base`."""
    if (cls := _loaded(name, base)) is not None:
        return cls
    for module in _siblings(base):
        importlib.import_module(module)
    if (cls := _loaded(name, base)) is not None:
        return cls
    whose = f"a class that derives from {_name(base)}"
    if not isinstance(name, str):
        raise _Unfit(f"{_of(place, 'class')} is {_short(name)}, expected {whose}")
    raise _Unknown(
        f"{_of(place, 'class')} is {_short(name)}, expected {whose} in this installation; use the version of jaxgen that "
        "wrote it, or pass --config the file that defines the class, if you trust that file: it is code"
    )


def _loaded(name: Any, base: type[Any]) -> type[Any] | None:
    found = [cls for cls in _known(base) if _name(cls) == name and not inspect.isabstract(cls)]
    return found[-1] if found else None  # a config file may have been loaded twice


def _value(value: Any, hint: Any, place: str) -> Any:
    """The value of a declared type that JSON stands for."""
    origin, choices = _parts(hint)
    if hint is Any:
        return tuple(value) if isinstance(value, list) else value
    if origin in (typing.Union, types.UnionType):
        return _any_of(value, hint, choices, place)
    if origin is typing.Literal:
        fits = any(type(value) is type(choice) and value == choice for choice in choices)
    elif origin in _SEQUENCES and isinstance(value, list):
        return _items(value, choices or (Any, ...), place, hint)
    elif origin in _MAPPINGS and isinstance(value, dict):
        return {key: _value(item, (choices or (str, Any))[1], _of(place, key)) for key, item in value.items()}
    elif isinstance(hint, type) and origin is hint and isinstance(value, dict):
        return _instance(value, hint, place)
    elif hint is float:
        fits = (type(value) in (int, float) and abs(value) <= sys.float_info.max) or value in (math.inf, -math.inf)
    elif hint is int:
        fits = type(value) is int and abs(value) <= _LARGEST
    else:
        fits = hint in (str, bool, types.NoneType) and type(value) is hint
    if not fits:
        raise _Unfit(f"{place or 'it'} is {_short(value)}, expected {_expected(hint)}")
    return value


def _any_of(value: Any, hint: Any, choices: tuple[Any, ...], place: str) -> Any:
    """The value of the first of several types that it fits."""
    reasons = []
    for choice in choices:
        try:
            return _value(value, choice, place)
        except _Unfit as reason:
            reasons.append(reason)
    others = [reason for choice, reason in zip(choices, reasons, strict=True) if choice is not types.NoneType]
    if len(others) == 1 and value is not None and isinstance(value, dict | list):  # what is wrong within it
        raise others[0]
    raise _Unfit(f"{place or 'it'} is {_short(value)}, expected {_expected(hint)}")


def _items(value: list[Any], choices: tuple[Any, ...], place: str, hint: Any) -> tuple[Any, ...]:
    if choices[-1] is Ellipsis or typing.get_origin(hint) not in (tuple, None):
        choices = choices[:1] * len(value)
    if len(choices) != len(value):
        raise _Unfit(f"{place or 'it'} has {len(value)} items, expected {_expected(hint)}")
    return tuple(
        _value(item, each, f"{place}[{at}]") for at, (item, each) in enumerate(zip(value, choices, strict=True))
    )


def _instance(value: dict[str, Any], base: type[Any], place: str) -> Any:
    """The dataclass that an object stands for."""
    if "class" not in value:
        raise _Unfit(f"{place or 'it'} is an object without a class, expected {_expected(base)}")
    cls = _named(value["class"], base, place)
    hints, needed = _fields(cls)  # type: ignore[arg-type]
    given = {name: item for name, item in value.items() if name != "class"}
    if unknown := sorted(given.keys() - hints.keys()):
        raise _Unfit(f"{place or 'it'} has the field {_short(unknown[0])}, which {_name(cls)} has not")
    if lacking := sorted(needed - given.keys()):
        raise _Unfit(f"{place or 'it'} lacks the field '{lacking[0]}', which {_name(cls)} needs")
    values = {name: _value(item, hints[name], _of(place, name)) for name, item in given.items()}
    try:
        return cls(**values)
    except UserError as error:
        raise _Unfit(f"{place or 'it'}: {str(error).rstrip('.')}") from None
    except Exception as error:  # what a class makes of values that it does not expect is not written down
        raise _Unfit(f"{place or 'it'} cannot be a {_name(cls)} ({type(error).__name__}: {error})") from None


@functools.cache  # an index may hold a hundred thousand clips
def _fields(cls: Any) -> tuple[dict[str, Any], set[str]]:
    """The declared types of what a dataclass is made of, and the names of those fields that have no default."""
    hints, fields = typing.get_type_hints(cls), [field for field in dataclasses.fields(cls) if field.init]
    missing = dataclasses.MISSING
    needed = {field.name for field in fields if field.default is missing and field.default_factory is missing}
    return {field.name: hints[field.name] for field in fields}, needed


@functools.cache
def _parts(hint: Any) -> tuple[Any, tuple[Any, ...]]:
    return typing.get_origin(hint) or hint, typing.get_args(hint)


def _name(cls: type[Any]) -> str:
    ours = cls.__module__.partition(".")[0] == __name__.partition(".")[0]
    return cls.__qualname__ if ours else f"{cls.__module__}.{cls.__qualname__}"


def _of(place: str, name: str) -> str:
    return f"{place}.{name}" if place else name


def _expected(hint: Any) -> str:
    if isinstance(hint, type) and hint.__module__ != "builtins" and typing.get_origin(hint) is None:
        return f"an object of a class that derives from {_name(hint)}"
    return inspect.formatannotation(hint)


def _short(value: Any) -> str:
    """A JSON value on one short line."""
    if isinstance(value, dict | list):
        return "an object" if isinstance(value, dict) else "a list"
    if isinstance(value, int) and abs(value) > _LARGEST:
        return f"a number of {value.bit_length()} bits"
    text = json.dumps(value)
    return text if len(text) <= 80 else text[:80] + "..."
