"""Linear prediction: against a plain solver, on a process whose predictor is known, and sample by sample."""

import jax
import numpy as np
import pytest
import scipy.linalg
import scipy.signal

from jaxgen.audio.companding import compand
from jaxgen.audio.linear_prediction import ORDER, Predictor, late_window
from jaxgen.nn.sample_context import _RISE, LinearPrediction, PlannedPrediction, Window, fit_lpc

PREDICTION = LinearPrediction(window=6, analysis_window=64, hop=4)


def resonance(num_samples, seed=0):
    """A damped resonance at a fifth of the sample rate, driven by noise of deviation 0.01; and its two coefficients."""
    coefficients = np.array([2 * 0.97 * np.cos(0.4 * np.pi), -(0.97**2)])
    noise = 0.01 * np.random.default_rng(seed).normal(size=num_samples)
    return scipy.signal.lfilter([1.0], [1.0, *-coefficients], noise).astype(np.float32), coefficients


def test_the_predictor_solves_the_normal_equations():
    past, _ = resonance(256)
    weighted = past.astype(np.float64) * late_window(256, _RISE)
    correlation = np.array([weighted[lag:] @ weighted[: 256 - lag] for lag in range(ORDER + 1)])
    error = np.append(correlation[0] * 1.0001 + 1e-6, correlation[1:ORDER])
    np.testing.assert_allclose(jax.jit(fit_lpc)(past), scipy.linalg.solve_toeplitz(error, correlation[1:]), atol=2e-3)


def test_the_predictor_of_a_resonance_is_found():
    samples, coefficients = resonance(20_000)
    found = np.asarray(jax.jit(fit_lpc)(samples))
    np.testing.assert_allclose(found[:2], coefficients, atol=0.05)
    np.testing.assert_allclose(found[2:], 0, atol=0.05)


def test_silence_is_predicted_to_go_on():
    assert not np.any(jax.jit(fit_lpc)(np.zeros((2, 64), np.float32)))
    features, _ = jax.jit(PREDICTION.step)(np.zeros((2, 64), np.float32), PREDICTION.init(2), np.array(False))
    assert features.shape == (2, PREDICTION.num_features)
    np.testing.assert_array_equal(np.flatnonzero(features[0]), [31, 32])  # 0 lies between the two places in the middle


def test_features_say_what_is_expected_and_how_far_off_it_was():
    samples, _ = resonance(100)
    features, predictor = (
        np.asarray(a)[0] for a in jax.jit(PREDICTION.step)(samples[None], PREDICTION.init(1), np.array(True))
    )
    places, again, errors, last = np.split(features, [64, 65, 65 + PREDICTION.window])
    expected = [predictor @ samples[t - ORDER : t][::-1] for t in range(94, 101)]
    np.testing.assert_allclose(places.sum(), 1, rtol=1e-5)
    np.testing.assert_allclose(places @ np.linspace(-1, 1, 64), compand(np.float32(expected[-1])), atol=1e-4)
    assert again == 0  # a predictor that is fitted to the past says nothing of a period
    np.testing.assert_allclose(errors, compand(samples[94:] - np.float32(expected[:-1])), atol=1e-3)
    np.testing.assert_allclose(last, compand(samples[-ORDER:]), rtol=1e-6)


def test_what_is_foretold_is_expected_and_a_period_later_what_that_left():
    """Of pulses through a resonance, told both, hardly anything is left."""
    _, coefficients = resonance(1)
    pulses = np.zeros(200, np.float32)
    pulses[::20] = 0.1
    samples = scipy.signal.lfilter([1.0], [1.0, *-coefficients], pulses).astype(np.float32)
    conditioning = Predictor(np.pad(coefficients, (0, ORDER - 2)).astype(np.float32), np.float32(20), np.float32(1))
    conditioning = jax.tree.map(
        lambda each: np.broadcast_to(each, (1, 3, *each.shape)), conditioning
    )  # three stretches of 20
    features, _ = jax.jit(PlannedPrediction(30).unroll, static_argnums=1)(samples[None], 60, conditioning)
    places, again = np.asarray(features)[0, :, :64], np.asarray(features)[0, :, 64]
    near = np.array([0.25, 0.5, 0.25])
    left = np.convolve(pulses, near, "same")[120:180]  # of a pulse a period ago, smoothed
    np.testing.assert_allclose(again, compand(left.astype(np.float32)), atol=2e-3)
    expected = samples[140:] - pulses[140:] + left
    np.testing.assert_allclose(places @ np.linspace(-1, 1, 64), compand(expected.astype(np.float32)), atol=2e-3)


@pytest.mark.parametrize("context", [Window(6), PREDICTION], ids=lambda context: type(context).__name__)
@pytest.mark.parametrize("ahead", [0, 3])
def test_all_samples_at_once_are_one_after_another(context, ahead):
    """Whatever lies before the past that is read changes nothing."""
    samples = np.stack([resonance(context.lookback + 12, seed)[0] for seed in (0, 1)])
    at_once, last = jax.jit(context.unroll, static_argnums=1)(np.pad(samples, ((0, 0), (ahead, 0))), 12)
    state, following = context.init(2), jax.jit(context.step)
    for t in range(12):
        features, state = following(samples[:, t : context.lookback + t], state, np.array(t % context.hop == 0))
        np.testing.assert_allclose(features, at_once[:, t], atol=2e-4)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), last, state)
