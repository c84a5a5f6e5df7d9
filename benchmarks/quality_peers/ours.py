"""Training as `jaxgen.train` does it: the objective's own step, compiled as in its loop and fed by its thread."""

import dataclasses
import itertools
import time
from collections.abc import Callable, Generator
from typing import Any, cast

import jax

from benchmarks.quality_peers.clock import trained_in_turns
from jaxgen.config import Config
from jaxgen.core.machine import keep_freed_memory
from jaxgen.core.serial import from_json
from jaxgen.data.preparation import prepare as prepare_store
from jaxgen.data.spec import DataSpec
from jaxgen.data.store import Store
from jaxgen.evaluation.scoring import Scorer
from jaxgen.models.sequence import SequenceConfig
from jaxgen.objectives.likelihood import LikelihoodTask
from jaxgen.runs.run import build_task, devices_of, training_batches
from jaxgen.training.feed import StepGroup, prefetch_groups
from jaxgen.training.loop import scan_updates

_UNKNOWN = 10**6  # updates, while nobody knows how many there will be


def prepare(spec: dict[str, Any]) -> tuple[dict[str, Any], Callable[[int], dict[str, Any]]]:
    """spec: `config`, the JSON of a Config, and the `seconds` and `turns` of training in all.

    The learning rate falls over as many updates as, by a trial of a few, these seconds will hold.
    """
    keep_freed_memory()
    began = time.perf_counter()
    config = from_json(spec["config"], Config, "the order")
    store = prepare_store(config.data, config.features, config.audio, config.cache_dir)
    data = store.spec(config.model.labels)
    planned = max(
        1, round(_Learner(config, store, data, _UNKNOWN).updates_per_second(spec["seconds"] / 100) * spec["seconds"])
    )
    learner = _Learner(config, store, data, planned)
    facts = {
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(learner.state.params)),
        "planned_steps": planned,
        "warmup_seconds": time.perf_counter() - began,
    }
    return facts, trained_in_turns(spec["seconds"] / spec["turns"], learner.update, learner.bits_per_sample)


class _Learner:
    """A model before its first update, with its program compiled."""

    def __init__(self, config: Config, store: Store, data: DataSpec, steps: int):
        train = dataclasses.replace(config.train, steps=steps)
        config = dataclasses.replace(config, train=train)
        training, self._devices = cast(LikelihoodTask, build_task(config, data)), devices_of(config)
        self._init = lambda: self._devices.init_state(training.init, jax.random.key(train.seed))
        self._batches, self._size = training_batches(config, store, data, self._devices.rows), train.steps_per_call
        self._store, self._clips = store, store.indices("validation")
        self._scorer = Scorer(
            training, cast(SequenceConfig, config.model), data, batch_size=train.batch_size, seq_len=train.seq_len
        )
        self._step = self._devices.compile(scan_updates(training), self._init())
        self.state, self._calls = self._start()
        self.update()
        self._scorer(self._devices.gather(self.state.average), store, self._clips[:1])
        self.state, self._calls = self._start()

    def update(self) -> int:
        """As many updates as one call does; returns their number."""
        call = next(self._calls)
        self.state, _ = jax.block_until_ready(self._step(self.state, call.batches))
        return call.size

    def updates_per_second(self, seconds: float) -> float:
        """Found by doing some for as long."""
        done, started = 0, time.perf_counter()
        while time.perf_counter() - started < seconds:
            done += self.update()
        return done / (time.perf_counter() - started)

    def bits_per_sample(self) -> float:
        """Of all validation clips, by the moving average of the weights."""
        params = self._devices.gather(self.state.average)
        return self._scorer(params, self._store, self._clips).metrics["bits_per_sample"]

    def _start(self) -> tuple[Any, Generator[StepGroup]]:
        lasts = itertools.count(self._size, self._size)
        return self._init(), prefetch_groups(iter(self._batches), 1, lasts, self._devices.place)
