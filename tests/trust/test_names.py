"""Names, labels, manifests and splits: one spelling, said faults, linear time."""

import json
import os
import re
import time
import unicodedata
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from jaxgen.cli import prepare
from jaxgen.core.errors import UserError
from jaxgen.core.names import display_name
from jaxgen.data import manifest, pattern
from jaxgen.data.clips import FieldIn, HashFraction, parse_split
from jaxgen.data.folder import Folder
from jaxgen.data.public import SpeakerShare
from jaxgen.data.spec import DataSpec
from jaxgen.features import MuLaw

NFC, NFD = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))
WAVE = MuLaw(sample_rate=8_000)


def record(root: Path, *names: str) -> Path:
    for seed, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(
            os.fsencode(root / name), np.random.default_rng(seed).uniform(-0.5, 0.5, 400), 8_000, format="WAV"
        )
    return root


def rows(root: Path, text: str, name: str = "manifest.csv") -> dict[str, dict[str, str]]:
    root.mkdir(exist_ok=True)
    (root / name).write_text(text, encoding="utf-8")
    return manifest.read(root / name)


letters = st.text("ab_-/+.", max_size=12)


@given(literals=st.lists(st.text("ab_-/", max_size=3), min_size=1, max_size=5), name=letters)
@example(["", "_", "_", "_", "_", ""], "_" * 12)
@example(["", "a/", "_", ""], "aa/a/b_c")
def test_a_pattern_matches_as_the_regular_expression_does(literals, name):
    assume("." not in name)
    text = "".join(f"{literal}{{f{i}}}" for i, literal in enumerate(literals[:-1])) + literals[-1]
    assume(text)
    expression = "".join(f"{re.escape(literal)}(?P<f{i}>[^/]+?)" for i, literal in enumerate(literals[:-1]))
    subject = name if "/" in text else name.rsplit("/", 1)[-1]
    match = re.fullmatch(expression + re.escape(literals[-1]), subject)
    assert pattern.parse(text).fields(name) == (None if match is None else match.groupdict())


@pytest.mark.parametrize(
    ("written", "said"), [("", "it is empty"), ("{a}_{b}.wav", "leave out .wav: the suffix does not count")]
)
def test_a_pattern_that_matches_nothing_is_told(written, said):
    with pytest.raises(UserError, match=said):
        pattern.parse(written)


def test_a_field_in_other_letters_is_named():
    for written, meant in (("Split", "split"), ("license", "licence"), ("PATH", "path")):
        with pytest.raises(UserError, match=rf"write {{{meant}}} for {{{written}}}"):
            pattern.parse(f"{{{written}}}/{{id}}")


def test_a_manifest_of_another_name_or_place_is_told(tmp_path):
    root = record(tmp_path, "a.wav")
    (root / "sub").mkdir()
    for name in ("manifest.tsv", "Manifest.csv", "sub/manifest.csv"):
        (root / name).write_text("path\na.wav\n")
    reasons = dict(Folder(root=str(root)).list_skipped())
    assert all("a manifest is named manifest.csv" in reasons[name] for name in ("manifest.tsv", "Manifest.csv"))
    assert "stands in the folder itself" in reasons["sub/manifest.csv"]


@pytest.mark.parametrize("name", ["_" * 100_000, "_" * 100_000 + "/", "ab" * 50_000, "a_" * 50_000 + "b"])
def test_a_long_name_takes_no_time(name):
    begin = time.process_time()
    for text in (
        "{a}_{b}_{c}_{d}_{e}",
        "{a}{b}{c}{d}{e}x",
        "{a}_{b}/{c}_{d}/{e}",
        "_".join(f"{{f{i}}}" for i in range(99)) + "!",
    ):
        pattern.parse(text).fields(name)
    assert time.process_time() - begin < 5  # seconds; by trial and error it would be years


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_accents_have_one_spelling(form, tmp_path):
    root = record(tmp_path / "data", f"{NFC}_1.wav", f"{NFD}_2.wav")
    data = Folder(
        root=str(root), pattern="{word}_{id}", validation=FieldIn("word", (unicodedata.normalize(form, NFC),))
    )
    clips = data.clips()
    assert {clip.fields["word"] for clip in clips} == {NFC}
    assert all(data.split_of(clip.fields, clip.digest()) == "validation" for clip in clips)
    assert all(clip.load().sample_rate == 8_000 for clip in clips)
    spec = DataSpec(WAVE, vocabularies=(("word", (unicodedata.normalize(form, NFC), "tea")),))
    for value in (NFC, NFD):
        assert spec.label_index("word", value) == 1
        assert spec.label_shares("word", f"{value}:3,tea:1").tolist() == [0, 0.75, 0.25]
        assert spec.label_indices("word", [value]).tolist() == [1]


@pytest.mark.parametrize(("written", "on_disk"), [(NFC, NFD), (NFD, NFC)])
def test_a_manifest_may_spell_accents_otherwise_than_the_files(written, on_disk, tmp_path):
    root = record(tmp_path / "data", f"{on_disk}/{on_disk}.wav")
    rows(root, f"path,{NFD}\n{written}/{written}.wav,{NFD}\n")
    (clip,) = Folder(root=str(root)).clips()
    assert (clip.load().sample_rate, clip.fields[NFC]) == (8_000, NFC)
    rows(root, f"path\n{NFC}/{NFC}.wav\n{NFD}/{NFD}.wav\n")
    with pytest.raises(UserError, match="names a file twice"):
        Folder(root=str(root)).clips()


def test_a_name_that_is_not_utf8_is_read_and_said(tmp_path, command):
    root = record(tmp_path / "d\udce9", "caf\udce9_1.wav", f"{NFC}_2.wav", "tea_3.wav")
    code, out, err = command(
        prepare.main,
        *("--data.root", str(root), "--data.pattern", "{word}_{id}", "--audio.max-refused", "0"),
        *("--cache-dir", tmp_path / "cache", "--workdir", tmp_path / "p"),
    )
    assert (code, err) == (0, "")
    assert r"word: caf\xe9 1" in out
    assert json.loads((tmp_path / "p" / "data_report.json").read_text())["labels"]["word"][r"caf\xe9"] == 1


@given(name=st.binary(max_size=20).map(lambda name: name.decode(errors="surrogateescape")))
def test_any_file_name_becomes_text(name):
    display_name(name).encode()
    if name.isascii():
        assert display_name(name) == name


@pytest.mark.parametrize(
    ("split", "words"),
    [
        ("train", ["train", "Training"]),
        ("validation", ["val", "dev", "VALID", " validation "]),
        ("test", ["test", "testing"]),
    ],
)
def test_words_for_splits(split, words):
    assert {parse_split(word, "a.wav") for word in words} == {split}


@pytest.mark.parametrize("word", ["eval", "dev2", "validate", "0"])
def test_other_words_are_errors(word):
    with pytest.raises(UserError, match="expected train, validation"):
        parse_split(word, "a.wav")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("path,word,\na.wav,x,\n", "line 1: column 3 of 3 has no name; is there a comma too many"),
        ("path,word\na.wav,x,\n", "line 2 has 3 cells, expected 2 .*remove the comma at its end"),
        ("path,word,word\na.wav,x,y\n", "line 1: two columns are named `word`"),
        (f"path,{NFC},{NFD}\na.wav,x,y\n", f"two columns are named `{NFC}`"),
        ("path,word, word \na.wav,x,y\n", "two columns are named `word`"),
        ("path;word\na.wav;x\n", "line 1: columns are separated by ';', expected commas"),
        ("path\tword\na.wav\tx, y\n", "line 1: columns are separated by a tab"),
        ("a.wav|text\n", "line 1: columns are separated by '|'"),
        ("Path,word\na.wav,x\n", "a column is named `Path`; write `path`"),
        ("path,SPLIT\na.wav,val\n", "a column is named `SPLIT`; write `split`"),
        ("path,license\na.wav,CC0\n", "a column is named `license`; write `licence`"),
        ("file_name,word\na.wav,x\n", "line 1 has no `path` but file_name, word; rename `file_name` to `path`"),
        ("word,filename\nx,a.wav\n", "rename `filename` to `path`"),
        ("\n\nid,word\n1,x\n", "line 3 has no `path` but id, word"),
        ("id,word\n1,x\n", "line 1 has no `path` but id, word"),
        ("a.wav,yes\nb.wav,no\n", "line 1 names a file, expected the names of the columns"),
        ("path\na.wav\n./a.wav\n", "line 3 repeats the path"),
        ("path\nb/a.wav\nb//a.wav\n", "line 3 repeats the path"),
    ],
)
def test_faults_of_a_csv_manifest_are_named(text, message, tmp_path):
    with pytest.raises(UserError, match=message):
        rows(tmp_path, text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"path": "a.wav", "w": 1, "w": 2}', "line 1: two columns are named `w`"),
        ('{"Path": "a.wav"}', "a column is named `Path`; write `path`"),
        ('{"audio_filepath": "a.wav", "n": 1}', "has no `path` but audio_filepath, n; rename `audio_filepath`"),
        ('{"path": "a.wav"}\n{"path": "./a.wav"}', "line 2 repeats the path"),
        ('{"path": "a.wav", "x": ' + "[" * 9_000 + "]" * 9_000 + "}", "line 1 is not JSON"),
        ('{"path": null}', "line 1 is not a JSON object"),
    ],
)
def test_faults_of_a_json_manifest_are_named(text, message, tmp_path):
    with pytest.raises(UserError, match=message):
        rows(tmp_path, text, "manifest.jsonl")


numbers = st.integers().map(str) | st.floats(allow_nan=False, allow_infinity=False).map("{:.20e}".format)


@settings(max_examples=50)
@given(number=numbers)
@example(number="1.0")
@example(number="1e5")
@example(number="9" * 5_000)
@example(number="-0")
@example(number="NaN")
@example(number="true")
@example(number="false")
def test_labels_that_look_like_numbers_stay_as_written(number, tmp_path_factory):
    root = tmp_path_factory.mktemp("numbers")
    assert rows(root, f'{{"path": "a.wav", "n": {number}}}', "manifest.jsonl")["a.wav"] == {"n": number}
    assert rows(root, f"path,n\na.wav,{number}\n")["a.wav"] == {"n": number}
    assert rows(root, '{"path": "./a.wav", "n": "007", "m": null, "l": [1, {"b": "ä"}]}', "manifest.jsonl") == {
        "a.wav": {"n": "007", "m": "", "l": '[1, {"b": "ä"}]'}
    }


digests = st.integers(0, 16**12 - 1).map(lambda value: f"{value:012x}" + "0" * 52)
fractions = st.floats(0.01, 0.5)


@given(test=fractions, validation=fractions, digest=digests)
def test_hashed_splits_do_not_overlap_and_have_their_share(test, validation, digest):
    both = Folder(validation=HashFraction(validation), test=HashFraction(test))
    place = int(digest[:12], 16) / 16**12
    expected = "test" if place < test else "validation" if place < test + validation else "train"
    assume(test + validation <= 1)
    assert both.split_of({}, digest) == expected
    alone = Folder(validation=HashFraction(validation)).split_of({}, digest)
    assert alone == ("validation" if place < validation else "train")  # as it always was


@pytest.mark.parametrize(
    ("validation", "test", "message"),
    [
        (HashFraction(0.6), HashFraction(0.6), "a split takes the share 0.6 to 1.2"),
        (FieldIn("who", ("anna", NFC)), FieldIn("who", ("theo", NFD)), f"both take who {NFC}"),
        (SpeakerShare(), SpeakerShare(start=5, stop=20), "both take speakers of the per cent 5 to 10"),
    ],
)
def test_splits_that_overlap_are_errors(validation, test, message):
    with pytest.raises(UserError, match=message):
        Folder(validation=validation, test=test).split_of({"who": "x", "speaker": "x"}, "f" * 64)


def test_splits_side_by_side_are_left_alone():
    assert HashFraction(0.1, start=0.5).exclude(HashFraction(0.1)) == HashFraction(0.1, start=0.5)
    assert SpeakerShare(start=10, stop=20).exclude(SpeakerShare(start=0, stop=10)).start == 10
    assert FieldIn("who", ("anna",)).exclude(FieldIn("index", ("anna",))).values == ("anna",)


def test_what_a_json_manifest_says_is_kept_as_it_was_written(tmp_path):

    text = '{"path": "a.wav", "a": "007", "b": 1.50, "c": [1, [2.0, "x"]], "d": {"e": 1}, "f": true, "g": null}'
    found = rows(tmp_path / "data", text, "manifest.jsonl")["a.wav"]
    assert found == {"a": "007", "b": "1.50", "c": '[1, [2.0, "x"]]', "d": '{"e": 1}', "f": "true", "g": ""}
