"""Piano rolls of 88 keys, as the benchmarks of polyphonic music have them: JSB chorales, Nottingham, MuseData, Piano-midi.

python -m jaxgen.train --config configs/piano_roll.py --data.root ARCHIVE.npz

Without --data.root it learns from 300 tunes that are composed by rules.

11 min of processor time on one of 2 CPU cores. Validation on JSB chorales, x[1:] from x[:-1]: 7.98 nats/frame, 7.80 by the
mixture of all keys (docs/results/piano_roll.md, 2026-11-30).
"""

from jaxgen.config import Config
from jaxgen.data.scores import ComposedTunes, Scores
from jaxgen.evaluation.score_evaluation import ScoreEvaluation
from jaxgen.features import PianoRoll
from jaxgen.models.score_rnn import ScoreRNN
from jaxgen.nn.distributions import Sampling
from jaxgen.nn.note_heads import IndependentKeys
from jaxgen.nn.recurrent import LSTM
from jaxgen.objectives.likelihood import Likelihood
from jaxgen.objectives.optimizer import AdamW
from jaxgen.training.schedule import Train

CONFIG = Config(
    data=Scores(composed=ComposedTunes(num_clips=300)),
    features=PianoRoll(onsets=False),  # the archives do not tell a held key from a repeated one
    model=ScoreRNN(cell=LSTM(hidden_size=256), output=IndependentKeys(), dropout=0.2),
    objective=Likelihood(optimizer=AdamW(learning_rate=3e-3, warmup_steps=100, weight_decay=5e-2), ema_decay=0.998),
    train=Train(steps=6_000, batch_size=16, seq_len=64, steps_per_call=5, eval_every=500, checkpoint_every=500),
    evaluation=ScoreEvaluation(num_clips=32, sampling=Sampling(temperature=0.8)),
)
