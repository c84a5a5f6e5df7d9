"""The documentation's commands are real, its links lead somewhere, and the site builds without a warning."""

import importlib.util
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

import jaxgen
from benchmarks import results
from jaxgen.cli import evaluate, generate, sweep
from jaxgen.config import parse
from jaxgen.core.errors import UserError
from jaxgen.evaluation.report import write_json
from jaxgen.recipes import presets
from jaxgen.recipes.presets import load_config
from jaxgen.runs.sweep import parse_grid, plan_sweep

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
OF_THEIR_DAY = "lab-notes"  # commands and names in it are those of its date
PAGES = {
    path.relative_to(ROOT).as_posix(): path
    for path in [*sorted(DOCS.rglob("*.md")), *sorted(ROOT.glob("*.md"))]
    if not path.is_relative_to(DOCS / "reference" / "generated") and not path.is_relative_to(DOCS / "_build")
}
OURS = ("jaxgen", "benchmarks", "tests")


def commands(text: str) -> list[str]:
    """Lines of code blocks that call a module, without comments and what goes before the interpreter."""
    blocks = re.findall(r"^ *```(\S*)\n(.*?)^ *```", text, re.DOTALL | re.MULTILINE)
    shell = [block for language, block in blocks if language in ("", "sh")]
    lines = [line.split(" #")[0].strip() for block in shell for line in block.splitlines()]
    return [line for line in lines if line.partition("python -m ")[2].startswith(OURS)]


COMMANDS = sorted(
    {
        line
        for name, path in PAGES.items()
        if OF_THEIR_DAY not in name and name != "README.md"  # which has a test of its own
        for line in commands(path.read_text())
    }
)


def test_there_are_commands():
    for module in ("train", "generate", "evaluate", "prepare"):
        assert sum(f"python -m jaxgen.{module}" in line for line in COMMANDS) >= 3


@pytest.mark.parametrize("line", COMMANDS)
def test_a_command_names_a_module_and_options_that_exist(line, monkeypatch):
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(presets, "_usual_rate", lambda data: 8_000)  # its folders are not there
    module, *options = shlex.split(line.partition("python -m ")[2])
    assert importlib.util.find_spec(module) is not None
    options = [option for option in options if option != "--help"]
    if module in ("jaxgen.generate", "jaxgen.evaluate"):
        parse({"jaxgen.generate": generate, "jaxgen.evaluate": evaluate}[module].Options, None, options, module)
    elif module in ("jaxgen.train", "jaxgen.prepare", "jaxgen.classifier"):
        load_config(options, module)
    elif module == "jaxgen.sweep":
        at = options.index("--")
        plan_sweep(parse_grid(parse(sweep.Options, None, options[:at], module).grid), options[at + 1 :], "")


@pytest.mark.parametrize("name", PAGES)
def test_links_lead_to_files_and_their_headings(name):
    text = re.sub(r"```.*?```", "", PAGES[name].read_text(), flags=re.DOTALL)
    for link in re.findall(r"\]\((?!https?:)([^)\s]+)\)", text):
        path, _, anchor = link.partition("#")
        target = PAGES[name].parent / path if path else PAGES[name]
        assert target.exists(), link
        if anchor:
            headings = re.findall(r"^#+ (.*)$", target.read_text(), re.MULTILINE)
            assert anchor in {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}, link


@pytest.mark.parametrize("name", [name for name in PAGES if name.startswith("docs/")])
def test_a_page_is_listed_where_its_folder_begins(name):
    path = PAGES[name]
    if name != "docs/index.md":
        index = path.parent.parent / "index.md" if path.name == "index.md" else path.parent / "index.md"
        listed = re.findall(r"```\{toctree\}(.*?)```", index.read_text(), re.DOTALL)
        stem = path.relative_to(index.parent).with_suffix("").as_posix()
        elsewhere = re.findall(r"^\.\./(\S+)$", (DOCS / "explanation" / "index.md").read_text(), re.MULTILINE)
        assert stem in "\n".join(listed).split() or stem in elsewhere


def test_every_recipe_has_a_page():
    recipes = {path.stem for path in (ROOT / "configs").glob("*.py")} | {"quickstart"}
    assert recipes <= {path.stem for path in (DOCS / "results").glob("*.md")}


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text().splitlines()) < 150


def test_versions_agree():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert project["version"] == citation["version"] == jaxgen.__version__
    assert citation["license"] == project["license"]


@pytest.mark.slow
def test_the_site_builds_without_a_warning(tmp_path):
    for package in ("sphinx", "myst_parser", "furo"):
        pytest.importorskip(package, reason="pip install 'jaxgen[docs]'")
    done = subprocess.run(
        [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-d", tmp_path / "trees", DOCS, tmp_path / "site"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "site" / "reference" / "command-line.html").read_text()
    assert "--train.batch-size" in page
    assert "hidden_size" in (tmp_path / "site" / "reference" / "config.html").read_text()


def report(run: str, digit: float) -> dict:
    """What an evaluation writes, as far as a table needs it."""
    clips = {"digit_recognised": digit, "frechet_distance_db2": 28.25}
    real = {"digit_recognised": 0.99, "frechet_distance_db2": float("nan")}
    return {
        "about": {"run": run, "checkpoint": "step 30"},
        "metrics": {"nats_per_frame": 11.05, **clips},
        "table": {"held-out data": real, "generated": clips},
    }


def test_a_table_has_a_column_for_each_report_and_one_for_recordings(tmp_path):
    for name, digit in (("a", 0.9666), ("b", 0.957)):
        write_json(tmp_path / f"{name}.json", report(f"runs/{name}", digit))
    assert results.main([str(tmp_path / "a.json"), str(tmp_path / "b.json")]).splitlines() == [
        "|  | a, step 30 | b, step 30 | real, held out |",
        "| --- | --- | --- | --- |",
        "| digit recognised | 0.9666 | 0.957 | 0.99 |",
        "| Fréchet distance (dB²) | 28.25 | 28.25 |  |",
        "| nats per frame | 11.05 | 11.05 |  |",
    ]


@pytest.mark.parametrize("content", [None, "", "[]", '{"about": {}}'])
def test_what_is_no_report_is_one_line(tmp_path, content):
    path = tmp_path / "report.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(UserError, match=r"report\.json"):
        results.main([str(path)])
    with pytest.raises(UserError, match=r"report\.json"):
        results.main([])
