"""Any number of clips: in batches, the same as if they were few, each whole wherever a signal ends them."""

import json
import signal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxgen import audio
from jaxgen.cli import generate
from jaxgen.core.errors import UserError
from jaxgen.inference.generation import Generator
from jaxgen.runs.run import Run

pytestmark = pytest.mark.slow


def wavs(folder):
    return sorted(folder.glob("*.wav"))


def test_the_first_clips_of_many_are_those_of_few(quickstart, command, tmp_path):
    """Also where batches are of other sizes, but for rounding, and of the last one, which is shorter."""

    def made(name, *options):
        asked = ("--workdir", quickstart, "--seconds", "0.2", "--seed", "3", "--out", tmp_path / name)
        code, out, _ = command(generate.main, *asked, *map(str, options))
        assert code == 0
        assert f"{options[1]} clips in" in out
        return wavs(tmp_path / name)

    few, many = made("few", "--num", 2), made("many", "--num", 7, "--batch-size", 2)
    assert [path.name[:4] for path in many] == [f"{n:03d}_" for n in range(7)]  # and its labels, which are drawn
    whole = made("whole", "--num", 7)
    for path, same in [*zip(few, many, strict=False), *zip(many, whole, strict=True)]:
        np.testing.assert_allclose(audio.read(path).samples, audio.read(same).samples, atol=1e-3)
        marks = (json.loads(each.with_suffix(".json").read_text()) for each in (path, same))
        assert next(marks) == next(marks)
    sounds = [audio.read(path).samples.tobytes() for path in many]
    assert len(set(sounds)) == 7


@given(st.integers(1, 10**6).flatmap(lambda n: st.tuples(st.just(n), st.lists(st.integers(0, n - 1), max_size=4))))
@settings(max_examples=20, deadline=None)
def test_names_sort_as_clips_were_made(quickstart_run, tmp_path_factory, drawn):
    folder, total = tmp_path_factory.mktemp("clips"), drawn[0]
    places = sorted({0, total - 1, *drawn[1]})
    for place in places:
        quickstart_run.save_clips(folder, [np.zeros(1, np.float32)], [{}], seed=0, first=place, total=total)
    assert [json.loads(path.with_suffix(".json").read_text())["clip"] for path in wavs(folder)] == places


@pytest.fixture(scope="module")
def quickstart_run(quickstart):
    return Run.open(quickstart)


def test_a_signal_ends_many_clips_between_two_blocks(quickstart, command, tmp_path, monkeypatch):
    """What batches before have made stays, the batch under way is kept as far as it goes, no other one begins."""
    begun = []

    def stream(self, params, labels, *, first, **_):
        begun.append(first)
        for block in range(3):
            if first == 40 and block == 1:
                signal.raise_signal(signal.SIGTERM)
            yield [np.full(50, 0.5, np.float32)] * len(labels)

    monkeypatch.setattr(Generator, "stream", stream)
    asked = ("--workdir", quickstart, "--num", "30000", "--batch-size", "20", "--out", tmp_path / "out")
    code, out, err = command(generate.main, *asked)
    assert code == 130
    assert begun == [0, 20, 40]
    assert "60 clips in" in out
    assert "the clips end where they were, 29940 are missing" in err
    made = wavs(tmp_path / "out")
    assert [path.name[:6] for path in made] == [f"{n:05d}_" for n in range(60)]
    assert len(list((tmp_path / "out").iterdir())) == 120
    assert [len(audio.read(made[n]).samples) for n in (0, 39, 40, 59)] == [150, 150, 100, 100]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("digit=3", "digit=5"), "says digit twice, '3' and '5'"),
        (("digit=3", "word=a", "digit=3"), "says digit twice"),
        (("digit=",), "expected name=value"),
        (("=3",), "expected name=value"),
        (("digit",), "expected name=value"),
        (("",), "expected name=value"),
    ],
)
def test_a_label_that_is_half_said_or_said_twice_is_one_line(words, message):
    with pytest.raises(UserError, match=message):
        generate.named_values(words, "--label")


def test_labels_are_as_they_are_said():
    assert generate.named_values(("a=1", "b=x=y", "c= "), "--label") == {"a": "1", "b": "x=y", "c": " "}
