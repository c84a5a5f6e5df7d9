"""How the clips of a run are drawn, where that is asked for and not as its config says."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from jaxgen.core.errors import UserError
from jaxgen.evaluation.autoregressive import AutoregressiveEvaluation
from jaxgen.evaluation.latent_evaluation import LatentEvaluation
from jaxgen.evaluation.result import EvaluationConfig
from jaxgen.models.latent import LatentSampling
from jaxgen.nn.distributions import Sampling


@dataclasses.dataclass(frozen=True)
class SamplingOverrides:
    """Options of how clips are drawn."""

    temperature: float | None = None
    """Below 1 likelier, above 1 more varied; none takes the config's."""
    top_k: int | None = None
    """Draw only among this many likeliest; 0 is all, none takes the config's."""
    top_p: float | None = None
    """Draw only among the likeliest that hold this share of the probability; none takes the config's."""
    noise_scale: float | None = None
    """Below 1 frames are cleaner, above 1 rougher; none takes the config's."""
    guidance: float | None = None
    """Above 0 labels are heard more clearly; none takes the config's."""
    voiced_sharpness: float | None = None
    """Above 0 voices that a PlannedRNN plans are less rough; none takes the config's."""
    truncation: float | None = None
    """Of a model of noise: smaller clips are cleaner and more alike; none takes the config's."""

    @property
    def overrides(self) -> dict[str, Any]:
        """What is asked for, by name."""
        names = (*_OF_SEQUENCES, *_OF_NOISE)
        return {name: value for name in names if (value := getattr(self, name)) is not None}

    def apply_to(self, evaluation: EvaluationConfig) -> EvaluationConfig:
        """A run's evaluation with what is asked for in place of its own.

        Raises UserError for an option that its model does not have.
        """
        if isinstance(evaluation, AutoregressiveEvaluation):
            refuse(self, _OF_NOISE, "predicts one step after another")
            return dataclasses.replace(evaluation, sampling=dataclasses.replace(evaluation.sampling, **self.overrides))
        if isinstance(evaluation, LatentEvaluation):
            refuse(self, _OF_SEQUENCES, "makes whole clips of noise")
            return dataclasses.replace(evaluation, latents=dataclasses.replace(evaluation.latents, **self.overrides))
        refuse(self, (*_OF_SEQUENCES, *_OF_NOISE), "makes sound of frames and draws nothing")
        return evaluation


_OF_SEQUENCES, _OF_NOISE = (
    tuple(field.name for field in dataclasses.fields(kind)) for kind in (Sampling, LatentSampling)
)


def refuse(options: object, names: Sequence[str], what: str) -> None:
    """Raises UserError where an option of these names is asked for, which a model that does `what` does not have."""
    for name in names:
        if getattr(options, name) is not None:
            raise UserError(f"the run's model {what}; leave out --{name.replace('_', '-')}.")
