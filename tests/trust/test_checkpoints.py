"""Healthy checkpoints are never taken for damaged, damaged ones never for healthy, and the environment decides neither."""

import asyncio
import contextlib
import errno
import json
import os
import runpy
import shutil
import weakref

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jax.experimental import multihost_utils

from jaxgen.cli import generate
from jaxgen.core import files, numerics
from jaxgen.core.errors import TryAgain, UserError
from jaxgen.runs.run import Run
from jaxgen.training import checkpoint, upload
from jaxgen.training.checkpoint import Checkpoints, Damaged
from jaxgen.training.checkpoint_seals import seal
from jaxgen.training.upload import FirstProcessCheckpoints

pytestmark = pytest.mark.slow

STATE = {
    "average": {"weights": jnp.arange(12.0).reshape(3, 4), "half": jnp.ones(3, jnp.bfloat16)},
    "key": jnp.array([1, 2], jnp.uint32),
    "flag": jnp.array([True, False]),
}


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """The folder of checkpoints of two steps; tests must not change it."""
    folder = tmp_path_factory.mktemp("saved") / "checkpoints"
    with contextlib.closing(Checkpoints(folder, keep=2)) as checkpoints:
        for step in (1, 2):
            checkpoints.save(step, STATE, {"next": step}, {"config": step}, {"loss": float(step), "bad": float("nan")})
    return folder


@pytest.fixture
def copy(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "checkpoints")


def listing(folder):
    return sorted(path.relative_to(folder) for path in folder.rglob("*"))


def assert_equal(found, wanted):
    jax.tree.map(np.testing.assert_array_equal, found, wanted)


@given(data=st.data())
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_other_byte_is_damage_or_has_no_effect(saved, tmp_path_factory, data):
    """A file cut, lengthened, removed, swapped with another, made a folder or a pipe, or one bit of it flipped."""
    folder = tmp_path_factory.mktemp("damaged") / "checkpoints"
    shutil.copytree(saved, folder)
    files = sorted(path for path in (folder / "2").rglob("*") if path.is_file())
    path, other = (data.draw(st.sampled_from(files)) for _ in range(2))
    content = bytearray(path.read_bytes())
    place = data.draw(st.integers(0, 8 * max(1, len(content)) - 1))
    match data.draw(st.sampled_from(["cut", "add", "remove", "swap", "folder", "pipe", "flip"])):
        case "cut":
            path.write_bytes(content[: place // 8])
        case "add":
            path.write_bytes(content + b"\0")
        case "swap":
            path.write_bytes(other.read_bytes())
        case "flip":
            if content:
                content[place // 8] ^= 1 << place % 8
            path.write_bytes(content)
        case kind:
            path.unlink()
            if kind == "folder":
                path.mkdir()
            elif kind == "pipe":
                os.mkfifo(path)
    marker = folder / "2" / "_CHECKPOINT_METADATA"
    if marker.exists() and not marker.is_file():
        with pytest.raises(UserError, match="_CHECKPOINT_METADATA' is not a file"):
            Checkpoints(folder)
        return
    with contextlib.closing(Checkpoints(folder)) as checkpoints:
        for read, wanted in (
            (lambda: checkpoints.restore(2, STATE).state, STATE),
            (lambda: checkpoints.restore_average(2, STATE["average"]), STATE["average"]),
            (lambda: checkpoints.run(2), {"config": 2}),
        ):
            if 2 in checkpoints.steps():
                with contextlib.suppress(Damaged):
                    assert_equal(read(), wanted)


@pytest.mark.parametrize(
    ("state", "said"),
    [
        (STATE | {"key": jnp.zeros(4, jnp.uint32)}, r"holds uint32\[2\] as key, this process expects uint32\[4\]"),
        (STATE | {"flag": jax.ShapeDtypeStruct((2,), "float64")}, r"bool\[2\] as flag, .* expects float64\[2\]"),
        (STATE | {"more": jnp.zeros(())}, r"holds nothing as more, this process expects float32\[\]"),
        ({name: STATE[name] for name in ("average", "key")}, r"holds bool\[2\] as flag, this process expects nothing"),
        (STATE | {"average": STATE["key"]}, r"expects uint32\[2\] \(3 of 5 arrays differ\)"),
    ],
)
def test_another_structure_is_told_and_nothing_is_moved(copy, state, said):
    before = listing(copy.parent)
    with contextlib.closing(Checkpoints(copy, keep=2)) as checkpoints:
        with pytest.raises(UserError, match=said):
            checkpoints.restore_newest(state)
        assert checkpoints.restore_newest(STATE).step == 2
    assert listing(copy.parent) == before


def test_the_settings_that_make_the_difference_are_named(copy):
    with contextlib.closing(Checkpoints(copy)) as checkpoints, jax.enable_x64(True):
        wanted = jax.eval_shape(lambda: STATE | {"key": jnp.zeros(2, int)})
        with pytest.raises(UserError, match=r"expects int64\[2\].*start it without JAX_ENABLE_X64=True"):
            checkpoints.restore(2, wanted)


@settings(max_examples=40, deadline=None)
@given(
    error=st.one_of(
        st.sampled_from(
            [RuntimeError, ValueError, KeyError, TypeError, MemoryError, AssertionError, RecursionError]
        ).flatmap(lambda kind: st.text(max_size=9).map(kind)),
        st.sampled_from(sorted(set(errno.errorcode))).map(lambda number: OSError(number, os.strerror(number))),
        st.sampled_from(["DATA_LOSS: x", "INVALID_ARGUMENT: x", "RESOURCE_EXHAUSTED: x"]).map(
            jax.errors.JaxRuntimeError
        ),
    )
)
def test_whatever_reading_raises_of_whole_files_is_no_damage(saved, error):
    def broken(*_, **__):
        raise error

    with contextlib.closing(Checkpoints(saved)) as checkpoints, pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoints._handler, "restore", broken)
        with pytest.raises(UserError, match=r"step 2 .* cannot be read now .* nothing was changed") as told:
            checkpoints.restore_newest(STATE)
        assert "\n" not in str(told.value)
    assert listing(saved.parent) == listing(saved.parent)
    assert not (saved.parent / "damaged").exists()


@pytest.mark.parametrize("number", [errno.EIO, errno.EMFILE, errno.ESTALE, errno.EACCES, errno.ENOMEM, errno.EINTR])
@pytest.mark.parametrize("reader", ["digest", "Path"])
def test_a_disk_that_does_not_answer_is_no_damage(copy, monkeypatch, number, reader):
    def broken(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(files, "_WAITS", (0.0,))
    if reader == "digest":
        monkeypatch.setattr(checkpoint, "digest", broken)
    else:
        monkeypatch.setattr(checkpoint.Path, "read_bytes", broken)
    with (
        contextlib.closing(Checkpoints(copy, keep=2)) as checkpoints,
        pytest.raises(UserError, match=r"cannot (be read now|read)"),
    ):
        checkpoints.restore_newest(STATE)
    assert not (copy.parent / "damaged").exists()


def test_a_checkpoint_of_another_version_is_told_and_not_moved(copy):
    for step in (1, 2):
        (copy / str(step) / "run" / "metadata").write_text(json.dumps(seal({"config": {}, "data": {}})))
        (copy / str(step) / "state" / "hashes.json").unlink()
    before = listing(copy.parent)
    with contextlib.closing(Checkpoints(copy, keep=2)) as checkpoints:
        for read in (
            lambda: checkpoints.restore_newest(STATE),
            checkpoints.newest_run,
            lambda: checkpoints.best("loss"),
        ):
            with pytest.raises(
                UserError, match=r"its format is 1, this version opens 3\. Use jaxgen at commit 0c8cc64"
            ):
                read()
    assert listing(copy.parent) == before


@pytest.mark.parametrize(
    "changed",
    [
        {"jax_default_prng_impl": "rbg", "jax_random_seed_offset": 3, "jax_threefry_partitionable": False},
        {"jax_enable_x64": True, "jax_numpy_dtype_promotion": "strict", "jax_numpy_rank_promotion": "raise"},
    ],
)
def test_generation_does_not_depend_on_the_environment(quickstart, command, tmp_path, changed):
    options = ("--workdir", quickstart, "--num", "1", "--seconds", "0.2", "--cache-dir", tmp_path)
    assert command(generate.main, *options, "--out", tmp_path / "plain")[0] == 0
    try:
        for name, value in changed.items():
            jax.config.update(name, value)
        code, _, err = command(generate.main, *options, "--out", tmp_path / "other")
    finally:
        with contextlib.redirect_stderr(None):
            numerics.fix_settings()
    assert code == 0, err
    assert all(
        f"jaxgen: {name.upper()}={value} of the environment is not used" in err for name, value in changed.items()
    )
    for wav in (tmp_path / "plain").glob("*.wav"):
        assert wav.read_bytes() == (tmp_path / "other" / wav.name).read_bytes()


@pytest.mark.parametrize("moment", ["run", "restore_average", "figures", "newest_run"])
def test_a_run_that_rotates_its_checkpoints_away_is_opened(quickstart, tmp_path, monkeypatch, capsys, moment):
    """The only checkpoint that was listed is removed, and another one saved, while it is read."""
    folder, kept = tmp_path / "run" / "checkpoints", quickstart / "checkpoints"
    old, new = map(str, sorted(int(path.name) for path in kept.iterdir() if path.name.isdigit())[-2:])
    shutil.copytree(kept / old, folder / old)
    original = getattr(Checkpoints, moment)

    def rotated(self, *arguments):
        if (folder / old).exists():
            shutil.copytree(kept / new, folder / new)
            shutil.rmtree(folder / old)
        return original(self, *arguments)

    monkeypatch.setattr(Checkpoints, moment, rotated)
    assert Run.open(tmp_path / "run").step == int(new)
    assert "damaged" not in capsys.readouterr().err


def test_opening_a_run_reads_no_more_than_the_averaged_parameters(quickstart, monkeypatch):
    read, restore = [], checkpoint._HashedArrays.restore

    def noted(self, directory, *, args):
        read.append(args.item)
        return restore(self, directory, args=args)

    monkeypatch.setattr(checkpoint._HashedArrays, "restore", noted)
    run = Run.open(quickstart)
    assert [list(item) for item in read] == [["average"]]
    assert jax.tree.structure(read[0]["average"]) == jax.tree.structure(run.params)


def test_importing_checkpoints_leaves_asyncio_alone(monkeypatch):
    monkeypatch.setattr(asyncio, "set_event_loop_policy", lambda _: pytest.fail("the policy of the process was set"))
    runpy.run_path(checkpoint.__file__)


@pytest.mark.parametrize("first", [True, False])
def test_only_the_first_process_holds_the_whole_state(monkeypatch, first):
    """The others hold one array at a time."""
    alive, most, told = set(), 0, []

    class Own:
        def save(self, step, state, *_):
            told.append(state)

        def close(self):
            pass

    def gather(leaf, tiled):
        nonlocal most
        array = np.array(leaf)
        alive.add(id(array))
        weakref.finalize(array, alive.discard, id(array))
        most = max(most, len(alive))
        return array

    monkeypatch.setattr(multihost_utils, "process_allgather", gather)
    monkeypatch.setattr(upload, "broadcast_from_first", lambda make: make() if first else None)
    FirstProcessCheckpoints(Own() if first else None).save(1, STATE, {}, {}, None)
    assert most == (len(jax.tree.leaves(STATE)) if first else 1)
    for state in told:
        assert_equal(state, STATE)


@pytest.mark.parametrize(("times", "opens"), [(3, True), (10**6, False)])
def test_a_checkpoint_that_is_removed_while_they_are_listed_is_no_error(times, opens, quickstart, monkeypatch):
    """By a run that goes on: orbax looks at each of them after it has listed them."""
    manager, looks = checkpoint.ocp.CheckpointManager, []

    def flaky(*arguments, **options):
        looks.append(arguments)
        if len(looks) <= times:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(quickstart / "checkpoints" / "3"))
        return manager(*arguments, **options)

    monkeypatch.setattr(checkpoint.ocp, "CheckpointManager", flaky)
    if opens:
        assert Run.open(quickstart).step
        assert len(looks) == times + 1
    else:
        with pytest.raises(TryAgain, match="come and go too fast to be listed"):
            Run.open(quickstart)
