"""Decoding, resampling and writing of recordings."""

import errno
import os
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxgen import audio
from jaxgen.core.errors import UserError

LOSSLESS, LOSSY = ("wav", "flac", "aiff"), ("ogg", "mp3")


def _tone(hz: float, sample_rate: int, seconds: float = 0.48) -> np.ndarray:
    return (0.5 * np.sin(2 * np.pi * hz * np.arange(round(seconds * sample_rate)) / sample_rate)).astype(np.float32)


@pytest.mark.parametrize("channels", [1, 2, 5])
@pytest.mark.parametrize("suffix", LOSSLESS)
def test_read_gives_what_was_recorded(suffix, channels, tmp_path):
    samples = np.random.default_rng(0).uniform(-0.9, 0.9, (1000, channels)).astype(np.float32)
    soundfile.write(tmp_path / f"a.{suffix}", samples, 22_050)
    waveform = audio.read(tmp_path / f"a.{suffix}")
    assert waveform.sample_rate == 22_050
    assert waveform.samples.dtype == np.float32
    np.testing.assert_allclose(waveform.samples, samples, atol=2**-15)


@pytest.mark.parametrize("suffix", LOSSY)
def test_read_decodes_lossy_formats(suffix, tmp_path):
    tone = np.stack([_tone(440, 32_000), _tone(660, 32_000)], axis=1)
    soundfile.write(tmp_path / f"a.{suffix}", tone, 32_000)
    waveform = audio.read(tmp_path / f"a.{suffix}")
    assert (waveform.sample_rate, waveform.samples.shape[1]) == (32_000, 2)
    spectra = np.abs(np.fft.rfft(waveform.samples, axis=0))
    loudest_hz = spectra.argmax(axis=0) * 32_000 / len(waveform.samples)
    np.testing.assert_allclose(loudest_hz, [440, 660], atol=4)


def _write_float(path: Path, value: float) -> None:
    soundfile.write(path, np.array([0.1, value, 0.2]), 8_000, subtype="FLOAT")


def _cut(path: Path) -> None:
    soundfile.write(path, np.random.default_rng(0).uniform(-0.5, 0.5, 20_000), 8_000, format="FLAC")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda path: path.write_bytes(b""), "empty file"),
        (lambda path: path.write_bytes(b"no sound here " * 50), "not audio"),
        (lambda path: soundfile.write(path, np.zeros(0), 8_000, format="WAV"), "no samples"),
        (lambda path: _write_float(path, np.nan), "NaN or infinite"),
        (lambda path: _write_float(path, np.inf), "NaN or infinite"),
        (lambda path: _write_float(path, -1e30), r"samples of 1e\+30 times full scale"),
        (_cut, "not audio, or damaged"),
        (lambda path: path.mkdir(), "a folder, not a regular file"),
        (lambda path: None, "no such file"),
    ],
    ids=["empty", "text", "no samples", "NaN", "infinite", "too loud", "cut flac", "folder", "missing"],
)
def test_what_cannot_be_read_says_why(make, reason, tmp_path):
    make(tmp_path / "bad.wav")
    with pytest.raises(audio.AudioError, match=reason):
        audio.read(tmp_path / "bad.wav")


def test_a_wav_that_breaks_off_is_read_as_far_as_it_goes(tmp_path):
    samples, path = _tone(440, 8_000), tmp_path / "a.wav"
    soundfile.write(path, samples, 8_000)
    path.write_bytes(path.read_bytes()[:-1000])
    np.testing.assert_allclose(audio.read(path).samples[:, 0], samples[:-500], atol=2**-15)


def test_mix_down_is_the_mean_over_channels():
    samples = np.random.default_rng(0).normal(size=(50, 3)).astype(np.float32)
    np.testing.assert_allclose(audio.mix_down(samples), samples.mean(axis=1, dtype=np.float64), rtol=1e-5, atol=1e-7)
    np.testing.assert_array_equal(audio.mix_down(samples[:, :1]), samples[:, 0])


def _resampled(samples: np.ndarray, from_rate: int, to_rate: int) -> np.ndarray:
    return np.concatenate(list(audio.resample([samples], from_rate, to_rate)))


@settings(max_examples=8, deadline=None)
@given(
    from_rate=st.sampled_from([8_000, 11_025, 22_050, 44_100]), to_rate=st.sampled_from([8_000, 16_000, 24_000, 48_000])
)
def test_resampled_tone_is_the_tone_sampled_at_the_other_rate(from_rate, to_rate):
    resampled = _resampled(_tone(1_000, from_rate), from_rate, to_rate)
    expected = _tone(1_000, to_rate)
    assert resampled.dtype == np.float32
    assert len(resampled) == len(expected)
    inside = slice(to_rate // 20, -to_rate // 20)  # away from the ends
    np.testing.assert_allclose(resampled[inside], expected[inside], atol=1e-3)


def test_resampling_keeps_no_tone_above_the_new_band():
    assert np.abs(_resampled(_tone(6_000, 44_100), 44_100, 8_000)[400:-400]).max() < 1e-3


@pytest.mark.parametrize("comment", ["", "a plain remark", '{"seed": 1, "who": "née"}', "long " * 399 + "enough"])
def test_written_samples_and_comment_come_back(comment, tmp_path):
    samples = np.random.default_rng(0).uniform(-0.99, 0.99, 3_001).astype(np.float32)
    audio.write(tmp_path / "a.wav", samples, 16_000, comment)
    waveform = audio.read(tmp_path / "a.wav")
    assert waveform.sample_rate == 16_000
    assert soundfile.info(tmp_path / "a.wav").subtype == "PCM_16"
    np.testing.assert_allclose(waveform.samples[:, 0], samples, atol=2**-15)
    assert audio.read_comment(tmp_path / "a.wav") == comment


def test_written_samples_stop_at_full_scale(tmp_path):
    audio.write(tmp_path / "a.wav", np.array([2.0, -3.0, 0.5], np.float32), 8_000)
    np.testing.assert_allclose(audio.read(tmp_path / "a.wav").samples[:, 0], [1.0, -1.0, 0.5], atol=2**-14)


@pytest.mark.parametrize("comment", ["", "a remark"])
def test_appended_samples_make_the_file_that_writing_them_at_once_makes(comment, tmp_path):
    samples = np.random.default_rng(0).normal(0, 0.6, 3_001).astype(np.float32)
    audio.write(tmp_path / "whole.wav", samples, 16_000, comment)
    audio.write(tmp_path / "pieces.wav", samples[:0], 16_000, comment)
    for start, end in ((0, 1), (1, 1), (1, 2_000), (2_000, 3_001)):
        audio.append(tmp_path / "pieces.wav", samples[start:end])
        assert soundfile.info(tmp_path / "pieces.wav").frames == end
    assert (tmp_path / "pieces.wav").read_bytes() == (tmp_path / "whole.wav").read_bytes()


def test_appending_where_there_is_no_file(tmp_path):
    with pytest.raises(UserError, match=r"cannot write to '.*a\.wav'"):
        audio.append(tmp_path / "a.wav", np.zeros(5, np.float32))


def test_comment_of_what_is_no_audio(tmp_path):
    (tmp_path / "a.wav").write_text("text")
    with pytest.raises(audio.AudioError, match="not audio"):
        audio.read_comment(tmp_path / "a.wav")


@pytest.mark.parametrize("fails", ["write_bytes", "replace"])
def test_a_failed_write_is_the_users_to_mend_and_leaves_the_old_file(fails, tmp_path, monkeypatch):
    path = tmp_path / "a.wav"
    audio.write(path, np.full(10, 0.25, np.float32), 8_000)

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path if fails == "write_bytes" else os, fails, full)
    with pytest.raises(UserError, match=r"a\.wav.*No space left"):
        audio.write(path, np.zeros(20, np.float32), 8_000)
    monkeypatch.undo()
    np.testing.assert_array_equal(audio.read(path).samples[:, 0], np.full(10, 0.25, np.float32))
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.wav"]


def test_writing_into_a_missing_folder(tmp_path):
    with pytest.raises(UserError, match=r"cannot write to '.*nowhere/a\.wav'"):
        audio.write(tmp_path / "nowhere" / "a.wav", np.zeros(5, np.float32), 8_000)
