"""Figures of scores by hand-made cases, voice leading against a plain count, and runs of copies against a plain search."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jaxgen.scores.analysis import (
    histogram_distance,
    in_key_share,
    interval_histogram,
    mean_histogram,
    measure_score,
    melody_of,
    pitch_class_histogram,
    position_histogram,
    rhythm_histogram,
)
from jaxgen.scores.compose.tunes import compose_tune
from jaxgen.scores.copies import CopyIndex
from jaxgen.scores.score import KeySignature, Score, Track, make_notes, transpose
from jaxgen.scores.voice_leading import VoiceErrors, count_voice_errors


def line(*pitches: int, duration: int = 4) -> Score:
    return Score(
        make_notes(np.arange(len(pitches)) * duration, duration, np.array(pitches)), 4, len(pitches) * duration
    )


def test_histograms():
    score = line(60, 64, 62, 90)
    assert pitch_class_histogram(score)[[0, 4, 2, 6]].tolist() == [0.25] * 4
    assert interval_histogram(score)[[12 + 4, 12 - 2, 24]].tolist() == [1 / 3] * 3  # wider ones count as an octave
    assert rhythm_histogram(score)[12] == 1
    assert position_histogram(score)[[0, 12, 24, 36]].tolist() == [0.25] * 4
    empty = Score(make_notes([], [], []), 4, 4)
    for histogram in (pitch_class_histogram, interval_histogram, rhythm_histogram, position_histogram):
        assert not histogram(empty).any()
    assert math.isnan(histogram_distance(rhythm_histogram(empty), rhythm_histogram(score)))
    assert mean_histogram([pitch_class_histogram(line(60)), pitch_class_histogram(line(62))])[:3].tolist() == [
        0.5,
        0,
        0.5,
    ]


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.too_slow])
@given(
    one=st.lists(st.integers(0, 9), min_size=4, max_size=4).filter(any),
    other=st.lists(st.integers(0, 9), min_size=4, max_size=4).filter(any),
)
def test_the_distance_is_scipys(one, other):
    from scipy.spatial.distance import jensenshannon

    shares = [np.array(values) / sum(values) for values in (one, other)]
    assert math.isclose(histogram_distance(*shares), jensenshannon(*shares, base=2), abs_tol=1e-6)


def test_figures_of_a_piece():
    two_bars = [60, 62, 64, 60, 67, 69, 71, 67]  # the second is the first, a fifth higher
    figures = measure_score(line(*two_bars))
    assert figures is not None
    assert (figures.repeated_bar_share, figures.empty_bar_share, figures.silent_share) == (0.5, 0, 0)
    assert (figures.lowest, figures.highest, figures.polyphony, figures.notes_per_quarter) == (60, 71, 1, 1)
    gaps = Score(make_notes([0, 4, 48], 4, [60, 60, 60]), 4, 64)
    figures = measure_score(gaps)
    assert figures is not None
    assert (figures.empty_bar_share, figures.silent_share, figures.longest_repeated_note) == (0.5, 1 - 12 / 64, 3)
    chord = Score(make_notes(0, [4, 4, 8], [60, 64, 67]), 4, 8)
    figures = measure_score(chord)
    assert figures is not None
    assert (figures.polyphony, figures.longest_note) == (2, 2)
    assert measure_score(Score(make_notes([], [], []), 4, 4)) is None


def test_a_long_note_fills_the_bars_that_it_sounds_in():
    figures = measure_score(Score(make_notes([0, 1], [40, 1], [40, 60]), 4, 64))
    assert figures is not None
    assert figures.empty_bar_share == 0.25


def test_the_key_decides_what_is_in_it():
    score = Score(make_notes([0, 4, 8, 12], 4, [60, 66, 64, 67]), 4, 16, key_signatures=(KeySignature(0, 0, False),))
    assert in_key_share(score) == 0.75
    changed = Score(score.notes, 4, 16, key_signatures=(KeySignature(0, 0, False), KeySignature(4, 7, False)))
    assert in_key_share(changed) == 1
    assert in_key_share(compose_tune(0, 2)) == 1


def test_the_melody_is_the_highest_of_notes_that_begin_together():
    score = Score(make_notes([0, 0, 4], [4, 8, 4], [60, 72, 62]), 4, 8)
    assert melody_of(score, 0).tolist() == [[0, 8, 72], [4, 4, 62]]


def test_errors_of_voice_leading_are_counted():
    good = np.array([[72, 67, 64, 48], [71, 67, 62, 55]])
    assert count_voice_errors(good) == VoiceErrors(2, 0, 0, 0, 0)
    fifths = np.array([[72, 67, 55, 48], [74, 67, 57, 50]])  # soprano and bass in octaves, tenor and bass in fifths
    assert count_voice_errors(fifths) == VoiceErrors(2, 1, 1, 0, 0)
    held = np.repeat(fifths, 3, axis=0)
    assert count_voice_errors(held) == count_voice_errors(fifths)
    crossed = np.array([[60, 64, 55, 48]])
    assert count_voice_errors(crossed) == VoiceErrors(1, 0, 0, 1, 0)
    assert count_voice_errors(np.array([[90, 67, 55, 48]])).out_of_range == 1
    assert count_voice_errors(np.array([[72, -1, 55, 48]])).chords == 0
    assert (count_voice_errors(crossed) + count_voice_errors(good)).per_hundred()["crossings"] == pytest.approx(100 / 3)
    assert math.isnan(count_voice_errors(np.zeros((0, 4))).per_hundred()["crossings"])
    with pytest.raises(ValueError, match="expected"):
        count_voice_errors(np.zeros((3, 5)))


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.too_slow])
@given(frames=st.lists(st.lists(st.sampled_from([-1, 48, 55, 60, 62, 67, 72]), min_size=4, max_size=4), max_size=12))
def test_parallels_are_those_of_a_plain_count(frames):
    chords = [frame for place, frame in enumerate(frames) if not place or frame != frames[place - 1]]
    expected = {7: 0, 0: 0}
    for before, after in itertools.pairwise(chords):
        if min(before) < 0 or min(after) < 0:
            continue
        for a, b in itertools.combinations(range(4), 2):
            was, now = abs(before[a] - before[b]) % 12, abs(after[a] - after[b]) % 12
            if was == now and was in expected and before[a] != after[a] and before[b] != after[b]:
                expected[was] += 1
    found = count_voice_errors(np.array(frames).reshape(-1, 4))
    assert (found.parallel_fifths, found.parallel_octaves) == (expected[7], expected[0])


def plain_longest(score: Score, pieces: list[Score], transposed: bool) -> int:
    def tokens(one):
        notes = [(int(d), int(p)) for _, d, p in melody_of(one, 0)]
        return [(a[0], b[1] - a[1]) for a, b in itertools.pairwise(notes)] if transposed else notes

    mine = tokens(score)
    best = 0
    for piece in pieces:
        theirs = tokens(piece)
        for i, j in itertools.product(range(len(mine)), range(len(theirs))):
            k = 0
            while i + k < len(mine) and j + k < len(theirs) and mine[i + k] == theirs[j + k]:
                k += 1
            best = max(best, k)
    return best + (transposed and best > 0)


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.too_slow])
@given(
    lines=st.lists(st.lists(st.integers(60, 62), min_size=1, max_size=12), min_size=2, max_size=4),
    transposed=st.booleans(),
)
def test_the_longest_run_is_that_of_a_plain_search(lines, transposed):
    score, *pieces = (line(*pitches) for pitches in lines)
    run = CopyIndex(pieces, transposed=transposed).longest_run(score)
    assert run.notes == plain_longest(score, pieces, transposed)
    if run.notes:
        shared = [
            p - q * (transposed) for p, q in zip(lines[0][run.start :], [lines[0][run.start]] * run.notes, strict=False)
        ]
        theirs = lines[1 + run.piece]
        found = [theirs[at : at + run.notes] for at in range(len(theirs))]
        assert shared in [[p - f[0] * transposed for p in f] for f in found]


def test_a_transposed_copy_is_found_among_many():
    pieces = [compose_tune(1, index) for index in range(60)]
    copied = transpose(pieces[37], 2)
    length = len(melody_of(copied, 0))
    run = CopyIndex(pieces, transposed=True).longest_run(Score(copied.notes, 4, copied.length, copied.tracks))
    assert (run.notes, run.piece) == (max(length, len(melody_of(copied, 1))), 37)
    assert CopyIndex(pieces, transposed=False).longest_run(copied).notes < length
    other = compose_tune(2, 5)
    assert (
        CopyIndex(pieces, transposed=True)
        .longest_run(Score(other.notes[other.notes["track"] == 0], 4, other.length))
        .notes
        < 40
    )
    empty = Score(make_notes([], [], []), 4, 4, (Track(),))
    assert CopyIndex(pieces, transposed=True).longest_run(empty).notes == 0
    assert CopyIndex([], transposed=True).longest_run(copied).notes == 0
