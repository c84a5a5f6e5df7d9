"""Floors against brute force and scipy."""

import itertools
import math

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from jaxgen.core.errors import UserError
from jaxgen.evaluation import baselines
from jaxgen.evaluation.baselines import bigram_bits_per_sample, copy_previous_frame, unigram_bits_per_sample

LEVELS = 5
START = 2
CODES = st.lists(hnp.arrays(np.uint8, st.integers(0, 30), elements=st.integers(0, LEVELS - 1)), max_size=4)
SOME_CODES = CODES.filter(lambda clips: sum(map(len, clips)) > 0)


@pytest.fixture(autouse=True, scope="module")
def short_pieces():
    """Clips are read in pieces, as recordings of hours are."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(baselines, "_STEPS_AT_ONCE", 7)
        yield


@settings(max_examples=50, deadline=None)
@given(training=CODES, test=SOME_CODES)
def test_unigram_is_the_smoothed_histogram(training, test):
    seen = [code for clip in training for code in clip.tolist()]
    bits = [-math.log2((seen.count(code) + 1) / (len(seen) + LEVELS)) for clip in test for code in clip.tolist()]
    assert unigram_bits_per_sample(training, test, LEVELS) == pytest.approx(np.mean(bits))


@settings(max_examples=50, deadline=None)
@given(training=CODES, test=SOME_CODES)
def test_bigram_is_the_smoothed_table_of_pairs(training, test):
    def pairs(clips):
        return [pair for clip in clips for pair in itertools.pairwise([START, *clip.tolist()])]

    seen = pairs(training)
    befores = [before for before, _ in seen]
    bits = [-math.log2((seen.count(pair) + 1) / (befores.count(pair[0]) + LEVELS)) for pair in pairs(test)]
    assert bigram_bits_per_sample(training, test, LEVELS, START) == pytest.approx(np.mean(bits))


def test_a_fair_die_costs_its_entropy_and_a_cycle_next_to_nothing():
    rng = np.random.default_rng(0)
    die = [rng.integers(0, 8, 40_000) for _ in range(2)]
    assert unigram_bits_per_sample(die[:1], die[1:], 8) == pytest.approx(3, abs=0.01)
    cycle = np.tile(np.arange(8), 5_000)
    assert unigram_bits_per_sample([cycle], [cycle], 8) == pytest.approx(3, abs=0.01)
    assert bigram_bits_per_sample([cycle], [cycle], 8, 7) < 0.01


def test_codes_are_checked():
    good = [np.array([0, 1])]
    with pytest.raises(UserError, match=r"\[0, 9\], outside the 5 levels"):
        unigram_bits_per_sample(good, [np.array([0, 9])], LEVELS)
    with pytest.raises(UserError, match=r"\[-1, 0\]"):
        bigram_bits_per_sample([np.array([-1, 0])], good, LEVELS, START)
    with pytest.raises(UserError, match="no test sample"):
        unigram_bits_per_sample(good, [], LEVELS)


@pytest.mark.parametrize("scale", [1.0, np.array([0.5, 2.0, 3.0])], ids=["features", "standardised"])
def test_copying_the_last_frame_is_a_normal_around_it(scale):
    rng = np.random.default_rng(1)
    start = np.array([-1.0, 0.0, 1.0])
    training, test = (
        [np.cumsum(rng.normal(size=(frames, 3)) * [0.1, 1, 2], axis=0) for frames in lengths]
        for lengths in ((40, 0, 25), (30, 1))
    )

    def moves(clips):
        return np.concatenate([np.diff(np.vstack([start, clip]), axis=0) / scale for clip in clips])

    spread = np.sqrt(np.mean(moves(training) ** 2, axis=0))
    nats = -scipy.stats.norm.logpdf(moves(test), scale=spread).sum(axis=1).mean()
    floor = copy_previous_frame(iter(training), iter(test), start, scale)
    assert floor.mse == pytest.approx(np.mean(moves(test) ** 2))
    assert floor.nats_per_frame == pytest.approx(nats)


def test_float32_frames_do():
    clip = np.arange(12, dtype=np.float32).reshape(4, 3)
    assert copy_previous_frame([clip], [clip], clip[0], 1.0).mse == pytest.approx(9 * 3 / 4)


def test_a_dimension_that_never_moves_costs_no_fortune():
    still = np.zeros((10, 2))
    assert copy_previous_frame([still], [still + 0.001], [0.001, 0.001], 1.0).nats_per_frame < 0


def test_frames_are_needed():
    with pytest.raises(UserError, match="no training frame"):
        copy_previous_frame([], [np.zeros((2, 2))], [0, 0], 1.0)
    with pytest.raises(UserError, match="no test frame"):
        copy_previous_frame([np.zeros((2, 2))], [np.zeros((0, 2))], [0, 0], 1.0)
