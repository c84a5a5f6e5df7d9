"""Drum sounds from noise as raw samples: WaveGAN as in the paper, smaller, conditioned on the kind of drum.

python -m jaxgen.train --config configs/drums_samples_gan.py

28 min on one of 2 CPU cores, beside other work. Validation: of 140 clips the classifier hears the drum in 63 % (all of the real
ones), and was still getting better: frames (configs/drums_gan.py) have all after 2
min (docs/results/drums_samples_gan.md, 2026-11-27).
"""

from jaxgen.config import Config
from jaxgen.data.drums import Drums
from jaxgen.evaluation.classifier_metrics import ClassifierMetrics
from jaxgen.evaluation.latent_evaluation import LatentEvaluation
from jaxgen.features import Pcm16
from jaxgen.models.wave_gan import ShuffleCritic, WaveGAN
from jaxgen.objectives.adversarial import Adversarial
from jaxgen.objectives.adversarial_loss import R1, Logistic
from jaxgen.objectives.learning_rate import Cosine
from jaxgen.objectives.optimizer import AdamW
from jaxgen.training.loop import Train

ADAM = AdamW(learning_rate=5e-4, warmup_steps=0, b1=0.0, b2=0.99, clip_norm=100.0, schedule=Cosine(final_lr_ratio=0.2))

CONFIG = Config(
    data=Drums(sample_rate=8_000),
    features=Pcm16(sample_rate=8_000),
    model=WaveGAN(
        first_steps=4, factors=(4, 4, 4, 4, 4), channels=(256, 128, 64, 32, 16, 16), kernel_size=7, labels=("drum",)
    ),
    objective=Adversarial(
        loss=Logistic(),
        terms=(),
        critic=ShuffleCritic(
            factors=(4, 4, 4, 4, 4, 4), channels=(16, 32, 64, 128, 256, 256), kernel_size=25, shuffle=2, shift=8
        ),
        penalties=(R1(weight=0.1, every=8),),
        generator_optimizer=ADAM,
        critic_optimizer=ADAM,
    ),
    train=Train(
        steps=6_000,
        batch_size=16,
        seq_len=4_096,
        steps_per_call=5,
        eval_every=1_000,
        checkpoint_every=1_000,
        best_metric="classifier_frechet_distance",
    ),
    evaluation=LatentEvaluation(num_clips=140, metrics=(ClassifierMetrics(),)),
)
