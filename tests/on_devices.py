"""Run by test_mesh.py in a process that has eight devices: a tiny model trained on some of them, in all ways."""

import dataclasses
import itertools
import json
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxgen.data.batches import Stream
from jaxgen.data.store import Store
from jaxgen.models.config import ModelConfig
from jaxgen.models.critics import WaveCritic
from jaxgen.models.mel_rnn import MelRNN
from jaxgen.models.vocoder import Vocoder
from jaxgen.nn.distributions import Normal
from jaxgen.nn.recurrent import LSTM
from jaxgen.objectives.adversarial import Adversarial
from jaxgen.objectives.likelihood import Likelihood
from jaxgen.objectives.objective import Objective
from jaxgen.objectives.terms import MelDistance
from jaxgen.training.checkpoint import Checkpoints
from jaxgen.training.feed import prefetch_groups
from jaxgen.training.mesh import Devices

LSTM_MODEL = MelRNN(cell=LSTM(hidden_size=8), num_layers=1, dropout=0.1, input_noise=0.1, distribution=Normal())
STEPS, ROWS, PER_CALL = 8, 16, 2
CONTEST = Adversarial(terms=(MelDistance(),), critic=WaveCritic(periods=(3,), windows=(), channels=2), critic_steps=2)


@dataclasses.dataclass(frozen=True)
class Case:
    """One way to train."""

    devices: int = 1
    shard: bool = False
    objective: Objective = Likelihood(accumulation=2)
    model: ModelConfig = LSTM_MODEL


CASES = {
    "1": Case(),
    "4 replicated": Case(4),
    "8 sharded": Case(8, True),
    "adversarial, 1": Case(1, False, CONTEST, Vocoder(width=8, num_blocks=1)),
    "adversarial, 4 sharded": Case(4, True, CONTEST, Vocoder(width=8, num_blocks=1)),
}


class Program:
    """A case, compiled once."""

    def __init__(self, store: Store, case: Case):
        self.store, self.spec = store, store.spec(())
        self.case = case
        task = case.objective.build(case.model, self.spec, steps=STEPS, batch_size=ROWS)
        used = jax.devices()[: case.devices]
        self.devices = Devices(
            ROWS, accumulation=case.objective.num_microbatches, shard_parameters=case.shard, devices=used
        )
        self.first = self.devices.init_state(task.init, jax.random.key(0))
        self.step = self.devices.compile(lambda s, b: jax.lax.scan(task.train_step, s, b), self.first)

    def stream(self) -> Stream:
        options = {"batch_size": ROWS, "seq_len": 8, "seed": 0, "rows": self.devices.rows}
        return iter(self.case.objective.batches(self.case.model, self.store, self.spec, **options))

    def train(self, stream: Stream, state: Any, first: int, last: int) -> tuple[list[float], Any, dict[str, Any]]:
        """Losses of the steps first..last, and the state and data position after them."""
        losses = []
        for call in prefetch_groups(stream, first, range(first + PER_CALL - 1, last + 1, PER_CALL), self.devices.place):
            state, metrics = self.step(state, call.batches)
            losses += np.asarray(metrics["loss"]).tolist()
        return losses, state, call.position


def curve(program: Program) -> list[float]:
    """Losses of a run."""
    first = jax.tree.map(lambda array: array.copy(), program.first)  # training donates it
    return program.train(program.stream(), first, 1, STEPS)[0]


def largest_share(program: Program) -> float:
    """Of the bytes of the parameters, their average and the moments, what the first device holds."""
    state = program.first
    leaves = jax.tree.leaves((state.params, state.average, state.opt_state))
    return sum(leaf.addressable_shards[0].data.nbytes for leaf in leaves) / sum(leaf.nbytes for leaf in leaves)


def moved(programs: list[Program], folder: Path) -> list[float]:
    """Losses of a run that moves from one program to the next by its checkpoints, each of which does two steps."""
    losses: list[float] = []
    with closing(Checkpoints(folder, keep=2)) as checkpoints:
        for done, program in zip(itertools.count(0, 2), programs, strict=False):
            stream, state = program.stream(), program.first
            if done:
                _, state, position = checkpoints.restore(done, state)
                stream.set_state(position)
            more, state, position = program.train(stream, state, done + 1, done + 2)
            checkpoints.save(done + 2, state, position, {}, None)
            checkpoints.wait()
            losses += more
    return losses


def main() -> None:
    store, folder = Store(Path(sys.argv[1])), Path(sys.argv[2])
    jax.config.update("jax_num_cpu_devices", 8)
    programs = {name: Program(store, case) for name, case in CASES.items()}
    local = programs["8 sharded"].devices.gather(programs["8 sharded"].first.average)
    jax.tree.map(np.testing.assert_array_equal, local, programs["1"].first.average)
    found = {
        "curves": {name: curve(program) for name, program in programs.items()},
        "share": largest_share(programs["8 sharded"]),
        "local": sorted({len(leaf.sharding.device_set) for leaf in jax.tree.leaves(local)}),
        "moved": moved([programs[name] for name in ("1", "4 replicated", "8 sharded", "1")], folder),
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
