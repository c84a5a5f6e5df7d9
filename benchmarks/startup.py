"""How long one waits before the first step: `python -m benchmarks.startup`.

The first answer and the first step of `python -m jaxgen.train`, with and without compiled programs from before; imports
in fresh processes, beside those of the libraries they need; tracing, lowering and compiling the train step; and the first
call of the generator beside a later one.
"""

import dataclasses
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from benchmarks import measure
from benchmarks.measure import Row
from benchmarks.workloads import MEL, WAVE, Workload, bound, some_batches
from jaxgen.config import parse
from jaxgen.core.errors import UserError
from jaxgen.data.pipeline import Batch
from jaxgen.data.spec import DataSpec
from jaxgen.features import MuLaw
from jaxgen.inference.generation import Generator
from jaxgen.models.wave_rnn import WaveRNN
from jaxgen.nn.recurrent import LSTM

_LARGEST = Workload(
    model=WaveRNN(cell=LSTM(hidden_size=512), num_layers=2, embedding_size=128, lookback=1),
    features=MuLaw(sample_rate=8_000),
    batch_size=64,
    seq_len=512,
)
_LIBRARIES = ("jax", "flax", "orbax", "optax", "llvmlite", "librosa", "jaxgen")
_GENERATED_SECONDS = 0.1
_TIMED_IMPORT = "import time; t = time.perf_counter(); import {}; print(time.perf_counter() - t)"


@dataclasses.dataclass(frozen=True)
class Options(measure.Repeated):
    """Time of imports, tracing and compiling."""

    repeats: int = 3
    """Measurements of each."""
    modules: tuple[str, ...] = ("jax", "flax.nnx", "orbax.checkpoint", "jaxgen.generate", "jaxgen.train")
    """What is imported."""
    mel: Workload = MEL
    """A model of mel frames."""
    wave: Workload = WAVE
    """A model of samples."""
    largest: Workload = _LARGEST
    """The model of samples whose first step in training is waited for."""
    clips: int = 20
    """SyntheticDataset clips that batches are made of."""


def main(argv: Sequence[str]) -> list[Row]:
    """Measures, prints and returns the figures."""
    options = parse(Options, Options(), argv, "python -m benchmarks.startup")
    place = measure.environment()
    rows = _commands(options) + _imports(options)
    for work in (options.wave, options.mel):
        measure.say(f"{work.name}: compiling, {options.repeats} times ...")
        rows += _compilation(work, options)
    measure.report(rows, place, options)
    return rows


def _commands(options: Options) -> list[Row]:
    """Seconds from the start of `jaxgen.train` to its help, and to the end of its first step. Cold means that nothing is
    there: no compiled program and no decoded data; warm, that the same was trained before in another folder.
    """
    seconds: dict[str, list[float]] = {"--help": [], "first step, cold": [], "first step, warm": []}
    for turn in range(options.repeats):
        measure.say(f"starting jaxgen.train, round {turn + 1} of {options.repeats} ...")
        started = time.perf_counter()
        _python("-m", "jaxgen.train", "--help")
        seconds["--help"].append(time.perf_counter() - started)
        with tempfile.TemporaryDirectory() as folder:
            for name in ("cold", "warm"):
                seconds[f"first step, {name}"].append(_first_step(options.largest, options.clips, Path(folder), name))
    return [
        {"benchmark": "startup", "work": "jaxgen.train", "candidate": name, **measure.spread(np.array(times))}
        for name, times in seconds.items()
    ]


def _first_step(work: Workload, clips: int, folder: Path, name: str) -> float:
    """Seconds until the metrics of the first step are written; the run is then ended."""
    model, metrics = work.model, folder / name / "metrics.jsonl"
    assert isinstance(model, WaveRNN)
    options = {
        "features": type(work.features).__name__,
        "model": type(model).__name__,
        "model.cell": type(model.cell).__name__,
        "model.cell.hidden-size": model.cell.hidden_size,
        "model.num-layers": model.num_layers,
        "model.embedding-size": model.embedding_size,
        "model.lookback": model.lookback,
        "train.batch-size": work.batch_size,
        "train.seq-len": work.seq_len,
        "train.log-every": 1,
        "data.num-clips": clips,
        "workdir": metrics.parent,
        "cache-dir": folder / "cache",
    }
    line = [sys.executable, "-m", "jaxgen.train", *(w for k, v in options.items() for w in (f"--{k}", str(v)))]
    environment = {name: value for name, value in os.environ.items() if name != "JAX_COMPILATION_CACHE_DIR"}
    started = time.perf_counter()
    with subprocess.Popen(line, env=environment, stderr=subprocess.DEVNULL) as process:
        while not (metrics.exists() and metrics.stat().st_size):
            if process.poll() is not None:
                raise UserError(f"jaxgen.train ended before its first step; run {' '.join(line)} to see why.")
            time.sleep(0.005)
        took = time.perf_counter() - started
        process.kill()
    return took


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
