"""The source of a config file's classes goes with the run; it is run where the user says so, as it was recorded, or not."""

import dataclasses
import hashlib
import json
import os
import py_compile
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import jaxgen
from jaxgen.cli import generate, train
from jaxgen.config import load
from jaxgen.core.errors import UserError
from jaxgen.core.serial import from_json, to_json
from jaxgen.recipes.presets import load_config
from jaxgen.runs.code import CodeManifest, collect_code

MINE = """
import dataclasses
import json

from jaxgen.data.synthetic import PluckedStrings
from jaxgen.recipes.presets import quickstart
{imports}


@dataclasses.dataclass(frozen=True)
class Mine(PluckedStrings):
    version = VERSION if "VERSION" in globals() else 1


CONFIG = dataclasses.replace(quickstart(), data=Mine(num_clips=12, seconds=0.5))
"""


@pytest.fixture(autouse=True)
def _as_before():
    """Modules, and what finds them, that a test has loaded are gone."""
    modules, path, finders = set(sys.modules), list(sys.path), list(sys.meta_path)
    yield
    sys.path[:], sys.meta_path[:] = path, finders
    for name in set(sys.modules) - modules:
        if name.startswith(("jaxgen_config_", "beside", "kit")):
            del sys.modules[name]


def written(folder, imports="", files=None):
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in ({} if files is None else files).items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(content)
    (folder / "mine.py").write_text(MINE.format(imports=imports))
    return folder / "mine.py"


def collected(path):
    return collect_code(load(path), path)


def saved(path, run):
    """What a checkpoint keeps of the code of a config file, which is saved in a run's folder."""
    code = collected(path)
    code.save(run)
    return from_json(json.loads(json.dumps(to_json(code.manifest))), CodeManifest, "it")


def test_what_goes_along_is_what_is_imported_from_beside(tmp_path):
    path = written(
        tmp_path,
        "from beside import VERSION\nfrom kit.tools import add\nimport numpy",
        {
            "beside.py": "from beside2 import VERSION",
            "beside2.py": "VERSION = 7",
            "numpy.py": "raise RuntimeError('Python finds another one first')",
            "unused.py": "",
            "kit/__init__.py": "",
            "kit/tools.py": "from kit import other\ndef add(): return other.ONE",
            "kit/other.py": "ONE = 1",
        },
    )
    code = collected(path)
    assert code.manifest.config_file == "mine.py"
    kit = {"kit/__init__.py", "kit/tools.py", "kit/other.py"}
    assert set(code.manifest.files) == {"mine.py", "beside.py", "beside2.py"} | kit
    for name, digest in code.manifest.files.items():
        assert digest == hashlib.sha256((tmp_path / name).read_bytes()).hexdigest()


def test_a_config_of_our_own_classes_needs_no_code(tmp_path):
    (tmp_path / "plain.py").write_text("from jaxgen.recipes.presets import quickstart\nCONFIG = quickstart()\n")
    assert collected(tmp_path / "plain.py") is None
    assert collect_code(load_config([], "test"), None) is None


def test_too_much_is_left_and_said(tmp_path, capsys):
    path = written(tmp_path, "import beside", {"beside.py": f"x = '{'x' * 2**20}'"})
    assert collected(path) is None
    assert "its code does not go with the run; --config will be needed" in capsys.readouterr().err


def test_what_is_run_is_what_was_recorded_of_each_run(tmp_path, capsys):
    """Two runs have modules of the same names; none is taken from the other, nor from where they once were."""
    runs = {}
    for version in (3, 5):
        path = written(tmp_path / f"from{version}", "from beside import VERSION", {"beside.py": f"VERSION = {version}"})
        runs[version] = saved(path, tmp_path / f"run{version}")
        sys.modules.pop("beside")
        shutil.rmtree(tmp_path / f"from{version}")
    for version in (3, 5, 3):
        folder = tmp_path / f"run{version}"
        runs[version].run(folder)
        assert sys.modules["jaxgen_config_mine"].Mine.version == version
        err = capsys.readouterr().err
        assert runs[version].files["mine.py"] in err
        assert f"'{folder}/{runs[version].folder}/mine.py'" in err
        assert not list(folder.rglob("__pycache__"))
        runs[version].run(folder)  # for another checkpoint of it
        assert capsys.readouterr().err == ""


def test_a_compiled_file_beside_it_is_not_run(tmp_path):
    manifest = saved(
        written(tmp_path / "from", "from beside import VERSION", {"beside.py": "VERSION = 3"}), tmp_path / "run"
    )
    place = tmp_path / "run" / manifest.folder
    source = place / "beside.py"
    content, times = source.read_bytes(), (source.stat().st_atime_ns, source.stat().st_mtime_ns)
    source.write_text("VERSION = 9")
    os.utime(source, ns=times)
    evil = py_compile.compile(str(source), doraise=True)
    source.write_bytes(content)
    os.utime(source, ns=times)  # so that Python takes one for the other
    assert Path(evil).exists()
    sys.modules.pop("beside")
    manifest.run(tmp_path / "run")
    assert sys.modules["jaxgen_config_mine"].Mine.version == 3


@pytest.mark.parametrize("name", ["mine.py", "beside.py"])
@pytest.mark.parametrize("damage", ["changed", "removed", "linked out", "folder linked out", "a folder"])
def test_what_was_changed_is_not_run(tmp_path, name, damage):
    path = written(tmp_path / "from", "from beside import VERSION", {"beside.py": "VERSION = 3"})
    manifest = saved(path, tmp_path / "run")
    file = tmp_path / "run" / manifest.folder / name
    if damage == "changed":
        file.write_text(file.read_text() + "\nopen('PWNED', 'w')\n")
    elif damage == "folder linked out":
        shutil.move(file.parent, tmp_path / "elsewhere")
        file.parent.symlink_to(tmp_path / "elsewhere")
    else:
        shutil.move(file, tmp_path / "elsewhere")
        if damage == "linked out":
            file.symlink_to(tmp_path / "elsewhere")
        elif damage == "a folder":
            file.mkdir()
    loaded = sys.modules.pop("jaxgen_config_mine")
    with pytest.raises(UserError) as told:
        manifest.run(tmp_path / "run")
    assert "jaxgen_config_mine" not in sys.modules
    assert loaded
    assert str(file.relative_to(tmp_path).parent) in str(told.value)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize(
    "change",
    [
        {"config_file": "../mine.py", "files": {"../mine.py": "0" * 64}},
        {"config_file": "/etc/passwd", "files": {"/etc/passwd": "0" * 64}},
        {"config_file": "mine.py", "files": {}},
        {"config_file": "mine.py", "files": {"mine.py": "0" * 64, "../../x.py": "0"}},
        {"config_file": "notes.txt", "files": {"notes.txt": hashlib.sha256(b"").hexdigest()}},
        {"config_file": "", "files": {"": "0"}},
    ],
    ids=str,
)
def test_what_leads_out_or_is_no_config_is_refused(tmp_path, change):
    manifest = CodeManifest(**change)
    (tmp_path / manifest.folder).mkdir(parents=True)
    (tmp_path / manifest.folder / "notes.txt").touch()
    with pytest.raises(UserError):
        manifest.run(tmp_path)


def test_a_config_file_and_the_runs_own_code_are_not_both_run(command, tmp_path):
    code, _, err = command(generate.main, "--workdir", tmp_path, "--config", "x.py", "--trust-code")
    assert (code, "--config and --trust-code both say what code to run" in err) == (2, True)
    with pytest.raises(UserError, match="--config and --trust-code"):
        jaxgen.load(tmp_path, config="x.py", trust_code=True)


TINY = (
    *("--model.cell.hidden-size", "8", "--model.num-layers", "1", "--train.batch-size", "2", "--train.seq-len", "8"),
    *("--train.steps", "2", "--train.eval-every", "2", "--train.checkpoint-every", "1", "--train.log-every", "1"),
    *("--evaluation.num-clips", "2", "--evaluation.num-previews", "1", "--evaluation.seconds", "0.3"),
)


@pytest.fixture(scope="module")
def run(tmp_path_factory, cache):
    """A run whose data set is defined in a config file, which is gone."""
    folder = tmp_path_factory.mktemp("own")
    path = written(folder / "from", "from beside import VERSION", {"beside.py": "VERSION = 3"})
    with pytest.MonkeyPatch.context() as patch:
        asked = ("--config", path, *TINY, "--workdir", folder / "run", "--cache-dir", cache)
        patch.setattr(sys, "argv", ["jaxgen", *map(str, asked)])
        patch.setattr(sys, "path", list(sys.path))
        assert train.main() == 0
    shutil.rmtree(folder / "from")
    for name in ("jaxgen_config_mine", "beside"):
        sys.modules.pop(name)
    return folder / "run"


def elsewhere(run, tmp_path, cache, *options):
    """Generates from a run in a process that has not trained it."""
    line = [sys.executable, "-m", "jaxgen.generate", "--workdir", run, "--cache-dir", cache, "--num-clips", "1"]
    root = str(Path(__file__).parent.parent)
    environment = os.environ | {"PYTHONPATH": root}
    done = subprocess.run([*line, *options], cwd=tmp_path, env=environment, capture_output=True, text=True)
    return done.returncode, done.stderr


@pytest.mark.nightly
@pytest.mark.slow
def test_a_run_opens_elsewhere_with_the_flag_alone(run, tmp_path, cache):
    moved = tmp_path / "moved"
    shutil.copytree(run, moved)
    (path,) = (moved / "code").rglob("mine.py")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    code, err = elsewhere(moved, tmp_path, cache)
    assert (code, err.count("\n")) == (2, 1), err
    assert f"'{path}' (SHA-256 {digest}, and 1 more beside it)" in err
    assert "pass --trust-code to run it" in err
    code, err = elsewhere(moved, tmp_path, cache, "--trust-code")
    assert code == 0, err
    assert f"jaxgen: running '{path}' (SHA-256 {digest}" in err
    assert len(list((moved / "generated" / "seed_0").glob("*.wav"))) == 1


@pytest.mark.nightly
def test_a_changed_copy_is_not_run_with_the_flag_either(run, tmp_path, cache):
    moved = tmp_path / "moved"
    shutil.copytree(run, moved)
    (path,) = (moved / "code").rglob("beside.py")
    path.write_text("VERSION = 3\nopen('PWNED', 'w')\n")
    code, err = elsewhere(moved, tmp_path, cache, "--trust-code")
    assert (code, err.count("\n"), "is not the file that the run was trained with" in err) == (2, 1, True), err
    assert not (tmp_path / "PWNED").exists()


@pytest.mark.nightly
def test_each_checkpoint_keeps_the_source_that_it_was_trained_with(run, tmp_path, cache, command):
    grown = tmp_path / "run"
    shutil.copytree(run, grown)
    shutil.rmtree(grown / "checkpoints" / "2")
    (grown / "report.json").unlink()
    path = written(tmp_path / "from", "from beside import VERSION\n# changed", {"beside.py": "VERSION = 3"})
    code, _, err = command(train.main, "--config", path, *TINY, "--workdir", grown, "--cache-dir", cache)
    assert code == 0, err
    assert "'mine.py', or a module beside it, has changed since the last checkpoint" in err
    sources = {}
    for step in (1, 2):
        opened = jaxgen.load(grown, step=step, cache_dir=cache, trust_code=True)
        sources[step] = sys.modules[type(opened.run.config.data).__module__].__loader__.get_source("jaxgen_config_mine")
    assert "# changed" not in sources[1]
    assert "# changed" in sources[2]


def test_a_manifest_has_one_folder_whatever_its_order():
    one = CodeManifest("a.py", {"a.py": "1", "b.py": "2"})
    assert dataclasses.replace(one, files={"b.py": "2", "a.py": "1"}).folder == one.folder
    assert dataclasses.replace(one, files={"a.py": "1", "b.py": "3"}).folder != one.folder
