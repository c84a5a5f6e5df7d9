"""The base of metrics that know one kind of data; a config names those it wants (`Evaluation.metrics`)."""

from collections.abc import Sequence

import numpy as np


class AudioMetric:
    """A frozen dataclass that scores a set of clips. One new metric is one file with one subclass."""

    def __call__(self, clips: Sequence[np.ndarray], sample_rate: int) -> dict[str, float]:
        """Figures by unit-bearing name; NaN where the clips cannot say. clips: float32 [nsamp] each."""
        raise NotImplementedError
