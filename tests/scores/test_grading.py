"""The grade: its parts against plain counts and scipy, and that it tells real chorales from others."""

import itertools
import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jaxgen.scores.archives import read_voices
from jaxgen.scores.compose.chorales import compose_chorale
from jaxgen.scores.grading import FEATURES, ChoraleGrader, _distance_of_ranks, _repeated_lengths
from jaxgen.scores.rolls import HOLD, mark_holds, strike_beats, to_voices


def plain_repeats(voice: list[int]) -> Counter[int]:
    """Lengths of repeated sequences by trying all: those that begin with a note, have two, and are in no longer one that
    occurs as often."""
    size = len(voice)
    places: dict[tuple[int, ...], list[int]] = {}
    for start, stop in itertools.combinations(range(size + 1), 2):
        sequence = tuple(voice[start:stop])
        if sequence[0] >= 0 and sum(tick != HOLD for tick in sequence) >= 2:
            places.setdefault(sequence, []).append(start)
    repeated = {sequence: len(found) for sequence, found in places.items() if len(found) > 1}

    def inside(short, long):
        return any(long[at : at + len(short)] == short for at in range(len(long) - len(short) + 1))

    kept = {
        one: count
        for one, count in repeated.items()
        if not any(
            len(other) > len(one) and number == count and inside(one, other) for other, number in repeated.items()
        )
    }
    lengths: Counter[int] = Counter()
    for sequence, count in kept.items():
        lengths[len(sequence)] += count
    return lengths


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(rest=st.lists(st.sampled_from([HOLD, 60, 62, 64]), max_size=16))
def test_repeated_sequences_are_those_of_a_plain_search(rest):
    voice = [60, *rest]
    assert Counter(_repeated_lengths(np.array(voice))) == plain_repeats(voice)


@settings(deadline=None, max_examples=40)
@given(counts=st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), min_size=1, max_size=6))
def test_the_distance_is_scipys(counts):
    from scipy.stats import wasserstein_distance

    mine = Counter({place: one for place, (one, _) in enumerate(counts)})
    corpus = Counter({place: other for place, (_, other) in enumerate(counts)})
    ranks = {kind: rank for rank, (kind, _) in enumerate(corpus.most_common())}
    places = [ranks[kind] for kind in mine]
    expected = wasserstein_distance(places, places, list(mine.values()), [corpus[kind] for kind in mine])
    assert _distance_of_ranks(mine, corpus) == pytest.approx(expected, abs=1e-9)


def chorales(numbers: range) -> list[np.ndarray]:
    return [to_voices(compose_chorale(0, number), 4) for number in numbers]


def test_noise_gets_a_worse_grade_than_what_follows_the_rules():
    grader = ChoraleGrader(chorales(range(6, 18)))
    random = np.random.default_rng(0)
    kept, noise = [], []
    for voices in chorales(range(18, 22)):
        grades = grader.grade(voices)
        assert set(grades) == {*FEATURES, "grade"}
        assert grades["grade"] == pytest.approx(sum(grades[feature] for feature in FEATURES))
        kept.append(grades["grade"])
        shaken = np.where(voices >= 0, voices + random.integers(-9, 10, voices.shape), voices)
        noise.append(grader.grade(shaken)["grade"])
    assert np.mean(kept) < 0.5 * np.min(noise)


def test_a_chorale_is_nearest_to_itself():
    major, minor = chorales(range(11, 13))
    own, other = (ChoraleGrader([major, minor]).grade(voices) for voices in (major, chorales(range(2, 3))[0]))
    by_mode = [feature for feature in FEATURES if feature not in ("rhythm", "parallel_errors", "repeated_sequences")]
    assert sum(own[feature] for feature in by_mode) == 0 < sum(other[feature] for feature in by_mode)


def test_what_cannot_be_graded_is_said():
    with pytest.raises(ValueError, match="in major and in minor"):
        ChoraleGrader(chorales(range(1)))
    grader = ChoraleGrader(chorales(range(11, 13)))
    for voices in (np.zeros((4, 3), int), np.full((4, 4), -1)):
        with pytest.raises(ValueError, match=r"expected \[T, 4\] with notes"):
            grader.grade(voices)


@pytest.mark.skipif("JAXGEN_DATA" not in os.environ, reason="JAXGEN_DATA names no folder of real data")
def test_real_chorales_have_about_the_published_grade():
    pieces = read_voices(Path(os.environ["JAXGEN_DATA"]) / "jsb" / "jsb16_satb.npz")
    grader = ChoraleGrader([strike_beats(mark_holds(voices), 4) for voices in pieces["train"][::2]])
    grades = [grader.grade(strike_beats(mark_holds(voices), 4))["grade"] for voices in pieces["validation"][::2]]
    assert 4 < np.median(grades) < 6.2  # 4.91 in the paper
    random = np.random.default_rng(0)
    shuffled = [grader.grade(mark_holds(random.permutation(voices)))["grade"] for voices in pieces["validation"][::8]]
    assert np.median(shuffled) > 2 * np.median(grades)
