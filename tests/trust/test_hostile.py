"""Runs and stores from strangers: opening them imports, starts and writes nothing that opening a healthy one does not."""

import contextlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import TINY, nightly

from jaxgen.cli import evaluate, generate, train
from jaxgen.core.errors import UserError
from jaxgen.core.files import read_checksummed, write_checksummed
from jaxgen.data.store import Store
from jaxgen.runs.run import Run
from jaxgen.training.checkpoint_seals import seal

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent.parent

_STARTS = ("subprocess.", "os.exec", "os.posix_spawn", "os.spawn", "os.system", "os.fork", "os.startfile", "pty.")
_CHANGES = (
    "os.mkdir",
    "os.rename",
    "os.remove",
    "os.rmdir",
    "os.link",
    "os.symlink",
    "os.chmod",
    "os.truncate",
    "shutil.",
)
_LOADS = ("import", "ctypes.dlopen", "compile", "exec", "marshal.load", "pickle.find_class")
_TALKS = ("socket.connect", "socket.getaddrinfo", "socket.sendto", "urllib.")
_SEEN: list[list[tuple]] = []


def _hook(event, arguments):
    if not _SEEN or not event.startswith((*_STARTS, *_CHANGES, *_LOADS, *_TALKS, "open")):
        return
    if event == "open":
        path, mode, flags = arguments
        if not (isinstance(mode, str) and set(mode) & set("wax+")) and not (flags or 0) & (os.O_WRONLY | os.O_RDWR):
            return
        _SEEN[-1].append(("write", str(path)))
    elif event == "import":
        _SEEN[-1].append((event, arguments[0]))
    elif event == "exec":  # dataclasses and libraries make functions; what a file holds has its name
        _SEEN[-1].append((event, getattr(arguments[0], "co_filename", "")))
    elif event != "compile":
        _SEEN[-1].append((event, str(arguments[0])))


@pytest.fixture(scope="module", autouse=True)
def _audit():
    sys.addaudithook(_hook)  # which can never be removed, and does nothing outside of `events`


@contextlib.contextmanager
def events():
    _SEEN.append([])
    try:
        yield _SEEN[-1]
    finally:
        _SEEN.pop()


@pytest.fixture
def run(quickstart, tmp_path):
    """A copy of a run, with one checkpoint."""
    shutil.copytree(quickstart / "checkpoints" / "6", tmp_path / "run" / "checkpoints" / "6")
    return tmp_path / "run"


def reseal(run, change):
    """Changes what the run's checkpoint says of it, under a seal that fits."""
    path = run / "checkpoints" / "6" / "run" / "metadata"
    content = json.loads(path.read_text())["content"]
    change(content["of"]["config"], content["of"])
    path.write_text(json.dumps(seal(content)))


def _class(path, name, /, **fields):
    def change(config, _):
        holder = config
        for key in path[:-1]:
            holder = holder[key]
        holder[path[-1]] = {"class": name, **fields}

    return change


def _set(*path, to):
    def change(config, of):
        holder = {"config": config, "of": of}
        for key in path[:-1]:
            holder = holder[key]
        holder[path[-1]] = to

    return change


def _code(config, of):
    of["code"] = {"class": "CodeManifest", "config_file": "evil.py", "files": {"evil.py": "0" * 64}}
    config["model"] = {"class": "jaxgen_config_evil.Evil"}


HOSTILE = {
    "code of its own": _code,
    "code that is none": _set("of", "code", to={"class": "CodeManifest", "config_file": 3, "files": ["evil.py"]}),
    "a command as the model": _class(["model"], "subprocess.getoutput", cmd="touch PWNED"),
    "a command as the data": _class(["data"], "os.system", command="touch PWNED"),
    "a module that does something": _class(["model"], "antigravity.X"),
    "a module beside the command": _class(["features"], "evil.Features"),
    "a function of jaxgen": _class(["data"], "jaxgen.config.load", path="evil.py"),
    "a command within a metric": _set("config", "evaluation", "metrics", to=[{"class": "builtins.exec", "x": "1"}]),
    "code within a label": _set("config", "model", "labels", to=["__import__('os').system('touch PWNED')"]),
    "a list for the config": _set("of", "config", to=[]),
    "nothing for the data": _set("of", "data", to=None),
    "numbers out of range": _set("config", "model", "cell", "hidden_size", to=10**400),
    "a negative size": _set("config", "model", "cell", "hidden_size", to=-5),
    "other features": _set("of", "data", "mean", to=[0.0, 1.0]),
    "no features": _set("of", "data", "features", "n_mels", to=1),
    "another size": _set("config", "model", "cell", "hidden_size", to=9),
    "a million layers": _set("config", "model", "num_layers", to=10**6),
}


@pytest.mark.usefixtures("all_loaded")
@pytest.mark.parametrize("change", HOSTILE.values(), ids=HOSTILE)
def test_opening_a_hostile_run_does_no_more_than_opening_a_healthy_one(run, change, monkeypatch, tmp_path):
    (tmp_path / "evil.py").write_text("open('PWNED', 'w')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    Run.open(run)
    with events() as healthy:
        Run.open(run)
    reseal(run, change)
    with events() as seen, pytest.raises(UserError) as told:
        Run.open(run)
    assert "\n" not in str(told.value)
    assert set(seen) <= set(healthy)
    assert not any(event == "write" or event.startswith((*_STARTS, *_CHANGES, *_TALKS)) for event, _ in healthy)
    assert not (tmp_path / "PWNED").exists()


def test_the_caller_alone_says_where_programs_come_from_and_files_go(run, command, tmp_path, monkeypatch, cache):
    """A run names a cache, a folder of downloads, a working folder and other machines of its own."""
    elsewhere = tmp_path / "elsewhere"
    places = {"workdir": str(elsewhere), "cache_dir": str(elsewhere), "profile": "0:9", "coordinator": "evil:1"}
    reseal(run, lambda config, _: config.update(places, distributed="on", num_processes=2, process_id=1))
    kept = []
    monkeypatch.setattr("jaxgen.runs.run.enable_compilation_cache", kept.append)
    shutil.copy(run.parent.joinpath("run", "checkpoints", "6", "run", "metadata"), tmp_path / "metadata")
    asked = ("--workdir", run, "--cache-dir", cache)
    with events() as seen:
        code, _, err = command(generate.main, *asked, "--num", "1", "--seconds", "0.2", "--out", tmp_path / "clips")
        assert code == 0, err
        code, _, err = command(evaluate.main, *asked, "--num-clips", "2", "--out", tmp_path / "report")
        assert code == 0, err
    assert kept == [str(cache)] * 2
    assert not elsewhere.exists()
    own = tuple(map(str, (tmp_path / "clips", tmp_path / "report", cache, os.environ["JAX_COMPILATION_CACHE_DIR"])))
    written = {path for event, path in seen if event == "write" or event.startswith(_CHANGES)}
    # What is removed by a name alone is in a folder that is removed, too.
    assert {
        path for path in written if path.startswith("/") and not path.startswith((*own, "/dev/null", "/proc/"))
    } == set()
    assert not [each for each in seen if each[0].startswith((*_STARTS, *_TALKS))]


@pytest.mark.parametrize(
    "name", ["generated", "checkpoints", "starts.jsonl", *map(nightly, ("evaluation", "tensorboard", "metrics.jsonl"))]
)
def test_nothing_is_written_through_a_link_that_leads_out_of_a_run(name, run, command, tmp_path, cache):
    elsewhere = tmp_path / "elsewhere"
    if (run / name).exists():
        (run / name).rename(elsewhere)
    else:
        elsewhere.mkdir()
    (run / name).symlink_to(elsewhere)
    asked = {
        "generated": (generate.main, "--num-clips", "1", "--seconds", "0.2"),
        "evaluation": (evaluate.main, "--num-clips", "2"),
    }.get(name, (train.main, *TINY))
    (run / "report.json").unlink(missing_ok=True)  # else there is nothing to do
    with events() as seen:
        code, _, err = command(*asked, "--workdir", run, "--cache-dir", cache)
    assert (code, err.count("jaxgen: ")) == (2, 1), err
    assert f"{name}' is a link that leads out of its folder, to '{elsewhere}'" in err
    assert not [path for event, path in seen if path.startswith(str(elsewhere)) and event == "write"]


def test_a_run_names_no_file_that_is_read(run, tmp_path):
    """Such as a classifier, which would decide its figures."""
    named = {"class": "ClassifierMetrics", "classifier": str(tmp_path / "evil.npz")}
    reseal(run, _set("config", "evaluation", "metrics", to=[named]))
    (metric,) = Run.open(run).config.evaluation.metrics
    assert metric.classifier == ""


@pytest.mark.parametrize("module", ["numpy", "json", *map(nightly, ("typing", "soxr", "jax", "dataclasses"))])
def test_code_beside_a_strangers_recordings_does_not_run(module, tmp_path):
    """`python -m` looks for modules in the current folder."""
    (tmp_path / f"{module}.py").write_text("open('PWNED', 'w').close()")
    line = [sys.executable, "-m", "jaxgen.prepare", "--data.root", ".", "--workdir", "out"]
    done = subprocess.run(
        line, cwd=tmp_path, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)}
    )
    assert not (tmp_path / "PWNED").exists()
    assert (done.returncode, done.stderr.startswith("jaxgen: no audio in")) == (2, True), done.stderr


@pytest.mark.parametrize("name", ["../../../secret", "/etc/passwd", "d/../../x", ""])
def test_a_checkpoint_names_no_file_outside_of_it(run, name):
    path = run / "checkpoints" / "6" / "state" / "hashes.json"
    content = json.loads(path.read_text())["content"]
    content["sha256"][name] = "0"
    path.write_text(json.dumps(seal(content)))
    with events() as seen, pytest.raises(UserError):
        Run.open(run)
    assert not seen


@pytest.mark.parametrize(
    "change",
    [
        lambda index: index["features"].update({"class": "subprocess.getoutput", "cmd": "touch PWNED"}),
        lambda index: index["clips"][0].update({"class": "os.system"}),
        lambda index: index["clips"].__setitem__(0, {}),
        lambda index: index["clips"][0].update(num_samples="9"),
        lambda index: index["clips"][0].update(fields=["digit"]),
        lambda index: index["features"].update(n_fft=10**400),
    ],
)
@pytest.mark.usefixtures("all_loaded")
def test_opening_a_hostile_store_does_no_more_than_opening_a_healthy_one(mel_store, tmp_path, monkeypatch, change):
    monkeypatch.chdir(tmp_path)
    folder = shutil.copytree(mel_store.directory, tmp_path / "store")
    with events() as healthy:
        Store(folder)
    index = json.loads(read_checksummed(folder / "index.json"))
    change(index)
    write_checksummed(folder / "index.json", json.dumps(index))
    with events() as seen, pytest.raises(UserError):
        Store(folder)
    assert set(seen) <= set(healthy)
    assert not (tmp_path / "PWNED").exists()


CONFIG = '''
import dataclasses
from jaxgen.models.mel_rnn import MelRNN
from jaxgen.recipes.presets import quickstart

@dataclasses.dataclass(frozen=True)
class Mine(MelRNN):
    """A model of the user's own."""

mine = quickstart()
model = Mine(**{f.name: getattr(mine.model, f.name) for f in dataclasses.fields(MelRNN)})
CONFIG = dataclasses.replace(mine, model=model)
'''


def test_a_model_of_a_config_file_is_opened_where_the_caller_passes_that_file(run, command, tmp_path):
    (tmp_path / "mine.py").write_text(CONFIG)
    reseal(run, lambda config, _: config["model"].update({"class": "jaxgen_config_mine.Mine"}))
    asked = ("--workdir", run, "--num", "1", "--seconds", "0.2", "--out", tmp_path / "clips", "--cache-dir", tmp_path)
    code, _, err = command(generate.main, *asked)
    assert code == 2
    assert err.count("\n") == 1
    assert 'model.class is "jaxgen_config_mine.Mine"' in err
    assert "pass --config the file that defines the class, if you trust that file: it is code" in err
    code, _, err = command(generate.main, *asked, "--config", tmp_path / "mine.py")
    assert code == 0, err
