"""Writes the reference of commands from their `--help`, and that of config classes from the classes themselves.

Both land in `docs/reference/generated`, which git ignores.
"""

import contextlib
import dataclasses
import importlib
import inspect
import io
import os
import pkgutil
import re
import types
import typing
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any


def setup(app: Any) -> dict[str, Any]:
    app.connect("builder-inited", _write)
    return {"parallel_read_safe": True}


def _write(app: Any) -> None:
    folder = Path(app.srcdir) / "reference" / "generated"
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in help_pages().items():
        _replace(folder / f"{name}.txt", text)
    _replace(folder / "config.md", config_page())


def _replace(path: Path, text: str) -> None:
    """Writes what has changed alone, so that Sphinx reads only that again."""
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        path.write_text(text, encoding="utf-8")


def help_pages() -> dict[str, str]:
    """What `--help` of each command prints."""
    from jaxgen.cli import evaluate, generate, sweep
    from jaxgen.config import parse
    from jaxgen.recipes.presets import load_config

    return {
        "train": _printed(lambda: load_config(["--help"], "python -m jaxgen.train")),
        "generate": _printed(lambda: parse(generate.Options, None, ["--help"], "python -m jaxgen.generate")),
        "evaluate": _printed(lambda: parse(evaluate.Options, None, ["--help"], "python -m jaxgen.evaluate")),
        "sweep": _printed(lambda: parse(sweep.Options, None, ["--help"], "python -m jaxgen.sweep", sweep.USAGE)),
    }


def _printed(show: Callable[[], object]) -> str:
    """What is printed on a plain terminal of 96 columns, without the frames around groups of options."""
    out = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")  # tyro draws as the encoding allows
    before = dict(os.environ)
    os.environ |= {"COLUMNS": "96", "NO_COLOR": "1"}
    try:
        with contextlib.redirect_stdout(out), contextlib.suppress(SystemExit):
            show()
    finally:
        os.environ.clear()
        os.environ.update(before)
    out.seek(0)
    lines = [_plain(line) for line in out.read().splitlines() if not re.fullmatch(r"[╰─╯│ ]+", line)]
    return "\n".join(lines) + "\n"


def _plain(line: str) -> str:
    if line.startswith("╭"):
        return "\n" + line.strip("╭─╮ ").upper()
    return line.strip("│").rstrip() if line.startswith("│") else line


def config_page() -> str:
    """One section a class that can stand in a `Config`, each with a table of its fields."""
    import jaxgen
    from jaxgen.config import Config

    for module in pkgutil.walk_packages(jaxgen.__path__, "jaxgen."):
        importlib.import_module(module.name)
    classes: dict[type, list[str]] = {Config: []}
    for cls in classes_below(Config):
        classes.setdefault(cls, [])
    return "\n".join(_section(cls) for cls in classes)


def classes_below(cls: type, seen: set[type] | None = None) -> Iterator[type]:
    """The dataclasses that fields of `cls` may hold, and theirs, each once."""
    seen = {cls} if seen is None else seen
    hints = typing.get_type_hints(cls)
    for field in dataclasses.fields(cls):
        for base in _classes(hints[field.name]):
            for candidate in _concrete(base):
                if candidate not in seen:
                    seen.add(candidate)
                    yield candidate
                    yield from classes_below(candidate, seen)


def _classes(hint: Any) -> Iterator[type]:
    """The classes of jaxgen that a type hint names."""
    if isinstance(hint, types.UnionType) or typing.get_origin(hint) is not None:
        for part in typing.get_args(hint):
            yield from _classes(part)
    elif isinstance(hint, type) and hint.__module__.startswith("jaxgen."):
        yield hint


def _concrete(base: type) -> Iterator[type]:
    if dataclasses.is_dataclass(base) and not inspect.isabstract(base) and not base.__subclasses__():
        yield base
    for derived in base.__subclasses__():
        yield from _concrete(derived)


def _section(cls: type) -> str:
    title = f"## {cls.__name__}\n\n`{cls.__module__}.{cls.__name__}`\n\n{_summary(cls)}\n"
    fields = dataclasses.fields(cls)
    if not fields:
        return title + "\nIt has no fields.\n"
    rows = "\n".join(
        f"| `{field.name}` | `{_type(field.type)}` | {_default(field)} | {_cell(_said(cls, field.name))} |"
        for field in fields
    )
    return f"{title}\n| field | type | default | meaning |\n|---|---|---|---|\n{rows}\n"


def _summary(cls: type) -> str:
    """The first paragraph of a class's docstring."""
    text = inspect.getdoc(cls) or ""
    return "" if text.startswith(f"{cls.__name__}(") else _cell(text.split("\n\n")[0])


def _said(cls: type, name: str) -> str:
    """The text under a field, in the class or the base that defines it."""
    from sphinx.pycode import ModuleAnalyzer

    for base in cls.__mro__:
        if base.__module__.startswith("jaxgen."):
            found = ModuleAnalyzer.for_module(base.__module__)
            found.analyze()
            if lines := found.attr_docs.get((base.__name__, name)):
                return " ".join(" ".join(lines).split())
    return ""


def _type(hint: Any) -> str:
    text = hint.__name__ if isinstance(hint, type) else str(hint)
    return re.sub(r"\b(?:jaxgen|typing|collections)\.(?:\w+\.)*", "", text).replace("|", r"\|")


def _default(field: Any) -> str:
    value = field.default
    if value is dataclasses.MISSING:
        return "required" if field.default_factory is dataclasses.MISSING else "(made anew)"
    if dataclasses.is_dataclass(value):
        return f"`{type(value).__name__}({'...' if dataclasses.fields(value) else ''})`"
    return f"`{value!r}`".replace("|", r"\|")


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", r"\|").replace("<", r"\<").replace("*", r"\*")
