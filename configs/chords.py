"""Chords for a melody that is given: the melody is read as a whole, in both directions, then each eighth gets a chord.

python -m jaxgen.train --config configs/chords.py --data.root DIR
python -m jaxgen.generate --workdir runs/chords --melody tune.mid

Without --data.root it learns from 400 tunes that are composed by rules. --data.root takes a folder of MIDI files of two
tracks, the melody first.

3.4 min of processor time on 2 CPU cores. Validation on the Nottingham tunes: the right root for 58.7 % of the time, a hidden
Markov model 56.5 % (docs/results/chords.md, 2026-11-30).
"""

from jaxgen.config import Config
from jaxgen.data.scores import ComposedTunes, Scores
from jaxgen.evaluation.score_evaluation import ScoreEvaluation
from jaxgen.features import Chords, Melody
from jaxgen.models.score_rnn import ScoreRNN
from jaxgen.nn.distributions import Sampling
from jaxgen.nn.note_heads import RootThenQuality
from jaxgen.nn.recurrent import LSTM
from jaxgen.objectives.likelihood import Likelihood
from jaxgen.objectives.optimizer import AdamW
from jaxgen.training.schedule import Train

CONFIG = Config(
    data=Scores(composed=ComposedTunes(num_clips=400)),
    features=Chords(),
    streams={"melody": Melody(per_frame=2)},
    model=ScoreRNN(
        cell=LSTM(hidden_size=128),
        output=RootThenQuality(),
        context_streams=("melody",),
        context_cell=LSTM(hidden_size=96),
        dropout=0.3,
    ),
    objective=Likelihood(optimizer=AdamW(learning_rate=3e-3, warmup_steps=100, weight_decay=5e-2)),
    train=Train(steps=1_000, batch_size=8, seq_len=512, eval_every=250, checkpoint_every=250),
    evaluation=ScoreEvaluation(num_clips=16, sampling=Sampling(temperature=0.5)),
)
