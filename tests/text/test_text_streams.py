"""Text and phones of clips as streams: what cannot be read is named, a lexicon changes words, espeak-ng is asked once."""

import dataclasses
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from jaxgen.audio import AudioError
from jaxgen.core.errors import UserError
from jaxgen.features import Example, LogMel, Phones, Text

FEATURES = LogMel(sample_rate=8_000, n_fft=256, hop_length=100, n_mels=10)
needs_espeak = pytest.mark.skipif(
    not (shutil.which("espeak-ng") or shutil.which("espeak")),
    reason="espeak-ng is not installed: apt install espeak-ng",
)


def said(stream: Text, values: np.ndarray) -> str:
    return "".join(stream.symbols[value] for value in values)


def test_a_text_is_read_as_it_is_spoken():
    text = Text(language="de")
    values = text.parse("Am 3. Mai um 9:45 Uhr", FEATURES)
    assert values.dtype == np.int32
    assert said(text, values) == "am dritten mai um neun uhr fünfundvierzig"
    clip = text.encode_clip(Example({"text": "Am 3. Mai um 9:45 Uhr"}, 0, np.zeros(0)), FEATURES)
    np.testing.assert_array_equal(clip, values)
    assert text.num_values == len(text.symbols)


def test_what_cannot_be_read_is_named_in_training_and_skipped_in_generation(capsys):
    text = Text()
    assert said(text, text.parse("Hi 🙂 there", FEATURES)) == "hi there"
    assert "'🙂' (U+1F642 slightly smiling face) cannot be read; skipped in the text" in capsys.readouterr().err
    with pytest.raises(AudioError, match=r"its text has '🙂' \(U\+1F642"):
        text.encode_clip(Example({"text": "Hi 🙂"}, 0, np.zeros(0)), FEATURES)
    with pytest.raises(UserError, match=r"text of 1 clips has symbols .*'a\.wav': 'Ж' \(U\+0416.*lexicon") as error:
        text.check_clips({"a.wav": {"text": "Ж"}, "b.wav": {"text": "fine"}, "c.wav": {}})
    assert "b.wav" not in str(error.value)


@pytest.mark.parametrize("written", ["", "  ", "🙂🙂", "...", "-", "“ ”", "\u200d", "\x00"])
def test_nothing_to_read_is_one_line(written):
    with pytest.raises(UserError, match="has no word to read; pass one with letters or numbers"):
        Text().parse(written, FEATURES)
    with pytest.raises(AudioError):
        Text().encode_clip(Example({"text": written}, 0, np.zeros(0)), FEATURES)


def test_spaces_capitals_and_quotes_make_no_difference():
    text = Text()
    assert said(text, text.parse("  HELLO “dear”   Friend \n", FEATURES)) == 'hello "dear" friend'


def test_a_lexicon_changes_words_and_stays_with_the_model(tmp_path):
    path = tmp_path / "words.tsv"
    path.write_text("# mine\nNguyen\twin\n\n🙂\tsmile\nC++\tsee plus plus\n", encoding="utf-8")
    text = Text(lexicon=str(path)).settled()
    assert said(text, text.parse("Mr. NGUYEN's C++, nguyen. 🙂", FEATURES)) == "mister win's see plus plus, win. smile"
    assert (text.lexicon, len(text.spellings)) == ("", 3)
    assert text.fingerprint() != Text().fingerprint()
    path.unlink()
    assert said(text, text.parse("Nguyen", FEATURES)) == "win"


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"a\tb\nword spelling\n", "line 2 is 'word spelling', expected one word, a tab and its spelling"),
        (b"a\t\n", "line 1 is"),
        (b"a b\tc\n", "line 1 is"),
        (b"a\tb\tc\n", "line 1 is"),
        (b"a\tb\n\nA\tc\n", "line 3 repeats the word of line 1"),
        (b"a\tb\n\xff\tc\n", "line 2 is not UTF-8"),
    ],
)
def test_a_broken_line_of_a_lexicon_is_named(tmp_path, content, problem):
    (tmp_path / "words.tsv").write_bytes(content)
    with pytest.raises(UserError, match=problem):
        Text(lexicon=str(tmp_path / "words.tsv")).settled()


def test_a_lexicon_that_is_not_there():
    with pytest.raises(UserError, match=r"the lexicon '/none\.tsv' cannot be read"):
        Text(lexicon="/none.tsv").settled()


def test_clips_whose_text_is_another_stand_out():
    lengths, seconds = [14 * length for length in range(1, 31)], [*range(1, 31)]
    assert Text().misfits(lengths, seconds) == {}
    assert [*Text().misfits([*lengths, 300], [*seconds, 60])] == [30]
    found = Text().misfits([*lengths, 300], [*seconds, 3])
    assert "100.0 characters a second, where the others have 14.0" in found[30]
    assert Text().misfits([1, 1000], [1, 1]) == {}


def test_phones_need_the_program(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="espeak-ng, which is not installed; install it"):
        Phones(cache_dir=str(tmp_path)).parse("hello", FEATURES)


def fake(folder: Path, script: str) -> None:
    program = folder / "espeak-ng"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)


@pytest.mark.parametrize(
    ("script", "problem"),
    [("echo broken >&2; exit 3", r"failed \(broken\)"), ("exec /bin/sleep 60", "took over"), ("echo 字", "U\\+5B57")],
)
def test_a_program_that_fails_is_one_line(monkeypatch, tmp_path, script, problem):
    fake(tmp_path, script)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setattr("jaxgen.text.phones._SECONDS", 0.5)
    with pytest.raises(UserError, match=problem):
        Phones(cache_dir=str(tmp_path)).parse("hello", FEATURES)


@needs_espeak
def test_phones_keep_the_pauses_and_are_asked_for_once(monkeypatch, tmp_path):
    phones = Phones(cache_dir=str(tmp_path))
    values = phones.parse("Hello, world 3 times!", FEATURES)
    spoken = said(phones, values)
    assert spoken.count(",") == 1
    assert spoken.endswith("!")
    assert "ˈ" in spoken
    monkeypatch.setenv("PATH", "")
    np.testing.assert_array_equal(phones.parse("Hello, world 3 times!", FEATURES), values)
    assert dataclasses.replace(phones, cache_dir="elsewhere").fingerprint() == phones.fingerprint()


@needs_espeak
@pytest.mark.parametrize("text", ["-v; rm -rf /", "--version", "$(touch made)", "`touch made`", "| touch made"])
def test_a_text_is_never_a_command(tmp_path, monkeypatch, text):
    monkeypatch.chdir(tmp_path)
    Phones(cache_dir=str(tmp_path / "cache")).parse(text, FEATURES)
    assert [path.name for path in tmp_path.iterdir()] == ["cache"]


@needs_espeak
def test_two_processes_share_a_cache(tmp_path):
    code = (
        "import pathlib, sys; from jaxgen.text import transcribe; "
        "print([transcribe(f'sentence {word}.', 'en-us', pathlib.Path(sys.argv[1])) for word in ('one', 'two', 'three')])"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, encoding="utf-8") for _ in range(2)]
    first, second = (process.communicate()[0] for process in both)
    assert [process.returncode for process in both] == [0, 0]
    assert first == second
    assert len([*(tmp_path / "phones").glob("*.txt")]) == len([*(tmp_path / "phones").iterdir()]) == 3
