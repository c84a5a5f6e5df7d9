"""Train steps of a generator against its critic, for jaxgen and, as plain numbers, for its peers."""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import librosa.filters
import numpy as np

from benchmarks.adversarial_peers.given import Given
from benchmarks.product_flops import product_flops
from benchmarks.step_work import PLAIN_ADAM, StepWork, start
from jaxgen.data.spec import DataSpec
from jaxgen.features import LogMel, Pcm16
from jaxgen.models.critics import WaveCritic
from jaxgen.models.non_autoregressive import Critic
from jaxgen.models.vocoder import Vocoder
from jaxgen.models.wave_gan import ShuffleCritic, WaveGAN
from jaxgen.objectives.adversarial import Adversarial, AdversarialTask
from jaxgen.objectives.adversarial_loss import AdversarialLoss, LeastSquares, Logistic
from jaxgen.objectives.objective import Batch
from jaxgen.objectives.terms import FeatureMatching, MelDistance, StftDistance, Term

_RATE = 8_000  # Hz
_MEAN, _STD = -4.0, 2.0  # of log-mel frames, nearly those of speech
_VALUES = 5  # of a label


@dataclasses.dataclass(frozen=True)
class AdversarialWork(StepWork):
    """An update of the critic and one of the generator, without penalties."""

    peers: ClassVar[str] = "benchmarks.adversarial_peers"
    losses: ClassVar[Mapping[str, str]] = {"losses": "generator_loss", "critic_losses": "critic_loss"}

    model: Vocoder | WaveGAN
    """The generator."""
    features: LogMel | Pcm16
    """What a step of a clip is."""
    critic: Critic
    """Who hears it."""
    loss: AdversarialLoss
    """What they play for."""
    batch_size: int
    """B, rows."""
    seq_len: int
    """T, steps of an excerpt or clip."""
    terms: tuple[Term, ...] = ()
    """What else counts in the generator's loss."""

    @property
    def name(self) -> str:
        """generator-B-T-H-L: H is the width or the channels of the first stage, L blocks or stages."""
        model = self.model
        if isinstance(model, Vocoder):
            return f"vocoder-{self.batch_size}-{self.seq_len}-{model.width}-{model.num_blocks}"
        return f"wavegan-{self.batch_size}-{self.seq_len}-{model.channels[0]}-{len(model.factors)}"

    @property
    def unit(self) -> str:
        return self.features.step_unit

    @property
    def steps(self) -> int:
        return self.batch_size * self.seq_len

    @property
    def spec(self) -> DataSpec:
        """What the generator knows of the data."""
        size = int(np.prod(self.features.step_shape)) if isinstance(self.features, LogMel) else 0
        values = tuple(map(str, range(_VALUES)))
        names = self.model.labels if isinstance(self.model, WaveGAN) else ()
        return DataSpec(
            features=self.features,
            vocabularies=tuple((name, values) for name in names),
            mean=(_MEAN,) * size,
            std=(_STD,) * size,
        )

    def flops(self) -> int:
        training = self.bound()
        return product_flops(training.train_step, jax.eval_shape(training.init, jax.random.key(0)), self.batch())

    def bound(self) -> AdversarialTask:
        objective = Adversarial(
            loss=self.loss,
            terms=self.terms,
            critic=self.critic,
            generator_optimizer=PLAIN_ADAM,
            critic_optimizer=PLAIN_ADAM,
        )
        return objective.build(self.model, self.spec, steps=1_000, batch_size=self.batch_size)

    def batch(self) -> Batch:
        """Noise as loud as speech, of clips of which some end."""
        random, length = np.random.default_rng(0), self.seq_len * self.features.samples_per_step
        return {
            "samples": 0.1 * random.standard_normal((self.batch_size, length), dtype=np.float32),
            "length": random.integers(length // 2, length + 1, self.batch_size, dtype=np.int32),
            "clip": np.arange(self.batch_size, dtype=np.int32),
            "labels": {
                name: random.integers(0, _VALUES + 1, self.batch_size, dtype=np.int32)
                for name, _ in self.spec.vocabularies
            },
        }

    def given(self) -> Given:
        training, batch = self.bound(), self.batch()
        state = start(training)
        named = {**jax.tree.map(np.asarray, state.params), "batch": batch}
        if isinstance(features := self.features, LogMel):
            named["mel"] = {
                "filters": librosa.filters.mel(sr=_RATE, n_fft=features.n_fft, n_mels=features.n_mels),
                "mean": np.float32(_MEAN),
                "std": np.float32(_STD),
            }
        if isinstance(self.model, WaveGAN) and isinstance(self.critic, ShuffleCritic):
            drawn = [_drawn(state.key, number, self.batch_size, self.model, self.critic) for number in range(2)]
            named["drawn"] = dict(enumerate(drawn))
        return Given(named)


def _drawn(key: jax.Array, number: int, rows: int, model: WaveGAN, critic: ShuffleCritic) -> dict[str, Any]:
    """What the update of this number draws: latents [B, Z], and what the critic hears moved by in its own turn [layers, 2 B]
    and in the generator's [layers, B], as `AdversarialTask.train_step` and the critic split the key of the state.
    """
    critic_key, generator_key = jax.random.split(jax.random.fold_in(jax.random.wrap_key_data(key), number))
    hears, _ = jax.random.split(jax.random.split(critic_key)[1])
    draws, hears_again = jax.random.split(generator_key)
    drawn = {"latents": np.asarray(jax.random.normal(draws, (rows, model.latent_size)))}
    for turn, hear_key, heard in (("critic", hears, 2 * rows), ("generator", hears_again, rows)):
        *keys, shift_key = jax.random.split(hear_key, len(critic.factors) + 1)
        moves = [_moves(shift_key, heard, critic.shift), *(_moves(k, heard, critic.shuffle) for k in keys[:-1])]
        drawn[turn] = np.stack(moves)
    return drawn


def _moves(key: jax.Array, rows: int, reach: int) -> np.ndarray:
    return np.asarray(jax.random.randint(key, (rows, 1, 1), 0, 2 * reach + 1)).ravel()


_MEL = LogMel(sample_rate=_RATE, n_fft=256, hop_length=80, n_mels=48, floor=1e-4)
ADVERSARIAL = {
    work.name: work
    for work in (
        AdversarialWork(
            model=Vocoder(width=192, num_blocks=6),
            features=_MEL,
            critic=WaveCritic(periods=(2, 3, 5, 7, 11), windows=(512, 256, 128), channels=16, spectral_channels=16),
            loss=LeastSquares(),
            batch_size=16,
            seq_len=32,
            terms=(FeatureMatching(weight=2.0), MelDistance(weight=15.0), StftDistance(weight=2.0)),
        ),
        AdversarialWork(
            model=WaveGAN(
                first_steps=4,
                factors=(4, 4, 4, 4, 4),
                channels=(256, 128, 64, 32, 16, 16),
                kernel_size=7,
                labels=("drum",),
            ),
            features=Pcm16(sample_rate=_RATE),
            critic=ShuffleCritic(
                factors=(4, 4, 4, 4, 4, 4), channels=(16, 32, 64, 128, 256, 256), kernel_size=25, shuffle=2
            ),
            loss=Logistic(),
            batch_size=16,
            seq_len=4_096,
        ),
        AdversarialWork(
            model=WaveGAN(
                first_steps=6,
                factors=(2, 2, 2),
                channels=(256, 256, 192, 128),
                kernel_size=3,
                depth=1,
                labels=("digit", "speaker"),
            ),
            features=dataclasses.replace(_MEL, stack=2),
            critic=ShuffleCritic(
                factors=(2, 2, 2, 2, 3), channels=(128, 192, 256, 256, 256), kernel_size=5, shuffle=1, shift=2
            ),
            loss=Logistic(),
            batch_size=32,
            seq_len=48,
        ),
    )
}
"""Rows by name, with the networks of configs/digits_vocoder.py, drums_samples_gan.py (without its shift) and digits_gan.py."""
