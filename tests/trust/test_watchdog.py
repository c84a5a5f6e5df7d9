"""The watchdog looks on, whatever happens to threads, clocks and the one whom it tells."""

import threading
import time

import pytest

from jaxgen.training import watchdog
from jaxgen.training.watchdog import Watchdog


@pytest.mark.parametrize("broken", ["tell", "threads", "clock", "median"])
def test_one_failure_ends_neither_the_watchdog_nor_the_run(broken, monkeypatch):
    told, failed, heard = [], threading.Event(), threading.Event()

    def once(function):
        def call(*arguments):
            if threading.current_thread().name == "watchdog" and not failed.is_set():
                failed.set()
                raise KeyError(7)
            return function(*arguments)

        return call

    def tell(text):
        told.append(text)
        heard.set()

    places = {
        "threads": (watchdog.threading, "enumerate"),
        "clock": (watchdog.time, "monotonic"),
        "median": (watchdog.statistics, "median"),
    }
    if broken in places:
        module, name = places[broken]
        monkeypatch.setattr(module, name, once(getattr(module, name)))
    with Watchdog(once(tell) if broken == "tell" else tell, 0.02) as dog:
        with dog.watch("an update"):
            time.sleep(0.001)
        with dog.watch("an update"):
            assert heard.wait(30)
    assert failed.is_set()
    assert "an update has taken" in told[0]


def test_a_thread_that_ends_or_begins_meanwhile_is_passed_over(monkeypatch):
    ended = threading.Thread(target=lambda: None, name="batches 0")
    ended.start()
    ended.join()
    new = threading.Thread(target=lambda: None, name="batches 1")
    before = threading.enumerate()
    monkeypatch.setattr(watchdog.threading, "enumerate", lambda: [*before, ended, new])
    lines = watchdog._where()
    assert "MainThread:" in lines
    assert "batches" not in lines
