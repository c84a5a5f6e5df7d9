"""Recordings become samples and steps block by block, and how they are cut into blocks changes nothing."""

import concurrent.futures
import itertools
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jaxgen import audio
from jaxgen.audio import recordings
from jaxgen.core.files import partial_folder
from jaxgen.data import ingest
from jaxgen.data.folder import Folder
from jaxgen.data.ingest import AudioPolicy, Encoder, decode_clips
from jaxgen.data.preparation import prepare
from jaxgen.features import LogMel, MuLaw

MEL = LogMel(sample_rate=8_000, n_fft=128, hop_length=40, n_mels=10)
ODD = LogMel(sample_rate=8_000, n_fft=101, hop_length=33, n_mels=5, win_length=77)
WAVE = MuLaw(sample_rate=8_000)

repeatedly = settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def noise(num_samples: int, channels: int = 1, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-0.5, 0.5, (num_samples, channels)).astype(np.float32)


@pytest.fixture
def root(tmp_path):
    """An empty folder for recordings."""
    folder = tmp_path / "sound"
    folder.mkdir()
    return folder


@pytest.mark.parametrize("features", [MEL, ODD, WAVE], ids=["mel", "odd mel", "mu-law"])
@repeatedly
@given(num_samples=st.integers(1, 6_000), cuts=st.lists(st.integers(0, 6_000), max_size=5))
def test_steps_of_blocks_are_the_steps_of_the_whole(features, num_samples, cuts, monkeypatch):
    monkeypatch.setattr(ingest, "_BLOCK", 1_024)
    samples = noise(num_samples)[:, 0]
    encode = Encoder(features)
    places = [0, *sorted(min(cut, num_samples) for cut in cuts), num_samples]
    pieces = [samples[start:end] for start, end in itertools.pairwise(places)]
    steps = [step for i, piece in enumerate(pieces) for step in encode(piece, is_last=i == len(pieces) - 1)]
    expected = np.asarray(features.encode(np.pad(samples, (0, 6_000 - num_samples))))[: features.num_steps(num_samples)]
    np.testing.assert_allclose(np.concatenate(steps), expected, rtol=1e-5, atol=1e-5)


@repeatedly
@given(
    num_samples=st.integers(100, 20_000),
    channels=st.integers(1, 6),
    rate=st.sampled_from([8_000, 11_025, 44_100, 48_000]),
    block=st.sampled_from([512, 1_000, 4_096]),
    suffix=st.sampled_from(["wav", "flac", "ogg", "mp3"]),
)
def test_blocks_hold_the_samples_of_the_whole(num_samples, channels, rate, block, suffix, tmp_path, monkeypatch):
    channels = min(channels, 2) if suffix == "mp3" else channels
    path = tmp_path / f"a.{suffix}"
    soundfile.write(path, noise(num_samples, channels), rate)
    whole, _ = soundfile.read(path, dtype="float32", always_2d=True)
    (expected,) = [*audio.resample([whole.mean(axis=1, dtype=np.float32)], rate, rate)]
    expected = np.concatenate([*audio.resample([expected], rate, 8_000)])
    monkeypatch.setattr(recordings, "_BLOCK_VALUES", block)
    monkeypatch.setattr(ingest, "_BLOCK", block)
    (clip,) = Folder(root=str(tmp_path)).clips()
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        (blocks,) = [list(blocks) for blocks in decode_clips([clip], WAVE, AudioPolicy(min_seconds=0.0), pool)]
    path.unlink()
    assert [len(each.samples) for each in blocks[:-1]] == [block] * (len(blocks) - 1)
    assert [each.is_last for each in blocks] == [False] * (len(blocks) - 1) + [True]
    np.testing.assert_allclose(np.concatenate([each.samples for each in blocks]), expected, atol=1e-6)


def test_a_long_clip_between_short_ones_and_one_refused_at_its_end(root, tmp_path, monkeypatch):
    sound = {"a": noise(900), "b": noise(20_000, 2, seed=1), "d": noise(1_000, seed=2), "e": noise(4_000, seed=3)}
    for name, samples in sound.items():
        soundfile.write(root / f"{name}.wav", samples, 8_000, subtype="FLOAT")
    soundfile.write(root / "c.wav", np.append(noise(20_000), np.nan), 8_000, subtype="FLOAT")
    expected = prepare(Folder(root=str(root)), MEL, AudioPolicy(), tmp_path / "whole")
    monkeypatch.setattr(recordings, "_BLOCK_VALUES", 1_000)
    monkeypatch.setattr(ingest, "_BLOCK", 2_048)
    store = prepare(Folder(root=str(root)), MEL, AudioPolicy(), tmp_path / "blocks")
    assert [entry["name"] for entry in store.report["refused"]] == ["c.wav"]
    assert [clip.name for clip in store.clips] == ["a.wav", "b.wav", "d.wav", "e.wav"]
    for index, (ours, theirs) in enumerate(zip(store.clips, expected.clips, strict=True)):
        assert ours.loudness_dbfs == pytest.approx(theirs.loudness_dbfs)
        np.testing.assert_array_equal(store.samples(index), expected.samples(index))
        np.testing.assert_allclose(store.steps(index), expected.steps(index), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(store.spec(()).mean, expected.spec(()).mean, rtol=1e-5)
    np.testing.assert_allclose(store.spec(()).std, expected.spec(()).std, rtol=1e-5)


@pytest.mark.parametrize("damage", ["samples.bin", "steps.bin", "index.json", "gone"])
def test_a_store_that_is_not_whole_is_made_anew(damage, root, tmp_path):
    soundfile.write(root / "a.wav", noise(2_000), 8_000)
    data, cache = Folder(root=str(root)), tmp_path / "cache"
    directory = prepare(data, MEL, AudioPolicy(), cache).directory
    before = {path.name: path.read_bytes() for path in directory.iterdir()}
    if damage == "gone":
        (directory / "steps.bin").unlink()
    else:
        (directory / damage).write_bytes(before[damage][:-9])
    prepare(data, MEL, AudioPolicy(), cache).verify()
    assert {path.name: path.read_bytes() for path in directory.iterdir()} == before


KILLED = """
import os, signal, sys
from pathlib import Path
from jaxgen.core.files import partial_folder
with partial_folder(Path(sys.argv[1])) as folder:
    (folder / "samples.bin").write_bytes(b"half")
    print(folder, flush=True)
    sys.stdin.read() or os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_a_killed_process_left_is_removed_and_what_a_living_one_makes_is_not(tmp_path):
    parent = tmp_path / "store"
    command = [sys.executable, "-c", KILLED, str(parent)]
    environment = os.environ | {"PYTHONPATH": str(Path(audio.__file__).parent.parent.parent)}
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        theirs = Path(process.stdout.readline().strip())
        with partial_folder(parent) as ours:
            assert {*parent.iterdir()} == {theirs, ours}
        assert [*parent.iterdir()] == [theirs]
        process.stdin.close()
        assert process.wait() == -signal.SIGKILL
    assert (theirs / "samples.bin").read_bytes() == b"half"
    with partial_folder(parent) as ours:
        assert [*parent.iterdir()] == [ours]
    assert [*parent.iterdir()] == []
