"""Throughput of the real train step beside its peers: `python -m benchmarks.step`.

Each candidate makes one update on the same batches in turn. The limit is a large matrix product in the same run: "peak"
is the share of it that a candidate's necessary arithmetic (`workloads.train_flops`) reaches.
"""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from benchmarks import measure, peers
from benchmarks.measure import Matmul, Row
from benchmarks.workloads import MEL, WAVE, Workload, bound, repeated_step, some_batches, train_flops
from jaxgen.config import parse

_PEAK = "matmul peak"
_OURS = "jaxgen"


@dataclasses.dataclass(frozen=True)
class Options(measure.Options):
    """Throughput of the train step: jaxgen, a scan under autodiff, PyTorch, and the matmul peak."""

    mel: Workload = MEL
    """A model of mel frames; another recurrence: --mel.model.cell GRU."""
    wave: Workload = WAVE
    """A model of samples."""
    clips: int = 60
    """Synthesised clips that batches are made of."""
    matmul: Matmul = Matmul()
    """The limit."""


def main(argv: Sequence[str]) -> list[Row]:
    """Measures, prints and returns the figures."""
    options = parse(Options, Options(), argv, "python -m benchmarks.step")
    place = measure.environment()
    if not peers.HAS_TORCH:
        measure.say("torch is not installed: no peer from PyTorch (pip install torch)")
    rows = [row for work in (options.wave, options.mel) for row in _measured(work, options)]
    measure.report(rows, place, options)
    return rows


def _measured(work: Workload, options: Options) -> list[Row]:
    measure.say(f"{work.name}: compiling, then {options.repeats} rounds ...")
    candidates = _candidates(work, options)
    seconds = measure.alternate(candidates, options.repeats, warmups=2)
    peak = options.matmul.gflops(seconds[_PEAK])
    return [_row(work, name, times, seconds[_OURS], peak) for name, times in seconds.items() if name != _PEAK]


def _candidates(work: Workload, options: Options) -> dict[str, Callable[[], object]]:
    spec, batches = some_batches(work, options.clips)
    ours = bound(work, spec)
    scan = bound(work, spec, peers.ScanTraining)
    return {
        _OURS: repeated_step(ours, batches),
        "lax.scan, autodiff": repeated_step(scan, batches),
        **peers.torch_step(work, spec, batches),
        _PEAK: options.matmul.candidate(),
    }


def _row(work: Workload, name: str, seconds: np.ndarray, ours: np.ndarray, peak: float) -> Row:
    """Figures of one candidate; `jaxgen_speedup` above 1 says that jaxgen is faster than it."""
    median = float(np.median(seconds))
    gflop = train_flops(work) / 1e9
    return {
        "benchmark": "step",
        "work": f"{work.name} H={work.model.cell.hidden_size} L={work.model.num_layers} B={work.batch_size} T={work.seq_len}",
        "candidate": name,
        **measure.spread(seconds),
        f"{work.features.step_unit}s_per_s": work.steps / median,
        "audio_s_per_s": work.audio_seconds / median,
        "gflop": gflop,
        "gflop_per_s": gflop / median,
        "peak_gflop_per_s": peak,
        "share_of_peak": gflop / median / peak,
        "jaxgen_speedup": measure.median_ratio(seconds, ours),
    }


if __name__ == "__main__":
    measure.start(main)
