"""Names that come from outside: no text of anybody's leads out of a folder, ends a run or removes what is the user's."""

import json
import os
from pathlib import Path

import filelock
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from jaxgen.audio import read
from jaxgen.data.spec import DataSpec
from jaxgen.errors import UserError, printable
from jaxgen.files import LeavesFolder, expand, file_name, inside, unfinished, write_whole
from jaxgen.generate import write_as_made
from jaxgen.presets import quickstart
from jaxgen.runs import Run

ANY = st.text(st.characters())  # with halves of pairs, NUL, and what turns the direction of writing
PART = (
    st.sampled_from(["..", ".", "", "a", "A", "e\u0301", "\u00e9", "C:", "~", "-", "\\", "x" * 256, "\0", "\ud800"])
    | ANY
)
NAMES = st.lists(PART, max_size=5).map("/".join)
COMMON = settings(max_examples=150, deadline=None)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A folder that stands beside things that are not to be touched."""
    around = tmp_path_factory.mktemp("around")
    (around / "beside").write_text("mine")
    (around / "folder").mkdir()
    return around / "folder"


@COMMON
@given(NAMES)
@example("/etc/passwd")
@example("a/../../beside")
@example(".")
def test_a_name_is_below_its_folder_or_an_error_of_one_line(folder, name):
    try:
        path = inside(folder, name)
    except LeavesFolder as error:
        assert "\n" not in printable(str(error))
        leads = Path(os.path.abspath(os.path.join(folder, name)))
        assert folder not in leads.parents or ".." in name or not all(map(can_be_a_file, name.split("/")))
    else:
        assert folder in Path(os.path.abspath(path)).parents
        assert not path.exists()  # and no error of another kind


def can_be_a_file(part):
    try:
        os.stat("/" + part)
    except FileNotFoundError:
        return True
    except (OSError, ValueError):
        return False
    return True


@COMMON
@given(
    ANY
    | st.text("ab.- ", max_size=400)
    | st.sampled_from(["..", ".", "", " ", "\0", "/", "x" * 300, "\U0001f600" * 300])
)
def test_any_text_makes_a_name_that_any_system_takes(folder, text):
    name = file_name(text)
    assert name == file_name(name)
    assert name.isprintable()
    assert not set(name) & set('/\\:*?"<>|')
    assert 0 < len(os.fsencode(name)) <= 120
    assert name[-1] not in ". "
    path = inside(folder, name)
    assert path.parent == folder
    write_whole(path.with_name(name + ".json"), "whole")
    assert path.with_name(name + ".json").read_text() == "whole"
    path.with_name(name + ".json").unlink()


def test_a_short_name_stays_as_it_is():
    for name in ("000_digit-3_speaker-theo", "café au lait", "x.y", "日本語", "🎵"):
        assert file_name(name) == name


LABELS = st.dictionaries(ANY | NAMES, ANY | NAMES, max_size=4)


@settings(max_examples=25, deadline=None)
@given(rows=st.lists(LABELS, min_size=1, max_size=4))
@example(rows=[{"caption": "x" * 260}, {"caption": "x" * 260}])
@example(rows=[{f"label{number}": "a value" for number in range(100)}])
@example(rows=[{"a": "\n"}, {"\ud800": "../../b"}, {"n": "NUL"}, {"d": "dots..."}, {}])
def test_clips_of_any_labels_are_written_in_order_beside_the_whole_labels(tmp_path_factory, rows):
    config, out = quickstart(), tmp_path_factory.mktemp("clips")
    run = Run(Path("run"), 1, config, DataSpec(config.features), training=None, params=None)  # type: ignore[arg-type]

    def save(folder, clips):
        run.save_clips(folder, clips, rows, seed=0)

    made = [np.full(place + 1, 0.5, np.float32) for place in range(len(rows))]
    assert write_as_made([made], out, len(rows), save, lambda: False) == sum(map(len, made))
    wavs = sorted(out.glob("*.wav"))
    assert sorted(out.iterdir()) == sorted([*wavs, *(wav.with_suffix(".json") for wav in wavs)])
    for place, (wav, row) in enumerate(zip(wavs, rows, strict=True)):
        assert json.loads(wav.with_suffix(".json").read_text())["labels"] == row
        assert len(read(wav).samples) == place + 1


# what is left over


def test_only_our_own_left_overs_are_removed(tmp_path):
    mine = {name: tmp_path / name for name in (".git", ".venv", ".hidden", ".unfinished.7", ".jaxgen", ".tmpabcd")}
    for path in mine.values():
        path.mkdir()
        (path / "precious").write_text("mine")
    with unfinished(tmp_path) as left:
        (left / "half").write_text("half")
        killed = tmp_path / left.name.replace(left.name[-4:], "0000")  # as a process leaves it that is killed
        killed.mkdir()
        (killed / "half").write_text("half")
    with unfinished(tmp_path) as first, unfinished(tmp_path) as second:
        assert not killed.exists()
        assert first.is_dir()
        assert second.is_dir()
    assert sorted(tmp_path.iterdir()) == sorted(mine.values())
    assert all((path / "precious").read_text() == "mine" for path in mine.values())


def test_what_another_process_makes_is_left_alone(tmp_path):
    with unfinished(tmp_path) as other:
        pass
    other.mkdir()
    with filelock.FileLock(other / ".lock"), unfinished(tmp_path):
        assert other.is_dir()


# homes


@pytest.mark.parametrize(("home", "path"), [("", "~/x"), ("rel", "~/x"), ("~", "~"), ("/h", "~nobody-of-this-name/x")])
def test_a_home_that_is_not_known_is_one_line(monkeypatch, home, path):
    monkeypatch.setenv("HOME", home)
    with pytest.raises(UserError, match=r"home folder of '~.*set HOME"):
        expand(path)


@COMMON
@given(ANY)
def test_only_a_tilde_at_the_start_is_expanded(text):
    assert expand("x" + text) == "x" + text
    assert expand("~/" + text) == os.path.expanduser("~") + "/" + text
