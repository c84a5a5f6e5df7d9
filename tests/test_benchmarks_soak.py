"""The load benchmark prepares what it says, and its slopes are those of what it saw."""

import json

import numpy as np
import pytest
import soundfile

from benchmarks import soak
from benchmarks.hostile import write_hostile
from benchmarks.processes import resident_bytes
from jaxgen.audio import AudioError
from jaxgen.data.folder import Folder

pytestmark = [pytest.mark.slow, pytest.mark.nightly]


def test_preparing_is_measured_and_recorded(tmp_path, capsys):
    options = ["--parts", "long-file", "--hours", "0.02", "--history", str(tmp_path / "history.jsonl")]
    (row,) = soak.main([*options, "--record"])
    assert (row["part"], row["files"]) == ("long-file", 1)
    assert row["hours"] == pytest.approx(1 / 60, rel=1e-3)
    counted = resident_bytes(peak=True) / 2**30  # by Linux, as the peak of what this process starts, too
    assert 0 < row["peak_gib"] <= max(2, counted)
    assert row["hours_per_minute"] == pytest.approx(row["hours"] / row["seconds"] * 60, rel=1e-3)
    (recorded,) = (json.loads(line) for line in (tmp_path / "history.jsonl").read_text().splitlines())
    assert {name: recorded[name] for name in row} == row
    assert "hours_per_minute" in capsys.readouterr().out


def test_short_files_are_as_many_as_asked(tmp_path):
    hours = soak._write_short_files(tmp_path, soak.Options(files=1_002))
    seconds = [soundfile.info(path).duration for path in tmp_path.rglob("*.wav")]
    assert len(seconds) == 1_002
    assert sum(seconds) == pytest.approx(3_600 * hours)


def test_slopes_leave_out_the_warm_up_and_single_peaks():
    seconds = np.arange(0, 1000, 2.0)
    steps = 10 * seconds
    memory = 1e9 + 3e6 * steps / 1000
    memory[seconds < 150] *= 0.5
    memory[300] = 4e9
    files, threads = 12 + (seconds > 500), np.full_like(seconds, 30)
    samples = np.stack([seconds, steps, seconds / 4, memory, memory - 5e8, files, threads], axis=1)
    figures = soak._figures(samples, steps_per_epoch=500)
    assert figures["resident_mb_per_1000_steps"] == pytest.approx(3, rel=1e-3)
    assert figures["anonymous_mb_per_epoch"] == pytest.approx(1.5, rel=1e-3)
    assert figures["epochs"] == pytest.approx(9980 / 500)
    assert figures["rate_drift"] == pytest.approx(0, abs=1e-6)
    assert figures["open_files"] == "12 to 13, at the end 13"
    assert figures["steps_per_cpu_s_last_third"] == pytest.approx(40)
    samples[seconds > 500, 1] = samples[seconds == 500, 1] + 5 * (seconds[seconds > 500] - 500)
    assert soak._figures(samples, 500)["rate_drift"] == pytest.approx(-0.5, abs=1e-3)


def test_hostile_recordings_are_of_all_kinds_and_the_same_for_a_seed(tmp_path):
    contents = []
    for place in ("a", "b"):
        (tmp_path / place).mkdir()
        count = write_hostile(tmp_path / place, 0.05)
        files = sorted((tmp_path / place).iterdir())
        assert len(files) == count
        contents.append({path.name: path.stat().st_size for path in files})
    assert contents[0] == contents[1]
    read, reasons = set(), set()
    for clip in Folder(root=str(tmp_path / "a")).clips():
        try:
            waveform = clip.load()
            read.add(
                (waveform.sample_rate, waveform.samples.shape[1], soundfile.info(tmp_path / "a" / clip.name).subtype)
            )
        except AudioError as reason:
            reasons.add(str(reason).partition(":")[0])
    assert len({rate for rate, _, _ in read}) > 4
    assert {channels for _, channels, _ in read} == {1, 2, 6}
    assert len({subtype for _, _, subtype in read}) > 4
    assert {"NaN or infinite samples", "not audio, or damaged"} <= reasons
