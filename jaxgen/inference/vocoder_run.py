"""A vocoder, trained by another run, that makes sound of a model's frames."""

import dataclasses

from jaxgen.config import differences
from jaxgen.core.errors import UserError
from jaxgen.features import FeatureSpec, LogMel
from jaxgen.inference.vocoding import Renderer
from jaxgen.models.vocoder import Vocoder
from jaxgen.runs.run import Run, build_task
from jaxgen.storage import open_run_copy


def with_refinements(run: Run, refinements: int | None) -> Run:
    """The run of a vocoder with so many iterations of Griffin-Lim behind it; None leaves its own.

    Raises UserError for a number that cannot be, or a run of something else.
    """
    if refinements is None:
        return run
    if refinements < 0 or not isinstance(run.config.model, Vocoder):
        raise UserError(f"--refinements is {refinements}, expected at least 0, and a vocoder whose sound is refined.")
    config = dataclasses.replace(run.config, model=dataclasses.replace(run.config.model, refinements=refinements))
    return dataclasses.replace(run, config=config, task=build_task(config, run.spec))


def open_vocoder(
    name: str, cache_dir: str, features: FeatureSpec, refinements: int | None = None
) -> tuple[Run, Renderer]:
    """The run of a vocoder in a folder, also in an object store, and what makes sound of `features` by it.

    refinements: iterations of Griffin-Lim that follow; None takes the vocoder's own. Raises UserError for a run of something
    else, or of other frames.
    """
    with open_run_copy(name, cache_dir, "--vocoder") as folder:
        run = Run.open(folder, option="--vocoder")
    if not isinstance(run.config.model, Vocoder) or not isinstance(run.spec.features, LogMel):
        raise UserError(
            f"'{name}' holds a {type(run.config.model).__name__}; pass --vocoder the folder of a run of a Vocoder, as "
            "configs/digits_vocoder.py trains."
        )
    if not isinstance(features, LogMel):
        raise UserError(
            f"the model of --workdir makes {features.step_unit}s, but a vocoder makes sound of mel frames; leave --vocoder "
            "out."
        )
    known, asked = (dataclasses.replace(each, stack=1) for each in (run.spec.features, features))
    if changed := differences(known, asked, prefix="features"):
        raise UserError(
            f"'{name}' makes sound of other frames than the model of --workdir makes: {'; '.join(changed)}. Pass "
            "--vocoder one that was trained with the same features."
        )
    run = with_refinements(run, refinements)
    return run, Renderer(run.task.module, features, run.params)
