"""The wheel that a release uploads works outside the tree: the command, the default run, a config by path, and the tests."""

import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest
from conftest import TINY

pytestmark = pytest.mark.nightly
ROOT = Path(__file__).parent.parent
CONFIG = """
import dataclasses

from jaxgen.models.mel_rnn import MelRNN
from jaxgen.nn.recurrent import GRU
from jaxgen.recipes.presets import quickstart

CONFIG = dataclasses.replace(quickstart(), model=MelRNN(cell=GRU(hidden_size=8), num_layers=1, labels=("timbre",)))
"""


def call(*line: object, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    known = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [*map(str, line)], cwd=cwd, env=known | environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{line}\n{done.stdout[-4_000:]}\n{done.stderr[-4_000:]}"
    return done


@pytest.fixture(scope="module")
def dist(tmp_path_factory) -> Path:
    """Wheel and sdist, made as RELEASE.md says, of a copy of what git would hold: nothing is written into the tree."""
    pytest.importorskip("build", reason="pip install 'jaxgen[dev]'")
    folder = tmp_path_factory.mktemp("source")
    for name in ("jaxgen", "pyproject.toml", "README.md", "LICENSE"):
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, folder / name)
    call(sys.executable, "-m", "build", "--outdir", folder / "dist", folder, cwd=folder)
    return folder / "dist"


@pytest.fixture(scope="module")
def programs(dist, tmp_path_factory) -> Path:
    """Where the commands of a fresh environment are: the wheel is installed there, what it needs is taken from here."""
    folder = tmp_path_factory.mktemp("fresh")
    call(sys.executable, "-m", "venv", folder, cwd=folder)
    (wheel,) = dist.glob("*.whl")
    call(folder / "bin" / "pip", "install", "--quiet", "--no-deps", "--no-index", wheel, cwd=folder)
    (packages,) = folder.glob("lib/python*/site-packages")
    # a folder that a .pth names is searched last, and its own .pth files, such as that of this checkout, are not read
    (packages / "here.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return folder / "bin"


def test_it_is_what_an_index_takes_and_says_that_it_is_typed(dist):
    pytest.importorskip("twine", reason="pip install 'jaxgen[dev]'")
    files = sorted(dist.iterdir())
    assert [path.suffix for path in files] == [".whl", ".gz"]
    said = call(sys.executable, "-m", "twine", "check", "--strict", *files, cwd=dist).stdout
    assert said.count("PASSED") == 2
    names = zipfile.ZipFile(files[0]).namelist()
    assert "jaxgen/py.typed" in names
    assert {name.partition("/")[0].partition("-")[0] for name in names} == {"jaxgen"}  # no tests, no benchmarks


def test_it_is_the_installed_one(programs, tmp_path):
    found = call(programs / "python", "-c", "import jaxgen; print(jaxgen.__file__)", cwd=tmp_path).stdout
    assert Path(found.strip()).is_relative_to(programs.parent)


@pytest.mark.parametrize("start", [("python", "-m", "jaxgen"), ("jaxgen",)], ids=" ".join)
def test_the_command_says_what_it_can(programs, tmp_path, start):
    said = call(programs / start[0], *start[1:], "--help", cwd=tmp_path).stdout
    assert {"train", "generate", "evaluate", "prepare"} <= set(said.split())


@pytest.mark.parametrize("config", [None, CONFIG], ids=["the default run", "a config by path"])
def test_it_trains_and_generates(programs, tmp_path, cache, config):
    options = [*TINY, "--workdir", "run", "--cache-dir", cache]
    if config is not None:
        (tmp_path / "elsewhere").mkdir()
        (tmp_path / "elsewhere" / "mine.py").write_text(config)
        options = ["--config", tmp_path / "elsewhere" / "mine.py", *options]
    said = call(programs / "jaxgen", "train", *options, cwd=tmp_path).stdout
    assert "Report: run/report.html" in said
    assert (tmp_path / "run" / "report.html").is_file()
    line = ("generate", "--workdir", "run", "--num-clips", "1", "--seconds", "0.3", "--out", "made")
    call(programs / "jaxgen", *line, cwd=tmp_path)
    assert len(list((tmp_path / "made").glob("*.wav"))) == 1


def test_the_tests_that_need_no_repository_pass(programs, tmp_path):
    """Those of a first look; the others say that they need it."""
    shutil.copytree(ROOT / "tests", tmp_path / "tests", ignore=shutil.ignore_patterns("__pycache__"))
    line = ["-m", "pytest", "-c", ROOT / "pyproject.toml", "--rootdir", tmp_path, "-p", "no:cacheprovider", "-rs"]
    chosen = ["-m", "not slow and not nightly", tmp_path / "tests"]
    said = call(programs / "python", *line, *chosen, cwd=tmp_path).stdout
    assert "it needs the repository" in said
    assert int(said.split(" passed")[0].split()[-1]) > 300
