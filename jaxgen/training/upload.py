"""Checkpoints that go to an object store while training goes on; with several processes, from the first one."""

import concurrent.futures
import sys
import time
from pathlib import Path
from typing import Any, Self

import jax
import numpy as np
from jax.experimental import multihost_utils

from jaxgen.core.files import explain_write_errors
from jaxgen.storage import Mirror
from jaxgen.storage.store import StoreFailed
from jaxgen.training.checkpoint import Checkpoints, SavedState
from jaxgen.training.distributed import broadcast_from_first


class UploadingCheckpoints(Checkpoints):
    """Checkpoints in a local copy of a run's folder; when one is on disk it is uploaded, with all else that is new.

    One upload runs at a time, and nothing in the folder of checkpoints is changed meanwhile. A failed one is told, and
    made good with the next.
    """

    def __init__(self, directory: Path, mirror: Mirror, **options: Any):
        with explain_write_errors(directory):
            directory.mkdir(parents=True, exist_ok=True)
        super().__init__(directory, alone=True, **options)
        self._mirror = mirror
        self._pool = concurrent.futures.ThreadPoolExecutor(1, "upload")
        self._upload: concurrent.futures.Future[None] | None = None

    def save(self, *args: Any) -> None:
        """As `Checkpoints.save`, once the upload of the one before has ended. Raises UserError where another process has
        taken the run's folder.
        """
        self._end_upload()
        super().save(*args)
        self._upload = self._pool.submit(self._upload_when_saved)

    def wait(self) -> None:
        """Returns when every started save is on disk, and its upload has ended."""
        super().wait()
        self._end_upload()

    def close(self) -> None:
        """As `Checkpoints.close`, after the uploads."""
        try:
            super().close()
        finally:
            self._pool.shutdown()

    def _upload_when_saved(self) -> None:
        while self.manager.is_saving_in_progress():
            time.sleep(0.02)
        self._mirror.push()

    def _end_upload(self) -> None:
        upload, self._upload = self._upload, None
        try:
            if upload is not None:
                upload.result()
        except StoreFailed as error:
            print(f"jaxgen: {error} It is uploaded with the next checkpoint.", file=sys.stderr)


class FirstProcessCheckpoints:
    """The checkpoints of several processes, of which the first alone sees the run's folder. All meet at the same calls."""

    def __init__(self, own: UploadingCheckpoints | None):
        """own: the first process's; None in the others."""
        self._own = own

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def save(self, step: int, state: Any, data: dict[str, Any], run: Any, metrics: dict[str, float] | None) -> None:
        """As `Checkpoints.save`; the state comes together in the first process's memory, array by array: others hold one."""
        leaves, structure = jax.tree.flatten(state)
        whole = []
        for leaf in leaves:
            array = multihost_utils.process_allgather(leaf, tiled=True)
            if self._own is not None:
                whole.append(array)
            del array
        broadcast_from_first(lambda: self._first.save(step, jax.tree.unflatten(structure, whole), data, run, metrics))

    def restore_newest(self, state: Any) -> SavedState | None:
        """As `Checkpoints.restore_newest`: the first process reads it and tells the others."""
        read: list[SavedState] = []

        def find() -> dict[str, Any] | None:
            shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), state)
            read.extend(filter(None, [self._first.restore_newest(shapes)]))
            return {"step": read[0].step, "data": read[0].data} if read else None

        found = broadcast_from_first(find)
        if found is None:
            return None
        likes, structure = jax.tree.flatten(state)
        whole = jax.tree.leaves(read[0].state) if read else [None] * len(likes)
        told = [_told_by_first(array, like) for array, like in zip(whole, likes, strict=True)]
        return SavedState(found["step"], jax.tree.unflatten(structure, told), found["data"])

    def wait(self) -> None:
        """As `Checkpoints.wait`."""
        broadcast_from_first(lambda: self._first.wait())

    def close(self) -> None:
        """As `Checkpoints.close`; each process on its own, since others may have stopped."""
        if self._own is not None:
            self._own.close()

    @property
    def _first(self) -> UploadingCheckpoints:
        assert self._own is not None
        return self._own


def _told_by_first(array: Any, like: jax.Array) -> jax.Array:
    """An array of the first process, which the others do not have, bit for bit, where `like` lies."""
    host = np.zeros(like.shape, like.dtype) if array is None else np.asarray(array)
    sent = multihost_utils.broadcast_one_to_all(host.reshape(-1).view(np.uint8))
    told = np.asarray(sent).view(host.dtype).reshape(host.shape)
    return jax.make_array_from_callback(like.shape, like.sharding, lambda index: told[index])
