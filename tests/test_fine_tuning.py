"""A run starts from another one's parameters, and some stay as they are."""

import json
import re

import jax
import numpy as np
import pytest
from conftest import TINY

from jaxgen.cli import train
from jaxgen.core.errors import UserError
from jaxgen.runs import training
from jaxgen.runs.run import Run
from jaxgen.training.fine_tuning import parameters_by_path, take_parameters

pytestmark = pytest.mark.slow


@pytest.fixture
def tune(command, cache, tmp_path, quickstart):
    """Trains a run from the quickstart with further options: its exit code, stderr and folder."""

    def call(*options, name="tuned", source=quickstart):
        asked = [*TINY, "--init-from", source, "--workdir", tmp_path / name, "--cache-dir", cache, *options]
        code, _, err = command(train.main, *asked)
        return code, err, tmp_path / name

    return call


def test_it_starts_where_the_other_ended(tune, quickstart):
    code, err, folder = tune("--objective.optimizer.learning-rate", "1e-30", "--objective.ema-decay", "0")
    assert code == 0
    theirs, ours = (parameters_by_path(Run.open(each).params) for each in (quickstart, folder))
    assert f"{len(ours)} of {len(ours)} parameters are taken" in err
    for path, array in ours.items():
        np.testing.assert_array_equal(array, theirs[path])


@pytest.mark.nightly
def test_what_does_not_fit_is_told_and_new(tune):
    code, err, _ = tune("--model.num-layers", "2", "--model.labels", "timbre")
    assert code == 0
    (line,) = re.findall("starting from .*", err)
    for said in ("parameters are taken", "new, as it is not there: ", "new, as it has another size: ", "left: "):
        assert said in line


@pytest.mark.nightly
def test_only_some_are_taken(tune, quickstart):
    _, err, _ = tune("--init-only", "^stack/")
    wanted = [path for path in parameters_by_path(Run.open(quickstart).params) if path.startswith("stack/")]
    assert f"{len(wanted)} of " in err
    code, err, _ = tune("--init-only", "nothing", name="b")
    assert (code, "no parameter of --init-from fits --init-only nothing" in err) == (2, True), err
    code, err, _ = tune("--init-only", "(", name="c")
    assert (code, "--init-only is '(', which is no regular expression" in err) == (2, True), err


def test_frozen_parameters_do_not_change_and_others_do(tune, quickstart):
    code, _, folder = tune("--freeze", "^stack/", "--objective.ema-decay", "0")
    assert code == 0
    theirs, ours = (parameters_by_path(Run.open(each).params) for each in (quickstart, folder))
    changed = {path for path in ours if not np.array_equal(ours[path], theirs[path])}
    assert changed
    assert not [path for path in changed if path.startswith("stack/")]
    code, err, _ = tune("--freeze", "nothing", name="b")
    assert (code, "--freeze is 'nothing', which no parameter matches; there are " in err) == (2, True), err


@pytest.mark.nightly
def test_it_resumes_without_the_other_run(tune, tmp_path, quickstart, monkeypatch):
    code, _, folder = tune("--freeze", "^stack/")
    assert code == 0
    expected = (folder / "metrics.jsonl").read_text()
    for path in sorted((folder / "checkpoints" / "6").rglob("*"), reverse=True):
        path.unlink() if path.is_file() else path.rmdir()
    (folder / "checkpoints" / "6").rmdir()
    (folder / "report.json").unlink()
    monkeypatch.setattr(Run, "open", classmethod(_only(folder, Run.open)))
    code, err, _ = tune("--freeze", "^stack/")
    assert code == 0, err
    losses = [
        [row["loss"] for row in map(json.loads, text.splitlines())]
        for text in (expected, (folder / "metrics.jsonl").read_text())
    ]
    assert losses[0] == losses[1]


def _only(folder, open_run):
    def call(cls, workdir, *arguments, **options):
        assert workdir == folder
        return open_run(workdir, *arguments, **options)

    return call


def test_a_start_that_is_none_is_told_before_data_is_read(command, tmp_path, monkeypatch):
    monkeypatch.setattr(training, "prepare", lambda *_: pytest.fail("data was read"))
    code, _, err = command(
        train.main, *TINY, "--init-from", tmp_path, "--workdir", tmp_path / "run", "--cache-dir", tmp_path / "cache"
    )
    assert code == 2
    assert err == f"jaxgen: no run at '{tmp_path}'. Pass --init-from the folder of a run of jaxgen.train.\n"


def test_a_generator_starts_from_another_one():
    """Of two sides, the one that generates; its average is what was saved."""
    own = {"a": {"x": jax.ShapeDtypeStruct((2,), np.float32)}}
    taken = take_parameters(own, {"a": {"x": np.ones(2, np.float32)}, "b": np.ones(3)}, "")
    assert list(taken.average) == ["a/x"]
    assert taken.told == ("1 of 1 parameters are taken", "left: b")
    with pytest.raises(UserError, match="no parameter of --init-from fits"):
        take_parameters(own, {"b": np.ones(3)}, "")
