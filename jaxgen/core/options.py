"""Command lines of dataclasses: every field is an option, `--train.steps 100`.

A field that holds a dataclass can be swapped for a sibling class by name (`--model.cell GRU`), keeping the values both
have. Nothing here imports jax, so that a command which needs none for its options says its --help at once.
"""

import contextlib
import dataclasses
import difflib
import io
import itertools
import math
import re
import typing
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import tyro

from jaxgen.core.errors import UserError
from jaxgen.core.names import UserPath, expand
from jaxgen.core.serial import subclasses

T = TypeVar("T")
_OPTION = re.compile(r"--[\w.-]*\w")
_LARGEST_FLOAT = (2 - 2**-23) * 2.0**127  # of float32


def split_values(args: Sequence[str]) -> list[str]:
    """The words of a command line, `--option=value` as two."""
    return [word for arg in args for word in (arg.split("=", 1) if arg.startswith("--") else [arg])]


def parse(cls: type[T], default: T | None, args: Sequence[str], program: str, description: str | None = None) -> T:
    """Reads options into a dataclass, starting from `default`. description: what --help says above the options.

    `~` is written out in every path. Raises UserError for an unknown option (naming the nearest) and for a value of the
    wrong type.
    """
    args = split_values(args)
    if default is not None:
        default, args = _swap_classes(*_choose_items(default, args))
    known = _options(default) if default is not None else _class_options(cls)
    for option in args:
        if option.startswith("--") and option not in known and option != "--help":
            nearest = difflib.get_close_matches(option, known, n=1, cutoff=0.4)
            meant = f"did you mean {nearest[0]}?" if nearest else "--help lists all of them."
            raise UserError(f"unknown option {option}; {meant}")
    start: dict[str, Any] = {} if default is None else {"default": default}
    errors = io.StringIO()
    try:
        with contextlib.redirect_stderr(errors):
            parsed = tyro.cli(
                cls,
                args=args,
                prog=program,
                description=description or cls.__doc__,
                config=(tyro.conf.AvoidSubcommands,),
                **start,
            )
    except SystemExit as stop:
        if not stop.code:
            raise
        raise UserError(_one_line(errors.getvalue())) from None
    except UserError as error:
        raise UserError(_as_asked(str(error), known, args)) from None
    _check_numbers(parsed)
    return typing.cast(T, _expanded(parsed))


def _expanded(value: Any) -> Any:
    """A dataclass, and all that it holds, with `~` written out in its paths."""
    if isinstance(value, tuple):
        return tuple(map(_expanded, value))
    if isinstance(value, Mapping):
        return {name: _expanded(item) for name, item in value.items()}
    if not dataclasses.is_dataclass(value):
        return value
    changed = {}
    for name, hint in typing.get_type_hints(type(value), include_extras=True).items():
        old = getattr(value, name)
        is_path = old is not None and UserPath in (hint, *typing.get_args(hint))
        if is_path and isinstance(old, tuple):
            new: Any = tuple(map(expand, old))
        else:
            new = expand(old) if is_path else _expanded(old)
        if new != old:
            changed[name] = new
    return dataclasses.replace(value, **changed) if changed else value  # type: ignore[type-var]


def _as_asked(message: str, known: Sequence[str], args: Sequence[str]) -> str:
    """The message with options as they were asked: a part of a model does not know of which, and says --model.dropout for
    --model.plan.dropout.
    """
    said = {option for option in _OPTION.findall(message) if option not in known}
    words = [word for word in args if word in known]
    moves = {move for option in said for word in words if (move := _move(option, word)) is not None}
    if len(moves) != 1:
        return message
    ours, theirs = moves.pop()

    def moved(option: re.Match[str]) -> str:
        parts = option.group()[2:].split(".")
        asked = "--" + ".".join([*theirs, *parts[len(ours) :]])
        return asked if option.group() in said and parts[: len(ours)] == [*ours] and asked in known else option.group()

    return _OPTION.sub(moved, message)


def _move(option: str, other: str) -> tuple[tuple[str, ...], tuple[str, ...]] | None:
    """What stands before the names that two options end with alike; None where they do not."""
    ours, theirs = (each[2:].split(".") for each in (option, other))
    same = 0
    while same < min(len(ours), len(theirs)) and ours[-1 - same] == theirs[-1 - same]:
        same += 1
    return (tuple(ours[:-same]), tuple(theirs[:-same])) if same else None


def _check_numbers(value: Any, option: str = "-") -> None:
    """Raises UserError for a number that is none, or that no array can hold."""
    if dataclasses.is_dataclass(value):
        for field in dataclasses.fields(value):
            joint = "-" if option == "-" else "."
            _check_numbers(getattr(value, field.name), f"{option}{joint}{field.name.replace('_', '-')}")
    elif isinstance(value, tuple):
        for place, item in enumerate(value):
            _check_numbers(item, f"{option}.{place}")
    elif isinstance(value, Mapping):
        for name, item in value.items():
            _check_numbers(item, f"{option}.{name}")
    elif isinstance(value, float) and math.isnan(value):
        raise UserError(f"{option} is {value}, expected a number.")
    elif isinstance(value, int | float) and _largest(value) < abs(value) < math.inf:
        raise UserError(f"{option} is {value}, which is too large.")


def _largest(value: float) -> float:
    return 2**63 - 1 if isinstance(value, int) else _LARGEST_FLOAT


def _one_line(panel: str) -> str:
    """The first paragraph of tyro's error panel, as one sentence."""
    rows = [row.strip("│╭╮╰╯ ").strip() for row in panel.splitlines()[1:]]
    sentence = []
    for row in rows:
        if not row or set(row) <= {"─"}:
            break
        sentence.append(row)
    return " ".join(sentence).rstrip(".") + ". Run with --help for what each option expects."


def _swap_classes(default: T, args: list[str]) -> tuple[T, list[str]]:
    """Takes `--path.to.field ClassName` out of the options and puts that class in, with the values of a kind that both have."""
    rest: list[str] = []
    for word in args:
        field = _field(default, rest[-1]) if rest else None
        if field is not None and dataclasses.is_dataclass(field.value) and isinstance(field.base, type):
            classes = {cls.__name__: cls for cls in subclasses(field.base)}
            if word not in classes:
                raise UserError(f"{rest[-1]} is '{word}', expected one of {', '.join(sorted(classes))}.")
            ours, theirs = (typing.get_type_hints(cls) for cls in (type(field.value), classes[word]))
            shared = {
                f.name: getattr(field.value, f.name)
                for f in dataclasses.fields(classes[word])
                if ours.get(f.name) == theirs[f.name]
            }
            try:
                new = classes[word](**shared)
            except TypeError as error:
                raise UserError(f"{rest[-1]} {word} needs more than the command line gives ({error}).") from None
            default = _replace(default, rest.pop()[2:].replace("-", "_").split("."), new)
        else:
            rest.append(word)
    return default, rest


def _choose_items(default: T, args: list[str]) -> tuple[T, list[str]]:
    """Takes `--path.to.field ClassName ...` out of the options, for a field that holds any number of dataclasses, and puts
    these in; one that is there already stays as it is.
    """
    rest: list[str] = []
    words = list(args)
    while words:
        rest.append(words.pop(0))
        if (field := _field(default, rest[-1])) is None or (base := _item_class(field.base)) is None:
            continue
        option, names = rest.pop(), list(itertools.takewhile(lambda word: not word.startswith("--"), words))
        words = words[len(names) :]
        there = {type(item).__name__: item for item in field.value}
        chosen = [there[name] if name in there else instances_by_name(base, [name], option)[0] for name in names]
        default = _replace(default, option[2:].replace("-", "_").split("."), tuple(chosen))
    return default, rest


def _item_class(hint: Any) -> type | None:
    """The class that a field's type names the items of: `Logger` of `tuple[Logger, ...]`; None for any other type."""
    items = typing.get_args(hint)
    several = typing.get_origin(hint) is tuple and items[-1] is Ellipsis and isinstance(items[0], type)
    return items[0] if several and items[0].__module__ != "builtins" else None


@dataclasses.dataclass(frozen=True)
class _Field:
    base: Any
    """Its declared type."""
    value: Any


def _field(default: Any, option: str) -> _Field | None:
    """The field that `--a.b.c` names, if there is one."""
    value, base = default, None
    if not option.startswith("--"):
        return None
    for name in option[2:].replace("-", "_").split("."):
        if not dataclasses.is_dataclass(value) or name not in {field.name for field in dataclasses.fields(value)}:
            return None
        base = typing.get_type_hints(type(value))[name]
        value = getattr(value, name)
    return _Field(base, value)


def check_one_code(config: object, trust_code: bool) -> None:
    """Raises UserError where both a config file and the run's own code are to be run: one would hide the other's classes."""
    if config is not None and trust_code:
        raise UserError("--config and --trust-code both say what code to run; pass one of them.")


def instances_by_name(base: type[T], names: Sequence[str], option: str) -> tuple[T, ...]:
    """Instances, with their defaults, of the dataclasses of these names that derive from `base`; `option` asks for them.

    Raises UserError for a name that none has, or that of a class which has no defaults.
    """
    classes = {cls.__name__: cls for cls in subclasses(base)}
    found = []
    for name in names:
        if name not in classes:
            raise UserError(f"{option} has '{name}', expected some of {', '.join(sorted(classes))}.")
        try:
            found.append(classes[name]())
        except TypeError as error:
            raise UserError(f"{option} {name} needs more than the command line gives ({error}).") from None
    return tuple(found)


def _replace(value: Any, path: Sequence[str], new: Any) -> Any:
    if not path:
        return new
    return dataclasses.replace(value, **{path[0]: _replace(getattr(value, path[0]), path[1:], new)})


def _options(value: Any, prefix: str = "--") -> list[str]:
    """The options of a config value, in tyro's spelling."""
    names = []
    for field in dataclasses.fields(value):
        option = prefix + field.name.replace("_", "-")
        child = getattr(value, field.name)
        if dataclasses.is_dataclass(child):
            names += _options(child, option + ".")
        elif isinstance(child, tuple) and child and all(map(dataclasses.is_dataclass, child)):
            names += [name for place, item in enumerate(child) for name in _options(item, f"{option}.{place}.")]
        elif isinstance(child, Mapping):
            names += [name for key, item in child.items() for name in _options(item, f"{option}.{key}.")]
        else:
            names.append(option)
            if isinstance(child, bool):
                names.append(prefix + "no-" + field.name.replace("_", "-"))
    return names


def _class_options(cls: Any) -> list[str]:
    names = []
    for field in dataclasses.fields(cls):
        name = field.name.replace("_", "-")
        if dataclasses.is_dataclass(field.default):
            names += _options(field.default, f"--{name}.")
        else:
            names += [f"--{name}", *[f"--no-{name}"] * isinstance(field.default, bool)]
    return names


def possible_options(cls: type[Any], prefix: str = "--") -> dict[str, tuple[str, ...]]:
    """Every option of a dataclass, whichever classes its fields hold, in tyro's spelling.

    To each the values that are known ahead: names of classes, or the choices of a literal; none for other values. Modules beside
    those of the fields' classes are imported, to find them.
    """
    hints, found = typing.get_type_hints(cls), dict[str, tuple[str, ...]]()
    for field in dataclasses.fields(cls):
        name, hint = field.name.replace("_", "-"), hints[field.name]
        if isinstance(hint, type) and (classes := subclasses(hint)):
            found[prefix + name] = tuple(sorted(each.__name__ for each in classes))
            for each in classes:
                found |= possible_options(each, f"{prefix}{name}.")
        else:
            found[prefix + name] = typing.get_args(hint) if typing.get_origin(hint) is typing.Literal else ()
            if hint is bool:
                found[f"{prefix}no-{name}"] = ()
    return found
