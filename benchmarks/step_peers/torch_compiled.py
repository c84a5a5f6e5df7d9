"""The train step in PyTorch with its forward and backward pass under `torch.compile`."""

from collections.abc import Callable
from typing import Any

import torch

from benchmarks.step_peers.given import load
from benchmarks.step_peers.torch_eager import Network, training


def prepare(spec: dict[str, Any]) -> tuple[dict[str, Any], Callable[[int], dict[str, Any]]]:
    """spec: see `given.load`."""
    given = load(spec)
    network = Network(given)
    return training(given, network, torch.compile(network))
