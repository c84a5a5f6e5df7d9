"""The vocoder: what each sample depends on, sound as frames come, and the whole way from the command line."""

import dataclasses
import functools
import json

import jax
import numpy as np
import pytest

from benchmarks import clips
from jaxgen import audio
from jaxgen.cli import evaluate, generate, train
from jaxgen.core.errors import UserError
from jaxgen.data.spec import DataSpec
from jaxgen.features import LogMel
from jaxgen.inference.vocoder_run import open_vocoder
from jaxgen.inference.vocoding import Renderer
from jaxgen.models.critics import WaveCritic
from jaxgen.models.vocoder import Vocoder
from jaxgen.objectives.adversarial import Adversarial
from jaxgen.provenance.record import read as read_mark
from jaxgen.recipes.presets import load_config
from tests.rounding import POINTWISE, rounding

pytestmark = pytest.mark.slow

FEATURES = LogMel(sample_rate=8_000, n_fft=256, hop_length=80, n_mels=20)
SPEC = DataSpec(features=FEATURES, mean=(-4.0,) * 20, std=(2.0,) * 20)


@functools.cache
def _trained(spec=SPEC, **options):
    """(training, parameters, what renders with them) of a small vocoder with weights that make its blocks matter."""
    model = Vocoder(**{"width": 8, "num_blocks": 2, "kernel_size": 3, "refinements": 2} | options)
    task = Adversarial(critic=WaveCritic(windows=())).build(model, spec, steps=1, batch_size=1)
    params = jax.tree.map(lambda p: 1.5 * p + 0.1, jax.jit(task._generator.init)(jax.random.key(0)))
    return task, params, Renderer(task.module, spec.features, params)


def _frames(count, rows=1, seed=0):
    return np.random.default_rng(seed).normal(-4, 2, (rows, count, 20)).astype(np.float32)


def _rounding(sound, refinements=2, kernel_size=3):
    """Of one sample of what `_trained` gives: its network, one Fourier transform, and two more a refinement.

    A refinement takes the phase of sums, some of which are near zero: their error is larger, relative to them. The bound
    has room for that, as errors of hundreds of terms are mostly a root of that below theirs.
    """
    network = kernel_size * 20 + 8 + 2 * (kernel_size + 8 + 4 * 8 + 3 * POINTWISE) + 8 + 20
    return rounding(network + (1 + 2 * refinements) * FEATURES.n_fft, np.append(sound, 1))


def test_a_vocoder_gives_as_many_samples_as_it_was_shown():
    task, params, _ = _trained()
    samples = np.random.default_rng(0).normal(0, 0.1, (3, 1_600)).astype(np.float32)
    made = jax.jit(task.module(params).generate_like)({"samples": samples}, jax.random.key(0))
    assert made.shape == samples.shape
    assert np.isfinite(made).all()


@pytest.mark.parametrize("refinements", [0, 2])
@pytest.mark.parametrize("causal", [False, True])
def test_a_sample_depends_on_frames_within_reach_alone(causal, refinements):
    task, params, _ = _trained(causal=causal, refinements=refinements)
    module, count, changed = task.module(params), 60, 30
    before, after = module.receptive_field
    frames = _frames(count)
    other = frames.copy()
    other[:, changed] += 1
    render = jax.jit(module.render)
    moved = np.flatnonzero(np.asarray(render(frames) != render(other))[0])
    half = FEATURES.n_fft // 2
    assert moved.min() >= (changed - after) * 80 - half
    assert moved.max() <= (changed + before) * 80 + half
    assert moved.min() < (changed - after) * 80  # the reach is no larger than it need be
    assert moved.max() > (changed + before) * 80
    assert (after == 3 * refinements) == causal  # windows of 256 samples, 80 apart


@pytest.mark.parametrize(("hop", "window", "seen"), [(64, 160, 2), (64, None, 3), (80, 160, 1)])
def test_a_refinement_sees_a_window_more(hop, window, seen):
    features = dataclasses.replace(FEATURES, hop_length=hop, win_length=window)
    spec = dataclasses.replace(SPEC, features=features)
    reaches = []
    for refinements in (0, 1):
        task, params, _ = _trained(spec=spec, refinements=refinements)
        module, frames = task.module(params), _frames(60)
        other = frames.copy()
        other[:, 30] += 1
        render = jax.jit(module.render)
        moved = np.flatnonzero(np.asarray(render(frames) != render(other))[0])
        reaches.append(module.receptive_field[1])
        half = (window or 256) // 2
        assert (30 - module.receptive_field[1]) * hop - half <= moved.min() < (30 - module.receptive_field[1]) * hop
    assert reaches[1] - reaches[0] == seen


def test_training_hears_the_network_alone():
    samples = np.random.default_rng(0).normal(0, 0.1, (1, 1_600)).astype(np.float32)
    frames = np.asarray(FEATURES.encode(samples))
    for refinements, same in ((0, True), (2, False)):
        task, params, _ = _trained(refinements=refinements)
        module = task.module(params)
        heard = jax.jit(module.generate_like)({"samples": samples}, jax.random.key(0))
        assert np.allclose(heard, jax.jit(module.render)(frames), atol=_rounding(heard, refinements=0)) == same


def test_sound_as_frames_come_is_that_of_all_frames_at_once_when_refined_often():
    task, params, renderer = _trained(refinements=16)
    frames = _frames(200)
    whole = np.asarray(jax.jit(task.module(params).render)(frames))
    joined = np.concatenate(list(renderer.decode_blocks([frames])), axis=1)
    np.testing.assert_allclose(joined, whole, atol=_rounding(whole, refinements=16))


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("count", [1, 64, 65, 200])
def test_sound_as_frames_come_is_that_of_all_frames_at_once(causal, count):
    task, params, renderer = _trained(causal=causal)
    frames = _frames(count, rows=2)
    whole = np.asarray(jax.jit(task.module(params).render)(frames))
    streams = [
        list(renderer.decode_blocks(frames[:, at : at + size] for at in range(0, count, size))) for size in (7, 50, 200)
    ]
    for blocks in streams:
        joined = np.concatenate([np.zeros((2, 0), np.float32), *blocks], axis=1)
        assert joined.shape == (2, (count - 1) * 80)
        np.testing.assert_allclose(joined, whole, atol=_rounding(whole))
        assert [block.tobytes() for block in blocks] == [block.tobytes() for block in streams[0]]


@pytest.mark.nightly
@pytest.mark.parametrize(("causal", "kernel_size"), [(False, 3), (False, 9), (True, 7)])
def test_clips_end_to_end_do_not_hear_one_another(causal, kernel_size):
    task, params, renderer = _trained(causal=causal, kernel_size=kernel_size)
    clips = [_frames(count, seed=count)[0] for count in (1, 40, 7, 90)]
    for clip, sound in zip(clips, renderer.decode_clips(clips), strict=True):
        alone = np.asarray(jax.jit(task.module(params).render)(clip[None]))[0]
        assert sound.shape == ((len(clip) - 1) * 80,)
        np.testing.assert_allclose(sound, alone, atol=_rounding(alone, kernel_size=kernel_size))


@pytest.mark.parametrize("refinements", [0, 2])
def test_a_causal_vocoder_waits_only_for_windows_that_overlap(refinements):
    waits = {}
    for causal in (False, True):
        _, _, renderer = _trained(causal=causal, refinements=refinements)
        frames, given = iter(_frames(1, seed=seed) for seed in range(300)), 0

        def counted(frames=frames):
            nonlocal given
            for frame in frames:
                given += 1
                yield frame

        next(renderer.decode_blocks(counted()))
        waits[causal] = given - 64
    assert waits[True] == 2 + 3 * refinements  # half a window of 256 samples, in frames of 80; and a whole one each
    assert waits[False] == waits[True] + 3  # two blocks and the first convolution, a frame each


def test_refinements_bring_the_sound_nearer_to_its_frames():
    time = np.arange(4_000) / 8_000
    samples = (0.2 * np.sin(2 * np.pi * np.array([[200.0], [443.0]]) * time)).astype(np.float32)
    frames = np.asarray(FEATURES.encode(samples))
    away = {}
    for refinements in (0, 2, 8):
        task, params, _ = _trained(refinements=refinements)
        made = np.asarray(FEATURES.encode(jax.jit(task.module(params).render)(frames)))
        away[refinements] = np.abs(made - frames).mean()
    assert away[8] < 0.8 * away[2] < 0.8**2 * away[0]


def test_stacked_frames_are_taken_apart():
    """A vocoder hears frames, however many make a step of the sequence model's."""
    stacked = dataclasses.replace(
        SPEC, features=dataclasses.replace(FEATURES, stack=2), mean=(-4.0,) * 40, std=(2.0,) * 40
    )
    (_, _, one), (_, _, other) = _trained(), _trained(spec=stacked)
    frames = _frames(100)
    expected = np.concatenate(list(one.decode_blocks([frames])), axis=1)
    steps = frames.reshape(1, 50, 40)
    got = np.concatenate(list(other.decode_blocks([steps])), axis=1)
    np.testing.assert_array_equal(got, expected)
    (whole,) = other.decode_clips(steps)
    np.testing.assert_array_equal(whole, one.decode_clips(frames)[0])
    assert got.shape[1] == len(whole) == stacked.features.num_samples(50)


@pytest.mark.parametrize("options", [{"width": 0}, {"kernel_size": 4}, {"num_blocks": 0}])
def test_a_vocoder_that_cannot_be_is_refused(options):
    with pytest.raises(UserError, match="a Vocoder needs"):
        Vocoder(**options)
    with pytest.raises(UserError, match=r"--model\.refinements is -1"):
        Vocoder(refinements=-1)


CONFIG = """
from jaxgen.config import Config
from jaxgen.data.synthetic import PluckedStrings
from jaxgen.evaluation.copy_synthesis import CopySynthesis
from jaxgen.features import LogMel
from jaxgen.models.critics import WaveCritic
from jaxgen.models.vocoder import Vocoder
from jaxgen.objectives.adversarial import Adversarial
from jaxgen.training.schedule import Train

CONFIG = Config(
    data=PluckedStrings(num_clips=12, seconds=0.5),
    features=LogMel(sample_rate=8_000, n_fft=800, hop_length=400, n_mels=40, fmin=300.0, floor=1e-4),
    model=Vocoder(width=8, num_blocks=1),
    objective=Adversarial(critic=WaveCritic(periods=(3,), windows=(), channels=2)),
    train=Train(steps=2, batch_size=2, seq_len=2, eval_every=2, checkpoint_every=1, log_every=1),
    evaluation=CopySynthesis(num_clips=2, num_previews=1, griffin_lim=(2,)),
)
"""


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    path = tmp_path_factory.mktemp("config") / "tiny_vocoder.py"
    path.write_text(CONFIG)
    return path


@pytest.fixture(scope="module")
def vocoder(config, tmp_path_factory, cache):
    """The folder of a finished tiny vocoder of the quickstart's frames; tests must not change it."""
    workdir = tmp_path_factory.mktemp("runs") / "vocoder"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "sys.argv", ["jaxgen", "--config", str(config), "--workdir", str(workdir), "--cache-dir", str(cache)]
        )
        assert train.main() == 0
    return workdir


def test_each_term_has_its_own_options(config):
    changed = load_config(["--config", str(config), "--objective.terms.1.weight", "3"], "test").objective.terms
    assert [term.weight for term in changed] == [2.0, 3.0, 2.0]
    with pytest.raises(UserError, match=r"unknown option --objective.terms.7.weight; did you mean --objective.terms"):
        load_config(["--config", str(config), "--objective.terms.7.weight", "3"], "test")


def test_the_report_has_the_copies_beside_griffin_lim(vocoder, command, cache, tmp_path):
    report = json.loads((vocoder / "report.json").read_text())
    assert list(report["table"]) == [
        "held-out data",
        "generated",
        "Griffin-Lim, 2 iterations",
        "no vocoder",
        "untrained model",
    ]
    for name, column in report["table"].items():
        assert (column["log_spectral_distance_db"] == 0) == (name == "held-out data")
        assert column.keys() >= {"mel_distance_nats", "multi_resolution_stft_distance"}
        assert ("real_time_factor" in column) == (name != "held-out data")
    assert (
        report["table"]["held-out data"]["mel_distance_nats"] < 0.5 * report["table"]["generated"]["mel_distance_nats"]
    )
    assert {"loss", "mel_distance", "train_loss", "griffin_lim_2_mel_distance_nats"} <= report["metrics"].keys()
    page = (vocoder / "report.html").read_text()
    assert "the copy of the recording on its left" in page
    assert "Nearest training clips" not in page
    code, _, _ = command(
        evaluate.main, "--cache-dir", cache, "--workdir", vocoder, "--refinements", "8", "--out", tmp_path
    )
    assert code == 0
    refined = json.loads((tmp_path / "report.json").read_text())["metrics"]
    assert refined["mel_distance_nats"] < report["metrics"]["mel_distance_nats"]
    assert refined["loss"] == pytest.approx(report["metrics"]["loss"])
    code, out, _ = command(evaluate.main, "--cache-dir", cache, "--workdir", vocoder, "--out", tmp_path)
    assert code == 0
    again = json.loads((tmp_path / "report.json").read_text())["metrics"]
    for name, value in report["metrics"].items():
        if "real_time" not in name:
            assert again[name] == pytest.approx(value), name
    assert "Griffin-Lim, 2 iterations" in out


def test_a_vocoder_makes_the_sound_of_a_mel_model(quickstart, vocoder, command, cache, tmp_path):
    made = {}
    by_vocoder = ("--vocoder", vocoder)
    for name, more in {"griffin": (), "vocoder": by_vocoder, "refined": (*by_vocoder, "--refinements", "3")}.items():
        options = ("--workdir", quickstart, "--num", "1", "--seconds", "0.4", "--out", tmp_path / name)
        assert command(generate.main, *options, *more)[0] == 0
        (wav,) = (tmp_path / name).glob("*.wav")
        made[name], mark = audio.read(wav).samples, read_mark(wav)
        assert mark["vocoder"] == ("vocoder/2" if more else "")
    assert made["griffin"].shape == made["vocoder"].shape
    assert np.isfinite(made["vocoder"]).all()
    assert np.abs(made["griffin"] - made["vocoder"]).max() > 0
    assert np.abs(made["refined"] - made["vocoder"]).max() > 0
    report = ("--workdir", quickstart, "--vocoder", vocoder, "--num-clips", "2", "--out", tmp_path)
    assert command(evaluate.main, "--cache-dir", cache, *report)[0] == 0
    sounding, plain = (json.loads((path / "report.json").read_text()) for path in (tmp_path, quickstart))
    assert sounding["about"]["vocoder"] == str(vocoder)
    assert sounding["metrics"]["loss"] == pytest.approx(plain["metrics"]["loss"])
    assert sounding["metrics"]["frechet_distance_db2"] != pytest.approx(plain["metrics"]["frechet_distance_db2"])


def test_the_speed_of_a_mel_model_with_it_is_measured(quickstart, vocoder):
    (row,) = clips.main(["--runs", str(quickstart), "--vocoder", str(vocoder), "--num-clips", "2", "--repeats", "1"])
    assert row["vocoder"] == str(vocoder)
    assert 0 < row["audio_seconds"] <= 2 * 0.6
    with pytest.raises(UserError, match="makes sound of frames and no frames; pass it as --vocoder"):
        clips.main(["--runs", str(vocoder)])


def test_what_a_vocoder_cannot_do_is_one_line(quickstart, vocoder, config, command, cache, tmp_path):
    features = load_config(["--config", str(config)], "test").features
    with pytest.raises(UserError, match=r"features.hop_length=400 \(asked: 200\)"):
        open_vocoder(str(vocoder), str(cache), dataclasses.replace(features, hop_length=200))
    for options, says in (
        (("--workdir", vocoder), "a run of a Vocoder, which makes sound of frames"),
        (("--workdir", quickstart, "--vocoder", quickstart), "a run of a MelRNN; pass the folder"),
        (("--workdir", quickstart, "--vocoder", tmp_path / "none"), "Pass --vocoder the folder of a run"),
        (("--workdir", quickstart, "--vocoder", vocoder, "--refinements", "-1"), "--refinements is -1"),
        (("--workdir", quickstart, "--refinements", "1"), "a MelRNN is no vocoder"),
    ):
        code, _, err = command(generate.main, *options, "--out", tmp_path / "clips", "--seconds", "0.2")
        assert (code, says in err, err.count("jaxgen: ")) == (2, True, 1), err
        assert "Traceback" not in err
    code, _, err = command(
        evaluate.main, "--cache-dir", cache, "--workdir", vocoder, "--vocoder", vocoder, "--out", tmp_path / "report"
    )
    assert (code, "leave --vocoder out" in err) == (2, True), err
    asked = ("--config", config, "--workdir", tmp_path / "run", "--cache-dir", cache)
    for swapped, says in (
        (("--evaluation", "AutoregressiveEvaluation"), "use --evaluation CopySynthesis"),
        (("--objective", "Likelihood"), "--model is Vocoder"),
        (("--model", "MelRNN"), "--model is MelRNN"),
    ):
        code, _, err = command(train.main, *asked, *swapped)
        assert (code, says in err) == (2, True), err
