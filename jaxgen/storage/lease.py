"""Who trains in a run's folder in an object store: an object that its holder writes anew again and again."""

import contextlib
import json
import os
import socket
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from jaxgen.core.errors import TryAgain, UserError
from jaxgen.storage.store import ObjectStore, StoreFailed

_NAME = ".lease"
_REFRESH = 15.0  # seconds
_DEAD_AFTER = 60.0  # seconds without a refresh, by the watcher's own clock: two machines' clocks need not agree
_SETTLE = 1.0  # seconds, for another one that takes the same dead lease


@contextlib.contextmanager
def hold_lease(store: ObjectStore) -> Iterator[Callable[[], None]]:
    """While entered, this process alone holds the lease; gives a function that raises TryAgain once it does not.

    Where another one holds it, waits for a minute, in which that is seen to live or to have died. Raises TryAgain where
    it lives.
    """
    lease = _Lease(store)
    lease.take()
    keeper = threading.Thread(target=lease.keep, name="lease", daemon=True)
    keeper.start()
    try:
        yield lease.check
    finally:
        lease.done.set()
        keeper.join()
        with contextlib.suppress(UserError):
            lease.let_go()


class _Lease:
    def __init__(self, store: ObjectStore):
        self._store = store
        self._me = {"host": socket.gethostname(), "pid": os.getpid(), "machine": _machine(), "id": uuid.uuid4().hex}
        self._count = 0
        self._taken_by: dict[str, Any] | None = None
        self.done = threading.Event()

    def take(self) -> None:
        found = self._store.read(_NAME)
        if found is None:
            try:
                self._store.write(_NAME, self._content(), new=True)
                return self._settle()
            except FileExistsError:
                found = self._store.read(_NAME)
        holder = _parsed(found)
        if holder and not _died_here(holder):
            print(
                f"jaxgen: {_name(holder)} holds '{self._store.url}'; waiting up to {_DEAD_AFTER:.0f} s to see whether it "
                "still runs",
                file=sys.stderr,
            )
            end = time.monotonic() + _DEAD_AFTER
            while (now := self._store.read(_NAME)) == found and time.monotonic() < end:
                time.sleep(min(1.0, _DEAD_AFTER / 10))
            if now is not None and now != found:
                raise self._refusal(_parsed(now))
        self._store.write(_NAME, self._content())
        self._settle()

    def _settle(self) -> None:
        time.sleep(_SETTLE)
        self.check()

    def keep(self) -> None:
        while not self.done.wait(_REFRESH):
            with contextlib.suppress(StoreFailed):  # the next one may reach it
                self._look()
                if self._taken_by is not None:
                    return
                self._store.write(_NAME, self._content())

    def check(self) -> None:
        self._look()
        if self._taken_by is not None:
            raise self._refusal(self._taken_by)

    def let_go(self) -> None:
        self._look()
        if self._taken_by is None:
            self._store.remove(_NAME)

    def _look(self) -> None:
        holder = _parsed(self._store.read(_NAME))
        if holder and holder["id"] != self._me["id"]:
            self._taken_by = holder

    def _content(self) -> bytes:
        self._count += 1
        return json.dumps(self._me | {"refreshed": self._count}).encode()

    def _refusal(self, holder: dict[str, Any]) -> TryAgain:
        return TryAgain(
            f"another process trains in '{self._store.url}' ({_name(holder)}). Wait for it, stop it, or pass another "
            "--workdir."
        )


def _parsed(content: bytes | None) -> dict[str, Any]:
    """What a lease says; nothing where it says nothing that can be read."""
    try:
        holder = json.loads(content or b"{}")
        return {name: holder[name] for name in ("host", "pid", "machine", "id")}
    except (ValueError, KeyError, TypeError, RecursionError):
        return {}


def _name(holder: dict[str, Any]) -> str:
    return f"process {holder.get('pid')} on {holder.get('host')}"


def _died_here(holder: dict[str, Any]) -> bool:
    """Whether it was a process beside us that is no more."""
    if not _machine() or holder["machine"] != _machine():
        return False
    return holder["pid"] == os.getpid() or not Path(f"/proc/{holder['pid']}").exists()


def _machine() -> str:
    """This start of this machine, and the space in which process numbers are those of one process each; "" where Linux
    does not tell.
    """
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip() + os.readlink(
            "/proc/self/ns/pid"
        )
    except OSError:
        return ""
