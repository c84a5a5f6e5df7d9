"""Recordings in and out: decoding, mixing down, resampling, and wav files that are whole or absent."""

import dataclasses
import io
import os
from pathlib import Path

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

from jaxgen.files import write_whole, writing

AUDIO_SUFFIXES = frozenset({".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff"})

MOST_WAV_SAMPLES = (2**32 - 2**16) // 2
"""16-bit samples that fit a wav file, whose sizes have 32 bits, beside its metadata."""

Samples = NDArray[np.float32]


class AudioError(Exception):
    """A recording cannot be used; the text is the reason, in a few words."""


@dataclasses.dataclass(frozen=True)
class Waveform:
    """Decoded sound."""

    samples: Samples
    """float32 [nsamp, nch], full scale 1.0."""
    sample_rate: int
    """Hz."""


def read(path: str | Path) -> Waveform:
    """Decodes a WAV, FLAC, OGG or MP3 file. Raises AudioError where it is not audio, empty, or not finite.

    A recording that breaks off is read as far as it goes, where its format allows that (wav and mp3 do, flac does not).
    """
    try:
        if os.path.getsize(path) == 0:
            raise AudioError("empty file")
        samples, sample_rate = soundfile.read(path, dtype="float32", always_2d=True)
    except OSError as error:
        raise AudioError(f"unreadable file: {error.strerror}") from None
    except (soundfile.LibsndfileError, RuntimeError) as error:
        raise AudioError(f"not audio, or damaged: {str(error).rstrip('.').rsplit(': ', 1)[-1]}") from None
    if len(samples) == 0:
        raise AudioError("no samples")
    if not np.isfinite(samples).all():
        raise AudioError("NaN or infinite samples")
    return Waveform(samples, sample_rate)


def mix_down(samples: Samples) -> Samples:
    """The mean over channels: [nsamp, nch] to [nsamp]."""
    return samples.mean(axis=1, dtype=np.float32) if samples.shape[1] > 1 else samples[:, 0]


def resample(samples: Samples, from_rate: int, to_rate: int) -> Samples:
    """Band-limited resampling (soxr, high quality) of [nsamp] from one rate in Hz to another."""
    if from_rate == to_rate:
        return samples
    return soxr.resample(samples, from_rate, to_rate, quality="HQ").astype(np.float32)


def write(path: Path, samples: Samples, sample_rate: int, comment: str = "") -> None:
    """Writes a 16-bit wav, clipped to full scale, with a comment of at most 2,000 bytes in its own metadata.

    libsndfile would write a longer comment and not read it again. samples: float32 [nsamp], full scale 1.0.
    The file is whole or absent. Raises UserError where it cannot be written.
    """
    content = io.BytesIO()  # libsndfile does not say so when a disk is full
    with soundfile.SoundFile(content, "w", sample_rate, channels=1, subtype="PCM_16", format="WAV") as file:
        if comment:
            file.comment = comment
        file.write(np.clip(samples, -1.0, 1.0))
    write_whole(path, content.getvalue())


def append(path: Path, samples: Samples) -> None:
    """Adds sound to the end of a wav that `write` made: the file is what `write` would have made of all of it.

    samples: float32 [nsamp], full scale 1.0; clipped to it. Raises UserError where the file cannot be written.
    """
    content = io.BytesIO()
    soundfile.write(content, np.clip(samples, -1.0, 1.0), 1, format="RAW", subtype="PCM_16", endian="LITTLE")
    with writing(path), path.open("r+b") as file:
        data = 12  # bytes: "RIFF", the size of the rest, "WAVE"; then chunks, each a name, a size and so much content
        file.seek(data)
        while (header := file.read(8))[:4] != b"data":
            data += 8 + int.from_bytes(header[4:], "little")
            file.seek(data)
        end = file.seek(0, os.SEEK_END) + file.write(content.getvalue())
        for place, size in ((4, end - 8), (data + 4, end - data - 8)):
            file.seek(place)
            file.write(size.to_bytes(4, "little"))


def read_comment(path: str | Path) -> str:
    """The comment in a file's metadata; empty for none. Raises AudioError where it is no audio file."""
    try:
        with soundfile.SoundFile(path) as file:
            return file.comment
    except (soundfile.LibsndfileError, RuntimeError, OSError) as error:
        raise AudioError(f"not audio, or damaged: {error}") from None
