"""Checkpoints that go to an object store while training goes on."""

import concurrent.futures
import sys
import time
from pathlib import Path
from typing import Any

from jaxgen.remote import Mirror
from jaxgen.remote.store import Unreachable
from jaxgen.training.checkpoint import Checkpoints


class UploadedCheckpoints(Checkpoints):
    """Checkpoints in a local copy of a run's folder; when one is on disk it is uploaded, with all else that is new.

    One upload runs at a time, and nothing in the folder of checkpoints is changed meanwhile. A failed one is told, and
    made good with the next.
    """

    def __init__(self, directory: Path, mirror: Mirror, **options: Any):
        super().__init__(directory, **options)
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
        except Unreachable as error:
            print(f"jaxgen: {error} It is uploaded with the next checkpoint.", file=sys.stderr)
