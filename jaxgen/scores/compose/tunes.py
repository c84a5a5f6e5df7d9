"""Tunes in the manner of folk dances, with chords, composed by rules: periods of eight bars, whose motifs come back."""

import dataclasses

import numpy as np

from jaxgen.scores.chords import chord_notes
from jaxgen.scores.compose.chorales import LICENCE
from jaxgen.scores.compose.harmony import DOMINANT, LEADING, MAJOR, MINOR, TONIC, Harmony, progression
from jaxgen.scores.score import KeySignature, Notes, Score, Tempo, TimeSignature, Track, make_notes

RANGE = (60, 84)
"""Lowest and highest MIDI pitch of a melody: C4 to C6."""

_TICKS = 4  # a quarter
_FORMS = ("A", "AB", "AAB", "ABA", "AABB", "AABA")
_RHYTHMS = {  # of a bar, in eighths
    4: (
        (2, 2, 2, 2),
        (3, 1, 2, 2),
        (2, 1, 1, 2, 2),
        (1, 1, 1, 1, 2, 2),
        (2, 2, 1, 1, 2),
        (4, 2, 2),
        (2, 2, 4),
        (1, 1, 2, 1, 1, 2),
        (3, 1, 3, 1),
        (1, 1, 1, 1, 1, 1, 1, 1),
        (2, 2, 3, 1),
    ),
    3: ((2, 2, 2), (3, 1, 2), (2, 1, 1, 2), (1, 1, 1, 1, 2), (4, 2), (2, 2, 1, 1), (1, 1, 1, 1, 1, 1), (2, 1, 1, 1, 1)),
}
_LAST_BARS = {4: ((8,), (4, 4), (2, 2, 4)), 3: ((6,), (2, 4))}
_MOST_LEAP = 9  # semitones
_ROOTS = {"vii": DOMINANT, "iii": Harmony("iii")}
_STEPS = np.array((-2, -1, 1, 2))  # of the scale
_STEP_CHANCES = np.array((0.12, 0.38, 0.38, 0.12))

Bar = tuple[tuple[int, int], ...]
"""The melody of a bar: (eighths, MIDI pitch) of each note."""


@dataclasses.dataclass(frozen=True)
class _Key:
    tonic: int
    minor: bool

    def pitches(self, harmony: Harmony) -> list[int]:
        """The scale over a chord, within the range: minor is melodic over dominants, else natural."""
        scale = ((*MINOR[:5], 9, LEADING) if harmony.is_dominant else MINOR) if self.minor else MAJOR
        return [p for p in range(RANGE[0], RANGE[1] + 1) if (p - self.tonic) % 12 in scale]

    def holds(self, harmony: Harmony, pitch: int) -> bool:
        """Whether a pitch is of a chord."""
        return (pitch - self.tonic) % 12 in harmony.tones(self.minor)


def compose_tune(seed: int, index: int) -> Score:
    """A tune of 8 to 32 bars in 4/4 or 3/4, in any of the 24 keys: index decides the key, all else is drawn.

    Two tracks, melody and chords, 4 ticks a quarter. On the beats that count the melody has notes of the chord.
    """
    random = np.random.default_rng((seed, index, 2))
    key = _Key(index * 7 % 12, index // 12 % 2 == 1)
    beats = int(random.choice((4, 3)))
    form = str(random.choice(_FORMS))
    middle = 67 + (key.tonic - 7) % 12 - 6 * ((key.tonic - 7) % 12 > 5)
    while True:
        sections = {name: _section(name, beats, key, middle + 3 * (name == "B"), random) for name in sorted(set(form))}
        line = [pitch for name in form for _, bar in sections[name] for _, pitch in bar]
        if np.abs(np.diff(line)).max() <= _MOST_LEAP:  # also where phrases and sections meet
            break
    notes: list[Notes] = []
    now, bar_ticks = 0, beats * _TICKS
    for name in form:
        for harmony, bar in sections[name]:
            onset = now
            for eighths, pitch in bar:
                length = eighths * _TICKS // 2
                notes.append(make_notes(onset, length, pitch, 92 if onset == now else 80, 0))
                onset += length
            chord = harmony.chord(key.tonic, key.minor)
            halves = 2 if beats == 4 else 1
            notes += [
                chord_notes(chord, now + half * bar_ticks // halves, bar_ticks // halves, 1) for half in range(halves)
            ]
            now += bar_ticks
    return Score(
        notes=np.concatenate(notes),
        ticks_per_quarter=_TICKS,
        length=now,
        tracks=(Track("melody", 73), Track("chords", 24)),
        tempi=(Tempo(0, round(60e6 / float(random.integers(96, 150)))),),
        time_signatures=(TimeSignature(0, beats, 4),),
        key_signatures=(KeySignature(0, key.tonic, key.minor),),
        title=f"Tune {index}",
        licence=LICENCE,
    )


def _section(name: str, beats: int, key: _Key, middle: int, random: np.random.Generator) -> list[tuple[Harmony, Bar]]:
    """Eight bars: a phrase that stays open, and one that begins alike and closes."""
    opening = [_root(h, key) for h in progression(random, 4, "half", key.minor, None if name == "A" else TONIC)]
    closing = [*opening[:2], Harmony("V", "7"), TONIC]
    motifs = [_RHYTHMS[beats][place] for place in random.choice(len(_RHYTHMS[beats]), 3, replace=False)]
    rhythms = [motifs[0], motifs[1], motifs[0], motifs[2]]
    last_bars = _LAST_BARS[beats]
    last = last_bars[int(random.integers(len(last_bars)))]
    pitch = _nearest_chord_pitch(TONIC if name == "A" else opening[0], middle, key)
    bars: list[tuple[Harmony, Bar]] = []
    for place, (harmony, rhythm) in enumerate(zip(opening, rhythms, strict=True)):
        bar = _melody(rhythm, harmony, pitch, (pitch if place == 0 else middle) + (0, 2, 4, 0)[place], key, random)
        bars.append((harmony, bar))
        pitch = bar[-1][1]
    pitch = bars[1][1][-1][1]
    penultimate = _melody(motifs[0], closing[2], pitch, middle, key, random)
    final = _cadence(last, penultimate[-1][1], key)
    return [*bars, *bars[:2], (closing[2], penultimate), (closing[3], final)]


def _root(harmony: Harmony, key: _Key) -> Harmony:
    """The chord that a guitar would play: on its root, and no diminished one."""
    if harmony.numeral == "ii" and key.minor:
        return Harmony("IV")
    return _ROOTS.get(harmony.numeral, Harmony(harmony.numeral))


def _nearest_chord_pitch(harmony: Harmony, pitch: int, key: _Key) -> int:
    return min((p for p in key.pitches(harmony) if key.holds(harmony, p)), key=lambda p: (abs(p - pitch), p))


def _melody(
    rhythm: tuple[int, ...], harmony: Harmony, before: int, middle: int, key: _Key, random: np.random.Generator
) -> Bar:
    """A bar: chord tones on the beats, each near the one before, and steps of the scale between them."""
    onsets = np.cumsum([0, *rhythm[:-1]]).tolist()
    pitches: list[int] = []
    scale = key.pitches(harmony)
    chord = [p for p in scale if key.holds(harmony, p)]
    place = 0
    while place < len(rhythm):
        if onsets[place] % 2 == 0 and (rhythm[place] > 1 or onsets[place] % 4 == 0 or place == 0):
            before = _chord_tone(chord, before, middle, random)
            pitches.append(before)
            place += 1
            continue
        stop = place + 1
        while stop < len(rhythm) and not (onsets[stop] % 2 == 0 and (rhythm[stop] > 1 or onsets[stop] % 4 == 0)):
            stop += 1
        target = _chord_tone(chord, before, middle, random)
        walked = _walk(scale, before, target, stop - place, random)
        pitches += walked
        before = walked[-1]
        if stop < len(rhythm):
            pitches.append(target)
            before = target
        place = stop + 1
    return tuple(zip(rhythm, pitches, strict=True))


def _chord_tone(chord: list[int], before: int, middle: int, random: np.random.Generator) -> int:
    """A chord tone near the note before, rather another one, and not far from the middle of the tune."""
    distance = np.abs(np.array(chord) - before)
    cost = (
        0.35 * distance + 1.2 * (distance == 0) + 0.03 * (np.array(chord) - middle) ** 2 + 4.0 * (distance > _MOST_LEAP)
    )
    chance = np.exp(-cost)
    return int(random.choice(chord, p=chance / chance.sum()))


def _walk(scale: list[int], start: int, target: int, length: int, random: np.random.Generator) -> list[int]:
    """Notes of the scale between two: of some random walks the one that arrives nearest to a step from the target."""
    first = int(np.argmin(np.abs(np.array(scale) - start)))
    aim = scale.index(target)
    walks = first + np.cumsum(random.choice(_STEPS, (12, length), p=_STEP_CHANCES), axis=1)
    walks = np.clip(walks, 0, len(scale) - 1)
    best = int(
        np.argmin(np.abs(np.abs(walks[:, -1] - aim) - 1) + 0.2 * np.abs(np.diff(walks, axis=1) == 0).sum(axis=1))
    )
    return [scale[place] for place in walks[best].tolist()]


def _cadence(rhythm: tuple[int, ...], before: int, key: _Key) -> Bar:
    """Chord tones of the tonic that come down to it; the last is the tonic."""
    end = min(
        (p for p in range(RANGE[0], RANGE[1] + 1) if (p - key.tonic) % 12 == 0), key=lambda p: (abs(p - before), p)
    )
    above = [p for p in key.pitches(TONIC) if key.holds(TONIC, p) and p > end][: len(rhythm) - 1]
    way = [*reversed(above), end][-len(rhythm) :]
    return tuple(zip(rhythm, [end] * (len(rhythm) - len(way)) + way, strict=True))
