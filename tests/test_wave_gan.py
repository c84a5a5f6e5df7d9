"""Sound from noise: what the networks promise, where clips end, what is drawn, and the whole way from the command line."""

import collections
import dataclasses
import functools
import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import clips
from jaxgen import audio
from jaxgen.cli import generate, train
from jaxgen.core.errors import UserError
from jaxgen.data.excerpts import Excerpts
from jaxgen.data.spec import DataSpec
from jaxgen.evaluation.autoregressive import AutoregressiveEvaluation
from jaxgen.evaluation.copy_synthesis import CopySynthesis
from jaxgen.evaluation.latent_evaluation import LatentEvaluation
from jaxgen.features import LogMel, Pcm16
from jaxgen.inference import latent
from jaxgen.inference.latent import LatentSampler
from jaxgen.models.critics import WaveCritic
from jaxgen.models.latent import LatentSampling, slerp
from jaxgen.models.vocoder import Vocoder
from jaxgen.models.wave_gan import ShuffleCritic, WaveGAN, phase_shuffle
from jaxgen.objectives.adversarial import Adversarial
from jaxgen.objectives.adversarial_loss import Logistic
from jaxgen.objectives.diversity import diversity
from jaxgen.objectives.terms import FeatureMatching
from jaxgen.provenance.record import read as read_mark

pytestmark = pytest.mark.slow

VOCABULARY = (("timbre", ("muted", "nylon", "steel")),)
FRAMES = DataSpec(
    features=LogMel(sample_rate=8_000, n_fft=256, hop_length=200, n_mels=20, stack=2),
    vocabularies=VOCABULARY,
    mean=(-4.0,) * 40,
    std=(2.0,) * 40,
)
SAMPLES = DataSpec(features=Pcm16(sample_rate=8_000), vocabularies=VOCABULARY)
MODEL = WaveGAN(first_steps=3, factors=(4,), channels=(4, 4), kernel_size=3, depth=1, latent_size=5, labels=("timbre",))
CRITIC = ShuffleCritic(factors=(2, 2), channels=(4, 4), kernel_size=3, shuffle=1, width=6)
OBJECTIVE = Adversarial(loss=Logistic(), terms=(), critic=CRITIC)
LONG = dataclasses.replace(MODEL, factors=(400,))  # samples, of which 10 ms are 80


@functools.cache
def _bound(spec, model=MODEL, objective=OBJECTIVE):
    task = objective.build(model, spec, steps=4, batch_size=4)
    return task, jax.jit(task._generator.init)(jax.random.key(0))


@functools.cache
def _generator(spec, model=MODEL):
    task, params = _bound(spec, model)
    return LatentSampler(task.module, model, spec), params


def _timbres(*indices):
    return {"timbre": np.array(indices, np.int32)}


@pytest.mark.parametrize("reach", [1, 3])
def test_phase_shuffle_moves_each_row_and_reflects_what_is_missing(reach):
    x = np.random.default_rng(0).normal(size=(200, 9, 2)).astype(np.float32)
    moved = np.asarray(phase_shuffle(jnp.asarray(x), jax.random.key(0), reach))
    padded = np.pad(x, [(0, 0), (reach, reach), (0, 0)], mode="reflect")
    ways = np.stack([padded[:, place : place + 9] for place in range(2 * reach + 1)])
    found = (ways == moved).all(axis=(2, 3))
    assert (found.sum(axis=0) == 1).all()
    counts = found.sum(axis=1)
    assert counts.min() > 0.5 * 200 / len(ways)
    rows, steps = np.arange(200)[:, None], found.argmax(axis=0)[:, None] + np.arange(9)

    def plain(x):
        return jnp.pad(x, [(0, 0), (reach, reach), (0, 0)], mode="reflect")[rows, steps]

    def steepness(moved):  # and its gradient, as of a gradient penalty
        slope = jax.grad(lambda x: jnp.sin(moved(x)).sum())
        return slope(x), jax.grad(lambda x: jnp.square(slope(x)).sum())(x)

    for got, expected in zip(
        steepness(lambda x: phase_shuffle(x, jax.random.key(0), reach)), steepness(plain), strict=True
    ):
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)


def test_phase_shuffle_of_none_changes_nothing_and_of_too_few_steps_is_refused():
    x = jnp.ones((2, 3, 1))
    np.testing.assert_array_equal(phase_shuffle(x, jax.random.key(0), 0), x)
    with pytest.raises(UserError, match="reads 3 steps, too few to move them by 3"):
        phase_shuffle(x, jax.random.key(0), 3)


@pytest.mark.parametrize(("spec", "shape"), [(FRAMES, (3, 12, 40)), (SAMPLES, (3, 12))], ids=["frames", "samples"])
def test_clips_are_of_noise_and_labels(spec, shape):
    task, params = _bound(spec)
    module = jax.jit(lambda latents, labels: task.module(params)(latents, labels))
    latents = np.random.default_rng(0).normal(size=(3, 5)).astype(np.float32)
    sound = np.asarray(module(latents, _timbres(1, 2, 3)))
    assert sound.shape == shape
    assert np.isfinite(sound).all()
    assert np.abs(sound - np.asarray(module(latents, _timbres(1, 2, 1))))[:2].max() == 0
    assert (
        np.abs(sound - np.asarray(module(latents, _timbres(2, 3, 1)))).max(axis=tuple(range(1, sound.ndim))).min() > 0
    )
    assert (
        np.abs(sound - np.asarray(module(-latents, _timbres(1, 2, 3)))).max(axis=tuple(range(1, sound.ndim))).min() > 0
    )


@pytest.mark.parametrize("spec", [FRAMES, SAMPLES], ids=["frames", "samples"])
def test_a_critic_hears_labels_and_what_chance_does_to_phases(spec):
    task, _ = _bound(spec)
    critic = task._critic(jax.jit(task._critic.init)(jax.random.key(0)))
    shape = (2, 12, 40) if spec is FRAMES else (2, 12)
    sound = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    heard = jax.jit(lambda labels, key: critic(sound, labels, key)[0].scores)

    def score(number, seed):
        return np.asarray(heard(_timbres(number, number), jax.random.key(seed)))

    assert score(1, 0).shape == (2, 1)
    assert np.abs(score(1, 0) - score(2, 0)).min() > 0
    assert any(np.abs(score(1, 0) - score(1, seed)).max() > 0 for seed in range(1, 5))
    assert np.array_equal(score(1, 0), score(1, 0))


def test_frames_are_real_until_a_clip_ends_and_its_length_is_known(mel_store):
    """What the critic hears of recordings becomes them again, as long as they are."""
    spec = mel_store.spec(("timbre",))
    model = dataclasses.replace(MODEL, first_steps=6)  # 24 steps
    task, params = _bound(spec, model)
    batch = Excerpts(mel_store, spec, ("timbre",), batch_size=3, length=24 * 200, seed=0, whole=True).batch(0)
    batch["length"] = np.array([4_000, 1_999, 200], np.int32)
    batch["samples"] *= np.arange(24 * 200) < batch["length"][:, None]
    module = task.module(params)
    real = np.asarray(jax.jit(module.real)(batch))
    steps, lengths = map(np.asarray, jax.jit(module.to_clips)(real))
    assert lengths.tolist() == [4_000, 1_800, 200]
    np.testing.assert_allclose(steps, spec.features.encode(batch["samples"])[:, :24], atol=1e-5)
    silence = (spec.features.silence() - np.asarray(spec.mean)) / np.asarray(spec.std)
    assert (real[0, 21:] < silence).all()
    assert (real[0, :21] >= silence - 1e-5).all()
    made = jax.jit(module.generate_like)(batch, jax.random.key(0))
    assert made.shape == real.shape
    assert (np.asarray(made) >= silence - 1.0).all()


def test_samples_end_where_silence_begins():
    task, params = _bound(SAMPLES, LONG)
    sound = np.zeros((3, 1_200), np.float32)
    sound[0, :100], sound[1, 1_199] = 0.1, 0.5
    steps, lengths = task.module(params).to_clips(jnp.asarray(sound))
    assert np.asarray(lengths).tolist() == [160, 1_200, 80]
    np.testing.assert_array_equal(steps, SAMPLES.features.encode(sound))


def test_truncation_bounds_latents_and_only_shrinks_them():
    key = jax.random.key(3)
    free, some, few = (np.asarray(LatentSampling(t).draw(key, 10_000)) for t in (math.inf, 1.0, 0.3))
    assert abs(free.std() - 1) < 0.03
    assert np.abs(some).max() <= 1.0
    assert np.abs(few).max() <= 0.3
    assert (np.abs(few) <= np.abs(some)).all()
    assert (np.abs(some) <= np.abs(free)).all()
    assert (np.sign(few) == np.sign(free)).mean() > 0.999


def test_the_way_between_latents_is_an_arc():
    first, last = np.random.default_rng(0).normal(size=(2, 64)).astype(np.float32)
    shares = np.linspace(0, 1, 5)
    points = np.asarray(slerp(first, last, shares))
    np.testing.assert_array_equal(points[0], first)
    np.testing.assert_array_equal(points[-1], last)
    angle = math.acos(first @ last / np.linalg.norm(first) / np.linalg.norm(last))
    halfway = (first + last) * math.sin(angle / 2) / math.sin(angle)
    np.testing.assert_allclose(points[2], halfway, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(slerp(first, first, shares), np.tile(first, (5, 1)), rtol=1e-4)


@pytest.mark.parametrize("size", [1, 5])
def test_the_way_between_latents_without_an_arc_is_straight(size):
    first, shares = np.random.default_rng(0).normal(size=size).astype(np.float32), np.linspace(0, 1, 5)
    for last in (-first, -2 * first, 3 * first):
        expected = first + shares[:, None] * (last - first)
        np.testing.assert_allclose(slerp(first, last, shares), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("spec", [FRAMES, SAMPLES], ids=["frames", "samples"])
def test_a_clip_depends_on_seed_and_place_alone(spec):
    generator, params = _generator(spec)
    labels = [{"timbre": "steel"}, {"timbre": "nylon"}] * 20
    many = generator(params, labels, seed=1).clips
    few = generator(params, labels[:3], seed=1).clips
    assert (len(many), len(few)) == (40, 3)
    for ours, theirs in zip(few, many, strict=False):
        np.testing.assert_array_equal(ours, theirs)
    other = generator(params, labels[:3], seed=2).clips
    assert any(not np.array_equal(a, b) for a, b in zip(few, other, strict=True))


def test_the_ends_of_an_interpolation_are_the_clips():
    generator, params = _generator(FRAMES)
    labels = [{"timbre": "steel"}, {"timbre": "nylon"}, {"timbre": "steel"}]
    latents = LatentSampling(0.8)
    clips = generator(params, labels, latents=latents, seed=5).clips
    way = generator.interpolate(params, labels, 4, latents=latents, seed=5)
    assert len(way) == 9
    for clip, end in zip(clips, way[::4], strict=True):
        np.testing.assert_array_equal(clip, end)
    joined = generator.concatenate(way)
    assert len(joined) == sum(map(len, way)) + 8 * 800
    np.testing.assert_array_equal(joined[: len(clips[0])], clips[0])


def test_labels_that_are_not_said_are_drawn_and_must_be_known():
    generator, params = _generator(FRAMES)
    drawn = FRAMES.draw_labels(("timbre",), [{}] * 300, seed=0)
    counts = collections.Counter(row["timbre"] for row in drawn)
    assert set(counts) == {"muted", "nylon", "steel"}
    assert min(counts.values()) > 70
    assert FRAMES.draw_labels(("timbre",), [{}] * 3, seed=0) == drawn[:3]
    assert FRAMES.draw_labels(("timbre",), [{"timbre": "steel"}], seed=0) == ({"timbre": "steel"},)
    with pytest.raises(UserError, match="a clip needs a timbre"):
        generator(params, [{}])
    with pytest.raises(UserError, match="never seen in training as timbre"):
        generator(params, [{"timbre": "gut"}])


def test_the_spread_of_frames_tells_a_collapse():
    frames = np.random.default_rng(0).normal(size=(16, 12, 40)).astype(np.float32)
    assert diversity(np.repeat(frames[:1], 16, axis=0)) < 0.01 * diversity(frames)


@pytest.mark.nightly
def test_the_losses_reach_every_parameter(mel_store):
    spec, critic = mel_store.spec(("timbre",)), dataclasses.replace(CRITIC, depth=1)
    task, generator = _bound(spec, objective=dataclasses.replace(OBJECTIVE, critic=critic))
    batch = next(iter(OBJECTIVE.batches(MODEL, mel_store, spec, batch_size=4, seq_len=12, seed=0)))
    key, labels = jax.random.key(0), batch["labels"]

    @jax.jit
    def losses(params):
        model = task.module(params["generator"])
        real, made = model.real(batch), model.generate_like(batch, key)
        theirs, _ = task._critic_loss(params["critic"], real, made, labels, jnp.asarray(0), key)
        ours, figures = task._generator_loss(made, params["critic"], real, labels, key)
        assert figures["loss"] is figures["generator_loss"]
        return theirs + 2 * ours

    slopes = jax.grad(losses)({"generator": generator, "critic": jax.jit(task._critic.init)(key)})
    leaves = jax.tree.leaves_with_path(slopes)
    assert [jax.tree_util.keystr(path) for path, slope in leaves if not np.any(slope)] == []


def test_a_critic_of_phases_hears_what_a_vocoder_makes():
    """Samples, though the features are frames."""
    task = Adversarial(critic=CRITIC).build(Vocoder(width=4, num_blocks=1), FRAMES, steps=1, batch_size=1)
    critic = task._critic
    heard = jax.eval_shape(lambda key: critic(critic.init(key))(jnp.zeros((2, 400)), {}, key), jax.random.key(0))
    assert heard[0].scores.shape == (2, 1)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: WaveGAN(channels=(4, 4)), "channels before the first stage and after each"),
        (lambda: WaveGAN(first_steps=0), "sizes of at least 1"),
        (lambda: ShuffleCritic(channels=(4,)), "channels for each of its factors"),
        (lambda: ShuffleCritic(shuffle=-1), "at least 0"),
        (lambda: LatentSampling(0.0), "--truncation is 0"),
        (
            lambda: _bound(FRAMES, objective=dataclasses.replace(OBJECTIVE, terms=(FeatureMatching(),))),
            "take the terms out",
        ),
        (
            lambda: _bound(SAMPLES, objective=dataclasses.replace(OBJECTIVE, critic=WaveCritic())),
            "does not read labels",
        ),
        (
            lambda: _bound(FRAMES, dataclasses.replace(MODEL, labels=()), Adversarial(terms=(), critic=WaveCritic())),
            "a WaveCritic reads samples",
        ),
        (lambda: _bound(FRAMES, dataclasses.replace(MODEL, labels=("tempo",))), "asks for label 'tempo'"),
    ],
)
def test_what_does_not_fit_is_one_line(make, says):
    with pytest.raises(UserError, match=says) as error:
        make()
    assert "\n" not in str(error.value)


def test_the_length_of_clips_is_the_models(mel_store):
    with pytest.raises(UserError, match=r"--train.seq-len is 10, but the model makes clips of 12 steps"):
        OBJECTIVE.batches(MODEL, mel_store, mel_store.spec(("timbre",)), batch_size=4, seq_len=10, seed=0)


def test_each_evaluation_measures_its_own_kind_of_model():
    task, _ = _bound(FRAMES)
    options = {"batch_size": 4, "seq_len": 12, "seed": 0, "cache_dir": ""}
    for config, model, says in (
        (AutoregressiveEvaluation(), MODEL, "LatentEvaluation"),
        (CopySynthesis(), MODEL, "measures vocoders"),
        (LatentEvaluation(), Vocoder(), "--evaluation AutoregressiveEvaluation"),
    ):
        with pytest.raises(UserError, match=says):
            config.evaluator(task, model, FRAMES, **options)


CONFIG = """
from jaxgen.config import Config
from jaxgen.data.drums import Drums
from jaxgen.evaluation.latent_evaluation import LatentEvaluation
from jaxgen.features import Pcm16
from jaxgen.models.wave_gan import ShuffleCritic, WaveGAN
from jaxgen.objectives.adversarial import Adversarial
from jaxgen.training.schedule import Train

CONFIG = Config(
    data=Drums(num_clips=30, seconds=0.1),
    features=Pcm16(sample_rate=8_000),
    model=WaveGAN(first_steps=8, factors=(10, 10), channels=(4, 4, 2), kernel_size=2, latent_size=3, labels=("drum",)),
    objective=Adversarial(
        terms=(), critic=ShuffleCritic(factors=(10, 10), channels=(2, 4), kernel_size=3, shuffle=1, width=4)
    ),
    train=Train(steps=2, batch_size=2, seq_len=800, eval_every=2, checkpoint_every=2, log_every=1),
    evaluation=LatentEvaluation(num_clips=3, num_previews=2),
)
"""


@pytest.fixture(scope="module")
def drums(tmp_path_factory, cache):
    """The folder of a finished tiny WaveGAN; tests must not change it."""
    folder = tmp_path_factory.mktemp("gan")
    (folder / "tiny_gan.py").write_text(CONFIG)
    with pytest.MonkeyPatch.context() as patch:
        options = ("--config", folder / "tiny_gan.py", "--workdir", folder / "run", "--cache-dir", cache)
        patch.setattr("sys.argv", ["jaxgen", *map(str, options)])
        assert train.main() == 0
    return folder / "run"


def test_the_report_measures_clips_as_those_of_sequences(drums):
    report = json.loads((drums / "report.json").read_text())
    assert list(report["table"]) == ["training data", "held-out data", "generated", "untrained model", "noise"]
    assert {"frechet_distance_db2", "seconds_per_clip"} <= report["table"]["generated"].keys()
    assert {"real_time_factor", "memorisation_suspicious_share"} <= report["metrics"].keys()
    page = (drums / "report.html").read_text()
    assert "Distance from recordings (dB²) by step" in page
    assert "overfitting" not in page
    rows = [json.loads(line) for line in (drums / "metrics.jsonl").read_text().splitlines()]
    assert rows[-1]["split"] == "validation"
    assert rows[-1]["loss"] == rows[-1]["frechet_distance_db2"]


def test_clips_and_the_way_between_them_are_written(drums, command, tmp_path):
    code, out, _ = command(
        generate.main, "--workdir", drums, "--num", "3", "--seed", "4", "--out", tmp_path / "a", "--interpolate", "2"
    )
    assert code == 0
    assert "4 clips" in out
    wavs = sorted((tmp_path / "a").glob("*.wav"))
    assert [wav.name[:3] for wav in wavs] == ["000", "001", "002", "003"]
    assert "interpolated-2" in wavs[-1].name
    lengths = [len(audio.read(wav).samples) for wav in wavs]
    assert lengths[-1] > sum(lengths[:-1]) + 4 * 800  # five clips, four silences
    assert read_mark(wavs[0])["labels"].keys() == {"drum"}
    asked = ("--workdir", drums, "--num", "3", "--seed", "4", "--label", "drum=kick", "--truncation", "0.1")
    assert command(generate.main, *asked, "--out", tmp_path / "b")[0] == 0
    kicks = [audio.read(wav).samples for wav in sorted((tmp_path / "b").glob("*.wav"))]
    assert len(kicks) == 3
    assert not np.array_equal(kicks[0], audio.read(wavs[0]).samples)


def test_clips_and_the_way_between_them_come_in_batches(drums, command, tmp_path, monkeypatch):
    """However they are cut into batches, also where the last one has a single clip."""
    made = []
    for size in (32, 2):
        monkeypatch.setattr(latent, "BATCH", size)
        out = tmp_path / str(size)
        assert command(generate.main, "--workdir", drums, "--num", "5", "--out", out, "--interpolate", "2")[0] == 0
        made.append({wav.name: audio.read(wav).samples for wav in out.glob("*.wav")})
    assert made[0].keys() == made[1].keys()
    assert len(made[0]) == 6
    for name, clip in made[0].items():
        np.testing.assert_allclose(made[1][name], clip, atol=1e-3)


def test_the_speed_of_its_clips_is_measured(drums):
    (row,) = clips.main(["--runs", str(drums), "--num-clips", "2", "--repeats", "1"])
    assert row["real_time_factor"] == pytest.approx(row["audio_seconds"] / row["seconds"])
    assert 0 < row["audio_seconds"] <= 2 * 1.1


def test_what_a_model_of_noise_cannot_do_is_one_line(drums, quickstart, command, tmp_path):
    for options, says in (
        (("--workdir", drums, "--seconds", "1"), "makes whole clips of noise; leave out --seconds"),
        (("--workdir", drums, "--temperature", "0.5"), "leave out --temperature"),
        (("--workdir", drums, "--label", "drum=gong"), "never seen in training as drum"),
        (("--workdir", drums, "--num", "1", "--interpolate", "3"), "2 clips to go between"),
        (("--workdir", quickstart, "--truncation", "0.5"), "predicts one step after another; leave out --truncation"),
    ):
        code, _, err = command(generate.main, *options, "--out", tmp_path / "clips")
        assert (code, says in err, err.count("jaxgen: ")) == (2, True, 1), err
        assert "Traceback" not in err
