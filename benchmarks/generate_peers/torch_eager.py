"""Generation in PyTorch, eager: `nn.LSTMCell`, the fastest way to make a step there, in a loop."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn

from benchmarks.generate_peers.given import SILENCE, Given, as_candidate, load, reordered

_ORDER = (0, 1, 3, 2)  # PyTorch's gates, by their place in ours

Carry = tuple[torch.Tensor, torch.Tensor]


class Network(nn.Module):
    """One step."""

    def __init__(self, given: Given) -> None:
        super().__init__()
        hidden = given.hidden_size
        self.embedding = nn.Embedding(*given.embedding.shape)
        self.cell = nn.LSTMCell(len(given.input), hidden)
        self.head = nn.Linear(hidden, len(given.head_bias))
        named = {
            "embedding.weight": given.embedding,
            "cell.weight_ih": reordered(given.input, _ORDER).T,
            "cell.weight_hh": reordered(given.recurrent, _ORDER).T,
            "cell.bias_ih": reordered(given.bias, _ORDER),
            "cell.bias_hh": np.zeros_like(given.bias),
            "head.weight": given.head_kernel.T,
            "head.bias": given.head_bias,
        }
        self.load_state_dict({name: torch.tensor(array) for name, array in named.items()})

    def forward(self, codes: torch.Tensor, h: torch.Tensor, c: torch.Tensor) -> tuple[torch.Tensor, Carry]:
        """Codes int64 [B] and carry [B, H] each -> logits [B, 256] and carry."""
        x = torch.cat([self.embedding(codes), codes[:, None] * (2 / 256) - 1], dim=-1)
        h, c = self.cell(x, (h, c))
        return self.head(h), (h, c)


class Loop:
    """A step at a time. step: codes [B] and carry -> logits [B, 256], the next codes drawn from them, and carry."""

    def __init__(self, given: Given, streams: int, step: Callable[..., Any]) -> None:
        self._given, self._streams, self._step = given, streams, step

    @torch.inference_mode()
    def logits(self) -> np.ndarray:
        """After each of the given codes, [S, 256]; all streams hear the same."""
        carry, found = self._zeros(), []
        for code in self._given.codes:
            logits, _, carry = self._step(torch.full((self._streams,), int(code)), *carry)
            found.append(logits[-1].numpy().copy())
        return np.stack(found)

    @torch.inference_mode()
    def generate(self, steps: int) -> np.ndarray:
        """Codes [streams, steps]."""
        codes, carry, made = torch.full((self._streams,), SILENCE), self._zeros(), []
        for _ in range(steps):
            _, codes, carry = self._step(codes, *carry)
            made.append(codes)
        return torch.stack(made, dim=1).numpy()

    def _zeros(self) -> Carry:
        return torch.zeros(self._streams, self._given.hidden_size), torch.zeros(self._streams, self._given.hidden_size)


def prepare(spec: dict[str, Any]) -> tuple[dict[str, Any], Any]:
    """spec: `file` of `given.load`, `streams`, `steps`."""
    given = load(spec)
    network = Network(given)

    def step(codes: torch.Tensor, h: torch.Tensor, c: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, Carry]:
        logits, carry = network(codes, h, c)
        return logits, torch.multinomial(logits.softmax(-1), 1)[:, 0], carry

    return as_candidate(Loop(given, spec["streams"], step), spec["steps"])
