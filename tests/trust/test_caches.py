"""Caches: whatever befalls their files, what is read of them is what was written, or is made anew, and that is told."""

import concurrent.futures
import contextlib
import errno
import io
import json
import os
import shutil
import stat
import threading
from pathlib import Path

import jax
import numpy as np
import pytest
import soundfile
from conftest import TINY
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jaxgen import audio
from jaxgen.core import compilation_cache, files
from jaxgen.core.errors import TryAgain, UserError
from jaxgen.core.files import Corrupt, read_checksummed, write_checksummed
from jaxgen.data import blocks, preparation
from jaxgen.data.folder import Folder
from jaxgen.data.ingest import AudioPolicy
from jaxgen.data.preparation import prepare
from jaxgen.data.store import Store
from jaxgen.evaluation import classifier_training
from jaxgen.evaluation.classifier import FORMAT, ClassifierTraining, LabelClassifier, init_params
from jaxgen.features import MuLaw

pytestmark = pytest.mark.slow

FEATURES = MuLaw(sample_rate=8_000)
MAY_PASS = [
    *(errno.EIO, errno.ESTALE, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN, errno.ETIMEDOUT),
    *(errno.EREMOTEIO, errno.ENOTCONN, errno.EHOSTDOWN, errno.ENOBUFS, errno.EBUSY),
]

repeatedly = settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(autouse=True)
def _at_once(monkeypatch):
    monkeypatch.setattr(files, "_WAITS", (0.0, 0.0, 0.0))
    monkeypatch.setattr(blocks, "_LOOK_EVERY", 0.0)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Folder:
    root = tmp_path_factory.mktemp("sound")
    for index in range(4):
        sound = np.random.default_rng(index).uniform(-0.5, 0.5, 700 + 40 * index)
        soundfile.write(root / f"{index}_a.wav", sound, 8_000, subtype="FLOAT")
    return Folder(root=str(root), pattern="{digit}_{speaker}")


@pytest.fixture
def made(data, tmp_path) -> Store:
    return _prepared(data, tmp_path)


def _prepared(data: Folder, cache: Path) -> Store:
    return prepare(data, FEATURES, AudioPolicy(), cache)


def _content(found: Store) -> object:
    arrays = [[array.tolist() for array in (found.samples(i), found.steps(i))] for i in range(len(found.clips))]
    return arrays, found.clips, found.spec(("digit",)), found.report


@st.composite
def damages(draw: st.DrawFn) -> str:
    """Python that turns `whole`, the bytes of a file, into others."""
    place, byte = draw(st.floats(0, 0.999)), draw(st.integers(1, 255))
    return draw(
        st.sampled_from(
            [
                f"(at := int({place} * len(whole)), whole[:at] + bytes([whole[at] ^ {byte}]) + whole[at + 1 :])[1]",
                f"whole[: int({place} * len(whole))]",
                f"whole + bytes([{byte}]) * {byte}",
                f"(at := int({place} * len(whole)), whole[:at] + bytes(len(whole) - at))[1]",
                "b''",
                "whole[::-1]",
            ]
        )
    )


def _harm(path: Path, damage: str) -> bool:
    """Whether the file has changed."""
    whole = path.read_bytes()
    changed = eval(damage, {"whole": whole})
    path.write_bytes(changed)
    return changed != whole


@repeatedly
@given(name=st.sampled_from(["index.json", "samples.bin", "steps.bin"]), damage=damages())
def test_a_damaged_store_is_made_anew_and_told(name, damage, made, data, tmp_path, capsys):
    expected = _content(_prepared(data, tmp_path))
    capsys.readouterr()
    changed = _harm(made.directory / name, damage)
    assert _content(_prepared(data, tmp_path)) == expected
    told = capsys.readouterr().err
    assert told.count("\n") == changed
    assert ("made anew" in told) == changed
    assert {path.name for path in made.directory.parent.glob("[!.]*")} == {made.directory.name}


def test_two_that_find_one_store_damaged_end_with_one_whole_one(made, data, tmp_path, monkeypatch, capsys):
    expected = _content(_prepared(data, tmp_path))
    _harm(made.directory / "steps.bin", "whole[::-1]")
    verify, both = Store.verify, threading.Barrier(2, timeout=60)

    def verify_together(found: Store) -> None:
        with contextlib.suppress(threading.BrokenBarrierError):
            both.wait()
        both.abort()  # later ones do not wait
        verify(found)

    monkeypatch.setattr(Store, "verify", verify_together)
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        found = [_content(store) for store in pool.map(lambda _: _prepared(data, tmp_path), range(2))]
    assert found == [expected, expected]
    assert capsys.readouterr().err.count("made anew") == 1


@pytest.mark.parametrize("name", ["index.json", "samples.bin", "steps.bin", ""])
def test_a_store_that_lacks_a_file(name, made, data, tmp_path, capsys):
    expected = _content(made)
    if name:
        (made.directory / name).unlink()
    else:
        shutil.rmtree(made.directory)
        made.directory.write_text("a file in its place")
    assert _content(_prepared(data, tmp_path)) == expected
    assert capsys.readouterr().err.count("made anew") == 1


OTHER = st.one_of(
    *(st.none(), st.booleans(), st.integers(), st.just(10**400), st.floats(), st.text()),
    *(
        st.just([]),
        st.just({}),
        st.just({"class": 5}),
        st.just({"class": "subprocess.getoutput", "cmd": "touch PWNED"}),
    ),
)


@repeatedly
@given(change=st.data())
def test_an_index_with_another_value_is_not_believed(change, made, data, tmp_path, capsys):
    expected, place = _content(_prepared(data, tmp_path)), made.directory / "index.json"
    index = json.loads(read_checksummed(place))
    key = change.draw(st.sampled_from(sorted(index)))
    index[key] = change.draw(OTHER.filter(lambda other: other != index[key]))
    seal = place.read_bytes().splitlines()[-1]
    place.write_bytes(json.dumps(index).encode() + b"\n" + seal + b"\n")
    capsys.readouterr()
    assert _content(_prepared(data, tmp_path)) == expected
    assert capsys.readouterr().err.count("made anew") == 1


SEALED = {
    "another key": lambda index: index.update(key="0" * 24),
    "no hashes": lambda index: index.update(hashes={}),
    "a number for clips": lambda index: index.update(clips=5),
    "no clips": lambda index: index.update(clips=[]),
    "text for a mean": lambda index: index.update(mean="abc"),
    "a mean of another size": lambda index: index.update(mean=[0.0]),
    "a number for what was refused": lambda index: index.update(refused=5),
    "other labels": lambda index: index["clips"][0]["fields"].update(licence="none"),
    "a clip beyond the end": lambda index: index["clips"][1].update(step_offset=10**12),
    "a clip before the start": lambda index: index["clips"][1].update(sample_offset=-5),
    "other features": lambda index: index["features"].update(sample_rate=index["features"]["sample_rate"] * 2),
}


@pytest.mark.parametrize("change", SEALED.values(), ids=SEALED)
def test_nor_is_one_that_somebody_has_sealed(change, made, data, tmp_path):
    expected, place = _content(made), made.directory / "index.json"
    index = json.loads(read_checksummed(place))
    change(index)
    write_checksummed(place, json.dumps(index))
    assert _content(_prepared(data, tmp_path)) == expected


def test_what_is_refused_is_no_part_of_what_is_trained_on(tmp_path):
    folder = tmp_path / "clips"
    folder.mkdir()
    for place in range(3):
        audio.write(folder / f"{place}.wav", np.sin(np.arange(2_000, dtype=np.float32) * (0.1 + place)), 8_000)
    made = prepare(Folder(root=str(folder)), MuLaw(sample_rate=8_000), AudioPolicy(), tmp_path / "cache")
    (folder / "4.wav").write_bytes(b"no sound")
    more = prepare(Folder(root=str(folder)), MuLaw(sample_rate=8_000), AudioPolicy(), tmp_path / "cache")
    assert [each["name"] for each in more.report["refused"]] == ["4.wav"]
    assert more.manifest_hash == made.manifest_hash


def test_the_store_of_other_settings_in_its_place_is_noticed(made, data, tmp_path):
    other = prepare(data, MuLaw(sample_rate=4_000), AudioPolicy(), tmp_path)
    expected = _content(made)
    shutil.rmtree(made.directory)
    shutil.copytree(other.directory, made.directory)
    assert _content(_prepared(data, tmp_path)) == expected


@repeatedly
@given(name=st.sampled_from(["samples.bin", "steps.bin"]), damage=damages(), clip=st.integers(0, 3))
def test_of_a_large_store_nothing_is_used_that_is_not_verified(
    name, damage, clip, made, data, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(preparation, "_VERIFIED_AT_ONCE", 0)
    monkeypatch.setattr(blocks, "_BLOCK", 512)
    shutil.rmtree(made.directory, ignore_errors=True)
    expected = _content(_prepared(data, tmp_path))
    _harm(made.directory / name, damage)
    read: list[object] = []
    with contextlib.suppress(TryAgain):
        found = _prepared(data, tmp_path)
        read += [found.samples(clip).tolist(), found.steps(clip).tolist()]
        assert read == expected[0][clip]
        read += _content(found)
    if len(read) < 6:
        capsys.readouterr()
        assert _content(_prepared(data, tmp_path)) == expected  # as the message says
        assert "made anew" in capsys.readouterr().err


def test_a_large_store_opens_without_being_read(made, data, tmp_path, monkeypatch):
    monkeypatch.setattr(preparation, "_VERIFIED_AT_ONCE", 0)
    monkeypatch.setattr(blocks.BlockArray, "_verify", None)
    assert _prepared(data, tmp_path).clips == made.clips


@repeatedly
@given(damage=damages(), name=st.sampled_from(["samples.bin", "steps.bin"]))
def test_what_changes_while_it_is_used_is_told(damage, name, data, made, tmp_path):
    found = _prepared(data, tmp_path)
    expected, place = _content(found), found.directory / name
    status = place.stat()
    changed = _harm(place, damage)
    os.utime(place, ns=(status.st_atime_ns, status.st_mtime_ns + 1))  # clocks of file systems are coarse
    if changed and place.stat().st_size <= status.st_size:
        with pytest.raises(TryAgain, match=f"{name}.*run the same command again"):
            _content(found)
    else:
        assert _content(found) == expected


def test_a_store_that_is_removed_is_read_on(made, data):
    expected = _content(made)
    shutil.rmtree(made.directory)
    assert _content(made) == expected


def test_a_store_that_is_cut_in_the_middle_of_a_run_costs_a_line(command, tmp_path, monkeypatch):
    from jaxgen.cli import prepare as prepare_command
    from jaxgen.cli import train
    from jaxgen.runs.saved_run import checkpoints_of

    asked = [
        *TINY,
        "--train.steps",
        "400",
        "--train.eval-every",
        "400",
        "--cache-dir",
        tmp_path,
        "--workdir",
        tmp_path / "run",
    ]
    read, saved = blocks.BlockArray.read, tmp_path / "run" / "checkpoints" / "2"

    def cut(array: blocks.BlockArray, *places: int) -> np.ndarray:
        if saved.exists():
            os.truncate(array._path, 99)
        return read(array, *places)

    monkeypatch.setattr(blocks.BlockArray, "read", cut)
    code, _, err = command(train.main, *asked)
    assert (code, err.splitlines()[-1].count("run the same command again")) == (75, 1)
    assert "Traceback" not in err
    kept = checkpoints_of(tmp_path / "run")
    newest = kept.newest_run()
    kept.close()
    assert newest is not None
    monkeypatch.setattr(blocks.BlockArray, "read", read)
    code, _, err = command(prepare_command.main, *asked)
    assert (code, err.count("the store is made anew")) == (0, 1)


def _digests(cache: Path) -> list[Path]:
    return sorted((cache / "digests").iterdir())


@repeatedly
@given(damage=damages())
def test_damaged_digests_are_found_anew(damage, made, data, tmp_path, capsys):
    (place,) = _digests(tmp_path)
    before = place.read_bytes()
    changed = _harm(place, damage)
    again = _prepared(data, tmp_path)
    assert again.directory == made.directory
    assert capsys.readouterr().err.count("all recordings are read again") == changed
    assert place.read_bytes() == before


@pytest.mark.parametrize("content", ["[]", "5", '{"a": 5}', '{"a": null}', "{" * 99_999, "10" * 5_000, "x"])
def test_digests_of_another_kind_are_not_believed(content, made, data, tmp_path):
    (place,) = _digests(tmp_path)
    write_checksummed(place, content)
    assert _prepared(data, tmp_path).directory == made.directory


class Flaky:
    """Fails the first `times` calls about a path that holds `name`."""

    def __init__(self, call, number: int, name: str, times: int):
        self.call, self.number, self.name, self.left = call, number, name, times

    def __call__(self, where, *rest, **options):
        path = os.readlink(f"/proc/self/fd/{where}") if isinstance(where, int) else os.fspath(where)
        if self.left and self.name in path:
            self.left -= 1
            raise OSError(self.number, os.strerror(self.number), path)
        return self.call(where, *rest, **options)


CALLS = [("open", "index.json"), ("open", "steps.bin"), ("open", "samples.bin"), ("pread", "steps.bin")]
CALLS += [("pread", "samples.bin"), ("open", "digests")]


def _flaky(monkeypatch, call: str, number: int, name: str, times: int) -> Flaky:
    """os.open, os.pread, or whatever pathlib opens files with."""
    if call == "pread" or name.endswith(".bin"):
        flaky = Flaky(getattr(os, call), number, name, times)
        monkeypatch.setattr(os, call, flaky)
    else:
        flaky = Flaky(io.open, number, name, times)
        monkeypatch.setattr(io, "open", flaky)
    return flaky


@pytest.mark.parametrize(("call", "name"), CALLS)
@pytest.mark.parametrize("number", [*MAY_PASS, errno.EACCES, errno.EPERM, errno.ELOOP])
def test_an_error_of_the_machine_is_no_damage(call, name, number, made, data, tmp_path, capsys):
    before = _tree(tmp_path)
    for times in (1, 3, 99):
        with pytest.MonkeyPatch.context() as patch:
            flaky = _flaky(patch, call, number, name, times)
            if number in MAY_PASS and times <= 3:
                assert _content(_prepared(data, tmp_path)) == _content(made)
            else:
                expected = TryAgain if number in MAY_PASS else UserError
                with pytest.raises(expected, match=os.strerror(number)):
                    _prepared(data, tmp_path)
            assert flaky.left < times
    assert _tree(tmp_path) == before
    assert capsys.readouterr().err == ""


def _tree(folder: Path) -> dict[str, tuple[int, int]]:
    """Inode and time of each file."""
    return {str(path): (path.stat().st_ino, path.stat().st_mtime_ns) for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("number", MAY_PASS)
def test_a_recording_that_may_be_readable_later_is_neither_damaged_nor_remembered(number, data, tmp_path, monkeypatch):
    with pytest.MonkeyPatch.context() as patch:
        _flaky(patch, "open", number, "2_a.wav", 99)
        with pytest.raises(TryAgain, match=r"2_a\.wav"):
            _prepared(data, tmp_path / "a")
    assert not (tmp_path / "a" / "digests").exists()
    with pytest.MonkeyPatch.context() as patch:
        _flaky(patch, "open", number, "2_a.wav", 2)
        flaky = _prepared(data, tmp_path / "a")
    assert _content(flaky) == _content(_prepared(data, tmp_path / "b"))


def test_what_cannot_be_read_is_refused_with_its_reason_and_not_remembered(data, tmp_path):
    with pytest.MonkeyPatch.context() as patch:
        _flaky(patch, "open", errno.EACCES, "2_a.wav", 99)
        found = _prepared(data, tmp_path)
    assert found.report["refused"] == [{"name": "2_a.wav", "reason": "permission denied"}]
    assert len(_prepared(data, tmp_path).clips) == 4


@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg", "mp3", "aiff"])
@pytest.mark.parametrize("times", [1, 99])
def test_a_recording_breaks_off_in_the_middle_for_a_while(suffix, times, tmp_path, monkeypatch):
    path = tmp_path / f"a.{suffix}"
    soundfile.write(path, np.random.default_rng(0).uniform(-0.5, 0.5, 60_000), 22_050)
    expected, middle, pread = audio.read(path), path.stat().st_size // 2, os.pread
    flaky = Flaky(pread, errno.EIO, path.name, times)
    monkeypatch.setattr(os, "pread", lambda f, n, at: (flaky if at + n > middle else pread)(f, n, at))
    if times == 1:
        np.testing.assert_array_equal(audio.read(path).samples, expected.samples)
    else:
        with pytest.raises(TryAgain, match=r"cannot read .*a\."):
            audio.read(path)
    assert flaky.left < times


SMALL = ClassifierTraining(steps=1, channels=4, embedding_size=2)


@pytest.fixture(scope="module")
def params():
    return init_params(SMALL, {"digit": ("0", "1")})


@pytest.fixture
def classifier(monkeypatch, made, params) -> LabelClassifier:
    about = {"format_version": FORMAT, "sample_rate": 8_000, "labels": {"digit": ["0", "1"]}}
    about["data_sha256"] = classifier_training.data_hash(made)
    small = LabelClassifier(SMALL, about, params)
    monkeypatch.setattr(classifier_training, "train_classifier", lambda *_: small)
    return small


@settings(repeatedly, max_examples=4)
@given(damage=damages())
def test_a_damaged_classifier_is_trained_anew(damage, classifier, made, tmp_path, capsys):
    path = classifier_training.classifier_path(made, SMALL, tmp_path)
    classifier_training.load_or_train(made, tmp_path, SMALL)
    capsys.readouterr()
    before, changed = path.read_bytes(), _harm(path, damage)
    assert classifier_training.load_or_train(made, tmp_path, SMALL).about == classifier.about
    assert (path.read_bytes() == before) or not changed
    assert capsys.readouterr().err.count("no whole classifier") == changed


def test_a_classifier_of_other_data_is_trained_anew_and_one_that_cannot_be_read_is_not(
    classifier, made, tmp_path, capsys
):
    path = classifier_training.classifier_path(made, SMALL, tmp_path)
    LabelClassifier(SMALL, classifier.about | {"data_sha256": ""}, classifier._params).save(path)
    assert classifier_training.load_or_train(made, tmp_path, SMALL) is classifier
    assert "of other recordings" in capsys.readouterr().err
    for number, expected in ((errno.EIO, TryAgain), (errno.EACCES, UserError)):
        with pytest.MonkeyPatch.context() as patch:
            _flaky(patch, "open", number, path.name, 99)
            with pytest.raises(expected):
                classifier_training.load_or_train(made, tmp_path, SMALL)
    assert read_checksummed(path)


@pytest.fixture
def programs(tmp_path):
    """Runs a program; returns whether it was compiled, and its files. The folder is `tmp_path / name`."""
    from jax._src import compilation_cache as jax_cache
    from jax._src import config

    names = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")
    before = {name: jax.config.values[name] for name in (*names, "jax_persistent_cache_enable_xla_caches")}
    made_by = jax_cache.get_file_cache
    misses: list[str] = []
    jax.monitoring.register_event_listener(lambda event, **_: misses.append(event) if "cache_misses" in event else None)

    def run(name: str) -> tuple[int, list[Path]]:
        jax_cache.reset_cache()
        compilation_cache.set_compilation_cache(tmp_path / name)
        misses.clear()

        def odd_program(x):
            return x * 3 + 1

        assert jax.jit(odd_program)(np.float32(2)) == 7
        return len(misses), sorted((tmp_path / name).glob("*odd_program*"))

    yield run
    for name, value in before.items():
        jax.config.update(name, value)
    jax_cache.get_file_cache = made_by
    jax_cache.reset_cache()
    assert config.compilation_cache_dir.value == before["jax_compilation_cache_dir"]


@settings(repeatedly, max_examples=4)
@given(damage=damages())
def test_a_damaged_program_is_compiled_anew_once(damage, programs, tmp_path, capsys):
    programs("a")
    misses, (place,) = programs("a")
    assert misses == 0
    capsys.readouterr()
    changed = _harm(place, damage)
    assert programs("a")[0] == changed
    assert capsys.readouterr().err.count("compiled anew") == changed
    assert programs("a")[0] == 0


def test_programs_are_found_where_their_folder_is_moved_or_only_read(programs, tmp_path, monkeypatch, capsys):
    compiled_first, kept = programs("a")
    assert compiled_first > 0
    os.rename(tmp_path / "a", tmp_path / "b")
    assert programs("b")[0] == 0
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert programs("b")[0] == 0
    assert programs("c") == (compiled_first, [])
    with pytest.MonkeyPatch.context() as patch:
        _flaky(patch, "open", errno.EIO, kept[0].name, 99)
        assert programs("b")[0] == 1
    assert "Input/output error" in capsys.readouterr().err
    assert programs("b")[0] == 0


@pytest.mark.parametrize("mask", [0o002, 0o022, 0o077])
def test_caches_have_the_permissions_of_umask(mask, data, classifier, programs, tmp_path):
    cache, before = tmp_path / "shared", os.umask(mask)
    try:
        made = _prepared(data, cache)
        classifier_training.load_or_train(made, cache, SMALL)
        programs("shared/compiled")
    finally:
        os.umask(before)
    modes = {path: stat.S_IMODE(path.stat().st_mode) for path in cache.rglob("*")}
    assert {"digests", "store", "classifiers", "compiled"} <= {path.name for path in modes}
    wrong = {path: oct(m) for path, m in modes.items() if m != (0o777 if path.is_dir() else 0o666) & ~mask}
    assert wrong == {}


def test_a_cache_that_somebody_else_owns_is_read(data, classifier, tmp_path, monkeypatch, capsys):
    made = _prepared(data, tmp_path)
    shutil.rmtree(tmp_path / "digests")

    def refused(path: Path, content: object) -> None:
        raise UserError(f"cannot write to '{path}' (Permission denied).")

    monkeypatch.setattr(files, "write_atomic", refused)
    assert _prepared(data, tmp_path).directory == made.directory
    assert classifier_training.load_or_train(made, tmp_path, SMALL) is classifier
    assert capsys.readouterr().err.count("Permission denied") == 2


@given(content=st.binary(max_size=200))
@settings(repeatedly, max_examples=50)
def test_nothing_else_has_a_seal(content, tmp_path):
    (tmp_path / "a").write_bytes(content)
    with pytest.raises(Corrupt):
        read_checksummed(tmp_path / "a")
    write_checksummed(tmp_path / "a", content)
    assert read_checksummed(tmp_path / "a") == content


@pytest.mark.parametrize("digest", ["zz", "", 5, None, {}, "é" * 64, "00"])
def test_digests_that_are_none_are_read_again(digest, made, data, tmp_path):
    expected, (place,) = _content(made), (tmp_path / "digests").glob("*.json")
    known = json.loads(read_checksummed(place))
    write_checksummed(place, json.dumps({stamp: digest for stamp in known}))
    assert _content(_prepared(data, tmp_path)) == expected
