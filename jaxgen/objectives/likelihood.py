"""Maximum likelihood under teacher forcing, with truncated back-propagation through time.

The carry flows from chunk to chunk without gradient (Williams and Peng 1990); the loss is the mean over real steps.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax

from jaxgen.core.errors import UserError
from jaxgen.core.numerics import wrap_key
from jaxgen.core.sharding import replicate
from jaxgen.data.batches import Batches
from jaxgen.data.spec import DataSpec
from jaxgen.data.store import Store
from jaxgen.models.conditioning import Conditioning
from jaxgen.models.config import ModelConfig
from jaxgen.models.sequence import SequenceConfig, SequenceModel
from jaxgen.objectives.guard import Guard
from jaxgen.objectives.objective import Batch, Metrics, ModuleTemplate, Objective, TrainTask, split_rows
from jaxgen.objectives.optimizer import AdamW, Optimizer, current_learning_rate, moving_average
from jaxgen.objectives.state import TrainState

_STEPS = "real steps"
_CONTEXT = 2**31  # a number that no segment has


@dataclasses.dataclass(frozen=True)
class Likelihood(Objective):
    """Config of the objective."""

    optimizer: Optimizer = AdamW()
    """How gradients become updates."""
    ema_decay: float = 0.998
    """Decay of the moving average of the weights that evaluation and generation use; 0 uses the last weights."""
    accumulation: int = 1
    """Parts a batch is computed in, one after another; the update is that of the whole batch."""
    segment: int = 0
    """Steps whose activations are in memory at once in the backward pass, which computes them anew; 0 keeps all. With
    dropout or input noise each segment draws its own."""
    spike: float = 0.0
    """An update whose loss is more than this many standard deviations above the moving mean is skipped, as one that is
    not finite always is; 0 lets every finite loss pass."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Precision of matrix products; parameters, optimiser and losses stay float32."""

    def __post_init__(self):
        if self.accumulation < 1 or min(self.segment, self.spike) < 0 or not 0 <= self.ema_decay < 1:
            raise UserError(
                f"an objective needs accumulation >= 1, segment >= 0, spike >= 0 and 0 <= ema_decay < 1, got {self}."
            )

    @property
    def num_microbatches(self) -> int:
        return self.accumulation

    @property
    def extensible(self) -> bool:
        return self.optimizer.schedule.extensible

    def build(self, model: ModelConfig, data: DataSpec, *, steps: int, batch_size: int) -> "LikelihoodTask":
        """The objective for one model, data spec, run length and batch size.

        Raises UserError where the batch does not divide into `accumulation` parts, or the model is not one of sequences.
        """
        model = _of_sequences(model)
        if batch_size % self.accumulation:
            raise UserError(
                f"a batch of {batch_size} rows does not divide into {self.accumulation} parts; "
                "change --train.batch-size or --objective.accumulation."
            )
        return LikelihoodTask(self, model, data, steps, batch_size)

    def batches(
        self,
        model: ModelConfig,
        store: Store,
        data: DataSpec,
        *,
        batch_size: int,
        seq_len: int,
        seed: int,
        rows: Sequence[int] | None = None,
    ) -> Batches:
        """As the model asks (`SequenceConfig.training_batches`)."""
        sizes: dict[str, int] = {"batch_size": batch_size, "seq_len": seq_len}
        return _of_sequences(model).training_batches(store, data, seed=seed, rows=rows, **sizes)


def _of_sequences(model: ModelConfig) -> SequenceConfig:
    if not isinstance(model, SequenceConfig):
        raise UserError(
            f"Likelihood trains models that predict the next step, but --model is {type(model).__name__}; train that with "
            "an Adversarial objective (see configs/digits_vocoder.py)."
        )
    return model


class LikelihoodTask(TrainTask):
    """Pure functions over `TrainState`, to be jitted by the caller."""

    learning_rate_options = "--objective.optimizer.learning-rate or --objective.optimizer.clip-norm"

    def __init__(self, config: Likelihood, model: SequenceConfig, data: DataSpec, steps: int, batch_size: int):
        self.config = config
        self.batch_size = batch_size
        self.optimizer = config.optimizer.make(steps)
        self.schedule = config.optimizer.learning_rate_by_step(steps)
        self._model = ModuleTemplate(lambda rngs: model.make(data, dtype=jnp.dtype(config.dtype), rngs=rngs))

    def module(self, params: Any) -> SequenceModel:
        """The model with these parameters."""
        return self._model(params)

    def init(self, key: jax.Array) -> TrainState:
        """The state before the first step."""
        model_key, train_key = jax.random.split(key)
        params = self._model.init(model_key)
        return TrainState(
            step=jnp.zeros((), jnp.int32),
            params=params,
            average=jax.tree.map(jnp.copy, params),
            opt_state=self.optimizer.init(params),
            carry=self.module(params).init_carry(self.batch_size),
            key=jax.random.key_data(train_key),
            guard=Guard.new(),
        )

    def train_step(self, state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        """One update, or none where it would spoil the parameters (`Guard`). batch: see `jaxgen.data.pipeline`.

        Metrics are means over the batch's real steps, and the guard's counts.
        """
        key = jax.random.fold_in(wrap_key(state.key), state.step)
        parts = jax.tree.map(lambda array: split_rows(array, self.config.accumulation), (dict(batch), state.carry))
        keys = jax.random.split(key, self.config.accumulation)

        def accumulate(gradient, part):
            part_batch, carry, part_key = part
            (_, (sums, carry)), part_gradient = jax.value_and_grad(self._sum_loss, has_aux=True)(
                replicate(state.params), part_batch, carry, part_key
            )
            return jax.tree.map(jnp.add, gradient, part_gradient), (sums, carry)

        zeros = jax.tree.map(jnp.zeros_like, state.params)
        gradient, (sums, carry) = jax.lax.scan(accumulate, zeros, (*parts, keys))
        num_steps = jnp.maximum(sums.pop(_STEPS).sum(), 1.0)
        gradient = jax.tree.map(lambda g: g / num_steps, gradient)
        updates, opt_state = self.optimizer.update(gradient, state.opt_state, state.params)
        updated = optax.apply_updates(state.params, updates)
        metrics = {name: value.sum() / num_steps for name, value in sums.items()}
        gradient_norm = optax.tree.norm(gradient)
        good, guard = state.guard.update(metrics["loss"], gradient_norm, self.config.spike)
        metrics |= {
            "gradient_norm": gradient_norm,
            "learning_rate": current_learning_rate(state.opt_state, self.schedule),
        }
        metrics |= {"skipped": guard.skipped, "skipped_in_row": guard.in_row}
        new = state._replace(
            params=updated,
            average=moving_average(state.average, updated, self.config.ema_decay, state.step),
            opt_state=opt_state,
            carry=jax.tree.map(lambda c: c.swapaxes(0, 1).reshape(-1, *c.shape[2:]), carry),
        )
        kept = jax.tree.map(lambda new, old: jnp.where(good, new, old), new, state)
        return kept._replace(step=state.step + 1, guard=guard), metrics

    def eval_step(self, params: Any, carry: Any, batch: Batch) -> tuple[Any, dict[str, jax.Array], jax.Array]:
        """Scores one chunk: the carry after it, scores [B, T] by name (0 where masked), and predictions [B, T, ...]."""
        model = self.module(params)
        conditioning = model.encode_context(Conditioning.of(batch))
        outputs, carry = model.unroll(batch["x"], conditioning, carry, batch["reset"])
        scores = model.scores(outputs, batch["x"][:, model.lookback :], batch["end"])
        scores = {name: jnp.where(batch["mask"], value, 0.0) for name, value in scores.items()}
        return carry, scores, model.predict(outputs)

    def _sum_loss(self, params: Any, batch: Batch, carry: Any, key: jax.Array):
        carry = jax.lax.stop_gradient(carry)
        length = batch["reset"].shape[1]
        segment = self.config.segment
        conditioning = self.module(params).encode_context(Conditioning.of(batch), jax.random.fold_in(key, _CONTEXT))
        if segment == 0:
            sums, carry = self._sums(params, batch, conditioning, carry, key)
            return sums["loss"], (sums, carry)
        if length % segment:
            raise UserError(
                f"chunks of {length} steps do not divide into segments of {segment}; "
                "change --train.seq-len or --objective.segment."
            )

        @jax.checkpoint
        def advance(carry, index):
            start = index * segment
            part, of_part = self._part(batch, start), conditioning.part(start, segment)
            sums, carry = self._sums(params, part, of_part, carry, jax.random.fold_in(key, index))
            return carry, sums

        carry, sums = jax.lax.scan(advance, carry, jnp.arange(length // segment))
        sums = {name: values.sum() for name, values in sums.items()}
        return sums["loss"], (sums, carry)

    def _sums(
        self, params: Any, batch: Batch, conditioning: Conditioning, carry: Any, key: jax.Array
    ) -> tuple[Metrics, Any]:
        """Sums of the scores over real steps, the number of these, and the carry after the last."""
        model = self.module(params)
        outputs, carry = model.unroll(batch["x"], conditioning, carry, batch["reset"], key)
        scores = model.scores(outputs, batch["x"][:, model.lookback :], batch["end"])
        sums = {name: jnp.where(batch["mask"], value, 0.0).sum() for name, value in scores.items()}
        # Counted beside the scores: devices then sum once, at the end. A sum at the start would hold a thread of the CPU.
        return sums | {_STEPS: batch["mask"].sum(dtype=jnp.float32)}, carry

    def _part(self, batch: Batch, start: jax.Array) -> Batch:
        """A segment of a batch: its steps, and in x the lookback before them."""
        segment = self.config.segment
        lookback = batch["x"].shape[1] - batch["reset"].shape[1]
        part = {
            name: jax.lax.dynamic_slice_in_dim(batch[name], start, segment, axis=1) for name in ("reset", "mask", "end")
        }
        return part | {"x": jax.lax.dynamic_slice_in_dim(batch["x"], start, lookback + segment, axis=1)}
