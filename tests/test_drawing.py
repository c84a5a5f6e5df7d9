"""Options of how clips are drawn: each goes before the config's, and one that a model does not have is told."""

import dataclasses

import pytest

from jaxgen.core.errors import UserError
from jaxgen.evaluation.copy_synthesis import CopySynthesis
from jaxgen.evaluation.from_noise import FromNoise
from jaxgen.evaluation.runner import Evaluation
from jaxgen.inference.drawing import Drawing
from jaxgen.models.noise import Latents
from jaxgen.nn.distributions import Sampling


def test_options_of_drawing_go_before_those_of_the_config():
    own = Evaluation(sampling=Sampling(0.1, 1, 0.2, 0.3, 0.4, 0.5))
    asked = Sampling(0.6, 2, 0.7, 0.8, 0.9, 1.0)
    assert Drawing().of(own) == own
    for field in dataclasses.fields(Sampling):
        one = {field.name: getattr(asked, field.name)}
        assert Drawing(**one).of(own) == Evaluation(sampling=dataclasses.replace(own.sampling, **one))
    assert Drawing(truncation=0.5).of(FromNoise()) == FromNoise(latents=Latents(0.5))
    assert {field.name for kind in (Sampling, Latents) for field in dataclasses.fields(kind)} == {
        field.name for field in dataclasses.fields(Drawing)
    }


@pytest.mark.parametrize(
    ("drawing", "evaluation", "told"),
    [
        (Drawing(truncation=0.5), Evaluation(), "predicts one step after another; leave out --truncation"),
        (Drawing(top_p=0.5), FromNoise(), "makes whole clips of noise; leave out --top-p"),
        (Drawing(spread=0.5), CopySynthesis(), "makes sound of frames and draws nothing; leave out --spread"),
    ],
)
def test_options_of_drawing_that_a_model_does_not_have_are_told(drawing, evaluation, told):
    with pytest.raises(UserError, match=told):
        drawing.of(evaluation)
