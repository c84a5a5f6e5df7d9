"""Generation: the command, and the properties of what it draws."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen import audio, generate
from jaxgen.distributions import Sampling
from jaxgen.generation import Generator
from jaxgen.provenance import read as read_mark
from jaxgen.runs import Run


@pytest.fixture(scope="module")
def trained(quickstart):
    return Run.open(quickstart)


@pytest.fixture(scope="module")
def generator(trained):
    return Generator(trained.training.module, trained.config.model, trained.spec)


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


def test_generation_is_the_training_model_run_freely(trained):
    """The likeliest clip, drawn by `step`, is what `unroll` says is likeliest at each place given that clip."""
    generator = Generator(trained.training.module, trained.config.model, trained.spec)
    seen = []
    decode = generator._decode
    generator._decode = lambda steps, lengths: (seen.append((steps, lengths)), decode(steps, lengths))[1]
    generator(trained.params, [{}], seconds=0.5, sampling=Sampling(temperature=0.0), seed=0)
    (steps, lengths) = seen[0]
    steps = steps[:, : lengths[0]]
    model = trained.training.module(trained.params)
    silence = trained.spec.features.silence()[None, None]
    x = jnp.concatenate([silence, steps], axis=1)
    reset = jnp.zeros(steps.shape[:2], bool)
    labels = {name: jnp.zeros(steps.shape[:2], jnp.int32) for name in model.labels}
    outputs, _ = model.unroll(x, labels, model.init_carry(1), reset)
    expected, _ = model.sample(outputs, jax.random.key(0), Sampling(temperature=0.0))
    np.testing.assert_allclose(steps, expected, rtol=1e-3, atol=1e-3)


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
