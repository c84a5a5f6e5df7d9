"""Files of arrays that are hashed in blocks: each block is verified before anything of it is used."""

import concurrent.futures
import functools
import hashlib
import os
import weakref
from collections.abc import Sequence
from pathlib import Path

from jaxgen.files import Corrupt, reading, unreadable

_BLOCK = 1 << 20  # bytes


def block_hashes(path: Path) -> list[str]:
    """A hash, hexadecimal, of each MiB of a file."""
    with path.open("rb") as file:
        return [_hash(block) for block in iter(functools.partial(file.read, _BLOCK), b"")]


class BlockFile:
    """A file, open for reading: it can be read on when it is removed, and never maps what may be cut.

    size: in bytes. hashes: its `block_hashes`. Raises Corrupt where there is no such file, or one of another size.
    """

    def __init__(self, path: Path, size: int, hashes: Sequence[str]):
        self.size = size
        self._path, self._hashes = path, hashes
        try:
            self._file = reading(path, lambda: os.open(path, os.O_RDONLY | os.O_CLOEXEC))
        except (FileNotFoundError, NotADirectoryError):
            raise Corrupt(f"'{path}' is missing") from None
        except OSError as error:
            raise unreadable(path, error) from None
        weakref.finalize(self, os.close, self._file)
        self._written = os.fstat(self._file).st_mtime_ns
        self._verified = bytearray(len(hashes))
        if (found := os.fstat(self._file).st_size) != size or len(hashes) != -(-size // _BLOCK):
            raise Corrupt(f"'{path}' has {found:,} bytes, expected {size:,}")

    def read(self, start: int, stop: int) -> bytes:
        """Bytes start..stop. Raises Corrupt where they are not what was written, TryAgain where they cannot be read."""
        if (written := os.fstat(self._file).st_mtime_ns) != self._written:  # under our hands
            self._written, self._verified = written, bytearray(len(self._hashes))
        for block in range(start // _BLOCK, -(-stop // _BLOCK)):
            self._verify(block)
        return self._bytes(start, stop)

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
        if not self._verified[block]:
            start = block * _BLOCK
            if _hash(self._bytes(start, min(start + _BLOCK, self.size))) != self._hashes[block]:
                raise Corrupt(f"'{self._path}' is not what was written, near byte {start:,}")
            self._verified[block] = True

    def _bytes(self, start: int, stop: int) -> bytes:
        pieces = []
        while start < stop:
            piece = reading(self._path, functools.partial(os.pread, self._file, stop - start, start))
            if not piece:
                raise Corrupt(f"'{self._path}' ends at byte {start:,}, expected {self.size:,}")
            pieces.append(piece)
            start += len(piece)
        return b"".join(pieces)


def _hash(block: bytes) -> str:
    return hashlib.sha256(block).hexdigest()[:32]
