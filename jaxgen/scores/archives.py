"""Archives of piano rolls and voices (.npz), as the chorale and folk-tune benchmarks are distributed."""

import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jaxgen.core.files import open_regular
from jaxgen.scores.rolls import NUM_KEYS, REST
from jaxgen.scores.score import ScoreError

SPLIT_NAMES: Mapping[str, str] = {"train": "train", "valid": "validation", "test": "test"}
"""jaxgen's names of the splits, by the archive's."""

_PACKED = (NUM_KEYS + 7) // 8
_MOST_BYTES = 1 << 29  # unpacked
_DAMAGED = (zipfile.BadZipFile, ValueError, KeyError, EOFError, OSError, NotImplementedError, RuntimeError)


def read_rolls(path: str | Path) -> dict[str, list[NDArray[np.bool_]]]:
    """Piano rolls bool [T, 88] of the pieces of each split, key 0 is MIDI pitch 21.

    In the archive: for `train`, `valid` and `test` uint8 [sum of T, 11], the packed bits of 88 keys, and `train_len` and
    so on, the T of each piece. Raises ScoreError for anything else.
    """

    def unpack(frames: NDArray[Any]) -> NDArray[np.bool_]:
        if frames.dtype != np.uint8 or frames.ndim != 2 or frames.shape[1] != _PACKED:
            raise ScoreError(f"{frames.dtype} {list(frames.shape)}, expected packed rolls, uint8 [T, {_PACKED}]")
        return np.unpackbits(frames, axis=1)[:, :NUM_KEYS].astype(bool)

    return _read(path, unpack)


def read_voices(path: str | Path) -> dict[str, list[NDArray[np.int16]]]:
    """The pitch of each voice in each frame, int16 [T, V], REST for silence, of the pieces of each split.

    In the archive: as for `read_rolls`, but signed integers [sum of T, V]: MIDI pitches, negative for silence. Held notes
    are not told from repeated ones: `rolls.mark_holds` takes them for held. Raises ScoreError for anything else.
    """

    def check(frames: NDArray[Any]) -> NDArray[np.int16]:
        if frames.dtype.kind != "i" or frames.ndim != 2 or not 1 <= frames.shape[1] <= 64:
            raise ScoreError(f"{frames.dtype} {list(frames.shape)}, expected voices, signed integers [T, V]")
        if frames.max(initial=0) > 127:
            raise ScoreError(f"a MIDI pitch of {frames.max()}, expected at most 127")
        return np.where(frames < 0, REST, frames).astype(np.int16)

    return _read(path, check)


def _read(path: str | Path, convert: Callable[[NDArray[Any]], NDArray[Any]]) -> dict[str, list[NDArray[Any]]]:
    try:
        with open_regular(path) as file:
            with zipfile.ZipFile(file) as archive:
                size = sum(member.file_size for member in archive.infolist())
            if size > _MOST_BYTES:
                raise ScoreError(f"{size >> 20} MiB unpacked, expected at most {_MOST_BYTES >> 20} MiB")
            file.seek(0)
            with np.load(file, allow_pickle=False) as arrays:
                kept = {name: arrays[name] for name in arrays.files if name.removesuffix("_len") in SPLIT_NAMES}
    except _DAMAGED as error:
        raise ScoreError(f"not an archive of arrays without pickles ({str(error)[:80]})") from None
    if missing := [name for name in ("train", "train_len") if name not in kept]:
        raise ScoreError(f"no array '{missing[0]}'")
    pieces = {}
    for name, split in SPLIT_NAMES.items():
        if name in kept:
            lengths = kept.get(f"{name}_len", np.zeros(0))
            frames = convert(kept[name])
            if (
                lengths.ndim != 1
                or lengths.dtype.kind not in "iu"
                or lengths.min(initial=1) < 1
                or lengths.sum() != len(frames)
            ):
                raise ScoreError(f"'{name}_len' is not the lengths of the pieces in '{name}'")
            pieces[split] = np.split(frames, np.cumsum(lengths)[:-1])
    return pieces
