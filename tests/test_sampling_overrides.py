"""Options of how clips are drawn: each goes before the config's, and one that a model does not have is told."""

import dataclasses

import pytest

from jaxgen.core.errors import UserError
from jaxgen.evaluation.autoregressive import AutoregressiveEvaluation
from jaxgen.evaluation.copy_synthesis import CopySynthesis
from jaxgen.evaluation.latent_evaluation import LatentEvaluation
from jaxgen.inference.sampling_overrides import SamplingOverrides
from jaxgen.models.latent import LatentSampling
from jaxgen.nn.distributions import Sampling


def test_options_of_drawing_go_before_those_of_the_config():
    own = AutoregressiveEvaluation(sampling=Sampling(0.1, 1, 0.2, 0.3, 0.4, 0.5))
    asked = Sampling(0.6, 2, 0.7, 0.8, 0.9, 1.0, ("36:81",), False, "Bbm")
    assert own.with_sampling(SamplingOverrides().overrides) == own
    for field in dataclasses.fields(Sampling):
        one = {field.name: getattr(asked, field.name)}
        assert own.with_sampling(SamplingOverrides(**one).overrides) == AutoregressiveEvaluation(
            sampling=dataclasses.replace(own.sampling, **one)
        )
    assert LatentEvaluation().with_sampling(SamplingOverrides(truncation=0.5).overrides) == LatentEvaluation(
        sampling=LatentSampling(0.5)
    )
    assert {field.name for kind in (Sampling, LatentSampling) for field in dataclasses.fields(kind)} == {
        field.name for field in dataclasses.fields(SamplingOverrides)
    }


@pytest.mark.parametrize(
    ("overrides", "evaluation", "message"),
    [
        (
            SamplingOverrides(truncation=0.5),
            AutoregressiveEvaluation(),
            "predicts one step after another; leave out --truncation",
        ),
        (SamplingOverrides(top_p=0.5), LatentEvaluation(), "makes whole clips of noise; leave out --top-p"),
        (
            SamplingOverrides(noise_scale=0.5),
            CopySynthesis(),
            "makes sound of frames and draws nothing; leave out --noise-scale",
        ),
    ],
)
def test_options_of_drawing_that_a_model_does_not_have_are_told(overrides, evaluation, message):
    with pytest.raises(UserError, match=message):
        evaluation.with_sampling(overrides.overrides)
