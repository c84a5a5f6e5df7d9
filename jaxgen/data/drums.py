"""Drum sounds, one at a time, synthesised on the spot: one-shots that need no files."""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jaxgen.core.errors import UserError
from jaxgen.data.synthetic import SyntheticDataset

Sound = NDArray[np.float64]

_SILENT = 1e-3  # of the loudest 10 ms: what is fainter at the end is left out
_LEAST_RATE = 8_000  # Hz that hold a cymbal
_METAL = (1.0, 1.342, 1.2312, 1.6532, 1.9523, 2.1523)  # ratios of the oscillators of an analogue drum machine's cymbals


@dataclasses.dataclass(frozen=True)
class _Desk:
    """What drums are made with."""

    time: Sound
    """Seconds of each sample, [nsamp]."""
    sample_rate: int
    random: np.random.Generator

    def between(self, low: float, high: float) -> float:
        """A value drawn evenly over its logarithm, as frequencies and decays are heard."""
        return float(math.exp(self.random.uniform(math.log(low), math.log(high))))

    def fading(self, seconds: float) -> Sound:
        """An envelope that falls by 60 dB in so many seconds."""
        return np.asarray(1e-3 ** (self.time / seconds))

    def tone(self, start_hz: float, end_hz: float, seconds: float) -> Sound:
        """A sine that falls from one frequency towards another, most of the way in so many seconds."""
        hertz = end_hz + (start_hz - end_hz) * np.exp(-self.time / seconds)
        return np.sin(2 * math.pi * np.cumsum(hertz) / self.sample_rate)

    def noise(self, low_hz: float, high_hz: float) -> Sound:
        """White noise between two frequencies, the upper at most 0.45 of the sample rate."""
        from scipy.signal import butter, sosfilt  # slow to import

        band = (low_hz, min(high_hz, 0.45 * self.sample_rate))
        white = self.random.normal(size=len(self.time))
        return np.asarray(sosfilt(butter(2, band, "bandpass", fs=self.sample_rate, output="sos"), white))

    def metal(self, hertz: float) -> Sound:
        """Square waves of inharmonic frequencies, without the partials that the sample rate cannot hold."""
        partials = [
            (ratio * hertz * odd, 1 / odd)
            for ratio in _METAL
            for odd in (1, 3, 5, 7)
            if ratio * hertz * odd < 0.45 * self.sample_rate
        ]
        phases = self.random.uniform(0, 2 * math.pi, len(partials))
        waves = [
            size * np.sin(2 * math.pi * f * self.time + phase)
            for (f, size), phase in zip(partials, phases, strict=True)
        ]
        return np.asarray(np.sum(waves, axis=0))


def _kick(desk: _Desk) -> Sound:
    low = desk.between(42, 65)
    body = desk.tone(low * desk.between(2.5, 6), low, desk.between(0.015, 0.04)) * desk.fading(desk.between(0.2, 0.45))
    return body + 0.15 * desk.noise(500, 3_000) * desk.fading(desk.between(0.005, 0.02))


def _snare(desk: _Desk) -> Sound:
    low, ring = desk.between(150, 230), desk.between(0.08, 0.18)
    shell = desk.tone(1.5 * low, low, 0.01) + 0.5 * desk.tone(2.4 * low, 1.7 * low, 0.01)
    wires = desk.noise(desk.between(700, 1_500), 7_000) * desk.fading(desk.between(0.12, 0.3))
    return shell * desk.fading(ring) + desk.between(0.8, 2.0) * wires


def _tom(desk: _Desk) -> Sound:
    low = desk.between(80, 220)
    return desk.tone(1.6 * low, low, desk.between(0.02, 0.06)) * desk.fading(desk.between(0.25, 0.5))


def _cymbal(desk: _Desk) -> Sound:
    return 0.15 * desk.metal(desk.between(900, 1_400)) + desk.noise(desk.between(2_000, 2_800), 9_000)


def _closed_hat(desk: _Desk) -> Sound:
    return _cymbal(desk) * desk.fading(desk.between(0.03, 0.08))


def _open_hat(desk: _Desk) -> Sound:
    return _cymbal(desk) * desk.fading(desk.between(0.3, 0.6))


def _clap(desk: _Desk) -> Sound:
    hands, apart = int(desk.random.integers(3, 5)), desk.between(0.008, 0.014)
    clicks = sum(
        (desk.time >= hand * apart) * np.exp(-np.maximum(desk.time - hand * apart, 0) / 0.003) for hand in range(hands)
    )
    room = (desk.time >= (hands - 1) * apart) * desk.fading(desk.between(0.12, 0.25))
    return desk.noise(desk.between(700, 1_000), desk.between(2_000, 3_000)) * (clicks + 0.5 * room)


def _cowbell(desk: _Desk) -> Sound:
    hertz = desk.between(480, 620)
    squares = [np.sin(2 * math.pi * f * odd * desk.time) / odd for f in (hertz, 1.48 * hertz) for odd in (1, 3)]
    return np.asarray(np.sum(squares, axis=0)) * (desk.fading(0.05) + 0.4 * desk.fading(desk.between(0.2, 0.45)))


DRUMS: Mapping[str, Callable[[_Desk], Sound]] = {
    "kick": _kick,
    "snare": _snare,
    "tom": _tom,
    "closed-hat": _closed_hat,
    "open-hat": _open_hat,
    "clap": _clap,
    "cowbell": _cowbell,
}


@dataclasses.dataclass(frozen=True)
class Drums(SyntheticDataset):
    """Single drum sounds, synthesised from a seed: no two alike, as long as they ring. No files, no network.

    Label: `drum` (kick, snare, tom, closed-hat, open-hat, clap, cowbell). Every tenth clip is for validation.
    """

    num_clips: int = 1_400
    """Clips in all."""
    seconds: float = 0.5
    """Length of the longest clip in seconds."""
    seed: int = 0
    """Another seed makes other drums."""
    sample_rate: int = 8_000
    """Hz."""

    name = "drums"
    version = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.sample_rate < _LEAST_RATE:
            raise UserError(
                f"sample_rate is {self.sample_rate} Hz; drums need data.sample_rate of at least {_LEAST_RATE}."
            )

    def labels(self, index: int) -> dict[str, Any]:
        return {"drum": tuple(DRUMS)[index % len(DRUMS)]}

    def synthesise(self, index: int, labels: Mapping[str, Any]) -> NDArray[np.float32]:
        random = np.random.default_rng((self.seed, index))
        time = np.arange(round(self.seconds * self.sample_rate)) / self.sample_rate
        sound = DRUMS[labels["drum"]](_Desk(time, self.sample_rate, random))
        sound *= np.minimum(1, (time[-1] - time) / 0.01)  # what rings on at the end is damped
        size = self.sample_rate // 100
        loudness = np.sqrt(np.add.reduceat(np.square(sound), np.arange(0, len(sound), size)) / size)
        rings = (np.flatnonzero(loudness > _SILENT * loudness.max())[-1] + 1) * size
        return (random.uniform(0.5, 0.9) * sound[:rings] / np.abs(sound).max()).astype(np.float32)
