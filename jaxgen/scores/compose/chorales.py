"""Chorales in four voices, composed by the rules of the textbooks: no two are alike, and none breaks a rule.

The harmony is drawn first. Its voicings are then chosen together, by dynamic programming over all that are possible, so
that no rule is broken and the lines are smooth; passing notes and suspensions come last, where they break none either.
"""

import itertools

import numpy as np
from numpy.typing import NDArray

from jaxgen.scores.compose.harmony import LEADING, MAJOR, MINOR, Harmony, plan
from jaxgen.scores.rolls import HOLD, from_voices
from jaxgen.scores.score import KeySignature, Score, Tempo, TimeSignature, Track

VOICES = ("soprano", "alto", "tenor", "bass")
RANGES = ((60, 79), (55, 72), (48, 67), (40, 60))
"""Lowest and highest MIDI pitch of each voice: C4 to G5, G3 to C5, C3 to G4, E2 to C4."""
LICENCE = "CC0-1.0 (composed by rules)"

_FRAMES = 4  # a quarter
_SPACING = (12, 12, 19)  # semitones between neighbours, at most
_LEAPS = (9, 7, 7, 12)  # semitones, at most
_UNSUNG = (6, 10, 11)  # semitones that no voice leaps
_PAIRS = tuple(itertools.combinations(range(4), 2))
_TRIES = 30
_BARS = {4: (8, 12, 16, 24, 32), 3: (8, 12, 16, 24, 32)}
_PHRASE_BARS = {4: 2, 3: 4}  # by beats in a bar

Grid = NDArray[np.int64]
"""Pitches [eighths, 4], soprano first."""


def compose_chorale(seed: int, index: int) -> Score:
    """A chorale of 8 to 32 bars in 4/4 or 3/4, in any of the 24 keys: index decides the key, all else is drawn.

    Four tracks, 4 ticks a quarter. Ranges, spacing, no crossings, no parallel fifths, octaves or unisons, leading tones
    and sevenths resolved, no augmented steps: `tests/scores/test_compose.py` holds it to them.
    """
    random = np.random.default_rng((seed, index, 1))
    tonic, minor = index * 7 % 12, index // 12 % 2 == 1
    beats = int(random.choice((4, 4, 3)))
    bars = int(random.choice(_BARS[beats]))
    for _ in range(_TRIES):
        phrases = plan(random, bars // _PHRASE_BARS[beats], _chords_of(beats), minor)
        voicings = _voice([chord for phrase in phrases for chord in phrase], len(phrases[0]), tonic, minor, random)
        if voicings is not None:
            break
    else:
        raise AssertionError(f"no voicing of chorale {index} of seed {seed}")
    lengths = _lengths(beats, len(phrases))
    grid, starts = np.repeat(voicings, 2 * lengths, axis=0), np.concatenate([[0], np.cumsum(2 * lengths)[:-1]])
    tied = _suspend(grid, starts, random)
    _pass(grid, starts, lengths, tonic, minor, random)
    score = from_voices(_with_holds(grid, starts, tied, random), _FRAMES, VOICES)
    return Score(
        notes=score.notes,
        ticks_per_quarter=_FRAMES,
        length=score.length,
        tracks=tuple(Track(name, 19) for name in VOICES),
        tempi=(Tempo(0, round(60e6 / float(random.integers(66, 100)))),),
        time_signatures=(TimeSignature(0, beats, 4),),
        key_signatures=(KeySignature(0, tonic, minor),),
        title=f"Chorale {index}",
        licence=LICENCE,
    )


def _chords_of(beats: int) -> int:
    """Chords of a phrase: one a beat, and the last until its end."""
    return 7 if beats == 4 else 10


def _lengths(beats: int, phrases: int) -> NDArray[np.int64]:
    """Quarters that each chord lasts."""
    return np.tile([1] * (_chords_of(beats) - 1) + [2 if beats == 4 else 3], phrases)


def _voicings(harmony: Harmony, tonic: int, minor: bool) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """All ways to set a chord, [N, 4], and what each costs [N]."""
    root, third, fifth, *seventh = ((tonic + tone) % 12 for tone in harmony.tones(minor))
    tones = (root, third, fifth, *seventh)
    bass = tones[harmony.inversion]
    single = [(tonic + LEADING) % 12] * harmony.is_dominant + seventh
    found, costs = [], []
    low = [p for p in range(RANGES[3][0], RANGES[3][1] + 1) if p % 12 == bass]
    upper = [[p for p in range(lowest, highest + 1) if p % 12 in tones] for lowest, highest in RANGES[:3]]
    for voicing in itertools.product(*upper, low):
        gaps = [above - below for above, below in itertools.pairwise(voicing)]
        if min(gaps) < 1 or any(gap > most for gap, most in zip(gaps, _SPACING, strict=True)):
            continue
        counts = {tone: sum(p % 12 == tone for p in voicing) for tone in tones}
        complete = counts[fifth] > 0
        if not all(counts[tone] for tone in (root, third, *seventh)) or any(counts[tone] > 1 for tone in single):
            continue
        if not complete and (harmony.inversion or (fifth - root) % 12 == 6 or counts[third] > 1):
            continue
        found.append(voicing)
        costs.append(
            1.5 * (not complete) + 1.0 * (counts[third] > 1 and not harmony.inversion) + 0.05 * abs(gaps[0] - gaps[1])
        )
    return np.array(found, np.int64), np.array(costs)


def _voice(
    harmonies: list[Harmony], chords_in_phrase: int, tonic: int, minor: bool, random: np.random.Generator
) -> NDArray[np.int64] | None:
    """The voicing of each chord [len, 4] that costs least and breaks no rule; None where every one breaks some."""
    options = {harmony: _voicings(harmony, tonic, minor) for harmony in set(harmonies)}
    totals: list[NDArray[np.float64]] = []
    choices: list[NDArray[np.int64]] = []
    middle, sway = random.uniform(67, 71), random.uniform(2.5, 6.0)
    for place, harmony in enumerate(harmonies):
        voicings, cost = options[harmony]
        share = place % chords_in_phrase / (chords_in_phrase - 1)
        wish = middle + sway * np.sin(np.pi * share) * random.choice((1, 1, -0.6))
        tastes = random.normal(0, 1.2, 128)  # of soprano pitches: what makes each melody its own
        cost = cost + 0.1 * (voicings[:, 0] - wish) ** 2 + tastes[voicings[:, 0]]
        if place == len(harmonies) - 1:
            cost = cost + np.where(voicings[:, 0] % 12 == tonic, 0.0, np.inf)
        if place:
            step = totals[-1][:, None] + _step_costs(
                harmonies[place - 1], options[harmonies[place - 1]][0], harmony, voicings, tonic, minor
            )
            choices.append(np.argmin(step, axis=0))
            cost = cost + step.min(axis=0)
        totals.append(cost)
        if not np.isfinite(cost).any():
            return None
    best = int(np.argmin(totals[-1]))
    path = [best]
    for choice in reversed(choices):
        path.append(int(choice[path[-1]]))
    return np.array([options[harmony][0][index] for harmony, index in zip(harmonies, reversed(path), strict=True)])


def _step_costs(
    harmony: Harmony, here: NDArray[np.int64], following: Harmony, there: NDArray[np.int64], tonic: int, minor: bool
) -> NDArray[np.float64]:
    """What it costs to go from each voicing to each of the next, [N, M]; infinite where that breaks a rule."""
    before, after = here[:, None, :], there[None, :, :]
    move = after - before
    size = np.abs(move)
    bad = np.any(size > np.array(_LEAPS), axis=2) | np.any(np.isin(size, _UNSUNG), axis=2)
    for upper, lower in _PAIRS:
        was, becomes = (before[..., upper] - before[..., lower]) % 12, (after[..., upper] - after[..., lower]) % 12
        both = (move[..., upper] != 0) & (move[..., lower] != 0)
        bad |= both & (was == becomes) & np.isin(was, (0, 7))
    outer = (after[..., 0] - after[..., 3]) % 12
    bad |= (move[..., 0] * move[..., 3] > 0) & np.isin(outer, (0, 7)) & (size[..., 0] > 2)  # hidden fifths and octaves
    for upper in range(3):  # no voice goes where its neighbour was
        bad |= (after[..., upper] < before[..., upper + 1]) | (after[..., upper + 1] > before[..., upper])
    places = (before - tonic) % 12
    if minor:  # the augmented second
        becoming = (after - tonic) % 12
        bad |= np.any(
            (size == 3) & (((places == 8) & (becoming == LEADING)) | ((places == LEADING) & (becoming == 8))), axis=2
        )
    if harmony.is_dominant and not following.is_dominant:
        bad |= np.any((places == LEADING) & (move != 1), axis=2)
    tones = harmony.tones(minor)
    if len(tones) == 4 and following != harmony:
        bad |= np.any((places == tones[3]) & (move != -1) & (move != -2), axis=2)
    soprano = np.select(
        [size[..., 0] == 0, size[..., 0] <= 2, size[..., 0] <= 4, size[..., 0] <= 7], [1.0, 0.0, 1.4, 2.8], 5.0
    )
    cost = soprano + 0.5 * size[..., 1] + 0.5 * size[..., 2] + 0.12 * size[..., 3] + 0.8 * (move[..., 3] == 0)
    cost = cost - 0.5 * (move[..., 0] * move[..., 3] < 0)
    return np.where(bad, np.inf, cost)


def _is_clean(grid: Grid, place: int) -> bool:
    """Whether the chord at an eighth crosses no voices, has no clash, and makes no parallels with its neighbours."""
    chord = grid[place]
    if np.any(np.diff(chord) >= 0):
        return False
    for start in (place - 1, place):
        if not 0 <= start < len(grid) - 1:
            continue
        for upper, lower in _PAIRS:
            first, second = grid[start], grid[start + 1]
            both = first[upper] != second[upper] and first[lower] != second[lower]
            interval = (first[upper] - first[lower]) % 12
            if both and interval in (0, 7) and interval == (second[upper] - second[lower]) % 12:
                return False
    return True


def _suspend(grid: Grid, starts: NDArray[np.int64], random: np.random.Generator) -> set[tuple[int, int]]:
    """Some voices that step down onto a beat come late, and are dissonant meanwhile. Returns (eighth, voice) of them."""
    tied = set()
    for start in starts[1:].tolist():
        for voice in random.permutation(3).tolist():
            before, after = grid[start - 1, voice], grid[start, voice]
            dissonant = (before - grid[start, 3]) % 12 in (1, 2, 5, 10, 11)
            if before - after in (1, 2) and dissonant and random.random() < 0.3:
                grid[start, voice] = before
                if _is_clean(grid, start) and _is_clean(grid, start + 1):
                    tied.add((start, voice))
                    break
                grid[start, voice] = after
    return tied


def _pass(
    grid: Grid,
    starts: NDArray[np.int64],
    lengths: NDArray[np.int64],
    tonic: int,
    minor: bool,
    random: np.random.Generator,
) -> None:
    """Leaps of a third between beats are filled, where that breaks no rule."""
    for start, length in zip(starts[:-1].tolist(), lengths[:-1].tolist(), strict=True):
        for voice in random.permutation(4).tolist():
            here, there = int(grid[start, voice]), int(grid[start + 2 * length, voice])
            if length > 1 or abs(there - here) not in (3, 4) or grid[start + 1, voice] != here or random.random() > 0.6:
                continue
            between = _between(here, there, tonic, minor)
            others = [(between - int(other)) % 12 for v, other in enumerate(grid[start + 1]) if v != voice]
            if between and not {0, 1, 11} & set(others):
                grid[start + 1, voice] = between
                if not _is_clean(grid, start + 1):
                    grid[start + 1, voice] = here


def _between(here: int, there: int, tonic: int, minor: bool) -> int:
    """The note of the scale between two that are a third apart; 0 where there are none, or two. Minor is melodic."""
    scale = set(MAJOR)
    if minor:
        ends = {(here - tonic) % 12, (there - tonic) % 12}
        scale = {*MINOR[:5], 9, LEADING} if LEADING in ends else set(MINOR)
    found = [p for p in range(min(here, there) + 1, max(here, there)) if (p - tonic) % 12 in scale]
    return found[0] if len(found) == 1 else 0


def _with_holds(
    grid: Grid, starts: NDArray[np.int64], tied: set[tuple[int, int]], random: np.random.Generator
) -> NDArray[np.int64]:
    """Frames [T, 4] with holds: a pitch that stays is struck anew on a beat, or tied over."""
    struck = np.ones(grid.shape, bool)
    struck[1:] = grid[1:] != grid[:-1]
    for start in starts.tolist():
        for voice in range(4):
            struck[start, voice] |= (start, voice) not in tied and random.random() < 0.75
    frames = np.full((2 * len(grid), 4), HOLD, np.int64)
    frames[::2] = np.where(struck, grid, HOLD)
    return frames
