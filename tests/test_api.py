"""jaxgen from Python and as one command: the same runs, clips and figures as by `python -m jaxgen.train` and the like."""

import json
import subprocess
import sys

import numpy as np
import pytest
from conftest import TINY

import jaxgen
from jaxgen import UserError, audio
from jaxgen.cli import command as console
from jaxgen.cli import evaluate, generate
from jaxgen.recipes.presets import quickstart as quickstart_config

pytestmark = pytest.mark.slow

OVERRIDES = dict(zip((option.removeprefix("--") for option in TINY[::2]), TINY[1::2], strict=True))


@pytest.fixture(scope="module")
def run(tmp_path_factory, cache):
    return jaxgen.train(workdir=tmp_path_factory.mktemp("runs") / "mine", overrides=OVERRIDES, cache_dir=str(cache))


def test_a_run_trained_from_python_is_that_of_the_command(run, quickstart, cache):
    theirs = jaxgen.load(quickstart, cache_dir=str(cache))
    assert run.run.step == theirs.run.step
    ours, other = (each.generate(2, seconds=0.2, seed=5).samples for each in (run, theirs))
    for a, b in zip(ours, other, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.nightly
def test_a_config_is_a_file_or_a_value(run, cache, tmp_path):
    options = OVERRIDES | {"train.steps": 2, "train.eval-every": 2}
    given = jaxgen.train(quickstart_config(), workdir=tmp_path / "a", overrides=options, cache_dir=str(cache))
    assert given.run.step == 2
    (tmp_path / "mine.py").write_text("from jaxgen.recipes.presets import quickstart\n\nCONFIG = quickstart()\n")
    read = jaxgen.train(tmp_path / "mine.py", workdir=tmp_path / "b", overrides=options, cache_dir=str(cache))
    np.testing.assert_array_equal(read.generate(1).samples[0], given.generate(1).samples[0])
    again = jaxgen.train(tmp_path / "mine.py", workdir=tmp_path / "b", overrides=options, cache_dir=str(cache))
    assert again.run.step == 2  # there was nothing to do
    with pytest.raises(UserError, match=r"unknown option --train\.stepps; did you mean --train\.steps\?"):
        jaxgen.train(overrides={"train.stepps": 3})
    with pytest.raises(UserError, match="the config names no workdir"):
        jaxgen.train(quickstart_config())


def test_clips_are_those_of_the_command(run, command, cache, tmp_path):
    clips = run.generate(3, labels={"timbre": "steel", "tempo": 120}, seconds=0.3, seed=4, temperature=0.7)
    assert (len(clips), clips.sample_rate) == (3, 8_000)
    asked = (
        "--label",
        "timbre=steel",
        "--label",
        "tempo=120",
        "--seconds",
        "0.3",
        "--seed",
        "4",
        "--temperature",
        "0.7",
    )
    options = ("--workdir", run.workdir, "--num-clips", "3", "--out", tmp_path / "by_command", "--cache-dir", cache)
    assert command(generate.main, *options, *asked)[0] == 0
    ours, theirs = clips.save(tmp_path / "by_python"), sorted((tmp_path / "by_command").glob("*.wav"))
    assert [path.name for path in ours] == [path.name for path in theirs]
    for a, b in zip(ours, theirs, strict=True):
        assert a.read_bytes() == b.read_bytes()
        assert a.with_suffix(".json").read_text() == b.with_suffix(".json").read_text()


def test_some_clips_keep_their_places_and_a_notebook_plays_them(run, tmp_path):
    clips = run.generate(3, labels={"timbre": "nylon"}, seconds=0.2)
    (path,) = clips[1].save(tmp_path)
    assert json.loads(path.with_suffix(".json").read_text())["clip"] == 1
    np.testing.assert_allclose(audio.read(path).samples[:, 0], clips.samples[1], atol=2**-15)
    assert [len(some) for some in (clips[1:], clips[-1], clips[:0])] == [2, 1, 0]
    page = clips._repr_html_()
    assert page.count("<audio controls") == 3
    assert "timbre: nylon" in page


def test_figures_are_those_of_the_command(run, command, cache, tmp_path):
    found = run.evaluate(num_clips=2, out=tmp_path / "by_python")
    options = ("--workdir", run.workdir, "--num-clips", "2", "--out", tmp_path / "by_command", "--cache-dir", cache)
    assert command(evaluate.main, *options)[0] == 0
    theirs = json.loads((tmp_path / "by_command" / "report.json").read_text())["metrics"]
    for name, value in found.items():
        assert name == "real_time_factor" or theirs.get(name) in (None, pytest.approx(value))
    assert found["loss"] == theirs["loss"]
    assert found.report == str(tmp_path / "by_python" / "report.html")
    assert (tmp_path / "by_python" / "report.html").is_file()


def test_the_module_is_a_flax_module_with_the_parameters(run):
    from flax import nnx

    assert isinstance(run.module, nnx.Module)


def test_mistakes_are_those_of_the_command(run, tmp_path):
    with pytest.raises(UserError, match="no checkpoint in"):
        jaxgen.load(tmp_path)
    for options, said in (
        ({"labels": {"timbre": "glass"}}, "'glass' was never seen in training"),
        ({"truncation": 0.5}, "predicts one step after another; leave out --truncation"),
        ({"num_clips": 0}, "--num-clips is 0"),
    ):
        with pytest.raises(UserError, match=said):
            run.generate(**options)


def test_one_command_has_all_verbs(command):
    assert command(console.main, "--version") == (0, f"jaxgen {jaxgen.__version__}\n", "")
    code, out, _ = command(console.main)
    assert code == 0
    assert all(verb in out for verb in console.VERBS)
    code, _, err = command(console.main, "trian")
    assert (code, "there is no verb 'trian', expected one of train," in err) == (2, True)


def test_the_module_is_the_command():
    line = [sys.executable, "-m", "jaxgen", "generate", "--num-clips", "0", "--workdir", "w"]
    done = subprocess.run(line, capture_output=True, text=True)
    assert (done.returncode, done.stderr.strip()) == (2, "jaxgen: --num-clips is 0, expected at least 1 clip.")
