"""Keys, metres, beats and grids are those that the notes were made with."""

import dataclasses
import os
from pathlib import Path

import numpy as np
import pytest

from jaxgen.scores.compose.chorales import compose_chorale
from jaxgen.scores.compose.tunes import compose_tune
from jaxgen.scores.estimation import (
    estimate_beat,
    estimate_grid,
    estimate_key,
    estimate_metre,
    on_beat,
    with_key,
    with_metre,
)
from jaxgen.scores.midi import parse_midi
from jaxgen.scores.score import KeySignature, Score, Tempo, bar_starts, make_notes, quantise, transpose

NOTHING = Score(make_notes([], [], []), 4, 16)
SCALES = {False: (0, 2, 4, 5, 7, 9, 11, 12), True: (0, 2, 3, 5, 7, 8, 11, 12)}


@pytest.mark.parametrize("minor", SCALES)
@pytest.mark.parametrize("tonic", range(12))
def test_the_key_of_a_scale(tonic, minor):
    scale = Score(make_notes(np.arange(8) * 4, 4, np.array(SCALES[minor]) + 60 + tonic), 4, 32)
    key = estimate_key(scale)
    assert key is not None
    assert (key.tonic, key.minor) == (tonic, minor)
    assert 0 < key.margin < key.correlation <= 1


def test_the_keys_of_chorales_and_that_they_move_with_them():
    for index in range(0, 24, 5):
        score = compose_chorale(0, index)
        bare = dataclasses.replace(score, key_signatures=())
        assert with_key(bare).key_signatures == score.key_signatures
        key, moved = estimate_key(score), estimate_key(transpose(score, 3))
        assert key is not None
        assert moved is not None
        assert (moved.tonic, moved.minor) == ((key.tonic + 3) % 12, key.minor)


def test_nothing_has_no_key_metre_or_beat():
    chromatic = Score(make_notes(np.arange(12), 1, 60 + np.arange(12)), 1, 12)
    assert estimate_key(NOTHING) is None
    assert estimate_key(chromatic) is None
    assert with_key(chromatic) == chromatic
    assert estimate_metre(NOTHING) is None
    assert with_metre(NOTHING) == NOTHING
    assert estimate_beat(NOTHING) is None
    assert estimate_grid(NOTHING) == (1,)


@pytest.mark.parametrize(("beats", "upbeat"), [(3, 0), (4, 0), (3, 1), (4, 1), (4, 2)])
def test_metre_and_upbeat_of_a_march_or_a_waltz(beats, upbeat):
    bar = [(0, 4, 40), *((4 * beat, 3, 60) for beat in range(1, beats))]
    notes = [(16 - 16 + 4 * upbeat + 4 * beats * number + o, d, p) for number in range(8) for o, d, p in bar]
    notes += [(4 * place, 3, 60) for place in range(upbeat)]
    notes += [(4 * upbeat + 4 * beats * number, 4 * beats, 72) for number in range(8)]
    array = np.array(notes)
    score = Score(make_notes(*array.T), 4, int((array[:, 0] + array[:, 1]).max()))
    metre = estimate_metre(score)
    assert metre is not None
    assert (metre.signature.numerator, metre.signature.denominator, metre.first_bar) == (beats, 4, 4 * upbeat)
    assert 4 * upbeat in bar_starts(with_metre(score))


@pytest.mark.parametrize("tempo", [72, 96, 131])
def test_the_beat_of_a_free_recording(tempo):
    """A tune in seconds alone, each onset up to 15 ms off."""
    tune = dataclasses.replace(compose_tune(0, 3), tempi=())
    random = np.random.default_rng(0)
    ticks = 1_000  # a second, at two quarters of 500
    notes = tune.notes.copy()
    for name in ("onset", "duration"):
        notes[name] = np.rint(notes[name] / 4 * 60 / tempo * ticks)
    notes["onset"] += random.integers(0, 30, len(notes))
    played = Score(notes, 500, int((notes["onset"] + notes["duration"]).max()), tune.tracks)
    beat = estimate_beat(played)
    assert beat is not None
    ratio = beat.seconds / (60 / tempo)
    assert min(abs(np.log2(ratio) - whole) for whole in (-1, 0, 1)) < 0.01
    assert beat.strength > 0.5
    again, error = quantise(on_beat(played, beat), (4,))
    assert error.mean < 0.08
    assert abs(again.seconds - played.seconds) < 1


@pytest.mark.parametrize(
    ("lengths", "grid"), [([480], (1,)), ([240], (2,)), ([120, 240], (4,)), ([160, 480], (3, 4)), ([60, 480], (8,))]
)
def test_the_coarsest_grid_that_holds_the_notes(lengths, grid):
    durations = np.repeat(lengths, 12)
    onsets = np.cumsum(durations) - durations
    score = Score(make_notes(onsets, durations, 60), 480, int(durations.sum()))
    assert estimate_grid(score) == grid
    assert quantise(score, grid)[1].largest == 0


def test_a_free_performance_gets_the_finest_grid():
    random = np.random.default_rng(0)
    score = Score(make_notes(np.sort(random.integers(0, 48_000, 200)), 100, 60), 480, 48_200)
    assert max(estimate_grid(score)) == 16


@pytest.mark.skipif("JAXGEN_DATA" not in os.environ, reason="JAXGEN_DATA names no folder of real data")
def test_keys_and_metres_of_real_tunes():
    pytest.importorskip("symusic", reason="pip install 'jaxgen[music]'")
    keys, metres = [], []
    for path in sorted((Path(os.environ["JAXGEN_DATA"]) / "nottingham_midi").glob("*.mid"))[::40]:
        score = parse_midi(path.read_bytes()).score
        key, metre = estimate_key(score), estimate_metre(score)
        assert key is not None
        assert metre is not None
        keys.append(KeySignature(0, key.tonic, key.minor).sharps == score.key_signatures[0].sharps)
        spans = np.diff([s.tick for s in score.time_signatures] + [score.length])
        stated = score.time_signatures[int(np.argmax(spans))]
        metres.append(stated.numerator % 3 == metre.signature.numerator % 3)
    assert np.mean(keys) > 0.75
    assert np.mean(metres) > 0.8


def test_a_tempo_of_beats_is_stated():
    beat = estimate_beat(dataclasses.replace(compose_tune(0, 0), tempi=(Tempo(0, 500_000),)))
    assert beat is not None
    assert on_beat(compose_tune(0, 0), beat).tempi[0].microseconds == round(beat.seconds * 1e6)
