"""Spoken digits, mel frames to sound: a vocoder for the frames of configs/digits_mel.py.

python -m jaxgen.train --config configs/digits_vocoder.py --data.root DIR

Made for about 2 hours on 2 CPU cores; it has not been trained to its end yet. Validation after a try of 500 steps (with
--train.steps 500 and no judges, 7 min on one busy core, 2026-11-25), 40 clips copied: log-spectral distance 7.1 dB as
Griffin-Lim's with 32 and 60 iterations, Frechet distance 3.1 against 34, mel distance 0.26 nats against 0.09.
"""

from jaxgen.config import Config
from jaxgen.data.named import Named
from jaxgen.evaluation.copy_synthesis import CopySynthesis
from jaxgen.evaluation.judged import Judged
from jaxgen.evaluation.prosody import Prosody
from jaxgen.features import LogMel
from jaxgen.models.critics import WaveCritic
from jaxgen.models.vocoder import Vocoder
from jaxgen.objectives.adversarial import Adversarial
from jaxgen.objectives.terms import FeatureMatching, MelDistance, StftDistance
from jaxgen.training.loop import Train

CONFIG = Config(
    data=Named("fsdd"),
    features=LogMel(sample_rate=8_000, n_fft=256, hop_length=80, n_mels=48, floor=1e-4),
    model=Vocoder(width=192, num_blocks=6),
    objective=Adversarial(
        terms=(FeatureMatching(weight=2.0), MelDistance(weight=15.0), StftDistance(weight=2.0)),
        critic=WaveCritic(periods=(2, 3, 5, 7, 11), windows=(512, 256, 128), channels=16, spectral_channels=16),
    ),
    train=Train(steps=20_000, batch_size=16, seq_len=32, steps_per_call=2, eval_every=1_000, checkpoint_every=500),
    evaluation=CopySynthesis(num_clips=300, metrics=(Judged(), Prosody())),
)
