"""Folders of sound: which files are clips, their fields, and their splits."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

from jaxgen.audio import AudioError
from jaxgen.core.errors import UserError
from jaxgen.data.clips import FieldIn, HashFraction
from jaxgen.data.folder import Folder


def record(path: Path, seed: int = 0, sample_rate: int = 8_000) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.random.default_rng(seed).uniform(-0.5, 0.5, 400), sample_rate)


def recorded(root: Path, *names: str) -> str:
    for seed, name in enumerate(names):
        record(root / name, seed)
    return str(root)


def fields_of(folder: Folder) -> dict[str, dict[str, str]]:
    return {clip.name: dict(clip.fields) for clip in folder.clips()}


def test_every_audio_file_below_the_root_in_order(tmp_path):
    root = recorded(tmp_path, "b.wav", "a.flac", "deep/er/c.ogg", "deep/D.WAV", ".hidden.wav", ".trash/e.wav")
    (tmp_path / "notes.txt").write_text("not sound")
    clips = Folder(root=root).clips()
    assert [clip.name for clip in clips] == ["a.flac", "b.wav", "deep/D.WAV", "deep/er/c.ogg"]
    assert clips[1].digest() == hashlib.sha256((tmp_path / "b.wav").read_bytes()).hexdigest()
    assert clips[3].load().samples.shape[1] == 1


def test_pattern_names_fields(tmp_path):
    root = recorded(tmp_path, "7_jackson_32.wav", "sub/0_theo_1.wav")
    assert fields_of(Folder(root=root, pattern="{digit}_{speaker}_{index}", licence="CC0")) == {
        "7_jackson_32.wav": {"digit": "7", "speaker": "jackson", "index": "32", "licence": "CC0"},
        "sub/0_theo_1.wav": {"digit": "0", "speaker": "theo", "index": "1", "licence": "CC0"},
    }


def test_pattern_with_a_slash_describes_the_path(tmp_path):
    root = recorded(tmp_path, "cello/a+1.wav")
    fields = fields_of(Folder(root=root, pattern="{instrument}/{name}+{take}"))["cello/a+1.wav"]
    assert (fields["instrument"], fields["name"], fields["take"]) == ("cello", "a", "1")


def test_unmatched_names_are_refused_or_unlabelled(tmp_path):
    root = recorded(tmp_path, "1_a.wav", "noise.wav")
    refused = {clip.name: clip.refused for clip in Folder(root=root, pattern="{digit}_{who}").clips()}
    assert refused == {"1_a.wav": "", "noise.wav": "name is not {digit}_{who}"}
    taken = Folder(root=root, pattern="{digit}_{who}", unmatched="unlabelled").clips()
    assert [clip.refused for clip in taken] == ["", ""]
    assert "digit" not in taken[1].fields


@pytest.mark.parametrize("pattern", ["{a}_{a}", "{1}_x"])
def test_unusable_pattern(pattern, tmp_path):
    with pytest.raises(UserError, match=r"data\.pattern is .*write \{name\}"):
        Folder(root=recorded(tmp_path, "a.wav"), pattern=pattern).clips()


ROWS = [
    {"path": "b.wav", "word": "no, never", "split": "test", "licence": "CC0"},
    {"path": "sub/a.wav", "word": "two\nlines", "split": "", "licence": ""},
]


def write_manifest(root: Path, kind: str) -> None:
    if kind == "csv":
        quoted = [",".join(f'"{cell}"' for cell in row.values()) for row in ROWS]
        lines = "\n".join([",".join(ROWS[0]), *quoted, ""])
        (root / "manifest.csv").write_text(f"\ufeff\ufeff\u200b{lines}", encoding="utf-8")
    else:
        (root / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n\n" for row in ROWS))


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_manifest_decides_files_fields_splits_and_licences(kind, tmp_path):
    root = recorded(tmp_path, "b.wav", "sub/a.wav", "unlisted.wav")
    write_manifest(tmp_path, kind)
    folder = Folder(root=root, validation=HashFraction(0.0), licence="ask me")
    found = fields_of(folder)
    assert list(found) == ["b.wav", "sub/a.wav"]
    assert found["b.wav"]["word"] == "no, never"
    assert found["sub/a.wav"]["word"] == "two\nlines"
    assert (found["b.wav"]["licence"], found["sub/a.wav"]["licence"]) == ("CC0", "ask me")
    assert [folder.split_of(fields, "0" * 64) for fields in found.values()] == ["test", "train"]


def test_manifest_may_name_a_file_that_is_not_there(tmp_path):
    root = recorded(tmp_path, "a.wav")
    (tmp_path / "manifest.csv").write_text("path\na.wav\ngone.wav\n")
    _, gone = Folder(root=root).clips()
    for read in (gone.digest, gone.load):
        with pytest.raises(AudioError, match="no such file"):
            read()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("manifest.csv", b"file,word\na.wav,x\n", "line 1 has no `path`.*rename `file` to `path`"),
        ("manifest.csv", b"path,word\na.wav,x\na.wav,y\n", "line 3 repeats the path"),
        ("manifest.csv", b"path,word\na.wav,x,y\n", "line 2 has 3 cells, expected 2"),
        ("manifest.csv", b'path,word\na.wav,"x\n', "line 2 is not CSV"),
        ("manifest.csv", b"path,word\na.wav,\xe9\n", "cannot be read as UTF-8"),
        ("manifest.csv", b"", "names no file"),
        ("manifest.csv", b"path,split\na.wav,eval\n", "split of 'a.wav' is 'eval'"),
        ("manifest.jsonl", b'{"path": "a.wav"}\n{"path": \n', "line 2 is not JSON"),
        ("manifest.jsonl", b'{"word": "x"}\n', "line 1 has no `path`"),
        ("manifest.jsonl", b'"a.wav"\n', "line 1 is not a JSON object"),
        ("manifest.jsonl", b'{"path": ["a.wav"]}\n', "line 1 is not a JSON object"),
    ],
)
def test_unusable_manifest_names_the_line(name, content, message, tmp_path):
    root = recorded(tmp_path, "a.wav")
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message):
        Folder(root=root).clips()


def test_line_separators_inside_json_are_text(tmp_path):
    root = recorded(tmp_path, "a.wav")
    row = {"path": "a.wav", "text": "one\u2028two"}
    (tmp_path / "manifest.jsonl").write_text(json.dumps(row, ensure_ascii=False), encoding="utf-8")
    assert fields_of(Folder(root=root))["a.wav"]["text"] == "one\u2028two"


@pytest.mark.parametrize("root", ["", "nowhere"])
def test_missing_folder(root, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=rf"no folder '{root}'.*--data\.root"):
        Folder(root=root).clips()


def test_folder_without_audio_counts_what_is_there(tmp_path):
    for name in ("a.txt", "b.pdf"):
        (tmp_path / name).write_text("x")
    with pytest.raises(UserError, match=r"no audio in .*\(2 files, none .*\.wav"):
        Folder(root=str(tmp_path)).clips()


def test_rules_decide_where_the_manifest_does_not(tmp_path):
    folder = Folder(validation=FieldIn("index", range(5, 10)), test=FieldIn("speaker", ("theo",)))
    assert folder.split_of({"index": "7", "speaker": "anna"}, "") == "validation"
    assert folder.split_of({"index": "7", "speaker": "theo"}, "") == "test"
    assert folder.split_of({"index": "1", "speaker": "anna"}, "") == "train"
    assert folder.split_of({"index": "1", "speaker": "theo", "split": "Valid"}, "") == "validation"
    with pytest.raises(UserError, match="the field 'index', but a clip has only"):
        folder.split_of({"speaker": "anna"}, "")


def test_hashed_splits_stay_when_files_come_go_and_are_renamed(tmp_path):
    def splits(folder: Folder) -> dict[str, str]:
        return {clip.digest(): folder.split_of(clip.fields, clip.digest()) for clip in folder.clips()}

    folder = Folder(root=recorded(tmp_path, *(f"{i}.wav" for i in range(60))), validation=HashFraction(0.3))
    before = splits(folder)
    assert 8 <= list(before.values()).count("validation") <= 28  # 18 expected, 3 standard deviations
    (tmp_path / "0.wav").unlink()
    (tmp_path / "1.wav").rename(tmp_path / "zzz.wav")
    for seed in range(100, 110):
        record(tmp_path / f"new{seed}.wav", seed)
    after = splits(folder)
    assert len(after) == 69
    assert all(before[digest] == split for digest, split in after.items() if digest in before)
