"""Arrays in files that are hashed in blocks: each block is verified before anything of it is used."""

import concurrent.futures
import functools
import hashlib
import math
import os
import time
import weakref
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from jaxgen.core.files import Corrupt, open_regular, read_error, retry_read

_BLOCK = 1 << 20  # bytes
_LOOK_EVERY = 1.0  # seconds, whether the file was written to since


def block_hashes(path: Path) -> list[str]:
    """A hash, hexadecimal, of each MiB of a file."""
    with path.open("rb") as file:
        return [_hash(block) for block in iter(functools.partial(file.read, _BLOCK), b"")]


class BlockArray:
    """An array [length, *shape] in a file. It is read, not mapped: where the file is cut, a process would be killed.

    It stays open, and so readable when it is removed. hashes: its `block_hashes`. Raises Corrupt where the file is
    missing or has another size.
    """

    def __init__(self, path: Path, length: int, shape: Sequence[int], dtype: np.dtype, hashes: Sequence[str]):
        self._path, self._hashes = path, hashes
        self._dtype, self._shape = dtype, (-1, *shape)
        self._item = dtype.itemsize * math.prod(shape)
        self.size = length * self._item
        """In bytes."""
        try:
            with retry_read(path, lambda: open_regular(path)) as file:
                self._file = os.dup(file.fileno())
        except (FileNotFoundError, NotADirectoryError):
            raise Corrupt(f"'{path}' is missing") from None
        except OSError as error:
            raise read_error(path, error) from None
        weakref.finalize(self, os.close, self._file)
        status = os.fstat(self._file)
        self._looked, self._written = time.monotonic(), status.st_mtime_ns
        self._verified = bytearray(len(hashes))
        if status.st_size != self.size or len(hashes) != -(-self.size // _BLOCK):
            raise Corrupt(f"'{path}' has {status.st_size:,} bytes, expected {self.size:,}")

    def read(self, start: int, stop: int) -> np.ndarray:
        """Items start..stop. Raises Corrupt where they are not what was written, TryAgain where they cannot be read."""
        if (now := time.monotonic()) > self._looked + _LOOK_EVERY:
            self._looked = now
            if (written := os.fstat(self._file).st_mtime_ns) != self._written:  # under our hands
                self._written, self._verified = written, bytearray(len(self._hashes))
        first, last = start * self._item, stop * self._item
        for block in range(first // _BLOCK, -(-last // _BLOCK)):
            if not self._verified[block]:
                self._verify(block)
        return np.frombuffer(self._bytes(first, last), self._dtype).reshape(self._shape)

    def verify(self) -> None:
        """Verifies all of it now, in parallel. Raises what `read` does."""
        with concurrent.futures.ThreadPoolExecutor() as pool:
            list(pool.map(self._verify, range(len(self._hashes))))

    def is_in_place(self) -> bool:
        """Whether its path still leads to it."""
        try:
            return os.path.samestat(os.stat(self._path), os.fstat(self._file))
        except OSError:
            return False

    def _verify(self, block: int) -> None:
        start = block * _BLOCK
        if _hash(self._bytes(start, min(start + _BLOCK, self.size))) != self._hashes[block]:
            raise Corrupt(f"'{self._path}' is not what was written there, near byte {start:,}")
        self._verified[block] = True

    def _bytes(self, start: int, stop: int) -> bytes:
        pieces = []
        while start < stop:
            try:
                piece = retry_read(self._path, functools.partial(os.pread, self._file, stop - start, start))
            except OSError as error:
                raise read_error(self._path, error) from None
            if not piece:
                raise Corrupt(f"'{self._path}' ends at byte {start:,}, expected {self.size:,}")
            pieces.append(piece)
            start += len(piece)
        return b"".join(pieces)


def _hash(block: bytes) -> str:
    return hashlib.sha256(block).hexdigest()[:32]
