"""Drum sounds from noise: WaveGAN, raw samples against a critic with phase shuffle, conditioned on the kind of drum.

python -m jaxgen.train --config configs/drums_gan.py

The drums are synthesised by jaxgen.data.drums: no network. For a folder of one-shots take configs/oneshots_gan.py.

Made for about 1 hour on 2 CPU cores. Validation: it has been trained in tests only.
"""

from jaxgen.config import Config
from jaxgen.data.drums import Drums
from jaxgen.evaluation.from_noise import FromNoise
from jaxgen.evaluation.judged import Judged
from jaxgen.features import Pcm16
from jaxgen.models.wave_gan import ShuffleCritic, WaveGAN
from jaxgen.objectives.adversarial import Adversarial
from jaxgen.objectives.contest import R1, Logistic
from jaxgen.objectives.optimizer import AdamW
from jaxgen.training.loop import Train

ADAM = AdamW(peak=5e-4, warmup_steps=0, b1=0.0, b2=0.99, clip_norm=100.0, final_share=0.2)

CONFIG = Config(
    data=Drums(),
    features=Pcm16(sample_rate=8_000),
    model=WaveGAN(
        first_steps=4, factors=(4, 4, 4, 4, 4), channels=(256, 128, 64, 32, 16, 16), kernel_size=7, labels=("drum",)
    ),
    objective=Adversarial(
        contest=Logistic(),
        terms=(),
        critic=ShuffleCritic(
            factors=(4, 4, 4, 4, 4, 4), channels=(16, 32, 64, 128, 256, 256), kernel_size=25, shuffle=2
        ),
        penalties=(R1(weight=1.0, every=8),),
        generator_optimizer=ADAM,
        critic_optimizer=ADAM,
    ),
    train=Train(
        steps=10_000,
        batch_size=16,
        seq_len=4_096,
        steps_per_call=2,
        eval_every=1_000,
        checkpoint_every=500,
        best_metric="judge_frechet_distance",
    ),
    evaluation=FromNoise(num_clips=140, metrics=(Judged(),)),
)
