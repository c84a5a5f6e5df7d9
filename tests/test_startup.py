"""What a command does before its work: it imports little, and compiles nothing that a command before it compiled."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import TINY

pytestmark = pytest.mark.slow

HEAVY = (
    *("grain", "h5py", "librosa", "matplotlib", "numba", "orbax", "pandas", "pooch", "scipy", "sklearn"),
    *("tensorboardX", "tensorflow", "tensorstore", "torch"),
)
COUNTED = """
import sys
from jax import monitoring
from jaxgen.core.errors import run
from jaxgen.{entry} import main
counts = {{"cache_hits": 0, "cache_misses": 0}}
def count(event, **_):
    name = event.rpartition("/")[2]
    if name in counts:
        counts[name] += 1
monitoring.register_event_listener(count)
try:
    run(main)
finally:
    print("compiled", counts["cache_misses"], "loaded", counts["cache_hits"])
"""


JAX = ("flax", "jax", "jaxlib", "optax")


def _help(entry: str, cache: Path) -> tuple[str, set[str]]:
    """What --help of a command says, and the packages that it imports."""
    code = f"""
import sys
from jaxgen.cli import {entry}
sys.argv = ["jaxgen", "--help"]
try:
    {entry}.main()
finally:
    print("imported:", *sorted({{name.split(".")[0] for name in sys.modules}}))
"""
    environment = os.environ | {"XDG_CACHE_HOME": str(cache)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    said, _, imported = done.stdout.rpartition("imported:")
    return said, set(imported.split())


@pytest.mark.parametrize("entry", ["generate", "evaluate", "sweep", "completion"])
def test_help_needs_no_jax(entry, tmp_path):
    said, imported = _help(entry, tmp_path)
    assert "usage" in said
    assert not imported & {*HEAVY, *JAX}


@pytest.mark.parametrize("entry", ["train", "prepare"])
def test_help_of_a_config_is_kept(entry, tmp_path):
    """The options of a run are those of its model, which jax is imported for."""
    said, imported = _help(entry, tmp_path)
    assert "usage" in said
    assert not imported & set(HEAVY)
    again, imported = _help(entry, tmp_path)
    assert again == said
    assert not imported & {*HEAVY, *JAX}
    (kept,) = (tmp_path / "jaxgen" / "help").iterdir()
    kept.write_bytes(kept.read_bytes()[:-100])
    mended, imported = _help(entry, tmp_path)
    assert mended == said
    assert "jax" in imported


def _counted(entry: str, *arguments: str | Path, **environment: str) -> tuple[int, int]:
    """(programs compiled, programs loaded) by a command in a process of its own, without the tests' own cache."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("JAX_COMPILATION", "JAX_PERS"))}
    line = [sys.executable, "-c", COUNTED.format(entry=entry), *map(str, arguments)]
    done = subprocess.run(line, env=clean | environment, capture_output=True, text=True)
    assert done.returncode in (0, 2), done.stderr
    assert "cpu_aot" not in done.stderr
    compiled, loaded = done.stdout.splitlines()[-1].split()[1::2]
    return int(compiled), int(loaded)


@pytest.mark.nightly
def test_the_second_process_compiles_nothing_anew(quickstart, cache, tmp_path):
    asked = ["--workdir", quickstart, "--num", "1", "--seconds", "0.1", "--out", tmp_path / "out", "--cache-dir", cache]
    compiled, loaded = _counted("generate", *asked)
    kept = sorted((cache / "compiled").iterdir())
    assert compiled + loaded > 1  # tests before this one may have compiled some
    again, loaded_again = _counted("generate", *asked)
    assert (again, loaded_again) == (0, compiled + loaded)
    assert kept == sorted((cache / "compiled").iterdir())


@pytest.mark.nightly
def test_training_keeps_what_it_compiles(tmp_path):
    asked = [*TINY, "--model.labels", "colour", "--cache-dir", tmp_path, "--workdir", tmp_path / "run"]
    compiled, _ = _counted("train", *asked)  # ends after the data is decoded: there is no such label
    assert compiled > 0
    assert len(list((tmp_path / "compiled").iterdir())) == compiled
    assert _counted("train", *asked, "--data.seconds", "0.49")[0] == 0  # decoded anew, by the same program


@pytest.mark.nightly
def test_a_second_training_compiles_nothing_anew(tmp_path):
    asked = [*TINY, "--train.steps", "3", "--cache-dir", tmp_path, "--workdir"]
    assert _counted("train", *asked, tmp_path / "one")[0] > 0
    assert _counted("train", *asked, tmp_path / "two")[0] == 0


@pytest.mark.nightly
def test_compiled_programs_go_where_jax_is_told(tmp_path):
    asked = [*TINY, "--model.labels", "colour", "--cache-dir", tmp_path, "--workdir", tmp_path / "run"]
    _counted("train", *asked, JAX_ENABLE_COMPILATION_CACHE="false")
    assert list((tmp_path / "compiled").iterdir()) == []
    shutil.rmtree(tmp_path / "store")
    _counted("train", *asked, JAX_COMPILATION_CACHE_DIR=str(tmp_path / "elsewhere"))
    assert list((tmp_path / "compiled").iterdir()) == []
