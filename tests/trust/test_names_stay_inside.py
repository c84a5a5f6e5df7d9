"""Names that come from outside: no text of anybody's leads out of a folder, ends a run or removes what is the user's."""

import contextlib
import dataclasses
import io
import json
import os
import re
import shlex
from pathlib import Path
from unittest import mock

import filelock
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from jaxgen.audio import read
from jaxgen.cli import evaluate, generate
from jaxgen.cli.generate import stream_to_files
from jaxgen.config import parse
from jaxgen.core.errors import UserError
from jaxgen.core.files import partial_folder, write_atomic
from jaxgen.core.names import CACHE_DIR, LeavesFolder, expand, file_name, join_inside
from jaxgen.data.folder import Folder
from jaxgen.data.spec import DataSpec
from jaxgen.evaluation.autoregressive import AutoregressiveEvaluation
from jaxgen.evaluation.copy_synthesis import CopySynthesis
from jaxgen.evaluation.latent_evaluation import LatentEvaluation
from jaxgen.evaluation.result import EvaluationConfig
from jaxgen.recipes.presets import load_config, quickstart
from jaxgen.runs import training
from jaxgen.runs.run import Run
from jaxgen.storage import local_folder, mirror

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
        path = join_inside(folder, name)
    except LeavesFolder:
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
    path = join_inside(folder, name)
    assert path.parent == folder
    write_atomic(path.with_name(name + ".json"), "whole")
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
    run = Run(Path("run"), 1, config, DataSpec(config.features), task=None, params=None)  # type: ignore[arg-type]

    def save(folder, clips):
        return run.save_clips(folder, clips, rows, seed=0)

    made = [np.full(place + 1, 0.5, np.float32) for place in range(len(rows))]
    assert stream_to_files([made], out, len(rows), save, lambda: False) == sum(map(len, made))
    wavs = sorted(out.glob("*.wav"))
    assert sorted(out.iterdir()) == sorted([*wavs, *(wav.with_suffix(".json") for wav in wavs)])
    for place, (wav, row) in enumerate(zip(wavs, rows, strict=True)):
        assert json.loads(wav.with_suffix(".json").read_text())["labels"] == row
        assert len(read(wav).samples) == place + 1


# object stores


@dataclasses.dataclass
class Objects:
    """An object store of a process."""

    content: dict[str, bytes]
    url: str = "s3://bucket/run"

    def list(self):
        return {name: f"{name} {len(content)}" for name, content in self.content.items()}

    def download(self, name, path):
        path.write_bytes(self.content[name])


def fetch(content: dict[str, bytes], folder: Path) -> tuple[set[str], str]:
    """The names of the files in a folder that is made what a store with these objects holds, and what is said."""
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stderr(io.StringIO()) as said:
        patch.setattr(mirror, "ObjectStore", lambda url: Objects(content))
        mirror.Mirror("s3://bucket/run", folder).fetch(lambda name, _: True)
    found = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert all(content[name] == each for name, each in found.items())
    return set(found), said.getvalue()


PLAIN = st.lists(st.text("abA", min_size=1, max_size=2), min_size=1, max_size=3).map("/".join)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.sets(NAMES | PLAIN, max_size=8), min_size=2, max_size=2))
@example([{"/etc/passwd", "a//b", "a/b", "../beside", "b/./c", "a"}, {"a/b/c", "a", "./a"}])
def test_objects_of_any_names_stay_in_the_copy_or_are_told(tmp_path_factory, runs):
    around = tmp_path_factory.mktemp("around")
    (around / "beside").write_text("mine")
    for names in runs:  # one after the other in the same folder
        found, said = fetch({name: name.encode(errors="replace") for name in names}, around / "copy")
        shown = {name for name in names if not re.search(r"(^|/)\.+[^./]", name)}
        skipped = sum(int(number) for number in re.findall(r"^jaxgen: warning: (\d+) objects", said, re.MULTILINE))
        assert skipped == len(shown - found)
        assert not found - shown
        plain = {name for name in names if re.fullmatch("[abcA/]+", name) and not re.search("//|^/|/$", name)}
        assert {name for name in plain if not any(each.startswith(name + "/") for each in names)} <= found
        assert {path.name for path in around.iterdir()} <= {"beside", "copy", ".copy.json"}
        assert (around / "beside").read_text() == "mine"


def test_names_that_a_disk_takes_for_one_are_told(tmp_path, monkeypatch):
    monkeypatch.setattr(mirror.Mirror, "_can_hold", lambda self, name: True)
    monkeypatch.setattr(mirror, "join_inside", lambda folder, name: folder / name.lower())  # as where case is ignored
    found, said = fetch({"a.wav": b"the same", "A.wav": b"the same"} | {"b.wav": b"another"}, tmp_path / "copy")
    assert found == {"a.wav", "b.wav"}
    assert "('A.wav') are those of others" in said


@COMMON
@given(ANY | st.sampled_from(["..", ".", "x" * 300, "", "a\\..\\b", "~", "\udc80"]), st.sampled_from(["", "/", "/.."]))
def test_the_copy_of_any_address_is_deep_in_the_cache(folder, name, end):
    copy = Path(os.path.abspath(local_folder(f"s3://bucket/{name}{end}", folder)))
    assert len(copy.relative_to(folder).parts) == 4
    assert all(len(os.fsencode(part)) < 200 for part in copy.parts)


@pytest.mark.parametrize("known", ["[]", "{", '{"a": 1}', '{"a": []}', '{"a": [1, 2]}', '{"a": {"x": 1}}', "null", "7"])
def test_a_damaged_memory_of_what_was_copied_is_made_anew(tmp_path, known):
    for _ in range(2):
        assert fetch({"a": b"content"}, tmp_path / "copy")[0] == {"a"}
        (tmp_path / ".copy.json").write_text(known)


# what is left over


def test_only_our_own_left_overs_are_removed(tmp_path):
    mine = {name: tmp_path / name for name in (".git", ".venv", ".hidden", ".unfinished.7", ".jaxgen", ".tmpabcd")}
    for path in mine.values():
        path.mkdir()
        (path / "precious").write_text("mine")
    with partial_folder(tmp_path) as left:
        (left / "half").write_text("half")
        killed = tmp_path / left.name.replace(left.name[-4:], "0000")  # as a process leaves it that is killed
        killed.mkdir()
        (killed / "half").write_text("half")
    with partial_folder(tmp_path) as first, partial_folder(tmp_path) as second:
        assert not killed.exists()
        assert first.is_dir()
        assert second.is_dir()
    assert sorted(tmp_path.iterdir()) == sorted(mine.values())
    assert all((path / "precious").read_text() == "mine" for path in mine.values())


def test_what_another_process_makes_is_left_alone(tmp_path):
    with partial_folder(tmp_path) as other:
        pass
    other.mkdir()
    with filelock.FileLock(other / ".lock"), partial_folder(tmp_path):
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


HOMELY = ["~", "~/x", "~root/a b", "x/~", "./~", "s3://bucket/~", "~nobody-of-this-name"]


@pytest.mark.parametrize("path", HOMELY)
def test_every_option_that_is_a_path_is_expanded(path):
    def options(**given):
        return [word for name, value in given.items() for word in (f"--{name}", value)]

    for cls, names in (
        (generate.Options, ["workdir", "prompt", "out", "vocoder"]),
        (evaluate.Options, ["workdir", "out"]),
    ):
        try:
            expected = expand(path)
        except UserError:
            with pytest.raises(UserError, match="home folder of '~nobody"):
                parse(cls, None, options(**dict.fromkeys(names, path)), "test")
            continue
        parsed = parse(cls, None, options(**dict.fromkeys(names, path)), "test")
        assert [getattr(parsed, name) for name in names] == [expected] * len(names)


def test_paths_in_a_config_file_are_expanded_and_what_only_looks_like_one_is_not(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "sounds").mkdir()
    (tmp_path / "my.py").write_text(
        "import dataclasses\n"
        "from jaxgen.data.folder import Folder\n"
        "from jaxgen.evaluation.classifier_metrics import ClassifierMetrics\n"
        "from jaxgen.recipes.presets import quickstart\n"
        "base = quickstart()\n"
        "CONFIG = dataclasses.replace(\n"
        "    base, data=Folder(root='~/sounds', pattern='~{a}', licence='~'), workdir='~/runs/x',\n"
        "    evaluation=dataclasses.replace(base.evaluation, metrics=(ClassifierMetrics(classifier='~/classifier.npz'),)),\n"
        ")\n"
    )
    config = load_config(["--config", "~/my.py"], "test")
    assert config.workdir == f"{tmp_path}/runs/x"
    assert config.data == Folder(root=f"{tmp_path}/sounds", pattern="~{a}", licence="~")
    assert config.evaluation.metrics[0].classifier == f"{tmp_path}/classifier.npz"
    assert load_config(["--config", "~/my.py", "--workdir=~"], "test").workdir == str(tmp_path)
    assert config.cache_dir == CACHE_DIR  # of each machine its own
    assert local_folder("s3://a/b", config.cache_dir).is_relative_to(tmp_path / ".cache")


# printed commands

FOLDERS = ["-x", "--num=3", "$(touch x)", "a 'b' \"c\"", "a\nb", "~", "~root/x", "a;b", "\\"]


def printed(evaluation: EvaluationConfig, workdir: str) -> tuple[list[str], Path]:
    """The words of the command that is printed for what comes next, and the folder that TensorBoard is to read."""
    config = dataclasses.replace(quickstart(), evaluation=evaluation, workdir=workdir)
    with mock.patch.object(Path, "is_dir", return_value=True):
        words = shlex.split(training._next_commands(config, None))
    start, end = words.index("jaxgen.generate") + 1, words.index("tensorboard")
    return words[start:end], Path(words[end + 2])


@COMMON
@given(ANY.filter(lambda text: "\0" not in text and text.strip("./")) | st.sampled_from(FOLDERS))
def test_a_printed_command_names_the_folder_as_a_shell_reads_it(workdir):
    command, logs = printed(AutoregressiveEvaluation(), workdir)
    assert command[0] == "--workdir"
    assert os.path.abspath(expand(command[1])) == os.path.abspath(workdir)
    assert os.path.abspath(logs) == os.path.join(os.path.abspath(workdir), "tensorboard")


@pytest.mark.parametrize("workdir", FOLDERS)
@pytest.mark.parametrize(
    "evaluation",
    [AutoregressiveEvaluation(), CopySynthesis(), LatentEvaluation()],
    ids=lambda each: type(each).__name__,
)
def test_a_printed_command_is_one_that_we_take(evaluation, workdir):
    options = parse(generate.Options, None, printed(evaluation, workdir)[0], "test")
    named = options.vocoder if evaluation.makes_copies else options.workdir
    assert named is not None
    assert os.path.abspath(named) == os.path.abspath(workdir)
