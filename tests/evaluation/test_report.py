"""Reports: what is heard, seen and read is what was given; nothing is fetched; nothing is half-written."""

import base64
import dataclasses
import io
import json
import os
import re
from html.parser import HTMLParser
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
import soundfile

from jaxgen.core.errors import UserError
from jaxgen.evaluation import plots, report
from jaxgen.evaluation.report import Comparison, Image, Player, Side, Table, write_html, write_json

NASTY = """<script>alert("1")</script> & 'quoted' {braces}"""
VOID = {"meta", "img", "br"}


class Page(HTMLParser):
    """Elements in order as (tag, attributes, text), all opened elements closed in turn."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict, list[str]]] = []
        self.open: list[str] = []
        self.source = path.read_text("utf-8")
        self.feed(self.source)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs), []))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.elements:
            self.elements[-1][2].append(data)

    def texts(self, tag: str) -> list[str]:
        return ["".join(text).strip() for name, _, text in self.elements if name == tag]

    def sources(self, tag: str) -> list[bytes]:
        uris = [attributes["src"] for name, attributes, _ in self.elements if name == tag]
        assert all(uri.startswith("data:") for uri in uris)
        return [base64.b64decode(uri.partition(";base64,")[2], validate=True) for uri in uris]


def clip(seed: int, length: int = 400) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-0.9, 0.9, length).astype(np.float32)


def player(seed: int, title: str = "clip") -> Player:
    return Player(f"{title} {seed}", "a caption", clip(seed), 8_000)


PICTURE = plots.png(plots.spectrogram_grid([("a", clip(0))], 8_000))


def write(tmp_path: Path, *sections: report.Section, title: str = "A report") -> Page:
    write_html(tmp_path / "report.html", title, sections)
    return Page(tmp_path / "report.html")


def test_players_play_what_was_given(tmp_path):
    broken = np.array([0.5, np.nan, np.inf, 2.0, -3.0], np.float32)
    page = write(tmp_path, player(1), Player("broken", "", broken, 22_050))
    decoded = [soundfile.read(io.BytesIO(wav), dtype="float32") for wav in page.sources("audio")]
    np.testing.assert_allclose(decoded[0][0], clip(1), atol=1 / 32768)
    np.testing.assert_allclose(decoded[1][0], [0.5, 0, 0, 1, -1], atol=1 / 32768)
    assert [rate for _, rate in decoded] == [8_000, 22_050]


def test_a_comparison_stands_side_by_side(tmp_path):
    real, generated = [player(i, "real") for i in range(3)], [player(i, "generated") for i in range(2)]
    page = write(tmp_path, Comparison("Listen", Side("Real", real, PICTURE), Side("Generated", generated, PICTURE)))
    assert page.texts("h3") == ["Real", "Generated"]
    assert page.texts("b") == ["real 0", "generated 0", "real 1", "generated 1", "real 2"]
    assert page.sources("img") == [PICTURE, PICTURE]
    assert "grid-template-columns: repeat(2" in page.source


def test_tables_show_numbers_briefly_and_gaps_as_dashes(tmp_path):
    rows: list[list[report.Cell]] = [
        ["loss", 1.23456789],
        ["clips", 12_345],
        ["ratio", float("nan")],
        ["none", None],
        ["tiny", 1.5e-7],
    ]
    page = write(tmp_path, Table("Figures", ["name", "value"], rows, note="a note"))
    assert page.texts("th") == ["name", "value"]
    assert page.texts("td")[1::2] == ["1.235", "12,345", "–", "–", "1.5e-07"]
    assert "a note" in page.texts("p")


def test_pictures_are_kept(tmp_path):
    page = write(tmp_path, Image("Curves", PICTURE, "what it shows"))
    assert page.sources("img") == [PICTURE]
    assert page.texts("figcaption") == ["what it shows"]


def test_text_is_escaped_everywhere(tmp_path):
    side = Side(NASTY, [Player(NASTY, NASTY, clip(0), 8_000)], PICTURE)
    page = write(
        tmp_path,
        Comparison(NASTY, side, side, note=NASTY),
        Table(NASTY, [NASTY], [[NASTY]], note=NASTY),
        Image(NASTY, PICTURE, NASTY),
        title=NASTY,
    )
    assert page.texts("script") == []
    for tag in ("title", "h1", "h2", "h3", "b", "small", "th", "td", "figcaption", "p"):
        assert set(page.texts(tag)) == {NASTY}, tag
    assert {attributes["alt"] for tag, attributes, _ in page.elements if tag == "img"} == {NASTY}


def test_the_page_asks_nothing_of_the_network(tmp_path):
    page = write(tmp_path, player(0), Image("Curves", PICTURE), Table("t", ["a"], [[1]]))
    links = [value for _, attributes, _ in page.elements for key, value in attributes.items() if key in ("src", "href")]
    assert links
    assert all(value.startswith("data:") for value in links)
    assert not re.search(r"https?:|//|@import|url\(", re.sub(r"base64,[\w+/=]*", "", page.source))
    assert "default-src 'none'" in page.source
    assert "prefers-color-scheme: dark" in page.source
    assert "width=device-width" in page.source


def test_json_is_strict_and_keeps_its_order(tmp_path):
    @dataclasses.dataclass(frozen=True)
    class Thing:
        name: str
        values: tuple[float, ...]

    value = {
        "z": [1, np.float32(0.5), np.int64(3), True, None, "é"],
        "a": {"nan": float("nan"), "inf": -np.inf, "array": np.array([[1.0, np.nan]])},
        "thing": Thing("x", (1.0, float("inf"))),
    }
    write_json(tmp_path / "report.json", value)
    text = (tmp_path / "report.json").read_text("utf-8")

    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    assert json.loads(text, parse_constant=refuse) == {
        "z": [1, 0.5, 3, True, None, "é"],
        "a": {"nan": None, "inf": None, "array": [[1.0, None]]},
        "thing": {"name": "x", "values": [1.0, None]},
    }
    assert text.index('"z"') < text.index('"a"')


@pytest.mark.parametrize(
    "rewrite", [lambda path: write_json(path, {"new": 1}), lambda path: write_html(path, "new", [])]
)
def test_an_interrupted_write_leaves_the_old_file(tmp_path, monkeypatch, rewrite):
    def interrupted(*_):
        raise KeyboardInterrupt

    path = tmp_path / "report"
    path.write_text("old")
    monkeypatch.setattr(os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        rewrite(path)
    assert [file.name for file in tmp_path.iterdir()] == ["report"]
    assert path.read_text() == "old"
    with pytest.raises(UserError, match="cannot write to"):
        rewrite(tmp_path / "missing" / "report")


# --------------------------------------------------------------------------------------------- pictures


def test_low_frequencies_are_at_the_bottom_and_time_runs_right():
    rate = 8_000
    time = np.arange(rate) / rate
    sweep = np.concatenate([np.zeros(rate), np.sin(2 * np.pi * 200 * time), np.sin(2 * np.pi * 3000 * time)])
    image = plots.spectrogram_image(sweep.astype(np.float32), rate)
    assert image.dtype == np.uint8
    assert image.shape == (160, 602, 3)
    light = image.sum(axis=-1, dtype=np.int64)
    assert np.ptp(light[:, :180]) == 0  # silence
    assert light[:, 250:350].argmax(axis=0).min() > 130
    assert light[:, 450:550].argmax(axis=0).max() < 40


@pytest.mark.parametrize("samples", [np.zeros(0), np.zeros(5), np.full(900, np.nan), clip(0, 500_000)])
def test_any_clip_makes_a_picture(samples):
    image = plots.spectrogram_image(samples.astype(np.float32), 8_000)
    assert image.shape[0] == 160
    assert image.shape[1] <= 2048
    assert plots.png(plots.spectrogram_grid([("clip", samples.astype(np.float32))], 8_000)).startswith(b"\x89PNG")


def test_a_grid_shares_its_axes_and_colours():
    clips = [("loud", clip(0, 8_000)), ("quiet", clip(1, 4_000) / 100), (r"<a> $\no$", clip(2, 100))]
    figure = plots.spectrogram_grid(clips, 8_000, columns=2, title="Three")
    drawn = [axis for axis in figure.axes if axis.images]
    assert [axis.get_title() for axis in drawn] == [name for name, _ in clips]
    assert {axis.images[0].get_clim() for axis in drawn} == {drawn[0].images[0].get_clim()}
    assert {axis.get_xlim() for axis in drawn} == {(0, 1.0)}
    assert [axis.images[0].get_extent()[1] for axis in drawn] == [1.0, 0.5, 100 / 8_000]
    picture = matplotlib.image.imread(io.BytesIO(plots.png(figure)))
    assert picture.shape[0] > 300
    assert plots.png(plots.spectrogram_grid(clips, 8_000)) == plots.png(plots.spectrogram_grid(clips, 8_000))


def test_grids_beside_each_other_share_their_scales():
    loud, quiet = clip(0, 8_000), clip(1, 4_000) * np.float32(0.01)
    first = plots.spectrogram_grid([("a", loud)], 8_000, beside=[quiet]).axes[0]
    second = plots.spectrogram_grid([("b", quiet)], 8_000, beside=[loud]).axes[0]
    assert first.get_xlim() == second.get_xlim() == (0, 1.0)
    assert first.images[0].get_clim() == second.images[0].get_clim()


def test_curves_mark_the_best_validation_and_leave_out_what_is_missing():
    rows = [{"step": step, "split": "train", "loss": 100 / step} for step in range(1, 101)]
    rows += [{"step": step, "split": "validation", "loss": abs(step - 60) + 5.0} for step in range(20, 101, 20)]
    rows += [{"step": 40, "split": "train", "loss": None}, {"step": 50, "split": "validation", "loss": float("nan")}]
    rows += [{"step": 50, "split": "validation", "accuracy": 1.0}]
    figure = plots.training_curves(rows, "loss")
    (axis,) = figure.axes
    legend = axis.get_legend()
    assert legend is not None
    labels = [text.get_text() for text in legend.get_texts()]
    assert "best 5 at step 60" in labels
    assert "gap, +44 at the end" in labels
    (line,) = [line for line in axis.lines if line.get_label() == "validation"]
    np.testing.assert_array_equal(line.get_xydata(), [[20, 45], [40, 25], [60, 5], [80, 25], [100, 45]])


@pytest.mark.parametrize("splits", [[], ["train"], ["validation"]])
def test_curves_of_few_rows(splits):
    rows = [{"step": 1, "split": split, "loss": 2.0} for split in splits]
    assert plots.png(plots.training_curves(rows, "loss")).startswith(b"\x89PNG")
