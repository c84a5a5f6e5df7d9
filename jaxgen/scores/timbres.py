"""Timbres of the additive synthesiser: what partials a note has, and how they begin, fade and end."""

import dataclasses
import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

NUM_PARTIALS = 24
"""Partials of a note, at most: those below half the sample rate are played."""

_GOLDEN = 0.6180339887  # phases that are a multiple of it apart keep the peaks of partials apart
_TOP = 0.49  # of the sample rate: no partial from here on


@dataclasses.dataclass(frozen=True)
class Timbre:
    """How an instrument sounds."""

    slope: float
    """Amplitude of partial k falls as k ** -slope."""
    even: float = 1.0
    """Amplitude of even partials: 0 for a stopped pipe, 1 for a string."""
    node: float = 0.0
    """Where a string is struck or plucked, as a share of its length: partials with a node there are missing; 0 for none."""
    stretch: float = 0.0
    """Inharmonicity B: partial k lies at k f sqrt((1 + B k^2) / (1 + B)) (Fletcher et al. 1962)."""
    attack: float = 0.005
    """Seconds."""
    release: float = 0.08
    """Seconds from a note's end to silence."""
    sustain: float = 1.0
    """Level that a held note keeps."""
    decay: float = 0.0
    """Seconds in which middle C fades by 60 dB to its sustained level; 0 for at once. Higher notes fade faster."""
    damping: float = 0.0
    """How much faster partials fade than the first: partial k 1 + damping (k - 1) times."""
    softness: float = 0.0
    """How much duller soft notes are: at velocity 1 the slope is greater by this."""
    vibrato_cents: float = 0.0
    vibrato_hertz: float = 5.3

    def partials(self, pitch: NDArray[np.float64], velocity: NDArray[np.float64], sample_rate: int) -> "Partials":
        """Of notes of MIDI pitches [N] and velocities [N], all below half the sample rate."""
        k = np.arange(1, NUM_PARTIALS + 1)
        fundamental = 440.0 * 2.0 ** ((pitch[:, None] - 69) / 12)
        hertz = fundamental * k * np.sqrt((1 + self.stretch * k**2) / (1 + self.stretch))
        loudness = velocity[:, None] / 127
        amplitude = k ** -(self.slope + self.softness * (1 - loudness)) * np.where(k % 2, 1.0, self.even)
        if self.node:
            amplitude = amplitude * np.abs(np.sin(math.pi * k * self.node))
        amplitude = np.where(hertz < _TOP * sample_rate, amplitude, 0.0)
        power = np.sqrt(np.sum(amplitude**2, axis=1, keepdims=True) / 2)
        amplitude = amplitude / np.maximum(power, 1e-9) * loudness**1.5
        fading = np.zeros_like(hertz)
        if self.decay:
            seconds = self.decay * 2.0 ** ((60 - pitch[:, None]) / 18)
            fading = math.log(1_000) / seconds * (1 + self.damping * (k - 1))
        return Partials(hertz, amplitude, fading, np.broadcast_to(k * _GOLDEN % 1, hertz.shape))


@dataclasses.dataclass(frozen=True)
class Partials:
    """Of N notes, float64 [N, NUM_PARTIALS] each."""

    hertz: NDArray[np.float64]
    amplitude: NDArray[np.float64]
    """Root mean square of a note at velocity 127 is 1; 0 for partials that the sample rate cannot hold."""
    fading: NDArray[np.float64]
    """1/s: the part that is not sustained falls as exp(-fading t)."""
    phase: NDArray[np.float64]
    """Cycles at the note's beginning."""


PIANO = Timbre(slope=1.1, node=0.118, stretch=3e-4, sustain=0, decay=9, damping=0.22, softness=1.3, release=0.12)
ORGAN = Timbre(slope=1.35, even=0.8, attack=0.025, release=0.06)
PLUCKED = Timbre(slope=1.0, node=0.21, stretch=5e-5, attack=0.003, sustain=0, decay=4, damping=0.5, softness=0.8)
STRINGS = Timbre(slope=1.25, node=0.07, attack=0.07, release=0.15, softness=0.6, vibrato_cents=5)
FLUTE = Timbre(slope=2.2, even=0.6, attack=0.04, release=0.07, softness=0.8, vibrato_cents=4, vibrato_hertz=4.8)
REED = Timbre(slope=0.9, even=0.25, attack=0.02, release=0.06, softness=0.9)

TIMBRES: Mapping[str, Timbre] = {
    "piano": PIANO,
    "organ": ORGAN,
    "plucked": PLUCKED,
    "strings": STRINGS,
    "flute": FLUTE,
    "reed": REED,
}
"""The timbres by name."""

_FAMILIES = (PIANO, PLUCKED, ORGAN, PLUCKED, PLUCKED, STRINGS, STRINGS, REED, REED, FLUTE)


def timbre_of(program: int) -> Timbre:
    """The timbre that comes nearest to a General MIDI program: by its family of eight; synthesisers are organs."""
    family = program // 8
    return _FAMILIES[family] if family < len(_FAMILIES) else ORGAN
