"""How two channels go together: by how much one is louder, and how alike they are."""

import math
from collections.abc import Sequence

import numpy as np

from jaxgen.core.descriptions import Better, Description, Descriptions
from jaxgen.evaluation.metrics import Absent, Samples, mean

CLIP_DESCRIPTIONS: Descriptions = {
    "channel_correlation": Description(
        "Correlation of left and right", "1 where they are alike but for their level.", "", Better.LIKE_RECORDINGS
    ),
    "channel_level_difference_db": Description(
        "Level, left against right", "Mean size of the difference.", "dB", Better.LIKE_RECORDINGS
    ),
}
"""Of the figures of `describe_stereo`."""

ERROR_DESCRIPTIONS: Descriptions = {
    "channel_correlation_error": Description(
        "Correlation of left and right, error", "Mean distance from the recording's.", "", Better.LOWER
    ),
    "channel_level_difference_error_db": Description(
        "Level, left against right, error", "Mean distance from the recording's.", "dB", Better.LOWER
    ),
}
"""Of the figures of `stereo_errors`."""

_SILENT = 1e-9  # power of a channel, -90 dB
_NO_STEREO = "a channel of each clip is silent"


def channel_correlation(samples: Samples) -> float:
    """Correlation of left and right, -1 to 1: 1 where they are alike but for their level. samples: float [nsamp, 2].

    `Absent` where a channel is silent.
    """
    left, right = np.asarray(samples, np.float64).T
    power = np.sum(left**2), np.sum(right**2)
    if min(power) <= _SILENT * len(samples):
        return Absent("a channel is silent")
    return float(np.sum(left * right) / math.sqrt(power[0] * power[1]))


def level_difference_db(samples: Samples) -> float:
    """How much louder the left channel is than the right one, in dB; a silent one counts as -90 dB. samples: float [nsamp, 2]."""
    power = np.mean(np.square(samples, dtype=np.float64), axis=0) + _SILENT
    return float(10 * np.log10(power[0] / power[1]))


def describe_stereo(clips: Sequence[Samples]) -> dict[str, float]:
    """Means over stereo clips [nsamp, 2] of their correlation, and of the size of their difference in level; nothing for
    mono.
    """
    if not clips or clips[0].ndim == 1:
        return {}
    return {
        "channel_correlation": _known_mean([channel_correlation(clip) for clip in clips if len(clip)]),
        "channel_level_difference_db": _known_mean([abs(level_difference_db(clip)) for clip in clips if len(clip)]),
    }


def stereo_errors(pairs: Sequence[tuple[Samples, Samples]]) -> dict[str, float]:
    """Means over recordings and their copies [nsamp, 2] of how far correlation and difference in level are off; nothing for
    mono.
    """
    if not pairs or pairs[0][0].ndim == 1:
        return {}
    return {
        "channel_correlation_error": _known_mean(
            [abs(channel_correlation(copy) - channel_correlation(real)) for real, copy in pairs]
        ),
        "channel_level_difference_error_db": _known_mean(
            [abs(level_difference_db(copy) - level_difference_db(real)) for real, copy in pairs]
        ),
    }


def _known_mean(values: Sequence[float]) -> float:
    return mean([value for value in values if math.isfinite(value)], _NO_STEREO)
