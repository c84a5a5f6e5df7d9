"""Distances and rates between sounds, from signal statistics alone: no trained network is involved.

Everything here is NumPy on the host: clips have many lengths, and a jitted spectrogram would compile once for each.
"""

import functools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jaxgen.audio import mix_down

Samples = NDArray[np.float32]

FLOOR_DB = -80.0
"""Spectral levels below this (dB, a full-scale sine is 0 dB) count as this: what is inaudible must not decide a score."""

CLIPPED = 0.999
SILENT_DBFS = -60.0

NO_CLIPS = "there are no clips"
"""Why a figure of none is absent."""

EMBEDDING_SECONDS = 0.25
EMBEDDING_COEFFICIENTS = 16
EMBEDDING_SIZE = 3 * EMBEDDING_COEFFICIENTS

FRAME_SECONDS = 0.010
"""Hop of every mel analysis in this module and in `memorisation`."""

_WINDOW_SECONDS = 0.032
_BLOCK_FRAMES = 4096


class Absent(float):
    """A figure that cannot be computed, in place of its value: NaN that knows why."""

    reason: str
    """Completes the sentence "not computed: ..."."""

    def __new__(cls, reason: str) -> "Absent":
        figure = super().__new__(cls, math.nan)
        figure.reason = reason
        return figure


def split_absent(figures: Mapping[str, float]) -> tuple[dict[str, float], dict[str, str]]:
    """The figures without those that are `Absent`, and the reasons of these, by name."""
    absent = {name: value.reason for name, value in figures.items() if isinstance(value, Absent)}
    return {name: value for name, value in figures.items() if name not in absent}, absent


def add_reasons(figures: Mapping[str, float], reason: str) -> dict[str, float]:
    """The figures, those that are not finite as `Absent`, for this reason where they have none."""
    return {
        name: value if math.isfinite(value) or isinstance(value, Absent) else Absent(reason)
        for name, value in figures.items()
    }


def mean(values: Sequence[Any] | NDArray[Any], reason: str) -> float:
    """The mean of figures; `Absent` where one of them is, or for this `reason` where there are none."""
    if not len(values):
        return Absent(reason)
    return next((value for value in values if isinstance(value, Absent)), float(np.mean(values)))


def channel_mean(
    distance: Callable[[Samples, Samples, int], float], reference: Samples, estimate: Samples, sample_rate: int
) -> float:
    """A distance of two sounds [nsamp]; of two of several channels [nsamp, nch] its mean over the channels."""
    if np.ndim(reference) == 1:
        return distance(reference, estimate, sample_rate)
    pairs = zip(reference.T, estimate.T, strict=True)
    return float(np.mean([distance(*pair, sample_rate) for pair in pairs]))


def log_spectral_distance_db(reference: Samples, estimate: Samples, sample_rate: int) -> float:
    """Log-spectral distance in dB (Gray and Markel 1976): 0 for equal magnitudes.

    The root mean square over frequency of the difference of the two levels (dB, floored at `FLOOR_DB`), averaged over
    32 ms Hann frames every 8 ms. Phase does not count.

    reference, estimate: float [nsamp], equal lengths, full scale 1.0, at `sample_rate` Hz.
    Raises ValueError for shapes that differ or samples that are not finite.
    """
    _check_pair(reference, estimate)
    win_length = max(2, round(_WINDOW_SECONDS * sample_rate))
    hop_length = max(1, round(0.008 * sample_rate))
    total, frames = 0.0, 0
    for ours, theirs in zip(
        power_blocks(reference, win_length, hop_length, win_length),
        power_blocks(estimate, win_length, hop_length, win_length),
        strict=True,
    ):
        difference = to_db(ours) - to_db(theirs)
        total += float(np.sqrt(np.mean(difference**2, axis=-1)).sum(dtype=np.float64))
        frames += len(difference)
    return total / frames


def multi_resolution_stft_distance(reference: Samples, estimate: Samples, sample_rate: int) -> float:
    """Multi-resolution STFT distance (the auxiliary loss of Parallel WaveGAN, Yamamoto et al. 2020): unitless.

    Spectral convergence plus the mean absolute difference of natural-log magnitudes, averaged over the paper's three
    resolutions: windows of 25, 50 and 10 ms with hops of 5, 10 and 25/12 ms: at 24 kHz its very sizes, elsewhere carried
    over to `sample_rate`. Magnitudes are floored at `FLOOR_DB`, so silence against silence is 0.

    reference, estimate: float [nsamp], equal lengths, full scale 1.0, at `sample_rate` Hz. Not symmetric.
    Raises ValueError for shapes that differ or samples that are not finite.
    """
    _check_pair(reference, estimate)
    resolutions = ((0.025, 0.005), (0.050, 0.010), (0.010, 0.025 / 12))
    distances = []
    for win_seconds, hop_seconds in resolutions:
        win_length = max(2, round(win_seconds * sample_rate))
        hop_length = max(1, round(hop_seconds * sample_rate))
        n_fft = _power_of_two(win_length * 3 // 2)
        error = energy = log_error = 0.0
        count = 0
        for ours, theirs in zip(
            power_blocks(reference, n_fft, hop_length, win_length),
            power_blocks(estimate, n_fft, hop_length, win_length),
            strict=True,
        ):
            ours, theirs = (np.sqrt(np.maximum(block, 10 ** (FLOOR_DB / 10))) for block in (ours, theirs))
            error += float(np.sum((ours - theirs) ** 2, dtype=np.float64))
            energy += float(np.sum(ours**2, dtype=np.float64))
            log_error += float(np.sum(np.abs(np.log(ours / theirs)), dtype=np.float64))
            count += ours.size
        distances.append(math.sqrt(error / energy) + log_error / count)
    return sum(distances) / len(distances)


def embed(samples: Samples, sample_rate: int) -> NDArray[np.float32]:
    """Describes a clip by the statistics of its mel cepstrum, for `frechet_distance`.

    40 mel bands (dB, floored at `FLOOR_DB`, 32 ms Hann frames every 10 ms) become 16 cepstral coefficients by an
    orthonormal DCT-II scaled so that the first is the mean level in dB. Each window of 0.25 s, every 0.12 s, gives
    [mean of the coefficients, their standard deviation, the standard deviation of their slope per frame], all in dB.
    A shorter clip is padded with silence to one window; a remainder that fills no window is left out.

    samples: float [nsamp], or [nsamp, nch], full scale 1.0. Returns float32 [nwindow, 48], nwindow >= 1.
    Two sets compare only when they were embedded at one `sample_rate`: the bands reach up to half of it.
    """
    from scipy.fft import dct

    samples = pad_to(samples, math.ceil(EMBEDDING_SECONDS * sample_rate))
    levels = log_mel_db(samples, sample_rate, n_mels=40)
    cepstrum = dct(levels, axis=-1, norm="ortho")[:, :EMBEDDING_COEFFICIENTS] / math.sqrt(levels.shape[-1])
    slope = np.gradient(cepstrum, axis=0)
    window = round(EMBEDDING_SECONDS / FRAME_SECONDS)
    values, slopes = (
        np.lib.stride_tricks.sliding_window_view(track, window, axis=0)[:: window // 2] for track in (cepstrum, slope)
    )
    statistics = [values.mean(axis=-1), values.std(axis=-1), slopes.std(axis=-1)]
    return np.concatenate(statistics, axis=-1).astype(np.float32)


def frechet_distance(a: NDArray[np.floating], b: NDArray[np.floating]) -> float:
    """Fréchet distance of two Gaussians fitted to two sets of embeddings (Heusel et al. 2017, eq. 6).

    |mean_a - mean_b|^2 + trace(cov_a + cov_b - 2 (cov_a cov_b)^(1/2)), in squared units of the embedding (dB^2 for
    `embed`); symmetric; 0 for equal sets. The trace of the root is the sum of the singular values of
    cov_a^(1/2) cov_b^(1/2), which holds for singular covariances too.

    a: [n, D], b: [m, D]. `Absent` when a set has fewer than two rows, NaN for one that is not finite. The estimate is
    biased upwards as sets shrink: state the counts, compare only at equal counts, and show `frechet_note` beside it.
    """
    if min(len(a), len(b)) < 2:
        return Absent(f"a Fréchet distance needs at least 2 embeddings on either side, there are {len(a)} and {len(b)}")
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        return math.nan
    (mean_a, root_a, trace_a), (mean_b, root_b, trace_b) = _gaussian(a), _gaussian(b)
    overlap = float(np.linalg.svd(root_a @ root_b, compute_uv=False).sum())
    distance = float(np.sum((mean_a - mean_b) ** 2)) + trace_a + trace_b - 2 * overlap
    return max(0.0, distance)


def frechet_note(a: NDArray[np.floating], b: NDArray[np.floating]) -> str:
    """One line on the sample counts behind `frechet_distance(a, b)`, and on what they cannot support."""
    counts = f"{len(a)} and {len(b)} windows of {a.shape[-1]} dimensions"
    if min(len(a), len(b)) < 2:
        return f"{counts}: too few for a covariance, so there is no distance"
    if min(len(a), len(b)) < a.shape[-1] + 1:
        return f"{counts}: too few for a full covariance; the distance is biased upwards and only indicative"
    return counts


def clipping_rate(samples: Samples) -> float:
    """Share of samples whose magnitude is at least 0.999 of full scale; 0 for an empty clip. samples: float [...]."""
    return float(np.mean(np.abs(samples) >= CLIPPED)) if np.size(samples) else 0.0


def silence_rate(samples: Samples, sample_rate: int) -> float:
    """Share of 20 ms frames whose root mean square is below -60 dBFS (0 dBFS is an RMS of 1.0); 1 for an empty clip.

    samples: float [nsamp] or [nsamp, nch], full scale 1.0. The last frame may be shorter; it counts as one.
    """
    if len(samples) == 0:
        return 1.0
    starts = np.arange(0, len(samples), max(1, round(0.020 * sample_rate)))
    power = np.square(samples, dtype=np.float64).reshape(len(samples), -1).mean(axis=1)
    energy = np.add.reduceat(power, starts)
    counts = np.diff(np.append(starts, len(samples)))
    return float(np.mean(energy / counts < 10 ** (SILENT_DBFS / 10)))


def log_mel_db(samples: Samples, sample_rate: int, n_mels: int, floor_db: float = FLOOR_DB) -> NDArray[np.float32]:
    """Levels in mel bands (Slaney scale, unit-height triangles up to half the rate), dB, floored at `floor_db`.

    samples: float [nsamp], or [nsamp, nch], whose channels are mixed down; full scale 1.0 (a full-scale sine is about 0 dB).
    32 ms Hann frames every 10 ms.
    Returns float32 [1 + nsamp // hop_length, n_mels].
    """
    win_length = max(2, round(_WINDOW_SECONDS * sample_rate))
    n_fft = 2 * _power_of_two(win_length)  # zero-padded, so that the narrow low bands hold at least one bin
    bank = _mel_bank(sample_rate, n_fft, win_length, n_mels)
    hop_length = mel_hop_length(sample_rate)
    return np.concatenate(
        [to_db(power @ bank, floor_db) for power in power_blocks(mix_down(samples), n_fft, hop_length, win_length)]
    )


def mel_hop_length(sample_rate: int) -> int:
    """Samples between the frames of `log_mel_db`: `FRAME_SECONDS`, rounded."""
    return max(1, round(FRAME_SECONDS * sample_rate))


def power_blocks(samples: Samples, n_fft: int, hop_length: int, win_length: int) -> Iterator[NDArray[np.float32]]:
    """Power spectrogram in blocks of frames, so that an hour of audio needs no more memory than a minute.

    Frames are centred on multiples of `hop_length`, the ends padded with silence; a full-scale sine has power 1.
    Yields float32 [up to 4096, 1 + n_fft // 2]; 1 + nsamp // hop_length frames in all.
    Raises ValueError for samples that are not a finite vector.
    """
    if np.ndim(samples) != 1:
        raise ValueError(f"expected samples of shape [nsamp], got shape {np.shape(samples)}")
    window = _hann(win_length)
    window = (window / (window.sum() / 2)).astype(np.float32)
    num_frames = 1 + len(samples) // hop_length
    for first in range(0, num_frames, _BLOCK_FRAMES):
        count = min(_BLOCK_FRAMES, num_frames - first)
        start = first * hop_length - win_length // 2
        stop = start + (count - 1) * hop_length + win_length
        seen = np.asarray(samples[max(0, start) : stop], np.float32)
        if not np.isfinite(seen).all():
            raise ValueError("expected finite samples")
        padded = np.pad(seen, (max(0, -start), stop - max(0, start) - len(seen)))
        frames = np.lib.stride_tricks.sliding_window_view(padded, win_length)[::hop_length]
        spectrum = np.fft.rfft(frames * window, n_fft)
        yield (spectrum.real**2 + spectrum.imag**2).astype(np.float32, copy=False)


def pad_to(samples: Samples, length: int) -> Samples:
    """The samples, with silence after them where they are fewer than `length`."""
    missing = max(0, length - len(samples))
    return np.pad(samples, [(0, missing)] + [(0, 0)] * (np.ndim(samples) - 1)) if missing else samples


def to_db(power: NDArray[np.floating], floor_db: float = FLOOR_DB) -> NDArray[np.float32]:
    """10 log10 of power, floored at `floor_db`."""
    return (10 * np.log10(np.maximum(power, 10 ** (floor_db / 10)))).astype(np.float32)


@functools.lru_cache(maxsize=8)
def _mel_bank(sample_rate: int, n_fft: int, win_length: int, n_mels: int) -> NDArray[np.float32]:
    import librosa

    bank: NDArray[np.float32] = librosa.filters.mel(sr=sample_rate, n_fft=n_fft, n_mels=n_mels, norm=None)
    window = _hann(win_length)
    bins_of_a_sine = n_fft * np.sum(window**2) / window.sum() ** 2  # a sine's power stands in so many bins at once
    return np.ascontiguousarray(bank.T / np.float32(bins_of_a_sine))


def _hann(length: int) -> NDArray[np.float64]:
    return np.hanning(length + 1)[:-1]


def _gaussian(rows: NDArray[np.floating]) -> tuple[NDArray[np.float64], NDArray[np.float64], float]:
    """Mean [D], symmetric root of the covariance [D, D], and the covariance's trace."""
    rows = np.asarray(rows, np.float64)
    covariance = np.atleast_2d(np.cov(rows, rowvar=False))
    values, vectors = np.linalg.eigh(covariance)
    root = (vectors * np.sqrt(np.maximum(values, 0.0))) @ vectors.T
    return rows.mean(axis=0), root, float(np.trace(covariance))


def _power_of_two(length: int) -> int:
    return 1 << (length - 1).bit_length()


def _check_pair(reference: Samples, estimate: Samples) -> None:
    if np.shape(reference) != np.shape(estimate) or np.ndim(reference) != 1:
        raise ValueError(f"expected two vectors of one length, got {np.shape(reference)} and {np.shape(estimate)}")
