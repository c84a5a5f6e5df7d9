"""A plan of frames and samples that fill it: frames are those of the samples, likelihoods add up, clips end as planned."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import nightly
from flax import nnx

from jaxgen.core.errors import UserError
from jaxgen.data.spec import DataSpec
from jaxgen.features import LogMel, MuLaw
from jaxgen.features.source_filter import SourceFilter
from jaxgen.inference import generation
from jaxgen.inference.generation import Generator
from jaxgen.models.conditioning import Conditioning
from jaxgen.models.mel_rnn import MelRNN
from jaxgen.models.planned_rnn import PlannedRNN
from jaxgen.models.sample_rnn import SampleRNN
from jaxgen.nn.distributions import NormalMixture, Sampling
from jaxgen.nn.recurrent import GRU, LSTM
from jaxgen.nn.sample_context import PlannedPrediction
from jaxgen.objectives.likelihood import Likelihood

pytestmark = pytest.mark.slow

B, FRAMES, STRIDE = 3, 4, 6
T = FRAMES * STRIDE
DATA = DataSpec(features=MuLaw(sample_rate=8000, q_levels=16), vocabularies=(("digit", ("one", "two")),))
SAMPLES = SampleRNN(
    cell=GRU(4),
    frame_sizes=(3, 1),
    context=PlannedPrediction(18),
    sample_size=5,
    embedding_size=3,
    spectrum=8,
    labels=("digit",),
)
CONFIG = PlannedRNN(
    frames=SourceFilter(LogMel(sample_rate=8000, n_fft=32, hop_length=3, n_mels=2, stack=2), lowest=500, highest=1000),
    plan=MelRNN(cell=LSTM(4), distribution=NormalMixture(2), labels=("digit",)),
    samples=SAMPLES,
)


@pytest.fixture(scope="module")
def model():
    return CONFIG.make(DATA, rngs=nnx.Rngs(0))


@pytest.fixture(scope="module")
def codes():
    return np.random.default_rng(0).integers(16, size=(B, CONFIG.lookback + T)).astype(np.uint8)


@nnx.jit
def unroll(model, x, labels, key=None):
    return model.unroll(x, Conditioning(labels), model.init_carry(B), jnp.zeros((B, T), bool), key)[0]


def labelled(value=1):
    return {"digit": np.full((B, T), value, np.int32)}


def test_samples_know_their_frame_and_nothing_after_it(model, codes):
    before, others = unroll(model, codes, labelled()), np.random.default_rng(1).integers(16, size=codes.shape)
    for frame in range(FRAMES):
        first = frame * STRIDE
        other = codes.copy()
        other[:, CONFIG.lookback + first :] = others[:, CONFIG.lookback + first :]
        after = unroll(model, other, labelled())
        np.testing.assert_array_equal(after[:, :first], before[:, :first])
        assert np.abs(after[:, first, :16] - before[:, first, :16]).max() > 1e-3  # told of it at once
        np.testing.assert_array_equal(after[:, first, -1], before[:, first, -1])  # the end is not


@pytest.mark.nightly
def test_likelihoods_of_the_plan_its_samples_and_the_end_add_up(model, codes):
    """The clip ends with each sample of its last frame as likely as with any other."""
    outputs, x = unroll(model, codes, labelled()), codes[:, CONFIG.lookback :]
    frames, starts = model.encode_frames(codes), jnp.zeros((B, FRAMES), bool)
    of_frames = {"digit": np.ones((B, FRAMES), np.int32)}
    planned, _ = model.plan.unroll(frames, Conditioning(of_frames), model.plan.init_carry(B), starts)
    last = FRAMES - 1
    for place in (0, STRIDE - 1):
        end = np.arange(T) == last * STRIDE + place
        ends = np.broadcast_to(np.arange(FRAMES) == last, (B, FRAMES))
        expected = model.plan.log_prob(planned, frames[:, 1:], ends).sum(1) - np.log(STRIDE)
        expected += model.samples.log_prob(outputs[..., :16], x, end).sum(1)
        counted = np.arange(T) <= last * STRIDE + place
        found = jnp.where(counted, model.log_prob(outputs, x, np.broadcast_to(end, x.shape)), 0).sum(1)
        left = jnp.where(counted, 0, model.samples.log_prob(outputs[..., :16], x, end)).sum(1)
        np.testing.assert_allclose(found + left, expected, rtol=1e-5)
    end = np.zeros(x.shape, bool)
    scores = model.scores(outputs, x, end)
    np.testing.assert_allclose(scores["loss"], -model.log_prob(outputs, x, end), rtol=1e-5)
    per_frame = -model.plan.frame_log_prob(planned, frames[:, 1:]).mean() / 2
    np.testing.assert_allclose(scores["nats_per_frame"].mean(), per_frame, rtol=1e-5)
    bits = -model.samples.log_prob(outputs[..., :16], x, end) / np.log(2)
    np.testing.assert_allclose(scores["conditional_bits_per_sample"], bits, rtol=1e-5)
    within = np.asarray(DATA.features.bits_within_code())[np.asarray(x)]
    np.testing.assert_allclose(scores["conditional_bits_per_16_bit_sample"], bits + within, rtol=1e-5)
    assert "bits_per_sample" not in scores  # those of samples that are told of their frame do not compare with others


@pytest.mark.parametrize("logit", [-30.0, -2.0, 0.0, 30.0])
def test_a_clip_ends_within_its_last_frame_anywhere_alike(model, logit):
    outputs = jnp.zeros((1, STRIDE, 16))
    zeros = jnp.zeros((1, STRIDE))
    joined = model._with_plan(outputs, jnp.arange(STRIDE), zeros, zeros, jnp.full((1, STRIDE), logit))
    odds = np.asarray(jax.nn.sigmoid(joined[0, :, -1]), np.float64)
    alive = np.cumprod(np.append(1, 1 - odds[:-1]))
    np.testing.assert_allclose(alive * odds, jax.nn.sigmoid(logit) / STRIDE, rtol=2e-4)
    gradient = jax.grad(lambda x: model._with_plan(outputs, jnp.arange(6), zeros, zeros, jnp.full((1, 6), x)).sum())
    assert np.isfinite(gradient(logit))


@pytest.mark.nightly
def test_noise_on_what_is_told_and_heard_is_for_training_only(codes):
    """And of the two of them: the plan itself is of what is there."""
    quiet = dataclasses.replace(
        CONFIG,
        plan=dataclasses.replace(CONFIG.plan, label_dropout=0.0),
        samples=dataclasses.replace(SAMPLES, label_dropout=0.0),
    )
    silent, *noisy = (
        dataclasses.replace(quiet, conditioning_noise=conditioning, past_noise=past).make(DATA, rngs=nnx.Rngs(0))
        for conditioning, past in ((0.0, 0.0), (1.0, 0.0), (0.0, 1.0))
    )
    plain, key = unroll(silent, codes, labelled()), jax.random.key(0)
    np.testing.assert_allclose(unroll(silent, codes, labelled(), key), plain, rtol=1e-5, atol=1e-5)
    for model in noisy:
        trained = unroll(model, codes, labelled(), key)
        assert np.abs(trained - plain)[..., :16].max() > 1e-2
        np.testing.assert_allclose(trained[..., 17:], plain[..., 17:], rtol=1e-5, atol=1e-5)


def test_pitch_is_told_more_finely_than_levels(codes):
    """The noise on what is told, by what arrives at the model of samples."""
    noisy = dataclasses.replace(CONFIG, conditioning_noise=0.1, past_noise=0.0).make(DATA, rngs=nnx.Rngs(0))
    noisy.samples.unroll = lambda x, conditioning, carry, reset, key, plan: (
        jnp.repeat(plan.frames, 3, axis=1),
        carry,
    )
    off = unroll(noisy, codes, labelled(), jax.random.key(0)) - unroll(noisy, codes, labelled())
    off = np.asarray(off)[:, ::STRIDE, :-3].reshape(-1, CONFIG.frames.mel.n_mels + 2).std(axis=0)
    np.testing.assert_allclose(off, [0.1, 0.1, 0.02, 0.1], rtol=0.5)


@pytest.fixture(scope="module")
def made():
    """What draws clips that do not end from parameters that nobody trained."""
    task = Likelihood().build(CONFIG, DATA, steps=1, batch_size=1)
    params = jax.tree.map(lambda p: 1.5 * p, task.init(jax.random.key(0)).params)
    params["plan"]["head"]["bias"] = params["plan"]["head"]["bias"].at[-1].set(-100.0)
    generator = Generator(task.module, CONFIG, DATA)
    return lambda labels, **options: generator(params, labels, **options).clips


@pytest.mark.nightly
def test_a_clip_ends_as_often_as_planned_at_any_place_of_a_frame():
    """Of 1,000 clips whose every frame is the last with odds of 0.5: by their lengths."""
    task = Likelihood().build(CONFIG, DATA, steps=1, batch_size=1)
    params = task.init(jax.random.key(0)).params
    params["plan"]["head"]["kernel"] *= 0
    params["plan"]["head"]["bias"] = params["plan"]["head"]["bias"].at[-1].set(0.0)
    clips = Generator(task.module, CONFIG, DATA)(params, [{}] * 1000, seconds=0.0015).clips
    lengths = np.array([len(clip) for clip in clips])
    counts = np.bincount(lengths, minlength=13)[1:]
    assert counts[:STRIDE].min() > 1000 / 2 / STRIDE * 0.6
    assert abs(counts[:STRIDE].sum() / 1000 - 0.5) < 0.06  # in the first frame
    assert (
        abs(counts[STRIDE : 2 * STRIDE - 1].sum() / 1000 - 0.25 * 5 / 6) < 0.06
    )  # in the second, but for its last place


def test_a_frame_is_drawn_before_its_first_sample_and_another_for_each_row(model):
    """It is what the plan says of the frame before, with noise of its own; `sample` knows nothing of that noise."""
    carry, labels = nnx.jit(lambda model: model.init_carry(B))(model), Conditioning({"digit": jnp.arange(B) % 3})
    noise = jax.vmap(model.noise)(jax.random.split(jax.random.key(3), B))
    ready = jax.jit(lambda carry, noise: model.before_step(carry, labels, noise, Sampling(temperature=0.5)))
    first = ready(carry, noise)

    @jax.jit
    def wanted_of(carry, noise):
        planned, plan = model.plan.step(carry["frame"][:, None], labels, carry["plan"])
        standard = jax.vmap(lambda seed: model.plan.noise(jax.random.key(seed)))(noise[:, -1].view(jnp.uint32))
        wanted, _ = model.plan.sample(planned, standard, Sampling(temperature=0.5))
        return wanted, model.plan.frame_log_prob(planned, wanted), plan

    wanted, nats, plan = wanted_of(carry, noise)
    np.testing.assert_allclose(first["frame"], wanted, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(first["nats"], nats, rtol=1e-4)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), first["plan"], plan)
    same_noise = ready(carry, jnp.broadcast_to(noise[0], noise.shape))
    assert np.abs(first["frame"][1] - same_noise["frame"][1]).max() > 0.1
    other = noise.at[:, :-1].set(0.5)
    np.testing.assert_array_equal(ready(carry, other)["frame"], first["frame"])
    within = first | {"samples": first["samples"] | {"since": first["samples"]["since"] + 1}}
    again = ready(within, jax.random.uniform(jax.random.key(4), noise.shape))
    jax.tree.map(np.testing.assert_array_equal, again, within)
    out, _ = nnx.jit(lambda model, carry: model.step(jnp.zeros((B, model.lookback), jnp.uint8), labels, carry))(
        model, first
    )
    np.testing.assert_allclose(out[:, -2], first["nats"], rtol=1e-6)


@pytest.mark.parametrize(
    ("gain", "temperature"), [(0.5, 0.8 / 1.5), *map(nightly, (-1.0, 1 / 3, 1.0), (0.8, 0.8, 0.8 / 3))]
)
def test_voices_are_drawn_by_a_lower_temperature(model, gain, temperature):
    """The more of a period is there again in the next, as the frame has it that is being filled; the clip's end is not."""
    frame = jnp.zeros((B, model.frames.mel.stack, model.frames.mel.n_mels + 2)).at[..., -1].set(gain).reshape(B, -1)
    carry = nnx.jit(lambda model: model.init_carry(B))(model)
    carry |= {"frame": frame, "predictors": model.frames.predictors(frame[:, None]), "end": jnp.zeros(B)}
    labels = Conditioning({"digit": jnp.ones(B, jnp.int32)})
    out, _ = nnx.jit(lambda model: model.step(jnp.zeros((B, model.lookback), jnp.uint8), labels, carry))(model)
    out = jnp.broadcast_to(out, (300, *out.shape)).at[..., :16].multiply(5)  # a fresh model has few preferences
    noise = jax.random.uniform(jax.random.key(0), (300, B, 3))
    codes, ends = model.sample(out, noise, Sampling(temperature=0.8, voiced_sharpness=2.0))
    wanted = model.samples.head.sample(out[..., :16], noise[..., :1], Sampling(temperature=temperature))
    np.testing.assert_array_equal(codes, wanted)
    np.testing.assert_array_equal(ends, noise[..., -2] < jax.nn.sigmoid(out[..., -1]))
    assert len(np.unique(codes)) > 1


def test_where_a_clip_ends_is_not_guided(model):
    """Rows are a clip with its label and without: both end as the label has it, their frames are neither's."""
    carry = nnx.jit(lambda model: model.init_carry(2))(model)
    noise, labels = jnp.tile(model.noise(jax.random.key(3)), (2, 1)), Conditioning({"digit": jnp.int32([1, 0])})
    plain, guided = (
        jax.jit(functools.partial(model.before_step, sampling=Sampling(guidance=guidance)))(carry, labels, noise)
        for guidance in (0.0, 3.0)
    )
    assert np.abs(plain["end"][0] - plain["end"][1]) > 1e-3
    np.testing.assert_allclose(guided["end"], [plain["end"][0]] * 2, rtol=1e-5)
    assert np.abs(guided["frame"] - plain["frame"]).max(axis=-1).min() > 1e-2


def test_how_a_clip_is_cut_into_blocks_makes_no_difference(made, monkeypatch):
    clips = []
    for count in (7, 10_000):
        monkeypatch.setattr(generation, "_STEPS_PER_BLOCK", {"frame": count, "sample": count})
        clips.append(made([{"digit": "one"}, {}], seconds=0.02, seed=5))
    assert [len(clip) for clip in clips[0]] == [160, 160]
    for clip, same in zip(*clips, strict=True):
        np.testing.assert_array_equal(clip, same)


@pytest.mark.nightly
def test_a_plan_is_guided_by_labels_and_drawn_as_asked(made):
    """Guidance without labels changes nothing, the noise scale moves the frames, and a mixed label is its value."""
    guided, barely, narrow = Sampling(guidance=3.0), Sampling(guidance=1e-9), Sampling(guidance=3.0, noise_scale=0.1)
    some, one = [{}, {}], [{"digit": "one"}, {}]
    plain = made(some, seconds=0.02, sampling=barely)[0]
    np.testing.assert_array_equal(made(some, seconds=0.02, sampling=guided)[0], plain)
    clip = made(one, seconds=0.02, sampling=guided)[0]
    assert not np.array_equal(clip, made(one, seconds=0.02, sampling=barely)[0])
    assert not np.array_equal(clip, made(one, seconds=0.02, sampling=narrow)[0])
    np.testing.assert_array_equal(made([{"digit": "one:1"}, {}], seconds=0.02, sampling=guided)[0], clip)


def test_a_prompt_is_gone_on_from(made):
    """The next frame is planned from those that are heard in it, whether or not it ends with one."""
    one, two = np.sin(np.arange(2 * 300).reshape(2, 300) / np.float32([[3], [9]])) / 2
    heard = np.asarray(DATA.features.decode(DATA.features.encode(one)))
    clips = [made([{}], seconds=0.015, prompt=prompt)[0] for prompt in (one[:297], one, two)]
    for clip, length in zip(clips, (297, 300), strict=False):
        np.testing.assert_array_equal(clip[:length], heard[:length])
        assert len(clip) == length + 120
    assert not np.array_equal(clips[1][300:], clips[2][300:])


def test_train_step_lowers_for_gpu_and_tpu():  # in float32 test_lowering.py does so
    task = Likelihood(dtype="bfloat16").build(CONFIG, DATA, steps=10, batch_size=B)
    state = jax.eval_shape(task.init, jax.random.key(0))
    batch = {name: np.zeros((B, T), bool) for name in ("reset", "mask", "end")}
    batch |= {"x": np.zeros((B, CONFIG.lookback + T), np.uint8), "labels": labelled()}
    exported = jax.export.export(jax.jit(task.train_step, donate_argnums=0), platforms=("cuda", "tpu"))
    assert exported(state, batch).platforms == ("cuda", "tpu")


def test_a_chunk_that_cuts_a_frame_is_refused(model, codes):
    short = {"digit": np.ones((B, T - 3), np.int32)}
    with pytest.raises(
        UserError, match=r"chunks of 21 samples do not divide into frames of 6; change --train\.seq-len"
    ):
        jax.eval_shape(
            lambda: model.unroll(codes[:, :-3], Conditioning(short), model.init_carry(B), jnp.zeros((B, T - 3), bool))
        )


@pytest.mark.parametrize(
    ("words", "make"),
    [
        ("--model.conditioning-noise is -1", functools.partial(PlannedRNN, conditioning_noise=-1)),
        ("plan 160 samples at once, .*frame-sizes 64", functools.partial(PlannedRNN, samples=SampleRNN())),
        (
            "--model.samples.labels has 'key'",
            functools.partial(PlannedRNN, samples=SampleRNN(frame_sizes=(80,), labels=("key",))),
        ),
        (
            "context.window is 100, but a period of the voice may have 133 samples; make it at least 134",
            functools.partial(PlannedRNN, samples=SampleRNN(frame_sizes=(80,), context=PlannedPrediction(100))),
        ),
        ("--model.frames.lowest is 500 and --model.frames.highest 400 Hz", functools.partial(SourceFilter, lowest=500)),
        ("at most three octaves", functools.partial(SourceFilter, lowest=30)),
        ("lowest is 390 and --model.frames.highest 395", functools.partial(SourceFilter, lowest=390, highest=395)),
        (
            "--model.frames.mel.n-fft is 16",
            functools.partial(SourceFilter, LogMel(sample_rate=8000, n_fft=16, hop_length=8, n_mels=2)),
        ),
        (
            "change --model.plan.labels",
            functools.partial(PlannedRNN(plan=MelRNN(labels=("accent",))).make, DATA, rngs=nnx.Rngs(0)),
        ),
        (
            "models samples, but the features are LogMel",
            functools.partial(CONFIG.make, dataclasses.replace(DATA, features=CONFIG.frames.mel), rngs=nnx.Rngs(0)),
        ),
        (
            "--model.frames.mel.sample-rate is 8000 Hz, but the samples have 16000",
            functools.partial(
                CONFIG.make, dataclasses.replace(DATA, features=MuLaw(sample_rate=16_000)), rngs=nnx.Rngs(0)
            ),
        ),
    ],
)
def test_mistakes_are_named(words, make):
    with pytest.raises(UserError, match=words):
        make()
