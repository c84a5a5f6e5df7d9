"""Whether clips are melodies: notes of a known scale, played in time. For data with one voice, such as `PluckedStrings`."""

import dataclasses
import math
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from jaxgen.core.descriptions import SHARE, Better, Description, Descriptions
from jaxgen.core.errors import UserError
from jaxgen.evaluation.audio_metric import AudioMetric, ClipSet, Measure, Reference
from jaxgen.evaluation.metrics import FRAME_SECONDS, Absent, log_mel_db, mean

Values = NDArray[np.float64]

_WINDOW_SECONDS = 0.025  # compared with itself one period later
_FINE_RATE = 32_000  # Hz at which periods are measured: a high note has only six samples at 8 kHz
_DIP = 0.15  # the first period that repeats this well is taken, lest it be a multiple (step 4 of YIN)
_APERIODIC = 0.3  # above this a frame has no pitch
_QUIET_DB = -40.0  # frames this far below the clip's loudest have no pitch
_SILENT_RMS = 1e-3

_RISE_DB = 3.0  # mean rise of the mel bands, above its median nearby, that counts as an onset
_NEARBY_SECONDS = 0.100
_ONSET_GAP_SECONDS = 0.050
_GRID_HZ = (2.0, 10.0)  # tempo grids that are tried
_FEWEST_ONSETS = 5


@dataclasses.dataclass(frozen=True)
class Melody(AudioMetric):
    """Shares of frames with a pitch and with a pitch of the scale, and how regular the onsets of notes are."""

    descriptions: ClassVar[Descriptions] = {
        "voiced_share": Description(
            "Frames with a pitch", "Share of all frames of 10 ms.", SHARE, Better.LIKE_RECORDINGS
        ),
        "in_scale_share": Description(
            "Pitches in the scale",
            "Share of the frames with a pitch that are near a note of the scale, in any octave.",
            SHARE,
            Better.HIGHER,
            importance=4,
        ),
        "in_scale_chance": Description(
            "random pitches", "What random pitches would score.", SHARE, reference_of="in_scale_share"
        ),
        "onset_regularity": Description(
            "Regularity of onsets",
            "Whether notes begin on a grid in time, of clips with at least 5.",
            "",
            Better.HIGHER,
            importance=4,
            reference="1 on a grid, about 0 at random",
        ),
        "onsets_per_second": Description(
            "Onsets", "Beginnings of notes, of all clips together.", "per second", Better.LIKE_RECORDINGS
        ),
    }

    scale_hz: tuple[float, ...]
    """Notes of the scale in Hz; their octaves belong to it. Pitches are sought from half an octave below the lowest to
    half an octave above the highest."""
    tolerance_cents: float = 50.0
    """How far from a note a pitch may lie; 100 cents are a semitone."""

    def __post_init__(self) -> None:
        if not self.scale_hz or min(self.scale_hz) <= 0:
            raise UserError(f"scale_hz is {self.scale_hz}; Melody needs at least one frequency, all above 0 Hz.")
        if not 0 < self.tolerance_cents <= 600:
            raise UserError(f"tolerance_cents is {self.tolerance_cents}; Melody needs above 0 and at most 600.")

    def prepare(self, reference: Reference) -> Measure:
        return self

    def __call__(self, clips: ClipSet) -> dict[str, float]:
        lowest, highest = min(self.scale_hz) / math.sqrt(2), max(self.scale_hz) * math.sqrt(2)
        pitches = [track_pitch(clip, clips.sample_rate, lowest, highest) for clip in clips.samples]
        onsets = [onset_seconds(clip, clips.sample_rate) for clip in clips.samples]
        frames = np.concatenate([*pitches, np.zeros(0)])
        voiced = frames[np.isfinite(frames)]
        regularities = np.array([grid_regularity(times) for times in onsets])
        known = regularities[np.isfinite(regularities)]
        seconds = sum(len(clip) for clip in clips.samples) / clips.sample_rate
        octave = 2 ** (np.arange(12_000) / 12_000)
        return {
            "voiced_share": mean(np.isfinite(frames), "all clips are too short"),
            "in_scale_share": mean(self._in_scale(voiced), "nothing has a pitch"),
            "in_scale_chance": float(self._in_scale(octave).mean()),
            "onset_regularity": mean(known, f"no clip has {_FEWEST_ONSETS} onsets that chance does not explain"),
            "onsets_per_second": sum(map(len, onsets)) / seconds if seconds else Absent("all clips are empty"),
        }

    def _in_scale(self, pitches: Values) -> NDArray[np.bool_]:
        cents = 1200 * np.log2(pitches[:, None] / np.array(self.scale_hz))
        return np.any(np.abs((cents + 600) % 1200 - 600) <= self.tolerance_cents, axis=1)


def track_pitch(samples: np.ndarray, sample_rate: int, lowest: float, highest: float) -> Values:
    """Fundamental frequency in Hz every 10 ms by YIN (de Cheveigne & Kawahara 2002, steps 1 to 5); NaN without a pitch.

    samples: float32 [nsamp], full scale 1.0. lowest, highest: Hz, the range of the search.
    Returns float64 [nframe], nframe = the number of whole frames of 25 ms and one longest period; may be 0.
    """
    from scipy.signal import resample_poly

    up = max(1, round(_FINE_RATE / sample_rate))
    rate = sample_rate * up
    fine = resample_poly(samples.astype(np.float64), up, 1) if up > 1 else samples.astype(np.float64)
    window, shortest, longest = round(_WINDOW_SECONDS * rate), int(rate / highest), math.ceil(rate / lowest)
    size = window + longest + 1
    if len(fine) < size:
        return np.zeros(0)
    frames = np.lib.stride_tricks.sliding_window_view(fine, size)[:: round(FRAME_SECONDS * rate)]

    difference = _difference(frames, window)
    lags = np.arange(1, longest + 2)
    running = np.maximum(np.cumsum(difference[:, 1:], axis=1), 1e-12)
    normalised = np.concatenate([np.ones((len(frames), 1)), difference[:, 1:] * lags / running], axis=1)
    left, middle, right = normalised[:, :-2], normalised[:, 1:-1], normalised[:, 2:]
    dips = np.where((middle < left) & (middle <= right), middle, np.inf)
    dips[:, : max(0, shortest - 1)] = np.inf
    good = dips < _DIP
    place = np.where(good.any(axis=1), good.argmax(axis=1), dips.argmin(axis=1))

    rows = np.arange(len(frames))
    before, at, after = left[rows, place], middle[rows, place], right[rows, place]
    curvature = before - 2 * at + after
    shift = np.where(curvature > 0, (before - after) / (2 * np.where(curvature > 0, curvature, 1)), 0.0)
    level = np.sqrt(np.mean(frames[:, :window] ** 2, axis=1))
    audible = level > max(_SILENT_RMS, level.max() * 10 ** (_QUIET_DB / 20))
    pitched = audible & (dips[rows, place] < _APERIODIC)
    return np.where(pitched, rate / (place + 1 + shift), math.nan)


def onset_seconds(samples: np.ndarray, sample_rate: int) -> Values:
    """Times in seconds, ascending, at which the mel spectrum rises, at least 50 ms apart.

    Peaks of the spectral flux in dB above its moving median (Bello et al. 2005, sections III.B and III.D).
    samples: float32 [nsamp], full scale 1.0.
    """
    if len(samples) < _ONSET_GAP_SECONDS * sample_rate:
        return np.zeros(0)
    levels = log_mel_db(np.asarray(samples, np.float32), sample_rate, n_mels=40)
    levels = np.maximum(levels, levels.max() + _QUIET_DB).astype(np.float64)
    levels = np.concatenate([np.repeat(levels.min(keepdims=True), 40, axis=1), levels])  # silence comes before a clip
    levels = np.concatenate([levels[:1], levels])
    rise = np.maximum(levels[2:] - levels[:-2], 0.0).mean(axis=1)
    reach = round(_ONSET_GAP_SECONDS / FRAME_SECONDS)
    highest = _around(rise, reach).max(axis=1)
    usual = np.median(_around(rise, round(_NEARBY_SECONDS / FRAME_SECONDS)), axis=1)
    peaks = np.flatnonzero((rise == highest) & (rise > usual + _RISE_DB))
    return peaks[np.diff(peaks, prepend=-reach) >= reach].astype(np.float64) * FRAME_SECONDS


def grid_regularity(times: Values) -> float:
    """Vector strength (Goldberg & Brown 1969) of onset times on the grid that suits them best, less what chance gives.

    r^2 = |mean exp(2 pi i f t)|^2 is the share of a Rayleigh test, the largest over grids of 2 to 10 Hz. Among m
    independent grids random times reach about c = (ln m + 0.577) / n, so the result is sqrt((r^2 - c) / (1 - c)), at
    least 0: 1 for times exactly on a grid however few they are, near 0 for random ones.

    times: seconds [n]. NaN for fewer than five onsets, or where chance alone could give 1.
    """
    span = float(np.ptp(times)) if len(times) else 0.0
    grids = max(1.0, (_GRID_HZ[1] - _GRID_HZ[0]) * span)
    chance = (math.log(grids) + 0.577) / max(1, len(times))
    if len(times) < _FEWEST_ONSETS or chance >= 1:
        return math.nan
    tried = np.linspace(*_GRID_HZ, num=math.ceil(8 * grids))
    strength = np.abs(np.exp(2j * math.pi * np.outer(tried, times)).mean(axis=1)).max()
    return math.sqrt(max(0.0, (float(strength) ** 2 - chance) / (1 - chance)))


def _around(values: Values, reach: int) -> Values:
    """[n] to [n, 2 * reach + 1]: each value among its neighbours, zeros beyond the ends."""
    return np.lib.stride_tricks.sliding_window_view(np.pad(values, reach), 2 * reach + 1)


def _difference(frames: Values, window: int) -> Values:
    """Sum over j < window of (x[j] - x[j + lag])^2 for every lag: [nframe, size] to [nframe, size - window + 1]."""
    lags = frames.shape[1] - window + 1
    length = 1 << (frames.shape[1] - 1).bit_length()
    ahead = np.fft.rfft(frames, length)
    products = np.fft.irfft(ahead * np.fft.rfft(frames[:, :window], length).conj(), length)[:, :lags]
    summed = np.cumsum(np.pad(frames**2, ((0, 0), (1, 0))), axis=1)
    energies = summed[:, window:] - summed[:, :lags]
    return np.maximum(energies[:, :1] + energies - 2 * products, 0.0)
