"""Train steps of recurrent models of sequences, for jaxgen and, as plain numbers, for its peers."""

import dataclasses
from typing import ClassVar

import jax
import numpy as np

from benchmarks.step_peers.given import Given, Layer
from benchmarks.step_work import PLAIN_ADAM, StepWork, start
from benchmarks.workloads import Workload, train_flops
from jaxgen.data.pipeline import Batch
from jaxgen.data.spec import DataSpec
from jaxgen.features import LogMel, MuLaw
from jaxgen.models.mel_rnn import MelRNN
from jaxgen.models.wave_rnn import WaveRNN
from jaxgen.nn.distributions import Normal
from jaxgen.nn.recurrent import GRU, LSTM, RNN, GatedCell
from jaxgen.objectives.likelihood import Likelihood, LikelihoodTask

CELLS: dict[str, type[GatedCell]] = {cell.__name__: cell for cell in (LSTM, GRU, RNN)}
"""Cells by name."""
_RATE = 16_000  # Hz
_BANDS = 80


@dataclasses.dataclass(frozen=True)
class RecurrentWork(StepWork):
    """A train step of one cell and size."""

    peers: ClassVar[str] = "benchmarks.step_peers"

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

    @property
    def unit(self) -> str:
        return self.workload.features.step_unit

    @property
    def steps(self) -> int:
        return self.workload.steps

    def flops(self) -> int:
        return train_flops(self.workload)

    def bound(self) -> LikelihoodTask:
        load = self.workload
        frames = (0.0,) * _BANDS, (1.0,) * _BANDS
        mean, std = frames if self.frames else ((), ())
        spec = DataSpec(features=load.features, mean=mean, std=std)
        return Likelihood(optimizer=PLAIN_ADAM, segment=self.segment).build(
            load.model, spec, steps=1_000, batch_size=self.batch_size
        )

    def batch(self) -> Batch:
        """Random steps; every row starts a clip."""
        random, shape = np.random.default_rng(0), (self.batch_size, self.seq_len)
        steps = (self.batch_size, self.seq_len + 1)
        codes = random.integers(0, 256, steps, dtype=np.uint8)
        reset = np.zeros(shape, bool)
        reset[:, 0] = True
        return {
            "x": random.standard_normal((*steps, _BANDS), dtype=np.float32) if self.frames else codes,
            "reset": reset,
            "mask": np.ones(shape, bool),
            "end": np.zeros(shape, bool),
            "clip": np.zeros(shape, np.int32),
            "labels": {},
        }

    def given(self) -> Given:
        params = jax.tree.map(np.asarray, start(self.bound()).params)
        head = params["head"] if self.frames else params["head"]["linear"]
        x = self.batch()["x"]
        steps = x if self.frames else x.astype(np.int64)
        layers = [
            Layer(*(layer[name] for name in Layer._fields)) for _, layer in sorted(params["stack"]["layers"].items())
        ]
        return Given(
            cell=self.cell,
            past=steps[:, :-1],
            target=steps[:, 1:],
            embedding=None if self.frames else params["embedding"]["embedding"],
            layers=layers,
            head_kernel=head["kernel"],
            head_bias=head["bias"],
        )


_SIZES = (
    (32, 256, 256, 1),
    (32, 256, 512, 1),
    (64, 512, 512, 2),
    (16, 1024, 768, 1),
    (128, 128, 256, 2),
    (8, 2048, 128, 1),
)
RECURRENT = {
    work.name: work
    for cell in CELLS
    for work in (
        *(RecurrentWork(cell, *size) for size in _SIZES),
        RecurrentWork(cell, 32, 64, 512, 2, frames=True),
    )
}
"""Rows by name."""
