"""What a stranger installs is what the tests need: the extras hold what tests import, and CI runs the README's own lines."""

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
TREES = {path: ast.parse(path.read_text()) for path in sorted((ROOT / "tests").rglob("*.py"))}
OURS = {"jaxgen", "benchmarks", "tests", *(path.stem for path in TREES), *sys.stdlib_module_names}


def distributions(*extras: str) -> set[str]:
    """Names of what these extras, and the extras of ours that they name, install beside what jaxgen needs."""
    found = {canonicalize_name(Requirement(line).name) for line in PROJECT["dependencies"]}
    for requirement in (Requirement(line) for extra in extras for line in PROJECT["optional-dependencies"][extra]):
        same = canonicalize_name(requirement.name) == PROJECT["name"]
        found |= distributions(*requirement.extras) if same else {canonicalize_name(requirement.name)}
    return found


def imported(tree: ast.AST) -> Iterator[str]:
    """Top-level names of the modules that a file imports, anywhere."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield (node.module or "").partition(".")[0]


def asked_for(tree: ast.AST) -> Iterator[tuple[str, str]]:
    """(module, source of the reason) of each `pytest.importorskip` with a module that stands there."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "pytest.importorskip":
            (reason,) = [ast.unparse(keyword.value) for keyword in node.keywords if keyword.arg == "reason"]
            yield ast.unparse(node.args[0]).strip("'").partition(".")[0], reason


def test_what_the_first_extra_lacks_is_asked_for():
    """Imported after `importorskip` alone, so that without it tests skip."""
    owners, installed = packages_distributions(), distributions("test")
    for path, tree in TREES.items():
        for module in set(imported(tree)) - OURS - {module for module, _ in asked_for(tree)}:
            names = {canonicalize_name(name) for name in owners.get(module, [module])}
            assert names & installed, f"{path} imports {module}, which is not of the extra `test`"


def test_a_test_that_skips_names_the_extra_that_it_needs():
    for path, tree in TREES.items():
        constants = dict(re.findall(r"^(\w+) = (\".*\")$", path.read_text(), re.M))
        for module, reason in asked_for(tree):
            extra = re.search(r"jaxgen\[(\w+)\]", constants.get(reason, reason))
            assert extra, f"{path}: the reason for {module} names no extra"
            assert extra[1] in PROJECT["optional-dependencies"]


def test_what_pins_one_another_is_pinned_together():
    """Otherwise an old pip searches for releases that agree, for minutes, and may find none."""
    for extra, names in {"cloud": ("fsspec", "s3fs", "gcsfs"), "dev": ("aiobotocore", "boto3")}.items():
        lines = {
            requirement.name: requirement for requirement in map(Requirement, PROJECT["optional-dependencies"][extra])
        }
        assert all(str(lines[name].specifier).startswith("==") for name in names)


def test_ci_runs_the_lines_of_the_readme(tmp_path):
    """And says so where the README has them no longer."""
    (tmp_path / ".ci").mkdir()
    script = tmp_path / ".ci" / "readme"
    script.write_text((ROOT / ".ci" / "readme").read_text())
    programs = tmp_path / "bin"
    programs.mkdir()
    stub = (
        '#!/bin/sh\necho "$0" "$@" >>"$RECORD"\ncase "$2" in venv) mkdir -p "$3/bin"; touch "$3/bin/activate";; esac\n'
    )
    for name in ("pip", "python", "python3"):
        (programs / name).write_text(stub)
        (programs / name).chmod(0o755)
    record = tmp_path / "record"

    def run(readme: str) -> subprocess.CompletedProcess[str]:
        (tmp_path / "README.md").write_text(readme)
        environment = {"PATH": f"{programs}:/usr/bin:/bin", "RECORD": str(record), "PIP_CONSTRAINT": "x"}
        return subprocess.run(["bash", script], env=environment, capture_output=True, text=True, timeout=60)

    readme = (ROOT / "README.md").read_text()
    assert run(readme).returncode == 0
    ran = [line.removeprefix(f"{programs}/") for line in record.read_text().splitlines()]
    assert [line.split(" --")[0] for line in ran[1:]] == [
        "pip install -e .",
        "python -m jaxgen.train",
        "pip install -e .[test]",
        "python -m pytest",
    ]
    for module in ("jaxgen.train", "pytest"):
        gone = run(readme.replace(f"&& python -m {module}\n", "\n"))
        assert gone.returncode != 0
        assert f"no line 'pip install ... && python -m {module}'" in gone.stderr
