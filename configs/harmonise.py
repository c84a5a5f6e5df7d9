"""Alto, tenor and bass for a soprano that is given: the melody is read as a whole, in both directions, before the first note.

python -m jaxgen.train --config configs/harmonise.py
python -m jaxgen.generate --workdir runs/harmonise --melody tune.mid

Without --data.root it learns from chorales that are composed by rules.

26 min beside other work on 2 CPU cores. Validation on JSB chorales: 1.27 nats/frame; the bass moves to the right pitch in 46 % of
its changes, a hidden Markov model in 23 % (docs/results/harmonise.md, 2026-11-30).
"""

from jaxgen.config import Config
from jaxgen.data.scores import ComposedChorales, Scores
from jaxgen.evaluation.score_evaluation import ScoreEvaluation
from jaxgen.features import Melody, Voices
from jaxgen.models.score_rnn import ScoreRNN
from jaxgen.nn.distributions import Sampling
from jaxgen.nn.note_heads import VoiceByVoice
from jaxgen.nn.recurrent import LSTM
from jaxgen.objectives.likelihood import Likelihood
from jaxgen.objectives.optimizer import AdamW
from jaxgen.training.schedule import Train

CONFIG = Config(
    data=Scores(composed=ComposedChorales(num_clips=300)),
    features=Voices(names=("alto", "tenor", "bass"), tracks=(1, 2, 3)),
    streams={"melody": Melody()},
    model=ScoreRNN(cell=LSTM(hidden_size=256), output=VoiceByVoice(), context_streams=("melody",), dropout=0.2),
    objective=Likelihood(optimizer=AdamW(learning_rate=3e-3, warmup_steps=100, weight_decay=5e-2)),
    train=Train(steps=1_500, batch_size=8, seq_len=640, eval_every=300, checkpoint_every=300),
    evaluation=ScoreEvaluation(num_clips=16, sampling=Sampling(temperature=0.6)),
)
