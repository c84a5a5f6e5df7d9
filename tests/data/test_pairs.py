"""Pairs of sound and text: the layouts that are read, splits by prompt, what is left out and cut."""

import os
from pathlib import Path

import numpy as np
import pytest
import soundfile

from jaxgen.core.errors import UserError
from jaxgen.data.clips import FieldHash
from jaxgen.data.folder import Folder
from jaxgen.data.ingest import AudioPolicy
from jaxgen.data.preparation import prepare
from jaxgen.features import LogMel, Text

RATE = 8_000
FEATURES = LogMel(sample_rate=RATE, n_fft=256, hop_length=100, n_mels=10)
CORPORA = Path(os.environ.get("JAXGEN_DATA", "/none"))
PROMPTS = [str(number) for number in range(200)]
TEXTS = [f"This is sentence number {number}, which is spoken slowly." for number in range(12)]


def speak(path: Path, seconds: float, seed: int = 0, level: float = 0.3, quiet: float = 0.0) -> None:
    """Noise of so many seconds, between two stretches of silence of `quiet` seconds."""
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.clip(np.random.default_rng(seed).normal(0, level, round(seconds * RATE)), -1, 1)
    silence = np.zeros(round(quiet * RATE))
    soundfile.write(path, np.concatenate([silence, noise, silence]), RATE)


def recorded(root: Path, folder: str = "") -> None:
    for number, text in enumerate(TEXTS):
        speak(root / folder / f"s{number}.wav", len(text) / 15, seed=number)


def texts(folder: Folder) -> list[str]:
    return [clip.fields["text"] for clip in sorted(folder.clips(), key=lambda clip: int(Path(clip.name).stem[1:]))]


def test_a_manifest(tmp_path):
    recorded(tmp_path)
    rows = "".join(f's{number}.wav,"{text}"\n' for number, text in enumerate(TEXTS))
    (tmp_path / "manifest.csv").write_text("path,text\n" + rows)
    assert texts(Folder(root=str(tmp_path))) == TEXTS


def test_texts_beside_the_sound(tmp_path):
    recorded(tmp_path, "sub")
    for number, text in enumerate(TEXTS):
        (tmp_path / "sub" / f"s{number}.txt").write_text(f"{text}\n")
    (tmp_path / "notes.txt").write_text("nothing")
    folder = Folder(root=str(tmp_path))
    assert texts(folder) == TEXTS
    assert [name for name, _ in folder.list_skipped()] == ["notes.txt"]
    (tmp_path / "sub" / "s3.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(UserError, match=r"the text 'sub/s3\.txt' cannot be read .*save it as UTF-8"):
        folder.clips()


@pytest.mark.parametrize("folder", ["wavs", ""])
def test_metadata_as_that_of_ljspeech(tmp_path, folder):
    recorded(tmp_path, folder)
    metadata = tmp_path / "metadata.csv"
    metadata.write_text("".join(f's{number}|{text} "so"|spoken {text}\n' for number, text in enumerate(TEXTS)))
    clips = Folder(root=str(tmp_path)).clips()
    assert len(clips) == 12
    assert not any(clip.refused for clip in clips)
    assert clips[1].fields["text"] == f'{TEXTS[1]} "so"'
    assert clips[1].fields["normalised_text"] == f"spoken {TEXTS[1]}"
    metadata.write_text("".join(f"s{number}|{text}\n" for number, text in enumerate(TEXTS)))
    assert texts(Folder(root=str(tmp_path))) == TEXTS
    metadata.write_text("".join(f"s{number}|{text}|3.5\n" for number, text in enumerate(TEXTS)))
    assert Folder(root=str(tmp_path)).clips()[0].fields["seconds"] == "3.5"
    folder_of = Folder(root=str(tmp_path), columns="path,text,level")
    assert folder_of.clips()[0].fields["level"] == "3.5"
    metadata.write_text("s0|a\ns1|b|c\n")
    with pytest.raises(UserError, match=r"metadata\.csv, line 2 has 3 cells between '\|', expected 2 \(path, text\)"):
        Folder(root=str(tmp_path)).clips()


def test_a_metadata_that_names_no_files_is_no_manifest(tmp_path):
    recorded(tmp_path)
    (tmp_path / "metadata.csv").write_text("file_name,text\ns0.wav,hello\n")
    folder = Folder(root=str(tmp_path))
    assert len(folder.clips()) == 12
    assert [name for name, _ in folder.list_skipped()] == ["metadata.csv"]


def test_takes_of_one_prompt_stay_together():
    rule = FieldHash("prompt", 0.3)
    found = {
        prompt: {rule.matches({"prompt": prompt}, digest) for digest in ("00" * 32, "ff" * 32)}
        for prompt in map(str, range(200))
    }
    assert all(len(splits) == 1 for splits in found.values())
    assert 30 < sum(True in splits for splits in found.values()) < 90
    other = FieldHash("prompt", 0.3).exclude(rule)
    assert not any(other.matches({"prompt": prompt}, "") and rule.matches({"prompt": prompt}, "") for prompt in found)
    with pytest.raises(UserError, match="decided by the field 'prompt', but a clip has only text"):
        rule.matches({"text": "a"}, "")
    with pytest.raises(UserError, match="fraction is 1"):
        FieldHash("prompt", 1.0)


def test_what_does_not_fit_is_left_out_with_its_reason(tmp_path, cache):
    recorded(tmp_path)
    speak(tmp_path / "a.wav", 40)
    (tmp_path / "a.txt").write_text("Much too short a text for this.")
    speak(tmp_path / "b.wav", 3, level=1.0)
    (tmp_path / "b.txt").write_text("It is clipped at both ends of its range.")
    speak(tmp_path / "c.wav", 3, level=1e-5)
    speak(tmp_path / "d.wav", 70)
    speak(tmp_path / "e.wav", 2)
    for name in "cd":
        (tmp_path / f"{name}.txt").write_text("A text.")
    for number, text in enumerate(TEXTS):
        (tmp_path / f"s{number}.txt").write_text(text)
    policy = AudioPolicy(max_clipped=0.01, max_seconds=60)
    store = prepare(Folder(root=str(tmp_path)), FEATURES, policy, cache, {"text": Text()})
    reasons = {entry["name"]: entry["reason"] for entry in store.report["refused"]}
    assert reasons.keys() == {"a.wav", "b.wav", "c.wav", "d.wav", "e.wav"}
    for name, said in (
        ("a", "characters a second"),
        ("b", "clipped"),
        ("c", "silent"),
        ("d", "longer"),
        ("e", "no text"),
    ):
        assert said in reasons[f"{name}.wav"]
    store.verify()
    for clip, entry in enumerate(store.clips):
        assert "".join(Text().symbols[value] for value in store.stream("text", clip)).startswith("this is sentence")
        assert len(store.samples(clip)) == entry.num_samples
    assert 12 < store.report["streams"]["text"]["values_a_second"]["median"] < 20


def test_quiet_ends_are_cut_and_counted(tmp_path, cache):
    for number in range(3):
        speak(tmp_path / f"{number}.wav", 1.0, seed=number, quiet=0.5)
    store = prepare(Folder(root=str(tmp_path)), FEATURES, AudioPolicy(trim_dbfs=-50), cache)
    assert [entry.num_samples / RATE for entry in store.clips] == pytest.approx([1.1] * 3, abs=0.01)
    assert store.report["trimmed"]["clips"] == 3
    assert store.report["trimmed"]["seconds"] == pytest.approx(2.7, abs=0.02)


@pytest.mark.parametrize(
    ("name", "options", "language"),
    [
        ("kathleen", {"validation": FieldHash("prompt")}, "en"),
        ("kerstin", {"columns": "path,text,seconds"}, "de"),
    ],
)
def test_both_corpora(name, options, language, tmp_path, cache):
    if not (CORPORA / name).is_dir():
        pytest.skip("JAXGEN_DATA holds no such corpus")
    clips = Folder(root=str(CORPORA / name), **options).clips()
    assert len(clips) > 1_000
    text = Text(language=language)
    text.check_clips({clip.name: clip.fields for clip in clips})
    assert all(clip.fields["text"] and not clip.refused for clip in clips)
    for clip in clips[:12]:
        os.makedirs(tmp_path / "wavs", exist_ok=True)
        (tmp_path / "wavs" / Path(clip.name).name).symlink_to(CORPORA / name / clip.name)
        (tmp_path / "wavs" / f"{Path(clip.name).stem}.txt").write_text(clip.fields["text"])
    store = prepare(Folder(root=str(tmp_path)), FEATURES, AudioPolicy(trim_dbfs=-50), cache, {"text": text})
    assert len(store.clips) == 12
