"""Composed music keeps the rules it is composed by: an independent checker reads the notes alone."""

import functools
import itertools

import numpy as np
import pytest

from jaxgen.scores.compose.chorales import compose_chorale
from jaxgen.scores.compose.harmony import FOLLOWING, TONIC, Harmony, progression
from jaxgen.scores.compose.tunes import compose_tune
from jaxgen.scores.score import Score, bar_starts

NUM = 24
RANGES = {"soprano": (60, 79), "alto": (55, 72), "tenor": (48, 67), "bass": (40, 60)}


@functools.cache
def chorales() -> list[Score]:
    return [compose_chorale(0, index) for index in range(NUM)]


@functools.cache
def tunes() -> list[Score]:
    return [compose_tune(0, index) for index in range(NUM)]


def sonorities(score: Score) -> list[tuple[int, list[int | None]]]:
    """(tick, pitch of each track) whenever a note begins or ends: a plain reading of the list of notes."""
    notes = [tuple(map(int, note)) for note in score.notes.tolist()]
    ticks = sorted({o for o, *_ in notes} | {o + d for o, d, *_ in notes} - {score.length})
    result = []
    for tick in ticks:
        chord: list[int | None] = [None] * len(score.tracks)
        for onset, duration, pitch, _, track in notes:
            if onset <= tick < onset + duration:
                assert chord[track] is None, "two notes of a voice at a time"
                chord[track] = pitch
        result.append((tick, chord))
    return result


@pytest.fixture(scope="module", params=range(NUM))
def chorale(request):
    return chorales()[request.param]


def test_voices_keep_their_ranges_and_do_not_cross(chorale):
    for _, chord in sonorities(chorale):
        assert None not in chord
        assert sorted(chord, reverse=True) == chord
        assert len(set(chord)) == 4
        assert chord[0] - chord[1] <= 12 + 2  # a passing note may open the gap by a step
        assert chord[1] - chord[2] <= 12 + 2
        for track, pitch in zip(chorale.tracks, chord, strict=True):
            assert RANGES[track.name][0] <= pitch <= RANGES[track.name][1]


def test_there_are_no_parallel_fifths_octaves_or_unisons(chorale):
    for (_, before), (_, after) in itertools.pairwise(sonorities(chorale)):
        for one, other in itertools.combinations(range(4), 2):
            if before[one] != after[one] and before[other] != after[other]:
                was, becomes = abs(before[one] - before[other]) % 12, abs(after[one] - after[other]) % 12
                assert not (was == becomes and was in (0, 7))


def test_leading_tones_rise_and_no_step_is_augmented(chorale):
    (key,) = chorale.key_signatures
    leading = (key.tonic - 1) % 12
    dominants = ({7, 11, 2}, {7, 11, 2, 5}, {11, 2, 5})
    chords = [(tick, chord) for tick, chord in sonorities(chorale) if tick % 4 == 0]
    for (_, before), (_, after) in itertools.pairwise(chords):
        sets = [{(pitch - key.tonic) % 12 for pitch in chord} for chord in (before, after)]
        if sets[0] in dominants and (sets[1] <= {0, 4, 7} or sets[1] <= {0, 3, 7}) and 0 in sets[1]:
            for here, there in zip(before, after, strict=True):
                assert here % 12 != leading or there - here == 1
    for track in range(4):
        line = chorale.notes["pitch"][chorale.notes["track"] == track].astype(int)
        moves = np.abs(np.diff(line))
        assert moves.max() <= 12
        assert not set(moves.tolist()) & {6, 10, 11}
        if key.minor:
            degrees = (line - key.tonic) % 12
            pairs = {(int(a), int(b)) for a, b, m in zip(degrees[:-1], degrees[1:], moves, strict=True) if m == 3}
            assert not pairs & {(8, 11), (11, 8)}


def test_it_ends_on_a_cadence(chorale):
    (key,) = chorale.key_signatures
    last = sonorities(chorale)[-1][1]
    assert last[0] % 12 == last[3] % 12 == key.tonic
    third = (key.tonic + (3 if key.minor else 4)) % 12
    assert {pitch % 12 for pitch in last} <= {key.tonic, third, (key.tonic + 7) % 12}
    assert third in {pitch % 12 for pitch in last}
    before = [chord for tick, chord in sonorities(chorale) if tick % 4 == 0][-2]
    assert before[3] % 12 == (key.tonic + 7) % 12


def test_melodies_move_mostly_by_steps(chorale):
    soprano = chorale.notes["pitch"][chorale.notes["track"] == 0].astype(int)
    moves = np.abs(np.diff(soprano))
    assert (moves[moves > 0] <= 2).mean() > 0.55
    assert len(set(soprano.tolist())) >= 4


@pytest.mark.parametrize("compose", [chorales, tunes])
def test_all_keys_metres_and_lengths_are_there(compose):
    scores = compose()
    assert len({(s.key_signatures[0].tonic, s.key_signatures[0].minor) for s in scores}) == 24
    assert {s.time_signatures[0].numerator for s in scores} == {3, 4}
    bars = [len(bar_starts(s)) - 1 for s in scores]
    assert min(bars) == 8
    assert max(bars) == 32
    assert all(s.length == bar_starts(s)[-1] for s in scores)
    assert len({s.tempi[0].microseconds for s in scores}) > 10
    assert all(s.title and s.licence for s in scores)


@pytest.mark.parametrize("compose", [compose_chorale, compose_tune])
def test_a_seed_is_a_piece(compose):
    assert compose(3, 5) == compose(3, 5)
    assert compose(3, 5) != compose(4, 5)
    pieces = [compose(1, index).notes["pitch"].tobytes() for index in range(0, 36, 12)]
    assert len(set(pieces)) == len(pieces)


def test_chorales_have_passing_notes_and_held_ones():
    eighths = [np.isin(score.notes["onset"] % 4, 2).mean() for score in chorales()]
    assert 0.08 < np.mean(eighths) < 0.5
    assert any((score.notes["duration"] == 8).any() for score in chorales())


@pytest.mark.parametrize("index", range(NUM))
def test_a_tune_is_in_its_key_and_fits_its_chords(index):
    score = tunes()[index]
    (key,) = score.key_signatures
    melody, chords = (score.notes[score.notes["track"] == track] for track in (0, 1))
    scale = {0, 2, 3, 5, 7, 8, 9, 10, 11} if key.minor else {0, 2, 4, 5, 7, 9, 11}
    assert set(((melody["pitch"] - key.tonic) % 12).tolist()) <= scale
    assert melody["pitch"].min() >= 60
    assert melody["pitch"].max() <= 84
    assert np.all(melody["onset"][1:] == melody["onset"][:-1] + melody["duration"][:-1])  # one voice, no gaps
    assert melody["pitch"][-1] % 12 == key.tonic
    fits = []
    for tick in bar_starts(score)[:-1]:
        sounding = {int(p) % 12 for p in chords["pitch"][chords["onset"] == tick]}
        fits.append(int(melody["pitch"][melody["onset"] == tick][0]) % 12 in sounding)
    assert np.mean(fits) == 1
    assert np.abs(np.diff(melody["pitch"].astype(int))).max() <= 9
    begin, again = (bar_starts(score)[place] for place in (0, 4))
    first, second = (melody[(melody["onset"] >= b) & (melody["onset"] < b + again // 2)] for b in (begin, again))
    assert np.array_equal(first["pitch"], second["pitch"])  # the second phrase begins as the first


@pytest.mark.parametrize("minor", [False, True])
def test_progressions_follow_the_table_and_end_as_asked(minor):
    random = np.random.default_rng(0)
    for cadence, last in (("authentic", "I"), ("half", "V"), ("deceptive", "vi")):
        for _ in range(20):
            chords = progression(random, 7, cadence, minor, None)
            assert chords[0] == TONIC
            assert chords[-1] == Harmony(last)
            assert all(after in FOLLOWING[minor][before] for before, after in itertools.pairwise(chords))


@pytest.mark.parametrize(
    ("numeral", "figure", "minor", "tones"),
    [
        ("V", "7", False, (7, 11, 2, 5)),
        ("ii", "6", True, (2, 5, 8)),
        ("V", "", True, (7, 11, 2)),
        ("vi", "", True, (8, 0, 3)),
    ],
)
def test_chords_have_the_tones_of_the_key(numeral, figure, minor, tones):
    assert Harmony(numeral, figure).tones(minor) == tones
    assert Harmony(numeral, figure).chord(2, minor).pitch_classes == {(2 + tone) % 12 for tone in tones}
