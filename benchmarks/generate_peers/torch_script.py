"""Generation in PyTorch with the whole loop under `torch.jit.script`: no Python between steps."""

import warnings
from typing import Any

import numpy as np
import torch
from torch import nn

from benchmarks.generate_peers.given import SILENCE, Given, as_candidate, load
from benchmarks.generate_peers.torch_eager import Carry, Loop, Network


class FreeRunning(nn.Module):
    """The loop, and a step of it."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network

    def forward(self, codes: torch.Tensor, h: torch.Tensor, c: torch.Tensor, steps: int) -> torch.Tensor:
        """First codes int64 [B], carry and how many steps -> codes [B, steps]."""
        made = torch.empty(codes.shape[0], steps, dtype=torch.int64)
        for t in range(steps):
            _, codes, carry = self.step(codes, h, c)
            h, c = carry
            made[:, t] = codes
        return made

    @torch.jit.export
    def step(self, codes: torch.Tensor, h: torch.Tensor, c: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, Carry]:
        """Logits, the codes drawn from them, and carry."""
        logits, carry = self.network(codes, h, c)
        return logits, torch.multinomial(logits.softmax(-1), 1)[:, 0], carry


class Scripted(Loop):
    """Generates by one call."""

    def __init__(self, given: Given, streams: int) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # it says to use torch.compile, another candidate
            self._loop = torch.jit.script(FreeRunning(Network(given)).eval())
        super().__init__(given, streams, self._loop.step)

    @torch.inference_mode()
    def generate(self, steps: int) -> np.ndarray:
        """Codes [streams, steps]."""
        return self._loop(torch.full((self._streams,), SILENCE), *self._zeros(), steps).numpy()


def prepare(spec: dict[str, Any]) -> tuple[dict[str, Any], Any]:
    """spec: `file` of `given.load`, `streams`, `steps`."""
    return as_candidate(Scripted(load(spec), spec["streams"]), spec["steps"])
