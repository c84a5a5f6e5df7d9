"""How fast trained runs make clips: `python -m benchmarks.clips --runs RUN RUN [--vocoder RUN]`.

Some clips together and to their own ends, as `jaxgen.generate` makes them, without compilation and writing; the runs take
turns.
"""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from benchmarks import measure
from benchmarks.measure import Row
from jaxgen.config import parse
from jaxgen.core.errors import UserError
from jaxgen.core.machine import available_cores
from jaxgen.core.names import CACHE_DIR
from jaxgen.features import Decoder
from jaxgen.inference.generation import use_all_cores
from jaxgen.inference.sampler import ClipRequest
from jaxgen.inference.vocoder_run import open_vocoder
from jaxgen.runs.run import Run


@dataclasses.dataclass(frozen=True)
class Options(measure.Repeated):
    """How fast trained runs make clips."""

    runs: tuple[str, ...] = ()
    """Their folders, on this machine."""
    vocoder: str | None = None
    """Folder of the run of a vocoder that makes sound of the frames of all; none takes Griffin-Lim."""
    num_clips: int = 32
    """Clips, made together; labels are drawn by chance where the model needs them."""
    cache_dir: str = CACHE_DIR
    """Folder of the local copy of a vocoder in an object store."""


def main(argv: Sequence[str]) -> list[Row]:
    """Measures, prints and returns a row for each run. Raises UserError for a run that makes no clips by itself."""
    options = parse(Options, Options(), argv, "python -m benchmarks.clips")
    if not options.runs or options.num_clips < 1:
        raise UserError(
            f"--runs are {len(options.runs)} and --num-clips is {options.num_clips}, expected at least 1 of each."
        )
    use_all_cores()
    place = measure.environment()
    rates: dict[str, int] = {}
    makers: dict[str, Callable[[], list[np.ndarray]]] = {}
    for folder in options.runs:
        run, decoder = Run.open(folder, option="--runs"), None
        if options.vocoder is not None:
            _, decoder = open_vocoder(options.vocoder, options.cache_dir, run.spec.features, None)
        makers[folder], rates[folder] = _maker(run, decoder, options.num_clips), run.spec.features.sample_rate
    made = {folder: make() for folder, make in makers.items()}  # the same each time
    rows: list[Row] = []
    for folder, seconds in measure.alternate(makers, options.repeats, warmups=0).items():
        audio_seconds = sum(map(len, made[folder])) / rates[folder]
        row: Row = {
            "benchmark": "clips",
            "run": folder,
            "vocoder": options.vocoder or "",
            "clips": options.num_clips,
            "available_cores": available_cores(),
            "audio_seconds": audio_seconds,
            **measure.spread(seconds),
            "real_time_factor": audio_seconds / float(np.median(seconds)),
        }
        rows.append(row)
    measure.report(rows, place, options)
    return rows


def _maker(run: Run, decoder: Decoder | None, num_clips: int) -> Callable[[], list[np.ndarray]]:
    model, evaluation = run.config.model, run.config.evaluation
    sampler, request = evaluation.sampler(run.task, model, run.spec, decoder), ClipRequest(num_clips=num_clips)
    return lambda: sampler.clips(run.params, request, evaluation.sampling)[1]


if __name__ == "__main__":
    measure.start(main)
