"""Spoken digits as mu-law samples: an LSTM with softmax cross-entropy, conditioned on digit and speaker.

python -m jaxgen.train --config configs/digits_wave.py --data.root DIR

About 15 min (9.2 steps/s on one thread) on 2 CPU cores. Validation, without labels and after 8,270 updates: 4.013
bits/sample where unigrams score 7.166 and bigrams 5.403 (`benchmarks.quality`, docs/results/digits_wave.md, 2026-11-25).
"""

from jaxgen.config import Config
from jaxgen.data.public import PublicDataset
from jaxgen.evaluation.autoregressive import AutoregressiveEvaluation
from jaxgen.evaluation.classifier_metrics import ClassifierMetrics
from jaxgen.evaluation.prosody import Prosody
from jaxgen.features import MuLaw
from jaxgen.models.wave_rnn import WaveRNN
from jaxgen.nn.recurrent import LSTM
from jaxgen.objectives.likelihood import Likelihood
from jaxgen.objectives.optimizer import AdamW
from jaxgen.training.loop import Train

CONFIG = Config(
    data=PublicDataset("fsdd"),
    features=MuLaw(sample_rate=8_000),
    model=WaveRNN(cell=LSTM(hidden_size=256), num_layers=1, labels=("digit", "speaker")),
    objective=Likelihood(optimizer=AdamW(learning_rate=8e-3, warmup_steps=100), ema_decay=0.995),
    train=Train(
        steps=8_000,
        batch_size=16,
        seq_len=256,
        steps_per_call=5,
        eval_every=2_000,
        checkpoint_every=1_000,
        max_eval_clips=60,
    ),
    evaluation=AutoregressiveEvaluation(num_clips=300, metrics=(ClassifierMetrics(), Prosody())),
)
