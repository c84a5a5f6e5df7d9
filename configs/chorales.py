"""Chorales of four voices: a recurrent network that writes soprano, alto, tenor and bass, sixteenth by sixteenth.

python -m jaxgen.train --config configs/chorales.py
python -m jaxgen.generate --workdir runs/chorales --bars 16 --seed 3

Without --data.root it learns from 300 chorales that are composed by rules. --data.root takes a folder of MIDI files of four
tracks each, highest first, or an .npz archive of voices.

31 min at 40 % of one of 2 CPU cores, beside other work (667 s of processor time). Validation at the last of 1,200 updates: 0.964
nats/frame, where a Markov chain of each voice has 3.54. Of the sounding time 98.9 % is in key (docs/results/chorales.md,
2026-11-30).
"""

from jaxgen.config import Config
from jaxgen.data.scores import ComposedChorales, Scores
from jaxgen.evaluation.score_evaluation import ScoreEvaluation
from jaxgen.features import Countdown, Voices
from jaxgen.models.score_rnn import ScoreRNN
from jaxgen.nn.distributions import Sampling
from jaxgen.nn.note_heads import VoiceByVoice
from jaxgen.nn.recurrent import LSTM
from jaxgen.objectives.likelihood import Likelihood
from jaxgen.objectives.optimizer import AdamW
from jaxgen.training.schedule import Train

CONFIG = Config(
    data=Scores(composed=ComposedChorales(num_clips=300)),
    features=Voices(),
    streams={"left": Countdown()},
    model=ScoreRNN(cell=LSTM(hidden_size=256), output=VoiceByVoice(), aligned_streams=("left",), dropout=0.2),
    objective=Likelihood(optimizer=AdamW(learning_rate=3e-3, warmup_steps=100, weight_decay=5e-2)),
    train=Train(steps=1_200, batch_size=16, seq_len=128, eval_every=200, checkpoint_every=200),
    evaluation=ScoreEvaluation(num_clips=16, sampling=Sampling(temperature=0.8)),
)
