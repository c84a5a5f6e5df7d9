"""Generation: the command, and the properties of what it draws."""

import functools
import gc
import json
import signal
import subprocess
import sys
import tracemalloc
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen import audio
from jaxgen.cli import generate
from jaxgen.core.errors import UserError
from jaxgen.data.spec import DataSpec
from jaxgen.features import LogMel, MuLaw
from jaxgen.inference import generation
from jaxgen.inference.generation import Generator
from jaxgen.models.conditioning import Conditioning
from jaxgen.models.mel_rnn import MelRNN
from jaxgen.models.sample_rnn import SampleRNN
from jaxgen.models.sequence import RunState, apply_guidance
from jaxgen.models.wave_rnn import WaveRNN
from jaxgen.nn.distributions import Sampling
from jaxgen.nn.recurrent import GRU, LSTM
from jaxgen.nn.sample_context import Window
from jaxgen.objectives.likelihood import Likelihood
from jaxgen.provenance.record import read as read_mark
from jaxgen.runs.run import Run

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent


def endless(trained):
    """A generator of frames, and parameters with which no clip ends before it is as long as asked for."""
    params = jax.tree.map(jnp.asarray, trained.params)
    params["head"]["bias"] = params["head"]["bias"].at[-1].set(-100.0)
    return Generator(trained.task.module, trained.config.model, trained.spec), params


BLOCK = generation._STEPS_PER_BLOCK["sample"]


def tiers():
    """A generator of samples from tiers, and parameters that nobody trained."""
    model = SampleRNN(cell=LSTM(4), frame_sizes=(8, 2), sample_size=6, embedding_size=3, context=Window(3), spectrum=8)
    spec = DataSpec(features=MuLaw(sample_rate=8_000))
    task = Likelihood().build(model, spec, steps=1, batch_size=1)
    params = jax.tree.map(lambda p: 3 * p, task.init(jax.random.key(0)).params)
    return Generator(task.module, model, spec), params


@pytest.mark.nightly
def test_tiers_go_on_from_their_prompt_as_if_they_had_made_it():
    """Whatever its length: the tiers' frames are laid to its end."""
    generator, params = tiers()
    whole = generator(params, [{}], seconds=0.03).clips[0]
    prompt = whole[:160]  # whole frames
    options = {"seconds": 0.01, "prompt": prompt, "sampling": Sampling(temperature=0)}
    greedy = generator(params, [{}], seconds=0.03, sampling=Sampling(temperature=0)).clips[0]
    followed = generator(params, [{}], **options | {"prompt": greedy[:160]}).clips[0]
    np.testing.assert_array_equal(followed, greedy)
    for length in (157, 160):
        clip = generator(params, [{}], **options | {"prompt": prompt[:length]}).clips[0]
        np.testing.assert_array_equal(clip[:length], prompt[:length])
        assert len(clip) == length + 80


@pytest.mark.parametrize("kind", ["samples", "tiers", "frames"])
def test_the_likeliest_alone_is_drawn_whatever_the_seed(kind, trained):
    """At temperature 0; of samples by a nucleus that holds but one, too."""
    generator, params = {"samples": wave, "tiers": tiers, "frames": lambda: endless(trained)}[kind]()

    def made(seed, **sampling):
        return generator(params, [{}], seconds=0.1, sampling=Sampling(**sampling), seed=seed).clips[0]

    likeliest = made(1, temperature=0)
    np.testing.assert_array_equal(made(2, temperature=0), likeliest)
    assert not np.array_equal(made(1), likeliest)
    if kind != "frames":
        np.testing.assert_array_equal(made(2, top_p=1e-6), likeliest)
        np.testing.assert_array_equal(made(2, top_k=1), likeliest)


@pytest.mark.parametrize("kind", [WaveRNN, SampleRNN])
def test_guidance_goes_further_from_what_is_said_without_labels(kind):
    """Without labels it changes nothing; with them the outputs are c + g (c - u), in both rows of a pair."""
    options = (
        {"frame_sizes": (4,), "sample_size": 6, "context": Window(3), "spectrum": 8}
        if kind is SampleRNN
        else {"lookback": 3}
    )
    model = kind(cell=GRU(4), embedding_size=3, labels=("key",), **options)
    spec = DataSpec(features=MuLaw(sample_rate=8_000, q_levels=16), vocabularies=(("key", ("a", "b")),))
    task = Likelihood().build(model, spec, steps=1, batch_size=1)
    params = jax.tree.map(lambda p: 3 * p, task.init(jax.random.key(0)).params)
    generator = Generator(task.module, model, spec)

    def made(labels, guidance, **more):
        return generator(params, labels, seconds=0.02, sampling=Sampling(guidance=guidance), **more).clips

    plain = made([{}, {}, {}], 1e-9)  # by the same scan
    _equal(made([{}, {}, {}], 4.0), plain)
    a, b = made([{"key": "a"}, {"key": "b"}], 3.0)
    assert not np.array_equal(a, made([{"key": "a"}], 1e-9)[0])
    np.testing.assert_array_equal(made([{"key": "a"}], 3.0)[0], a)
    _equal(made([{"key": "a:1"}, {"key": "b"}], 3.0), [a, b])

    module = task.module(params)
    x, carry = jnp.full((2, module.lookback), 9), module.init_carry(2)
    c, u = module.step(x, Conditioning({"key": jnp.int32([1, 0])}), carry)[0]
    np.testing.assert_allclose(apply_guidance(jnp.stack([c, u]), 0.5, 0), [1.5 * c - 0.5 * u] * 2, rtol=1e-5)
    some = apply_guidance(jnp.stack([c, u]), 0.5, 2)
    np.testing.assert_allclose(some, [np.append(1.5 * c[:-2] - 0.5 * u[:-2], c[-2:])] * 2, rtol=1e-5)


def test_where_a_clip_of_frames_ends_is_not_guided():
    """The first step of many pairs, with and without a label: both end as the label has it, their frames are neither's."""
    features = LogMel(sample_rate=8_000, n_fft=128, hop_length=32, n_mels=4)
    spec = DataSpec(features=features, vocabularies=(("key", ("a", "b")),), mean=(0.0,) * 4, std=(1.0,) * 4)
    task = Likelihood().build(MelRNN(cell=GRU(4), labels=("key",)), spec, steps=1, batch_size=1)
    params = jax.tree.map(lambda p: 2 * p, task.init(jax.random.key(0)).params)
    params["head"]["bias"] = params["head"]["bias"].at[-1].set(0.0)
    module, count = task.module(params), 200
    labels = Conditioning({"key": jnp.tile(jnp.int32([1, 0]), count)})
    noise = jnp.repeat(jax.vmap(module.noise)(jax.random.split(jax.random.key(1), count)), 2, axis=0)[:, None]
    state = RunState(module.init_carry(2 * count), jnp.zeros((2 * count, 1, 4)), jnp.zeros(2 * count, bool))

    def first_step(guidance):
        return module.free_run(state, labels, noise, Sampling(guidance=guidance), jnp.zeros(4))[1:]

    (plain, ends), (frames, guided_ends) = first_step(0.0), first_step(3.0)
    assert (ends[::2] != ends[1::2]).any()
    np.testing.assert_array_equal(guided_ends, jnp.repeat(ends[::2], 2, axis=0))
    assert np.abs(frames - plain).max(axis=-1).min() > 1e-3


def _equal(clips, others):
    """Clips that end are of different lengths."""
    for clip, other in zip(clips, others, strict=True):
        np.testing.assert_array_equal(clip, other)


def test_only_voices_that_are_planned_are_sharpened():
    generator, params = wave()
    with pytest.raises(UserError, match="plans no voices"):
        generator(params, [{}], sampling=Sampling(voiced_sharpness=1.0))


def test_guidance_needs_labels():
    generator, params = wave()
    with pytest.raises(UserError, match="no labels to be guided by"):
        generator(params, [{}], sampling=Sampling(guidance=1.0))


def wave(sample_rate=8_000, cell=LSTM(4)):
    """A generator of samples, and parameters that nobody trained."""
    model, spec = WaveRNN(cell=cell, embedding_size=3), DataSpec(features=MuLaw(sample_rate=sample_rate))
    task = Likelihood().build(model, spec, steps=1, batch_size=1)
    return Generator(task.module, model, spec), task.init(jax.random.key(0)).params


@pytest.fixture(scope="module")
def trained(quickstart):
    return Run.open(quickstart)


@pytest.fixture(scope="module")
def generator(trained):
    return Generator(trained.task.module, trained.config.model, trained.spec)


def test_the_command_writes_marked_clips(quickstart, command, tmp_path, trained):
    code, out, _ = command(
        generate.main, "--workdir", quickstart, "--num", "3", "--seconds", "0.4", "--label", "timbre=steel",
        "--label", "tempo=120", "--seed", "7", "--out", tmp_path / "new"
    )  # fmt: skip
    assert code == 0
    assert "real-time factor" in out
    wavs = sorted((tmp_path / "new").glob("*.wav"))
    assert len(wavs) == 3
    for index, wav in enumerate(wavs):
        mark = json.loads(wav.with_suffix(".json").read_text())
        assert mark == read_mark(wav)
        assert mark["synthetic"] is True
        assert (mark["seed"], mark["clip"], mark["labels"]) == (7, index, {"timbre": "steel", "tempo": "120"})
        assert mark["data_manifest_sha256"] == trained.spec.manifest_hash
        assert mark["licences"] == ["CC0-1.0 (synthesised)"]
        sound = audio.read(wav)
        assert sound.sample_rate == 8_000
        assert 0 < len(sound.samples) <= 0.4 * 8_000


def test_the_seed_decides(generator, trained):
    def draw(seed):
        return generator(trained.params, [{}] * 2, seconds=0.5, seed=seed).clips

    for first, second in zip(draw(1), draw(1), strict=True):
        np.testing.assert_array_equal(first, second)
    assert any(len(a) != len(b) or (a != b).any() for a, b in zip(draw(1), draw(2), strict=True))


def test_a_clip_does_not_depend_on_how_many_are_drawn(generator, trained):
    alone = generator(trained.params, [{}], seconds=0.5, seed=3).clips[0]
    first, second = generator(trained.params, [{}] * 2, seconds=0.5, seed=3).clips
    np.testing.assert_allclose(first, alone, atol=1e-3)
    assert len(first) != len(second) or (first != second).any()


def test_generation_is_the_training_model_run_freely(trained, monkeypatch):
    """The likeliest clip, drawn by `step`, is what `unroll` says is likeliest at each place given that clip."""
    seen = []
    decode_blocks = LogMel.decode_blocks
    monkeypatch.setattr(
        LogMel, "decode_blocks", lambda self, blocks: decode_blocks(self, (seen.append(b) or b for b in blocks))
    )
    generator, params = endless(trained)
    clip = generator(params, [{}], seconds=0.5, sampling=Sampling(temperature=0.0), seed=0).clips[0]
    features = trained.spec.features
    steps = np.concatenate(seen, axis=1)[:, : features.num_steps(len(clip))]
    model = trained.task.module(params)
    x = jnp.concatenate([features.silence()[None, None], steps], axis=1)
    reset = jnp.zeros(steps.shape[:2], bool)
    labels = Conditioning({name: jnp.zeros(steps.shape[:2], jnp.int32) for name in model.labels})
    outputs, _ = model.unroll(x, labels, model.init_carry(1), reset)
    noise = model.noise(jax.random.key(0))
    expected, _ = model.sample(
        outputs, jnp.broadcast_to(noise, (*steps.shape[:2], *noise.shape)), Sampling(temperature=0.0)
    )
    np.testing.assert_allclose(steps, expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("maker", ["mel", "wave"])
def test_how_a_clip_is_cut_into_blocks_makes_no_difference(maker, trained, monkeypatch):
    made = []
    for count in (7, 30, 10_000):
        monkeypatch.setattr(generation, "_STEPS_PER_BLOCK", {"frame": count, "sample": count})
        generator, params = endless(trained) if maker == "mel" else wave()
        made.append(generator(params, [{}] * 3, seconds=4.0 if maker == "mel" else 0.01, seed=5).clips)
    for other in made[1:]:
        for clip, same in zip(made[0], other, strict=True):
            np.testing.assert_array_equal(clip, same)


@pytest.mark.parametrize("maker", ["mel", "wave"])
def test_the_stream_is_the_clip_in_pieces(maker, trained):
    generator, params = endless(trained) if maker == "mel" else wave()
    options = {"seconds": 6.0 if maker == "mel" else 0.4, "seed": 4}
    pieces = list(generator.stream(params, [{}] * 2, **options))
    assert len(pieces) > 2
    for n, clip in enumerate(generator(params, [{}] * 2, **options).clips):
        np.testing.assert_array_equal(np.concatenate([piece[n] for piece in pieces]), clip)


def test_the_first_sound_comes_after_one_block_and_nothing_is_kept(monkeypatch):
    """Ten hours are asked for; what is held after many blocks is what was held after a few."""
    generator, params = wave()
    calls, block = [], generator._block
    monkeypatch.setattr(generator, "_block", lambda *args, **kw: calls.append(1) or block(*args, **kw))
    stream = generator.stream(params, [{}] * 2, seconds=36_000.0)
    assert all(len(samples) <= BLOCK for samples in next(stream))
    assert len(calls) == 1
    held = []
    tracemalloc.start()
    for number, _ in enumerate(stream):
        if number in (20, 120):
            gc.collect()
            held.append((tracemalloc.get_traced_memory()[0], sum(a.nbytes for a in jax.live_arrays())))
        if number == 120:
            break
    tracemalloc.stop()
    (before, arrays_before), (after, arrays_after) = held
    assert after - before < 100 * 2 * BLOCK  # less than the bytes of these blocks as codes
    assert arrays_after <= arrays_before


@pytest.mark.nightly
def test_clips_are_spread_over_devices_that_never_wait_for_each_other():
    """Eight clips on two devices of the CPU are those on one, for a cell whose steps are a compiled loop."""
    code = """
import jax, numpy as np
jax.config.update("jax_num_cpu_devices", 2)
from jaxgen.nn.recurrent import MinGRU
from tests.test_generate import wave
made, devices = [], jax.local_devices()
for count in (1, 2):
    generator, params = wave(cell=MinGRU(4))
    block = generator._block
    def spy(*args, **kw):
        text = block.lower(*args, **kw).compile().as_text()
        assert not any(word in text for word in ("all-reduce", "all-gather", "all-to-all", "collective-permute"))
        out = block(*args, **kw)
        assert len(out[1].sharding.device_set) == count
        return out
    generator._block = spy
    jax.local_devices = lambda: devices[:count]
    made.append(generator(params, [{}] * 8, seconds=0.01).clips)
np.testing.assert_array_equal(*made)
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


@pytest.mark.parametrize("blocks", [1, 3])
def test_interrupted_clips_are_whole_files_of_what_was_made(blocks, trained, tmp_path):
    generator, params = wave()
    whole = generator(params, [{}] * 2, seconds=0.6, seed=1).clips
    save = functools.partial(trained.save_clips, labels=[{}] * 2, seed=1)
    asked = iter([False] * (blocks - 1) + [True])
    stream = generator.stream(params, [{}] * 2, seconds=0.6, seed=1)
    count = generate.stream_to_files(stream, tmp_path / "out", 2, save, lambda: next(asked))
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"000.wav", "000.json", "001.wav", "001.json"}
    made = [audio.read(tmp_path / "out" / f"00{n}.wav").samples[:, 0] for n in range(2)]
    assert count == sum(map(len, made)) == 2 * blocks * BLOCK
    for n, clip in enumerate(made):
        np.testing.assert_allclose(clip, whole[n][: len(clip)], atol=2**-14)
        assert read_mark(tmp_path / "out" / f"00{n}.wav")["clip"] == n


def test_names_of_files_are_such_as_every_system_takes(trained, tmp_path):
    labels = {"timbre": "steel:0.5,nylon:0.5", "tempo": '/a\\b*?"<>|'}
    trained.save_clips(tmp_path, [np.zeros(8, np.float32)], [labels], seed=1)
    name = "000_timbre-steel-0.5,nylon-0.5_tempo--a-b------"
    assert {path.name for path in tmp_path.iterdir()} == {f"{name}.wav", f"{name}.json"}
    assert read_mark(tmp_path / f"{name}.wav")["labels"] == labels


def test_ctrl_c_ends_the_clips_where_they_are(quickstart, command, tmp_path, monkeypatch):
    def stream(*_, **__):
        for _ in range(3):
            yield [np.full(50, 0.5, np.float32)]
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(Generator, "stream", stream)
    code, out, err = command(generate.main, "--workdir", quickstart, "--num", "1", "--out", tmp_path / "out")
    assert code == 130
    assert "interrupted; the clips end where they were" in err
    assert "1 clip" in out
    (wav,) = (tmp_path / "out").glob("000*.wav")
    assert len(audio.read(wav).samples) == 100
    assert len(list((tmp_path / "out").iterdir())) == 2


def test_a_failure_while_clips_are_made_leaves_nothing(trained, tmp_path):
    def stream():
        yield [np.zeros(10, np.float32)]
        raise KeyboardInterrupt

    save = functools.partial(trained.save_clips, labels=[{}], seed=1)
    with pytest.raises(KeyboardInterrupt):
        generate.stream_to_files(stream(), tmp_path / "out", 1, save, lambda: False)
    assert list((tmp_path / "out").iterdir()) == []


def test_more_than_a_wav_holds_is_refused_before_anything_is_made(quickstart, command, tmp_path):
    out = tmp_path / "out"
    code, _, err = command(generate.main, "--workdir", quickstart, "--num", "1", "--seconds", "1e6", "--out", out)
    assert code == 2
    assert "--seconds" in err
    assert not out.exists()


def test_a_prompt_is_continued(quickstart, command, tmp_path):
    rate = 8_000
    tone = 0.5 * np.sin(2 * np.pi * 500 * np.arange(rate) / rate).astype(np.float32)
    audio.write(tmp_path / "prompt.wav", tone, rate)
    options = ["--workdir", quickstart, "--num", "1", "--seconds", "0.3", "--prompt", tmp_path / "prompt.wav"]
    code, _, _ = command(generate.main, *options, "--out", tmp_path / "out")
    assert code == 0
    wav = next((tmp_path / "out").glob("*.wav"))
    samples = audio.read(wav).samples[:, 0]
    assert 0.9 * rate < len(samples) <= 1.4 * rate
    spectrum = np.abs(np.fft.rfft(samples[rate // 4 : rate // 4 + 4000]))
    assert abs(spectrum.argmax() * 2 - 500) <= 60  # the prompt is heard, as its mel frames tell it
    assert read_mark(wav)["prompt"].endswith("prompt.wav")


@pytest.mark.nightly
def test_a_model_that_ends_its_clips_is_cut_there(trained, generator):
    """A model that has learned next to nothing ends a clip, on average, at the training clips' typical length."""
    lengths = [len(clip) / 8_000 for clip in generator(trained.params, [{}] * 64, seconds=20.0, seed=0).clips]
    assert len(set(lengths)) > 10
    assert 0.5 * trained.spec.typical_seconds < np.mean(lengths) < 2 * trained.spec.typical_seconds


@pytest.mark.parametrize("length", [4_000, 4_200])
def test_the_state_after_a_prompt_is_that_of_the_sound_itself(generator, trained, length):
    """A prompt cut out of a longer sound gives the steps of that sound: its end is not heard as silence."""
    sound = np.random.default_rng(0).normal(0, 0.1, 8_000).astype(np.float32)
    steps = generator._prompt_steps(sound[:length])
    whole = np.asarray(trained.spec.features.encode(sound))
    np.testing.assert_allclose(steps, whole[: len(steps)], atol=1e-4)
    assert (len(steps) + 1) * trained.spec.features.hop_length > length - trained.spec.features.n_fft
