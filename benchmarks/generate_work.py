"""The rows of `benchmarks.generate`: sample-level LSTMs and how many streams they make, for jaxgen and as plain numbers."""

import dataclasses

import jax
import numpy as np

from benchmarks.generate_peers.given import Given
from jaxgen.core.errors import UserError
from jaxgen.data.spec import DataSpec
from jaxgen.features import MuLaw
from jaxgen.models.wave_rnn import WaveRNN
from jaxgen.nn.recurrent import LSTM
from jaxgen.objectives.likelihood import Likelihood, LikelihoodTask

SAMPLE_RATE = 16_000
"""Hz."""
_EMBEDDING_SIZE = 64
_COMPARED = 8  # codes after which logits are compared


@dataclasses.dataclass(frozen=True)
class GenerateWork:
    """Free-running generation by one LSTM layer over 8-bit codes at 16 kHz."""

    hidden_size: int
    """H."""
    streams: int
    """Clips made at once."""

    @property
    def name(self) -> str:
        """lstm-H-streams."""
        return f"lstm-{self.hidden_size}-{self.streams}"

    @property
    def model(self) -> WaveRNN:
        """As jaxgen has it."""
        return WaveRNN(cell=LSTM(hidden_size=self.hidden_size), embedding_size=_EMBEDDING_SIZE, lookback=1)

    @property
    def data(self) -> DataSpec:
        """What the model must know of its data."""
        return DataSpec(features=MuLaw(sample_rate=SAMPLE_RATE))

    def task(self) -> LikelihoodTask:
        """Makes parameters, and modules of them; nothing is trained."""
        return Likelihood().build(self.model, self.data, steps=1, batch_size=1)


ROWS = {work.name: work for work in (GenerateWork(h, streams) for h in (256, 512) for streams in (1, 8, 32))}
"""What is measured, by name."""


def rows_named(names: tuple[str, ...]) -> list[GenerateWork]:
    """The rows of these names, lstm-H-streams, of any size; all known ones for none. Raises UserError."""
    return [_row(name) for name in names] or list(ROWS.values())


def _row(name: str) -> GenerateWork:
    words = name.split("-")
    if len(words) != 3 or words[0] != "lstm" or not all(word.isdecimal() and int(word) for word in words[1:]):
        raise UserError(f"--rows has '{name}', expected lstm-H-streams, e.g. {next(iter(ROWS))}.")
    return GenerateWork(int(words[1]), int(words[2]))


def given(work: GenerateWork) -> Given:
    """What peers start from: the parameters that jaxgen makes for the same seed."""
    params = jax.device_get(work.task().init(jax.random.key(0)).params)
    layer = params["stack"]["layers"][0]
    return Given(
        embedding=params["embedding"]["embedding"],
        input=layer["input"],
        recurrent=layer["recurrent"],
        bias=layer["bias"] + layer["recurrent_bias"],
        head_kernel=params["head"]["linear"]["kernel"],
        head_bias=params["head"]["linear"]["bias"],
        codes=np.random.default_rng(0).integers(256, size=_COMPARED),
    )
