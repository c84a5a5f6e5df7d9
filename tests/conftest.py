"""Fixtures: small stores of synthesised sound, a tiny run, and the real recordings where there are any."""

import atexit
import functools
import gc
import importlib
import logging
import os
import pkgutil
import re
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import pytest

from jaxgen.core.errors import run
from jaxgen.data.ingest import AudioPolicy
from jaxgen.data.preparation import prepare
from jaxgen.data.store import Store
from jaxgen.data.synthetic import PluckedStrings
from jaxgen.features import LogMel, MuLaw

if "JAX_COMPILATION_CACHE_DIR" not in os.environ:  # one for all workers and the processes that tests start
    os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix="jaxgen_compiled_")
    atexit.register(shutil.rmtree, os.environ["JAX_COMPILATION_CACHE_DIR"], ignore_errors=True)
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.1")
# Tests compile more than they compute, and so do the processes that they start. `XLA_FLAGS= python -m pytest` compiles as
# users do, and is what to do where jaxlib no longer knows one of these flags.
os.environ.setdefault(
    "XLA_FLAGS",
    "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true --xla_cpu_use_fusion_emitters=false",
)
jax.config.update("jax_compilation_cache_dir", os.environ["JAX_COMPILATION_CACHE_DIR"])
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
# Tracing makes objects by the million: by default up to a tenth of a test's time goes into looking at them again.
gc.set_threshold(50_000)


REPOSITORY = Path(__file__).parent.parent
_READS_REPOSITORY = re.compile(r"\b(benchmarks|ROOT|TREES)\b|\.parent\.parent|\.parents\[")


class _OfRepository(pytest.Module):
    """Tests of an installed jaxgen stand alone (tests/test_wheel.py); some read what is beside `tests/` in the repository."""

    def collect(self):
        pytest.skip(f"{self.path.name}: it needs the repository: configs, docs, benchmarks or sources.")


def pytest_pycollect_makemodule(module_path: Path, parent: pytest.Collector) -> pytest.Module | None:
    if (REPOSITORY / "pyproject.toml").exists() or not _READS_REPOSITORY.search(module_path.read_text()):
        return None
    return _OfRepository.from_parent(parent, path=module_path)


def nightly(*values: object) -> object:
    """Values of a parameter that only the nightly run tries."""
    return pytest.param(*values, marks=pytest.mark.nightly)


TINY = (
    *("--data.num-clips", "12", "--data.seconds", "0.5", "--model.cell.hidden-size", "8", "--model.num-layers", "1"),
    *("--train.steps", "6", "--train.batch-size", "2", "--train.seq-len", "8", "--train.eval-every", "3"),
    *("--train.checkpoint-every", "2", "--train.log-every", "1"),
    *("--evaluation.num-clips", "2", "--evaluation.num-previews", "1", "--evaluation.seconds", "0.3"),
)
"""Options that shrink the quickstart to seconds."""

_SHORT = (
    *("--train.steps", "4", "--train.batch-size", "4", "--train.seq-len", "16", "--train.eval-every", "4"),
    *("--train.checkpoint-every", "2", "--train.log-every", "1"),
    *("--evaluation.num-clips", "4", "--evaluation.num-previews", "2"),
)
SHRUNK = (*_SHORT, "--model.cell.hidden-size", "8", "--model.num-layers", "1", "--evaluation.seconds", "0.2")
"""Options that shrink any config of a sequence model to seconds; its data is small already."""

SHRUNK_SCORES = (*_SHORT, "--data.composed.num-clips", "12", "--model.cell.hidden-size", "8", "--model.num-layers", "1")
"""The same for one of written music, with its data."""

SHRUNK_PLAN = (
    *(*_SHORT, "--model.plan.cell.hidden-size", "8", "--model.plan.num-layers", "1", "--evaluation.seconds", "0.1"),
    *("--model.samples.cell.hidden-size", "8", "--model.samples.sample-size", "8"),
)
"""The same for one that is made of two."""

SHRUNK_VOCODER = (
    *(*_SHORT, "--model.width", "8", "--model.num-blocks", "1", "--objective.critic.periods", "3"),
    *("--objective.critic.windows", "128", "--objective.critic.channels", "2"),
    *("--objective.critic.spectral-channels", "2", "--objective.critic-start", "2", "--evaluation.griffin-lim", "2"),
)
"""The same for one of a vocoder."""

SHRUNK_GAN = (
    *(*_SHORT, "--model.channels", "2", "2", "--model.kernel-size", "1", "--objective.critic.factors", "4"),
    *("--objective.critic.channels", "2", "--objective.critic.kernel-size", "2", "--objective.critic.width", "4"),
)
"""The same for one of a model of noise, but for its length."""


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One cache of decoded data for all tests."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session")
def mel_store(cache: Path) -> Store:
    features = LogMel(sample_rate=8_000, n_fft=256, hop_length=200, n_mels=20)
    return prepare(PluckedStrings(num_clips=12, seconds=0.5), features, AudioPolicy(), cache)


@pytest.fixture(scope="session")
def wave_store(cache: Path) -> Store:
    return prepare(PluckedStrings(num_clips=12, seconds=0.1), MuLaw(sample_rate=8_000), AudioPolicy(), cache)


@pytest.fixture(scope="module")
def as_users_compile() -> Iterator[None]:
    """Without a flag of the above: so programs that do the same in other calls give the same bits."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jax, "jit", functools.partial(jax.jit, compiler_options={"xla_cpu_use_fusion_emitters": True}))
        yield


@pytest.fixture(scope="session")
def recordings() -> Path:
    """The folder that JAXGEN_DATA names; skips the test where there is none."""
    folder = os.environ.get("JAXGEN_DATA")
    if not folder:
        pytest.skip("JAXGEN_DATA is not set: this test needs real recordings")
    return Path(folder)


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Runs an entry point as the shell would: `command(main, *arguments)` -> (exit code, stdout, stderr)."""

    def call(main: Callable[[], int], *arguments: str | Path) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["jaxgen", *map(str, arguments)])
        handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        with pytest.raises(SystemExit) as stop:
            run(main)
        for number, handler in handlers.items():
            signal.signal(number, handler)
        out, err = capsys.readouterr()
        return int(stop.value.code or 0), out, err

    return call


@pytest.fixture(scope="session")
def all_loaded() -> None:
    """Saved JSON may name a class of any module of jaxgen beside its base, which is then imported: here they all are."""
    for room in ("data", "evaluation", "features", "loggers", "models", "nn", "objectives"):
        package = importlib.import_module(f"jaxgen.{room}")
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            importlib.import_module(module.name)


@pytest.fixture(scope="session")
def quickstart(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Path:
    """The folder of a finished tiny quickstart; tests must not change it."""
    from jaxgen.cli import train

    workdir = tmp_path_factory.mktemp("runs") / "quickstart"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["jaxgen", *TINY, "--workdir", str(workdir), "--cache-dir", str(cache)])
        assert train.main() == 0
    return workdir


_spared: list[str] = []


class _Spared(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        _spared.append(self.format(record))


logging.getLogger("jaxgen.core.errors").addHandler(_Spared(logging.DEBUG))
logging.getLogger("jaxgen.core.errors").setLevel(logging.DEBUG)


@pytest.fixture(autouse=True)
def spared() -> Iterator[list[str]]:
    """Tracebacks of decoration that failed, which costs a run nothing, but a test its success unless it takes them out."""
    yield _spared
    failures, _spared[:] = _spared[:], []
    assert not failures, "\n".join(failures)
