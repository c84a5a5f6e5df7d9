"""Samples, one after another: codes in, a recurrent network, a distribution of the next code out.

The one-tier sample-level recurrent network of
Mehri et al. 2017 (SampleRNN, section 2.1), which reads an embedding of the previous sample and, as numbers, a few
samples before it: what a linear predictor would have, so that the recurrence need not learn to remember them.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from jaxgen.core.errors import UserError
from jaxgen.data.spec import DataSpec
from jaxgen.features import MuLaw, SampleSpec
from jaxgen.models.conditioning import Conditioning
from jaxgen.models.sequence import (
    Carry,
    RunState,
    SampleSequenceModel,
    SequenceConfig,
    concatenate_features,
)
from jaxgen.nn.distributions import Sampling
from jaxgen.nn.heads import DistributionHead, SampleOutput, Softmax
from jaxgen.nn.label_embedding import LabelEmbedding, Labels
from jaxgen.nn.recurrent import LSTM, Cell, Stack
from jaxgen.nn.recurrent.gated import GatedCell, runs_natively
from jaxgen.nn.recurrent.native import free_run


@dataclasses.dataclass(frozen=True)
class WaveRNN(SequenceConfig):
    """A recurrent network over samples: mu-law codes or 16-bit integers."""

    cell: Cell = LSTM(hidden_size=256)
    """The recurrence: RNN, LSTM, GRU, MinGRU, MinLSTM or RGLRU."""
    num_layers: int = 1
    """Recurrent layers, one above the other; more learn more and are slower."""
    residual: bool = False
    """Add each layer's input to its output, from the second layer on."""
    dropout: float = 0.0
    """Variational dropout: share of units switched off for a whole chunk, 0 to 1; more keeps a model from overfitting."""
    output: SampleOutput = Softmax()
    """What a sample is drawn from: Softmax for mu-law codes; CoarseFine or Logistics for 16-bit samples."""
    embedding_size: int = 64
    """Features a code is embedded into."""
    lookback: int = 16
    """Past samples that are read as numbers."""
    labels: tuple[str, ...] = ()
    """Label fields that condition the model."""
    label_size: int = 16
    """Features a label is embedded into."""
    label_dropout: float = 0.1
    """Share of clips trained with labels unknown."""

    ends_clips = False

    def __post_init__(self) -> None:
        if self.lookback < 1:
            raise UserError(f"--model.lookback is {self.lookback}; a model must read at least 1 past sample.")
        if self.embedding_size < 1:
            raise UserError(f"--model.embedding-size is {self.embedding_size}; a code needs at least 1 feature.")

    def make(self, data: DataSpec, *, dtype: Any = jnp.float32, rngs: nnx.Rngs) -> "WaveModule":
        """Raises UserError where the features are not samples."""
        if not isinstance(data.features, SampleSpec):
            raise UserError(
                f"WaveRNN models samples, but the features are {type(data.features).__name__}; use MuLaw or Pcm16 "
                "features, or MelRNN for frames."
            )
        return WaveModule(self, data, data.features, dtype, rngs)


class WaveModule(SampleSequenceModel):
    """The module that `WaveRNN` configures. Steps are integer codes; outputs are those of its head."""

    def __init__(self, config: WaveRNN, data: DataSpec, features: SampleSpec, dtype: Any, rngs: nnx.Rngs):
        self.lookback = config.lookback
        self.labels = config.labels
        self.features = features
        self.embedding = nnx.Embed(
            features.q_levels,
            config.embedding_size,
            embedding_init=nnx.initializers.normal(1.0),
            dtype=dtype,
            rngs=rngs,
        )
        self.condition = LabelEmbedding(
            data, config.labels, config.label_size, dropout=config.label_dropout, dtype=dtype, rngs=rngs
        )
        self.stack = Stack(
            config.cell,
            config.num_layers,
            config.embedding_size + config.lookback + self.condition.num_features,
            residual=config.residual,
            dropout=config.dropout,
            dtype=dtype,
            rngs=rngs,
        )
        self.head = config.output.make(features, config.cell.hidden_size, dtype=dtype, rngs=rngs)

    def init_carry(self, batch_size: int) -> Carry:
        return self.stack.init_carry(batch_size)

    def unroll(
        self, x: jax.Array, conditioning: Conditioning, carry: Carry, reset: jax.Array, key: jax.Array | None = None
    ) -> tuple[jax.Array, Carry]:
        label_key, dropout_key = (None, None) if key is None else jax.random.split(key)
        labels = self.condition.drop(conditioning.static, reset, label_key)
        num_steps = reset.shape[1]
        windows = jnp.stack([x[:, i : i + num_steps] for i in range(self.lookback)], axis=-1)
        inputs = self._inputs(windows, labels)
        hidden, carry = self.stack.unroll(inputs, carry, reset, dropout_key)
        return self.head(hidden), carry

    def step(self, x: jax.Array, conditioning: Conditioning, carry: Carry) -> tuple[jax.Array, Carry]:
        hidden, carry = self.stack.step(self._inputs(x, conditioning.static), carry)
        return self.head(hidden), carry

    def free_run(
        self, state: RunState, conditioning: Conditioning, noise: jax.Array, sampling: Sampling, silence: jax.Array
    ) -> tuple[RunState, jax.Array, jax.Array]:
        by_scan = functools.partial(super().free_run, state, conditioning, noise, sampling, silence)
        if not self.uses_all_cores(sampling):
            return by_scan()
        natively = functools.partial(self._run_natively, state, conditioning.static, noise, sampling)
        return jax.lax.platform_dependent(cpu=natively, default=by_scan)

    def uses_all_cores(self, sampling: Sampling) -> bool:
        simple = isinstance(self.features, MuLaw) and not self.stack.residual and sampling.draws_from_all
        return simple and runs_natively(self.stack.cell, self.stack.dtype)

    def _inputs(self, windows: jax.Array, labels: Labels) -> jax.Array:
        """Features [..., F] of the last `lookback` codes [..., lookback]."""
        values = self.features.to_mu_law(windows)
        code = self.features.codes(windows[..., -1])
        return concatenate_features(self.embedding(code), values.astype(self.embedding.dtype), self.condition(labels))

    def _run_natively(
        self, state: RunState, labels: Labels, noise: jax.Array, sampling: Sampling
    ) -> tuple[RunState, jax.Array, jax.Array]:
        """`free_run` by a kernel that stays with the recurrence: what each code adds to the first layer is tabled."""
        cell, (first, *others), head = self.stack.cell, self.stack.parameters(), self.head
        assert isinstance(cell, GatedCell)
        assert isinstance(head, DistributionHead)
        assert head.linear.bias is not None
        code_part, value_part, label_part = jnp.split(
            first["input"], [self.embedding.features, self.embedding.features + self.lookback]
        )
        table = self.embedding.embedding[...] @ code_part
        conditions = self.condition(labels)
        constant = jnp.broadcast_to(first["bias"], (len(state.finished), len(first["bias"])))
        if conditions is not None:
            constant = constant + conditions @ label_part
        codes, carry = free_run.generate(
            cell,
            [first | {"input": value_part}, *others],
            head.linear.kernel[...] / sampling.temperature,
            head.linear.bias[...] / sampling.temperature,
            table,
            constant,
            state.past[:, -1].astype(jnp.int32),
            self.features.to_mu_law(state.past),
            state.carry,
            noise[..., 0],
        )
        steps = codes.astype(jnp.uint8)
        past = jnp.concatenate([state.past, steps], axis=1)[:, steps.shape[1] :]
        return RunState(tuple(carry), past, state.finished), steps, jnp.zeros(steps.shape, bool)
