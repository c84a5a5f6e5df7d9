"""Runs and data in an object store: `s3://bucket/name`, `gs://bucket/name`, or whatever fsspec has a backend for."""

from jaxgen.storage.mirror import Mirror, copied, delivered, fetched, local_folder, trained_in
from jaxgen.storage.store import is_remote

__all__ = ["Mirror", "copied", "delivered", "fetched", "is_remote", "local_folder", "trained_in"]
