"""Evaluation: likelihoods against a count by hand, the report's content, and a folder of test data."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen import audio
from jaxgen.cli import evaluate
from jaxgen.data.synthetic import PluckedStrings
from jaxgen.evaluation.scoring import Scorer
from jaxgen.models.conditioning import Conditioning
from jaxgen.models.wave_rnn import WaveRNN
from jaxgen.nn.recurrent import GRU
from jaxgen.objectives.likelihood import Likelihood

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def wave(wave_store):
    """A wave model of random weights: (training, config, spec, parameters)."""
    model = WaveRNN(cell=GRU(8), labels=("timbre",))
    spec = wave_store.spec(model.labels)
    task = Likelihood().build(model, spec, steps=1, batch_size=2)
    params = jax.tree.map(lambda p: 3 * p, task.init(jax.random.key(0)).params)
    return task, model, spec, params


def _bits_by_hand(task, spec, params, store, clip):
    """Bits of all samples of one clip, from silence, in one unroll of exactly its length."""
    model = task.module(params)
    codes = store.steps(clip)
    x = jnp.concatenate([jnp.full(model.lookback, spec.features.silence()), codes])[None]
    shape = (1, len(codes))
    value = spec.label_index("timbre", store.clips[clip].fields["timbre"])
    outputs, _ = model.unroll(
        x, Conditioning({"timbre": jnp.full(shape, value)}), model.init_carry(1), jnp.zeros(shape, bool)
    )
    chosen = jnp.take_along_axis(jax.nn.log_softmax(outputs[0]), codes[:, None].astype(int), axis=1)
    return -float(chosen.sum()) / np.log(2)


def test_bits_per_sample_are_total_bits_over_total_samples(wave, wave_store):
    task, model, spec, params = wave
    clips = wave_store.indices("train")[:5]
    scores = Scorer(task, model, spec, batch_size=2, seq_len=100)(params, wave_store, clips)
    samples = sum(wave_store.clips[clip].num_samples for clip in clips)
    bits = sum(_bits_by_hand(task, spec, params, wave_store, clip) for clip in clips)
    assert scores.num_steps == samples
    assert scores.metrics["bits_per_sample"] == pytest.approx(bits / samples, rel=1e-5)


def test_the_order_of_clips_and_the_cut_into_chunks_do_not_matter(wave, wave_store):
    task, model, spec, params = wave
    clips = list(wave_store.indices("train")[:4])
    one = Scorer(task, model, spec, batch_size=2, seq_len=100)(params, wave_store, clips).metrics
    other = Scorer(task, model, spec, batch_size=3, seq_len=37)(params, wave_store, clips[::-1]).metrics
    assert one == pytest.approx(other, rel=1e-5)


def test_predictions_belong_to_their_clip(wave, wave_store):
    task, model, spec, params = wave
    clips = wave_store.indices("train")[:5]
    scores = Scorer(task, model, spec, batch_size=2, seq_len=64)(params, wave_store, clips, predict=clips[1:3])
    assert scores.predictions.keys() == set(clips[1:3])
    alone = Scorer(task, model, spec, batch_size=2, seq_len=64)(params, wave_store, clips[1:2], predict=clips[1:2])
    np.testing.assert_array_equal(scores.predictions[clips[1]], alone.predictions[clips[1]])
    assert len(alone.predictions[clips[1]]) == wave_store.clips[clips[1]].num_steps
    some = Scorer(task, model, spec, batch_size=2, seq_len=64)(
        params, wave_store, clips[1:2], predict=clips[1:2], most=100
    )
    np.testing.assert_array_equal(some.predictions[clips[1]], alone.predictions[clips[1]][:100])
    assert some.metrics == alone.metrics


@pytest.mark.nightly
def test_the_command_scores_every_clip_of_a_folder(quickstart, command, cache, tmp_path):
    folder = tmp_path / "test_data"
    folder.mkdir()
    clips = PluckedStrings(num_clips=3, seconds=0.4, seed=5).clips()
    for index, clip in enumerate(clips):
        audio.write(folder / f"anything {index}.wav", clip.load().samples[:, 0], 8_000)
    audio.write(folder / "silent.wav", np.zeros(4_000, np.float32), 8_000)
    options = ["--workdir", quickstart, "--data.root", folder, "--out", tmp_path / "report", "--noise-scale", "0.5"]
    code, out, _ = command(evaluate.main, "--cache-dir", cache, *options)
    assert code == 0
    assert "Negative log likelihood (nats/frame)" in out
    report = json.loads((tmp_path / "report" / "report.json").read_text())
    frames = 3 * (1 + 3_200 // 400) + (1 + 4_000 // 400)
    assert report["notes"]["likelihood"] == f"{frames} frames of 4 clips"
    assert {"mse", "nats_per_frame", "copy_previous_frame_mse", "clipping_rate"} <= report["metrics"].keys()
    assert report["about"]["held-out data"] == str(folder)
    assert report["about"]["noise_scale"] == 0.5
    page = (tmp_path / "report" / "report.html").read_text()
    assert page.count("<audio") == 2 * 1  # a real and a generated clip side by side
    assert page.count("data:image/png") >= 3


def test_the_runs_own_validation_clips_are_scored_by_default(quickstart, command, cache, tmp_path):
    code, _, _ = command(evaluate.main, "--cache-dir", cache, "--workdir", quickstart, "--out", tmp_path)
    assert code == 0
    own = json.loads((quickstart / "report.json").read_text())["metrics"]
    again = json.loads((tmp_path / "report.json").read_text())["metrics"]
    assert again == pytest.approx(own, nan_ok=True)


def test_of_a_long_recording_an_excerpt_is_heard_and_all_of_it_scored(
    quickstart, command, cache, tmp_path, monkeypatch
):
    for module in ("held_out", "autoregressive"):
        monkeypatch.setattr(f"jaxgen.evaluation.{module}.EXCERPT_SECONDS", 0.3)
    (tmp_path / "long").mkdir()
    audio.write(tmp_path / "long" / "a.wav", PluckedStrings(seconds=2).clips()[0].load().samples[:, 0], 8_000)
    options = ["--workdir", quickstart, "--data.root", tmp_path / "long", "--out", tmp_path / "report"]
    assert command(evaluate.main, "--cache-dir", cache, *options)[0] == 0
    report = json.loads((tmp_path / "report" / "report.json").read_text())
    assert report["notes"]["likelihood"].startswith(f"{1 + 16_000 // 400} frames of 1 clip")
    seconds = {name: column["seconds_per_clip"] for name, column in report["table"].items()}
    assert seconds["training data"] == seconds["held-out data"] == seconds["noise"] == pytest.approx(0.3)
    assert seconds["generated"] <= 0.3
