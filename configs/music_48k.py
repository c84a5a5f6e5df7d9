"""Stereo music at 48 kHz as log-mel frames: an LSTM over how loud, how far to a side and how wide each band is.

python -m jaxgen.train --config configs/music_48k.py

A short run (300 updates, 120 clips) took 29 min at about a tenth of one of 2 CPU cores, beside much other work. Validation:
94.7 % of pitches are in the scale (chance 42 %); channels correlate by 0.82 (recordings 0.89) and differ by 4.1 dB (3.3). The
rhythm is not learned yet (docs/results/music_48k.md, 2026-11-30).
"""

from jaxgen.config import Config
from jaxgen.data.synthetic import PluckedStrings
from jaxgen.evaluation.autoregressive import AutoregressiveEvaluation
from jaxgen.evaluation.melody import Melody
from jaxgen.features import LogMel
from jaxgen.models.mel_rnn import MelRNN
from jaxgen.nn.distributions import NormalMixture, Sampling
from jaxgen.nn.recurrent import LSTM
from jaxgen.objectives.likelihood import Likelihood
from jaxgen.objectives.optimizer import AdamW
from jaxgen.training.loop import Train

DATA = PluckedStrings(num_clips=400, sample_rate=48_000, channels=2)

CONFIG = Config(
    data=DATA,
    features=LogMel(sample_rate=48_000, n_fft=2048, hop_length=960, n_mels=80, floor=1e-4, stack=2, channels=2),
    model=MelRNN(
        cell=LSTM(hidden_size=320),
        num_layers=1,
        input_noise=0.2,
        labels=("timbre", "tempo"),
        distribution=NormalMixture(num_components=5, min_scale=0.2),
    ),
    objective=Likelihood(optimizer=AdamW(learning_rate=2e-3, warmup_steps=100), ema_decay=0.99),
    train=Train(steps=2_000, batch_size=16, seq_len=70, steps_per_call=5, eval_every=500, checkpoint_every=500),
    evaluation=AutoregressiveEvaluation(
        num_clips=32, sampling=Sampling(noise_scale=0.4), metrics=(Melody(scale_hz=DATA.scale_hz()),)
    ),
)
