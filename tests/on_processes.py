"""Run by test_distributed.py, several times at once: the loop of training on a model that compiles in a moment.

python tests/on_processes.py STORE WORKDIR ADDRESS PROCESSES INDEX [shard]
"""

import sys
import tempfile
from pathlib import Path

import jax

from jaxgen.core.errors import ExitCode, run
from jaxgen.data.pipeline import TrainingBatches
from jaxgen.data.store import Store
from jaxgen.models.mel_rnn import MelRNN
from jaxgen.nn.distributions import Normal
from jaxgen.nn.recurrent import LSTM
from jaxgen.objectives.likelihood import Likelihood
from jaxgen.training.checkpoint import Checkpoints
from jaxgen.training.distributed import broadcast_from_first, is_first, join_processes
from jaxgen.training.loop import Outcome, Validation, fit
from jaxgen.training.mesh import Devices
from jaxgen.training.schedule import Train

MODEL = MelRNN(
    cell=LSTM(8, layer_norm=True), num_layers=1, dropout=0.1, distribution=Normal()
)  # no native code to make
TRAIN = Train(steps=120, batch_size=8, seq_len=8, log_every=10, eval_every=120, checkpoint_every=20, keep=9)


def train(store: Store, workdir: Path, *, shard: bool = False) -> Outcome:
    """Trains in this process, beside others that it has joined."""
    spec = store.spec(())
    task = Likelihood().build(MODEL, spec, steps=TRAIN.steps, batch_size=TRAIN.batch_size)
    devices = Devices(TRAIN.batch_size, shard_parameters=shard)
    sizes = {"lookback": 1, "batch_size": TRAIN.batch_size, "seq_len": TRAIN.seq_len, "seed": TRAIN.seed}
    batches = TrainingBatches(store, spec, (), rows=devices.rows, **sizes)

    def validate(params, step):
        loss = broadcast_from_first(lambda: float(sum(leaf.sum() for leaf in jax.tree.leaves(params))))
        return Validation({"loss": loss}, [], spec.features.sample_rate)

    with tempfile.TemporaryDirectory() as other, Checkpoints(workdir / "checkpoints", keep=9) as checkpoints:
        own = workdir if is_first() else Path(other)
        return fit(task, batches, checkpoints, validate, TRAIN, own, devices, seconds_per_step=1.0, run={})


def main() -> int:
    store, workdir = Store(Path(sys.argv[1])), Path(sys.argv[2])
    with join_processes("on", sys.argv[3], int(sys.argv[4]), int(sys.argv[5])):
        outcome = train(store, workdir, shard="shard" in sys.argv)
        print(outcome.value, flush=True)
    return ExitCode.PREEMPTED if outcome is Outcome.PREEMPTED else ExitCode.DONE


if __name__ == "__main__":
    run(main)
