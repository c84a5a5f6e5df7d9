"""The README's commands exist, its options are real, and its files are there."""

import importlib.util
import re
import shlex
from pathlib import Path

import pytest

from jaxgen.cli import evaluate, generate
from jaxgen.config import parse
from jaxgen.recipes import presets
from jaxgen.recipes.presets import load_config

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
COMMANDS = sorted(
    {
        line.split("#")[0].strip()
        for block in re.findall(r"```sh\n(.*?)```", README, re.DOTALL)
        for line in block.splitlines()
        if "python -m " in line
    }
)


def test_there_are_commands():
    joined = "\n".join(COMMANDS)
    for module in ("jaxgen.train", "jaxgen.generate", "jaxgen.evaluate", "jaxgen.prepare", "pytest", "benchmarks.step"):
        assert f"python -m {module}" in joined


@pytest.mark.parametrize("line", COMMANDS)
def test_a_command_names_a_module_and_options_that_exist(line, monkeypatch):
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(presets, "_usual_rate", lambda data: 8_000)  # its folders are not there
    _, _, call = line.partition("python -m ")
    module, *options = shlex.split(call)
    assert importlib.util.find_spec(module) is not None
    if module in ("jaxgen.generate", "jaxgen.evaluate"):
        parse({"jaxgen.generate": generate, "jaxgen.evaluate": evaluate}[module].Options, None, options, module)
    elif module in ("jaxgen.train", "jaxgen.prepare"):
        load_config(options, module)


@pytest.mark.parametrize("link", sorted(set(re.findall(r"\]\((?!http)([^)#]+)\)", README))))
def test_a_link_leads_to_a_file(link):
    assert (ROOT / link).exists()
