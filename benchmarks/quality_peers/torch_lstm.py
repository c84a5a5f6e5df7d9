"""A language model over codes in PyTorch: embedding, `nn.LSTM`, linear head, Adam.

It reads the batches of jaxgen's pipeline, the same numbers in the same order, and scores the same clips. Its state goes
on from chunk to chunk and is 0 at the first step of every clip, as jaxgen's is: `nn.LSTM` cannot forget within a
call, so a chunk is cut where a clip of any row starts.
"""

import itertools
import math
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn

from benchmarks.quality_peers.clock import trained_in_turns
from jaxgen.config import Config
from jaxgen.core.serial import from_json
from jaxgen.data.pipeline import Batch, scoring_batches
from jaxgen.data.preparation import prepare as prepare_store
from jaxgen.features import MuLaw
from jaxgen.objectives.learning_rate import Cosine
from jaxgen.objectives.likelihood import Likelihood
from jaxgen.objectives.optimizer import AdamW
from jaxgen.runs.run import training_batches

State = tuple[torch.Tensor, torch.Tensor]


def prepare(spec: dict[str, Any]) -> tuple[dict[str, Any], Callable[[int], dict[str, Any]]]:
    """spec: `config`, the JSON of jaxgen's Config, which decides data, batches, seed and optimizer; the `seconds` and
    `turns` of training in all; `hidden_size`, `num_layers`, `embedding_size`; and `peak`, the highest learning rate.
    """
    began = time.perf_counter()
    config = from_json(spec["config"], Config, "the order")
    _Learner(config, spec).update()  # the first one is slower
    learner = _Learner(config, spec)
    facts = {
        "parameters": sum(p.numel() for p in learner.network.parameters()),
        "warmup_seconds": time.perf_counter() - began,
    }
    return facts, trained_in_turns(spec["seconds"] / spec["turns"], learner.update, learner.bits_per_sample)


class Network(nn.Module):
    """Codes to logits of the next."""

    def __init__(self, q_levels: int, spec: dict[str, Any]) -> None:
        super().__init__()
        hidden = spec["hidden_size"]
        self.embedding = nn.Embedding(q_levels, spec["embedding_size"])
        self.lstm = nn.LSTM(spec["embedding_size"], hidden, spec["num_layers"], batch_first=True)
        self.head = nn.Linear(hidden, q_levels)

    def forward(self, codes: torch.Tensor, reset: np.ndarray, state: State) -> tuple[torch.Tensor, State]:
        """Logits [B, T, Q] and the state after the last. codes: int64 [B, T]; reset: bool [B, T], the state is 0 before
        that step; state: h and c, [L, B, H] each.
        """
        inputs, outputs = self.embedding(codes), []
        cuts = sorted({0, *np.flatnonzero(reset.any(axis=0)).tolist(), codes.shape[1]})
        for start, stop in itertools.pairwise(cuts):
            kept = torch.from_numpy(~reset[:, start, None])
            h, c = (part * kept for part in state)
            hidden, state = self.lstm(inputs[:, start:stop], (h, c))
            outputs.append(hidden)
        return self.head(torch.cat(outputs, dim=1)), state

    def start(self, rows: int) -> State:
        """The state before the first step."""
        shape = (self.lstm.num_layers, rows, self.lstm.hidden_size)
        return torch.zeros(shape), torch.zeros(shape)

    def nats(self, batch: Batch, state: State) -> tuple[torch.Tensor, State]:
        """Of the real steps of a batch [N], and the state after it. One past code is read, whatever more it has."""
        x = torch.from_numpy(batch["x"].astype(np.int64))
        steps = batch["reset"].shape[1]
        logits, state = self(x[:, -steps - 1 : -1], batch["reset"], state)
        mask = torch.from_numpy(batch["mask"])
        return nn.functional.cross_entropy(logits[mask], x[:, -steps:][mask], reduction="none"), state


class _Learner:
    """A network before its first update."""

    def __init__(self, config: Config, spec: dict[str, Any]) -> None:
        torch.manual_seed(config.train.seed)
        self._config, self._seconds, self._peak = config, spec["seconds"], spec["peak"]
        self._store = prepare_store(config.data, config.features, config.audio, config.cache_dir)
        self._data = self._store.spec(())
        self._batches = iter(training_batches(config, self._store, self._data))
        assert isinstance(config.features, MuLaw)
        assert isinstance(config.objective, Likelihood)
        assert isinstance(config.objective.optimizer, AdamW)
        assert isinstance(config.objective.optimizer.schedule, Cosine)
        self.network = Network(config.features.q_levels, spec)
        adam = self._plan = config.objective.optimizer
        self._last = config.objective.optimizer.schedule.final_lr_ratio
        plain = [p for p in self.network.parameters() if p.ndim < 2]
        matrices = [p for p in self.network.parameters() if p.ndim >= 2]
        self._adam = torch.optim.AdamW(
            [{"params": matrices, "weight_decay": adam.weight_decay}, {"params": plain, "weight_decay": 0.0}],
            lr=self._peak,
            betas=(adam.b1, adam.b2),
        )
        self._state = self.network.start(config.train.batch_size)
        self._steps, self._spent = 0, 0.0

    def update(self) -> int:
        """One update; the learning rate follows jaxgen's plan, its fall by the seconds spent so far."""
        started = time.perf_counter()
        for group in self._adam.param_groups:
            group["lr"] = self._learning_rate()
        self._adam.zero_grad()
        nats, state = self.network.nats(next(self._batches), self._state)
        loss = nats.mean()
        loss.backward()
        nn.utils.clip_grad_norm_(self.network.parameters(), self._plan.clip_norm)
        self._adam.step()
        self._state = (state[0].detach(), state[1].detach())
        self._steps += 1
        self._spent += time.perf_counter() - started
        return 1

    def bits_per_sample(self) -> float:
        """Of all validation clips."""
        train, total, count = self._config.train, 0.0, 0
        batches = scoring_batches(
            self._store,
            self._data,
            self._store.indices("validation"),
            (),
            lookback=1,
            batch_size=train.batch_size,
            seq_len=train.seq_len,
        )
        state = self.network.start(train.batch_size)
        with torch.no_grad():
            for batch in batches:
                nats, state = self.network.nats(batch, state)
                total, count = total + float(nats.sum(dtype=torch.float64)), count + len(nats)
        return total / count / math.log(2)

    def _learning_rate(self) -> float:
        plan, last = self._plan, self._last
        rising = (self._steps + 1) / (plan.warmup_steps + 1)
        falling = 0.5 + 0.5 * math.cos(math.pi * min(1.0, self._spent / self._seconds))
        return self._peak * min(rising, last + (1 - last) * falling)
