"""Speed of free-running generation, once compiled: `python -m benchmarks.generate`.

A call of `jaxgen.generation.Generator` and the decoding of as many steps (Griffin-Lim for mel frames) take turns; their
difference is the time of the recurrence. The peer is PyTorch, a step at a time in eager mode.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from benchmarks import measure, peers
from benchmarks.measure import Matmul, Row
from benchmarks.workloads import MEL, WAVE, Workload, bound, forward_flops, some_batches
from jaxgen.config import parse
from jaxgen.data.spec import DataSpec
from jaxgen.generation import Generator

_PEAK = "matmul peak"
_OURS = "jaxgen"
_WHOLE, _DECODING = "whole call", "decoding"
_DECODED_AT_ONCE = 8  # clips, as the generator does


@dataclasses.dataclass(frozen=True)
class Options(measure.Options):
    """Speed of free-running generation: jaxgen, PyTorch, and the matmul peak."""

    mel: Workload = MEL
    """A model of mel frames."""
    wave: Workload = WAVE
    """A model of samples."""
    streams: tuple[int, ...] = (1, 8, 64)
    """Clips made at once."""
    wave_steps: int = 2_000
    """Samples of a clip."""
    mel_steps: int = 100
    """Frames of a clip."""
    peer_steps: int = 100
    """Steps that the peer is timed for."""
    clips: int = 20
    """Synthesised clips that the scale of frames is taken from."""
    matmul: Matmul = Matmul()
    """The limit of the arithmetic; one stream is bound by memory instead."""


def main(argv: Sequence[str]) -> list[Row]:
    """Measures, prints and returns the figures."""
    options = parse(Options, Options(), argv, "python -m benchmarks.generate")
    place = measure.environment()
    if not peers.HAS_TORCH:
        measure.say("torch is not installed: no peer from PyTorch (pip install torch)")
    rows = []
    for work, steps in ((options.wave, options.wave_steps), (options.mel, options.mel_steps)):
        spec, _ = some_batches(work, options.clips)
        generator, params = _generator(work, spec)
        for streams in options.streams:
            measure.say(f"{work.name}, {streams} streams ...")
            rows += _measured(work, spec, generator, params, streams, steps, options)
    measure.report(rows, place, options)
    return rows


def _generator(work: Workload, spec: DataSpec) -> tuple[Generator, Any]:
    """A generator and fresh parameters, with which no clip ends early."""
    training = bound(work, spec)
    params = training.init(jax.random.key(0)).params
    if work.model.ends_clips:
        params["head"]["bias"] = params["head"]["bias"].at[-1].set(-100.0)  # the logit of the end
    return Generator(training.module, work.model, spec), params


def _measured(
    work: Workload, spec: DataSpec, generator: Generator, params: Any, streams: int, steps: int, options: Options
) -> list[Row]:
    rate = work.features.sample_rate
    length = steps * work.features.hop_length / rate
    num_steps = work.features.num_steps(round(length * rate))  # centred frames: one more than hops
    seconds = measure.alternate(
        {
            _WHOLE: lambda: generator(params, [{}] * streams, seconds=length).clips,
            _DECODING: _decoding(work, streams, num_steps),
            **peers.torch_generation(work, spec, streams, options.peer_steps),
            _PEAK: options.matmul.candidate(),
        },
        options.repeats,
    )
    peak = options.matmul.gflops(seconds.pop(_PEAK))
    whole, decoding = seconds.pop(_WHOLE), seconds.pop(_DECODING)
    per_step = {_OURS: (whole - decoding) / num_steps} | {n: s / options.peer_steps for n, s in seconds.items()}
    rows = [_row(work, name, streams, times, per_step[_OURS], peak) for name, times in per_step.items()]
    rows[0] |= {
        "decoding_s_per_audio_s": float(np.median(decoding)) / (streams * length),
        "real_time_factor": streams * length / float(np.median(whole)),
    }
    return rows


def _row(work: Workload, name: str, streams: int, per_step: np.ndarray, ours: np.ndarray, peak: float) -> Row:
    """Figures of one candidate, decoding apart; `jaxgen_speedup` above 1 says that jaxgen is faster than it."""
    median = float(np.median(per_step))
    gflop_per_s = forward_flops(work) * streams / median / 1e9
    return {
        "benchmark": "generate",
        "work": f"{work.name} H={work.model.cell.hidden_size} L={work.model.num_layers}",
        "candidate": name,
        "streams": streams,
        **measure.spread(per_step),
        "us_per_step": 1e6 * median,
        f"{work.features.step_unit}s_per_s": streams / median,
        "gflop_per_s": gflop_per_s,
        "peak_gflop_per_s": peak,
        "share_of_peak": gflop_per_s / peak,
        "jaxgen_speedup": measure.median_ratio(per_step, ours),
    }


def _decoding(work: Workload, streams: int, num_steps: int) -> Callable[[], object]:
    """Turns as many steps into samples, in groups as the generator does."""
    rows = min(streams, _DECODED_AT_ONCE)
    steps = np.broadcast_to(work.features.silence(), (rows, num_steps, *work.features.step_shape)).copy()
    return lambda: [np.asarray(work.features.decode(steps)) for _ in range(-(-streams // rows))]


if __name__ == "__main__":
    measure.start(main)
