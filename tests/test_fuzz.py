"""Damaged and absurd input of every kind costs one line and exit code 2, or a place in the data report; never a traceback.

JAXGEN_FUZZ=100 pytest tests/test_fuzz.py tries a hundred times as many inputs.
"""

import contextlib
import csv
import gc
import io
import json
import os
import resource
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import numpy as np
import pytest
import soundfile
from conftest import TINY
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jaxgen import audio
from jaxgen.cli import generate, prepare, train
from jaxgen.core.errors import run
from jaxgen.core.names import display_name
from jaxgen.core.options import _options
from jaxgen.data.folder import Folder
from jaxgen.data.ingest import AudioPolicy
from jaxgen.data.preparation import prepare as prepared
from jaxgen.data.spec import DataSpec
from jaxgen.features import MuLaw
from jaxgen.recipes.presets import load_config, quickstart
from jaxgen.runs.run import build_task

pytestmark = pytest.mark.slow

TIMES = int(os.environ.get("JAXGEN_FUZZ", "1"))
MOST_GROWTH = 400 << 20  # bytes that reading a file of a few kilobytes may add to the process


def fuzzed(examples: int) -> settings:
    """So many inputs, times what the environment asks for."""
    health = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large]
    return settings(max_examples=examples * TIMES, deadline=None, suppress_health_check=health)


def outcome(main: Callable[[], int | None], *arguments: str | Path) -> tuple[int, str]:
    """Exit code and stderr of an entry point; checks that they are those of a mistake or of success."""
    out, err = io.TextIOWrapper(io.BytesIO(), "utf-8"), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        patch.setattr(sys, "argv", ["jaxgen", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            run(main)
    code, text = int(stop.value.code or 0), err.getvalue()
    assert "Traceback" not in text
    assert code in (0, 2), text
    if code == 2:
        assert text.endswith("\n")
        assert text.splitlines()[-1].startswith("jaxgen: "), text
    return code, text


@contextlib.contextmanager
def empty_folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


# -- bytes ----------------------------------------------------------------------------------------------------------

EXTREMES = [0, 1, 2, 255, 2**15, 2**16 - 1, 2**24, 2**31 - 1, 2**31, 2**32 - 1]


@st.composite
def mutated(draw: st.DrawFn, originals: st.SearchStrategy[bytes], head: int = 128) -> bytes:
    """Bytes with some of them overwritten (most often the first `head`), cut, repeated or replaced."""
    content = bytearray(draw(originals))
    for _ in range(draw(st.integers(1, 4))):
        size = len(content)
        place = draw(st.integers(0, min(size, head))) if draw(st.integers(0, 3)) else draw(st.integers(0, size))
        match draw(st.sampled_from(["bytes", "number", "cut", "remove", "repeat", "random"])):
            case "bytes":
                put = draw(st.binary(min_size=1, max_size=4))
                content[place : place + len(put)] = put
            case "number":
                width, order = draw(st.sampled_from([2, 3, 4, 8])), draw(st.sampled_from(["little", "big"]))
                number = draw(st.sampled_from(EXTREMES)) % (1 << 8 * width)
                content[place : place + width] = number.to_bytes(width, order)
            case "cut":
                del content[place:]
            case "remove":
                del content[place : place + draw(st.integers(1, 32))]
            case "repeat":
                content[place:place] = content[place : place + draw(st.integers(1, 64))]
            case "random":
                content[place : place + 64] = draw(st.binary(max_size=64))
    return bytes(content)


def recording(kind: str, subtype: str, channels: int, samples: int) -> bytes:
    sound = np.random.default_rng(samples).uniform(-0.5, 0.5, (samples, channels))
    content = io.BytesIO()
    soundfile.write(content, sound, 8_000, subtype, format=kind)
    return content.getvalue()


KINDS = [
    *[("WAV", subtype) for subtype in ("PCM_U8", "PCM_16", "PCM_24", "FLOAT", "DOUBLE", "ULAW", "IMA_ADPCM", "GSM610")],
    *[("FLAC", subtype) for subtype in ("PCM_S8", "PCM_16", "PCM_24")],
    *[("OGG", "VORBIS"), ("OGG", "OPUS"), ("MP3", "MPEG_LAYER_III"), ("AIFF", "PCM_16"), ("RF64", "PCM_16")],
]
RECORDINGS = st.builds(
    lambda kind, channels, samples: recording(*kind, 1 if kind[1] in ("IMA_ADPCM", "GSM610") else channels, samples),
    st.sampled_from(KINDS),
    st.integers(1, 2),
    st.sampled_from([0, 1, 400, 4_000]),
)


@fuzzed(400)
@given(content=mutated(RECORDINGS) | st.binary(max_size=300))
def test_bytes_that_are_called_audio(content, tmp_path):
    path = tmp_path / "a.wav"
    path.write_bytes(content)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    reason = "none"
    try:
        with audio.open_recording(path) as recording:
            assert audio.LEAST_RATE <= recording.sample_rate <= audio.HIGHEST_RATE
            for block in recording.blocks:
                assert block.dtype == np.float32
                assert block.shape[1] == recording.channels
                assert 0 < block.size < 1 << 20
                assert np.isfinite(block).all()
    except audio.AudioError as error:
        reason = str(error)
    assert 0 < len(reason) < 200
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * (1 if sys.platform == "darwin" else 1024)
    assert grown < MOST_GROWTH


NAMES = st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1, max_size=20)


@fuzzed(25)
@given(contents=st.lists(st.tuples(NAMES | st.just("a\udcff"), mutated(RECORDINGS)), min_size=1, max_size=4))
def test_a_folder_of_damaged_recordings(contents):
    with empty_folder() as folder:
        (folder / "sound").mkdir()
        (folder / "sound" / "good.wav").write_bytes(recording("WAV", "PCM_16", 1, 4_000))
        for index, (name, content) in enumerate(contents):
            (folder / "sound" / f"{index}{name}.wav").write_bytes(content)
        files = {display_name(path.relative_to(folder / "sound").as_posix()) for path in (folder / "sound").iterdir()}
        policy = AudioPolicy(max_refused=1.0)
        store = prepared(Folder(root=str(folder / "sound")), MuLaw(sample_rate=8_000), policy, folder / "cache")
        refused = {entry["name"] for entry in store.report["refused"]}
        assert {clip.name for clip in store.clips} | refused == files
        assert all(np.isfinite(store.samples(index)).all() for index in range(len(store.clips)))
        store.verify()
        assert [path.name for path in (folder / "cache" / "store").iterdir()] == [store.directory.name]


# -- manifests ------------------------------------------------------------------------------------------------------

TEXT = st.text(max_size=12) | st.sampled_from(
    ["a.wav", "b.wav", "gone.wav", "..", "/", "train", "test", "\udcff", "\0"]
)
VALUES = st.recursive(
    TEXT | st.none() | st.booleans() | st.integers() | st.floats(),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(TEXT, inner, max_size=2),
    max_leaves=3,
)
COLUMNS = st.lists(st.sampled_from(["path", "split", "licence", "who", ""]) | TEXT, max_size=4)


@st.composite
def csv_text(draw: st.DrawFn) -> bytes:
    columns = draw(COLUMNS)
    cells = st.lists(TEXT, min_size=len(columns), max_size=len(columns) + draw(st.integers(0, 1)))
    file = io.StringIO()
    csv.writer(file).writerows([columns, *draw(st.lists(cells, max_size=4))])
    return file.getvalue().encode(errors="surrogatepass")


@st.composite
def json_text(draw: st.DrawFn) -> bytes:
    rows = st.dictionaries(st.sampled_from(["path", "split", "licence", "who"]) | TEXT, VALUES, max_size=4)
    named = st.builds(lambda row, path: {**row, "path": path}, rows, st.sampled_from(["a.wav", "b.wav"]))
    lines = [json.dumps(row) for row in draw(st.lists(named | rows | VALUES, max_size=4))]
    deep = "[" * 200_000 if draw(st.integers(0, 9)) == 0 else "\n"
    return ("\n".join(lines) + draw(st.sampled_from(["", "\n", "9" * 5_000 + "\n", deep]))).encode()


GOOD = {
    "manifest.csv": b"path,who,split\na.wav,x,train\nb.wav,y,test\n",
    "manifest.jsonl": b'{"path": "a.wav", "who": "x", "split": "train"}\n{"path": "b.wav", "who": 7}\n',
}


@fuzzed(25)
@given(data=st.data(), name=st.sampled_from(sorted(GOOD)))
def test_manifests(data, name):
    written = csv_text() if name == "manifest.csv" else json_text()
    with empty_folder() as folder:
        sound = folder / "sound"
        sound.mkdir()
        for index, file in enumerate(("a.wav", "b.wav")):
            (sound / file).write_bytes(recording("WAV", "PCM_16", 1, 2_000 + index))
        (sound / name).write_bytes(data.draw(written | mutated(st.just(GOOD[name]))))
        places = ["--data.root", sound, "--workdir", folder / "run", "--cache-dir", folder / "cache"]
        code, _ = outcome(prepare.main, *places, "--audio.max-refused", "1")
        if code == 0:
            report = json.loads((folder / "run" / "data_report.json").read_text())
            assert report["clips"] >= 1
        else:
            assert not (folder / "run").exists()
            assert not list((folder / "cache").glob("store/*"))


# -- options --------------------------------------------------------------------------------------------------------

OPTIONS = _options(quickstart())
CLASSES = ["--data", "--features", "--model", "--model.cell", "--model.distribution", "--data.root", "--config"]
NUMBERS = ["0", "-1", "1", "2", "3", "7", "999", "-0.5", "0.5", "1.5", "1e-320", "1e9", "nan", "inf", "-inf", "1" * 30]
WORDS = [
    *[
        "",
        " ",
        "None",
        "True",
        "LSTM",
        "GRU",
        "RNN",
        "MinGRU",
        "LogMel",
        "MuLaw",
        "WaveRNN",
        "MelRNN",
        "Normal",
        "Folder",
    ],
    *[
        "PluckedStrings",
        "PublicDataset",
        "Categorical",
        "timbre",
        "loss",
        "--",
        "-",
        "--help",
        "--train.steps",
        "\udcff",
        "a\nb",
        "é",
        "٣",
    ],
]


@st.composite
def command_lines(draw: st.DrawFn) -> list[str]:
    """Options that are there, most often with a number, and all else that may stand on a command line."""
    there = st.sampled_from(OPTIONS)
    options = there | there | st.sampled_from(CLASSES) | there.map(lambda option: option[:-1]) | st.sampled_from(WORDS)
    words = (
        st.sampled_from(NUMBERS) | st.sampled_from(WORDS) | st.text(st.characters(exclude_characters="\0"), max_size=6)
    )
    line: list[str] = []
    for _ in range(draw(st.integers(1, 3))):
        option, values = draw(options), draw(st.lists(words, min_size=1, max_size=draw(st.integers(1, 2))))
        line += [f"{option}={values[0]}"] if draw(st.booleans()) else [option, *values]
    return line


@fuzzed(60)
@given(line=command_lines())
def test_options(line, tmp_path):
    def main() -> None:
        config = load_config(sys.argv[1:], "python -m jaxgen.train")
        features = config.features
        dimensions = int(np.prod(features.step_shape)) if features.step_dtype.kind == "f" else 0
        spec = DataSpec(
            features=features,
            vocabularies=tuple((name, ("x", "y")) for name in config.model.labels),
            mean=(0.0,) * dimensions,
            std=(1.0,) * dimensions,
        )
        jax.eval_shape(build_task(config, spec).init, jax.random.key(config.train.seed))

    with contextlib.chdir(tmp_path):
        outcome(main, *line)
    assert not list(tmp_path.iterdir())


# -- runs -----------------------------------------------------------------------------------------------------------


# When one array of a damaged checkpoint cannot be read, orbax drops the readers of the others; they say so when collected.
@pytest.mark.nightly
@pytest.mark.filterwarnings("ignore:Exception ignored in. <coroutine object:pytest.PytestUnraisableExceptionWarning")
@fuzzed(2)
@given(data=st.data())
def test_damaged_runs(data, quickstart, cache):
    with empty_folder() as folder:
        copy = folder / "quickstart"
        shutil.copytree(quickstart, copy)
        (copy / "report.json").unlink()  # so that training has something left to do
        files = sorted(path.relative_to(copy).as_posix() for path in copy.rglob("*") if path.is_file())
        for _ in range(data.draw(st.integers(1, 3))):
            path = copy / data.draw(st.sampled_from(files))
            match data.draw(st.sampled_from(["mutate", "remove", "remove folder", "empty folder"])):
                case "mutate" if path.is_file():
                    path.write_bytes(data.draw(mutated(st.just(path.read_bytes()))))
                case "remove":
                    path.unlink(missing_ok=True)
                case "remove folder" | "empty folder" as how if path.parent != copy:
                    shutil.rmtree(path.parent, ignore_errors=True)
                    if how == "empty folder":
                        path.parent.mkdir(parents=True)
        asked = ["--workdir", copy, "--num", "1", "--seconds", "0.2", "--out", folder / "out"]
        code, _ = outcome(generate.main, *asked)
        made = sorted(path.suffix for path in folder.glob("out/*"))
        assert made == ([".json", ".wav"] if code == 0 else [])
        code, _ = outcome(train.main, *TINY, "--workdir", copy, "--cache-dir", cache)
        if code == 0:
            json.loads((copy / "report.json").read_text())
    gc.collect()
