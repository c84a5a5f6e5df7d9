"""Recordings that nobody would choose: odd rates, formats, channels and lengths, silence, clipping, and damage."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import soundfile

_RATES = (8_000, 8_001, 11_025, 12_345, 16_000, 22_050, 31_999, 37_800, 44_100, 48_000, 88_200, 96_000)
_CHANNELS = (1, 1, 2, 6)
_FORMATS: Mapping[str, tuple[str, ...]] = {
    "wav": ("PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE", "ULAW", "ALAW", "IMA_ADPCM"),
    "flac": ("PCM_S8", "PCM_16", "PCM_24"),
    "ogg": ("VORBIS",),
}
_LONGEST_SECONDS = 240.0
_SHORTEST = 3  # samples
_DAMAGED = 0.15  # share of the files


def write_hostile(folder: Path, hours: float, seed: int = 0) -> int:
    """Writes recordings of so many hours together; returns how many files that are. The same seed writes the
    same, but for the times and serial numbers that some formats hold."""
    random = np.random.default_rng(seed)
    left, count = hours * 3600, 0
    while left > 0:
        suffix = str(random.choice(list(_FORMATS)))
        subtype = str(random.choice(_FORMATS[suffix]))
        rate, channels = int(random.choice(_RATES)), 1 if "ADPCM" in subtype else int(random.choice(_CHANNELS))
        seconds = float(np.exp(random.uniform(np.log(_SHORTEST / rate), np.log(_LONGEST_SECONDS))))
        samples = _sound(random, max(_SHORTEST, round(seconds * rate)), channels, rate)
        if subtype not in ("FLOAT", "DOUBLE"):  # NaN would crash libsndfile
            samples = np.nan_to_num(samples)
        path = folder / f"{count:06d}.{suffix}"
        with soundfile.SoundFile(path, "w", rate, channels, subtype) as file:
            for start in range(0, len(samples), 4096):  # libsndfile's Vorbis overflows its stack with more at once
                file.write(samples[start : start + 4096])
        if random.random() < _DAMAGED:
            _damage(path, random)
        left, count = left - seconds, count + 1
    return count


def _sound(random: np.random.Generator, num_samples: int, channels: int, rate: int) -> np.ndarray:
    """float32 [nsamp, nch]: tones under noise, and one time in eight each something worse."""
    pitch = random.uniform(60, 3_000)
    phase = 2 * np.pi * pitch / rate * np.arange(num_samples, dtype=np.float32)
    tone = np.sin(phase) * np.exp(-(np.arange(num_samples, dtype=np.float32) % rate) / (0.3 * rate))
    samples = 0.4 * tone[:, None] + 0.05 * random.standard_normal((num_samples, channels), np.float32)
    kind = random.integers(8)
    if kind == 0:
        samples[:] = 0.0
    elif kind == 1:
        samples[:] = random.uniform(-1, 1)  # direct current
    elif kind == 2:
        samples = np.clip(20 * samples, -1, 1)
    elif kind == 3:
        samples[num_samples // 2 :] = np.nan
    return samples


def _damage(path: Path, random: np.random.Generator) -> None:
    """Cuts the file, writes over some of it, or puts something else in its place."""
    content = bytearray(path.read_bytes())
    kind = random.integers(4)
    if kind == 0:
        content = content[: random.integers(len(content))]
    elif kind == 1:
        for place in random.integers(min(len(content), 64), size=4):
            content[place] = random.integers(256)
    elif kind == 2:
        for place in random.integers(len(content), size=1 + len(content) // 1000):
            content[place] = random.integers(256)
    else:
        content = bytearray(b"not a recording\n" * int(random.integers(2)))
    path.write_bytes(content)
