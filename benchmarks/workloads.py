"""The work that is measured: models, their batches from the real pipeline, and the arithmetic they need."""

import dataclasses
import itertools
import tempfile
from collections.abc import Callable, Sequence
from typing import Any

import jax

from jaxgen.data.clips import Dataset
from jaxgen.data.ingest import AudioPolicy
from jaxgen.data.pipeline import Batch, TrainingBatches
from jaxgen.data.preparation import prepare
from jaxgen.data.spec import DataSpec
from jaxgen.data.store import Store
from jaxgen.data.synthetic import PluckedStrings
from jaxgen.features import FeatureSpec, LogMel, MuLaw
from jaxgen.models.mel_rnn import MelRNN
from jaxgen.models.wave_rnn import WaveRNN
from jaxgen.nn.recurrent import LSTM, Cell
from jaxgen.objectives.likelihood import Likelihood, LikelihoodTask

_DISTINCT_BATCHES = 4
_RATE = 8_000  # Hz
_STEPS_OF_A_RUN = 1_000  # that the learning rate is planned for


@dataclasses.dataclass(frozen=True)
class Workload:
    """A model, what it reads and how much at once."""

    model: MelRNN | WaveRNN
    """Who predicts the next step."""
    features: FeatureSpec
    """What a step of the sequence is."""
    batch_size: int
    """Rows."""
    seq_len: int
    """Steps the gradient sees."""

    @property
    def name(self) -> str:
        """Model and cell, as figures are filed under it."""
        return f"{type(self.model).__name__} {type(self.model.cell).__name__}"

    @property
    def steps(self) -> int:
        """Samples or frames of a batch."""
        return self.batch_size * self.seq_len

    @property
    def audio_seconds(self) -> float:
        """Seconds of audio of a batch."""
        return self.steps * self.features.hop_length / self.features.sample_rate


MEL = Workload(
    model=MelRNN(cell=LSTM(hidden_size=384), num_layers=2),
    features=LogMel(sample_rate=_RATE, n_fft=256, hop_length=80, n_mels=64),
    batch_size=64,
    seq_len=96,
)
WAVE = Workload(
    model=WaveRNN(cell=LSTM(hidden_size=256), num_layers=1, lookback=1),
    features=MuLaw(sample_rate=_RATE),
    batch_size=32,
    seq_len=256,
)


def plucked(clips: int) -> PluckedStrings:
    """The sound all benchmarks read: clips of 3.5 s at 8 kHz."""
    return PluckedStrings(num_clips=clips, sample_rate=_RATE)


def prepared(work: Workload, dataset: Dataset, cache_dir: str) -> tuple[Store, DataSpec, TrainingBatches]:
    """The store of a data set, what a model must know of it, and its endless batches."""
    store = prepare(dataset, work.features, AudioPolicy(), cache_dir)
    spec = store.spec(work.model.labels)
    batches = TrainingBatches(
        store,
        spec,
        work.model.labels,
        lookback=work.model.lookback,
        batch_size=work.batch_size,
        seq_len=work.seq_len,
        seed=0,
    )
    return store, spec, batches


def bound(work: Workload, spec: DataSpec) -> LikelihoodTask:
    """The objective as `jaxgen.train` binds it to this work."""
    return Likelihood().build(work.model, spec, steps=_STEPS_OF_A_RUN, batch_size=work.batch_size)


def some_batches(work: Workload, clips: int) -> tuple[DataSpec, list[Batch]]:
    """A few batches of the real pipeline, kept in memory."""
    with tempfile.TemporaryDirectory() as cache_dir:
        _, spec, batches = prepared(work, plucked(clips), cache_dir)
        return spec, list(itertools.islice(batches, _DISTINCT_BATCHES))


def repeated_step(task: LikelihoodTask, batches: Sequence[Batch]) -> Callable[[], Any]:
    """One update after another, jitted and with donated state as in the training loop; each call returns the state."""
    step = jax.jit(task.train_step, donate_argnums=0)
    state, endless = task.init(jax.random.key(0)), itertools.cycle(batches)

    def call() -> Any:
        nonlocal state
        state, _ = step(state, next(endless))
        return state

    return call


def train_flops(work: Workload) -> int:
    """Arithmetic of the matrix products of one update.

    Each product of the forward pass costs two more in the backward pass, for the gradients of its input and of its
    weights; but nothing asks for the gradient of the mel frames, which are not learned.
    """
    products = _products(work)
    unlearned = products[0] if isinstance(work.model, MelRNN) else 0
    return 2 * work.steps * (3 * sum(products) - unlearned)


def train_bytes(work: Workload, parameters: int) -> int:
    """Memory that one update needs at once if it recomputes nothing, in float32.

    Parameters, their gradient, two moments and the average; and for each row and step the inputs, the pre-activations and
    their gradient, and the states of each layer, and the logits and their gradient.
    """
    cell: Cell = work.model.cell
    inputs, outputs = _widths(work)
    gates = jax.eval_shape(lambda key: cell.init(key, 1), jax.random.key(0))["bias"].size
    layer = cell.hidden_size * (1 + cell.num_states) + 2 * gates  # one more as the input of what is above it
    return 4 * (5 * parameters + work.steps * (inputs + work.model.num_layers * layer + 2 * outputs))


def _products(work: Workload) -> list[int]:
    """Multiplications of each matrix product for one row and one step, of a model without labels: the sizes of the
    matrices, layer by layer, and of the head.
    """
    cell: Cell = work.model.cell
    inputs, outputs = _widths(work)
    widths = [inputs] + [cell.hidden_size] * (work.model.num_layers - 1)
    return [size for width in widths for size in _matrices(cell, width)] + [cell.hidden_size * outputs]


def _matrices(cell: Cell, in_features: int) -> list[int]:
    """Sizes of the matrices of one layer, the one that reads the input first."""
    shapes = jax.eval_shape(lambda key: cell.init(key, in_features), jax.random.key(0))
    names = ["input", *sorted(shapes.keys() - {"input", "initial"})]
    return [shapes[name].size for name in names if shapes[name].ndim > 1]


def _widths(work: Workload) -> tuple[int, int]:
    """Inputs of the first layer and outputs of the head."""
    model = work.model
    if isinstance(model, WaveRNN):
        return model.embedding_size + model.lookback, q_levels(work)
    bands = work.features.step_shape[0]
    return bands, model.distribution.num_params(bands) + 1


def q_levels(work: Workload) -> int:
    """Codes that a wave model's steps are."""
    assert isinstance(work.features, MuLaw)
    return work.features.q_levels
