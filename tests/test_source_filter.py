"""Frames of a voice: its period, its resonances, and what they let expect; of past samples alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.signal

from jaxgen.audio.fourier import frame_signal
from jaxgen.audio.linear_prediction import ORDER
from jaxgen.features import LogMel
from jaxgen.features.source_filter import SourceFilter

pytestmark = pytest.mark.slow

FRAMES = SourceFilter(LogMel(sample_rate=8_000, n_fft=256, hop_length=80, n_mels=48, floor=1e-4, stack=2))
frames_of = jax.jit(FRAMES.frames, static_argnums=1)


def voice(frequency, num_samples=4_000, seed=0):
    """Pulses through two resonances, and a little noise."""
    rng = np.random.default_rng(seed)
    pulses = np.zeros(num_samples)
    pulses[np.arange(0, num_samples - 1, 8_000 / frequency).round().astype(int)] = 0.1
    source = pulses + 0.002 * rng.normal(size=num_samples)
    for resonance in (600, 1_800):
        angle = 2 * np.pi * resonance / 8_000
        source = scipy.signal.lfilter([1.0], [1.0, -2 * 0.95 * np.cos(angle), 0.95**2], source)
    return (0.5 * source / np.abs(source).max()).astype(np.float32)


@pytest.mark.parametrize("frequency", [80.0, 110.0, 155.0, 230.0, 350.0])
def test_the_frequency_of_a_voice_is_found(frequency):
    frames = np.asarray(frames_of(voice(frequency)[None], 20)).reshape(40, -1)
    found = 60 * 2 ** frames[:, -2]
    np.testing.assert_allclose(found, frequency, rtol=0.03)
    assert frames[:, -1].min() > 0.7


def test_noise_has_no_period():
    noise = 0.1 * np.random.default_rng(0).normal(size=(1, 4_000)).astype(np.float32)
    assert np.median(np.asarray(frames_of(noise, 20)).reshape(40, -1)[:, -1]) < 0.4


@pytest.mark.nightly
def test_the_predictor_of_a_frame_explains_its_samples():
    """Of a process whose noise is known hardly more is left than that; and where the voice is periodic, less than half of it."""
    rng = np.random.default_rng(1)
    noise = 0.01 * rng.normal(size=8_000)
    angle = 2 * np.pi * 900 / 8_000
    process = scipy.signal.lfilter([1.0], [1.0, -2 * 0.9 * np.cos(angle), 0.81], noise).astype(np.float32)
    for samples, most in ((process, 1.6 * np.mean(np.square(noise))), (voice(120.0), None)):
        predictor = FRAMES.predictors(frames_of(samples[None], 20))
        count = 20 * FRAMES.num_samples
        windows = np.asarray(frame_signal(jnp.asarray(samples[-count - ORDER : -1]), ORDER, 1, count))[:, ::-1]
        expected = (windows * np.repeat(np.asarray(predictor.coefficients)[0], 80, axis=0)).sum(-1)
        left = samples[-count:] - expected
        assert np.mean(np.square(left)) < (most or 0.5 * np.mean(np.square(samples[-count:])))
    lag = int(np.median(np.asarray(predictor.lag)))
    again = left[lag:] - 0.8 * left[:-lag]
    assert np.mean(np.square(again)) < 0.6 * np.mean(np.square(left))


def test_frames_are_of_the_samples_before_their_end():
    """All at once are each alone; neither what comes after a frame nor what lies before its reach is heard."""
    samples = np.stack([voice(100.0, 2_000), voice(170.0, 2_000, 1)])
    together = np.asarray(frames_of(samples, 5))
    for place in range(5):
        end = 2_000 - (4 - place) * FRAMES.num_samples
        alone = samples[:, end - FRAMES.num_samples - FRAMES.lookback : end]
        np.testing.assert_allclose(frames_of(alone, 1)[:, 0], together[:, place], atol=2e-3)


def test_silence_is_a_frame_of_its_own():
    frame = np.asarray(frames_of(np.zeros((1, FRAMES.lookback + FRAMES.num_samples), np.float32), 1))[0, 0].reshape(
        2, -1
    )
    np.testing.assert_allclose(frame[:, :-2], np.log(1e-4), rtol=1e-6)
    np.testing.assert_array_equal(frame[:, -1], 0)
    predictor = FRAMES.predictors(jnp.asarray(frame.reshape(1, 1, -1)))
    assert np.abs(predictor.coefficients).max() < 0.1
    assert np.isfinite((frame.reshape(-1) - FRAMES.mean) / FRAMES.deviation).all()


@pytest.mark.nightly
def test_frames_that_nobody_has_said_still_let_expect_what_can_be():
    """Whatever a model draws: a stable predictor, a period of a voice, a gain that is a share."""
    wild = 5 * np.random.default_rng(2).normal(size=(3, 4, FRAMES.size)) * FRAMES.deviation + FRAMES.mean
    predictor = FRAMES.predictors(jnp.asarray(wild, jnp.float32))
    roots = [np.roots(np.append(1, -each)) for each in np.asarray(predictor.coefficients).reshape(-1, ORDER)]
    assert max(np.abs(each).max() for each in roots) < 1
    assert 20 <= predictor.lag.min() <= predictor.lag.max() <= 133
    assert 0 <= predictor.gain.min() <= predictor.gain.max() <= 1
