"""Scores: what is done to them is exact, and arrays on a grid hold all that the grid can hold."""

import dataclasses
import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jaxgen.core.errors import UserError
from jaxgen.scores.rolls import (
    HOLD,
    LOWEST_KEY,
    REST,
    fill_holds,
    from_roll,
    from_voices,
    mark_holds,
    strike_beats,
    to_roll,
    to_voices,
)
from jaxgen.scores.score import (
    KeySignature,
    Score,
    Tempo,
    TimeSignature,
    Track,
    bar_starts,
    crop,
    crop_ticks,
    ends,
    make_notes,
    quantise,
    select_tracks,
    to_seconds,
    transpose,
)


@st.composite
def scores(draw, per_quarter=st.integers(1, 960), overlap=True):
    """Any score; without `overlap` no two notes of one track and pitch sound together."""
    num_tracks = draw(st.integers(1, 3))
    note = st.tuples(
        st.integers(0, 5_000),
        st.integers(1, 500),
        st.integers(21, 108),
        st.integers(1, 127),
        st.integers(0, num_tracks - 1),
    )
    notes = draw(st.lists(note, max_size=20))
    if not overlap:
        notes = [(o, d, p, v, 0) for o, d, p, v, _ in notes]
        kept: list = []
        for one in notes:
            if all(o + d <= one[0] or one[0] + one[1] <= o or p != one[2] for o, d, p, *_ in kept):
                kept.append(one)
        notes, num_tracks = kept, 1
    array = make_notes(*(np.array([n[i] for n in notes]) for i in range(5)))
    ticks = st.lists(st.integers(1, 4_000), max_size=3, unique=True).map(lambda some: [0, *sorted(some)])
    return Score(
        array,
        draw(per_quarter),
        int(ends(array).max(initial=0)) + draw(st.integers(0, 100)),
        tuple(Track(f"part {i}", i) for i in range(num_tracks)),
        tuple(Tempo(t, draw(st.integers(100_000, 2_000_000))) for t in draw(ticks)),
        tuple(TimeSignature(t, draw(st.integers(2, 12)), draw(st.sampled_from((2, 4, 8)))) for t in draw(ticks)),
        tuple(KeySignature(t, draw(st.integers(0, 11)), draw(st.booleans())) for t in draw(ticks)),
        "a title",
    )


def test_scores_are_values():
    score = Score(make_notes([4, 0], [2, 4], [60, 64]), 4, 8)
    assert score == Score(make_notes([0, 4], [4, 2], [64, 60]), 4, 8)  # in whatever order its notes are given
    assert score != dataclasses.replace(score, length=9)
    assert score != transpose(score, 1)
    with pytest.raises(ValueError, match="read-only"):
        score.notes["pitch"] = 0


@pytest.mark.parametrize(
    "notes",
    [
        make_notes(-1, 1, 60),
        make_notes(0, 0, 60),
        make_notes(0, 1, 128),
        make_notes(0, 1, 60, track=1),
        make_notes(0, 9, 60),
    ],
)
def test_what_is_no_score_is_refused(notes):
    with pytest.raises(ValueError, match=r"note|pitch|score"):
        Score(notes, 4, 8)


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.too_slow])
@given(score=scores(), semitones=st.integers(-20, 19))
def test_transposition_has_an_inverse_and_moves_keys(score, semitones):
    moved = transpose(score, semitones)
    assert transpose(moved, -semitones) == score
    assert np.array_equal(moved.notes["pitch"] - score.notes["pitch"], np.full(len(score.notes), semitones))
    assert all(-5 <= key.sharps <= 6 for key in moved.key_signatures)


def test_transposition_out_of_range_is_one_line():
    with pytest.raises(UserError, match="transpose it less"):
        transpose(Score(make_notes(0, 1, 120), 4, 4), 9)


@pytest.mark.parametrize(
    ("tonic", "minor", "sharps"),
    [(0, False, 0), (9, True, 0), (7, False, 1), (5, False, -1), (6, True, 3), (10, False, -2)],
)
def test_signatures_of_keys(tonic, minor, sharps):
    assert KeySignature(0, tonic, minor).sharps == sharps


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.too_slow])
@given(score=scores(), ticks=st.lists(st.integers(0, 6_000), min_size=1, max_size=5))
def test_seconds_are_those_of_an_exact_sum(score, ticks):
    def exact(tick):
        edges = [t.tick for t in score.tempi] + [10**9]
        return sum(
            Fraction(max(0, min(tick, stop) - t.tick) * t.microseconds, 10**6 * score.ticks_per_quarter)
            for t, stop in zip(score.tempi, edges[1:], strict=True)
        )

    assert np.allclose(to_seconds(score, np.array(ticks)), [float(exact(t)) for t in ticks], rtol=1e-12)


def test_bars_begin_anew_at_a_signature():
    signatures = (TimeSignature(0, 3, 4), TimeSignature(20, 2, 4), TimeSignature(36, 6, 8))
    score = Score(make_notes(0, 50, 60), 4, 50, time_signatures=signatures)
    assert bar_starts(score).tolist() == [0, 12, 20, 28, 36, 48, 60]
    assert bar_starts(Score(make_notes(0, 20, 60), 4, 20)).tolist() == [0, 16, 32]
    assert bar_starts(Score(make_notes([], [], []), 4, 0)).tolist() == [0]


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.too_slow])
@given(score=scores(), cuts=st.lists(st.integers(0, 6_000), min_size=1, max_size=4))
def test_crops_hold_all_that_sounds(score, cuts):
    edges = sorted({0, *cuts, score.length + 1})
    for start, stop in itertools.pairwise(edges):
        part = crop_ticks(score, start, stop)
        assert part.length == stop - start
        overlap = np.minimum(ends(score.notes), stop) - np.maximum(score.notes["onset"], start)
        assert sorted(part.notes["duration"]) == sorted(overlap[overlap > 0])
        middle = np.array([start, stop])
        assert math.isclose(part.seconds, np.diff(to_seconds(score, middle))[0], abs_tol=1e-9)  # the tempo holds
    assert (
        crop_ticks(score, 0, score.length)
        == dataclasses.replace(
            score,
            tempi=tuple(t for t in score.tempi if t.tick < score.length or not t.tick),
            time_signatures=tuple(t for t in score.time_signatures if t.tick < score.length or not t.tick),
            key_signatures=tuple(t for t in score.key_signatures if t.tick < score.length or not t.tick),
        )
        or not score.length
    )


def test_bars_that_are_not_there_are_one_line():
    score = Score(make_notes(0, 32, 60), 4, 32)
    assert crop(score, 1, 2).length == 16
    for first, stop in ((0, 3), (-1, 1), (1, 1)):
        with pytest.raises(UserError, match="at most 2, the number of bars"):
            crop(score, first, stop)


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.too_slow])
@given(score=scores(), divisions=st.sampled_from([(4,), (3,), (4, 3), (12,), (1,), (5, 8)]))
def test_a_grid_moves_each_note_to_its_nearest_place(score, divisions):
    moved, error = quantise(score, divisions)
    finest = math.lcm(*divisions)
    allowed = {Fraction(i, part) for part in divisions for i in range(part + 1)}

    def nearest(ticks):
        quarters = Fraction(int(ticks), score.ticks_per_quarter)
        return min(abs(quarters % 1 - place) for place in allowed)

    distances = [nearest(t) for t in np.concatenate([score.notes["onset"], ends(score.notes)])]
    assert math.isclose(error.largest, float(max(distances, default=0)), abs_tol=1e-12)
    assert math.isclose(error.moved_share, float(np.mean([d > 0 for d in distances])) if distances else 0.0)
    assert moved.ticks_per_quarter == finest
    assert {Fraction(int(t), finest) % 1 for t in moved.notes["onset"]} <= {place % 1 for place in allowed}
    assert quantise(moved, (finest,))[0] == moved  # a second time changes nothing
    assert quantise(moved, (finest,))[1].largest == 0


def test_triplets_and_sixteenths_each_find_their_place():
    score = Score(make_notes([0, 161, 318, 480, 610, 1201], 100, 60), 480, 2000)
    moved, _ = quantise(score, (4, 3))
    assert moved.notes["onset"].tolist() == [0, 4, 8, 12, 15, 30]
    with pytest.raises(UserError, match="least common multiple"):
        quantise(score, (0,))


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.too_slow])
@given(score=scores(per_quarter=st.just(4), overlap=False))
def test_rolls_lose_nothing_but_velocity_and_names(score):
    roll = to_roll(score, 4)
    back = from_roll(roll.sounding, roll.onsets, 4)
    expected = score.notes.copy()
    expected["velocity"] = 80
    assert np.array_equal(back.notes, np.sort(expected, order=("onset", "track", "pitch", "duration")))
    assert back.length == score.length
    for note in score.notes[:3]:
        assert roll.sounding[note["onset"] : note["onset"] + note["duration"], note["pitch"] - LOWEST_KEY].all()
    assert roll.sounding.sum() == score.notes["duration"].sum()


def test_held_and_repeated_notes_are_told_apart():
    held, repeated = Score(make_notes(0, 8, 60), 4, 8), Score(make_notes([0, 4], 4, 60), 4, 8)
    rolls = to_roll(held, 4), to_roll(repeated, 4)
    assert np.array_equal(rolls[0].sounding, rolls[1].sounding)
    assert from_roll(rolls[1].sounding, rolls[1].onsets, 4).notes["duration"].tolist() == [4, 4]
    assert from_roll(rolls[1].sounding, None, 4).notes["duration"].tolist() == [8]


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.too_slow])
@given(frames=st.lists(st.lists(st.sampled_from([REST, HOLD, 40, 60, 61]), min_size=3, max_size=3), max_size=30))
def test_voices_lose_nothing(frames):
    voices = np.array(frames, np.int16).reshape(-1, 3)
    score = from_voices(voices, 4)
    again = to_voices(score, 4)
    assert np.array_equal(fill_holds(again), fill_holds(voices))
    assert from_voices(again, 4) == score
    assert len(score.notes) == (voices >= 0).sum()
    assert np.array_equal(fill_holds(mark_holds(fill_holds(voices))), fill_holds(voices))
    struck = strike_beats(voices, 4)
    assert np.array_equal(fill_holds(struck), fill_holds(voices))
    assert not (struck[::4] == HOLD).any()


def test_what_the_grid_cannot_hold_is_one_line():
    odd = Score(make_notes([0, 3], 3, 60), 8, 8)
    for convert in (to_roll, to_voices):
        with pytest.raises(UserError, match="quantise it to that grid"):
            convert(odd, 4)
        with pytest.raises(UserError, match="quantise it to that grid"):
            convert(odd, 3)
        with pytest.raises(UserError, match="quantise it to that grid"):
            convert(odd, 0)
        with pytest.raises(UserError, match="crop it first"):
            convert(Score(make_notes(0, 1, 60), 1, 1 << 40), 1)
    with pytest.raises(UserError, match="a piano has 21 to 108"):
        to_roll(Score(make_notes(0, 1, 120), 1, 1), 1)
    with pytest.raises(UserError, match="two notes at a time"):
        to_voices(Score(make_notes([0, 1], 2, [60, 64]), 1, 3), 1)
    with pytest.raises(ValueError, match="expected"):
        from_roll(np.zeros((4, 128)), None, 4)


def test_tracks_are_taken_in_the_order_asked_for():
    score = Score(make_notes(0, 1, [60, 48], track=[0, 1]), 1, 1, (Track("melody"), Track("bass")))
    assert select_tracks(score, [1, 0]).notes["pitch"].tolist() == [48, 60]
    assert select_tracks(score, [1]).tracks == (Track("bass"),)
    with pytest.raises(UserError, match="has 2"):
        select_tracks(score, [2])
