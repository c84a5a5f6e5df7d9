"""The report of a run, for people: every figure in words, with unit, direction and reference; no name of a machine."""

import itertools
import json
import math
import re
from collections.abc import Mapping
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from jaxgen.core.descriptions import SHARE, Better, Description
from jaxgen.core.errors import UserError
from jaxgen.data.spec import DataSpec
from jaxgen.evaluation.autoregressive import AutoregressiveEvaluation
from jaxgen.evaluation.figure_rows import figure_rows, key_rows, terminal_table
from jaxgen.evaluation.metrics import Absent
from jaxgen.evaluation.result import ClipGroup, EvaluationResult
from jaxgen.features import LogMel

VOID = {"meta", "img", "br"}
DIRECTIONS = {each.value for each in Better}
PARTLY = ["only timbre said", "only tempo said", "no label said"]


class Element:
    def __init__(self, tag: str, attributes: Mapping[str, str | None], parent: "Element | None"):
        self.tag, self.kind, self.parent = tag, attributes.get("class") or "", parent
        self.children: list[Element | str] = []

    def find(self, tag: str, kind: str | None = None) -> "list[Element]":
        """All inside with this tag, in order; with this class."""
        inside = [child for child in self.children if isinstance(child, Element)]
        return [
            found
            for child in inside
            for found in [*([child] if child.tag == tag and kind in (None, child.kind) else []), *child.find(tag, kind)]
        ]

    @property
    def text(self) -> str:
        """What a reader sees."""
        if self.tag in ("style", "script"):
            return ""
        parts = [child if isinstance(child, str) else child.text for child in self.children]
        return re.sub(r"\s+", " ", " ".join(parts)).strip()


class Page(HTMLParser):
    def __init__(self, path: Path):
        super().__init__()
        self.root = self._open = Element("page", {}, None)
        self.source = path.read_text("utf-8")
        self.feed(self.source)

    def handle_starttag(self, tag, attrs):
        element = Element(tag, dict(attrs), self._open)
        self._open.children.append(element)
        if tag not in VOID:
            self._open = element

    def handle_endtag(self, tag):
        assert self._open.tag == tag
        self._open = self._open.parent

    def handle_data(self, data):
        self._open.children.append(data)

    def section(self, title: str) -> Element:
        (found,) = [each for each in self.root.find("section") if [h.text for h in each.find("h2")] == [title]]
        return found


@pytest.fixture(scope="module")
def page(quickstart) -> Page:
    return Page(quickstart / "report.html")


@pytest.fixture(scope="module")
def figures(quickstart) -> dict:
    return json.loads((quickstart / "report.json").read_text())


def test_no_name_of_a_machine_is_on_the_page(page, quickstart):
    text = page.root.text.replace(str(quickstart), "")
    assert len(text) > 2_000
    assert re.findall(r"\w*[A-Za-z0-9]_\w+", text) == []
    assert re.findall(r"\b(nan|inf|None)\b", text, re.IGNORECASE) == []


def test_the_key_figures_come_first_with_all_that_a_reader_needs(page):
    first = page.root.find("section")[0]
    assert [each.text for each in first.find("h2")] == ["Key figures"]
    cards = first.find("div", "card")
    assert 3 <= len(cards) <= 12
    for card in cards:
        (value,), (unit,), (better,) = card.find("p", "value"), card.find("span", "unit"), card.find("p", "better")
        assert re.match(r"[-\d.,]+ |not computed", value.text), value.text
        assert unit.text
        assert better.text in DIRECTIONS - {Better.UNKNOWN.value}
        assert card.find("p", "note")
        assert card.find("dd") or card.find("p", "reference"), card.text
    names = [card.find("h3")[0].text for card in cards]
    assert names[0] == "Negative log likelihood"
    assert {"Pitches in the scale", "Near-copies of training data"} <= set(names)


def test_every_figure_has_its_direction_and_reference(page, figures):
    seen = 0
    for title in ("The model", "What the clips are like", "When not all labels are said"):
        for row in page.section(title).find("tbody")[0].find("tr"):
            (name,), cells = row.find("th"), row.find("td")
            assert sum(direction.capitalize() in name.text for direction in DIRECTIONS) == 1, name.text
            value, *others = [cell.text for cell in cells]
            assert re.fullmatch(r"[-\d.,e]+|–", value), value
            assert any(other != "–" for other in others) or "–" in value, name.text
            seen += 1
    absent = figures["absent"]
    clip_figures = {*figures["table"]["generated"], *absent["table"].get("generated", ())}
    own = {*figures["metrics"], *absent["metrics"]} - clip_figures
    beside = {name for name in own if re.match(r"train_|copy_previous_frame_|memorisation_held_out", name)}
    assert seen == len(own - beside) + 2 * len(clip_figures - {"in_scale_chance"})


def test_a_phone_shows_one_column(page):
    assert 'content="width=device-width, initial-scale=1"' in page.source
    style = page.root.find("style")[0].children[0]
    assert isinstance(style, str)
    narrow = style[style.index("@media (max-width: 40rem)") :]
    assert ".pairs { grid-template-columns: 1fr }" in narrow
    assert re.search(r"img \{[^}]*max-width: 100%", style)
    assert re.search(r"audio \{[^}]*height: 2\.75rem", style)  # 44 px, as wide as a thumb
    for table in page.root.find("table"):
        assert table.parent is not None
        assert table.parent.kind == "scroll"
    sides = [player.find("small", "side") for player in page.section("Listen").find("div", "player")]
    assert all(sides)  # which side a player is of, where there is but one column


def test_labels_said_alone_have_columns(figures, page):
    columns = list(figures["table"])
    assert columns[-3:] == PARTLY
    assert figures["table"]["only timbre said"].keys() == figures["table"]["generated"].keys()
    heads = [head.text for head in page.section("When not all labels are said").find("thead")[0].find("th")]
    assert heads == [
        "Figure",
        "held-out data (2 clips)",
        "generated (2 clips)",
        *(f"{name} (2 clips)" for name in PARTLY),
    ]


def test_the_terminal_has_a_table_of_eighty_columns(quickstart, command, cache, tmp_path):
    from jaxgen.cli import evaluate

    code, out, _ = command(evaluate.main, "--cache-dir", cache, "--workdir", quickstart, "--out", tmp_path)
    assert code == 0
    table = out.splitlines()[:-1]
    assert table[0].split() == ["figure", "model", "better", "beside", "it"]
    assert max(map(len, table)) <= 80
    assert "_" not in "".join(table)
    rows = list(itertools.takewhile(lambda line: "not computed" not in line, table))
    assert 4 <= len(rows) <= 13
    (likelihood,) = [line for line in table if line.startswith("Negative log likelihood")]
    assert re.search(r"  lower +training [\d.]+", likelihood)


# --------------------------------------------------------------------------------------------- rows


def result(metrics, generated, others=None, descriptions=None, **options) -> EvaluationResult:
    table = {"held-out data": dict.fromkeys(generated, 0.5), "generated": generated, **(others or {})}
    groups = tuple(ClipGroup(name, [np.zeros(8, np.float32)], [{}]) for name in table)
    return EvaluationResult(metrics, groups, table, ({},), {}, None, 1.0, descriptions=descriptions or {}, **options)


def test_a_figure_that_is_a_reference_stands_beside_its_figure():
    descriptions = {
        "nats": Description("Likelihood", "It.", "nats", Better.LOWER, importance=2),
        "train_{figure}": Description("training data", "Same.", reference_of="{figure}"),
        "chance": Description("chance", "By luck.", reference_of="hits"),
        "hits": Description("Hits", "Right ones.", SHARE, Better.HIGHER, importance=3),
    }
    found = figure_rows(
        result(
            {"nats": 2.0, "train_nats": 1.5, "train_gone": 9.0},
            {"hits": 0.8, "chance": 0.25},
            descriptions=descriptions,
        )
    )
    assert [row.name for row in found] == ["hits", "nats", "train_gone"]  # what there is none of has a row of its own
    assert found[0].shown_references == [("held-out data", "50"), ("chance", "25")]
    assert found[1].shown_references == [("training data", "1.5")]
    assert [row.name for row in key_rows(found)] == ["hits", "nats"]


def test_what_a_reader_compares_with_first_is_in_front():
    others = {
        "noise": {"x_db": 3.0},
        "untrained model": {"x_db": math.inf},
        "rival": {"x_db": 2.0},
        "half": {"x_db": 1.0},
    }
    (row,) = figure_rows(result({}, {"x_db": 1.0}, others, references=("rival",), partly_labelled=("half",)))
    assert row.shown_references == [("rival", "2"), ("held-out data", "0.5"), ("noise", "3")]


@pytest.mark.parametrize("count", [1, 12, 40])
def test_a_table_for_a_terminal_has_few_rows_that_fit(count):
    generated = {f"a_figure_of_a_long_name_number_{place}_hz": 12_345.678 * 10**place for place in range(count)}
    generated["a_figure_of_a_long_name_number_0_hz"] = Absent("nothing has a pitch")
    others = {f"a rival of a very long name {place}": dict.fromkeys(generated, 1e-9) for place in range(9)}
    lines = terminal_table(key_rows(figure_rows(result({}, generated, others)))).splitlines()
    assert len(lines) == 1 + min(count, 12) + 1
    assert max(map(len, lines[:-1])) <= 80
    assert lines[-1] == "A figure of a long name number 0: not computed (nothing has a pitch)"


# --------------------------------------------------------------------------------------------- labels


SPEC = DataSpec(
    LogMel(sample_rate=8_000, n_fft=256, hop_length=80, n_mels=8),
    vocabularies=(("digit", ("0", "1", "2")), ("speaker", ("a", "b"))),
    combinations=((("0", "a"), 5), (("1", "a"), 5), (("2", "b"), 2)),
)


@pytest.mark.parametrize(("num_clips", "per_value", "count"), [(100, 4, 12), (7, 4, 7), (1, 1, 1)])
def test_clips_of_labels_said_alone_are_of_all_values_and_few(num_clips, per_value, count):
    made = []

    def make(rows):
        made.append(rows)
        return [np.zeros(1, np.float32)] * len(rows)

    evaluation = AutoregressiveEvaluation(num_clips=num_clips, clips_per_value=per_value)
    groups = evaluation.partly_labelled(SPEC, ("digit", "speaker"), 0, make)
    assert [group.name for group in groups] == ["only digit said", "only speaker said", "no label said"]
    assert [group.labels for group in groups] == made
    known = {values for values, _ in SPEC.combinations}
    for group in groups:
        assert len(group.clips) == len(group.labels) == count
        assert {(row["digit"], row["speaker"]) for row in group.labels} <= known  # drawn together
    for group, name, values in zip(groups[:2], ("digit", "speaker"), (("0", "1", "2"), ("a", "b")), strict=True):
        said = [row[name] for row in group.labels]
        assert {said.count(value) for value in values[:count]} <= {count // len(values), -(-count // len(values))}


@pytest.mark.parametrize("names", [(), ("digit",)])
def test_one_label_or_none_has_no_further_columns(names):
    def make(rows):
        raise AssertionError("nothing is made")

    assert AutoregressiveEvaluation().partly_labelled(SPEC, names, 0, make) == []


def test_fewer_than_one_clip_a_value_is_one_line():
    with pytest.raises(UserError, match=r"--evaluation\.clips-per-value must be at least 1"):
        AutoregressiveEvaluation(clips_per_value=0)
