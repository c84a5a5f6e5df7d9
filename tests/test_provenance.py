"""Generated files say that they are: in their own metadata and beside it, whatever interrupts the writing."""

import dataclasses
import json
import os
import wave
from pathlib import Path

import numpy as np
import pytest

from jaxgen import __version__, audio
from jaxgen.core.errors import UserError
from jaxgen.provenance import record as provenance

CLIP = np.linspace(-0.5, 0.5, 800, dtype=np.float32)
MARK = provenance.Provenance(
    model="MelRNN",
    checkpoint="digits/6000",
    config_sha256="a" * 64,
    data_manifest_sha256="b" * 64,
    licences=("CC-BY-4.0", "CC0-1.0"),
    seed=7,
    clip=3,
    labels={"digit": "7", "speaker": "zoë"},
    prompt='"so" <it> begins',
    vocoder="voices/100",
    soundfont="organ.sf2",
)
CONTENT = {
    "synthetic": True,
    "generator": f"jaxgen {__version__}",
    "model": "MelRNN",
    "checkpoint": "digits/6000",
    "config_sha256": "a" * 64,
    "data_manifest_sha256": "b" * 64,
    "licences": ["CC-BY-4.0", "CC0-1.0"],
    "seed": 7,
    "clip": 3,
    "labels": {"digit": "7", "speaker": "zoë"},
    "prompt": '"so" <it> begins',
    "vocoder": "voices/100",
    "soundfont": "organ.sf2",
}


def test_the_mark_is_in_the_file_and_beside_it(tmp_path: Path):
    path = tmp_path / "clip.1.wav"
    provenance.mark(path, CLIP, 8_000, MARK)
    assert provenance.read(path) == CONTENT
    assert json.loads((tmp_path / "clip.1.json").read_text("utf-8")) == CONTENT
    assert sorted(file.name for file in tmp_path.iterdir()) == ["clip.1.json", "clip.1.wav"]
    with wave.open(str(path)) as file:  # other programs still read the sound
        assert (file.getframerate(), file.getnframes()) == (8_000, 800)
    np.testing.assert_allclose(audio.read(path).samples[:, 0], CLIP, atol=1 / 32768)


def test_the_mark_inside_is_where_any_wav_reader_finds_comments(tmp_path: Path):
    provenance.mark(tmp_path / "clip.wav", CLIP, 8_000, MARK)
    content = (tmp_path / "clip.wav").read_bytes()
    at = content.index(b"ICMT")
    size = int.from_bytes(content[at + 4 : at + 8], "little")
    assert json.loads(content[at + 8 : at + 8 + size].rstrip(b"\0")) == CONTENT


@pytest.mark.parametrize(
    "long",
    [
        {"prompt": "ä" * 5_000},
        {"licences": tuple(f"licence {i}" for i in range(500))},
        {"labels": {f"label{i}": "value" for i in range(300)}},
        {"checkpoint": "ß" * 250 + "/1", "prompt": "x" * 1_500},
        {"vocoder": "ß" * 250 + "/1", "checkpoint": "ß" * 250 + "/1"},
    ],
    ids=lambda long: next(iter(long)),
)
def test_what_is_too_long_for_a_wav_stands_beside_it(tmp_path: Path, long: dict):
    path = tmp_path / "clip.wav"
    provenance.mark(path, CLIP, 8_000, dataclasses.replace(MARK, **long))
    inside = provenance.read(path)
    beside = json.loads(path.with_suffix(".json").read_text("utf-8"))
    assert inside is not None
    shortened = {name for name in inside if inside[name] != beside[name]}
    assert shortened <= {"prompt", "labels", "licences", "checkpoint", "vocoder"}
    assert all(inside[name] == "in the JSON file beside this one" for name in shortened)
    assert all(beside[name] == (list(value) if name == "licences" else value) for name, value in long.items())


def test_the_same_clip_gives_the_same_bytes(tmp_path: Path):
    for name in ("a", "b"):
        provenance.mark(tmp_path / f"{name}.wav", CLIP, 8_000, MARK)
    for suffix in (".wav", ".json"):
        assert (tmp_path / f"a{suffix}").read_bytes() == (tmp_path / f"b{suffix}").read_bytes()


def test_no_wav_is_left_without_its_json(tmp_path: Path, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    path = tmp_path / "clip.wav"
    monkeypatch.setattr(os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        provenance.mark(path, CLIP, 8_000, MARK)
    assert list(tmp_path.iterdir()) == []

    monkeypatch.undo()
    monkeypatch.setattr(provenance.audio, "write", interrupted)
    with pytest.raises(KeyboardInterrupt):
        provenance.mark(path, CLIP, 8_000, MARK)
    assert [file.name for file in tmp_path.iterdir()] == ["clip.json"]


def test_a_folder_that_is_not_there_is_the_user_s_mistake(tmp_path: Path):
    with pytest.raises(UserError, match="cannot write to"):
        provenance.mark(tmp_path / "missing" / "clip.wav", CLIP, 8_000, MARK)


@pytest.mark.parametrize("comment", ["", "made by hand", "[1]", '{"synthetic": false}'])
def test_other_recordings_carry_no_mark(tmp_path: Path, comment: str):
    audio.write(tmp_path / "clip.wav", CLIP, 8_000, comment=comment)
    assert provenance.read(tmp_path / "clip.wav") is None


def test_synthetic_cannot_be_unsaid():
    with pytest.raises((TypeError, ValueError)):
        dataclasses.replace(MARK, synthetic=False)
