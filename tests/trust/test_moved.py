"""A run whose data moved, or whose caches are elsewhere, is opened, measured and continued."""

import functools
import shutil
from pathlib import Path

import numpy as np
import pytest

from jaxgen import audio
from jaxgen.core.errors import UserError
from jaxgen.core.serial import differences
from jaxgen.data.preparation import prepare
from jaxgen.data.public import PublicDataset
from jaxgen.data.synthetic import PluckedStrings
from jaxgen.recipes.presets import load_config
from jaxgen.runs.evaluation import _training_data
from jaxgen.runs.run import Run
from jaxgen.runs.saved_run import _MAY_DIFFER


@pytest.fixture
def run(cache, tmp_path) -> Run:
    """One that was trained on recordings in the folder `before`."""
    before = tmp_path / "before"
    before.mkdir()
    for index, clip in enumerate(PluckedStrings(num_clips=6, seconds=0.3).clips()):
        audio.write(before / f"{index}.wav", clip.load().samples[:, 0], 8_000)
    config = load_config(["--data.root", str(before), "--cache-dir", str(cache)], "test")
    spec = prepare(config.data, config.features, config.audio, cache).spec(())
    return Run(Path("run"), 1, config, spec, task=None, params=None)  # type: ignore[arg-type]


def test_data_is_found_where_it_was_or_where_it_is_now(run, cache, tmp_path, capsys):
    found = functools.partial(_training_data, run, cache_dir=str(cache))
    before, after, other = (tmp_path / name for name in ("before", "after", "other"))
    other.mkdir()
    audio.write(other / "other.wav", np.full(4_000, 0.1, np.float32), 8_000)
    assert found(None)[1] is None
    assert found(str(other))[1] == str(other)  # it is test data
    assert capsys.readouterr().err == ""

    before.rename(after)
    store, test_data = found(str(after))
    assert (store.manifest_hash, test_data) == (run.spec.manifest_hash, None)
    assert "its validation clips are held out" in capsys.readouterr().err
    shutil.copytree(other, before)  # there is something else now
    assert found(str(after))[1] is None
    with pytest.raises(UserError, match=r"changed since .* If it has moved, pass --data.root its new folder"):
        found(None)
    for root in (other, before, tmp_path / "nowhere"):
        with pytest.raises(UserError, match=r"cannot be read again.*Nor does --data.root hold it"):
            found(str(root))


def test_where_data_and_caches_are_makes_no_other_run():
    here, there = PublicDataset(root="a", cache_dir="~/.cache"), PublicDataset(root="/b", cache_dir="/home/of/another")
    assert differences(here, there, _MAY_DIFFER, "data") == []
