"""Metrics against librosa, scipy and closed forms."""

import math

import librosa
import numpy as np
import pytest
import scipy.linalg
import scipy.signal
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from jaxgen.evaluation import metrics

RATE = 24_000
FLOOR_POWER = 10 ** (metrics.FLOOR_DB / 10)
CLIPS = hnp.arrays(np.float32, st.integers(1, 900), elements=st.floats(-1, 1, width=32))


def noise(seed: int, seconds: float = 0.5, rate: int = RATE, gain: float = 0.2) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return (gain * np.clip(rng.normal(size=round(seconds * rate)), -4, 4)).astype(np.float32)


def sine(hertz: float, seconds: float = 0.5, phase: float = 0.0, gain: float = 0.5) -> np.ndarray:
    time = np.arange(round(seconds * RATE)) / RATE
    return (gain * np.sin(2 * np.pi * hertz * time + phase)).astype(np.float32)


def librosa_power(samples: np.ndarray, n_fft: int, hop_length: int, win_length: int) -> np.ndarray:
    """[nframe, nbin], a full-scale sine is 1."""
    window = scipy.signal.get_window("hann", win_length)
    spectrum = librosa.stft(
        samples.astype(np.float64), n_fft=n_fft, hop_length=hop_length, win_length=win_length, pad_mode="constant"
    )
    return np.abs(spectrum.T / (window.sum() / 2)) ** 2


def test_log_spectral_distance_is_its_formula():
    ours, theirs = noise(0), sine(440) + noise(1, gain=0.01)
    win_length, hop_length = 768, 192
    levels = [
        10 * np.log10(np.maximum(librosa_power(clip, win_length, hop_length, win_length), FLOOR_POWER))
        for clip in (ours, theirs)
    ]
    expected = np.mean(np.sqrt(np.mean((levels[0] - levels[1]) ** 2, axis=1)))
    assert metrics.log_spectral_distance_db(ours, theirs, RATE) == pytest.approx(expected, rel=1e-4)


def test_multi_resolution_distance_is_the_paper_s_at_its_rate():
    ours, theirs = noise(2), sine(1000) + noise(3, gain=0.05)
    expected = []
    for n_fft, win_length, hop_length in ((1024, 600, 120), (2048, 1200, 240), (512, 240, 50)):
        x, y = (
            np.sqrt(np.maximum(librosa_power(clip, n_fft, hop_length, win_length), FLOOR_POWER))
            for clip in (ours, theirs)
        )
        convergence = np.linalg.norm(x - y) / np.linalg.norm(x)
        expected.append(convergence + np.mean(np.abs(np.log(x) - np.log(y))))
    found = metrics.multi_resolution_stft_distance(ours, theirs, RATE)
    assert found == pytest.approx(np.mean(expected), rel=1e-4)


@settings(max_examples=25, deadline=None)
@given(clip=CLIPS)
def test_equal_clips_have_no_distance(clip):
    assert metrics.log_spectral_distance_db(clip, clip, 8_000) == 0
    assert metrics.multi_resolution_stft_distance(clip, clip, 8_000) == 0


@settings(max_examples=25, deadline=None)
@given(clip=CLIPS, seed=st.integers(0, 99))
def test_log_spectral_distance_is_symmetric(clip, seed):
    other = noise(seed, rate=8_000, seconds=1)[: len(clip)]
    there = metrics.log_spectral_distance_db(clip, other, 8_000)
    assert there == pytest.approx(metrics.log_spectral_distance_db(other, clip, 8_000), rel=1e-6)


@pytest.mark.parametrize("distance", [metrics.log_spectral_distance_db, metrics.multi_resolution_stft_distance])
def test_sign_does_not_count(distance):
    assert distance(noise(4), -noise(4), RATE) == pytest.approx(0, abs=1e-5)


def test_phase_hardly_counts():
    inner = slice(2_000, -2_000)  # ends differ: a sine that starts at its peak clicks
    same, other = sine(1000, phase=1.0)[inner], sine(1100)[inner]
    reference = sine(1000)[inner]
    near = metrics.multi_resolution_stft_distance(reference, same, RATE)
    assert near < 0.2 * metrics.multi_resolution_stft_distance(reference, other, RATE)


def test_a_gain_costs_its_decibels():
    clip = noise(5)
    half = clip * np.float32(0.5)
    assert metrics.log_spectral_distance_db(clip, half, RATE) == pytest.approx(20 * math.log10(2), rel=1e-3)
    assert metrics.multi_resolution_stft_distance(clip, half, RATE) == pytest.approx(0.5 + math.log(2), rel=1e-3)


@pytest.mark.parametrize("distance", [metrics.log_spectral_distance_db, metrics.multi_resolution_stft_distance])
def test_distances_refuse_what_cannot_be_compared(distance):
    with pytest.raises(ValueError, match="one length"):
        distance(noise(0)[:100], noise(0)[:99], RATE)
    with pytest.raises(ValueError, match="finite"):
        distance(noise(0), np.full(RATE // 2, np.nan, np.float32), RATE)


def test_blocks_of_a_long_clip_join_seamlessly(monkeypatch):
    clip = noise(6)
    whole = np.concatenate(list(metrics.power_blocks(clip, 256, 80, 200)))
    monkeypatch.setattr(metrics, "_BLOCK_FRAMES", 7)
    blocks = list(metrics.power_blocks(clip, 256, 80, 200))
    assert max(map(len, blocks)) == 7
    assert len(whole) == 1 + len(clip) // 80
    np.testing.assert_array_equal(np.concatenate(blocks), whole)


@pytest.mark.parametrize("rate", [8_000, 16_000, 22_050, 44_100])
def test_a_full_scale_sine_is_about_0_db_in_its_band(rate):
    sine = np.sin(2 * np.pi * 440 * np.arange(rate) / rate).astype(np.float32)
    levels = metrics.log_mel_db(sine, rate, n_mels=40)
    assert levels.shape == (1 + rate // round(rate * metrics.FRAME_SECONDS), 40)
    assert -3.1 < levels[20:-20].max() < 0.1
    assert metrics.log_mel_db(np.zeros(rate, np.float32), rate, n_mels=40).max() == pytest.approx(metrics.FLOOR_DB)


def test_embedding_is_its_definition():
    """Power by librosa's stft and mel bank, the cosine transform as a sum, statistics of each window by itself."""
    rate, n_mels = 8_000, 40
    clip = noise(14, seconds=0.6, rate=rate) * np.linspace(0, 1, 4800, dtype=np.float32)
    power = librosa_power(clip, 512, 80, 256) / 3  # a sine stands in three bins: two zero-padded, times 1.5 for Hann
    bands = power @ librosa.filters.mel(sr=rate, n_fft=512, n_mels=n_mels, norm=None).T
    levels = 10 * np.log10(np.maximum(bands, FLOOR_POWER))
    cosines = np.cos(np.pi * np.outer(np.arange(16), np.arange(n_mels) + 0.5) / n_mels)
    cepstrum = levels @ cosines.T / n_mels * np.where(np.arange(16) == 0, 1, math.sqrt(2))
    slope = np.gradient(cepstrum, axis=0)
    expected = [
        np.concatenate([cepstrum[at : at + 25].mean(0), cepstrum[at : at + 25].std(0), slope[at : at + 25].std(0)])
        for at in range(0, len(cepstrum) - 24, 12)
    ]
    np.testing.assert_allclose(metrics.embed(clip, rate), expected, atol=1e-3)


def test_embedding_follows_level_and_colour_but_not_time():
    rate = 8_000
    clip = noise(7, seconds=2, rate=rate)
    base, quieter = metrics.embed(clip, rate), metrics.embed(clip * np.float32(0.1), rate)
    assert base.shape == ((201 - 25) // 12 + 1, metrics.EMBEDDING_SIZE)
    np.testing.assert_allclose((base - quieter)[:, 0], 20, atol=0.2)  # the mean level in dB
    np.testing.assert_allclose((base - quieter)[:, 1:], 0, atol=0.5)
    assert metrics.embed(clip[:10], rate).shape == (1, metrics.EMBEDDING_SIZE)


def test_frechet_distance_is_the_formula():
    rng = np.random.default_rng(8)
    a, b = rng.normal(size=(400, 6)) @ rng.normal(size=(6, 6)), rng.normal(size=(300, 6)) * 2 + 1
    cov_a, cov_b = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    root = scipy.linalg.sqrtm(cov_a @ cov_b).real
    expected = np.sum((a.mean(0) - b.mean(0)) ** 2) + np.trace(cov_a + cov_b - 2 * root)
    assert metrics.frechet_distance(a, b) == pytest.approx(expected, rel=1e-8)
    assert metrics.frechet_distance(b, a) == pytest.approx(expected, rel=1e-8)
    assert metrics.frechet_distance(a, a[::-1]) == pytest.approx(0, abs=1e-8)


def test_frechet_distance_of_known_gaussians():
    """N(0, 1) and N(mean, spread^2) in each dimension: mean^2 + (spread - 1)^2."""
    draws = np.random.default_rng(9).normal(size=(2, 200_000, 3))
    found = metrics.frechet_distance(draws[0], np.array([0.5, 0.0, -1.0]) + np.array([1.0, 3.0, 0.5]) * draws[1])
    assert found == pytest.approx(0.25 + 4 + 1 + 0.25, rel=0.02)


def test_frechet_distance_survives_singular_covariances_and_tells_of_few_rows():
    rng = np.random.default_rng(10)
    a = rng.normal(size=(5, 48))
    shifted = a + 2.0
    assert metrics.frechet_distance(a, shifted) == pytest.approx(4 * 48, rel=1e-6)
    assert math.isnan(metrics.frechet_distance(a[:1], a))
    assert "no distance" in metrics.frechet_note(a[:1], a)
    assert "only indicative" in metrics.frechet_note(a, a)
    assert metrics.frechet_note(rng.normal(size=(49, 48)), np.zeros((60, 48))) == "49 and 60 windows of 48 dimensions"


def test_frechet_distance_of_what_is_not_finite_is_not_a_number():
    rows = np.random.default_rng(0).normal(size=(5, 3))
    bad = rows.copy()
    bad[2, 1] = np.nan
    assert math.isnan(metrics.frechet_distance(bad, rows))
    assert math.isnan(metrics.frechet_distance(rows, bad))


def test_frechet_distance_sees_the_difference_between_kinds_of_sound():
    rate = 8_000
    first, second = (metrics.embed(noise(seed, seconds=20, rate=rate), rate) for seed in (11, 12))
    dark = metrics.embed(scipy.signal.lfilter([0.1], [1, -0.9], noise(13, 20, rate)).astype(np.float32), rate)
    assert metrics.frechet_distance(first, second) < 0.05 * metrics.frechet_distance(first, dark)


@given(clipped=st.integers(0, 50), rest=st.integers(0, 50))
@settings(max_examples=25, deadline=None)
def test_clipping_rate_counts(clipped, rest):
    clip = np.concatenate([np.full(clipped, -1.0), np.full(rest, 0.998)]).astype(np.float32)
    assert metrics.clipping_rate(clip) == (clipped / len(clip) if len(clip) else 0.0)


@given(silent=st.integers(0, 20), loud=st.integers(0, 20))
@settings(max_examples=25, deadline=None)
def test_silence_rate_counts_frames(silent, loud):
    quiet, heard = np.full(160 * silent, 0.9e-3), np.full(160 * loud, 1.1e-3)  # -60 dBFS is 1e-3
    clip = np.concatenate([quiet, heard]).astype(np.float32)
    expected = silent / (silent + loud) if silent + loud else 1.0
    assert metrics.silence_rate(clip, 8_000) == pytest.approx(expected)


def test_a_short_last_frame_counts_as_one():
    assert metrics.silence_rate(np.concatenate([np.zeros(160), np.ones(3)]).astype(np.float32), 8_000) == 0.5
