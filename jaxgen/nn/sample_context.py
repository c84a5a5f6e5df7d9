"""What the network over samples reads of the samples before the next one.

It reads these samples themselves, and, if it is so configured, a linear prediction of the next one. The predictor is fitted
again and again to the latest samples ("backward adaptation", as in LD-CELP, Chen et al. 1992), so that nothing has to be
generated for it. Or it comes with the plan of a `PlannedRNN`.
"""

import abc
import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from jaxgen.audio.companding import compand
from jaxgen.audio.fourier import frame_signal, sliding_windows
from jaxgen.audio.linear_prediction import (
    ORDER,
    Predictor,
    late_window,
    levinson_durbin,
    num_features,
    prediction_features,
)
from jaxgen.core.errors import UserError

_RISE = 0.9  # of the window that a predictor is fitted behind


@dataclasses.dataclass(frozen=True)
class SampleContext(abc.ABC):
    """The contract. Samples are float32, full scale 1.0. The state is what serves for several samples."""

    window: int = 160
    """Past samples that are read, or whose prediction errors are read; best at least a period of the voice."""
    hop = 1
    """Samples that a state serves for."""

    def __post_init__(self) -> None:
        if self.window < 1:
            raise UserError(f"--model.context.window is {self.window}, expected at least 1 sample.")

    @property
    @abc.abstractmethod
    def lookback(self) -> int:
        """Past samples that are needed."""

    @property
    @abc.abstractmethod
    def num_features(self) -> int:
        """Features of a sample."""

    @abc.abstractmethod
    def init(self, batch_size: int) -> Any:
        """A state before the first sample, for `batch_size` rows."""

    @abc.abstractmethod
    def unroll(
        self, samples: jax.Array, num_samples: int, conditioning: Predictor | None = None
    ) -> tuple[jax.Array, Any]:
        """Features [B, num_samples, num_features] of the last of samples [B, at least lookback + num_samples], from those
        before each, with a new state at every `hop`-th; and the last state. conditioning: predictors [B, N, ...] of N
        stretches of as many samples each, where there is a plan.
        """

    @abc.abstractmethod
    def step(
        self, past: jax.Array, state: Any, due: jax.Array, conditioning: Predictor | None = None
    ) -> tuple[jax.Array, Any]:
        """Features [B, num_features] of the sample after `past` [B, at least lookback], and the state they came by. due:
        bool [], whether to compute a new state. conditioning: predictors [B, ...], where there is a plan.
        """


@dataclasses.dataclass(frozen=True)
class Window(SampleContext):
    """The samples themselves, on the mu-law scale."""

    @property
    def lookback(self) -> int:
        return self.window

    @property
    def num_features(self) -> int:
        return self.window

    def init(self, batch_size: int) -> tuple[()]:
        return ()

    def unroll(
        self, samples: jax.Array, num_samples: int, conditioning: Predictor | None = None
    ) -> tuple[jax.Array, tuple[()]]:
        del conditioning
        first = samples.shape[1] - num_samples
        return sliding_windows(compand(samples[:, first - self.window : -1]), self.window), ()

    def step(
        self, past: jax.Array, state: tuple[()], due: jax.Array, conditioning: Predictor | None = None
    ) -> tuple[jax.Array, tuple[()]]:
        del conditioning
        return compand(past[:, -self.window :]), state


@dataclasses.dataclass(frozen=True)
class LinearPrediction(SampleContext):
    """The prediction of a linear predictor that is fitted to the samples before, its errors for these, and the last of
    them."""

    analysis_window: int = 256
    """Samples that a predictor is fitted to."""
    hop: int = 16
    """Samples that it serves for; a divisor of the slowest tier's frame."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.analysis_window < 2 or self.hop < 1:
            raise UserError(
                f"--model.context.analysis-window is {self.analysis_window} and --model.context.hop {self.hop}; expected at "
                "least 2 samples to fit a predictor to, and 1 that it serves for."
            )

    @property
    def lookback(self) -> int:
        return max(self.analysis_window, self.window + ORDER)

    @property
    def num_features(self) -> int:
        return num_features(self.window)

    def init(self, batch_size: int) -> jax.Array:
        return jnp.zeros((batch_size, ORDER))

    def unroll(
        self, samples: jax.Array, num_samples: int, conditioning: Predictor | None = None
    ) -> tuple[jax.Array, jax.Array]:
        del conditioning
        num_blocks, first = num_samples // self.hop, samples.shape[1] - num_samples
        predictors = fit_lpc(
            frame_signal(samples[:, first - self.analysis_window :], self.analysis_window, self.hop, num_blocks)
        )
        return _unroll(samples, num_samples, _without_period(predictors), self.window), predictors[:, -1]

    def step(
        self, past: jax.Array, state: jax.Array, due: jax.Array, conditioning: Predictor | None = None
    ) -> tuple[jax.Array, jax.Array]:
        del conditioning
        state = jax.lax.cond(due, lambda: fit_lpc(past[:, -self.analysis_window :]), lambda: state)
        return _step(past, _without_period(state), self.window), state


@dataclasses.dataclass(frozen=True)
class PlannedPrediction(SampleContext):
    """The prediction of a predictor that comes with the plan of a `PlannedRNN`, its errors for the samples before, and the
    last of these. A model that follows it makes the sound that was planned, whatever the samples before were like.
    """

    @property
    def lookback(self) -> int:
        return self.window + ORDER

    @property
    def num_features(self) -> int:
        return num_features(self.window)

    def init(self, batch_size: int) -> tuple[()]:
        return ()

    def unroll(
        self, samples: jax.Array, num_samples: int, conditioning: Predictor | None = None
    ) -> tuple[jax.Array, tuple[()]]:
        assert conditioning is not None
        return _unroll(samples, num_samples, conditioning, self.window), ()

    def step(
        self, past: jax.Array, state: tuple[()], due: jax.Array, conditioning: Predictor | None = None
    ) -> tuple[jax.Array, tuple[()]]:
        assert conditioning is not None
        return _step(past, conditioning, self.window), state


def _unroll(samples: jax.Array, num_samples: int, predictors: Predictor, window: int) -> jax.Array:
    """Features [B, num_samples, F] of the last samples, by predictors [B, N, ...] of N stretches of them."""
    num_stretches, first = predictors.lag.shape[1], samples.shape[1] - num_samples
    stretch = num_samples // num_stretches
    blocks = frame_signal(samples[:, first - window - ORDER :], window + ORDER + stretch - 1, stretch, num_stretches)
    return prediction_features(blocks, predictors, window).reshape(len(samples), num_samples, -1)


def _step(past: jax.Array, predictor: Predictor, window: int) -> jax.Array:
    """Features [B, F] of the sample after `past`, by predictors [B, ...]."""
    return prediction_features(past[:, -window - ORDER :], predictor, window)[:, 0]


def _without_period(coefficients: jax.Array) -> Predictor:
    none = jnp.zeros(coefficients.shape[:-1])
    return Predictor(coefficients, none + 2, none)


def fit_lpc(past: jax.Array) -> jax.Array:
    """The coefficients [..., ORDER] of a predictor of samples float32 [..., W] by their past, with the least squared error.

    Autocorrelation method (Makhoul 1975), behind a window that rises slowly and falls fast. In silence all are 0.
    """
    length = past.shape[-1]
    spectrum = jnp.fft.rfft(past * late_window(length, _RISE), length + ORDER)
    return levinson_durbin(jnp.fft.irfft(jnp.square(jnp.abs(spectrum)), length + ORDER)[..., : ORDER + 1])
