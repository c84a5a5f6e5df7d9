"""Folk-like tunes with chords, as piano rolls of sixteenths: the notes of a frame are drawn one after another, so chords fit.

python -m jaxgen.train --config configs/tunes.py
python -m jaxgen.train --config configs/tunes.py --data.root FOLDER_OF_MIDI
python -m jaxgen.generate --workdir runs/tunes --bars 16

Without --data.root it learns from tunes that are composed by rules.
"""

from jaxgen.config import Config
from jaxgen.data.scores import ComposedTunes, Scores
from jaxgen.evaluation.score_evaluation import ScoreEvaluation
from jaxgen.features import Countdown, PianoRoll
from jaxgen.models.score_rnn import ScoreRNN
from jaxgen.nn.distributions import Sampling
from jaxgen.nn.note_heads import SortedKeys
from jaxgen.nn.recurrent import LSTM
from jaxgen.objectives.likelihood import Likelihood
from jaxgen.objectives.optimizer import AdamW
from jaxgen.training.schedule import Train

CONFIG = Config(
    data=Scores(composed=ComposedTunes(num_clips=300)),
    features=PianoRoll(),
    streams={"left": Countdown()},
    model=ScoreRNN(
        cell=LSTM(hidden_size=256),
        output=SortedKeys(),
        aligned_streams=("left",),
        lags=(4, 16, 32, 64, 128),
        dropout=0.2,
    ),
    objective=Likelihood(optimizer=AdamW(learning_rate=3e-3, warmup_steps=100, weight_decay=5e-2)),
    train=Train(steps=1_000, batch_size=16, seq_len=128, eval_every=200, checkpoint_every=200),
    evaluation=ScoreEvaluation(num_clips=16, sampling=Sampling(temperature=0.8)),
)
