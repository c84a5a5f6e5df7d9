"""Every model: `unroll` is repeated `step`, does not look ahead, heeds its labels, and lowers for GPU and TPU."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from conftest import nightly
from flax import nnx

from jaxgen.core.errors import UserError
from jaxgen.data.spec import DataSpec
from jaxgen.features import LogMel, MuLaw, Pcm16
from jaxgen.features.source_filter import SourceFilter
from jaxgen.models.conditioning import Conditioning
from jaxgen.models.mel_rnn import MelRNN
from jaxgen.models.planned_rnn import PlannedRNN
from jaxgen.models.sample_rnn import SampleRNN
from jaxgen.models.wave_rnn import WaveRNN
from jaxgen.nn.distributions import Categorical, Normal, NormalMixture, Sampling
from jaxgen.nn.heads import CoarseFine, Logistics
from jaxgen.nn.label_embedding import LabelEmbedding
from jaxgen.nn.recurrent import GRU, LSTM, RGLRU, RNN, MinGRU, Stack
from jaxgen.nn.sample_context import LinearPrediction, PlannedPrediction, Window
from jaxgen.objectives.likelihood import Likelihood
from tests.rounding import POINTWISE, rounding

pytestmark = pytest.mark.slow

B, T, N_MELS = 3, 12, 5
VOCABULARIES = (("digit", ("one", "two", "zero")), ("speaker", ("ann", "bob")))
MEL = DataSpec(
    features=LogMel(sample_rate=8000, n_fft=128, hop_length=32, n_mels=N_MELS),
    vocabularies=VOCABULARIES,
    mean=(-4.0, -2.0, 0.0, 1.0, 3.0),
    std=(0.5, 1.0, 2.0, 3.0, 4.0),
)
MU = DataSpec(features=MuLaw(sample_rate=8000, q_levels=16), vocabularies=VOCABULARIES)
PCM = DataSpec(features=Pcm16(sample_rate=8000), vocabularies=VOCABULARIES)
OPTIONS = {"num_layers": 2, "residual": True, "labels": ("digit", "speaker"), "label_size": 3}
LOOKBACK = 3  # of the wave models
ROUNDING = rounding(T * 2 * (24 + 4 + POINTWISE))  # in both layers, of at most 24 inputs and 4 units, at each step
TIERS = {"sample_size": 5, "embedding_size": 3, "spectrum": 8, **OPTIONS}
MODELS = [
    *((MelRNN(cell=cell, distribution=NormalMixture(2), **OPTIONS), MEL) for cell in (RNN(4), LSTM(4), GRU(4))),
    *((WaveRNN(cell=cell, embedding_size=3, lookback=LOOKBACK, **OPTIONS), MU) for cell in (RNN(4), LSTM(4), GRU(4))),
    (SampleRNN(cell=LSTM(4), frame_sizes=(6,), conditioning_repeat=2, context=Window(4), **TIERS), MU),
    (SampleRNN(cell=RGLRU(4), frame_sizes=(3, 1), context=LinearPrediction(4, hop=1, analysis_window=8), **TIERS), MU),
    (
        SampleRNN(
            cell=MinGRU(4), frame_sizes=(4, 2), context=LinearPrediction(4, hop=2), output=CoarseFine(5), **TIERS
        ),
        PCM,
    ),
    (WaveRNN(cell=LSTM(4), output=Logistics(3), embedding_size=3, lookback=LOOKBACK, **OPTIONS), PCM),
    (MelRNN(cell=GRU(4), position_frequencies=3, **OPTIONS), MEL),
]
PLANNED = PlannedRNN(
    frames=SourceFilter(LogMel(sample_rate=8000, n_fft=32, hop_length=3, n_mels=2, stack=2), lowest=500, highest=1000),
    plan=MelRNN(cell=LSTM(4), distribution=NormalMixture(2), **OPTIONS),
    samples=SampleRNN(cell=RNN(4), frame_sizes=(3, 1), context=PlannedPrediction(18), **TIERS),
)
ONE_OF_EACH = (1, 4, 6, 8)
each_model = pytest.mark.parametrize(
    ("config", "data"),
    [
        *(pair if place in ONE_OF_EACH else nightly(*pair) for place, pair in enumerate(MODELS)),
        nightly(PLANNED, MU),
    ],
    ids=[f"{type(m).__name__}-{type(m.cell).__name__}-{place}" for place, (m, _) in enumerate(MODELS)] + ["PlannedRNN"],
)
one_of_each = pytest.mark.parametrize(
    ("config", "data"), [MODELS[place] for place in ONE_OF_EACH], ids=["MelRNN", "WaveRNN", "SampleRNN", "CoarseFine"]
)


def make(config, data, **options):
    model = config.make(data, rngs=nnx.Rngs(0), **options)
    for _, part in nnx.iter_modules(model):
        for layer in part.layers if isinstance(part, Stack) else []:  # a state to start from that is not 0
            layer["initial"][...] = jax.random.normal(jax.random.key(1), layer["initial"].shape)
    return model


def draw_batch(config, data, seed=0):
    """A batch of random steps of which no property of a real recording is asked, but that clips start at the stride."""
    rng = np.random.default_rng(seed)
    if data is MEL:
        x = rng.normal(size=(B, 1 + T, N_MELS)).astype(np.float32) * MEL.std + MEL.mean
    else:
        x = rng.integers(*(0, 16) if data is MU else (-(2**15), 2**15), size=(B, config.lookback + T))
    reset = (rng.random((B, T)) < 0.3) & (np.arange(T) % config.stride == 0)
    return {
        "x": x.astype(data.features.step_dtype),
        "reset": reset,
        "mask": rng.random((B, T)) < 0.8,
        "end": rng.random((B, T)) < 0.2,
        "labels": {name: rng.integers(1 + len(v), size=(B, T)).astype(np.int32) for name, v in VOCABULARIES},
    }


@nnx.jit
def unroll(model, batch, key=None):
    return model.unroll(batch["x"], Conditioning.of(batch), model.init_carry(B), batch["reset"], key)


@nnx.jit
def step(model, x, labels, carry):
    return model.step(x, Conditioning(labels), carry)


@functools.partial(nnx.jit, static_argnums=4)
def planned(model, x, labels, carry, t):
    """The carry of who is to fill the frame that begins at step t, as it is in x."""
    before, frame = model.encode_frames(x)[:, t // model.stride :][:, :2].swapaxes(0, 1)
    outputs, plan = model.plan.step(before[:, None], Conditioning(labels), carry["plan"])
    return model.start_frame(carry | {"plan": plan}, outputs, frame)


def draw_noise(model, rows, seed=0):
    return jax.vmap(model.noise)(jax.random.split(jax.random.key(seed), rows))


def restarted(reset, fresh, now):
    return jnp.where(reset.reshape(-1, *[1] * (now.ndim - 1)), fresh, now)


@pytest.mark.nightly
def test_the_last_tier_tells_each_held_sample_the_same(monkeypatch):
    config = SampleRNN(cell=LSTM(4), frame_sizes=(6,), conditioning_repeat=2, context=Window(4), **TIERS)
    model, batch = make(config, MU), draw_batch(config, MU)
    monkeypatch.setattr(model, "_next", lambda last, heard, vector: vector)
    told = np.asarray(model.unroll(batch["x"], Conditioning.of(batch), model.init_carry(B), batch["reset"])[0])
    np.testing.assert_array_equal(told[:, ::2], told[:, 1::2])
    assert (np.abs(np.diff(told[:, ::2], axis=1)).max(axis=-1) > 1e-4).all()


@each_model
def test_unroll_is_repeated_step(config, data):
    """Teacher forced, one x at a time, with the carry set anew wherever the unroll resets it."""
    model, batch = make(config, data), draw_batch(config, data)
    outputs, last = unroll(model, batch)
    fresh = carry = model.init_carry(B)
    for t in range(T):
        reset = batch["reset"][:, t]
        carry = jax.tree.map(functools.partial(restarted, reset), fresh, carry)
        labels = {name: values[:, t] for name, values in batch["labels"].items()}
        if isinstance(config, PlannedRNN) and t % config.stride == 0:
            carry = planned(model, batch["x"], labels, carry, t)
        out, carry = step(model, batch["x"][:, t : t + model.lookback], labels, carry)
        np.testing.assert_allclose(outputs[:, t], out, rtol=ROUNDING, atol=ROUNDING)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=ROUNDING), last, carry)


@one_of_each
def test_no_look_ahead(config, data):
    """The output for target t does not know x from the target on; and does know the step before it."""
    model, batch = make(config, data), draw_batch(config, data)
    batch["reset"] = np.zeros((B, T), bool)
    before, _ = unroll(model, batch)
    other = draw_batch(config, data, seed=1)
    for t in range(T):
        x = batch["x"].copy()
        x[:, model.lookback + t] = other["x"][:, model.lookback + t]
        after, _ = unroll(model, batch | {"x": x})
        np.testing.assert_array_equal(after[:, : t + 1], before[:, : t + 1])
        assert t == T - 1 or np.abs(after[:, t + 1] - before[:, t + 1]).max() > 1e-3


@one_of_each
@pytest.mark.parametrize("name", ["digit", "speaker"])
def test_labels_change_the_outputs(config, data, name):
    model, batch = make(config, data), draw_batch(config, data)
    outputs = [
        unroll(model, batch | {"labels": batch["labels"] | {name: np.full((B, T), value, np.int32)}})[0]
        for value in (0, 1, 2)
    ]
    assert min(np.abs(a - b).max() for a, b in zip(outputs, outputs[1:] + outputs[:1], strict=True)) > 1e-3


@one_of_each
def test_a_model_without_labels_reads_none(config, data):
    model = make(dataclasses.replace(config, labels=()), data)
    batch = draw_batch(config, data) | {"labels": {}}
    assert unroll(model, batch)[0].shape[:2] == (B, T)


@one_of_each
def test_mixed_labels_lie_between_their_values(config, data):
    """Shares of 1 are the value; equal shares of a value and itself too; a mix is the mean of the vectors."""
    model = make(config, data)
    batch = draw_batch(config, data)
    indices = {"digit": np.array([1, 2, 3]), "speaker": np.array([0, 1, 2])}
    shares = {name: np.eye(1 + len(values), dtype=np.float32)[indices[name]] for name, values in VOCABULARIES}
    x, carry = batch["x"][:, : model.lookback], model.init_carry(B)
    np.testing.assert_allclose(step(model, x, shares, carry)[0], step(model, x, indices, carry)[0], atol=1e-6)
    mixed = model.condition({"digit": np.float32([0, 0.25, 0.75, 0]), "speaker": np.float32([0, 1, 0])})
    one, two = (model.condition({"digit": np.int32(value), "speaker": np.int32(1)}) for value in (1, 2))
    np.testing.assert_allclose(mixed, 0.25 * one + 0.75 * two, atol=1e-6)


def test_label_shares_are_read_from_text():
    np.testing.assert_allclose(MEL.label_shares("digit", "two"), [0, 0, 1, 0])
    np.testing.assert_allclose(MEL.label_shares("digit", "one:3,zero"), [0, 0.75, 0, 0.25])
    odd = dataclasses.replace(MEL, vocabularies=(("key", ("a", "a:2,b", "b")),))
    np.testing.assert_allclose(odd.label_shares("key", "a:2,b"), [0, 0, 1, 0])  # a value of that name comes first
    for text, words in {
        "one:x": "share of 'one' is 'x'",
        "one:-1": "above 0",
        "one,six": "'six' was never seen",
    }.items():
        with pytest.raises(UserError, match=words):
            MEL.label_shares("digit", text)


def test_label_dropout_takes_whole_clips():
    """In a chunk every clip keeps all its labels or none; about `dropout` of the clips lose them."""
    rows, steps = 200, 12
    names = ("digit", "speaker")
    embedding = LabelEmbedding(MEL, names, 2, dropout=0.25, dtype=jnp.float32, rngs=nnx.Rngs(0))
    reset = np.random.default_rng(0).random((rows, steps)) < 0.2
    labels = {name: np.ones((rows, steps), np.int32) for name in names}
    assert embedding.drop(labels, reset, None) is labels
    dropped = embedding.drop(labels, reset, jax.random.key(0))
    kept = np.asarray(dropped["digit"])
    np.testing.assert_array_equal(kept, dropped["speaker"])
    assert not (kept[:, 1:] != kept[:, :-1])[~reset[:, 1:]].any()
    starts = reset | (np.arange(steps) == 0)
    assert abs(kept[starts].mean() - 0.75) < 0.06


def test_input_noise_is_for_training_only():
    noisy = make(dataclasses.replace(MODELS[1][0], input_noise=1.0, label_dropout=0.0), MEL)
    quiet = make(dataclasses.replace(MODELS[1][0], label_dropout=0.0), MEL)
    batch, key = draw_batch(MODELS[1][0], MEL), jax.random.key(0)
    np.testing.assert_array_equal(unroll(noisy, batch)[0], unroll(quiet, batch)[0])
    np.testing.assert_array_equal(unroll(quiet, batch)[0], unroll(quiet, batch, key)[0])
    assert np.abs(unroll(noisy, batch, key)[0] - unroll(noisy, batch)[0]).max() > 1e-2


def bernoulli_nats(end_logit, end):
    return scipy.stats.bernoulli.logpmf(end.astype(int), 1 / (1 + np.exp(-np.asarray(end_logit, np.float64))))


def test_mel_log_prob_is_a_density_of_raw_frames():
    """Normal in units of the data's deviation is, of raw frames, Normal(mean + std m, std scale)."""
    model = make(MelRNN(cell=LSTM(4), distribution=Normal(scale=0.5)), MEL)
    batch = draw_batch(MODELS[1][0], MEL)
    outputs = np.random.default_rng(9).normal(size=(B, T, N_MELS + 1)).astype(np.float32)
    target, mean, std = batch["x"][:, 1:], np.array(MEL.mean), np.array(MEL.std)
    expected = scipy.stats.norm.logpdf(target, mean + std * outputs[..., :-1], 0.5 * std).sum(-1)
    expected += bernoulli_nats(outputs[..., -1], batch["end"])
    np.testing.assert_allclose(model.log_prob(outputs, target, batch["end"]), expected, rtol=1e-5)
    scores = model.scores(outputs, target, batch["end"])
    np.testing.assert_allclose(scores["loss"], -expected, rtol=1e-5)
    np.testing.assert_allclose(scores["nats_per_frame"], -expected, rtol=1e-5)
    np.testing.assert_allclose(model.predict(outputs), mean + std * outputs[..., :-1], rtol=1e-5, atol=1e-6)
    squares = np.square(mean + std * outputs[..., :-1] - target).mean(-1)
    np.testing.assert_allclose(scores["mse"], squares, rtol=1e-4)


def test_wave_scores_are_softmax_cross_entropy():
    model, batch = make(*MODELS[4]), draw_batch(*MODELS[4])
    outputs = np.random.default_rng(0).normal(size=(B, T, 16)).astype(np.float32)
    probs = np.exp(outputs.astype(np.float64))
    probs /= probs.sum(-1, keepdims=True)
    target = batch["x"][:, LOOKBACK:]
    bits = -np.log2(np.take_along_axis(probs, target[..., None].astype(int), -1)[..., 0])
    scores = model.scores(outputs, target, batch["end"])
    np.testing.assert_allclose(scores["bits_per_sample"], bits, rtol=1e-5)
    np.testing.assert_allclose(scores["loss"], bits * np.log(2), rtol=1e-5)


def test_a_chunk_that_cuts_a_frame_is_refused():
    model, batch = make(*MODELS[6]), draw_batch(*MODELS[6])
    short = {
        "x": batch["x"][:, :-1],
        "reset": batch["reset"][:, 1:],
        "labels": {k: v[:, 1:] for k, v in batch["labels"].items()},
    }
    with pytest.raises(
        UserError, match=r"chunks of 11 samples do not divide into frames of 6; change --train\.seq-len"
    ):
        unroll(model, short)


@pytest.mark.parametrize("output", [CoarseFine(7), Logistics(4)])
def test_probabilities_of_all_16_bit_samples_sum_to_one(output):
    head = output.make(PCM.features, 6, dtype=jnp.float32, rngs=nnx.Rngs(0))
    for scale in (1.0, 8.0):
        outputs = head(scale * jax.random.normal(jax.random.key(1), (6,)))
        every = jnp.arange(-(2**15), 2**15)
        nats = head.log_prob(jnp.broadcast_to(outputs, (len(every), *outputs.shape)), every)
        np.testing.assert_allclose(np.exp(np.asarray(nats, np.float64)).sum(), 1.0, atol=2e-4)


@pytest.mark.parametrize("output", [CoarseFine(7), Logistics(4)])
def test_16_bit_samples_are_drawn_as_often_as_they_are_likely(output):
    head = output.make(PCM.features, 6, dtype=jnp.float32, rngs=nnx.Rngs(0))
    outputs = head(3 * jax.random.normal(jax.random.key(1), (6,)))
    noise = jax.vmap(head.noise)(jax.random.split(jax.random.key(2), 20_000))
    drawn = np.asarray(head.sample(jnp.broadcast_to(outputs, (20_000, *outputs.shape)), noise, Sampling()), np.int64)
    every = jnp.arange(-(2**15), 2**15)
    probs = np.exp(
        np.asarray(head.log_prob(jnp.broadcast_to(outputs, (len(every), *outputs.shape)), every), np.float64)
    )
    edges = 2048 * np.arange(33) - 2**15
    expected = probs.reshape(32, 2048).sum(1)
    found = np.histogram(drawn, edges)[0] / 20_000
    np.testing.assert_allclose(found, expected, atol=5 * np.sqrt(0.25 / 20_000))
    likeliest = head.sample(outputs, noise[0], Sampling(temperature=0))
    assert int(likeliest) == int(head.predict(outputs))


def test_codes_of_all_kinds_are_scored_on_one_scale():
    """A uniform distribution of 16-bit samples has 16 bits, however they are coded."""
    samples = np.arange(-(2**15), 2**15, dtype=np.float32) / 2**15
    for features in (MuLaw(sample_rate=8000), MuLaw(sample_rate=8000, q_levels=16), Pcm16(sample_rate=8000)):
        codes = np.asarray(features.encode(samples)).astype(int)
        counts = np.bincount(codes - codes.min())
        likely = counts[codes - codes.min()] / len(samples)  # of its code, where samples are uniform
        within = features.bits_within_code()[codes - np.iinfo(features.step_dtype).min]
        np.testing.assert_allclose(-np.log2(likely) + within, 16.0, rtol=1e-6)


@one_of_each
def test_samples_are_steps(config, data):
    model, batch = make(config, data), draw_batch(config, data)
    outputs, _ = unroll(model, batch)
    x, ended = model.sample(outputs[:, 0], draw_noise(model, B), Sampling())
    assert x.shape == model.predict(outputs[:, 0]).shape == (B, *data.features.step_shape)
    assert x.dtype == model.predict(outputs).dtype == data.features.step_dtype
    assert ended.shape == (B,)
    assert ended.dtype == bool
    np.testing.assert_array_equal(x, model.sample(outputs[:, 0], draw_noise(model, B), Sampling())[0])
    assert np.any(np.asarray(x) != model.sample(outputs[:, 0], draw_noise(model, B, 1), Sampling())[0])


def test_mel_samples_are_raw_frames_and_end_as_often_as_the_model_says():
    model = make(MelRNN(cell=LSTM(4), distribution=Normal(scale=0.5)), MEL)
    outputs = np.zeros((4000, N_MELS + 1), np.float32)
    outputs[:, -1] = np.log(0.3 / 0.7)
    x, ended = model.sample(outputs, draw_noise(model, 4000), Sampling())
    np.testing.assert_allclose(x.mean(0), MEL.mean, atol=5 * 0.5 * max(MEL.std) / np.sqrt(4000))
    np.testing.assert_allclose(x.std(0), 0.5 * np.array(MEL.std), rtol=0.06)
    assert abs(ended.mean() - 0.3) < 0.04


@pytest.mark.nightly
@one_of_each
def test_bfloat16_outputs_are_near_float32_and_scored_in_float32(config, data):
    batch = draw_batch(config, data)
    wide, _ = unroll(make(config, data), batch)
    half_model = make(config, data, dtype=jnp.bfloat16)
    half, _ = unroll(half_model, batch)
    assert half.dtype == jnp.bfloat16
    np.testing.assert_allclose(half.astype(jnp.float32), wide, atol=0.1)
    assert half_model.log_prob(half, batch["x"][:, half_model.lookback :], batch["end"]).dtype == jnp.float32
    assert {leaf.dtype for leaf in jax.tree.leaves(nnx.state(half_model, nnx.Param))} == {jnp.dtype(jnp.float32)}


@one_of_each
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_train_step_lowers_for_gpu_and_tpu(config, data, dtype):
    config = dataclasses.replace(config, dropout=0.1)
    task = Likelihood(dtype=dtype).build(config, data, steps=10, batch_size=B)
    state = jax.eval_shape(task.init, jax.random.key(0))
    train_step = jax.jit(task.train_step, donate_argnums=0)
    exported = jax.export.export(train_step, platforms=("cuda", "tpu"))(state, draw_batch(config, data))
    assert exported.platforms == ("cuda", "tpu")


@pytest.mark.parametrize(
    ("words", "make"),
    [
        ("log-mel", functools.partial(MelRNN().make, MU, rngs=nnx.Rngs(0))),
        ("models samples", functools.partial(WaveRNN().make, MEL, rngs=nnx.Rngs(0))),
        ("models samples", functools.partial(SampleRNN().make, MEL, rngs=nnx.Rngs(0))),
        (
            "Softmax draws MuLaw samples, but the features are Pcm16",
            functools.partial(WaveRNN().make, PCM, rngs=nnx.Rngs(0)),
        ),
        (
            "CoarseFine draws Pcm16 samples",
            functools.partial(SampleRNN(output=CoarseFine()).make, MU, rngs=nnx.Rngs(0)),
        ),
        ("--model.frame-sizes is 8 64", functools.partial(SampleRNN, frame_sizes=(8, 64))),
        (
            "conditioning_repeat is 3, expected a divisor",
            functools.partial(SampleRNN, frame_sizes=(64, 8), conditioning_repeat=3),
        ),
        ("--model.context.window is 0", functools.partial(Window, 0)),
        ("--model.context.analysis-window is 1", functools.partial(LinearPrediction, analysis_window=1)),
        (
            "PlannedPrediction needs a plan",
            functools.partial(SampleRNN(context=PlannedPrediction()).make, MU, rngs=nnx.Rngs(0)),
        ),
        (
            "does not divide the slowest tier's frames of 8",
            functools.partial(SampleRNN, frame_sizes=(8,), context=LinearPrediction()),
        ),
        ("--model.distribution", functools.partial(MelRNN(distribution=Categorical(4)).make, MEL, rngs=nnx.Rngs(0))),
        ("accent", functools.partial(MelRNN(labels=("accent",)).make, MEL, rngs=nnx.Rngs(0))),
        ("accent", functools.partial(WaveRNN(labels=("accent",)).make, MU, rngs=nnx.Rngs(0))),
    ],
)
def test_mistakes_are_named(words, make):
    with pytest.raises(UserError, match=words):
        make()
