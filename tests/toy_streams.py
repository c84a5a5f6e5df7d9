"""A model that reads a text and how loud each step shall be, from outside the package: letters that sound.

python -m jaxgen.train --config tests/toy_streams.py
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxgen.config import Config
from jaxgen.data.spec import DataSpec
from jaxgen.data.synthetic import SyntheticDataset
from jaxgen.evaluation.autoregressive import AutoregressiveEvaluation
from jaxgen.features import Characters, LogMel, Loudness
from jaxgen.models.conditioning import Conditioning
from jaxgen.models.mel_rnn import FrameScale, MelModule, MelRNN
from jaxgen.nn.distributions import Normal, Sampling
from jaxgen.nn.recurrent import GRU
from jaxgen.objectives.likelihood import Likelihood
from jaxgen.objectives.optimizer import AdamW
from jaxgen.training.schedule import Train

RATE, HOP, STEPS_PER_LETTER = 8_000, 80, 8
FREQUENCIES = {"a": 400.0, "b": 1_100.0, "c": 2_600.0}


@dataclasses.dataclass(frozen=True)
class Spelt(SyntheticDataset):
    """Two to five letters, each a tone of its own, loud or soft."""

    num_clips: int = 60
    """Clips in all."""
    seconds: float = 0.4
    """Length of the longest clip in seconds."""
    seed: int = 0
    """Another seed makes other clips."""
    sample_rate: int = RATE
    """Hz."""

    name = "spelt"
    version = 1

    def labels(self, index: int) -> dict[str, Any]:
        random = np.random.default_rng((self.seed, index))
        return {"text": "".join(random.choice([*FREQUENCIES], size=random.integers(2, 6)))}

    def synthesise(self, index: int, labels: Mapping[str, Any]) -> np.ndarray:
        random, count = np.random.default_rng((self.seed, index, 1)), STEPS_PER_LETTER * HOP
        tones = [
            random.choice([0.05, 0.5]) * np.sin(2 * np.pi * FREQUENCIES[letter] * np.arange(count) / RATE)
            for letter in labels["text"]
        ]
        return np.concatenate(tones).astype(np.float32)


@dataclasses.dataclass(frozen=True)
class Speller(MelRNN):
    """A `MelRNN` of which each step reads the letter that is due, and how loud it shall be."""

    letter_size: int = 8
    """Features of a letter."""

    context_streams = ("text",)

    def make(self, data: DataSpec, *, dtype: Any = jnp.float32, rngs: nnx.Rngs) -> "SpellerModule":
        scale = FrameScale(np.float32(data.mean), np.float32(data.std), data.features.stack, data.features.hop_length)
        return SpellerModule(self, data, scale, dtype, rngs)


class SpellerModule(MelModule):
    def __init__(self, config: Speller, data: DataSpec, scale: FrameScale, dtype: Any, rngs: nnx.Rngs):
        super().__init__(config, data, scale, dtype, rngs, aligned={"letter": config.letter_size, "loudness": 1})
        self.letters = nnx.Embed(dict(data.streams)["text"].num_values, config.letter_size, rngs=rngs)

    def encode_context(self, conditioning: Conditioning, key: jax.Array | None = None) -> Conditioning:
        text, loudness = conditioning.context["text"], conditioning.aligned["loudness"]
        letters = jnp.where(text.mask[..., None], self.letters(text.values), 0.0)
        due = jnp.arange(loudness.shape[1]) // STEPS_PER_LETTER
        there = (due < letters.shape[1])[:, None]
        due = jnp.where(there, letters[:, jnp.minimum(due, letters.shape[1] - 1)], 0.0)
        return dataclasses.replace(conditioning, aligned={"letter": due, "loudness": loudness})


CONFIG = Config(
    data=Spelt(),
    features=LogMel(sample_rate=RATE, n_fft=256, hop_length=HOP, n_mels=24),
    streams={"text": Characters(symbols="abc"), "loudness": Loudness()},
    model=Speller(
        cell=GRU(hidden_size=48), num_layers=1, distribution=Normal(0.3), input_noise=1.0, aligned_streams=("loudness",)
    ),
    objective=Likelihood(optimizer=AdamW(learning_rate=1e-2, warmup_steps=10), ema_decay=0.9),
    train=Train(steps=250, batch_size=8, seq_len=64, eval_every=125, checkpoint_every=50, log_every=25),
    evaluation=AutoregressiveEvaluation(num_clips=4, num_previews=2, sampling=Sampling(noise_scale=0.1)),
)
