"""Recordings that change or vanish while they are read: what is stored is what was hashed, and nothing passing is remembered."""

import contextlib
import errno
import os
import shutil

import numpy as np
import pytest
import soundfile

from jaxgen.audio import open_recording
from jaxgen.core.errors import TryAgain
from jaxgen.data import folder as folder_module
from jaxgen.data.folder import Folder
from jaxgen.data.ingest import AudioPolicy
from jaxgen.data.preparation import prepare
from jaxgen.features import MuLaw

FEATURES = MuLaw(sample_rate=8_000)


@pytest.fixture
def data(tmp_path) -> Folder:
    (tmp_path / "sound").mkdir()
    for index in range(4):
        soundfile.write(
            tmp_path / "sound" / f"{index}.wav", np.random.default_rng(index).uniform(-0.5, 0.5, 900), 8_000
        )
    return Folder(root=str(tmp_path / "sound"))


def replaced(path):
    """By other sound of the same length, and put back with its times."""
    shutil.copy2(path, path.with_suffix(".kept"))
    soundfile.write(path, np.full(900, 0.25), 8_000)


@pytest.mark.parametrize("put_back", [False, True])
def test_a_recording_that_changes_between_hashing_and_decoding_is_not_stored(put_back, data, tmp_path, monkeypatch):
    path = tmp_path / "sound" / "2.wav"
    expected = soundfile.read(path, dtype="float32")[0]

    @contextlib.contextmanager
    def open_other(name):
        if str(name) == str(path):
            replaced(path)
        with open_recording(name) as recording:
            yield recording
        if put_back and str(name) == str(path):
            shutil.copy2(path.with_suffix(".kept"), path)

    with monkeypatch.context() as patch:
        patch.setattr(folder_module.audio, "open_recording", open_other)
        with pytest.raises(TryAgain, match=r"'2\.wav' has changed while it was read"):
            prepare(data, FEATURES, AudioPolicy(), tmp_path / "cache")
    shutil.copy2(path.with_suffix(".kept"), path)
    path.with_suffix(".kept").unlink()
    store = prepare(data, FEATURES, AudioPolicy(), tmp_path / "cache")
    (clip,) = [index for index, each in enumerate(store.clips) if each.name == "2.wav"]
    np.testing.assert_allclose(store.samples(clip), expected, atol=1e-6)


@pytest.mark.parametrize("number", [errno.ELOOP, errno.EACCES, errno.ENOENT, errno.EIO])
def test_one_that_cannot_be_read_for_a_moment_is_not_refused_for_ever(number, data, tmp_path, monkeypatch):
    @contextlib.contextmanager
    def fails(name):
        if str(name).endswith("2.wav"):
            monkeypatch.setattr("jaxgen.audio.recordings.open_regular", raises)
        with open_recording(name) as recording:
            yield recording

    def raises(path):
        raise OSError(number, os.strerror(number), str(path))

    with monkeypatch.context() as patch:
        patch.setattr(folder_module.audio, "open_recording", fails)
        patch.setattr("jaxgen.core.files._WAITS", ())
        with pytest.raises(TryAgain, match="Run the same command again"):
            prepare(data, FEATURES, AudioPolicy(), tmp_path / "cache")
    monkeypatch.undo()
    store = prepare(data, FEATURES, AudioPolicy(), tmp_path / "cache")
    assert len(store.clips) == 4
    assert store.report["refused"] == []
