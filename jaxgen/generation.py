"""Free-running generation: one batched scan over the model's own `step`, in blocks, then back to samples."""

import dataclasses
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from jaxgen.data.spec import DataSpec
from jaxgen.distributions import Sampling
from jaxgen.errors import UserError
from jaxgen.models.sequence import Labels, ModelConfig, SequenceModel

_STEPS_PER_BLOCK = {"sample": 2_000, "frame": 50}
_DECODED_AT_ONCE = 8  # clips; bounds the memory of the inverse features


@dataclasses.dataclass(frozen=True)
class Generated:
    """The clips of one call."""

    clips: list[np.ndarray]
    """float32 [nsamp] each, full scale 1.0."""
    sample_rate: int
    """Hz."""
    elapsed: float
    """Wall time of generating and decoding in seconds, compilation included."""

    @property
    def real_time_factor(self) -> float:
        """Seconds of audio made per second."""
        return sum(map(len, self.clips)) / self.sample_rate / self.elapsed


class Generator:
    """Draws new clips from a model; compiled programs are kept from call to call."""

    def __init__(self, module: Callable[[Any], SequenceModel], model: ModelConfig, spec: DataSpec):
        """module: puts parameters into the model that `model` configures (`LikelihoodTraining.module`)."""
        self._module, self._model, self._spec = module, model, spec
        self._block = jax.jit(self._generate_block, static_argnames=("count", "sampling"), donate_argnames="state")
        self._consume = jax.jit(self._consume_prompt)

    def __call__(
        self,
        params: Any,
        labels: Sequence[Mapping[str, str]],
        *,
        seconds: float | None = None,
        prompt: np.ndarray | None = None,
        sampling: Sampling = Sampling(),
        seed: int = 0,
        progress: bool = False,
    ) -> Generated:
        """One clip for each mapping in `labels` (label name to value; a name that is missing is unknown).

        Clip n depends on the seed and its place n, not on how many are drawn. It ends where the model ends it, at the
        latest after `seconds` of new sound; by default the length of the longest training clip, or of the median one for
        a model that does not end clips. prompt: float32 [nsamp] at the features' sample rate, which every clip begins
        with and continues.
        Raises UserError for a label never seen in training, seconds that are not positive, a prompt that is too short.
        """
        started = time.perf_counter()
        features = self._spec.features
        usual = self._spec.max_seconds if self._model.ends_clips else self._spec.typical_seconds
        length = usual if seconds is None else seconds
        if length <= 0:
            raise UserError(f"--seconds is {length:g}; the length of a clip must be above 0.")
        num_steps = features.num_steps(max(features.hop_length, round(length * features.sample_rate)))
        first = self._prompt_steps(prompt)
        conditions = self._conditions(labels)
        state = self._consume(params, np.broadcast_to(first, (len(labels), *first.shape)), conditions)
        key, count = jax.random.key(seed), min(_STEPS_PER_BLOCK[features.step_unit], num_steps)
        blocks: list[np.ndarray] = []
        lengths = np.full(len(labels), num_steps)
        visible = progress and sys.stderr.isatty()
        with tqdm(total=num_steps, unit=features.step_unit, desc="generating", disable=not visible) as bar:
            for start in range(0, num_steps, count):
                state, steps, ends = self._block(params, state, key, start, conditions, count=count, sampling=sampling)
                blocks.append(np.asarray(steps))
                ends = np.asarray(ends)
                ended = start + 1 + ends.argmax(axis=1)
                lengths = np.where(ends.any(axis=1), np.minimum(lengths, ended), lengths)
                bar.update(min(count, num_steps - start))
                if lengths.max() <= start + count:
                    break
        steps = np.concatenate([np.broadcast_to(first, (len(labels), *first.shape)), *blocks], axis=1)
        clips = self._decode(steps, lengths + len(first))
        return Generated(clips, features.sample_rate, time.perf_counter() - started)

    def _prompt_steps(self, prompt: np.ndarray | None) -> np.ndarray:
        """Steps of the prompt [nstep, *step_shape]; none without one."""
        features = self._spec.features
        silence = features.silence()
        if prompt is None:
            return np.zeros((0, *silence.shape), silence.dtype)
        needed = features.num_samples_seen(max(2, self._model.lookback))
        if len(prompt) < needed:
            raise UserError(
                f"the prompt has {len(prompt)} samples, but at least {needed} ({needed / features.sample_rate:.3g} s) "
                "are needed; pass a longer --prompt."
            )
        steps = np.asarray(features.encode(prompt))
        whole = [count for count in range(1, len(steps) + 1) if features.num_samples_seen(count) <= len(prompt)]
        return steps[: whole[-1]]  # those that do not see the silence beyond its end

    def _conditions(self, labels: Sequence[Mapping[str, str]]) -> Labels:
        """Label indices int32 [B] of each label that the model knows."""
        indices = [{name: self._spec.label_index(name, value) for name, value in row.items()} for row in labels]
        return {name: np.array([row.get(name, 0) for row in indices], np.int32) for name in self._model.labels}

    def _consume_prompt(self, params: Any, first: jax.Array, conditions: Labels) -> Any:
        """(carry, the last `lookback` steps, which rows are over) after the prompt [B, nstep, ...]."""
        model = self._module(params)
        batch_size, num_steps = first.shape[:2]
        silence = jnp.broadcast_to(self._spec.features.silence(), (batch_size, model.lookback, *first.shape[2:]))
        x = jnp.concatenate([silence, first], axis=1)
        carry = model.init_carry(batch_size)
        if num_steps:
            over_time = {name: jnp.repeat(value[:, None], num_steps, axis=1) for name, value in conditions.items()}
            _, carry = model.unroll(x, over_time, carry, jnp.zeros((batch_size, num_steps), bool))
        return carry, x[:, num_steps:], jnp.zeros(batch_size, bool)

    def _generate_block(
        self,
        params: Any,
        state: Any,
        key: jax.Array,
        start: jax.Array,
        conditions: Labels,
        *,
        count: int,
        sampling: Sampling,
    ) -> tuple[Any, jax.Array, jax.Array]:
        """The state after `count` further steps, these steps [B, count, ...] and where clips end, bool [B, count]."""
        model = self._module(params)
        silence = jnp.asarray(self._spec.features.silence())
        row_keys = jax.vmap(lambda row: jax.random.fold_in(key, row))(jnp.arange(state[2].shape[0]))

        def advance(state: Any, index: jax.Array) -> tuple[Any, tuple[jax.Array, jax.Array]]:
            carry, window, over = state
            outputs, carry = model.step(window, conditions, carry)
            keys = jax.vmap(lambda k: jax.random.fold_in(k, index))(row_keys)
            step, ends = jax.vmap(lambda o, k: model.sample(o, k, sampling))(outputs, keys)
            step = jnp.where(over.reshape(-1, *[1] * silence.ndim), silence, step)
            window = jnp.concatenate([window[:, 1:], step[:, None]], axis=1)
            return (carry, window, over | ends), (step, ends & ~over)

        state, (steps, ends) = jax.lax.scan(advance, state, start + jnp.arange(count))
        return state, jnp.swapaxes(steps, 0, 1), jnp.swapaxes(ends, 0, 1)

    def _decode(self, steps: np.ndarray, lengths: np.ndarray) -> list[np.ndarray]:
        """Samples of each clip, cut to its length in steps; beyond it lies silence."""
        features = self._spec.features
        silence = features.silence()
        beyond = np.arange(steps.shape[1]) >= lengths[:, None]
        steps = np.where(beyond.reshape(*beyond.shape, *[1] * silence.ndim), silence, steps)
        rows = -(-len(steps) // _DECODED_AT_ONCE) * _DECODED_AT_ONCE if len(steps) > _DECODED_AT_ONCE else len(steps)
        padded = np.concatenate([steps, np.broadcast_to(silence, (rows - len(steps), *steps.shape[1:]))])
        groups = [padded[i : i + _DECODED_AT_ONCE] for i in range(0, rows, _DECODED_AT_ONCE)]
        samples = np.concatenate([np.asarray(features.decode(group)) for group in groups])
        shortest = features.hop_length
        counts = [max(features.num_samples(int(length)), shortest) for length in lengths]
        return [clip[:count] for clip, count in zip(samples, counts, strict=False)]
