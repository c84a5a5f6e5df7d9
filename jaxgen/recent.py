"""What the network over samples reads of the samples before the next one.

Either these samples themselves, or, too, what a linear predictor, fitted again and again to the samples just heard, expects.
Speech is nearly linear over a few milliseconds: a few coefficients explain most of a sample, so that a network need only
learn what is left (LPCNet, Valin and Skoglund 2019). They are fitted to past samples alone ("backward adaptation", as in
LD-CELP, Chen et al. 1992): nothing need be told or generated for them.
"""

import abc
import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen.errors import UserError
from jaxgen.features.fourier import framed
from jaxgen.features.mu_law import compand

ORDER = 16
"""Coefficients of a predictor, that of the last sample first."""
_PLACES = 64  # of the mu-law scale, between which an expectation lies


@dataclasses.dataclass(frozen=True)
class Recent(abc.ABC):
    """The contract. Samples are float32, full scale 1.0; the state is what serves for several samples."""

    window: int = 160
    """Past samples that are read, or of which is read how far the predictor was off; a period of the voice is worth
    having."""
    hop = 1
    """Samples that a state serves for."""

    def __post_init__(self) -> None:
        if self.window < 1:
            raise UserError(f"--model.recent.window is {self.window}, expected at least 1 sample.")

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
    def over(self, samples: jax.Array, num_samples: int) -> tuple[jax.Array, Any]:
        """Features [B, num_samples, num_features] of the last of samples [B, at least lookback + num_samples], from those
        before each, with a new state at every `hop`-th; and the last state.
        """

    @abc.abstractmethod
    def next(self, past: jax.Array, state: Any, due: jax.Array) -> tuple[jax.Array, Any]:
        """Features [B, num_features] of the sample after `past` [B, at least lookback], and the state they came by; due:
        bool [], whether the state is to be a new one.
        """


@dataclasses.dataclass(frozen=True)
class Window(Recent):
    """The samples themselves, on the mu-law scale."""

    @property
    def lookback(self) -> int:
        return self.window

    @property
    def num_features(self) -> int:
        return self.window

    def init(self, batch_size: int) -> tuple[()]:
        return ()

    def over(self, samples: jax.Array, num_samples: int) -> tuple[jax.Array, tuple[()]]:
        first = samples.shape[1] - num_samples
        return framed(compand(samples[:, first - self.window : -1]), self.window, 1, num_samples), ()

    def next(self, past: jax.Array, state: tuple[()], due: jax.Array) -> tuple[jax.Array, tuple[()]]:
        return compand(past[:, -self.window :]), state


@dataclasses.dataclass(frozen=True)
class LinearPrediction(Recent):
    """What a linear predictor expects, how far it was off for the samples before, and the last of these."""

    fitted_to: int = 256
    """Samples that a predictor is fitted to."""
    hop: int = 16
    """Samples that it serves for; a divisor of the slowest tier's frame."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.fitted_to < 2 or self.hop < 1:
            raise UserError(
                f"--model.recent.fitted-to is {self.fitted_to} and --model.recent.hop {self.hop}; expected at least 2 samples "
                "to fit a predictor to, and 1 that it serves for."
            )

    @property
    def lookback(self) -> int:
        return max(self.fitted_to, self._reach)

    @property
    def num_features(self) -> int:
        return _PLACES + self.window + ORDER

    @property
    def _reach(self) -> int:
        return self.window + ORDER

    def init(self, batch_size: int) -> jax.Array:
        return jnp.zeros((batch_size, ORDER))

    def over(self, samples: jax.Array, num_samples: int) -> tuple[jax.Array, jax.Array]:
        num_blocks, first = num_samples // self.hop, samples.shape[1] - num_samples
        predictors = fitted(framed(samples[:, first - self.fitted_to :], self.fitted_to, self.hop, num_blocks))
        blocks = framed(samples[:, first - self._reach :], self._reach + self.hop - 1, self.hop, num_blocks)
        features = self._features(blocks, predictors)
        return features.reshape(len(samples), num_samples, self.num_features), predictors[:, -1]

    def next(self, past: jax.Array, state: jax.Array, due: jax.Array) -> tuple[jax.Array, jax.Array]:
        state = jax.lax.cond(due, lambda: fitted(past[:, -self.fitted_to :]), lambda: state)
        return self._features(past[:, -self._reach :], state)[:, 0], state

    def _features(self, samples: jax.Array, predictor: jax.Array) -> jax.Array:
        """Features [..., n, num_features] of n samples in a row, of which `samples` [..., reach + n - 1] lacks only the last:
        where on the mu-law scale each is expected, as shares of the two places next to it; how far the expectations of
        the samples before were off; the last samples themselves.
        """
        num_samples = samples.shape[-1] - self._reach + 1
        terms = [predictor[..., i : i + 1] * samples[..., ORDER - 1 - i :] for i in range(ORDER)]
        expected = jnp.clip(sum(term[..., : self.window + num_samples] for term in terms), -1, 1)
        place = (compand(expected[..., self.window :]) + 1) * ((_PLACES - 1) / 2)
        near = jax.nn.relu(1 - jnp.abs(place[..., None] - jnp.arange(_PLACES)))
        errors = compand(samples[..., ORDER:] - expected[..., :-1])
        last = compand(samples[..., self.window :])
        before = (framed(each, n, 1, num_samples) for each, n in ((errors, self.window), (last, ORDER)))
        return jnp.concatenate([near, *before], axis=-1)


def fitted(past: jax.Array) -> jax.Array:
    """The predictors [..., ORDER] of samples float32 [..., W] by their past, with the least squared error.

    Autocorrelation method, Levinson-Durbin recursion (Makhoul 1975), behind a window that rises slowly and falls fast, so
    that what was heard last counts. In silence all coefficients are 0.
    """
    length = past.shape[-1]
    spectrum = jnp.fft.rfft(past * _window(length), length + ORDER)
    correlation = jnp.fft.irfft(jnp.square(jnp.abs(spectrum)), length + ORDER)[..., : ORDER + 1]
    error = correlation[..., 0] * 1.0001 + 1e-6  # noise far below what is heard, lest the fit be ill-posed
    predictor = jnp.zeros((*past.shape[:-1], 0))
    for lag in range(1, ORDER + 1):
        explained = (predictor * correlation[..., lag - 1 : 0 : -1]).sum(axis=-1)
        reflection = ((correlation[..., lag] - explained) / error)[..., None]
        predictor = jnp.concatenate([predictor - reflection * predictor[..., ::-1], reflection], axis=-1)
        error = error * (1 - jnp.square(reflection[..., 0]))
    return predictor


@functools.lru_cache
def _window(length: int) -> np.ndarray:
    """Float32 [length]: nine tenths of a sine that rises, one of a cosine that falls."""
    rise = max(1, round(0.9 * length))
    fall = length - rise
    up = np.sin(np.pi / 2 * (np.arange(rise) + 0.5) / rise)
    down = np.cos(np.pi / 2 * (np.arange(fall) + 0.5) / max(1, fall))
    return np.concatenate([up, down]).astype(np.float32)
