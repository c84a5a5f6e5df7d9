"""The config that a command line asks for. --help is kept in the cache, since jax takes seconds to import."""

import contextlib
import hashlib
import io
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from jaxgen import __version__
from jaxgen.core.errors import UserError
from jaxgen.core.files import read_checksummed, write_checksummed
from jaxgen.core.names import CACHE_DIR, expand

if TYPE_CHECKING:
    from jaxgen.config import Config


def read_config(words: Sequence[str], program: str) -> "Config":
    """See `jaxgen.recipes.presets.load_config`. --help by itself is shown as it was before, without importing jax.

    Raises UserError for what cannot be understood, SystemExit behind --help.
    """
    if list(words) not in (["--help"], ["-h"]):
        return _read(words, program)
    kept = Path(expand(CACHE_DIR), "help", f"{_key(program)}.txt")
    with contextlib.suppress(OSError, UserError):
        sys.stdout.write(read_checksummed(kept).decode())
        raise SystemExit(0)
    shown = _Terminal()
    try:
        with contextlib.redirect_stdout(shown):
            return _read(words, program)
    finally:
        sys.stdout.write(shown.getvalue())
        with contextlib.suppress(OSError, UserError):  # a cache that cannot be written costs no more than time
            kept.parent.mkdir(parents=True, exist_ok=True)
            write_checksummed(kept, shown.getvalue())


def _read(words: Sequence[str], program: str) -> "Config":
    from jaxgen.recipes.presets import load_config

    return load_config(words, program)


def _key(program: str) -> str:
    """The same while the version, the source files and the width of the terminal are."""
    package = Path(__file__).parent.parent
    sources = [(str(file), file.stat().st_mtime_ns) for file in sorted(package.rglob("*.py"))]
    terminal = (shutil.get_terminal_size().columns, sys.stdout.isatty())
    return hashlib.sha256(repr((__version__, program, terminal, sources)).encode()).hexdigest()[:32]


class _Terminal(io.StringIO):
    """Keeps what is written, which is as coloured as it would be on stdout."""

    def isatty(self) -> bool:
        return sys.__stdout__ is not None and sys.__stdout__.isatty()
