"""Metrics that others made: real digits are recognised and sound better than noise, each clip for itself."""

import math
import sys

import numpy as np
import pytest

from jaxgen.audio import read
from jaxgen.config import instances_by_name
from jaxgen.core.errors import UserError
from jaxgen.evaluation.audio_metric import AudioMetric, ClipSet
from jaxgen.evaluation.third_party import DNSMOS, WORDS, PocketSphinx, opinion_scores, recognise_digits

pytestmark = pytest.mark.slow

RATE = 8_000
EXTRA = "comes with pip install 'jaxgen[speech]'"


@pytest.fixture(scope="module")
def digits(recordings):
    """Two real recordings of each digit."""
    names = [f"{digit}_{speaker}_5" for digit in range(10) for speaker in ("lucas", "theo")]
    clips = [read(recordings / "fsdd" / "recordings" / f"{name}.wav").samples[:, 0] for name in names]
    return ClipSet(clips, RATE, [{"digit": name[0]} for name in names])


def test_pocketsphinx_hears_what_is_said(digits):
    pytest.importorskip("pocketsphinx", reason=EXTRA)
    metric = PocketSphinx()
    figures = metric(digits)
    assert figures["pocketsphinx_recognised"] >= 0.75
    assert figures["pocketsphinx_clips"] == 20
    in_words = [{"digit": WORDS[int(labels["digit"])]} for labels in digits.labels]
    assert metric(ClipSet(digits.samples, RATE, in_words)) == figures
    others = [{"digit": str((int(labels["digit"]) + 1) % 10)} for labels in digits.labels]
    assert metric(ClipSet(digits.samples, RATE, others))["pocketsphinx_recognised"] <= 0.2


def test_clips_are_heard_for_themselves_and_whatever_their_loudness(digits):
    pytest.importorskip("pocketsphinx", reason=EXTRA)
    clips = digits.samples[:6]
    heard = recognise_digits(clips, RATE)
    assert recognise_digits(clips[::-1], RATE) == heard[::-1]
    assert recognise_digits([0.25 * clip for clip in clips], RATE) == heard


def test_clips_without_a_digit_are_not_counted():
    pytest.importorskip("pocketsphinx", reason=EXTRA)
    clips = ClipSet([np.zeros(800, np.float32)] * 3, RATE, [{}, {"digit": "ten"}, {"digit": "11"}])
    figures = PocketSphinx()(clips)
    assert math.isnan(figures["pocketsphinx_recognised"])
    assert figures["pocketsphinx_clips"] == 0
    assert len(recognise_digits([np.zeros(0, np.float32), np.zeros(800, np.float32)], RATE)) == 2


@pytest.mark.nightly
def test_speech_is_scored_above_noise(digits):
    pytest.importorskip("speechmos.dnsmos", reason=EXTRA)
    real = digits.samples[0]
    noise = np.random.default_rng(0).normal(0, 0.1, len(real)).clip(-1, 1).astype(np.float32)
    scores = opinion_scores([real, noise, real[:0]], RATE)
    assert scores.shape == (3, 4)
    assert np.isfinite(scores[:2]).all()
    assert (scores[0] > scores[1] + 0.3).all()
    assert np.isnan(scores[2]).all()


def test_dnsmos_hears_some_of_many_clips(monkeypatch):
    heard = []
    monkeypatch.setattr(
        "jaxgen.evaluation.third_party.opinion_scores",
        lambda clips, rate: heard.extend(map(len, clips)) or np.arange(4.0) * np.ones((len(clips), 1)),
    )
    clips = ClipSet([np.zeros(length, np.float32) for length in range(9)], RATE, [{}] * 9)
    figures = DNSMOS(num_clips=3)(clips)
    assert heard == [0, 4, 8]
    assert figures == {
        "dnsmos_p808": 0.0,
        "dnsmos_sig": 1.0,
        "dnsmos_bak": 2.0,
        "dnsmos_ovrl": 3.0,
        "dnsmos_clips": 3.0,
    }


@pytest.mark.parametrize(("metric", "module"), [(PocketSphinx(), "pocketsphinx"), (DNSMOS(), "speechmos.dnsmos")])
def test_a_metric_that_is_not_installed_says_how_to_get_it(metric, module, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(UserError, match=r"pip install 'jaxgen\[speech\]'"):
        metric.check(None)


def test_metrics_are_named_by_their_class():
    assert instances_by_name(AudioMetric, ("PocketSphinx", "DNSMOS"), "--metrics") == (PocketSphinx(), DNSMOS())
    with pytest.raises(UserError, match=r"--metrics has 'Sphinx', expected some of .*DNSMOS, .*PocketSphinx"):
        instances_by_name(AudioMetric, ("Sphinx",), "--metrics")
    with pytest.raises(UserError, match="Melody needs more"):
        instances_by_name(AudioMetric, ("Melody",), "--metrics")
