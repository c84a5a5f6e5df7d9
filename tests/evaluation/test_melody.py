"""The melody metric against sounds whose pitch, scale and rhythm are known."""

import math

import numpy as np
import pytest

from jaxgen.core.errors import UserError
from jaxgen.data.synthetic import TIMBRES, PluckedStrings, pluck
from jaxgen.evaluation.audio_metric import ClipSet
from jaxgen.evaluation.melody import Melody, grid_regularity, onset_seconds, track_pitch
from jaxgen.features import LogMel

SCALE = PluckedStrings().scale_hz()
MELODY = Melody(scale_hz=SCALE)


def of(clips, sample_rate: int = 8_000) -> ClipSet:
    return ClipSet(clips, sample_rate, [{}] * len(clips))


def training_clips(count: int = 9) -> list[np.ndarray]:
    return [clip.load().samples[:, 0] for clip in PluckedStrings(num_clips=count).clips()]


def played(pitches: list[float], onsets: list[float], sample_rate: int = 8_000) -> np.ndarray:
    """Steel-string notes at the given times in seconds; the last onset is the end."""
    edges = [round(time * sample_rate) for time in onsets]
    notes = [
        pluck(pitch, end - start, TIMBRES["steel"], sample_rate)
        for pitch, start, end in zip(pitches, edges[:-1], edges[1:], strict=True)
    ]
    return 0.4 * np.concatenate(notes)


@pytest.mark.parametrize("sample_rate", [8_000, 16_000, 44_100])
def test_pitch_of_harmonic_tones(sample_rate):
    time = np.arange(sample_rate // 4) / sample_rate
    for pitch in (300.0, 441.0, 987.0, 1_700.0):
        tone = sum(np.sin(2 * np.pi * k * pitch * time + k) / k for k in (1, 2, 3) if k * pitch < sample_rate / 2)
        found = track_pitch((0.2 * tone).astype(np.float32), sample_rate, 277.0, 1_865.0)
        assert np.isfinite(found).all()
        assert np.abs(1200 * np.log2(found / pitch)).max() < 10


def test_no_pitch_in_noise_silence_and_scraps():
    noise = 0.1 * np.random.default_rng(0).standard_normal(16_000).astype(np.float32)
    for samples in (noise, np.zeros(8_000, np.float32)):
        found = track_pitch(samples, 8_000, 277.0, 1_865.0)
        assert len(found) > 90
        assert np.isfinite(found).mean() < 0.02
    assert len(track_pitch(noise[:100], 8_000, 277.0, 1_865.0)) == 0


def test_training_clips_are_melodies():
    figures = MELODY(of(training_clips()))
    assert figures["in_scale_share"] > 0.99
    assert figures["voiced_share"] > 0.8  # there are rests at the ends
    assert figures["onset_regularity"] > 0.97
    assert 2.5 < figures["onsets_per_second"] < 4.5


def test_mel_round_trip_stays_a_melody():
    """Frames of the quickstart's size, through the inverse of the mel filters and Griffin-Lim."""
    features = LogMel(sample_rate=8_000, n_fft=512, hop_length=200, n_mels=40, fmin=300.0, floor=1e-4)
    clips = np.stack(training_clips(6))
    figures = MELODY(of(list(np.asarray(features.decode(features.encode(clips))))))
    assert figures["in_scale_share"] > 0.95
    assert figures["voiced_share"] > 0.8  # there are rests at the ends
    assert figures["onset_regularity"] > 0.97


@pytest.mark.parametrize(
    ("cents", "low", "high"), [(0, 0.99, 1.0), (30, 0.95, 1.0), (100, 0.0, 0.02), (1_200, 0.98, 1.0)]
)
def test_transposed_melodies(cents, low, high):
    """A semitone up leaves the scale; an octave or a little detuning does not."""
    pitches = [SCALE[i] * 2 ** (cents / 1_200) for i in (0, 2, 1, 3, 4, 3, 2, 4)]
    figures = MELODY(of([played(pitches, [0.25 * i for i in range(9)])]))
    assert low <= figures["in_scale_share"] <= high


def test_random_pitches_score_chance():
    random = np.random.default_rng(0)
    pitches = [float(pitch) for pitch in SCALE[0] * 4 ** random.random(200)]
    figures = MELODY(of([played(pitches, [0.15 * i for i in range(201)])]))
    assert figures["in_scale_chance"] == pytest.approx(5 / 12, abs=1e-3)
    assert figures["in_scale_share"] == pytest.approx(figures["in_scale_chance"], abs=0.1)


def test_tolerance_sets_the_chance():
    assert Melody(SCALE, tolerance_cents=25.0)(of([]))["in_scale_chance"] == pytest.approx(5 / 24, abs=1e-3)
    assert Melody(SCALE, tolerance_cents=150.0)(of([]))["in_scale_chance"] == pytest.approx(1.0)


def test_onsets_are_found_where_notes_begin():
    times = [0.0, 0.31, 0.5, 0.98, 1.21, 1.6, 2.0]
    found = onset_seconds(played([SCALE[i] for i in (0, 3, 1, 5, 2, 7)], times), 8_000)
    assert len(found) == 6
    np.testing.assert_allclose(found, times[:-1], atol=0.021)


def test_regularity_of_grids_and_of_chance():
    random = np.random.default_rng(0)
    steps = 0.3 * np.cumsum(random.integers(1, 3, size=12)).astype(np.float64)
    assert grid_regularity(np.linspace(0, 3.3, 12)) > 0.99
    assert grid_regularity(steps) > 0.99
    assert grid_regularity(steps + random.normal(0, 0.01, 12)) > 0.9
    by_chance = [grid_regularity(np.sort(3.5 * random.random(12))) for _ in range(300)]
    assert np.mean(by_chance) < 0.35
    assert np.mean([grid_regularity(np.sort(20 * random.random(80))) for _ in range(50)]) < 0.2


def test_too_few_onsets_say_nothing():
    assert math.isnan(grid_regularity(np.array([0.0, 0.3, 0.6, 0.9])))
    assert math.isnan(grid_regularity(np.zeros(0)))


def test_level_does_not_matter():
    clips = training_clips(3)
    loud, quiet = MELODY(of(clips)), MELODY(of([0.4 * clip for clip in clips]))
    for name, value in loud.items():
        assert quiet[name] == pytest.approx(value, abs=0.02)


@pytest.mark.parametrize("clips", [[], [np.zeros(0, np.float32)], [np.zeros(50, np.float32)]], ids=["none", "0", "50"])
def test_nothing_to_say_is_nan(clips):
    figures = MELODY(of(clips))
    assert math.isnan(figures["in_scale_share"])
    assert math.isnan(figures["onset_regularity"])
    assert math.isnan(figures["voiced_share"])


@pytest.mark.parametrize(
    "change", [{"scale_hz": ()}, {"scale_hz": (0.0,)}, {"scale_hz": SCALE, "tolerance_cents": 0.0}]
)
def test_bad_settings(change):
    with pytest.raises(UserError, match="Melody needs"):
        Melody(**change)
