"""Compiled programs in a folder: each is sealed, whole or absent, and compiled anew where it is damaged."""

import contextlib
import os
import sys
from pathlib import Path

import jax
from jax._src import compilation_cache  # there is no public way to say how programs are kept

from jaxgen.core.errors import UserError
from jaxgen.core.files import Corrupt, read_checksummed, write_checksummed


def set_compilation_cache(folder: Path) -> None:
    """Has jax keep every program that it compiles in a folder, and load it from there.

    What cannot be written there is left alone. The folder may be moved: its path is no part of what a program is known by.
    """
    with contextlib.suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
    # jax's own cache writes in place, does not verify what it loads, and never replaces what is damaged
    if hasattr(compilation_cache, "get_file_cache"):
        compilation_cache.get_file_cache = lambda path: (_Programs(Path(path)), path)  # type: ignore[assignment, return-value]
    else:
        print(
            f"jaxgen: jax {jax.__version__} keeps compiled programs in a way of its own, unverified.", file=sys.stderr
        )
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    # A folder of XLA's own within this one would make its path a part of every program's key.
    jax.config.update("jax_persistent_cache_enable_xla_caches", "none")


class _Programs:
    """What jax asks of a cache."""

    def __init__(self, folder: Path):
        self._path = folder

    def get(self, key: str) -> bytes | None:
        place = self._place(key)
        try:
            return read_checksummed(place)
        except FileNotFoundError:
            pass
        except Corrupt as damage:
            print(f"jaxgen: {damage}; it is compiled anew.", file=sys.stderr)
            with contextlib.suppress(OSError):
                place.unlink()
        except UserError as error:
            print(f"jaxgen: {error}", file=sys.stderr)
        return None

    def put(self, key: str, value: bytes) -> None:
        place = self._place(key)
        if os.access(self._path, os.W_OK) and not place.exists():
            try:
                write_checksummed(place, value)
            except UserError as error:
                print(f"jaxgen: {error}", file=sys.stderr)

    def _place(self, key: str) -> Path:
        return self._path / f"{key}-cache"
