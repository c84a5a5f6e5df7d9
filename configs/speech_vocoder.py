"""Speech of one voice, mel frames to sound: a vocoder for models of any sound at 22,050 Hz (`--data.root DIR` alone).

python -m jaxgen.train --config configs/speech_vocoder.py --data.root DIR

130 min on one of 2 CPU cores, beside other work, on 100 min of one woman's German. Validation, 32 utterances copied:
log-spectral distance 4.0 dB (librosa's Griffin-Lim, 60 iterations: 4.4), PESQ 3.26 (1.99). With 16 refinements: 3.9 and 3.66
(docs/results/speech_vocoder.md, 2026-11-28).
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
    features=LogMel(sample_rate=22_050, n_fft=1024, hop_length=275, n_mels=80),
    model=Vocoder(width=256, num_blocks=6),
    objective=Adversarial(
        terms=(
            FeatureMatching(weight=2.0),
            MelDistance(weight=15.0),
            StftDistance(weight=2.0, windows=(1024, 512, 256)),
        ),
        critic_start=14_000,
        critic=WaveCritic(periods=(2, 3, 5, 7, 11), windows=(1024, 512, 256), channels=16, spectral_channels=16),
    ),
    train=Train(
        steps=26_000, batch_size=8, seq_len=30, steps_per_call=2, eval_every=1_000, checkpoint_every=500, best_metric=""
    ),
    evaluation=CopySynthesis(num_clips=32),
)
