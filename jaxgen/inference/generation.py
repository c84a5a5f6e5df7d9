"""Free-running generation: one batched scan over the model's own `step`, block after block, each at once made sound."""

import contextlib
import dataclasses
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from tqdm import tqdm

from jaxgen.core.errors import UserError
from jaxgen.core.machine import available_cores
from jaxgen.core.numerics import random_key
from jaxgen.data.padded import pad_rows, round_up
from jaxgen.data.pipeline import variant_names
from jaxgen.data.spec import DataSpec
from jaxgen.features import Decoder
from jaxgen.inference.prompts import read_prompt
from jaxgen.inference.sampler import ClipBatch, ClipRequest, ClipSampler
from jaxgen.models.conditioning import Conditioning, Context
from jaxgen.models.sequence import RunState, SequenceConfig, SequenceModel
from jaxgen.nn.distributions import Sampling
from jaxgen.nn.label_embedding import Labels

_STEPS_PER_BLOCK = {"sample": 800, "frame": 40}


@dataclasses.dataclass(frozen=True)
class GeneratedClips:
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


class Generator(ClipSampler):
    """Draws new clips from a model that predicts one step after another."""

    kind = "predicts one step after another"
    unsupported: ClassVar[tuple[str, ...]] = ("interpolate", "bars", "infill", "soundfont")
    default_batch_size = 64

    def __init__(
        self,
        module: Callable[[Any], SequenceModel],
        model: SequenceConfig,
        spec: DataSpec,
        decoder: Decoder | None = None,
    ):
        """module: puts parameters into the model that `model` configures (`LikelihoodTask.module`). decoder: makes sound
        of its steps; none takes the features.
        """
        self._decoder = decoder or spec.features
        self._module, self._model, self._spec = module, model, spec
        self._block = jax.jit(self._generate_block, static_argnames=("count", "sampling"), donate_argnames="state")
        self._consume = jax.jit(self._consume_prompt)
        self._encode = jax.jit(lambda params, conditioning: module(params).encode_context(conditioning))

    def read_prompt(self, path: str) -> np.ndarray:
        return read_prompt(path, self._spec.features)

    def __call__(self, params: Any, labels: Sequence[Mapping[str, str]], **options: Any) -> GeneratedClips:
        """Whole clips: those that `stream` gives in pieces for the same arguments."""
        started = time.perf_counter()
        blocks = list(self.stream(params, labels, **options))
        clips = [np.concatenate(pieces) for pieces in zip(*blocks, strict=True)]
        return GeneratedClips(clips, self._spec.features.sample_rate, time.perf_counter() - started)

    def stream(
        self,
        params: Any,
        labels: Sequence[Mapping[str, str]],
        *,
        inputs: Sequence[Mapping[str, np.ndarray]] | None = None,
        seconds: float | None = None,
        prompt: np.ndarray | None = None,
        sampling: Sampling = Sampling(),
        seed: int = 0,
        first: int = 0,
        progress: bool = False,
    ) -> Iterator[list[np.ndarray]]:
        """One clip for each mapping in `labels` (label name to value; a name that is missing is unknown), as it is made.

        Yields the next samples of every clip, float32 [any number] each, none for a clip that is over; holds none of
        those before, so that clips may be of any length.

        Clip n depends on the seed and its place, `first` + n, not on how many are drawn. It ends where the model ends it, at
        the latest after `seconds` of new sound. None takes the length of the longest training clip, or of the median one
        for a model that does not end clips. prompt: float32 [nsamp] at the features' sample rate, which every clip begins
        with and continues. inputs: of each clip, the streams [N, ...] that the model reads; a clip is at most as long as its
        aligned ones.
        Raises UserError for a label never seen in training, seconds that are not positive, a prompt that is too short, or
        streams that are missing.
        """
        steps, lengths = self.draw_steps(
            params,
            labels,
            self._prompt_steps(prompt),
            inputs=inputs,
            seconds=seconds,
            sampling=sampling,
            seed=seed,
            first=first,
            progress=progress,
        )
        return self._sound(steps, lengths)

    def draw_steps(
        self,
        params: Any,
        labels: Sequence[Mapping[str, str]],
        before: np.ndarray,
        *,
        inputs: Sequence[Mapping[str, np.ndarray]] | None = None,
        seconds: float | None = None,
        sampling: Sampling = Sampling(),
        seed: int = 0,
        first: int = 0,
        progress: bool = False,
    ) -> tuple[Iterator[np.ndarray], np.ndarray]:
        """Blocks of steps [B, any number, *step_shape], and the length of each clip, int [B], which holds when all are drawn.

        before: the steps [nstep, *step_shape] that every clip begins with. The rest is as in `stream`.
        """
        rows = first + np.arange(len(labels))
        given = self._with_defaults([{}] * len(labels) if inputs is None else inputs, len(before), seconds)
        conditioning = dataclasses.replace(self._streams(given), static=self._conditions(labels))
        lengths = self._lengths(given, seconds, len(before))
        return self._steps(params, before, conditioning, rows, lengths, sampling, seed, progress), lengths

    def _batches(self, params: Any, request: ClipRequest, sampling: Sampling) -> Iterator[ClipBatch]:
        size = request.batch_size or self.default_batch_size
        rows = self._spec.draw_labels(self._model.labels, [request.labels] * request.num_clips, request.seed)
        for first in range(0, request.num_clips, size):
            labels = rows[first : first + size]
            options: dict[str, Any] = {
                "inputs": None if request.input is None else [request.input] * len(labels),
                "seconds": request.seconds,
                "prompt": request.prompt,
                "sampling": sampling,
                "seed": request.seed,
                "first": first,
                "progress": request.num_clips <= size,
            }
            yield self._batch(params, labels, request, options)

    def _batch(
        self, params: Any, labels: Sequence[Mapping[str, str]], request: ClipRequest, options: Mapping[str, Any]
    ) -> ClipBatch:
        """Clips with these labels. options: of `stream`, what the request says of them."""
        return ClipBatch(options["first"], labels, self.stream(params, labels, **options))

    def max_samples(self, request: ClipRequest) -> int:
        before = 0 if request.prompt is None else len(request.prompt)
        known = dict(self._spec.streams)
        said = {name: values for name, values in (request.input or {}).items() if name in known}
        lengths = [len(values) for name, values in said.items() if known[name].is_aligned]
        num_steps = self.num_steps(request.seconds) if request.seconds or not lengths else min(lengths)
        return before + num_steps * self._spec.features.samples_per_step

    @property
    def default_seconds(self) -> float:
        """How long clips are at the most where nothing else is asked."""
        return self._spec.max_seconds if self._model.ends_clips else self._spec.typical_seconds

    def num_steps(self, seconds: float | None) -> int:
        """Steps of new sound that a clip has at the most, for `seconds` as in `stream`."""
        features = self._spec.features
        length = self.default_seconds if seconds is None else seconds
        if length <= 0:
            raise UserError(f"--seconds is {length:g}; the length of a clip must be above 0.")
        return features.num_steps(max(features.samples_per_step, round(length * features.sample_rate)))

    def _sound(self, steps: Iterator[np.ndarray], lengths: np.ndarray) -> Iterator[list[np.ndarray]]:
        """Samples of the clips as their steps come, each clip cut to its length.

        lengths: of each clip in steps, brought down by `steps` where it comes upon the end of one.
        """
        features, done = self._spec.features, 0
        for samples in self._decoder.decode_blocks(steps):
            ends = [max(features.num_samples(int(length)), features.hop_length) for length in lengths]
            yield [row[: max(0, end - done)] for row, end in zip(samples, ends, strict=True)]
            done += samples.shape[1]

    def _steps(
        self,
        params: Any,
        first: np.ndarray,
        conditioning: Conditioning,
        rows: np.ndarray,
        lengths: np.ndarray,
        sampling: Sampling,
        seed: int,
        progress: bool,
    ) -> Iterator[np.ndarray]:
        """The prompt's steps, then new ones [B, any number, ...] until all rows are over."""
        features, num_rows, copies = self._spec.features, len(lengths), 1
        num_steps = lengths.max() - len(first)
        prompt = np.broadcast_to(first, (num_rows, *first.shape))
        if len(first):
            yield prompt
        if sampling.voiced_sharpness and not self._model.plans_voices:
            raise UserError(
                "the model plans no voices that could be sharpened, as PlannedRNN does; leave out --voiced-sharpness."
            )
        self._model.check_limits(sampling.limits, features)
        if sampling.guidance:
            if not self._model.supports_guidance:
                raise UserError(
                    "the model has no labels to be guided by, or never trained without them (--model.label-dropout 0); leave "
                    "out --guidance."
                )
            copies = 2
            rows, prompt = (np.repeat(each, copies, axis=0) for each in (rows, prompt))
            both = jax.tree.map(lambda each: np.repeat(each, copies, axis=0), conditioning)
            unknown = {name: _with_unknown(each) for name, each in conditioning.static.items()}
            conditioning = dataclasses.replace(both, static=unknown)
        if not self._module(params).uses_all_cores(sampling):
            params, rows, conditioning, prompt = _spread(params, (rows, conditioning, prompt), copies)
        key, count = random_key(seed), min(_STEPS_PER_BLOCK[features.step_unit], num_steps)
        conditioning = _extended(self._encode(params, conditioning), len(first) + -(-num_steps // count) * count)
        state = self._consume(params, prompt, conditioning)
        visible = progress and sys.stderr.isatty()
        with tqdm(total=num_steps, unit=features.step_unit, desc="generating", disable=not visible) as bar:
            for start in range(0, num_steps, count):
                made = self._block(
                    params, state, key, start, rows, conditioning, len(first), count=count, sampling=sampling
                )
                state, steps, ends = made[0], np.asarray(made[1])[::copies], np.asarray(made[2])[::copies]
                ended = len(first) + start + 1 + ends.argmax(axis=1)
                lengths[:] = np.where(ends.any(axis=1), np.minimum(lengths, ended), lengths)
                bar.update(min(count, num_steps - start))
                yield steps[:, : num_steps - start]
                if lengths.max() <= len(first) + start + count:
                    break

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
        """Of each label that the model knows the indices int32 [B], or where values are mixed the shares float32 [B, V]."""
        shares = [{name: self._spec.label_shares(name, value) for name, value in row.items()} for row in labels]
        conditions = {name: np.zeros(len(labels), np.int32) for name in variant_names(self._spec.features)}
        for name in self._model.labels:
            unknown = np.eye(1, 1 + len(dict(self._spec.vocabularies)[name]), dtype=np.float32)[0]
            rows = np.stack([row.get(name, unknown) for row in shares])
            conditions[name] = rows.argmax(axis=1).astype(np.int32) if (rows.max(axis=1) == 1).all() else rows
        return conditions

    def _with_defaults(
        self, given: Sequence[Mapping[str, np.ndarray]], before: int, seconds: float | None
    ) -> Sequence[Mapping[str, np.ndarray]]:
        """What is said, and of what is not the default of a clip of this length."""
        known = dict(self._spec.streams)
        rows = []
        for row in given:
            others = [len(row[name]) for name in self._model.streams if name in row and known[name].is_aligned]
            num_steps = min(others, default=before + self.num_steps(seconds))
            missing = {name: known[name].default(num_steps) for name in self._model.streams if name not in row}
            rows.append({**row, **{name: values for name, values in missing.items() if values is not None}})
        return rows

    def _streams(self, given: Sequence[Mapping[str, np.ndarray]]) -> Conditioning:
        """The streams that the model reads: aligned ones [B, T, ...], as long as the longest, and contexts with masks."""
        known = dict(self._spec.streams)
        for name in self._model.streams:
            if any(name not in row for row in given):
                how = "--melody FILE" if name == "melody" else f"--input {name}=..."
                raise UserError(f"the model reads '{name}', which is not said; pass {how}.")
        if strangers := sorted({name for row in given for name in row} - {*self._model.streams}):
            reads = ", ".join(self._model.streams) or "none"
            raise UserError(f"the model has no input '{strangers[0]}'; its inputs: {reads}. Change --input.")

        def padded(name: str, rounded: bool) -> tuple[np.ndarray, np.ndarray]:
            longest = max(len(row[name]) for row in given)
            return pad_rows([row[name] for row in given], round_up(longest, 1) if rounded else longest, known[name])

        return Conditioning(
            aligned={name: padded(name, rounded=False)[0] for name in self._model.aligned_streams},
            context={name: Context(*padded(name, rounded=True)) for name in self._model.context_streams},
        )

    def _lengths(self, given: Sequence[Mapping[str, np.ndarray]], seconds: float | None, before: int) -> np.ndarray:
        """Steps that each clip may have at the most, int [B], of which `before` are the prompt's."""
        known = dict(self._spec.streams)
        aligned = [name for name in self._model.streams if known[name].is_aligned]
        if not aligned:
            return np.full(len(given), before + self.num_steps(seconds))
        longest = sys.maxsize if seconds is None else before + self.num_steps(seconds)
        lengths = np.array([min(longest, *(len(row[name]) for name in aligned)) for row in given])
        if lengths.min() <= before:
            raise UserError(
                f"the prompt has {before} {self._spec.features.step_unit}s, and {' and '.join(aligned)} "
                f"{lengths.min()}; nothing is left to make. Pass a shorter --prompt or a longer --input."
            )
        return lengths

    def _consume_prompt(self, params: Any, first: jax.Array, conditioning: Conditioning) -> RunState:
        """The state after the prompt [B, nstep, ...]."""
        model = self._module(params)
        batch_size, num_steps = first.shape[:2]
        silence = jnp.broadcast_to(self._spec.features.silence(), (batch_size, model.lookback, *first.shape[2:]))
        beyond = num_steps % self._model.stride  # a model that works frame by frame goes on from a whole one
        x, num_steps = jnp.concatenate([silence, first], axis=1)[:, beyond:], num_steps - beyond
        carry = model.init_carry(batch_size)
        if num_steps:
            here = dataclasses.replace(
                conditioning.over_time(num_steps), aligned=_slice(conditioning.aligned, beyond, num_steps)
            )
            _, carry = model.unroll(x, here, carry, jnp.zeros((batch_size, num_steps), bool))
        return RunState(carry, x[:, num_steps:], jnp.zeros(batch_size, bool))

    def _generate_block(
        self,
        params: Any,
        state: RunState,
        key: jax.Array,
        start: jax.Array,
        rows: jax.Array,
        conditioning: Conditioning,
        before: jax.Array,
        *,
        count: int,
        sampling: Sampling,
    ) -> tuple[RunState, jax.Array, jax.Array]:
        """The state after `count` further steps, these steps [B, count, ...] and where clips end, bool [B, count].

        conditioning: of whole clips, which begin `before` steps ahead of step 0.
        All random numbers are drawn before the loop: that of row n at step t is the seed folded with n and t.
        """
        model = self._module(params)
        silence = jnp.asarray(self._spec.features.silence())
        row_keys = jax.vmap(lambda row: jax.random.fold_in(key, row))(rows)
        times = start + jnp.arange(count)
        keys = jax.vmap(lambda key: jax.vmap(lambda t: jax.random.fold_in(key, t))(times))(row_keys)
        noise = jax.vmap(jax.vmap(model.noise))(keys)
        here = dataclasses.replace(conditioning, aligned=_slice(conditioning.aligned, before + start, count))
        return model.free_run(state, here, noise, sampling, silence)


def _slice(aligned: Mapping[str, Any], start: int | jax.Array, count: int) -> dict[str, jax.Array]:
    """`count` values of each stream [B, T, ...]."""
    return {name: jax.lax.dynamic_slice_in_dim(each, start, count, axis=1) for name, each in aligned.items()}


def _extended(conditioning: Conditioning, num_steps: int) -> Conditioning:
    """The same with `num_steps` aligned values: the last one goes on, behind the ends of clips."""

    def extend(values: jax.Array | np.ndarray) -> jax.Array:
        missing = max(0, num_steps - values.shape[1])
        return jnp.pad(values, [(0, 0), (0, missing), *[(0, 0)] * (values.ndim - 2)], mode="edge")

    return dataclasses.replace(
        conditioning, aligned={name: extend(each) for name, each in conditioning.aligned.items()}
    )


def _with_unknown(condition: jax.Array | np.ndarray) -> np.ndarray:
    """Each row [B, ...] of a label followed by that of an unknown one, [2 B, ...]."""
    unknown = np.zeros_like(condition)
    if unknown.ndim > 1:  # shares of values
        unknown[:, 0] = 1
    return np.stack([np.asarray(condition), unknown], axis=1).reshape(-1, *condition.shape[1:])


def use_all_cores() -> None:
    """Makes a device of each core of a CPU, for clips to be spread over; too late once jax has looked for devices."""
    with contextlib.suppress(RuntimeError):
        jax.config.update("jax_num_cpu_devices", available_cores())


def _spread(params: Any, by_row: tuple[Any, ...], copies: int) -> tuple[Any, ...]:
    """Parameters, and arrays of rows [B, ...] split evenly over as many devices as that goes with.

    The `copies` rows of a clip stay on one device, and others do not meet, so devices need not wait for each other within
    a block. On a CPU each device is a thread: rows that have one for themselves advance side by side, where the products
    of one step are too small to be shared.
    """
    num_clips, devices = len(by_row[0]) // copies, jax.local_devices()
    used = max(n for n in range(1, len(devices) + 1) if num_clips % n == 0)
    mesh = jax.make_mesh((used,), ("rows",), axis_types=(AxisType.Auto,), devices=devices[:used])
    split, copied = NamedSharding(mesh, PartitionSpec("rows")), NamedSharding(mesh, PartitionSpec())
    return (jax.device_put(params, copied), *jax.device_put(by_row, split))
