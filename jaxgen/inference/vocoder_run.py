"""A vocoder, trained by another run, that makes sound of a model's frames."""

import dataclasses

from jaxgen.features import Decoder, FeatureSpec
from jaxgen.runs.run import Run, build_task
from jaxgen.storage import open_run_copy


def with_refinements(run: Run, refinements: int | None) -> Run:
    """The run of a vocoder with so many iterations of Griffin-Lim behind it; None leaves its own.

    Raises UserError for a number that cannot be, or a run of something else.
    """
    if refinements is None:
        return run
    config = dataclasses.replace(run.config, model=run.config.model.with_refinements(refinements))
    return dataclasses.replace(run, config=config, task=build_task(config, run.spec))


def open_vocoder(
    name: str,
    cache_dir: str,
    features: FeatureSpec,
    refinements: int | None = None,
    trust_code: bool | None = None,
) -> tuple[Run, Decoder]:
    """The run of a vocoder in a folder, also in an object store, and what makes sound of `features` by it.

    refinements: iterations of Griffin-Lim that follow; None takes the vocoder's own. trust_code: as for `Run.open`.
    Raises UserError for a run of something
    else, or of other frames.
    """
    with open_run_copy(name, cache_dir, "--vocoder") as folder:
        run = with_refinements(Run.open(folder, option="--vocoder", trust_code=trust_code), refinements)
    return run, run.config.evaluation.decoder(run.task, run.config.model, run.spec, features, run.params)
