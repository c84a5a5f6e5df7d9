"""Whatever a command is started with, it works or says in one line what to change."""

import errno
import io
import os
import subprocess
import sys
import tomllib
from importlib.machinery import PathFinder
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxgen.core import errors
from jaxgen.core.environment import BadVariable, _Droppable, check_cache, open_streams, reason
from jaxgen.core.errors import UserError, report_error, run

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]


def started(module, *arguments, shell="", **environment):
    """A command in a process of its own: (exit code, stdout, stderr). shell: redirections."""
    line = [sys.executable, "-m", module, *map(str, arguments)]
    if shell:
        line = ["sh", "-c", f'exec "$@" {shell}', "sh", *line]
    done = subprocess.run(line, cwd=ROOT, env=os.environ | environment, capture_output=True, text=True, timeout=120)
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize(
    ("variable", "value", "words"),
    [
        ("XLA_FLAGS", "--xla_no_such_flag=1", "Unknown flag in XLA_FLAGS"),
        ("JAX_ENABLE_X64", "perhaps", "invalid truth value"),
        ("JAX_PLATFORMS", "cuda,tpu", "here is only"),
        ("JAX_COMPILATION_CACHE_DIR", "/dev/null/x", "cannot be written to"),
    ],
)
def test_a_wrong_variable_costs_one_line(variable, value, words, tmp_path):
    """XLA would abort, jax raise while it is imported or at its first array, or warn for each program."""
    asked = ("--data.num-clips", "2", "--cache-dir", tmp_path, "--workdir", tmp_path / "run")
    code, out, said = started("jaxgen.prepare", *asked, **{variable: value})
    assert (code, out) == (2, "")
    assert said.startswith(f"jaxgen: {variable} is '{value}', ")
    assert words in said
    assert said.count("\n") == 1


@pytest.mark.parametrize("shell", ["| head -n 1", ">&-", ">/dev/full", "<&- >&- 2>&-", ">/dev/full 2>/dev/full"])
def test_nobody_need_listen(shell):
    """To the command, nor at its end, when Python writes what it still holds."""
    script = "from jaxgen.core.errors import run\nrun(lambda: [print('\u2013é') for _ in range(100_000)] and 75)"
    ends = "exit $?" if "|" not in shell else "exit 75"
    line = ["sh", "-c", f'"$@" {shell}\n{ends}', "sh", sys.executable, "-c", script]
    done = subprocess.run(
        line,
        cwd=ROOT,
        env=os.environ | {"PYTHONIOENCODING": "ascii"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    full = b"jaxgen: what goes to stdout is lost (No space left on device)\n"
    assert done.returncode == 75
    assert done.stderr == (full if shell == ">/dev/full" else b"")


def test_help_needs_no_stdout():
    assert started("jaxgen.prepare", "--help", shell=">&-") == (0, "", "")


@given(texts=st.lists(st.text()), encoding=st.sampled_from(["ascii", "latin-1", "cp1252", "utf-8"]))
def test_any_text_is_printed_in_any_encoding(texts, encoding):
    reading, writing = os.pipe()

    class Piped(_Droppable):
        def __init__(self, *_, **__):
            super().__init__(writing, "w", closefd=False)

    with pytest.MonkeyPatch.context() as patch, open(reading, "rb") as pipe:
        for name in ("stdout", "stderr"):
            stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
            patch.setattr(sys, name, stream)
            patch.setattr(sys, f"__{name}__", stream)
        patch.setattr("jaxgen.core.environment._Droppable", Piped)
        open_streams()
        for text in texts:
            print(text[:100])
        sys.stdout.flush()
        os.close(writing)
        assert len(pipe.read()) >= len(texts)


def test_a_reader_that_goes_costs_nothing_while_a_command_runs(capsys):
    reading, writing = os.pipe()
    stream = io.TextIOWrapper(io.BufferedWriter(_Droppable(writing, "w")), encoding="utf-8", line_buffering=True)
    print("heard", file=stream)
    os.close(reading)
    for _ in range(3):
        print("not heard", file=stream)
    stream.close()
    assert capsys.readouterr() == ("", "")


def test_streams_of_others_are_left_alone(capsys):
    before = sys.stdout, sys.stderr
    open_streams()
    assert (sys.stdout, sys.stderr) == before


def test_a_program_that_imports_jaxgen_is_left_alone(tmp_path):
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "__init__.py").write_text("import sys\nbefore = sys.stdout\nimport jaxgen\n")
    check = "import sys, theirs\nprint(sys.stdout is theirs.before, sys.excepthook is sys.__excepthook__)\n"
    (tmp_path / "theirs" / "__main__.py").write_text(check)
    line = [sys.executable, "-m", "theirs"]
    done = subprocess.run(
        line, cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True
    )
    assert (done.stdout, done.stderr) == ("True True\n", "")


@pytest.mark.parametrize(
    ("asked", "taken"), [("1", 40), ("39", 40), ("100", 100), ("0", None), ("-1", None), ("wide", None), ("²", None)]
)
def test_text_is_never_laid_out_in_a_few_columns(asked, taken, monkeypatch):
    monkeypatch.setenv("COLUMNS", asked)
    open_streams()
    assert os.environ["COLUMNS"] == (asked if taken is None else str(taken))


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (MemoryError(), "too little memory"),
        (RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 17179869184 bytes."), "--train.batch-size"),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), "too little memory"),
        (RuntimeError("std::bad_alloc"), "too little memory"),
        (RuntimeError("can't start new thread"), "ulimit -u"),
        (BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable"), "ulimit -u"),
        (OSError(errno.EMFILE, "Too many open files"), "ulimit -n"),
        (UnicodeEncodeError("ascii", "café", 3, 4, "ordinal not in range(128)"), "PYTHONUTF8=1"),
        (RuntimeError("Could not determine home directory."), "HOME"),
        (FileNotFoundError(errno.ENOENT, "No usable temporary directory found in ['/tmp']"), "TMPDIR"),
        (RuntimeError("cannot cache function '_x': no locator available for file 'x.py'"), "NUMBA_CACHE_DIR"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
@pytest.mark.parametrize("deep", [False, True])
def test_what_the_environment_lacks_is_one_line(error, words, deep, capsys):
    def main():
        try:
            raise error
        except Exception:
            if deep:
                raise AttributeError("of a library that did not expect it") from error
            raise

    with pytest.raises(SystemExit) as stop:
        run(main)
    said = capsys.readouterr().err
    assert stop.value.code == 2
    assert said.startswith("jaxgen: ")
    assert said.count("\n") == 1
    assert words in said


@pytest.mark.parametrize("error", [ValueError("jax_array"), RuntimeError("it is broken"), OSError("no"), KeyError(3)])
def test_a_bug_stays_a_bug(error):
    assert reason(error) is None


def test_a_file_that_hides_a_module_is_named(monkeypatch, tmp_path):
    (tmp_path / "colorsys.py").write_text("")
    (tmp_path / "helper_of_a_config.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("colorsys", "helper_of_a_config"):
        monkeypatch.delitem(sys.modules, name, raising=False)
        __import__(name)
    why = reason(ImportError("cannot import name 'rgb_to_hsv' from 'colorsys'"))
    assert why is not None
    assert f"'{tmp_path / 'colorsys.py'}' hides a module" in why
    for name in ("colorsys", "helper_of_a_config"):
        monkeypatch.delitem(sys.modules, name)


def test_what_ends_the_imports_is_told_too(monkeypatch, capsys):
    monkeypatch.setattr(errors, "check_flags", lambda: None)
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    errors.begin()
    for error, code in ((UserError("a mistake"), 2), (KeyboardInterrupt(), 130), (BadVariable("X is 'y'"), 2)):
        with pytest.raises(SystemExit) as stop:
            sys.excepthook(type(error), error, None)
        assert stop.value.code == code
        assert "Traceback" not in capsys.readouterr().err
    assert report_error(KeyError(1)) == 1
    assert "Traceback" not in capsys.readouterr().out


def test_a_folder_for_programs_is_made(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    for folder in (tmp_path / "a" / "b", "~/c", "gs://bucket/programs", ""):
        monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(folder))
        check_cache()
        assert os.environ["JAX_COMPILATION_CACHE_DIR"] == str(folder).replace("~", str(tmp_path))
    assert (tmp_path / "a" / "b").is_dir()
    assert {path.name for path in tmp_path.iterdir()} == {"a", "c"}


def test_a_checkout_named_as_the_package_hides_nothing(tmp_path):
    """From the folder that it is in: an editable install is a folder of the path, which setuptools makes it only so."""
    (tmp_path / "jaxgen").symlink_to(ROOT)
    found = PathFinder.find_spec("jaxgen", [str(tmp_path), str(ROOT)])
    assert found is not None
    assert found.origin == str(ROOT / "jaxgen" / "__init__.py")
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    assert settings["package-dir"] == {"": "."}


def test_an_endless_name_leaves_a_line_that_can_be_read(capsys):
    assert errors.report_error(UserError(f"'{'x' * 10_000}' is not there; pass another --workdir.")) == 2
    said = capsys.readouterr().err
    assert len(said) < 2_000
    assert said.endswith("pass another --workdir.\n")
