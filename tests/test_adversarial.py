"""The adversarial objective: its losses against plain references, who learns from what, and exact resumption."""

import dataclasses
import functools
import math
from contextlib import closing

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from jaxgen.core.errors import Diverged, UserError
from jaxgen.data.excerpts import Excerpts
from jaxgen.evaluation.copy_synthesis import CopySynthesis
from jaxgen.features import LogMel
from jaxgen.models.critics import WaveCritic, magnitudes
from jaxgen.models.mel_rnn import MelRNN
from jaxgen.models.non_autoregressive import Critic, CriticModule, DiscriminatorOutput
from jaxgen.models.vocoder import Vocoder
from jaxgen.objectives.adversarial import Adversarial
from jaxgen.objectives.adversarial_loss import R1, GradientPenalty, Hinge, LeastSquares, Logistic, Wasserstein
from jaxgen.objectives.diversity import diversity, diversity_within_labels
from jaxgen.objectives.likelihood import Likelihood
from jaxgen.objectives.optimizer import AdamW
from jaxgen.objectives.terms import FeatureMatching, LossInputs, MelDistance, StftDistance
from jaxgen.training import loop
from jaxgen.training.checkpoint import Checkpoints
from jaxgen.training.loop import Outcome, Validation, fit
from jaxgen.training.mesh import Devices
from jaxgen.training.schedule import Train
from jaxgen.training.telemetry import read_metrics

pytestmark = pytest.mark.slow

MODEL = Vocoder(width=8, num_blocks=1)


class _Ear(CriticModule):
    """One layer over pieces of 16 samples, and one that gives the scores: compiled in a moment."""

    def __init__(self, rngs):
        self.first, self.last = nnx.Linear(16, 4, rngs=rngs), nnx.Linear(4, 1, rngs=rngs)

    def __call__(self, samples, labels, key):
        heard = jnp.tanh(self.first(samples.reshape(len(samples), -1, 16)))
        return (DiscriminatorOutput(self.last(heard)[..., 0], (heard,)),)


@dataclasses.dataclass(frozen=True)
class _Simple(Critic):
    def make(self, data, labels, size, *, rngs):
        return _Ear(rngs)


ADAM = AdamW(learning_rate=1e-3, warmup_steps=0, clip_norm=10.0)
OBJECTIVE = Adversarial(
    terms=(FeatureMatching(), MelDistance(weight=15.0)),
    critic=_Simple(),
    generator_optimizer=ADAM,
    critic_optimizer=ADAM,
)
TRAIN = Train(steps=6, batch_size=4, seq_len=4, log_every=1, eval_every=6, checkpoint_every=2)


@functools.cache
def _bound(store, objective=OBJECTIVE, batch_size=4):
    """(training, its first state, one compiled update)."""
    task = objective.build(MODEL, store.spec(()), steps=6, batch_size=batch_size)
    return task, jax.jit(task.init)(jax.random.key(0)), jax.jit(task.train_step)


def _batch(store, number=0, batch_size=4):
    return Excerpts(store, store.spec(()), batch_size=batch_size, length=800, seed=0).batch(number)


def _moved(before, after):
    """Whether any array changed, by half of the parameters."""
    return {
        name: any(
            np.any(a != b) for a, b in zip(jax.tree.leaves(before[name]), jax.tree.leaves(after[name]), strict=True)
        )
        for name in before
    }


def _scores(shape):
    generator = np.random.default_rng(0)
    return generator.normal(size=shape).astype(np.float32), generator.normal(size=shape).astype(np.float32)


@pytest.mark.parametrize(
    ("loss", "critic", "generator"),
    [
        (LeastSquares(), lambda r, m: np.mean((r - 1) ** 2) + np.mean(m**2), lambda m: np.mean((m - 1) ** 2)),
        (
            Logistic(),
            lambda r, m: np.mean(np.log1p(np.exp(-r))) + np.mean(np.log1p(np.exp(m))),
            lambda m: np.mean(np.log1p(np.exp(-m))),
        ),
        (
            Hinge(),
            lambda r, m: np.mean(np.maximum(0, 1 - r)) + np.mean(np.maximum(0, 1 + m)),
            lambda m: -np.mean(m),
        ),
        (Wasserstein(), lambda r, m: np.mean(m) - np.mean(r), lambda m: -np.mean(m)),
    ],
    ids=["least squares", "logistic", "hinge", "wasserstein"],
)
def test_losses_are_those_of_the_papers(loss, critic, generator):
    real, made = _scores((3, 7))
    assert float(loss.critic_loss(real, made)) == pytest.approx(critic(real.astype(np.float64), made), rel=1e-5)
    assert float(loss.generator_loss(made)) == pytest.approx(generator(made.astype(np.float64)), rel=1e-5)


def test_penalties_of_a_linear_critic_are_known():
    """Its slope is its weights, wherever it is taken."""
    weights = jnp.asarray([3.0, 0.0, 4.0])
    real, made = _scores((5, 3))
    slope = float(GradientPenalty().compute(lambda rows: rows @ weights, real, made, jax.random.key(0)))
    assert slope == pytest.approx((5 - 1) ** 2, rel=1e-5)
    assert float(R1().compute(lambda rows: rows @ weights, real, made, jax.random.key(0))) == pytest.approx(25 / 2)


def test_terms_are_distances(mel_store):
    """Nothing for equal sounds; for others what a count by hand gives, row by row."""
    spec = mel_store.spec(())
    real, made = _scores((2, 1600))
    views = [(DiscriminatorOutput(jnp.zeros((2, 1)), (jnp.asarray(a), 2 * jnp.asarray(a))),) for a in (real, made)]
    equal, other = LossInputs(real, real, views[0], views[0]), LossInputs(real, made, *views)
    expected = {
        FeatureMatching(): np.abs(real - made).mean(1) / np.abs(real).mean(),
        MelDistance(): np.abs(spec.features.encode(real) - spec.features.encode(made)).mean((1, 2)),
        StftDistance(windows=(128,)): [
            np.linalg.norm(a - b) / np.linalg.norm(a) + np.abs(np.log(a / b)).mean()
            for a, b in zip(*(np.asarray(magnitudes(x, 128, 32), np.float64) for x in (real, made)), strict=True)
        ],
    }
    for term, rows in expected.items():
        distance = term.build(spec)
        np.testing.assert_allclose(distance(equal), 0, atol=1e-5)
        np.testing.assert_allclose(distance(other), rows, rtol=1e-4)


def test_terms_have_a_gradient_at_silence(mel_store):
    silence = jnp.zeros((1, 1600))
    for term in (MelDistance(), StftDistance(windows=(128,))):
        distance = term.build(mel_store.spec(()))
        slope = jax.grad(lambda made, of=distance: of(LossInputs(silence + 0.1, made)).sum())(silence)
        assert np.isfinite(slope).all()


@pytest.mark.nightly
def test_the_losses_reach_every_parameter(mel_store):
    critic = WaveCritic(periods=(3,), windows=(64,), channels=2, spectral_channels=2)
    _, state, update = _bound(mel_store, dataclasses.replace(OBJECTIVE, critic=critic))
    after, metrics = update(state, _batch(mel_store))
    for name, opt_state in after.opt_state.items():
        moments = jax.tree.leaves_with_path(opt_state[1][0].mu)
        assert [jax.tree_util.keystr(path) for path, moment in moments if not np.any(moment)] == []
        assert metrics[f"{name}_gradient_norm"] > 0


def test_the_generator_learns_against_the_critic_as_it_has_become(mel_store):
    """The gradient of an update is that of the loss under the new critic, by automatic differentiation of all of it."""
    task, state, update = _bound(mel_store)
    batch = _batch(mel_store)
    after, metrics = update(state, batch)

    def loss(params):
        made = task.module(params).generate_like(batch, jax.random.key(0))
        return task._generator_loss(made, after.params["critic"], batch["samples"], {}, jax.random.key(0))[0]

    value, gradient = jax.jit(jax.value_and_grad(loss))(state.params["generator"])
    norm = math.sqrt(sum(float(jnp.square(leaf).sum()) for leaf in jax.tree.leaves(gradient)))
    assert float(metrics["generator_loss"]) == pytest.approx(float(value), rel=1e-4)
    assert float(metrics["generator_gradient_norm"]) == pytest.approx(norm, rel=1e-3)


@pytest.mark.nightly
def test_until_the_critic_joins_the_generator_learns_by_the_distances_alone(mel_store):
    objective = dataclasses.replace(OBJECTIVE, critic_start=2, spike=1.0)
    task, state, update = _bound(mel_store, objective)
    batch = _batch(mel_store)
    slopes = jax.jit(jax.grad(lambda params: task.distances(params, batch)["loss"].mean()))
    moved, shown = [], []
    for _ in range(3):
        before = state
        slope = slopes(before.params["generator"])
        if len(moved) == 2:  # as if the loss had long been near 0: what was usual without the critic is not with it
            before = before._replace(guard=before.guard._replace(good=jnp.asarray(500), mean=jnp.zeros(())))
        state, metrics = update(before, batch)
        moved.append(_moved(before.params, state.params))
        shown.append((float(metrics["critic_loss"]), float(metrics["adversarial_loss"])))
        alone = float(optax.tree.norm(slope))
        assert (float(metrics["generator_gradient_norm"]) == pytest.approx(alone, rel=1e-3)) == (len(moved) < 3)
    alone = {"generator": True, "critic": False}
    assert moved == [alone, alone, {"generator": True, "critic": True}]
    assert np.isnan(shown[:2]).all()
    assert min(shown[2]) > 0
    assert (int(metrics["skipped"]), int(state.guard.good)) == (0, 1)
    late = state._replace(guard=before.guard)
    assert int(update(late, batch)[1]["skipped"]) == 1


def test_the_average_starts_as_the_generator_and_follows_it(mel_store):
    _, state, update = _bound(mel_store)
    jax.tree.map(np.testing.assert_array_equal, state.average, state.params["generator"])
    after, _ = update(state, _batch(mel_store))
    for old, new, mean in zip(
        *map(jax.tree.leaves, (state.average, after.params["generator"], after.average)), strict=True
    ):
        np.testing.assert_allclose(mean, 0.1 * old + 0.9 * new, rtol=1e-4, atol=1e-7)


@dataclasses.dataclass(frozen=True)
class _Brittle(GradientPenalty):
    """Infinite, but without a slope, where a sound is beyond full scale."""

    def compute(self, score, real, made, key):
        return super().compute(score, real, made, key) + jnp.where(jnp.abs(real).max() > 1, jnp.inf, 0.0)


DIVIDED = dataclasses.replace(
    OBJECTIVE, loss=Wasserstein(), penalties=(_Brittle(weight=10.0, every=2),), critic_steps=2, spike=1.0
)


@pytest.mark.nightly
def test_a_batch_is_divided_among_the_critics_updates(mel_store):
    """Two critic updates on a batch of eight, with a penalty at every second: as one by one, on every second row."""
    task, state, update = _bound(mel_store, DIVIDED, batch_size=8)
    batch = _batch(mel_store, batch_size=8)
    after, metrics = update(state, batch)
    assert int(after.opt_state["critic"][1][0].count) == 2
    assert int(after.opt_state["generator"][1][0].count) == 1
    params, optimizer = state.params["critic"], task._optimizers["critic"]
    slope = jax.jit(jax.value_and_grad(task._critic_loss, has_aux=True))
    generate_like = jax.jit(lambda rows: task.module(state.params["generator"]).generate_like(rows, jax.random.key(0)))
    opt_state, keys = (
        state.opt_state["critic"],
        jax.random.split(jax.random.fold_in(jax.random.wrap_key_data(state.key), 0), 3),
    )
    losses, played = [], []
    for number in range(2):
        rows = batch["samples"][number::2]
        made = generate_like({"samples": rows})
        key = jax.random.split(keys[number])[1]
        (loss, _), gradient = slope(params, rows, made, {}, jnp.asarray(number), key)
        scores = [task._critic(params)(sounds, {}, key)[0].scores for sounds in (rows, made)]
        losses.append(float(loss))
        played.append(float(Wasserstein().critic_loss(*scores)))
        updates, opt_state = optimizer.update(gradient, opt_state, params)
        params = jax.tree.map(jnp.add, params, updates)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5), params, after.params["critic"])
    assert float(metrics["critic_loss"]) == pytest.approx(np.mean(played), abs=1e-4)
    assert float(metrics["critic_penalty"]) == pytest.approx((losses[0] - played[0]) / 2, rel=1e-3)
    assert losses[1] == pytest.approx(played[1], abs=1e-5)


@pytest.mark.nightly
def test_penalties_are_no_outliers_but_must_be_finite(mel_store):
    _, state, update = _bound(mel_store, DIVIDED, batch_size=8)
    state, batch = state._replace(step=jnp.asarray(1)), _batch(mel_store, batch_size=8)
    _, metrics = update(state, batch)
    usual = metrics["generator_loss"] + metrics["critic_loss"]
    settled = state.guard._replace(good=jnp.asarray(500), variance=jnp.asarray(1e-4))
    for mean, skipped in ((usual, 0), (usual - 0.02, 1)):
        _, metrics = update(state._replace(guard=settled._replace(mean=mean)), batch)
        assert int(metrics["skipped"]) == skipped
    batch["samples"][0, 0] = 2.0
    _, metrics = update(state, batch)
    assert np.isfinite([metrics["critic_loss"], metrics["generator_loss"], metrics["gradient_norm"]]).all()
    assert int(metrics["skipped"]) == 1


def test_an_update_that_is_not_finite_changes_nothing_of_either(mel_store):
    _, state, update = _bound(mel_store)
    batch = _batch(mel_store)
    batch["samples"][0, 0] = np.nan
    after, metrics = update(state, batch)
    assert int(metrics["skipped"]) == int(after.guard.in_row) == 1
    assert int(after.step) == 1
    for name in ("params", "average", "opt_state"):
        jax.tree.map(np.testing.assert_array_equal, getattr(after, name), getattr(state, name))


def test_a_collapse_shows_in_the_spread(mel_store):
    real = jnp.asarray(_batch(mel_store, batch_size=16)["samples"])
    assert diversity(jnp.repeat(real[:1], 16, axis=0)) < 0.05 * diversity(real)
    pairs, apart = {"timbre": jnp.arange(16) // 2}, {"timbre": jnp.arange(16)}
    of_each = jnp.repeat(real[::2], 2, axis=0)
    assert diversity_within_labels(of_each, real, pairs) < 0.01
    assert float(diversity_within_labels(real, real, pairs)) == pytest.approx(1)
    assert np.isnan(diversity_within_labels(real, real, apart))
    assert np.isnan(diversity_within_labels(real, of_each, pairs))
    by_hand = [np.log(np.asarray(magnitudes(rows, 256, 128)).mean(1) + 1e-3) for rows in (real[:3], real[4:7])]
    deviations = [np.sqrt((each[[0, 2]].var(axis=0) * 2) / 3).mean() for each in by_hand]  # the second row is alone
    found = diversity_within_labels(
        real[:3], real[4:7], {"timbre": jnp.array([1, 0, 1]), "tempo": jnp.array([2, 2, 2])}
    )
    assert float(found) == pytest.approx(deviations[0] / deviations[1], rel=1e-4)


def test_what_is_wrong_with_adversarial_training_is_told(mel_store):
    task, _, _ = _bound(mel_store)
    alone, _, _ = _bound(mel_store, dataclasses.replace(OBJECTIVE, terms=(FeatureMatching(),)))
    fine = {"diversity": 0.9, "diversity_within_labels": 0.8, "critic_accuracy": 0.9}
    assert alone.diagnose(fine) == alone.diagnose({"diversity": 0.9, "critic_accuracy": math.nan}) == ""
    assert "collapsed to a few sounds" in task.diagnose(fine | {"diversity": 0.05})
    assert "one sound for each" in task.diagnose(fine | {"diversity_within_labels": 0.05})
    assert "it has won" in alone.diagnose(fine | {"critic_accuracy": 0.999})
    assert task.diagnose(fine | {"critic_accuracy": 0.999}) == ""  # the distance teaches on


def test_the_accuracy_of_a_critic_is_how_often_it_scores_the_real_higher(mel_store):
    task, state, _ = _bound(mel_store)
    real, made = _scores((8, 800))

    @jax.jit
    def accuracy(a, b):
        figures = task._critic_loss(state.params["critic"], a, b, {}, jnp.asarray(0), jax.random.key(0))[1]
        return figures["critic_accuracy"]

    critic = task._critic(state.params["critic"])
    real_scores, made_scores = (
        np.asarray(critic(samples, {}, jax.random.key(0))[0].scores).mean(1) for samples in (real, made)
    )
    assert float(accuracy(real, made)) == pytest.approx(np.mean(real_scores > made_scores))
    assert float(accuracy(real, made)) == pytest.approx(1 - float(accuracy(made, real)))


def _fit(store, workdir, train=TRAIN, objective=OBJECTIVE):
    spec = store.spec(())
    task = objective.build(MODEL, spec, steps=train.steps, batch_size=train.batch_size)
    batches = objective.batches(MODEL, store, spec, batch_size=train.batch_size, seq_len=train.seq_len, seed=train.seed)
    devices = Devices(train.batch_size, accumulation=objective.num_microbatches)

    def validate(params, step):
        return Validation({"loss": float(sum(leaf.sum() for leaf in jax.tree.leaves(params)))}, [], 8_000)

    with closing(Checkpoints(workdir / "checkpoints", keep=2)) as checkpoints:
        outcome = fit(task, batches, checkpoints, validate, train, workdir, devices, seconds_per_step=1.0, run={})
        newest = checkpoints.restore_newest(jax.eval_shape(task.init, jax.random.key(0)))[1:]
    return outcome, read_metrics(workdir / "metrics.jsonl"), newest


@pytest.mark.nightly
def test_a_run_that_was_stopped_goes_on_as_if_it_had_not_been(mel_store, tmp_path, monkeypatch):
    """Both sides, both optimisers, the average and the order of excerpts, bit by bit."""
    whole = _fit(mel_store, tmp_path / "whole")
    assert whole[0] is Outcome.FINISHED

    class Stopped(loop.Interrupts):
        asked = 0

        @property
        def requested(self):
            Stopped.asked += 1
            return Stopped.asked > 3

        @requested.setter
        def requested(self, _):
            pass

    with monkeypatch.context() as patch:
        patch.setattr(loop, "Interrupts", Stopped)
        assert _fit(mel_store, tmp_path / "parts")[0] is Outcome.PREEMPTED
    parts = _fit(mel_store, tmp_path / "parts")
    assert parts[1] == whole[1]
    jax.tree.map(np.testing.assert_array_equal, parts[2], whole[2])
    row = whole[1][0]
    assert {
        "loss",
        "critic_accuracy",
        "critic_loss",
        "generator_loss",
        "diversity",
        "mel_distance",
        "adversarial_loss",
    } <= row.keys()


def test_a_training_that_diverges_names_clips_and_the_options_to_lower(mel_store, tmp_path, monkeypatch):
    def spoiled(excerpts, number, read=Excerpts.batch):
        batch = read(excerpts, number)
        return batch | {"samples": np.full_like(batch["samples"], np.nan)}

    monkeypatch.setattr(Excerpts, "batch", spoiled)
    with pytest.raises(Diverged, match=r"lower --objective.generator-optimizer.learning-rate") as error:
        _fit(mel_store, tmp_path, dataclasses.replace(TRAIN, max_skipped=2))
    assert any(clip.name in str(error.value) for clip in mel_store.clips)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda spec: OBJECTIVE.build(MelRNN(), spec, steps=1, batch_size=4), "--model is MelRNN"),
        (lambda spec: Likelihood().build(MODEL, spec, steps=1, batch_size=4), "--model is Vocoder"),
        (
            lambda spec: dataclasses.replace(OBJECTIVE, critic_steps=3).build(MODEL, spec, steps=1, batch_size=4),
            "does not divide into 3 parts",
        ),
        (
            lambda spec: dataclasses.replace(OBJECTIVE, critic_start=4).build(MODEL, spec, steps=4, batch_size=4),
            "joins after 4 updates, but training has 4",
        ),
        (lambda spec: Adversarial(loss=Wasserstein()), "GradientPenalty"),
        (lambda spec: Adversarial(terms=(MelDistance(), MelDistance())), "once"),
        (lambda spec: Adversarial(critic_steps=0), "critic_steps >= 1"),
        (lambda spec: Adversarial(critic_start=-1), "critic_start >= 0"),
        (lambda spec: Adversarial(critic_start=1, terms=(FeatureMatching(),)), "does without the critic"),
        (lambda spec: MelDistance(weight=0.0), "above 0"),
        (lambda spec: StftDistance(windows=()), "at least 8"),
        (lambda spec: R1(every=0), "at least 1"),
        (lambda spec: WaveCritic(periods=(), windows=()), "reads nothing"),
        (lambda spec: WaveCritic(periods=(0,)), "at least 1"),
    ],
)
def test_what_does_not_fit_is_one_line(mel_store, make, says):
    with pytest.raises(UserError, match=says) as error:
        make(mel_store.spec(()))
    assert "\n" not in str(error.value)


def test_without_a_distance_no_copies_are_measured(mel_store):
    task, _, _ = _bound(mel_store, dataclasses.replace(OBJECTIVE, terms=(FeatureMatching(),)))
    options = {"batch_size": 4, "seq_len": 4, "seed": 0, "cache_dir": ""}
    with pytest.raises(UserError, match="add MelDistance"):
        CopySynthesis().evaluator(task, MODEL, mel_store.spec(()), **options)


def test_terms_and_vocoders_of_samples_are_refused(wave_store):
    spec = wave_store.spec(())
    with pytest.raises(UserError, match="MelDistance compares log-mel frames, but the features are MuLaw"):
        MelDistance().build(spec)
    with pytest.raises(UserError, match="a Vocoder makes sound of log-mel frames, but the features are MuLaw"):
        dataclasses.replace(OBJECTIVE, terms=()).build(MODEL, spec, steps=1, batch_size=4)
    assert not isinstance(spec.features, LogMel)
