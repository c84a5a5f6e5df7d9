"""What every autoregressive model of a sequence of steps must offer, and the label conditioning they share.

A model is p(x_t | x_<t, conditioning). `unroll` (training: all steps of a chunk at once) and `step` (generation: one step)
are the same function of time; `tests/test_models.py` holds them equal.
"""

import abc
import dataclasses
import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from jaxgen.core.descriptions import Descriptions
from jaxgen.core.errors import UserError
from jaxgen.data.batches import Batch, Batches
from jaxgen.data.padded import PaddedBatches, Padder, padded_scoring_batches
from jaxgen.data.pipeline import TrainingBatches, scoring_batches
from jaxgen.data.spec import DataSpec
from jaxgen.data.store import Store
from jaxgen.features import FeatureSpec
from jaxgen.models.conditioning import Conditioning
from jaxgen.models.config import ModelConfig
from jaxgen.nn.distributions import Sampling
from jaxgen.nn.heads import SampleHead
from jaxgen.scores.limits import NoteLimits

Carry = Any


class RunState(NamedTuple):
    """Where generation stands."""

    carry: Carry
    past: jax.Array
    """The last `lookback` steps [B, lookback, ...]."""
    finished: jax.Array
    """Clips that have ended, bool [B]."""


class SequenceModel(nnx.Module):
    """The contract. Shapes: B rows, T steps, P parameters of the output distribution."""

    lookback: int
    labels: tuple[str, ...]
    num_unguided_outputs: ClassVar[int] = 0
    """Last output parameters that guidance does not change: those of where a clip ends. Else some would go on too long."""
    descriptions: ClassVar[Descriptions] = {}
    """Of the figures of `scores`, for people."""

    @abc.abstractmethod
    def init_carry(self, batch_size: int) -> Carry:
        """The carry before the first step of a clip, for `batch_size` rows."""

    @abc.abstractmethod
    def unroll(
        self, x: jax.Array, conditioning: Conditioning, carry: Carry, reset: jax.Array, key: jax.Array | None = None
    ) -> tuple[jax.Array, Carry]:
        """Output parameters float [B, T, P] for x [B, lookback + T, ...] under teacher forcing.

        conditioning: of T steps; label 0 is unknown. reset: bool [B, T], the carry restarts before that step.
        key: draws dropout masks and all other noise of training; None turns every kind of it off.
        """

    def encode_context(self, conditioning: Conditioning, key: jax.Array | None = None) -> Conditioning:
        """Runs once, before `unroll` or the first `step`, on whole clips: here a model computes what depends on a whole context.

        It may replace the values of a context, or put what it makes of one into `aligned`. key: as in `unroll`.
        """
        del key
        return conditioning

    def before_step(self, carry: Carry, conditioning: Conditioning, noise: jax.Array, sampling: Sampling) -> Carry:
        """Runs before `step`, and returns the carry for it. A model that plans several steps at once samples its next plan here,
        from `noise` [B, N], of which `sample` takes the rest.
        """
        del conditioning, noise, sampling
        return carry

    @abc.abstractmethod
    def step(self, x: jax.Array, conditioning: Conditioning, carry: Carry) -> tuple[jax.Array, Carry]:
        """Output parameters [B, P] of the next step, for the last `lookback` steps x [B, lookback, ...]."""

    @abc.abstractmethod
    def log_prob(self, outputs: jax.Array, target: jax.Array, end: jax.Array) -> jax.Array:
        """Log-likelihood in nats [...] of the steps `target` [..., *step_shape]; end: bool [...], the clip ends here."""

    @abc.abstractmethod
    def scores(self, outputs: jax.Array, target: jax.Array, end: jax.Array) -> dict[str, jax.Array]:
        """Unit-bearing figures per step, [...] each: `loss` (nats) and the model's own."""

    @abc.abstractmethod
    def noise(self, key: jax.Array) -> jax.Array:
        """The random numbers that one step of one row takes, float32 [N]; generation draws them ahead of its loop."""

    @abc.abstractmethod
    def sample(self, outputs: jax.Array, noise: jax.Array, sampling: Sampling) -> tuple[jax.Array, jax.Array]:
        """The next step [..., *step_shape] that `noise` [..., N] picks, and whether the clip ends with it, bool [...]."""

    def free_run(
        self, state: RunState, conditioning: Conditioning, noise: jax.Array, sampling: Sampling, silence: jax.Array
    ) -> tuple[RunState, jax.Array, jax.Array]:
        """T steps from the model's own samples: (state, steps [B, T, ...], where clips end bool [B, T]).

        conditioning: labels of one step, int32 [B] each, and aligned values of T steps. noise: [B, T, N] of `noise`.
        silence: the step that follows the end of a clip. With guidance rows are pairs of one clip, with and without its
        labels, and stay alike.
        """

        def advance(state: RunState, now: tuple[Any, jax.Array]) -> tuple[RunState, tuple[jax.Array, jax.Array]]:
            aligned, noise = now
            here = dataclasses.replace(conditioning, aligned=aligned)
            carry = self.before_step(state.carry, here, noise, sampling)
            outputs, carry = self.step(state.past, here, carry)
            outputs = apply_guidance(outputs, sampling.guidance, self.num_unguided_outputs)
            step, ends = self.sample(outputs, noise, sampling)
            step = jnp.where(state.finished.reshape(-1, *[1] * silence.ndim), silence, step)
            past = jnp.concatenate([state.past[:, 1:], step[:, None]], axis=1)
            return RunState(carry, past, state.finished | ends), (step, ends & ~state.finished)

        by_time = jax.tree.map(lambda array: jnp.swapaxes(array, 0, 1), (dict(conditioning.aligned), noise))
        state, (steps, ends) = jax.lax.scan(advance, state, by_time)
        return state, jnp.swapaxes(steps, 0, 1), jnp.swapaxes(ends, 0, 1)

    def uses_all_cores(self, sampling: Sampling) -> bool:
        """Whether `free_run` shares its work among the cores of a CPU; otherwise rows are spread over devices."""
        del sampling
        return False

    @abc.abstractmethod
    def predict(self, outputs: jax.Array) -> jax.Array:
        """The step [..., *step_shape] that the model would name if it had to: the mean of frames, the mode of codes."""


class SampleSequenceModel(SequenceModel):
    """A model of samples: integer codes, scored and drawn by its head. It has no opinion on where a clip ends."""

    head: SampleHead
    descriptions = SampleHead.descriptions

    def log_prob(self, outputs: jax.Array, target: jax.Array, end: jax.Array) -> jax.Array:
        del end
        return self.head.log_prob(outputs, target)

    def scores(self, outputs: jax.Array, target: jax.Array, end: jax.Array) -> dict[str, jax.Array]:
        del end
        return self.head.scores(outputs, target)

    def noise(self, key: jax.Array) -> jax.Array:
        return self.head.noise(key)

    def sample(self, outputs: jax.Array, noise: jax.Array, sampling: Sampling) -> tuple[jax.Array, jax.Array]:
        codes = self.head.sample(outputs, noise, sampling)
        return codes, jnp.zeros(codes.shape, bool)

    def predict(self, outputs: jax.Array) -> jax.Array:
        return self.head.predict(outputs)


class SequenceConfig(ModelConfig):
    """Base of the frozen dataclasses that configure a model of a sequence and build it."""

    if TYPE_CHECKING:  # fields or constants of some models; a property here would become a field's default value

        @property
        def label_dropout(self) -> float:
            """Share of clips trained with labels unknown."""

        @property
        def ends_clips(self) -> bool:
            """Whether `sample` says where a clip ends."""

        @property
        def lookback(self) -> int:
            """Past steps that `step` reads."""

        @property
        def aligned_streams(self) -> tuple[str, ...]:
            """Names of the streams of which the model reads one value a step."""

        @property
        def context_streams(self) -> tuple[str, ...]:
            """Names of the streams that the model reads as a whole; it is trained on whole clips then, which are padded."""
    else:
        aligned_streams = context_streams = ()

    @property
    def streams(self) -> tuple[str, ...]:
        """Names of all streams that the model reads."""
        return (*self.aligned_streams, *self.context_streams)

    @property
    def supports_guidance(self) -> bool:
        """Whether the model can be run with and without its labels, which guidance needs."""
        return bool(self.labels) and self.label_dropout > 0

    @property
    def plans_voices(self) -> bool:
        """Whether the model plans how periodic the next samples are, which `Sampling.voiced_sharpness` needs."""
        return False

    def check_limits(self, limits: NoteLimits, features: FeatureSpec) -> None:
        """Raises UserError for limits of notes that the model cannot keep."""
        del features
        if limits:
            raise UserError("the model draws sound and no notes; leave out --range, --no-crossing and --key.")

    @property
    def stride(self) -> int:
        """Steps that advance together: clips start, and chunks are cut, at multiples of it."""
        return 1

    def training_batches(
        self,
        store: Store,
        data: DataSpec,
        *,
        batch_size: int,
        seq_len: int,
        seed: int,
        rows: Sequence[int] | None = None,
    ) -> Batches:
        """What the model is trained on: streams of clips, or where it reads a context whole clips of up to `seq_len` steps."""
        if self.context_streams:
            padder = self._padder(store, data)
            return PaddedBatches(padder, batch_size=batch_size, longest=seq_len, seed=seed, rows=rows)
        sizes: dict[str, Any] = {"batch_size": batch_size, "lookback": self.lookback, "stride": self.stride}
        return TrainingBatches(
            store, data, self.labels, aligned=self.aligned_streams, seq_len=seq_len, seed=seed, rows=rows, **sizes
        )

    def scoring_batches(
        self, store: Store, data: DataSpec, clips: Sequence[int], *, batch_size: int, seq_len: int
    ) -> Iterator[Batch]:
        """Every step of every clip once."""
        if self.context_streams:
            return padded_scoring_batches(self._padder(store, data), clips, batch_size)
        sizes: dict[str, Any] = {"batch_size": batch_size, "lookback": self.lookback, "stride": self.stride}
        return scoring_batches(store, data, clips, self.labels, aligned=self.aligned_streams, seq_len=seq_len, **sizes)

    def _padder(self, store: Store, data: DataSpec) -> Padder:
        names = self.labels, self.aligned_streams, self.context_streams
        return Padder(store, data, *names, lookback=self.lookback, stride=self.stride)

    def make(self, data: DataSpec, *, dtype: Any, rngs: nnx.Rngs) -> SequenceModel:
        """Builds the module for data of this spec; matrix products run in `dtype`, parameters are float32."""
        raise NotImplementedError


def end_bias(data: DataSpec, samples_per_step: int) -> float:
    """The logit of a clip's end by which a fresh model makes clips of typical length: even odds would end them at once."""
    steps = max(2.0, data.typical_seconds * data.features.sample_rate / samples_per_step)
    return -math.log(steps - 1)


def end_log_prob(logit: jax.Array, end: jax.Array) -> jax.Array:
    """Log probability in nats, float32 [...], that a clip ends with a step, or goes on; end: bool [...]."""
    logit = logit.astype(jnp.float32)
    return jax.nn.log_sigmoid(jnp.where(end, logit, -logit))


def apply_guidance(outputs: jax.Array, guidance: float, num_unguided_outputs: int) -> jax.Array:
    """Outputs [2 B, P] of pairs of rows, with and without labels, further apart by `guidance`, alike for both; the last
    `num_unguided_outputs` of P are what they are with labels."""
    if guidance == 0:
        return outputs
    pairs = outputs.reshape(-1, 2, outputs.shape[-1])
    by = jnp.where(jnp.arange(outputs.shape[-1]) < outputs.shape[-1] - num_unguided_outputs, guidance, 0.0).astype(
        outputs.dtype
    )
    further = pairs[:, :1] + by * (pairs[:, :1] - pairs[:, 1:])
    return jnp.broadcast_to(further, pairs.shape).reshape(outputs.shape)


def concatenate_features(*features: jax.Array | None) -> jax.Array:
    """Concatenates what is there along the last axis."""
    return jnp.concatenate([f for f in features if f is not None], axis=-1)
