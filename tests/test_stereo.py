"""Stereo sound: what frames tell of two channels, and that it comes through stores, models, vocoders and files."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import soundfile
from conftest import SHRUNK, SHRUNK_VOCODER
from flax import nnx

from jaxgen import audio
from jaxgen.cli import evaluate, generate, train
from jaxgen.core.errors import UserError
from jaxgen.core.numerics import random_key
from jaxgen.data.folder import Folder
from jaxgen.data.ingest import AudioPolicy
from jaxgen.data.preparation import prepare
from jaxgen.data.spec import DataSpec
from jaxgen.data.synthetic import PluckedStrings
from jaxgen.evaluation.stereo import channel_correlation, level_difference_db, stereo_errors
from jaxgen.features import LogMel, MuLaw, Pcm16
from jaxgen.features.source_filter import SourceFilter
from jaxgen.features.stereo import relate_phases
from jaxgen.inference.vocoding import Renderer
from jaxgen.models.critics import WaveCritic
from jaxgen.models.vocoder import Vocoder
from jaxgen.models.wave_gan import WaveGAN
from jaxgen.objectives.terms import LossInputs, StftDistance

MONO = LogMel(sample_rate=48_000, n_fft=1024, hop_length=256, n_mels=40, floor=1e-6)
STEREO = dataclasses.replace(MONO, channels=2)
STACKED = dataclasses.replace(STEREO, stack=2)
PLUCKED = PluckedStrings(num_clips=12, seconds=0.5, sample_rate=48_000, channels=2)


def music(width: float, seed: int = 0, num_samples: int = 9_600) -> np.ndarray:
    """Noise and tones, float32 [nsamp, 2], to the left; width: how much of the channels is not common, 0 to 1."""
    random = np.random.default_rng(seed)
    common, *own = random.normal(0, 0.1, (3, num_samples))
    common = common + 0.2 * np.sin(2 * np.pi * 1_000 * np.arange(num_samples) / 48_000)
    rows = [
        gain * (np.sqrt(1 - width) * common + np.sqrt(width) * each) for gain, each in zip((1, 0.6), own, strict=True)
    ]
    return np.stack(rows, axis=-1).astype(np.float32)


def test_frames_are_those_of_librosa_levels_of_the_channels_and_of_the_side():
    samples = music(0.5)
    mean, difference, share = np.split(np.asarray(STEREO.encode(samples)), 3, axis=-1)
    left, right, side = (np.asarray(MONO.encode(each)) for each in (*samples.T, (samples[:, 0] - samples[:, 1]) / 2))
    np.testing.assert_allclose(mean + difference / 2, left, atol=1e-4)
    np.testing.assert_allclose(mean - difference / 2, right, atol=1e-4)
    np.testing.assert_allclose(share, np.exp(side) / ((np.exp(left) + np.exp(right)) / 2), atol=1e-3)


def test_channels_that_change_places_change_the_sign_of_the_difference_alone():
    samples = music(0.5)
    before, after = (np.split(np.asarray(STEREO.encode(each)), 3, axis=-1) for each in (samples, samples[:, ::-1]))
    np.testing.assert_array_equal(after[0], before[0])
    np.testing.assert_array_equal(after[1], -before[1])
    np.testing.assert_array_equal(after[2], before[2])


def test_a_mono_recording_as_stereo_has_the_frames_of_mono_and_no_width():
    samples = music(0.0)[:, 0]
    frames = np.asarray(STEREO.encode(np.stack([samples, samples], axis=-1)))
    np.testing.assert_allclose(frames[:, :40], MONO.encode(samples), atol=1e-5)
    assert not frames[:, 40:].any()
    sound = np.asarray(STEREO.decode(frames))
    np.testing.assert_array_equal(sound[:, 0], sound[:, 1])


@pytest.mark.parametrize("spec", [STEREO, STACKED], ids=["plain", "stacked"])
def test_shapes_of_a_round_trip(spec):
    steps = spec.encode(np.stack([music(0.3), music(0.3)]))
    assert steps.shape == (2, spec.num_steps(9_600), *spec.step_shape)
    assert spec.decode(steps, 2).shape == (2, spec.num_samples(steps.shape[1]), 2)
    silent = np.asarray(spec.encode(np.zeros((9_600, 2), np.float32)))
    np.testing.assert_allclose(silent, np.tile(spec.silence(), (len(silent), 1)), atol=1e-6)
    assert not np.asarray(spec.decode(silent, 2)).any()


@pytest.mark.parametrize("width", [0.0, 0.2, 0.5, 1.0])
def test_griffin_lim_keeps_how_channels_go_together(width):
    samples = music(width)
    copy = np.asarray(STEREO.decode(STEREO.encode(samples), 32))[: len(samples)]
    assert abs(channel_correlation(copy) - channel_correlation(samples)) < 0.1
    assert abs(level_difference_db(copy) - level_difference_db(samples)) < 0.5


def test_griffin_lim_keeps_channels_that_are_opposite():
    samples = music(0.0) * np.array([1, -1], np.float32)
    copy = np.asarray(STEREO.decode(STEREO.encode(samples), 16))
    assert channel_correlation(samples) < -0.99
    assert channel_correlation(copy) < -0.9


def test_phases_are_turned_until_the_side_has_its_share():
    random = np.random.default_rng(0)
    magnitude = random.uniform(0.1, 1, (2, 5, 7)).astype(np.float32)
    turns = random.uniform(-np.pi, np.pi, (2, 5, 7))
    wanted = magnitude * np.exp(1j * random.uniform(-np.pi, np.pi, (2, 5, 7)))
    share = np.abs((wanted[0] - wanted[1]) / 2) ** 2 / ((magnitude**2).sum(0) / 2)
    phases = np.exp(1j * turns).astype(np.complex64)
    found = np.asarray(relate_phases(jnp.asarray(phases), jnp.asarray(magnitude), jnp.asarray(share, jnp.float32)))
    np.testing.assert_allclose(np.abs(found), 1, rtol=1e-5)
    side = np.abs((magnitude * found)[0] - (magnitude * found)[1]) ** 2 / 4
    np.testing.assert_allclose(side / ((magnitude**2).sum(0) / 2), share, atol=1e-4)
    again = relate_phases(jnp.asarray(found), jnp.asarray(magnitude), jnp.asarray(share, jnp.float32))
    np.testing.assert_allclose(again, found, atol=2e-2)  # near 0 an angle is sensitive to its cosine


def test_sound_of_frames_as_they_come_does_not_depend_on_how_they_are_cut():
    frames = np.asarray(STEREO.encode(music(0.5, num_samples=20_000)))[None]
    whole, cut = (
        np.concatenate(list(STEREO.decode_blocks(blocks)), axis=1)
        for blocks in ([frames], np.array_split(frames, 5, 1))
    )
    assert whole.shape == (1, STEREO.num_samples(frames.shape[1]), 2)
    np.testing.assert_array_equal(cut, whole)


# Vocoders


@pytest.fixture(scope="module")
def vocoder():
    data = DataSpec(features=STEREO, mean=(-6.0,) * 80 + (0.1,) * 40, std=(2.0,) * 80 + (0.2,) * 40)
    return Vocoder(width=16, num_blocks=2).make(data, rngs=nnx.Rngs(0))


def test_a_vocoder_swaps_its_channels_with_those_of_its_frames(vocoder):
    samples = np.stack([music(0.5), music(0.2, seed=1)])
    ours, swapped = (
        np.asarray(vocoder.generate_like({"samples": s}, random_key(0))) for s in (samples, samples[..., ::-1])
    )
    assert ours.shape == (2, 37 * 256, 2)
    np.testing.assert_allclose(swapped[..., ::-1], ours, atol=1e-5)
    assert np.abs(ours[..., 0] - ours[..., 1]).max() > 1e-3


def test_a_vocoder_keeps_mono_sound_mono_whatever_it_has_learned(vocoder):
    samples = np.repeat(music(0.0)[None, :, :1], 2, axis=-1)
    sound = np.asarray(vocoder.generate_like({"samples": samples}, random_key(0)))
    np.testing.assert_array_equal(sound[..., 0], sound[..., 1])


@pytest.mark.nightly
def test_a_vocoder_learns_from_finite_gradients(vocoder):
    graph, state = nnx.split(vocoder)
    samples = np.stack([music(0.5), np.repeat(music(0.0)[:, :1], 2, axis=1), np.zeros((9_600, 2), np.float32)])[
        :, :9_472
    ]
    distance = StftDistance(windows=(512,)).build(DataSpec(features=STEREO))

    def loss(state):
        made = nnx.merge(graph, state).generate_like({"samples": samples}, random_key(0))
        return distance(LossInputs(jnp.asarray(samples), made)).mean()

    assert all(np.isfinite(each).all() for each in jax.tree.leaves(jax.grad(loss)(state)))


@pytest.mark.parametrize("refinements", [0, 2])
def test_a_vocoder_streams_what_it_makes_at_once(vocoder, refinements):
    data = DataSpec(features=STEREO, mean=(-6.0,) * 120, std=(2.0,) * 120)
    module = Vocoder(width=8, num_blocks=1, refinements=refinements).make(data, rngs=nnx.Rngs(0))
    renderer = Renderer(lambda _: module, STEREO)
    frames = np.asarray(STEREO.encode(music(0.5, num_samples=40_000)))
    (once,) = renderer.decode_clips([frames])
    streamed = np.concatenate(list(renderer.decode_blocks(np.array_split(frames[None], 4, axis=1))), axis=1)[0]
    assert once.shape == ((len(frames) - 1) * 256, 2)
    np.testing.assert_allclose(streamed, once, atol=2e-4)


def test_a_critic_hears_how_channels_go_together():
    critic = WaveCritic(periods=(3,), windows=(256,), channels=2, spectral_channels=2)
    module = critic.make(DataSpec(features=STEREO), (), 0, rngs=nnx.Rngs(0))
    same = music(0.0)[None] / np.array([1, 0.6], np.float32)
    opposite = same * np.array([1, -1], np.float32)  # each channel by itself has the same spectra
    scores = [[np.asarray(part.scores) for part in module(each, {}, random_key(0))] for each in (same, opposite)]
    for ours, theirs in zip(*scores, strict=True):
        assert np.abs(ours - theirs).max() > 1e-4


def test_distances_hear_how_channels_go_together():
    distance = StftDistance(windows=(512,)).build(DataSpec(features=STEREO))
    same = music(0.0)[None]
    opposite = same * np.array([1, -1], np.float32)
    assert float(distance(LossInputs(same, same))[0]) < 1e-4 < 0.5 < float(distance(LossInputs(same, opposite))[0])


# Data


def _record(folder, name, samples, rate=48_000):
    folder.mkdir(exist_ok=True)
    soundfile.write(folder / name, samples, rate, subtype="PCM_16")


def test_a_store_keeps_both_channels_and_makes_mono_both(tmp_path):
    _record(tmp_path / "d", "a.wav", music(0.5))
    _record(tmp_path / "d", "b.flac", music(0.5, seed=1)[:, 0])
    _record(tmp_path / "d", "c.wav", np.repeat(music(0.5), 3, axis=1))
    _record(tmp_path / "d", "e.wav", music(0.5, seed=2)[::2], 24_000)
    store = prepare(Folder(root=str(tmp_path / "d")), STEREO, AudioPolicy(), tmp_path / "cache")
    by_name = {clip.name: place for place, clip in enumerate(store.clips)}
    np.testing.assert_allclose(store.samples(by_name["a.wav"]), music(0.5), atol=1e-4)
    mono = store.samples(by_name["b.flac"])
    assert mono.shape == (9_600, 2)
    np.testing.assert_array_equal(mono[:, 0], mono[:, 1])
    assert store.samples(by_name["e.wav"]).shape == (9_600, 2)
    np.testing.assert_allclose(store.steps(by_name["a.wav"]), STEREO.encode(store.samples(by_name["a.wav"])), atol=1e-3)
    refused = {entry["name"]: entry["reason"] for entry in store.report["refused"]}
    assert "--audio.channels first" in refused["c.wav"]
    assert store.report["duplicated"] == 1
    assert store.report["mixed_down"] == 0
    loud = np.mean(np.square(music(0.5), dtype=np.float64))
    assert store.clips[by_name["a.wav"]].loudness_dbfs == pytest.approx(10 * np.log10(loud), abs=0.05)


def test_what_is_known_of_mono_sound_is_as_before():
    # of jaxgen 0.2.0 before there were channels
    assert LogMel(sample_rate=8_000, n_fft=256, hop_length=80, n_mels=48).fingerprint() == "1abba803ae725d54"
    assert MuLaw(sample_rate=8_000).fingerprint() == "ac402b626032b172"
    assert PluckedStrings().clips()[0].digest() == "71021bbe6c97803a0b3c769422ae8c24eaa0c8c826fcfc027fa996c0d789303a"
    assert STEREO.fingerprint() != MONO.fingerprint()


def test_plucked_strings_stand_between_the_channels():
    first = PLUCKED.clips()[0].load()
    assert first.samples.shape == (24_000, 2)
    assert first.sample_rate == 48_000
    differences = [level_difference_db(clip.load().samples) for clip in PLUCKED.clips()]
    assert max(differences) - min(differences) > 3
    assert PLUCKED.clips()[0].digest() != dataclasses.replace(PLUCKED, channels=1).clips()[0].digest()


@pytest.mark.parametrize("make", [MuLaw, Pcm16])
def test_samples_are_of_one_channel(make):
    with pytest.raises(UserError, match=r"features\.channels to 1, or use LogMel"):
        make(sample_rate=48_000, channels=2)


def test_what_is_mono_refuses_stereo():
    with pytest.raises(UserError, match="must be 1"):
        dataclasses.replace(MONO, channels=3)
    with pytest.raises(UserError, match="WaveGAN makes mono"):
        WaveGAN().make(DataSpec(features=STEREO, mean=(0.0,) * 120, std=(1.0,) * 120), rngs=nnx.Rngs(0))
    with pytest.raises(UserError, match="one voice"):
        SourceFilter(mel=dataclasses.replace(SourceFilter().mel, channels=2))


def test_errors_of_stereo_are_of_copies_beside_recordings():
    real = music(0.5)
    assert stereo_errors([(real, real)]) == {"channel_correlation_error": 0, "channel_level_difference_error_db": 0}
    louder = real * np.array([2, 1], np.float32)
    found = stereo_errors([(real, louder)])
    assert found["channel_level_difference_error_db"] == pytest.approx(20 * np.log10(2), abs=1e-3)
    assert found["channel_correlation_error"] == pytest.approx(0, abs=1e-6)
    assert stereo_errors([(real[:, 0], real[:, 0])]) == {}


# Files, and a run from end to end


def test_a_file_of_two_channels_is_written_whole_or_in_pieces(tmp_path):
    samples = music(0.5)
    audio.write(tmp_path / "whole.wav", samples, 48_000, "a comment")
    audio.write(tmp_path / "pieces.wav", samples[:0], 48_000, "a comment")
    for piece in np.array_split(samples, 3):
        audio.append(tmp_path / "pieces.wav", piece)
    assert (tmp_path / "pieces.wav").read_bytes() == (tmp_path / "whole.wav").read_bytes()
    read = audio.read(tmp_path / "whole.wav")
    assert read.sample_rate == 48_000
    np.testing.assert_allclose(read.samples, samples, atol=1e-4)


def test_resampling_and_cutting_take_both_channels():
    samples = music(0.5)
    pieces = np.array_split(samples, 5)
    stereo = np.concatenate(list(audio.rechunk(audio.resample(pieces, 48_000, 44_100), 1_000)))
    for channel in (0, 1):
        mono = np.concatenate(list(audio.resample([samples[:, channel]], 48_000, 44_100)))
        np.testing.assert_allclose(stereo[:, channel], mono, atol=1e-6)


@pytest.mark.nightly
@pytest.mark.slow
@pytest.mark.nightly
def test_stereo_from_end_to_end(tmp_path, command, cache):
    data = tmp_path / "music"
    for place, clip in enumerate(PLUCKED.clips()):
        _record(data, f"{place}.wav", clip.load().samples)
    features = ("--features.n-fft", "1024", "--features.hop-length", "600", "--features.n-mels", "24")
    runs = {}
    for name, shrunk in (("music_48k", SHRUNK), ("music_48k_vocoder", SHRUNK_VOCODER)):
        runs[name] = tmp_path / name
        asked = ["--config", f"configs/{name}.py", "--data", "Folder", "--data.root", data, "--workdir", runs[name]]
        asked += [*shrunk, *features, "--cache-dir", cache]
        asked += ["--model.labels"] if name == "music_48k" else []
        assert command(train.main, *asked)[0] == 0, name
        row = json.loads((runs[name] / "report.json").read_text())["table"]["generated"]
        assert row["channel_correlation"] <= 1
    assert "channel_correlation_error" in row
    prompt = ["--prompt", data / "0.wav", "--seconds", "0.3"]
    for vocoder in ([], ["--vocoder", runs["music_48k_vocoder"]]):
        out = tmp_path / f"out{len(vocoder)}"
        asked = ["--workdir", runs["music_48k"], "--num", "2", "--out", out, *prompt, *vocoder]
        assert command(generate.main, *asked)[0] == 0
        for wav in out.glob("*.wav"):
            made = soundfile.info(wav)
            assert (made.channels, made.samplerate) == (2, 48_000)
        assert len(list(out.glob("*.wav"))) == 2
    assert command(evaluate.main, "--workdir", runs["music_48k_vocoder"], "--data.root", data)[0] == 0
