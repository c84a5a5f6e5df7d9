"""Runs and data in an object store: `s3://bucket/name`, `gs://bucket/name`, or whatever fsspec has a backend for."""

from jaxgen.storage.mirror import Mirror, fetch, local_folder, open_run_copy, output_folder, own_remote_run
from jaxgen.storage.store import is_remote

__all__ = [
    "Mirror",
    "fetch",
    "is_remote",
    "local_folder",
    "open_run_copy",
    "output_folder",
    "own_remote_run",
]
