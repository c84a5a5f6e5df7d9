"""Imports go downward only: each module may import only modules of layers below its own, or beside it without circles."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent / "jaxgen"
LAYERS = [
    {"core"},
    {"audio", "storage", "loggers", "text"},
    {"scores"},
    {"features", "provenance"},
    {"nn", "data"},
    {"models"},
    {"objectives"},
    {"inference"},
    {"evaluation"},
    {"training"},
    {"config"},
    {"recipes", "runs"},
    {"inference.vocoder_run"},
    {"runs.api"},
    {"cli"},
    {"train", "generate", "evaluate", "prepare", "classifier", "sweep", "__main__"},
]
"""Packages of jaxgen, and modules that are not with their package, from the bottom up."""

MODULES = {
    path.relative_to(ROOT).with_suffix("").as_posix().replace("/", ".").removesuffix(".__init__"): path
    for path in sorted(ROOT.rglob("*.py"))
    if path.parent != ROOT or path.name != "__init__.py"
}


def _layer(module: str) -> int:
    layers = [index for index, layer in enumerate(LAYERS) for name in (module, module.split(".")[0]) if name in layer]
    return max(layers)


def _imported(path: Path) -> set[str]:
    """Modules of jaxgen that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            names = [name if name.removeprefix("jaxgen.") in MODULES else node.module for name in names]
        inside = [name.removeprefix("jaxgen.") for name in names if name.startswith("jaxgen.")]
        found |= {name for name in inside if name in MODULES}
    return found


GRAPH = {module: _imported(path) for module, path in MODULES.items()}


def test_every_import_is_seen():
    assert {"recipes.presets", "runs.training", "core.errors"} <= GRAPH["cli.train"]
    assert GRAPH["core.environment"] == set()


def test_at_the_top_are_only_the_config_and_the_doors():
    assert {path.stem for path in ROOT.glob("*.py")} == {"__init__", "config", *LAYERS[-1]}
    for door in LAYERS[-1]:
        assert len([line for line in MODULES[door].read_text().splitlines() if line and '"""' not in line]) <= 4


@pytest.mark.parametrize("module", MODULES)
def test_imports_go_downward(module):
    above = {other for other in GRAPH[module] if _layer(other) > _layer(module)}
    assert not above, f"{module} imports from a higher layer: {above}"


def test_models_import_only_the_contracts():
    contracts = {
        "models.config",
        "models.conditioning",
        "models.sequence",
        "models.non_autoregressive",
        "models.latent",
    }
    parts = {"models.planned_rnn": {"models.mel_rnn", "models.sample_rnn"}}  # it is made of two others
    for module in (m for m in GRAPH if m.startswith("models.") and m not in contracts):
        assert {other for other in GRAPH[module] if other.startswith("models.")} < contracts | parts.get(module, set())


def test_entry_points_are_imported_by_nobody():
    for module, imported in GRAPH.items():
        assert not imported & LAYERS[-1], f"{module} imports an entry point"


def test_there_are_no_circles():
    done: set[str] = set()

    def visit(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, f"imports run in a circle: {' -> '.join([*path, module])}"
        if module not in done:
            for other in GRAPH[module]:
                visit(other, (*path, module))
            done.add(module)

    for module in GRAPH:
        visit(module, ())
