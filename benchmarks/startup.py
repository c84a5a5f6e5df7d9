"""How long one waits before the first step: imports, tracing and compiling.

python -m benchmarks.startup [--record]
"""

import statistics
import subprocess
import sys
import time
from collections.abc import Sequence

import jax
import numpy as np

from benchmarks.measure import Row, finish, parser
from jaxgen.data.spec import DataSpec
from jaxgen.features import FeatureSpec, LogMel, MuLaw
from jaxgen.models.mel_rnn import MelRNN
from jaxgen.models.sequence import ModelConfig
from jaxgen.models.wave_rnn import WaveRNN
from jaxgen.objectives.likelihood import Likelihood
from jaxgen.recurrent import LSTM

MODULES = ("jax", "flax.nnx", "orbax.checkpoint", "jaxgen.generate", "jaxgen.train")


def _import_seconds(module: str, repeats: int) -> float:
    """Median wall seconds of a fresh Python that imports a module, less those of one that imports nothing."""

    def once(statement: str) -> float:
        start = time.perf_counter()
        subprocess.run([sys.executable, "-c", statement], check=True)
        return time.perf_counter() - start

    return statistics.median(once(f"import {module}") - once("pass") for _ in range(repeats))


def _compile_row(name: str, model: ModelConfig, features: FeatureSpec, batch_size: int, seq_len: int) -> Row:
    size = features.step_shape[0] if features.step_shape else 0
    spec = DataSpec(features=features, mean=(0.0,) * size, std=(1.0,) * size)
    training = Likelihood().bind(model, spec, steps=1, batch_size=batch_size)
    flags = np.zeros((batch_size, seq_len), bool)
    x = np.broadcast_to(features.silence(), (batch_size, model.lookback + seq_len, *features.step_shape))
    batch = {"x": x, "reset": flags, "mask": ~flags, "end": flags, "labels": {}}
    state = training.init(jax.random.key(0))
    jax.clear_caches()
    start = time.perf_counter()
    lowered = jax.jit(training.train_step, donate_argnums=0).lower(state, batch)
    traced = time.perf_counter()
    lowered.compile()
    return {"candidate": name, "trace_seconds": traced - start, "compile_seconds": time.perf_counter() - traced}


def main(argv: Sequence[str] | None = None) -> list[Row]:
    options = parser(__doc__)
    options.add_argument("--hidden-size", type=int, default=256)
    asked = options.parse_args(argv)
    cell = LSTM(hidden_size=asked.hidden_size)
    rows: list[Row] = [
        {"candidate": f"import {name}", "import_seconds": _import_seconds(name, asked.repeats)} for name in MODULES
    ]
    mel = LogMel(sample_rate=8_000, n_fft=256, hop_length=80, n_mels=48)
    rows.append(_compile_row("train step of WaveRNN", WaveRNN(cell=cell), MuLaw(sample_rate=8_000), 32, 256))
    rows.append(_compile_row("train step of MelRNN", MelRNN(cell=cell), mel, 32, 64))
    return finish("startup", rows, record=asked.record)


if __name__ == "__main__":
    main()
