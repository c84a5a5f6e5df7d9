"""Sound that is synthesised on the spot, for first steps and for tests: data sets that need no files. Plucked-string melodies."""

import abc
import contextlib
import dataclasses
import functools
import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from jaxgen.audio import Recording, Samples
from jaxgen.core.errors import UserError
from jaxgen.data.clips import Clip, Dataset, Split, parse_split

_PENTATONIC = (0, 2, 4, 7, 9)  # semitones above the tonic of a major key
_LOWEST_MIDI = 67  # G4
_NUM_NOTES = 10  # two octaves: G4 to E6
_TONICS = (0, 5)  # places in the scale
_LAST_BEATS = 3  # eighth notes that the last note may last
_REST_SECONDS = 0.25  # silence behind the last note
_ECHO_SECONDS = 0.011  # until a wall on the other side gives a note back
_ECHO = 0.25  # of its level
_DAMP_SECONDS = 0.010  # the finger that stops a string before the next note


class SyntheticDataset(Dataset, abc.ABC):
    """Base of the frozen dataclasses whose clips are made from a seed. Every tenth clip is for validation."""

    num_clips: int
    """Clips in all."""
    seconds: float
    """Length of a clip in seconds, or of the longest."""
    seed: int
    """Another seed makes other clips."""
    sample_rate: int
    """Hz; sound has nothing above half of it."""
    channels: int = 1
    """Channels of a clip."""
    name: ClassVar[str]
    """What the names of clips begin with."""
    version: ClassVar[int]
    """Part of every digest: raise it when the same settings come to make other samples."""

    def __post_init__(self) -> None:
        if self.num_clips < 1:
            raise UserError(f"num_clips is {self.num_clips}; data.num_clips must be at least 1.")
        if not 0.1 <= self.seconds <= 600:
            raise UserError(f"seconds is {self.seconds}; data.seconds must be from 0.1 to 600.")
        if self.seed < 0:
            raise UserError(f"seed is {self.seed}; data.seed must be 0 or more.")
        if self.channels not in (1, 2):
            raise UserError(f"channels is {self.channels}; data.channels must be 1 or 2.")
        if self.sample_rate < 4_000:
            raise UserError(f"sample_rate is {self.sample_rate} Hz; data.sample_rate must be at least 4000.")

    @abc.abstractmethod
    def labels(self, index: int) -> dict[str, Any]:
        """Those of a clip, words or numbers."""

    @abc.abstractmethod
    def synthesise(self, index: int, labels: Mapping[str, Any]) -> NDArray[np.float32]:
        """Samples of a clip, float32 [nsamp], of several channels [nsamp, channels], full scale 1.0."""

    def clips(self) -> list[Clip]:
        return [self._clip(index) for index in range(self.num_clips)]

    def split_of(self, fields: Mapping[str, str], digest: str) -> Split:
        return parse_split(fields["split"], f"a {self.name} clip")

    def _clip(self, index: int) -> Clip:
        labels = self.labels(index)
        about = {"split": "validation" if index % 10 == 9 else "train", "licence": "CC0-1.0 (synthesised)"}
        made_from = [self.version, index, self.seed, self.seconds, self.sample_rate, *labels.values()]
        if self.channels > 1:
            made_from.append(self.channels)
        digest = hashlib.sha256(json.dumps(made_from).encode()).hexdigest()
        opened = functools.partial(self._opened, index, labels)
        fields = {name: str(value) for name, value in labels.items()} | about
        return Clip(f"{self.name}/{index:05d}", fields, opened, lambda: digest)

    @contextlib.contextmanager
    def _opened(self, index: int, labels: Mapping[str, Any]) -> Iterator[Recording]:
        samples: Samples = self.synthesise(index, labels).reshape(-1, self.channels)
        yield Recording(self.sample_rate, self.channels, iter([samples]))


@dataclasses.dataclass(frozen=True)
class Timbre:
    """How a string is plucked and how it rings."""

    pick: float
    """Where it is plucked, as a share of its length: harmonics with a node there are missing."""
    sustain: float
    """Seconds in which its fundamental fades by 60 dB."""
    damping: float
    """Share of that fading that is due to the averaging in the loop: harmonic k feels it about k^2 times as much."""


TIMBRES: Mapping[str, Timbre] = {
    "steel": Timbre(pick=0.13, sustain=1.6, damping=0.08),
    "nylon": Timbre(pick=0.31, sustain=1.2, damping=0.4),
    "muted": Timbre(pick=0.45, sustain=0.8, damping=0.7),
}
TEMPI = (100, 120, 150)
"""Quarter notes a minute; the shortest notes are eighths."""


@dataclasses.dataclass(frozen=True)
class PluckedStrings(SyntheticDataset):
    """Melodies of one plucked string in G major pentatonic, G4 to E6, synthesised from a seed. No files, no network.

    A melody is a random walk over the scale, strictly in time: eighth notes, and quarters where it touches the tonic.
    It ends on a long tonic and a rest. Every note damps the one before. Labels: `timbre` (steel, nylon, muted) and
    `tempo` (100, 120, 150). Every tenth clip is for validation.
    """

    num_clips: int = 200
    """Clips in all."""
    seconds: float = 3.5
    """Length of a clip in seconds."""
    seed: int = 0
    """Another seed makes other melodies."""
    sample_rate: int = 8_000
    """Hz; sound has nothing above half of it."""
    channels: int = 1
    """1, or 2 for stereo: low notes come from the left and high ones from the right, with an echo from the other side."""

    name = "plucked"
    version = 3

    def scale_hz(self) -> tuple[float, ...]:
        """Frequencies of the notes that melodies are made of, ascending, in Hz."""
        midi = [_LOWEST_MIDI + 12 * (i // 5) + _PENTATONIC[i % 5] for i in range(_NUM_NOTES)]
        return tuple(440.0 * 2 ** ((note - 69) / 12) for note in midi)

    def labels(self, index: int) -> dict[str, Any]:
        tempo = TEMPI[index // len(TIMBRES) % len(TEMPI)]
        return {"timbre": tuple(TIMBRES)[index % len(TIMBRES)], "tempo": tempo}

    def synthesise(self, index: int, labels: Mapping[str, Any]) -> NDArray[np.float32]:
        timbre, tempo = TIMBRES[labels["timbre"]], labels["tempo"]
        random = np.random.default_rng((self.seed, index))
        samples = np.zeros((round(self.seconds * self.sample_rate), self.channels), np.float32)
        unit = 30.0 / tempo * self.sample_rate  # samples in an eighth note
        beats = max(1, math.floor((len(samples) - _REST_SECONDS * self.sample_rate) / unit))
        scale = self.scale_hz()
        place, beat = int(random.integers(_NUM_NOTES)), 0
        while beat < beats:
            last = beats - beat <= _LAST_BEATS
            length = beats - beat if last else 2 if place in _TONICS else 1
            note = scale[min(_TONICS, key=lambda tonic: abs(tonic - place)) if last else place]
            start, beat = round(beat * unit), beat + length
            end = min(round(beat * unit), len(samples))
            level = 0.35 + 0.15 * random.random()
            string = level * pluck(note, end - start, timbre, self.sample_rate)
            samples[start:end] = self._place(string, note)
            place = _reflect(place + int(random.choice((-2, -1, -1, 1, 1, 2))))
        return samples if self.channels > 1 else samples[:, 0]

    def _place(self, string: NDArray[np.float32], note: float) -> NDArray[np.float32]:
        """A note [nsamp] in its place between the channels, at equal power: [nsamp, channels]."""
        if self.channels == 1:
            return string[:, None]
        lowest, *_, highest = self.scale_hz()
        angle = (0.15 + 0.7 * math.log(note / lowest) / math.log(highest / lowest)) * math.pi / 2
        gains = np.array([math.cos(angle), math.sin(angle)], np.float32)
        delay = round(_ECHO_SECONDS * self.sample_rate)
        echo = np.pad(string, (delay, 0))[: len(string)]
        return string[:, None] * gains + _ECHO * echo[:, None] * gains[::-1]


def pluck(frequency: float, num_samples: int, timbre: Timbre, sample_rate: int) -> NDArray[np.float32]:
    """One note of a plucked string, damped in its last 10 ms: float32 [num_samples], peak 1.

    The loop of Karplus and Strong 1983 as Jaffe and Smith 1983 extend it: a delay of N samples, a two-point average
    with weight S for the decay (their eq. 16) and a first-order allpass with coefficient C for the fraction of a sample
    that N cannot give, so that the fundamental is in tune. The string starts in the shape a pick gives it, the triangle
    whose harmonic k has the velocity sin(pi k pick) / k, instead of noise: the same note always sounds the same.
    """
    from scipy.signal import lfilter

    omega = 2 * math.pi * frequency / sample_rate
    loss = 1e-3 ** (1 / (frequency * timbre.sustain))  # of a period
    averaging = loss**timbre.damping
    weight = 0.5 - math.sqrt(max(0.0, 0.25 - (1 - averaging**2) / (2 * (1 - math.cos(omega)))))
    gain = loss / math.sqrt(1 - 2 * weight * (1 - weight) * (1 - math.cos(omega)))
    average_delay = math.atan2(weight * math.sin(omega), 1 - weight + weight * math.cos(omega)) / omega
    whole = int(sample_rate / frequency - average_delay - 0.1)  # leaves the allpass 0.1 to 1.1 samples: C below 1
    fraction = sample_rate / frequency - average_delay - whole
    allpass = math.sin((1 - fraction) * omega / 2) / math.sin((1 + fraction) * omega / 2)

    loop = gain * np.convolve([1 - weight, weight], [allpass, 1.0])
    feedback = np.concatenate([[1.0, allpass], np.zeros(whole - 2), [0.0] * 3])
    feedback[whole : whole + 3] -= loop
    harmonics = np.arange(1, math.ceil(sample_rate / 2 / frequency))
    velocities = np.sin(math.pi * harmonics * timbre.pick) / harmonics
    excitation = np.zeros(num_samples)
    period = np.arange(min(round(sample_rate / frequency), num_samples))
    excitation[: len(period)] = velocities @ np.sin(omega * np.outer(harmonics, period))
    string = lfilter([1.0, allpass], feedback, excitation)

    faded = min(num_samples, round(_DAMP_SECONDS * sample_rate))
    string[num_samples - faded :] *= np.cos(np.linspace(0, math.pi / 2, faded)) ** 2
    return (string / np.abs(string).max(initial=1e-9)).astype(np.float32)


def _reflect(place: int) -> int:
    """A step beyond either end of the scale turns back."""
    top = _NUM_NOTES - 1
    return top - abs(top - abs(place))
