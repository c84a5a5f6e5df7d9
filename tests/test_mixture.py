"""The mixture of several runs: its likelihood is that of the mean of probabilities, and members have to be of one kind."""

import dataclasses
import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest

from jaxgen.cli import evaluate
from jaxgen.config import Config
from jaxgen.core.errors import UserError
from jaxgen.data.ingest import AudioPolicy
from jaxgen.data.preparation import prepare
from jaxgen.data.scores import ComposedTunes
from jaxgen.evaluation.mixture import DESCRIPTIONS, score_mixture
from jaxgen.evaluation.score_evaluation import ScoreEvaluation
from jaxgen.evaluation.scoring import Scorer
from jaxgen.features import PianoRoll
from jaxgen.models.score_rnn import ScoreRNN
from jaxgen.nn.note_heads import IndependentKeys
from jaxgen.nn.recurrent import GRU
from jaxgen.objectives.likelihood import Likelihood
from jaxgen.runs.evaluation import EvaluationRequest, evaluate_run
from jaxgen.runs.run import Run

MODEL = ScoreRNN(cell=GRU(6), num_layers=1, output=IndependentKeys(), lags=())


@pytest.fixture(scope="module")
def store(cache):
    return prepare(ComposedTunes(num_clips=20), PianoRoll(), AudioPolicy(), cache)


@pytest.fixture(scope="module")
def task(store):
    return Likelihood().build(MODEL, store.spec(()), steps=1, batch_size=2)


def test_a_mixture_is_the_mean_of_probabilities(store, task):
    scorer = Scorer(task, MODEL, store.spec(()), batch_size=2, seq_len=64)
    members = [task.init(jax.random.key(seed)).average for seed in range(3)]
    clips = store.indices("validation")
    each = [scorer(params, store, clips, predict=clips).losses for params in members]
    by_hand = [
        -np.log(np.mean([np.exp(-losses[clip].astype(np.float128)) for losses in each], axis=0)) for clip in clips
    ]
    found = score_mixture(scorer, members, store, clips)
    assert found["mixture_loss"] == pytest.approx(float(np.concatenate(by_hand).mean()))
    assert found["mixture_loss_after_first"] == pytest.approx(float(np.concatenate([n[1:] for n in by_hand]).mean()))
    assert found["mixture_loss"] < found["mixture_member_loss"]
    assert found.keys() == DESCRIPTIONS.keys()
    alone = scorer(members[0], store, clips).metrics["loss"]
    twice = score_mixture(scorer, members[:1] * 2, store, clips)
    assert twice["mixture_loss"] == pytest.approx(alone, rel=1e-5)
    assert twice["mixture_member_loss"] == pytest.approx(alone, rel=1e-5)


def test_members_are_of_one_model_and_one_data(store, task, tmp_path):
    spec = store.spec(())
    config = Config(
        data=ComposedTunes(num_clips=20), features=PianoRoll(), model=MODEL, evaluation=ScoreEvaluation(), workdir="a"
    )
    run = Run(Path("a"), 1, config, spec, task, None)
    other_model = dataclasses.replace(config, model=dataclasses.replace(MODEL, num_layers=2))
    for member, said in (
        (dataclasses.replace(run, workdir=Path("b"), config=other_model), "'b' holds another model than 'a'"),
        (
            dataclasses.replace(run, workdir=Path("b"), spec=dataclasses.replace(spec, manifest_hash="x")),
            "'b' was trained on other data",
        ),
        (run, "a run is in the mixture twice"),
    ):
        with pytest.raises(UserError, match=said):
            evaluate_run(run, EvaluationRequest(mixture=(member,)), tmp_path)
    with pytest.raises(UserError, match="so a mixture has no likelihood; leave out --mixture"):
        evaluate_run(dataclasses.replace(run, task=object()), EvaluationRequest(mixture=(run,)), tmp_path)


@pytest.mark.slow
def test_the_command_reports_a_mixture_apart(quickstart, command, cache, tmp_path):
    options = ("--workdir", quickstart, "--cache-dir", cache, "--num-clips", "2", "--out", tmp_path / "report")
    shutil.copytree(quickstart, tmp_path / "copy")
    code, _, err = command(evaluate.main, *options, "--mixture", tmp_path / "copy")
    assert code == 0, err
    metrics = json.loads((tmp_path / "report" / "report.json").read_text())["metrics"]
    assert metrics["mixture_members"] == 2
    assert metrics["mixture_loss"] == pytest.approx(metrics["loss"], rel=1e-4)
    code, _, err = command(evaluate.main, *options, "--mixture", tmp_path / "none")
    assert (code, err.count("\n")) == (2, 1)
    assert "Pass --mixture the folder of a run" in err
