"""Stereo music at 48 kHz, mel frames to sound: a vocoder for models of any such music (`--data.root DIR`).

python -m jaxgen.train --config configs/music_48k_vocoder.py --data.root DIR

A short run (half the width and depth, 200 updates without critics) took 11 min at about a fifth of one of 2 CPU cores, beside
much other work. Validation, 10 drum recordings copied: log-spectral distance 2.7 dB (librosa's Griffin-Lim, 32 iterations:
2.3), the correlation of the channels is off by 0.004 (0.86) (docs/results/music_48k_vocoder.md, 2026-11-30).
"""

from jaxgen.config import Config
from jaxgen.data.folder import Folder
from jaxgen.evaluation.copy_synthesis import CopySynthesis
from jaxgen.features import LogMel
from jaxgen.models.critics import WaveCritic
from jaxgen.models.vocoder import Vocoder
from jaxgen.objectives.adversarial import Adversarial
from jaxgen.objectives.terms import FeatureMatching, MelDistance, StftDistance
from jaxgen.training.loop import Train

CONFIG = Config(
    data=Folder(),
    features=LogMel(sample_rate=48_000, n_fft=2048, hop_length=960, n_mels=80, floor=1e-4, channels=2),
    model=Vocoder(width=256, num_blocks=6),
    objective=Adversarial(
        terms=(
            FeatureMatching(weight=2.0),
            MelDistance(weight=15.0),
            StftDistance(weight=2.0, windows=(2048, 1024, 512)),
        ),
        critic_start=8_000,
        critic=WaveCritic(windows=(2048, 1024, 512), channels=16, spectral_channels=16),
    ),
    train=Train(
        steps=12_000, batch_size=8, seq_len=20, steps_per_call=2, eval_every=1_000, checkpoint_every=500, best_metric=""
    ),
    evaluation=CopySynthesis(num_clips=32),
)
