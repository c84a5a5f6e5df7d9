"""Figures in words: what a name tells of itself, which description is found, and that the documentation says the same."""

import importlib
import math
import pkgutil
from pathlib import Path

import pytest

from jaxgen.core.descriptions import SHARE, Better, Description, Descriptions, find_description, read_name, show_figure
from jaxgen.evaluation import (
    autoregressive,
    baselines,
    copy_synthesis,
    held_out,
    memorisation,
    mixture,
    result,
    score_evaluation,
)
from jaxgen.evaluation.audio_metric import AudioMetric
from jaxgen.models.mel_rnn import MelModule
from jaxgen.models.planned_rnn import PlannedModule
from jaxgen.nn.heads import SampleHead
from jaxgen.objectives.terms import Term

PAGE = Path(__file__).parent.parent / "docs" / "reference" / "metrics.md"


def metric_classes() -> list[type[AudioMetric]]:
    """All that jaxgen has."""
    for module in pkgutil.iter_modules(importlib.import_module("jaxgen.evaluation").__path__, "jaxgen.evaluation."):
        importlib.import_module(module.name)
    return [each for each in AudioMetric.__subclasses__() if each.__module__.startswith("jaxgen.")]


def every_description() -> dict[str, Descriptions]:
    """By who brings them."""
    terms = [each for each in Term.__subclasses__() if each.description and each.__module__.startswith("jaxgen.")]
    return {
        "heads": SampleHead.descriptions,
        "mel": MelModule.descriptions,
        "planned": PlannedModule.descriptions,
        "floors": baselines.DESCRIPTIONS,
        "autoregressive": autoregressive.DESCRIPTIONS,
        "mixture": mixture.DESCRIPTIONS,
        "clips": {"frechet_distance_db2": held_out.FRECHET_DESCRIPTION, **result.CLIP_DESCRIPTIONS},
        "memorisation": memorisation.DESCRIPTIONS,
        "copies": copy_synthesis.DESCRIPTIONS,
        "scores": {n: d for n, d in score_evaluation.DESCRIPTIONS.items() if n != "train_{figure}"},
        "terms": {term.name: term.description for term in terms if term.description},
        **{each.__name__: each.descriptions for each in metric_classes()},
    }


def row(name: str, found: Description) -> str:
    """The line of the documentation's tables."""
    better = f"beside `{found.reference_of}`" if found.reference_of else found.better.value.removesuffix(" is better")
    if found.better is Better.NEITHER and not found.reference_of:
        better = ""
    known = f" {found.reference[:1].upper()}{found.reference[1:]}." if found.reference else ""
    return f"| `{name}` | {found.name} | {found.unit} | {found.meaning}{known} | {better} |"


@pytest.mark.parametrize("who", every_description())
def test_the_reference_says_what_the_descriptions_say(who):
    lines = PAGE.read_text(encoding="utf-8").splitlines()
    descriptions = every_description()[who]
    assert descriptions, f"{who} describes none of its figures"
    missing = [line for name, found in descriptions.items() if (line := row(name, found)) not in lines]
    assert not missing, "docs/reference/metrics.md lacks these lines:\n" + "\n".join(missing)


def test_the_reference_lists_nothing_else():
    known = {row(name, found) for each in every_description().values() for name, found in each.items()}
    lines = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("| `")]
    assert set(lines) <= known


@pytest.mark.parametrize("who", every_description())
def test_a_description_is_short_and_in_words(who):
    for name, found in every_description()[who].items():
        assert len(found.title) <= 52, name
        assert len(found.meaning.split()) <= 22, name
        assert found.meaning.endswith("."), name
        assert "_" not in found.name + found.meaning + found.unit + found.reference, name
        assert found.importance == 0 or found.better in (Better.LOWER, Better.HIGHER, Better.LIKE_RECORDINGS), name


def test_the_description_whose_name_says_most_is_found():
    descriptions = {
        "{label}_recognised": Description("{label} recognised", "Of {label}.", SHARE),
        "{label}_least_recognised": Description("{label}, least", "The least."),
        "heard_recognised": Description("exactly", "This one."),
        "train_{figure}": Description("training", "Of training.", reference_of="{figure}"),
    }
    assert find_description(descriptions, "digit_recognised").name == "Digit recognised"
    assert find_description(descriptions, "digit_recognised").meaning == "Of digit."
    assert find_description(descriptions, "birth_year_least_recognised").name == "Birth year, least"
    assert find_description(descriptions, "heard_recognised").name == "Exactly"
    assert find_description(descriptions, "train_nats_per_frame").reference_of == "nats_per_frame"
    strange = find_description(descriptions, "a(b[.*{x}_recognised")
    assert strange.name == "A(b[.*{x} recognised"


@pytest.mark.parametrize(
    ("figure", "name", "unit"),
    [
        ("centroid_hz", "Centroid", "Hz"),
        ("spectral_tilt_db", "Spectral tilt", "dB"),
        ("laughter_share", "Laughter", "%"),
        ("surprise_nats_per_note", "Surprise", "nats/note"),
        ("nats_per_frame", "Nats per frame", ""),
        ("seconds", "Seconds", ""),
        ("distance", "Distance", ""),
        ("_", "_", ""),
    ],
)
def test_a_name_without_a_description_tells_words_and_unit(figure, name, unit):
    found = read_name(figure)
    assert (found.name, found.unit, found.better) == (name, unit, Better.UNKNOWN)


@pytest.mark.parametrize(
    ("value", "unit", "shown"),
    [
        (0.93812, SHARE, "93.8"),
        (1.0, SHARE, "100"),
        (0.0, SHARE, "0"),
        (21.57432, "nats/frame", "21.57"),
        (12_345, "clips", "12,345"),
        (1.5e-7, "", "1.5e-07"),
        (math.nan, SHARE, "–"),
        (math.inf, "", "–"),
        (None, "dB", "–"),
    ],
)
def test_figures_are_shown_briefly(value, unit, shown):
    assert show_figure(value, unit) == shown
