"""PluckedStrings melodies: in tune, in time, the same every time, and never half right."""

import dataclasses
import subprocess
import sys
import time

import numpy as np
import pytest

from jaxgen.core.errors import UserError
from jaxgen.data.synthetic import TEMPI, TIMBRES, PluckedStrings, Timbre, pluck


def spectrum_peak(samples: np.ndarray, sample_rate: int, low: float, high: float) -> float:
    """The strongest frequency from low to high, in Hz."""
    size = 1 << 19
    level = np.abs(np.fft.rfft(samples.astype(np.float64) * np.hanning(len(samples)), size))
    hertz = np.arange(len(level)) * sample_rate / size
    inside = (hertz > low) & (hertz < high)
    return float(hertz[inside][level[inside].argmax()])


@pytest.mark.parametrize("sample_rate", [8_000, 22_050])
@pytest.mark.parametrize("timbre", TIMBRES.values(), ids=TIMBRES)
def test_every_note_is_in_tune(timbre, sample_rate):
    for frequency in PluckedStrings().scale_hz():
        note = pluck(frequency, sample_rate // 2, timbre, sample_rate)
        found = spectrum_peak(note, sample_rate, frequency / 1.2, frequency * 1.2)
        assert abs(1200 * np.log2(found / frequency)) < 2  # cents


def test_scale_is_g_major_pentatonic():
    scale = np.array(PluckedStrings().scale_hz())
    expected = [391.995, 440.0, 493.883, 587.330, 659.255, 783.991, 880.0, 987.767, 1174.659, 1318.510]
    np.testing.assert_allclose(scale, expected, atol=1e-3)


@pytest.mark.parametrize("timbre", [*TIMBRES.values(), Timbre(pick=0.5, sustain=20.0, damping=0.99)], ids=str)
@pytest.mark.parametrize("sample_rate", [4_000, 8_000, 44_100])
def test_the_string_fades_at_its_sustain(timbre, sample_rate):
    """The level falls by 60 dB in `sustain` seconds, at most: harmonics fade faster than the fundamental."""
    note = pluck(440.0, sample_rate, timbre, sample_rate).astype(np.float64)
    assert np.isfinite(note).all()
    early, late = (20 * np.log10(np.std(note[int(t * sample_rate) :][: sample_rate // 20])) for t in (0.1, 0.6))
    expected = 60 * 0.5 / timbre.sustain
    assert expected - 1.5 < early - late < expected + 15


def test_damped_notes_end_in_silence():
    note = pluck(440.0, 2_000, TIMBRES["steel"], 8_000)
    assert np.abs(note).max() == pytest.approx(1.0)
    assert abs(note[-1]) < 1e-6


def test_clips_are_the_same_in_another_process():
    code = "from jaxgen.data.synthetic import *; import sys; sys.stdout.buffer.write(PluckedStrings().clips()[1].load().samples)"
    there = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, timeout=60).stdout
    assert there == PluckedStrings().clips()[1].load().samples.tobytes()
    assert len(there) == 4 * 28_000


def test_digest_changes_with_what_is_heard_and_with_nothing_else():
    def digests(**changes) -> list[str]:
        return [clip.digest() for clip in PluckedStrings(**{"num_clips": 4, **changes}).clips()]

    base = digests()
    assert len(set(base)) == 4
    assert digests() == base
    assert digests(num_clips=9)[:4] == base
    for change in ({"seed": 1}, {"seconds": 3.0}, {"sample_rate": 16_000}):
        assert not set(digests(**change)) & set(base)


def test_fields_and_splits():
    data = PluckedStrings()
    clips = data.clips()
    assert len({clip.name for clip in clips}) == len(clips) == 200
    assert {clip.fields["timbre"] for clip in clips} == set(TIMBRES)
    assert {clip.fields["tempo"] for clip in clips} == {str(tempo) for tempo in TEMPI}
    assert {clip.fields["licence"] for clip in clips} == {"CC0-1.0 (synthesised)"}
    validation = [clip for clip in clips if data.split_of(clip.fields, clip.digest()) == "validation"]
    assert len(validation) == 20
    assert {(clip.fields["timbre"], clip.fields["tempo"]) for clip in validation} == {
        (timbre, str(tempo)) for timbre in TIMBRES for tempo in TEMPI
    }
    assert all(data.split_of(clip.fields, "") in ("train", "validation") for clip in clips)


def test_melodies_differ_and_fill_their_length():
    clips = PluckedStrings(num_clips=20).clips()
    started = time.perf_counter()
    waves = [clip.load() for clip in clips]
    assert (time.perf_counter() - started) / len(clips) < 0.02
    for wave in waves:
        assert wave.samples.shape == (28_000, 1)
        assert wave.samples.dtype == np.float32
        assert wave.sample_rate == 8_000
        assert 0.2 < np.abs(wave.samples).max() <= 0.5
    assert len({wave.samples.tobytes() for wave in waves}) == len(waves)


@pytest.mark.parametrize("change", [{"num_clips": 0}, {"seconds": 0.0}, {"seed": -1}, {"sample_rate": 2_000}])
def test_bad_settings_name_the_option(change):
    with pytest.raises(UserError, match=rf"data\.{next(iter(change))}"):
        dataclasses.replace(PluckedStrings(), **change)
