"""What tells whether a checkpoint holds what was saved: hashes of its files, and what its arrays were."""

import contextlib
import dataclasses
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax

from jaxgen.core.serial import content_hash


class Damaged(Exception):
    """A checkpoint is not what was saved: a file is gone, or holds other bytes; the text says which."""


@dataclasses.dataclass(frozen=True)
class About:
    """What a checkpoint says of its state."""

    position: Any
    """The data position."""
    metrics: Mapping[str, float]
    """Validation figures that are finite."""
    arrays: Mapping[str, str]
    """As `describe_arrays`."""


@dataclasses.dataclass(frozen=True)
class Hashes:
    """What the files of a state hold."""

    sha256: Mapping[str, str]
    """Hexadecimal, by path below the state's folder."""


def seal(content: Any) -> dict[str, Any]:
    """JSON with its SHA-256, hexadecimal."""
    return {"content": content, "sha256": content_hash(content)}


def unseal(sealed: Any) -> Any:
    """The JSON under a seal. Raises Damaged where it is not what was sealed."""
    with contextlib.suppress(RecursionError):  # of what is nested too deeply to be ours
        if isinstance(sealed, dict) and sealed == seal(sealed.get("content")):
            return sealed["content"]
    raise Damaged("its content is not what was saved")


def digest(path: Path) -> str:
    """SHA-256 of a file, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def hash_files(folder: Path) -> Hashes:
    """Those of all files below a folder."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return Hashes({path.relative_to(folder).as_posix(): digest(path) for path in files})


def describe_arrays(state: Any) -> dict[str, str]:
    """The dtype and shape of each array of a state, by its path: float32[3, 4] as params/head/kernel."""
    leaves = jax.tree_util.tree_leaves_with_path(state)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): f"{x.dtype}{list(x.shape)}" for path, x in leaves}
