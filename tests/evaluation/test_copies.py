"""Metrics of copies beside what was recorded: known errors, order of what is heard, and what is no copy."""

import math

import numpy as np
import pytest

from jaxgen.core.errors import UserError
from jaxgen.evaluation.audio_metric import ClipSet
from jaxgen.evaluation.copies import Pesq, PitchErrors, Stoi
from jaxgen.evaluation.copy_synthesis import CopySynthesis
from jaxgen.evaluation.latent_evaluation import LatentEvaluation

RATE = 8_000


def _tone(hz, seconds=0.5):
    time = np.arange(round(seconds * RATE)) / RATE
    return np.float32(0.1) * sum(np.sin(2 * np.pi * k * hz * time) for k in (1, 2, 3)).astype(np.float32)


def _figures(metric, real, made):
    return metric(ClipSet(made, RATE, [{}] * len(made), originals=real))


def test_pitch_errors_are_those_that_were_made():
    real = [_tone(100), _tone(120), _tone(200)]
    made = [_tone(100 * 2 ** (30 / 1200)), np.zeros_like(real[1]), _tone(100)]
    figures = _figures(PitchErrors(), real, made)
    assert figures["pitch_error_cents"] == pytest.approx(30, abs=2)
    assert figures["gross_pitch_error"] == pytest.approx(1 / 2, abs=0.05)  # an octave, of two clips with a pitch
    assert figures["voicing_error"] == pytest.approx(1 / 3, abs=0.05)
    same = _figures(PitchErrors(), real, real)
    assert same == {"pitch_error_cents": 0, "gross_pitch_error": 0, "voicing_error": 0}


def test_nothing_with_a_pitch_has_no_pitch_error():
    figures = _figures(PitchErrors(), [np.zeros(4_000, np.float32)], [_tone(100)])
    assert math.isnan(figures["pitch_error_cents"])
    assert figures["voicing_error"] > 0.9


@pytest.mark.parametrize(("metric", "package"), [(Pesq(), "pesq"), (Stoi(), "pystoi")])
def test_more_noise_is_heard(recordings, metric, package):
    """Also where each clip is shorter than the package can measure."""
    pytest.importorskip(package, reason="pip install 'jaxgen[copies]'")
    import soundfile

    files = sorted((recordings / "fsdd").rglob("*.wav"))[:24]
    real = [soundfile.read(file, dtype="float32")[0] for file in files]
    generator = np.random.default_rng(0)
    (name,) = _figures(metric, real, real)
    scores = []
    for share in (0.0, 0.1, 1.0):
        made = [clip + share * clip.std() * generator.normal(size=len(clip)).astype(np.float32) for clip in real]
        scores.append(_figures(metric, real, made)[name])
    assert scores == sorted(scores, reverse=True)
    assert scores[0] > {"pesq": 4.3, "stoi": 0.99}[name]
    assert scores[0] - scores[2] > 0.1


@pytest.mark.parametrize(("metric", "package"), [(Pesq(), "pesq"), (Stoi(), "pystoi")])
def test_what_is_silent_or_too_short_has_no_score_and_a_long_clip_is_cut(metric, package):
    pytest.importorskip(package, reason="pip install 'jaxgen[copies]'")
    noise = np.random.default_rng(0).normal(0, 0.1, 60 * RATE).astype(np.float32)
    words = noise * (np.arange(len(noise)) % 7_200 < 3_600)  # more than PESQ has room for at once
    ((name, score),) = _figures(metric, [words], [words + 0.01 * noise]).items()
    assert score > 0.9
    for seconds in (0.02, 0.2):
        short = noise[: round(seconds * RATE)]
        assert math.isnan(_figures(metric, [short], [short])[name])
    silent = _figures(metric, [noise[:8_000]], [np.zeros(8_000, np.float32)])[name]
    assert math.isnan(silent) or silent < 0.5


@pytest.mark.parametrize("metric", [PitchErrors(), Pesq(), Stoi()])
def test_an_evaluation_that_makes_no_copies_refuses_their_metrics_at_once(metric):
    assert CopySynthesis(metrics=(metric,)).metrics == (metric,)
    with pytest.raises(UserError, match=f"{type(metric).__name__} compares copies"):
        LatentEvaluation(metrics=(metric,))


@pytest.mark.parametrize(("metric", "package"), [(Pesq(), "pesq"), (Stoi(), "pystoi")])
def test_a_package_that_is_missing_is_named(monkeypatch, metric, package):
    import sys

    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UserError, match=rf"{package} is not installed.*jaxgen\[copies\]"):
        metric.check(None)
