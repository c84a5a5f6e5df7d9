"""Objects below an address, through fsspec; one clear line where the store cannot be reached."""

import contextlib
import errno
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from jaxgen.core.environment import one_line
from jaxgen.core.errors import TryAgain, UserError

_OF_THE_ADDRESS = ("ParamValidationError", "BadZipFile", "InvalidURL")
_EXTRA = "pip install 'jaxgen[cloud]'"
_IDENTITY = ("ETag", "etag", "md5Hash", "generation", "mtime", "created")
"""What listings of various stores tell of an object's content; the first that is there counts, beside the size."""


def is_remote(path: str | Path) -> bool:
    """Whether a path is an address in an object store, not a folder."""
    return "://" in str(path)


class StoreFailed(UserError):
    """What was asked of an object store was not done."""


class Unreachable(StoreFailed, TryAgain):
    """It does not answer, or not as it should."""


class Gone(StoreFailed):
    """A bucket or an object is not there."""


class Unusable(StoreFailed):
    """The address is none, or what is there is no object store."""


class NotAllowed(StoreFailed):
    """A package, credentials or rights are missing."""


class ObjectStore:
    """The objects below an address; names are relative to it, with forward slashes.

    Every method raises StoreFailed where the store cannot be reached, or does not let us.
    """

    def __init__(self, url: str):
        self.url = url.rstrip("/")
        logging.getLogger("gcsfs").setLevel(logging.CRITICAL)  # what fails is told by us, once
        with self._reaching():
            import fsspec

            self._system, self._root = fsspec.url_to_fs(self.url, use_listings_cache=False)

    def list(self) -> dict[str, str]:
        """Every object below the address, and what changes when its content does; empty where there is none."""
        with self._reaching():
            found = self._system.find(self._root, detail=True)
        start = self._root.rstrip("/") + "/"
        return {
            path.removeprefix(start): _identity(about)
            for path, about in found.items()
            if path.startswith(start) and not path.endswith("/")
        }

    def read(self, name: str) -> bytes | None:
        """The content of an object, or None where there is none."""
        with self._reaching():
            try:
                return self._system.cat_file(self._at(name))
            except FileNotFoundError:
                return None

    def write(self, name: str, content: bytes, *, new: bool = False) -> None:
        """Writes an object, which is whole or as it was before. new: raises FileExistsError where it is there."""
        with self._reaching():
            self._system.pipe_file(self._at(name), content, mode="create" if new else "overwrite")

    def upload(self, path: Path, name: str) -> None:
        """Writes a file of any size as an object; whole or as it was before."""
        with self._reaching():
            self._system.put_file(str(path), self._at(name))

    def download(self, name: str, path: Path) -> None:
        """Writes an object into a file, piece by piece."""
        with self._reaching():
            self._system.get_file(self._at(name), str(path))

    def remove(self, name: str) -> None:
        """Removes an object, if it is there."""
        with self._reaching(), contextlib.suppress(FileNotFoundError):
            self._system.rm_file(self._at(name))

    def _at(self, name: str) -> str:
        return f"{self._root}/{name}"

    @contextlib.contextmanager
    def _reaching(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # each backend has its own
            if isinstance(error, FileExistsError) or getattr(error, "errno", None) == errno.ENOSPC:
                raise
            kind, remedy = _kind_and_remedy(error)
            raise kind(f"cannot reach '{self.url}' ({one_line(error)}); {remedy}.") from None


def _identity(about: Mapping[str, Any]) -> str:
    told = next((str(about[name]) for name in _IDENTITY if about.get(name)), "")
    return f"{told.strip(chr(34))} {about.get('size')}"


def _kind_and_remedy(error: Exception) -> tuple[type[StoreFailed], str]:
    name = type(error).__name__
    if isinstance(error, ImportError):
        return NotAllowed, f"{_EXTRA} has what s3:// and gs:// need; for others install the package that is named"
    if isinstance(error, ValueError | TypeError | AttributeError | LookupError) or name in _OF_THE_ADDRESS:
        return Unusable, "change the address, as in s3://BUCKET/FOLDER or gs://BUCKET/FOLDER"
    if isinstance(error, FileNotFoundError):
        return Gone, "make the bucket, or change the address"
    if isinstance(error, PermissionError) or "Credential" in name or "Auth" in name:
        return NotAllowed, (
            "set credentials that may read and write there (AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY or AWS_PROFILE "
            "for s3, GOOGLE_APPLICATION_CREDENTIALS for gs)"
        )
    return (
        Unreachable,
        "check the address, the network and, for a store of your own, AWS_ENDPOINT_URL or STORAGE_EMULATOR_HOST",
    )
