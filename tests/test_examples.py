"""Notebooks run from their first cell to the last, with fewer steps."""

import json
import re
from pathlib import Path

import matplotlib
import pytest
from conftest import TINY

pytestmark = pytest.mark.slow

NOTEBOOKS = sorted((Path(__file__).parent.parent / "examples").glob("*.ipynb"))


def test_there_are_notebooks():
    assert NOTEBOOKS


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(path, cache, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    matplotlib.use("agg")
    shrunk = dict(zip((option.removeprefix("--") for option in TINY[::2]), TINY[1::2], strict=True))
    shrunk |= {"cache-dir": str(cache)}
    names: dict[str, object] = {}
    cells = [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"]
    for cell in cells:
        assert cell["outputs"] == []  # as committed
        exec(compile("".join(cell["source"]), path.name, "exec"), names)
        if "overrides" in names and not names["overrides"]:
            names["overrides"] = shrunk
    assert len(list((tmp_path / "clips").glob("*.wav"))) == 4
    assert Path(names["result"].report).is_file()


@pytest.mark.nightly
def test_the_tutorial_from_python_runs_as_it_is_written(cache, tmp_path, monkeypatch):
    """But for the length of the training, and the recordings, which are not there."""
    import jaxgen

    monkeypatch.chdir(tmp_path)
    shrunk = dict(zip((option.removeprefix("--") for option in TINY[::2]), TINY[1::2], strict=True))
    jaxgen.train(overrides=shrunk, cache_dir=str(cache))
    text = (Path(__file__).parent.parent / "docs" / "tutorials" / "python.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len(blocks) == 4
    names: dict[str, object] = {"jaxgen": jaxgen}
    for block in blocks[1:]:
        exec(compile(block, "python.md", "exec"), names)
    assert names["outputs"].shape[2] == 128
