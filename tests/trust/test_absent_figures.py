"""Figures of few, silent, constant or very short clips: a finite number, or the reason why there is none."""

import itertools
import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxgen.evaluation import classifier_metrics, metrics, summary
from jaxgen.evaluation.audio_metric import ClipSet, Reference
from jaxgen.evaluation.classifier import Predictions
from jaxgen.evaluation.copies import PitchErrors
from jaxgen.evaluation.melody import Melody
from jaxgen.evaluation.memorisation import memorisation
from jaxgen.evaluation.metrics import Absent, add_reasons, embed, frechet_distance, split_absent
from jaxgen.evaluation.prosody import Prosody
from jaxgen.evaluation.prosody import _Prepared as PreparedProsody
from jaxgen.evaluation.result import ClipGroup, EvaluationResult, describe

pytestmark = pytest.mark.slow

RATE = 8_000
KINDS = {
    "silent": lambda length: np.zeros(length),
    "constant": lambda length: np.full(length, 0.5),
    "sine": lambda length: 0.5 * np.sin(np.arange(length) / 5),
    "clipped": lambda length: np.sign(np.sin(np.arange(length) / 9)),
    "faint": lambda length: 1e-30 * np.cos(np.arange(length)),
}
CLIPS = st.lists(
    st.builds(
        lambda kind, length: KINDS[kind](length).astype(np.float32),
        st.sampled_from(sorted(KINDS)),
        st.sampled_from([0, 1, 2, 100, 3_000]),
    ),
    max_size=3,
)


def _set(clips, originals=None):
    return ClipSet(clips, RATE, [{"word": str(place % 2)} for place in range(len(clips))], originals)


def _classified(real):
    """The metric with a classifier that knows two words, and says something of any clip."""

    def classifier(clips):
        heard = np.array([[0.1 + 0.8 * (len(clip) % 2), 0.9 - 0.8 * (len(clip) % 2)] for clip in clips]).reshape(-1, 2)
        return Predictions({"word": heard}, np.array([[len(clip), 1.0] for clip in clips], np.float32).reshape(-1, 2))

    classifier.labels, classifier.about = {"word": ("0", "1")}, {"frequencies": {"word": [0.5, 0.5]}}
    return classifier_metrics._Prepared(classifier, real, classifier(real.samples))


def _measured(real, made):
    """All figures of `made`, and of the real clips themselves, by any measure."""
    reference = Reference(None, real, "")  # type: ignore[arg-type]
    melody = Melody(scale_hz=(220.0, 330.0)).prepare(reference)
    for measure in (_classified(real), PreparedProsody(Prosody(), ("word",), real), melody):
        yield measure(made)
        yield measure(real)
    count = min(len(real.samples), len(made.samples))
    pairs = [
        (a[: min(len(a), len(b))], b[: min(len(a), len(b))])
        for a, b in zip(real.samples[:count], made.samples[:count], strict=True)
    ]
    yield PitchErrors().prepare(reference)(_set([b for _, b in pairs], [a for a, _ in pairs]))
    yield describe(ClipGroup("generated", list(made.samples), made.labels), RATE)
    nothing = np.zeros((0, metrics.EMBEDDING_SIZE), np.float32)
    rows, others = (np.concatenate([nothing, *(embed(clip, RATE) for clip in each.samples)]) for each in (made, real))
    yield {"frechet": frechet_distance(rows, others)}
    named = [[(str(place), clip) for place, clip in enumerate(each.samples)] for each in (real, made)]
    found = memorisation(named[0], named[1], named[0], RATE)
    yield {"ratio": found.ratio, "share": found.suspicious_share, "median": found.generated.median_db}
    for a, b in pairs:
        yield {"lsd": metrics.log_spectral_distance_db(a, b, RATE)}
        yield {"stft": metrics.multi_resolution_stft_distance(a, b, RATE)}


@settings(max_examples=25, deadline=None)
@given(real=CLIPS, made=CLIPS)
def test_every_figure_is_a_number_or_says_why_not(real, made):
    for figures in _measured(_set(real), _set(made)):
        for name, value in figures.items():
            assert math.isfinite(value) or (isinstance(value, Absent) and value.reason), name


@pytest.mark.parametrize(("a", "b"), list(itertools.product([0, 1, 2], repeat=2)))
def test_a_frechet_distance_needs_two_rows_on_either_side(a, b):
    found = frechet_distance(np.ones((a, 3)), np.ones((b, 3)))
    assert isinstance(found, Absent) == (min(a, b) < 2)
    if min(a, b) == 2:
        assert found == 0  # singular covariances, too


def test_absent_figures_are_told_apart_from_those_that_are_not_finite():
    figures = {"a": 1.0, "b": Absent("no clips"), "c": math.nan, "d": math.inf}
    known, absent = split_absent(figures)
    assert (known.keys(), absent) == ({"a", "c", "d"}, {"b": "no clips"})
    known, absent = split_absent(add_reasons(figures, "not finite"))
    assert (known, absent) == ({"a": 1.0}, {"b": "no clips", "c": "not finite", "d": "not finite"})


def test_a_report_says_why_figures_are_missing(tmp_path: Path):
    clip = KINDS["sine"](3_000).astype(np.float32)
    names = ("held-out data", "generated")
    columns = tuple(ClipGroup(name, [clip], [{}]) for name in names)
    table = {name: {"frechet_distance_db2": Absent(f"too few {name}"), "silence_rate": 0.0} for name in names}
    metrics_found = {"mse": 1.0, "train_mse": 1.0, "pesq": Absent("too short"), "bad": math.inf}
    findings = EvaluationResult(metrics_found, columns, table, ({},), {"note": "one"}, None, 1.0)
    summary.write_report(tmp_path, "t", findings, [], sample_rate=RATE, num_players=1, about={})
    report = json.loads((tmp_path / "report.json").read_text(), parse_constant=lambda text: pytest.fail(text))
    assert report["metrics"] == {"mse": 1.0, "train_mse": 1.0}
    assert report["table"] == {name: {"silence_rate": 0.0} for name in names}
    assert report["absent"] == {
        "metrics": {"pesq": "too short", "bad": "it is not a finite number"},
        "table": {name: {"frechet_distance_db2": f"too few {name}"} for name in names},
    }
    page = (tmp_path / "report.html").read_text()
    assert "not computed (too short)" in page
    assert "too few generated" in page
    said = summary.headline(findings)
    assert "Frechet distance: not computed (too few generated)" in said
    assert "nan" not in said


def test_one_held_out_clip_and_one_generated_are_measured():
    """As `LatentEvaluation` validates: a loss that is absent, not one that has diverged."""
    one = _set([KINDS["sine"](100).astype(np.float32)])
    figures = {name: value for found in _measured(one, one) for name, value in found.items()}
    assert isinstance(figures["frechet"], Absent)
    assert isinstance(figures["classifier_frechet_distance"], Absent)
    assert figures["silence_rate"] == 0
