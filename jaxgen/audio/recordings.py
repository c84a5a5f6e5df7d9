"""Recordings in and out: decoding, mixing channels down, resampling, and wav files that are whole or absent."""

import contextlib
import dataclasses
import functools
import io
import math
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

from jaxgen.core.errors import TryAgain
from jaxgen.core.files import cause, explain_write_errors, open_regular, retry_read, write_atomic

AUDIO_SUFFIXES = frozenset({".wav", ".wave", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff"})

MOST_WAV_SAMPLES = (2**32 - 2**16) // 2
"""16-bit samples that fit a wav file, whose sizes have 32 bits, beside its metadata."""

LEAST_RATE, HIGHEST_RATE = 1_000, 768_000
"""Sample rates in Hz that recordings have; what a damaged header says may be anything."""

_LOUDEST = (
    100.0  # times full scale: floating-point formats may go beyond it, but not so far unless damaged or in other units
)
_LEAST_BYTES_A_SECOND = 700  # of speech in any codec
_BLOCK_VALUES = 1 << 19  # samples of all channels that are decoded at a time

Samples = NDArray[np.float32]


class AudioError(Exception):
    """A recording cannot be used; the text is the reason, in a few words."""


class UnreadableError(AudioError):
    """The operating system does not let a recording be read; nothing is said of what it holds."""


@dataclasses.dataclass(frozen=True)
class Waveform:
    """Decoded sound."""

    samples: Samples
    """float32 [nsamp, nch], full scale 1.0."""
    sample_rate: int
    """Hz."""


@dataclasses.dataclass(frozen=True)
class Recording:
    """Sound that is decoded while it is read."""

    sample_rate: int
    """Hz."""
    channels: int
    blocks: Iterator[Samples]
    """float32 [any number, nch] each, full scale 1.0, not all of them in memory. Raises AudioError where the sound cannot be
    decoded, is empty, or is not finite."""
    stated_seconds: float = 0.0
    """Length by the header, which may be wrong, but not more than a file of this size can hold."""
    comment: str = ""
    """Of the file's metadata; empty for none."""

    def read_all(self) -> Waveform:
        """All of it, in memory. Raises AudioError."""
        return Waveform(np.concatenate(list(self.blocks)), self.sample_rate)


@contextlib.contextmanager
def open_recording(path: str | Path) -> Iterator[Recording]:
    """A WAV, FLAC, OGG or MP3 file. Raises AudioError where it is not audio, TryAgain where it may be readable later.

    A recording that breaks off is read as far as it goes, where its format allows that (wav and mp3 do, flac does not).
    """
    with contextlib.ExitStack() as stack:
        with _reasons():
            source = _Source(stack.enter_context(retry_read(path, lambda: open_regular(path))), path)
            num_bytes = source.seek(0, os.SEEK_END)
            if num_bytes == 0:
                raise AudioError("empty file")
            source.seek(0)
            with source.in_use():
                file = stack.enter_context(soundfile.SoundFile(source))
        if not LEAST_RATE <= file.samplerate <= HIGHEST_RATE:
            raise AudioError(f"sample rate of {file.samplerate} Hz")
        seconds = min(max(0, file.frames) / file.samplerate, num_bytes / _LEAST_BYTES_A_SECOND)
        yield Recording(file.samplerate, file.channels, _decoded(file, source), seconds, file.comment)


def read(path: str | Path) -> Waveform:
    """All that `opened` gives, in memory. Raises AudioError."""
    with open_recording(path) as recording:
        return recording.read_all()


class _Source(io.RawIOBase):
    """A file as libsndfile reads it, which takes an error of the system for the end of the file, or for damage."""

    def __init__(self, file: BinaryIO, path: str | Path):
        self._file, self._path, self._at = file, path, 0
        self._error: Exception | None = None

    def readinto(self, buffer: Any) -> int:
        if self._error is not None:
            return 0
        read = functools.partial(os.pread, self._file.fileno(), len(buffer), self._at)
        try:
            content = retry_read(self._path, read)
        except (OSError, TryAgain) as error:  # which must not pass through C
            self._error, content = error, b""
        buffer[: len(content)] = content
        self._at += len(content)
        return len(content)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        ends = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: os.fstat(self._file.fileno()).st_size}
        self._at = ends[whence] + offset
        return self._at

    @contextlib.contextmanager
    def in_use(self) -> Iterator[None]:
        """Raises OSError or TryAgain where the file could not be read within, whatever libsndfile made of that."""
        try:
            yield
        finally:
            if self._error is not None:
                raise self._error


def _decoded(file: soundfile.SoundFile, source: _Source) -> Iterator[Samples]:
    """Blocks as long as is still to come by: what a header says of the length is not believed."""
    with _reasons():
        num_frames = max(1, _BLOCK_VALUES // file.channels)
        with source.in_use():
            block = file.read(num_frames, dtype="float32", always_2d=True)
        if len(block) == 0:
            raise AudioError("no samples")
        while len(block):
            if not math.isfinite(peak := float(np.abs(block).max())):
                raise AudioError("NaN or infinite samples")
            if peak > _LOUDEST:
                raise AudioError(f"samples of {peak:.3g} times full scale")
            yield block
            with source.in_use():
                block = file.read(num_frames, dtype="float32", always_2d=True)


def limit_seconds(blocks: Iterable[Samples], sample_rate: int, max_seconds: float) -> Iterator[Samples]:
    """The same blocks [any number, nch]; raises AudioError as soon as they last longer, whatever the header says."""
    num_samples = 0
    for block in blocks:
        num_samples += len(block)
        if num_samples > max_seconds * sample_rate:
            raise AudioError(f"longer than --audio.max-seconds {max_seconds:g}")
        yield block


@contextlib.contextmanager
def _reasons() -> Iterator[None]:
    """What the operating system and libsndfile say, as an AudioError."""
    try:
        yield
    except OSError as error:
        raise UnreadableError(cause(error)) from None
    except (soundfile.LibsndfileError, RuntimeError, TypeError, ValueError) as error:
        raise AudioError(f"not audio, or damaged: {str(error).rstrip('.').rsplit(': ', 1)[-1]}") from None


def mix_down(samples: Samples) -> Samples:
    """The mean over channels: [nsamp, nch] to [nsamp]. Samples [nsamp] are returned as they are."""
    if samples.ndim == 1:
        return samples
    return samples.mean(axis=1, dtype=np.float32) if samples.shape[1] > 1 else samples[:, 0]


def to_stereo(samples: Samples) -> Samples:
    """[nsamp, nch] to [nsamp, 2]: the first two channels; a single one becomes both."""
    return np.repeat(samples, 2, axis=1) if samples.shape[1] == 1 else samples[:, :2]


def resample(blocks: Iterable[Samples], from_rate: int, to_rate: int) -> Iterator[Samples]:
    """Band-limited resampling (soxr, high quality) of blocks [any number], or [any number, nch], from one rate in Hz to
    another, as they come.

    How the samples are cut into blocks makes no difference to the result, joined.
    """
    if from_rate == to_rate:
        yield from blocks
        return
    stream, shape = None, (0,)
    for block in blocks:
        if stream is None:
            shape = (0, *block.shape[1:])
            channels = math.prod(block.shape[1:])
            stream = soxr.ResampleStream(from_rate, to_rate, num_channels=channels, dtype="float32", quality="HQ")
        yield stream.resample_chunk(np.ascontiguousarray(block))
    if stream is not None:
        yield stream.resample_chunk(np.zeros(shape, np.float32), last=True)


def rechunk(blocks: Iterable[Samples], length: int) -> Iterator[Samples]:
    """The same samples, [any number] or [any number, nch], in blocks of `length`, and at the end one that is shorter, maybe
    empty.
    """
    held: list[Samples] = []
    missing, nothing = length, np.zeros(0, np.float32)
    for block in blocks:
        nothing = block[:0]
        while len(block) >= missing:
            yield np.concatenate([*held, block[:missing]])
            block, held, missing = block[missing:], [], length
        held.append(block)
        missing -= len(block)
    yield np.concatenate([*held, nothing])


def write(path: Path, samples: Samples, sample_rate: int, comment: str = "") -> None:
    """Writes a 16-bit wav, clipped to full scale, with a comment of at most 2,000 bytes in its own metadata.

    libsndfile would write a longer comment and not read it again. samples: float32 [nsamp], or of several channels
    [nsamp, nch], full scale 1.0.
    The file is whole or absent. Raises UserError where it cannot be written.
    """
    content = io.BytesIO()  # libsndfile does not say so when a disk is full
    channels = math.prod(samples.shape[1:])
    with soundfile.SoundFile(content, "w", sample_rate, channels=channels, subtype="PCM_16", format="WAV") as file:
        if comment:
            file.comment = comment
        file.write(np.clip(samples, -1.0, 1.0))
    write_atomic(path, content.getvalue())


def append(path: Path, samples: Samples) -> None:
    """Adds sound to the end of a wav that `write` made: the file is what `write` would have made of all of it.

    samples: float32 of as many channels, full scale 1.0; clipped to it. Raises UserError where the file cannot be written.
    """
    content = io.BytesIO()
    soundfile.write(content, np.clip(samples, -1.0, 1.0), 1, format="RAW", subtype="PCM_16", endian="LITTLE")
    with explain_write_errors(path), path.open("r+b") as file:
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
    with open_recording(path) as recording:
        return recording.comment
