"""How long one waits before the first step: `python -m benchmarks.startup`.

Imports in fresh processes, beside those of the libraries they need; tracing, lowering and compiling the train step; and
the first call of the generator beside a later one.
"""

import dataclasses
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from benchmarks import measure
from benchmarks.measure import Row
from benchmarks.workloads import MEL, WAVE, Workload, bound, some_batches
from jaxgen.config import parse
from jaxgen.data.pipeline import Batch
from jaxgen.data.spec import DataSpec
from jaxgen.generation import Generator

_LIBRARIES = ("jax", "flax", "orbax", "optax", "grain", "librosa", "jaxgen")
_GENERATED_SECONDS = 0.1
_TIMED_IMPORT = "import time; t = time.perf_counter(); import {}; print(time.perf_counter() - t)"


@dataclasses.dataclass(frozen=True)
class Options(measure.Options):
    """Time of imports, tracing and compiling."""

    repeats: int = 3
    """Measurements of each."""
    modules: tuple[str, ...] = ("jax", "flax.nnx", "orbax.checkpoint", "jaxgen.generate", "jaxgen.train")
    """What is imported."""
    mel: Workload = MEL
    """A model of mel frames."""
    wave: Workload = WAVE
    """A model of samples."""
    clips: int = 20
    """Synthesised clips that batches are made of."""


def main(argv: Sequence[str]) -> list[Row]:
    """Measures, prints and returns the figures."""
    options = parse(Options, Options(), argv, "python -m benchmarks.startup")
    place = measure.environment()
    rows = _imports(options)
    for work in (options.wave, options.mel):
        measure.say(f"{work.name}: compiling, {options.repeats} times ...")
        rows += _compilation(work, options)
    measure.report(rows, place, options)
    return rows


def _imports(options: Options) -> list[Row]:
    """Import times as processes see them, in turn, and which library they are due to."""
    measure.say(f"importing, {options.repeats} rounds ...")
    seconds: dict[str, list[float]] = {module: [] for module in options.modules}
    for turn in range(-1, options.repeats):  # the first round brings the files into memory
        for module in options.modules:
            took = float(_python("-c", _TIMED_IMPORT.format(module)).stdout)
            if turn >= 0:
                seconds[module].append(took)
    return [
        {
            "benchmark": "startup",
            "work": "import",
            "candidate": module,
            **measure.spread(np.array(times)),
            **_shares(module),
        }
        for module, times in seconds.items()
    ]


def _shares(module: str) -> Row:
    """Share of an import's time that is spent in the modules of each library themselves (`python -X importtime`)."""
    own: Counter[str] = Counter()
    for line in _python("-X", "importtime", "-c", f"import {module}").stderr.splitlines():
        microseconds, _, name = line.removeprefix("import time:").split("|")
        if microseconds.strip().isdigit():
            own[name.strip().split(".")[0].removesuffix("lib")] += int(microseconds)  # jaxlib is jax
    return {f"share_{library}": own[library] / own.total() for library in _LIBRARIES}


def _python(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *words], capture_output=True, text=True, check=True)


def _compilation(work: Workload, options: Options) -> list[Row]:
    spec, batches = some_batches(work, options.clips)
    rounds = [_compiled_anew(work, spec, batches[0]) for _ in range(options.repeats)]
    return [
        {
            "benchmark": "startup",
            "work": work.name,
            "candidate": name,
            **measure.spread(np.array([seconds[name] for seconds in rounds])),
        }
        for name in rounds[0]
    ]


def _compiled_anew(work: Workload, spec: DataSpec, batch: Batch) -> dict[str, float]:
    """Seconds of each thing that a first step and a first clip wait for, with nothing kept from before."""
    jax.clear_caches()
    seconds: dict[str, float] = {}

    def timed(name: str, call: Callable[[], Any]) -> Any:
        started = time.perf_counter()
        result = call()
        seconds[name] = time.perf_counter() - started
        return result

    training = bound(work, spec)
    state = timed("initial state", lambda: jax.block_until_ready(training.init(jax.random.key(0))))
    step = jax.jit(training.train_step, donate_argnums=0)
    traced = timed("train step, trace", lambda: step.trace(state, batch))
    lowered = timed("train step, lower", traced.lower)
    timed("train step, compile", lowered.compile)
    generator = Generator(training.module, work.model, spec)
    for name in ("generation, first call", "generation, later call"):
        timed(name, lambda: generator(state.params, [{}], seconds=_GENERATED_SECONDS))
    return seconds


if __name__ == "__main__":
    measure.start(main)
