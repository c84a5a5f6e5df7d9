"""Docstrings of jaxgen are plain text with `code` in single backquotes; this makes reStructuredText of them."""

import re
from collections.abc import Iterable
from typing import Any

_SPECIAL = re.compile(r"(?<!\\)([*|])|(?<=\w)_(?!\w)")
_DEFINITION = re.compile(r"^[a-z{][\w{}, ]*: ")


def setup(app: Any) -> dict[str, Any]:
    app.connect("autodoc-process-docstring", _process)
    return {"parallel_read_safe": True}


def _process(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    lines[:] = rst(lines)


def rst(lines: Iterable[str]) -> list[str]:
    """Paragraphs stay, lines `name: what it is` become a list, and what is indented becomes literal."""
    out: list[str] = []
    literal = in_list = False
    for line in lines:
        text = line.strip()
        indented = line.startswith("    ")
        if indented and not literal and not in_list and (not out or not out[-1]):
            out += ["::", ""]
            literal = True
        if text and not indented:
            literal = False
        if literal:
            out.append(line)
        elif not text:
            in_list = False
            out.append("")
        elif _DEFINITION.match(text) and not indented:
            if not in_list and out and out[-1]:
                out.append("")
            in_list = True
            out.append(f"- {_inline(text)}")
        else:
            out.append(f"  {_inline(text)}" if in_list else _inline(text))
    return [*out, ""]


def _inline(text: str) -> str:
    """Code between backquotes in the way of reStructuredText; all else without its special characters."""
    pieces = text.split("`")
    if len(pieces) % 2 == 0:
        return _SPECIAL.sub(r"\\\g<0>", text.replace("`", r"\`"))
    return "".join(
        f"``{piece}``" if place % 2 else _SPECIAL.sub(r"\\\g<0>", piece) for place, piece in enumerate(pieces) if piece
    )
