"""Whatever the user has set up for other programs, and whatever stands in labels: every figure is drawn."""

import ast
import concurrent.futures
import os
import subprocess
import sys
from pathlib import Path

import matplotlib
import matplotlib.text
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.figure import Figure

from benchmarks import chart
from jaxgen.core.pictures import matplotlib_settings, render_figure, shorten
from jaxgen.data import report as data_report
from jaxgen.evaluation import plots
from jaxgen.features import MuLaw

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent.parent
CLIP = np.sin(np.arange(400) / 3).astype(np.float32)
LABELS = st.one_of(
    st.text(st.characters(), max_size=80),  # with surrogates and controls
    st.text("$\\^_{}%&~#\n\r\0\u202e\u05d0\u0639\ud800漢😀", max_size=12),
    st.builds(lambda text: f"${text}$", st.text("\\^_{}frac$", max_size=8)),
    st.text("x$", min_size=200, max_size=3_000),
)


def _report(labels):
    clip = {"split": "train", "digest": "", "num_samples": 8, "source_rate": 8, "source_channels": 1}
    clip |= {"source_peak": 0.5, "peak": 0.5, "music": None}
    clips = [
        type(
            "Clip", (), clip | {"fields": {name: f"{name}{place}"}, "loudness_dbfs": -3.0, "trimmed": 0, "streams": {}}
        )
        for place in range(2)
        for name in labels
    ]
    return data_report.describe(clips, [], MuLaw(sample_rate=8))


@settings(max_examples=40, deadline=None)
@given(text=LABELS)
def test_any_text_is_drawn(text):
    with matplotlib_settings():
        figure = Figure(figsize=(1, 1))
        figure.text(0, 0, shorten(text, 60))
    assert render_figure(figure, dpi=20).startswith(b"\x89PNG")


@pytest.mark.parametrize("labels", [["$\\frac$", "", "\ud800$_^"], ["a\nb\0" * 999, "$x^$" * 999]])
def test_any_label_is_drawn_in_any_figure(labels):
    """On a canvas as large as without."""
    plain = [str(place) for place in range(len(labels))]
    for draw in (
        lambda names: plots.spectrogram_grid([(name, CLIP) for name in names], 8_000, title=names[0]),
        lambda names: plots.spectrogram_mosaic(names, names, {(name, name): [CLIP] for name in names}, 8_000),
    ):
        picture, without = (render_figure(draw(names), dpi=20) for names in (labels, plain))
        assert picture[:24] == without[:24]  # PNG's header: its size
    assert data_report._picture(_report(labels)).startswith(b"\x89PNG")


@given(text=LABELS, most=st.integers(1, 50))
def test_a_short_text_is_one_printable_line(text, most):
    assert len(shorten(text, most)) <= most
    assert shorten(text, most).isprintable()


def test_no_text_of_a_figure_is_tex():
    figure = plots.spectrogram_grid([("$a$", CLIP)], 8_000, title="$b$")
    render_figure(figure, dpi=20)
    assert not any(text.get_parse_math() or text.get_usetex() for text in figure.findobj(matplotlib.text.Text))


def test_settings_of_the_process_change_no_figure_and_come_back():
    rows = [{"step": 1, "split": split, "loss": 2.0} for split in ("train", "validation")]
    expected = plots.png(plots.training_curves(rows, "loss"))
    mine = {"text.usetex": True, "font.family": "Nonsense", "savefig.bbox": "tight", "lines.linewidth": 9.0}
    with matplotlib.rc_context(mine):
        assert plots.png(plots.training_curves(rows, "loss")) == expected
        assert {name: matplotlib.rcParams[name] for name in mine} == mine | {"font.family": ["Nonsense"]}


def test_threads_draw_at_once():
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        pictures = set(pool.map(lambda _: plots.png(plots.spectrogram_grid([("$a$", CLIP)], 8_000)), range(4)))
    assert len(pictures) == 1


DRAW = """
from jaxgen.core.pictures import matplotlib_settings, render_figure
with matplotlib_settings():
    from matplotlib.figure import Figure
    figure = Figure()
    figure.suptitle("$\\\\frac$ 漢")
assert render_figure(figure, dpi=20).startswith(b"\\x89PNG")
"""


@pytest.mark.parametrize(
    "environment",
    [
        {"MPLBACKEND": "module://matplotlib_inline.backend_inline"},
        {"MPLBACKEND": "nonsense", "MATPLOTLIBRC": "binary"},
        {"MATPLOTLIBRC": "settings", "MPLCONFIGDIR": "/proc/nowhere"},
    ],
)
def test_no_environment_keeps_figures_from_being_drawn(tmp_path, environment):
    (tmp_path / "binary").write_bytes(b"\xff\xfe\0")
    (tmp_path / "settings").write_text("text.usetex: True\nbackend: qtagg\nfont.family: Nonsense\nno.such: 1\n")
    line = [sys.executable, "-W", "error::UserWarning", "-c", DRAW]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    ended = subprocess.run(line, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr


def test_curves_of_growth_have_plain_numbers(tmp_path):
    points = [
        {"size": size, "seconds": size / 9, "planned_mib": size, "theory_seconds": size, "theory_mib": size}
        | {f"{name}_exponent": 1.0 for name in ("seconds", "planned_mib", "theory_seconds", "theory_mib")}
        for size in (1, 10, 100)
    ]
    with matplotlib_settings(), pytest.MonkeyPatch.context() as patch:
        kept = []
        patch.setattr(chart, "save", lambda figure, path: kept.append(figure))
        chart.growth({"T": points}, tmp_path / "growth.png")
        render_figure(kept[0], dpi=20)
        assert not [text for text in kept[0].findobj(matplotlib.text.Text) if "$" in text.get_text()]


_PARTS = {
    "matplotlib.figure.Figure",
    "matplotlib.axes.Axes",
    "matplotlib.collections.PolyCollection",
    "matplotlib.patches.Patch",
    "matplotlib.colormaps",
    "matplotlib.ticker.MaxNLocator",
}


def test_only_one_module_imports_matplotlib():
    """But for types. Nothing imports pyplot, which would choose a backend, and none draws outside of `matplotlib_settings`."""
    for path in [*ROOT.glob("jaxgen/**/*.py"), *ROOT.glob("benchmarks/**/*.py")]:
        tree = ast.parse(path.read_text())
        names = [
            name
            for node in ast.walk(tree)
            for name in (
                [alias.name for alias in node.names]
                if isinstance(node, ast.Import)
                else [f"{node.module}.{alias.name}" for alias in node.names]
                if isinstance(node, ast.ImportFrom)
                else []
            )
            if name.startswith(("matplotlib", "mpl_toolkits", "pylab", "seaborn"))
        ]
        if path != ROOT / "jaxgen" / "core" / "pictures.py":
            assert set(names) <= _PARTS, path
        for function in (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)):
            if any(isinstance(node, ast.Call) and ast.unparse(node.func) == "Figure" for node in ast.walk(function)):
                assert "matplotlib_settings()" in map(ast.unparse, function.decorator_list), f"{path}: {function.name}"
