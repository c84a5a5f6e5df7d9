"""Functional harmony: which chord may follow which, and progressions that end on a cadence."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np

from jaxgen.scores.chords import Chord

MAJOR = (0, 2, 4, 5, 7, 9, 11)
MINOR = (0, 2, 3, 5, 7, 8, 10)
LEADING = 11
"""Semitones from the tonic up to the leading tone, in both modes."""

_DEGREES = {"I": 0, "ii": 1, "iii": 2, "IV": 3, "V": 4, "vi": 5, "vii": 6}
_FIGURES = {"": (0, False), "6": (1, False), "7": (0, True), "65": (1, True)}
_DOMINANTS = ("V", "vii")

Cadence = Literal["authentic", "half", "deceptive"]


@dataclasses.dataclass(frozen=True)
class Harmony:
    """A chord of a key, by its place in it: V65 is the dominant seventh on its third."""

    numeral: str
    """I, ii, iii, IV, V, vi or vii, whatever the mode makes of it."""
    figure: str = ""
    """"", 6, 7 or 65."""

    @property
    def is_dominant(self) -> bool:
        """Whether it wants to go to the tonic; the leading tone is in it."""
        return self.numeral in _DOMINANTS

    @property
    def inversion(self) -> int:
        """Which of its tones is the bass: 0 for the root, 1 for the third."""
        return _FIGURES[self.figure][0]

    def tones(self, minor: bool) -> tuple[int, ...]:
        """Root, third, fifth and, if there is one, seventh, in semitones above the tonic, 0 to 11."""
        scale = (*MINOR[:6], LEADING) if minor and self.is_dominant else MINOR if minor else MAJOR
        places = (0, 2, 4, 6) if _FIGURES[self.figure][1] else (0, 2, 4)
        return tuple(scale[(_DEGREES[self.numeral] + place) % 7] for place in places)

    def chord(self, tonic: int, minor: bool) -> Chord:
        """As a chord by name, in a key."""
        root, third, fifth, *seventh = self.tones(minor)
        quality = {(4, 7): "", (3, 7): "m", (3, 6): "dim"}[(third - root) % 12, (fifth - root) % 12]
        bass = (root, third, fifth)[self.inversion]
        return Chord((tonic + root) % 12, "7" if seventh else quality, (tonic + bass) % 12)


def _parse(name: str) -> Harmony:
    numeral = name.rstrip("0123456789")
    return Harmony(numeral, name[len(numeral) :])


_FOLLOWING = {
    "I": "IV4 V3 vi3 ii6:3 I6:3 vii6:1 V6:1.5 ii1 V65:1",
    "I6": "IV3 ii6:3 V2 I1.5 vii6:1.5 ii1",
    "ii": "V4 V7:2 vii6:1.5 ii6:1",
    "ii6": "V5 V7:3",
    "iii": "vi3 IV3",
    "IV": "V4 I2 ii6:2 vii6:1 V7:1 I6:1 ii1",
    "V": "I6 vi2 I6:1.5 V7:1 V6:0.7",
    "V6": "I1",
    "V7": "I5 vi1",
    "V65": "I1",
    "vi": "ii2 IV3 ii6:3 V2 iii0.4",
    "vii6": "I4 I6:4",
}
_IN_MINOR = {"ii": "ii6"}  # whose fifth is diminished: only on its third


def _table(minor: bool) -> dict[Harmony, dict[Harmony, float]]:
    table = {}
    for name, line in _FOLLOWING.items():
        if minor and name in _IN_MINOR:
            continue
        row: dict[Harmony, float] = {}
        for word in line.split():
            follower, weight = _weighted(word)
            follower = _IN_MINOR.get(follower, follower) if minor else follower
            if follower != name:
                row[_parse(follower)] = row.get(_parse(follower), 0) + weight
        table[_parse(name)] = row
    return table


def _weighted(word: str) -> tuple[str, float]:
    """ "ii6:3" and "IV4": a colon stands where the chord ends in a figure."""
    if ":" in word:
        name, weight = word.split(":")
        return name, float(weight)
    name = word.rstrip("0123456789.")
    return name, float(word[len(name) :])


FOLLOWING: Mapping[bool, Mapping[Harmony, Mapping[Harmony, float]]] = {minor: _table(minor) for minor in (False, True)}
"""Weights of what may follow a chord, by mode (True is minor)."""

TONIC, DOMINANT = Harmony("I"), Harmony("V")
_ENDINGS: Mapping[Cadence, tuple[tuple[str, ...], ...]] = {
    "authentic": (("ii6", "IV", "ii", "I6", "vi"), ("V", "V7"), ("I",)),
    "half": (("I", "IV", "ii6", "ii", "vi", "I6"), ("V",)),
    "deceptive": (("ii6", "IV", "ii", "I6"), ("V", "V7"), ("vi",)),
}


def progression(
    random: np.random.Generator, length: int, cadence: Cadence, minor: bool, before: Harmony | None
) -> list[Harmony]:
    """`length` chords, at least 4, that end in a cadence. They go on from `before`; None begins with the tonic.

    A Markov chain over `FOLLOWING`, drawn on the condition of its end.
    """
    table = FOLLOWING[minor]
    chords = list(table)
    weights = np.array([[table[chord].get(other, 0.0) for other in chords] for chord in chords])
    allowed = np.ones((length, len(chords)), bool)
    for place, names in enumerate(_ENDINGS[cadence], start=length - len(_ENDINGS[cadence])):
        allowed[place] = [chord.numeral + chord.figure in names for chord in chords]
    if before is None:
        allowed[0] = [chord == TONIC for chord in chords]
    later = np.ones((length, len(chords)))  # likelihood of the end, given each chord
    for place in range(length - 2, -1, -1):
        later[place] = weights @ (allowed[place + 1] * later[place + 1])
        later[place] /= later[place].max()
    drawn: list[int] = []
    row = np.ones(len(chords)) if before is None else weights[chords.index(before)]
    for place in range(length):
        chance = row * allowed[place] * later[place]
        drawn.append(int(random.choice(len(chords), p=chance / chance.sum())))
        row = weights[drawn[-1]]
    return [chords[index] for index in drawn]


def plan(random: np.random.Generator, phrases: int, chords_in_phrase: int, minor: bool) -> list[list[Harmony]]:
    """The chords of each phrase of a piece. The last ends on the tonic; those before close, stay open, or deceive."""
    piece: list[list[Harmony]] = []
    for place in range(phrases):
        choice: Sequence[Cadence] = ("authentic", "half", "half", "authentic", "deceptive")
        cadence: Cadence = "authentic" if place == phrases - 1 else choice[int(random.integers(len(choice)))]
        before = piece[-1][-1] if piece else None
        piece.append(progression(random, chords_in_phrase, cadence, minor, before))
    return piece
