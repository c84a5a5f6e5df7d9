"""Generation in PyTorch with a step under `torch.compile`: network and draw are one compiled program, called in a loop.

The draw inverts the cumulative distribution, which fuses; `torch.multinomial` would be called as it is.
"""

from typing import Any

import torch

from benchmarks.generate_peers.given import as_candidate, load
from benchmarks.generate_peers.torch_eager import Carry, Loop, Network


def inverted(logits: torch.Tensor) -> torch.Tensor:
    """A code int64 [B] from logits [B, 256]."""
    sums = logits.softmax(-1).cumsum(-1)
    return (sums < torch.rand(len(logits), 1) * sums[:, -1:]).sum(-1)


def prepare(spec: dict[str, Any]) -> tuple[dict[str, Any], Any]:
    """spec: `file` of `given.load`, `streams`, `steps`."""
    given = load(spec)
    network = Network(given)

    @torch.compile(dynamic=False)
    def step(codes: torch.Tensor, h: torch.Tensor, c: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, Carry]:
        logits, carry = network(codes, h, c)
        return logits, inverted(logits), carry

    return as_candidate(Loop(given, spec["streams"], step), spec["steps"])
