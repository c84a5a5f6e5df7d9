"""The synthesiser: in tune by an independent measure, band-limited, without clicks and clipping, the same however long."""

import dataclasses
import itertools

import numpy as np
import pytest

from jaxgen.core.errors import UserError
from jaxgen.scores.render import MOST_SOUNDING, render, render_blocks
from jaxgen.scores.score import Score, Tempo, Track, make_notes
from jaxgen.scores.timbres import ORGAN, PIANO, PLUCKED, STRINGS, TIMBRES, timbre_of

RATE = 22_050


def one_note(pitch: int, quarters: int = 2, velocity: int = 90) -> Score:
    return Score(make_notes(0, quarters, pitch, velocity), 1, quarters)


def loudest_hertz(samples: np.ndarray, near: float, rate: int) -> float:
    """The peak of the spectrum within a semitone of a frequency, its place refined by a parabola through the log spectrum."""
    size = 1 << 18
    spectrum = np.log(np.abs(np.fft.rfft(samples * np.hanning(len(samples)), size)) + 1e-12)
    low, high = (int(near * 2 ** (side / 12) * size / rate) for side in (-1, 1))
    peak = low + int(np.argmax(spectrum[low:high]))
    left, middle, right = spectrum[peak - 1 : peak + 2]
    return (peak + 0.5 * (left - right) / (left - 2 * middle + right)) * rate / size


@pytest.mark.parametrize("name", TIMBRES)
def test_notes_are_in_tune(name):
    pitches = [36, 50, 61, 69, 74, 84]
    score = Score(make_notes(np.arange(6) * 2, 2, pitches), 1, 12)
    samples = render(score, RATE, [TIMBRES[name]]).samples[:, 0]
    for place, pitch in enumerate(pitches):
        hertz = 440 * 2 ** ((pitch - 69) / 12)
        note = samples[place * RATE : (place + 1) * RATE][RATE // 8 :]
        assert abs(1200 * np.log2(loudest_hertz(note, hertz, RATE) / hertz)) < 3


def test_a_note_hours_away_is_in_tune_and_on_time():
    slow = (Tempo(0, 10_000_000),)
    score = dataclasses.replace(one_note(69), tempi=slow)
    far = dataclasses.replace(score, notes=make_notes(2_000, 2, 69, 90), length=2_002)
    near, blocks = render(score, 2_000, [STRINGS]).samples, render_blocks(far, 2_000, [STRINGS])
    start = 2_000 * 10 * 2_000
    kept = np.concatenate(
        [block for first, block in zip(itertools.count(0, 8_192), blocks, strict=False) if first > start - 9_000]
    )
    kept = kept[-len(near) :]
    assert np.abs(kept - near).max() < 2e-3  # 5.6 hours later the same, but for float32


@pytest.mark.parametrize("rate", [8_000, 44_100])
def test_no_partial_is_above_half_the_sample_rate(rate):
    for pitch in (100, 94):
        samples = render(one_note(pitch), rate, [dataclasses.replace(ORGAN, slope=0)]).samples[:, 0]
        power = np.abs(np.fft.rfft(samples * np.hanning(len(samples)))) ** 2
        hertz = np.fft.rfftfreq(len(samples), 1 / rate)
        fundamental = 440 * 2 ** ((pitch - 69) / 12)
        away = np.abs(hertz / fundamental - np.round(hertz / fundamental)) * fundamental > 60  # of no harmonic: aliases
        assert power[away].max() < 1e-6 * power.max()


def test_what_is_too_high_for_the_rate_is_silent():
    assert not render(one_note(127), 8_000, [ORGAN]).samples.any()


@pytest.mark.parametrize("name", TIMBRES)
def test_there_are_no_clicks(name):
    score = Score(make_notes([0, 1, 2, 3], [1, 1, 1, 1], [48, 48, 55, 60], 100), 1, 4)
    samples = render(score, RATE, [TIMBRES[name]]).samples.mean(axis=1).astype(np.float64)
    loudness = np.abs(samples).max()
    assert abs(samples[0]) < 0.02 * loudness
    assert np.abs(samples[-20:]).max() < 1e-3 * loudness
    high = np.abs(np.diff(samples, 4))  # a step of the waveform stands out in its differences
    edges = np.concatenate([high[round(beat * RATE / 2) - 100 : round(beat * RATE / 2) + 100] for beat in (1, 2, 3)])
    assert edges.max() < 1.5 * high.max() + 1e-9
    assert np.abs(np.diff(samples)).max() < 0.5 * loudness


def test_blocks_do_not_show():
    """A steady tone is steady across the edges of blocks and hops: what is left beside its harmonics is noise of float32."""
    samples = render(one_note(69, 4), 44_100, [ORGAN]).samples[22_050:66_150, 0]
    window = np.blackman(len(samples))
    power = np.abs(np.fft.rfft(samples * window)) ** 2
    hertz = np.fft.rfftfreq(len(samples), 1 / 44_100)
    away = np.abs(hertz / 440 - np.round(hertz / 440)) * 440 > 10
    assert power[away].max() < 1e-9 * power.max()


def test_the_same_score_gives_the_same_samples_and_a_prefix_its_beginning():
    score = Score(make_notes(np.arange(20), 2, 40 + 2 * np.arange(20)), 2, 24)
    assert np.array_equal(render(score, RATE).samples, render(score, RATE).samples)
    begun = dataclasses.replace(score, notes=score.notes[:5], length=9)
    assert np.array_equal(render(begun, RATE).samples[: RATE // 2], render(score, RATE).samples[: RATE // 2])


def test_tempo_decides_when_notes_sound():
    score = dataclasses.replace(Score(make_notes([0, 4], 1, 69), 1, 5), tempi=(Tempo(0, 250_000),))
    samples = render(score, RATE, [PIANO]).samples
    assert np.abs(samples[RATE // 2 : RATE - 64]).max() < 1e-4
    assert np.abs(samples[RATE + 500 : RATE + 5_000]).max() > 0.05


def test_the_louder_velocity_is_louder_and_brighter():
    soft, loud = (render(one_note(60, velocity=velocity), RATE, [PIANO]).samples[:, 0] for velocity in (30, 110))
    assert np.std(loud) > 4 * np.std(soft)

    def brightness(samples):
        power = np.abs(np.fft.rfft(samples)) ** 2
        return (power * np.arange(len(power))).sum() / power.sum()

    assert brightness(loud) > 1.1 * brightness(soft)


def test_pan_and_width():
    score = Score(make_notes(0, 2, [60, 64], track=[0, 1]), 1, 2, (Track(), Track()))
    left = render(score, RATE, pans=[-1, -1]).samples
    assert not left[:, 1].round(7).any()
    spread = render(score, RATE).samples
    assert not np.allclose(spread[:, 0], spread[:, 1])
    alone = render(one_note(60), RATE).samples
    assert np.array_equal(alone[:, 0], alone[:, 1])


@pytest.mark.parametrize("velocity", [1, 127])
def test_a_thousand_notes_at_once_do_not_clip(velocity):
    score = Score(make_notes(0, 1, np.arange(1_000) % 88 + 21, velocity), 8, 1)
    samples = render(score, 8_000, [PLUCKED]).samples
    assert np.isfinite(samples).all()
    assert 0 < np.abs(samples).max() < 1


def test_silence_and_the_end():
    assert render(Score(make_notes([], [], []), 1, 4), 8_000).samples.shape == (16_064, 2)
    assert not render(Score(make_notes([], [], []), 1, 0), 8_000).samples.any()
    samples = render(one_note(60), 8_000, [ORGAN]).samples
    assert len(samples) == 8_000 + round(ORGAN.release * 8_000) + 64


def test_what_cannot_be_rendered_is_one_line():
    score = one_note(60)
    many = Score(make_notes(0, 1, np.full(MOST_SOUNDING + 1, 60)), 1, 1)
    endless = dataclasses.replace(score, length=10**6)
    for bad, options, reason in (
        (score, {"sample_rate": 10}, "expected 1000 to 768000"),
        (score, {"timbres": []}, "expected one of each a track"),
        (score, {"pans": [1.5]}, r"-1 \(left\) to 1"),
        (many, {}, "expected at most 1024"),
        (endless, {}, "crop it"),
    ):
        with pytest.raises(UserError, match=reason):
            render_blocks(bad, **options)


def test_programs_have_the_timbre_of_their_family():
    assert (timbre_of(0), timbre_of(19), timbre_of(48), timbre_of(127)) == (PIANO, ORGAN, STRINGS, ORGAN)
