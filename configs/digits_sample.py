"""Spoken digits as mu-law samples: a PlannedRNN, conditioned on digit and speaker.

python -m jaxgen.train --config configs/digits_sample.py --data.root DIR

16 min on 2 CPU cores. Validation: of 300 generated clips the classifier hears 96 % of the digits (99 % of real ones) and 95 % of
the speakers. Its Frechet distance is 2.3 times that between halves of the real ones (docs/results/digits_sample.md, 2026-11-27).
"""

from jaxgen.config import Config
from jaxgen.data.public import PublicDataset
from jaxgen.evaluation.autoregressive import AutoregressiveEvaluation
from jaxgen.evaluation.classifier_metrics import ClassifierMetrics
from jaxgen.evaluation.prosody import Prosody
from jaxgen.features import LogMel, MuLaw
from jaxgen.features.source_filter import SourceFilter
from jaxgen.models.mel_rnn import MelRNN
from jaxgen.models.planned_rnn import PlannedRNN
from jaxgen.models.sample_rnn import SampleRNN
from jaxgen.nn.distributions import NormalMixture, Sampling
from jaxgen.nn.recurrent import LSTM
from jaxgen.nn.sample_context import PlannedPrediction
from jaxgen.objectives.likelihood import Likelihood
from jaxgen.objectives.optimizer import AdamW
from jaxgen.training.loop import Train

LABELS = ("digit", "speaker")
CONFIG = Config(
    data=PublicDataset("fsdd"),
    features=MuLaw(sample_rate=8_000),
    model=PlannedRNN(
        frames=SourceFilter(LogMel(sample_rate=8_000, n_fft=256, hop_length=80, n_mels=48, floor=1e-4, stack=2)),
        plan=MelRNN(
            cell=LSTM(hidden_size=320),
            num_layers=2,
            dropout=0.15,
            input_noise=0.4,
            distribution=NormalMixture(num_components=1, min_scale=0.15),
            labels=LABELS,
        ),
        samples=SampleRNN(
            frame_sizes=(80,),
            cell=LSTM(hidden_size=256),
            conditioning_repeat=4,
            sample_size=192,
            context=PlannedPrediction(160),
            labels=LABELS,
        ),
    ),
    objective=Likelihood(optimizer=AdamW(learning_rate=4e-3, warmup_steps=200), ema_decay=0.998),
    train=Train(
        steps=7_000,
        batch_size=4,
        seq_len=3_840,
        steps_per_call=5,
        eval_every=1_000,
        checkpoint_every=500,
        max_eval_clips=60,
    ),
    evaluation=AutoregressiveEvaluation(
        num_clips=300,
        sampling=Sampling(noise_scale=0.5, guidance=0.5, voiced_sharpness=1.0),
        metrics=(ClassifierMetrics(), Prosody()),
    ),
)
