"""Recordings to samples and steps, block by block: a recording of hours takes no more memory than one of minutes."""

import collections
import concurrent.futures
import dataclasses
from collections.abc import Iterable, Iterator
from typing import Literal

import numpy as np

from jaxgen import audio
from jaxgen.audio import AudioError, Samples, UnreadableError
from jaxgen.core.errors import TryAgain, UserError
from jaxgen.data.clips import Clip
from jaxgen.features import FeatureSpec
from jaxgen.provenance import record as provenance

_BLOCK = 1 << 22  # samples that are in memory together: minutes
_MARGIN = 0.05  # seconds that stay of a quiet end
_FULL = 0.99  # of full scale, from which on a sample counts as clipped
_AT_ONCE = 16  # clips whose first blocks wait decoded


@dataclasses.dataclass(frozen=True)
class AudioPolicy:
    """How recordings are decoded, and which are refused. Refused clips are listed in the data report."""

    channels: Literal["mix", "first", "refuse"] = "mix"
    """Recordings of more channels than features.channels: the mean of all (of which stereo has none), the first ones, or
    refuse them. One channel becomes both of stereo."""
    resample: Literal["convert", "refuse"] = "convert"
    """Recordings of another sample rate: convert or refuse them."""
    max_refused: float = 0.5
    """Largest share of refused clips, 0 to 1; above it nothing is trained."""
    min_seconds: float = 0.02
    """Seconds; shorter clips are refused."""
    max_seconds: float = 14_400.0
    """Longer clips are refused, as soon as so much is decoded: a small file may decode to any amount."""
    silence_dbfs: float = -60.0
    """Clips whose peak stays below this level, in dB of full scale, are refused as silent."""
    trim_dbfs: float | None = None
    """Quiet starts and ends are cut: what is below this level, in dB of full scale, but for 50 ms; none cuts nothing."""
    max_clipped: float = 1.0
    """Largest share of samples at or above 99 % of full scale, 0 to 1; clips that have more are refused as clipped."""
    synthetic: Literal["refuse", "accept"] = "refuse"
    """Clips whose own metadata says that a model made them, as those of jaxgen do: refuse or accept them."""

    def __post_init__(self) -> None:
        if not 0 <= self.max_refused <= 1:
            raise UserError(f"max_refused is {self.max_refused}; audio.max_refused is a share, from 0 to 1.")
        if self.max_seconds <= self.min_seconds:
            raise UserError(
                f"audio.max_seconds is {self.max_seconds:g}, expected more than audio.min_seconds, {self.min_seconds:g}."
            )


@dataclasses.dataclass(frozen=True)
class Block:
    """A piece of a clip."""

    samples: Samples
    """float32 [nsamp, *sample_shape] at the rate asked for; the last may be empty."""
    is_last: bool
    source_rate: int
    """Sample rate of the recording in Hz."""
    source_channels: int
    source_peak: float
    """Largest amplitude of any channel so far, before it is mixed or resampled."""
    peak: float
    """Largest amplitude of the samples so far."""
    trimmed: int = 0
    """Samples that were cut at its ends so far."""


def decode_clips(
    clips: Iterable[Clip], features: FeatureSpec, policy: AudioPolicy, pool: concurrent.futures.Executor
) -> Iterator[Iterator[Block]]:
    """The blocks of each clip as `features` take them, which raise AudioError, at the latest with the last, where the clip is
    refused.

    They are decoded in parallel: the first blocks of up to `_AT_ONCE` clips, and the next one of a long clip.
    """
    pending: collections.deque[tuple[concurrent.futures.Future[Block], Iterator[Block]]] = collections.deque()
    for clip in clips:
        blocks = _decode(clip, features, policy)
        pending.append((pool.submit(next, blocks), blocks))
        if len(pending) == _AT_ONCE:
            yield _one_ahead(*pending.popleft(), pool)
    while pending:
        yield _one_ahead(*pending.popleft(), pool)


def _one_ahead(
    coming: concurrent.futures.Future[Block], rest: Iterator[Block], pool: concurrent.futures.Executor
) -> Iterator[Block]:
    while not (block := coming.result()).is_last:
        coming = pool.submit(next, rest)
        yield block
    yield block


def _decode(clip: Clip, features: FeatureSpec, policy: AudioPolicy) -> Iterator[Block]:
    """Raises TryAgain where the recording is no longer what was hashed, or cannot be read any more: neither may be stored."""
    if clip.refused:
        raise AudioError(clip.refused)
    try:
        for block in _blocks(clip, features, policy):
            if block.is_last:
                _check_unchanged(clip)
            yield block
    except UnreadableError as error:
        raise TryAgain(
            f"'{clip.name}' could be read a moment ago, and now cannot ({error}). Run the same command again."
        ) from None
    except AudioError:
        _check_unchanged(clip)
        raise


def _check_unchanged(clip: Clip) -> None:
    if not clip.is_unchanged():
        raise TryAgain(f"'{clip.name}' has changed while it was read. Run the same command again when it is at rest.")


def _blocks(clip: Clip, features: FeatureSpec, policy: AudioPolicy) -> Iterator[Block]:
    sample_rate = features.sample_rate
    with clip.open() as recording:
        rate, channels = recording.sample_rate, recording.channels
        check_channels(channels, features, policy)
        if rate != sample_rate and policy.resample == "refuse":
            raise AudioError(f"{rate} Hz instead of {sample_rate} Hz")
        if policy.synthetic == "refuse" and provenance.parse(recording.comment) is not None:
            raise AudioError("made by a model, not recorded; --audio.synthetic accept takes it")
        num_samples, peak, source, ends = 0, 0.0, _Source(), _Ends(sample_rate, policy.trim_dbfs)
        heard = _heard(audio.limit_seconds(recording.blocks, rate, policy.max_seconds), features, policy, source)
        for samples in audio.rechunk(ends.cut(audio.resample(heard, rate, sample_rate)), _BLOCK):
            num_samples += len(samples)
            peak = max(peak, _peak(samples))
            if is_last := len(samples) < _BLOCK:
                if not num_samples and ends.trimmed:
                    raise AudioError(f"silent, below --audio.trim-dbfs {policy.trim_dbfs:g}")
                if source.clipped > policy.max_clipped * max(source.num_values, 1):
                    raise AudioError(
                        f"clipped ({100 * source.clipped / source.num_values:.2f} % of samples at full scale)"
                    )
                if num_samples < max(1.0, policy.min_seconds * sample_rate):
                    raise AudioError(f"too short ({num_samples / sample_rate:.3f} s)")
                if decibels(peak) < policy.silence_dbfs:
                    raise AudioError(_why_silent(source.peak, channels, features, policy))
            yield Block(samples, is_last, rate, channels, source.peak, peak, ends.trimmed)


@dataclasses.dataclass
class _Source:
    """What has been read of a recording."""

    peak: float = 0.0
    clipped: int = 0
    num_values: int = 0


class _Ends:
    """Cuts the quiet ends of a clip as its samples come. Only a quiet stretch is held, until something is heard behind it."""

    def __init__(self, sample_rate: int, level_dbfs: float | None):
        self._level, self._margin = level_dbfs, round(_MARGIN * sample_rate)
        self.trimmed = 0

    def cut(self, blocks: Iterable[Samples]) -> Iterator[Samples]:
        """The samples [nsamp, *sample_shape] from shortly before the first to shortly behind the last that are not quiet."""
        if self._level is None:
            yield from blocks
            return
        quiet: list[Samples] = []
        begun, threshold = False, 10 ** (self._level / 20)
        for block in blocks:
            loud = np.flatnonzero(np.abs(block).reshape(len(block), -1).max(axis=1, initial=0.0) >= threshold)
            if not len(loud):
                quiet.append(block)
                continue
            before = np.concatenate([*quiet, block[: loud[0]]])
            kept = before if begun else before[max(0, len(before) - self._margin) :]
            self.trimmed += len(before) - len(kept)
            yield np.concatenate([kept, block[loud[0] : loud[-1] + 1]])
            begun, quiet = True, [block[loud[-1] + 1 :]]
        rest = np.concatenate(quiet) if quiet else None
        if rest is not None:
            kept = rest[: self._margin if begun else 0]
            self.trimmed += len(rest) - len(kept)
            yield kept


def _heard(blocks: Iterable[Samples], features: FeatureSpec, policy: AudioPolicy, source: _Source) -> Iterator[Samples]:
    """The channels that the features take."""
    for block in blocks:
        source.peak = max(source.peak, _peak(block))
        source.clipped += int(np.count_nonzero(np.abs(block) >= _FULL))
        source.num_values += block.size
        yield select_channels(block, features, policy)


def check_channels(channels: int, features: FeatureSpec, policy: AudioPolicy) -> None:
    """Raises AudioError where a recording of so many channels is not what the features take."""
    if channels > features.channels and policy.channels == "refuse":
        raise AudioError(f"{channels} channels")
    if channels > features.channels > 1 and policy.channels == "mix":
        raise AudioError(f"{channels} channels, of which stereo has no mix; --audio.channels first takes the first two")


def select_channels(samples: Samples, features: FeatureSpec, policy: AudioPolicy) -> Samples:
    """Samples [nsamp, nch] of a recording as the features take them: [nsamp, *sample_shape]."""
    if features.channels > 1:
        return audio.to_stereo(samples)
    return audio.mix_down(samples) if policy.channels == "mix" else samples[:, 0]


def _peak(samples: Samples) -> float:
    return float(np.abs(samples).max(initial=0.0))


def _why_silent(source_peak: float, channels: int, features: FeatureSpec, policy: AudioPolicy) -> str:
    """Which silence it is: that of the recording, or of what is taken of it."""
    if decibels(source_peak) < policy.silence_dbfs:
        return "silent"
    if channels <= features.channels:
        return "silent at this sample rate"
    if policy.channels == "mix":
        return "channels that cancel each other in the mix; --audio.channels first takes one"
    if features.channels > 1:
        return "first two channels silent, others are not"
    return "first channel silent, others are not; --audio.channels mix takes all"


def decibels(amplitude: float) -> float:
    """Level of an amplitude, at least -200 dB; 0 dB is 1.0."""
    return float(20 * np.log10(max(amplitude, 1e-10)))


class Encoder:
    """Steps of one clip while its samples come, in bounded memory; joined, they are those of all samples together.

    A window is encoded with the samples that its first and last steps see; steps that see beyond it are left to the next.
    """

    def __init__(self, features: FeatureSpec):
        self._features = features
        self._reach = -(-features.num_samples_seen(1) // features.samples_per_step)  # in steps, on either side
        self._window = max(_BLOCK, 4 * self._reach * features.samples_per_step)
        self._held = np.zeros((0, *features.sample_shape), np.float32)  # samples that steps to come see
        self._given = 0  # steps of these that are given

    def __call__(self, samples: Samples, is_last: bool) -> Iterator[np.ndarray]:
        """Steps [any number, *step_shape] for which these samples, float32 [nsamp, *sample_shape], were missing."""
        hop = self._features.samples_per_step
        self._held = np.concatenate([self._held, samples]) if len(self._held) else samples
        while len(self._held) >= self._window:
            stop = self._window // hop - self._reach
            yield _encode(self._held[: self._window], self._features)[self._given : stop]
            self._held, self._given = self._held[(stop - self._reach) * hop :], self._reach
        if is_last:
            yield _encode(self._held, self._features)[self._given :]


def _encode(samples: Samples, features: FeatureSpec) -> np.ndarray:
    """Steps of some samples; their length is padded to a power of two, for each of which `encode` compiles."""
    length = len(samples)
    missing = (1 << max(10, (length - 1).bit_length())) - length
    padded = np.pad(samples, [(0, missing)] + [(0, 0)] * (samples.ndim - 1))
    return np.asarray(features.encode(padded))[: features.num_steps(length)]
