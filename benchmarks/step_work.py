"""The rows of the yardstick: train steps of a size, for jaxgen and, as plain numbers, for its peers."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.step_peers.given import LEARNING_RATE, Given, Layer
from benchmarks.workloads import Workload
from jaxgen.data.pipeline import Batch
from jaxgen.data.spec import DataSpec
from jaxgen.distributions import Normal
from jaxgen.errors import UserError
from jaxgen.features import LogMel, MuLaw
from jaxgen.models.mel_rnn import MelRNN
from jaxgen.models.wave_rnn import WaveRNN
from jaxgen.objectives.likelihood import Likelihood, LikelihoodTraining
from jaxgen.objectives.optimizer import AdamW
from jaxgen.objectives.state import TrainState
from jaxgen.recurrent import GRU, LSTM, RNN, GatedCell

CELLS: dict[str, type[GatedCell]] = {cell.__name__: cell for cell in (LSTM, GRU, RNN)}
"""Cells by name."""
_RATE = 16_000  # Hz
_BANDS = 80
_PLAIN_ADAM = AdamW(peak=LEARNING_RATE, warmup_steps=0, final_share=1.0, b2=0.999, clip_norm=1e9)


@dataclasses.dataclass(frozen=True)
class StepWork:
    """A train step of one cell and size."""

    cell: str
    """LSTM, GRU or RNN."""
    batch_size: int
    """B, rows."""
    seq_len: int
    """T, steps the gradient sees."""
    hidden_size: int
    """H, width of each layer; codes are embedded into a quarter of it, at least 64."""
    num_layers: int
    """L, recurrent layers."""
    frames: bool = False
    """Whether steps are mel frames with 80 bands, and not 8-bit codes."""
    segment: int = 0
    """Steps whose activations are in memory at once; 0 is all."""

    @property
    def name(self) -> str:
        """cell-B-T-H-L."""
        return f"{self.cell.lower()}-{self.batch_size}-{self.seq_len}-{self.hidden_size}-{self.num_layers}"

    @property
    def workload(self) -> Workload:
        """The model and its batches, as jaxgen has them."""
        cell = CELLS[self.cell](self.hidden_size)
        wave = WaveRNN(cell=cell, num_layers=self.num_layers, embedding_size=max(64, self.hidden_size // 4), lookback=1)
        mel = MelRNN(cell=cell, num_layers=self.num_layers, residual=False, distribution=Normal())
        if self.frames:
            return Workload(
                mel, LogMel(sample_rate=_RATE, n_fft=1024, hop_length=256, n_mels=_BANDS), self.batch_size, self.seq_len
            )
        return Workload(wave, MuLaw(sample_rate=_RATE), self.batch_size, self.seq_len)


_SIZES = (
    (32, 256, 256, 1),
    (32, 256, 512, 1),
    (64, 512, 512, 2),
    (16, 1024, 768, 1),
    (128, 128, 256, 2),
    (8, 2048, 128, 1),
)
ROWS = {
    work.name: work
    for cell in CELLS
    for work in (
        *(StepWork(cell, *size) for size in _SIZES),
        StepWork(cell, 32, 64, 512, 2, frames=True),
    )
}
"""All rows by name."""


def rows_named(names: tuple[str, ...]) -> list[StepWork]:
    """The rows of these names, or all. Raises UserError for a name that no row has."""
    if unknown := [name for name in names if name not in ROWS]:
        raise UserError(f"--rows has '{unknown[0]}', but the rows are {', '.join(ROWS)}.")
    return [ROWS[name] for name in names or ROWS]


def bound(work: StepWork) -> LikelihoodTraining:
    """The real objective, with Adam as plain as its peers'. It also clips (at a norm that is never met) and averages
    the weights, which its peers need not."""
    load = work.workload
    frames = (0.0,) * _BANDS, (1.0,) * _BANDS
    mean, std = frames if work.frames else ((), ())
    spec = DataSpec(features=load.features, mean=mean, std=std)
    return Likelihood(optimizer=_PLAIN_ADAM, segment=work.segment).bind(
        load.model, spec, steps=1_000, batch_size=work.batch_size
    )


def batch_of(work: StepWork) -> Batch:
    """Random steps, which cost what any others do; every row starts a clip."""
    random, shape = np.random.default_rng(0), (work.batch_size, work.seq_len)
    steps = (work.batch_size, work.seq_len + 1)
    codes = random.integers(0, 256, steps, dtype=np.uint8)
    reset = np.zeros(shape, bool)
    reset[:, 0] = True
    return {
        "x": random.standard_normal((*steps, _BANDS), dtype=np.float32) if work.frames else codes,
        "reset": reset,
        "mask": np.ones(shape, bool),
        "end": np.zeros(shape, bool),
        "clip": np.zeros(shape, np.int32),
        "labels": {},
    }


def start(training: LikelihoodTraining) -> TrainState:
    """Fresh parameters, the same in every process. Biases and initial carries, which are fresh at 0, are moved, so that
    a peer that confuses them computes another loss; but for the recurrent biases, which not all peers have."""
    state = jax.jit(training.init)(jax.random.key(0))

    def moved(path: Any, leaf: jax.Array) -> jax.Array:
        names = [str(getattr(key, "key", key)) for key in path]
        if names[-1] not in ("bias", "initial"):
            return leaf
        noise = np.random.default_rng(len(leaf)).standard_normal(leaf.shape, dtype=np.float32)
        return leaf + 0.1 * jnp.asarray(noise)

    return state._replace(params=jax.tree_util.tree_map_with_path(moved, state.params))


def given(work: StepWork) -> Given:
    """The same start and batch as plain arrays."""
    params = jax.tree.map(np.asarray, start(bound(work)).params)
    head = params["head"] if work.frames else params["head"]["linear"]
    x = batch_of(work)["x"]
    steps = x if work.frames else x.astype(np.int64)
    layers = [Layer(*(layer[name] for name in Layer._fields)) for _, layer in sorted(params["stack"]["layers"].items())]
    return Given(
        cell=work.cell,
        past=steps[:, :-1],
        target=steps[:, 1:],
        embedding=None if work.frames else params["embedding"]["embedding"],
        layers=layers,
        head_kernel=head["kernel"],
        head_bias=head["bias"],
    )
