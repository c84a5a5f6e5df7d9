"""Frames of sound first, then their samples: a MelRNN samples the next frame, a SampleRNN the samples in it.

A sample follows nearly from those just before it, so a model of samples alone learns the word last, if at all. Here the word
has a likelihood of its own: that of frames of the samples to come (`SourceFilter`). The samples are conditioned on the frame,
and on the prediction of each sample that follows from it. Nothing has to be annotated. Two models make speech of text like
this (Shen et al. 2018); here they are one, and trained at once.
"""

import contextlib
import dataclasses
import math
from collections.abc import Iterator
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import nnx

from jaxgen.audio.companding import compand, expand
from jaxgen.core.descriptions import Better, Description, Descriptions
from jaxgen.core.errors import UserError
from jaxgen.core.numerics import random_key
from jaxgen.data.spec import DataSpec
from jaxgen.features import SampleSpec
from jaxgen.features.source_filter import SourceFilter
from jaxgen.models.conditioning import Conditioning
from jaxgen.models.mel_rnn import FrameScale, MelModule, MelRNN
from jaxgen.models.sample_rnn import FrameConditioning, SampleRNN
from jaxgen.models.sequence import (
    Carry,
    SequenceConfig,
    SequenceModel,
    apply_guidance,
    concatenate_features,
    end_log_prob,
)
from jaxgen.nn.distributions import Sampling
from jaxgen.nn.sample_context import PlannedPrediction


@dataclasses.dataclass(frozen=True)
class PlannedRNN(SequenceConfig):
    """A model of frames, and one of the samples of each."""

    frames: SourceFilter = SourceFilter()
    """What is planned of the samples to come."""
    plan: MelRNN = MelRNN()
    """The model of frames; it says where a clip ends."""
    samples: SampleRNN = SampleRNN(frame_sizes=(80,), context=PlannedPrediction())
    """The model of samples. Its slowest tier reads the frame, its network over samples the prediction from the frame."""
    conditioning_noise: float = 0.1
    """Deviation of the noise that training adds to the conditioning, in deviations of the frames: frames that are drawn are
    never quite like recorded ones."""
    past_noise: float = 0.008
    """Deviation of the noise that training adds to the past samples on the mu-law scale, where 0.0078 is one of 256 codes: the
    model learns not to hand on the noise of what it drew."""

    ends_clips = True

    def __post_init__(self) -> None:
        if not (0 <= self.conditioning_noise < math.inf and 0 <= self.past_noise < math.inf):
            raise UserError(
                f"--model.conditioning-noise is {self.conditioning_noise} and --model.past-noise {self.past_noise}, "
                "expected deviations of at least 0."
            )
        if self.stride % self.samples.stride:
            raise UserError(
                f"--model.frames.mel.hop-length and stack plan {self.stride} samples at once, which is no whole number of "
                f"--model.samples.frame-sizes {self.samples.stride}."
            )
        if (
            isinstance(self.samples.context, PlannedPrediction)
            and self.samples.context.window <= self.frames.longest_period
        ):
            raise UserError(
                f"--model.samples.context.window is {self.samples.context.window}, but a period of the voice may have "
                f"{self.frames.longest_period} samples; make it at least {self.frames.longest_period + 1}, or raise "
                "--model.frames.lowest."
            )
        if unplanned := set(self.samples.labels) - set(self.plan.labels):
            raise UserError(
                f"--model.samples.labels has '{min(unplanned)}', which --model.plan.labels has not; the plan must know what "
                "its samples are to be."
            )

    @property
    def labels(self) -> tuple[str, ...]:
        return self.plan.labels

    @property
    def label_dropout(self) -> float:
        both = (self.plan.label_dropout, self.samples.label_dropout)
        return min(both) if self.samples.labels else both[0]

    @property
    def plans_voices(self) -> bool:
        return True

    @property
    def stride(self) -> int:
        return self.frames.num_samples

    @property
    def lookback(self) -> int:
        return max(self.samples.lookback, self.frames.lookback + self.stride)

    def make(self, data: DataSpec, *, dtype: Any = jnp.float32, rngs: nnx.Rngs) -> "PlannedModule":
        """Raises UserError where the features are not samples, or of another sample rate than the frames."""
        features = data.features
        if not isinstance(features, SampleSpec):
            raise UserError(
                f"PlannedRNN models samples, but the features are {type(features).__name__}; use MuLaw or Pcm16 features, or "
                "MelRNN for frames."
            )
        if features.sample_rate != self.frames.mel.sample_rate:
            raise UserError(
                f"--model.frames.mel.sample-rate is {self.frames.mel.sample_rate} Hz, but the samples have "
                f"{features.sample_rate} Hz; set it to the latter, and the other sizes of --model.frames.mel to fit."
            )
        return PlannedModule(self, data, features, dtype, rngs)


class PlannedModule(SequenceModel):
    """The module that `PlannedRNN` configures. Steps are integer codes; outputs are those of the model of samples, how much
    of a period is there again in the next, for the first sample of a frame the log-likelihood of the frame in nats (0 for
    others), and the logit of the clip's end.

    The carry holds those of both models and, for `step` alone, the frame that is being filled, what it lets expect, its
    log-likelihood and the logit of the clip's end within it.
    """

    descriptions: ClassVar[Descriptions] = {
        "loss": Description(
            "Training loss", "What training lowers, of a sample: of the plan and of the sample.", "nats", Better.LOWER
        ),
        "nats_per_frame": Description(
            "NLL of the plan",
            "How surprised the model is by the next frame that is planned.",
            "nats/frame",
            Better.LOWER,
            importance=5,
        ),
        "conditional_bits_per_sample": Description(
            "NLL given the plan, own codes",
            "How surprised the model is by a sample whose frame is known, in the model's own codes.",
            "bits/sample",
            Better.LOWER,
        ),
        "conditional_bits_per_16_bit_sample": Description(
            "NLL given the plan",
            "How surprised the model is by a 16-bit sample whose frame is known.",
            "bits/sample",
            Better.LOWER,
            importance=5,
        ),
    }

    def __init__(self, config: PlannedRNN, data: DataSpec, features: SampleSpec, dtype: Any, rngs: nnx.Rngs):
        self.lookback, self.stride, self.labels = config.lookback, config.stride, config.labels
        self.features, self.frames = features, config.frames
        self.conditioning_noise, self.past_noise = config.conditioning_noise, config.past_noise
        frames = config.frames
        scale = FrameScale(frames.mean, frames.deviation, frames.mel.stack, frames.num_samples)
        with _of_part("plan"):
            self.plan = MelModule(config.plan, data, scale, dtype, rngs)
        with _of_part("samples"):
            self.samples = config.samples.make(data, dtype=dtype, rngs=rngs, conditioning_size=frames.size)

    def init_carry(self, batch_size: int) -> Carry:
        silence = jnp.full((batch_size, self.lookback), jnp.asarray(self.features.silence()))
        return {
            "plan": self.plan.init_carry(batch_size),
            "samples": self.samples.init_carry(batch_size),
            **self._filling(self.encode_frames(silence)[:, 0], jnp.zeros(batch_size), jnp.zeros(batch_size)),
        }

    def unroll(
        self, x: jax.Array, conditioning: Conditioning, carry: Carry, reset: jax.Array, key: jax.Array | None = None
    ) -> tuple[jax.Array, Carry]:
        batch_size, num_steps = reset.shape
        if num_steps % self.stride:
            raise UserError(
                f"chunks of {num_steps} samples do not divide into frames of {self.stride}; change --train.seq-len, "
                "--objective.segment or --model.frames."
            )
        plan_key, samples_key, conditioning_key, past_key = (None,) * 4 if key is None else jax.random.split(key, 4)
        frames = self.encode_frames(x)
        starts = reset.reshape(batch_size, -1, self.stride).any(axis=-1)
        of_frames = conditioning.each_step(lambda values: values[:, :: self.stride])
        planned, plan = self.plan.unroll(frames, of_frames, carry["plan"], starts, plan_key)
        read = frames[:, 1:]
        if conditioning_key is not None:
            scale = self.conditioning_noise * self.frames.tolerance * self.frames.deviation
            read = read + scale * jax.random.normal(conditioning_key, read.shape)
        if past_key is not None:
            noise = self.past_noise * jax.random.normal(past_key, x.shape)
            x = self.features.encode(expand(jnp.clip(compand(self.features.decode(x)) + noise, -1, 1)))
        of_tiers = jnp.repeat(self.plan.standardise(read), self.stride // self.samples.tiers[0].frame_size, axis=1)
        predictors = self.frames.predictors(read)
        outputs, samples = self.samples.unroll(
            self._sample_inputs(x),
            conditioning,
            carry["samples"],
            reset,
            samples_key,
            FrameConditioning(of_tiers, predictors),
        )
        nats, end = self.plan.frame_log_prob(planned, frames[:, 1:]), self.plan.end_logit(planned)
        places = jnp.arange(num_steps) % self.stride
        gain = jnp.repeat(predictors.gain, self.frames.mel.hop_length, axis=1)
        nats_of, end_of = (jnp.repeat(each, self.stride, axis=1) for each in (nats, end))
        outputs = self._with_plan(outputs, places, gain, nats_of, end_of)
        filling = self._filling(frames[:, -1], nats[:, -1], end[:, -1])
        return outputs, {"plan": plan, "samples": samples, **filling}

    def before_step(self, carry: Carry, conditioning: Conditioning, noise: jax.Array, sampling: Sampling) -> Carry:
        def draw() -> Carry:
            planned, plan = self.plan.step(carry["frame"][:, None], conditioning, carry["plan"])
            planned = apply_guidance(planned, sampling.guidance, self.plan.num_unguided_outputs)
            seeds = jax.lax.bitcast_convert_type(noise[:, -1], jnp.uint32)
            frame_noise = jax.vmap(lambda seed: self.plan.noise(random_key(seed)))(seeds)
            frame, _ = self.plan.sample(planned, frame_noise, sampling)
            return self.start_frame(carry | {"plan": plan}, planned, frame)

        return jax.lax.cond(self._place(carry) == 0, draw, lambda: carry)

    def start_frame(self, carry: Carry, planned: jax.Array, frame: jax.Array) -> Carry:
        """The carry before the first sample of `frame` [B, D], which was drawn from `planned` [B, P]."""
        return carry | self._filling(frame, self.plan.frame_log_prob(planned, frame), self.plan.end_logit(planned))

    def step(self, x: jax.Array, conditioning: Conditioning, carry: Carry) -> tuple[jax.Array, Carry]:
        place = self._place(carry)
        predictor = jax.tree.map(lambda each: each[:, place // self.frames.mel.hop_length], carry["predictors"])
        plan = FrameConditioning(self.plan.standardise(carry["frame"]), predictor)
        outputs, samples = self.samples.step(self._sample_inputs(x), conditioning, carry["samples"], plan)
        outputs = self._with_plan(outputs, place, predictor.gain, carry["nats"], carry["end"])
        return outputs, carry | {"samples": samples}

    def log_prob(self, outputs: jax.Array, target: jax.Array, end: jax.Array) -> jax.Array:
        outputs, _, nats, end_logit = self._split(outputs)
        return self.samples.log_prob(outputs, target, end) + nats + end_log_prob(end_logit, end)

    def scores(self, outputs: jax.Array, target: jax.Array, end: jax.Array) -> dict[str, jax.Array]:
        outputs, _, nats, end_logit = self._split(outputs)
        scores = self.samples.scores(outputs, target, end)
        # Of one hop, so that a mean over samples is about one over hops: the last frame of a clip has fewer samples.
        nats_per_frame = -nats * (self.stride / self.frames.mel.stack)
        loss = scores["loss"] - nats - end_log_prob(end_logit, end)
        return {
            "loss": loss,
            "nats_per_frame": nats_per_frame,
            "conditional_bits_per_sample": scores["bits_per_sample"],
            "conditional_bits_per_16_bit_sample": scores["bits_per_16_bit_sample"],
        }

    def noise(self, key: jax.Array) -> jax.Array:
        code_key, other_key = jax.random.split(key)
        # For the end, and as a seed: a frame takes a hundred numbers, but only one of many samples begins a frame.
        return jnp.concatenate([self.samples.noise(code_key), jax.random.uniform(other_key, (2,))])

    def sample(self, outputs: jax.Array, noise: jax.Array, sampling: Sampling) -> tuple[jax.Array, jax.Array]:
        outputs, gain, _, end_logit = self._split(outputs)
        sharpness = 1 + sampling.voiced_sharpness * jnp.maximum(0, 1.5 * gain - 0.5)
        codes = self.samples.head.sample(outputs, noise[..., :-2], sampling, sharpness)
        return codes, noise[..., -2] < jax.nn.sigmoid(end_logit)

    def predict(self, outputs: jax.Array) -> jax.Array:
        return self.samples.predict(self._split(outputs)[0])

    def encode_frames(self, x: jax.Array) -> jax.Array:
        """Frames float32 [B, 1 + T / stride, D] of codes [B, lookback + T]: the last before, and those of the T."""
        return self.frames.frames(self.features.decode(x), 1 + (x.shape[1] - self.lookback) // self.stride)

    def _filling(self, frame: jax.Array, nats: jax.Array, end: jax.Array) -> dict[str, Any]:
        """What the carry has of the frame [B, D] that is being filled, its log-likelihood and the logit of the end [B]."""
        return {"frame": frame, "predictors": self.frames.predictors(frame[:, None]), "nats": nats, "end": end}

    def _place(self, carry: Carry) -> jax.Array:
        """Place in its frame of the next sample, the same in all rows."""
        return self.samples.samples_since_start(carry["samples"]) % self.stride

    def _sample_inputs(self, x: jax.Array) -> jax.Array:
        """The part of x [B, lookback + T] that the model of samples reads."""
        return x[:, self.lookback - self.samples.lookback :]

    def _with_plan(
        self, outputs: jax.Array, place: jax.Array, gain: jax.Array, nats: jax.Array, end: jax.Array
    ) -> jax.Array:
        """Outputs of the model of samples [..., P] at `place` of frames, with how periodic these are, their log-likelihoods and
        logits of the clip's end [...], which may be anywhere in its last frame.
        """
        before = (place + 1) / self.stride  # of the frame
        ends, goes_on = jax.nn.log_sigmoid(end), jax.nn.log_sigmoid(-end)
        left = jnp.logaddexp(goes_on, ends + jnp.log(jnp.maximum(1 - before, 1e-9)))
        logit = ends - math.log(self.stride) - left
        return concatenate_features(
            outputs, gain[..., None], jnp.where(place == 0, nats, 0.0)[..., None], logit[..., None]
        )

    def _split(self, outputs: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
        """Outputs of the model of samples [..., P]; how periodic frames are, their log-likelihoods and logits of the clip's end,
        [...] each.
        """
        plan = outputs[..., -3:].astype(jnp.float32)
        return outputs[..., :-3], plan[..., 0], plan[..., 1], plan[..., 2]


@contextlib.contextmanager
def _of_part(name: str) -> Iterator[None]:
    """Has mistakes name the options of this part."""
    try:
        yield
    except UserError as error:
        raise UserError(str(error).replace("--model.", f"--model.{name}.")) from None
