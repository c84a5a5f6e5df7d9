"""The train step in PyTorch with its forward and backward pass under `torch.compile`.

It compiles what stands around the recurrence; `nn.LSTM`, `nn.GRU` and `nn.RNN` stay calls of the eager kernels, for the
graph breaks there. With `torch._dynamo.config.allow_rnn` torch 2.13 fails on the LSTM (a type error in the code it made)
and unrolls the GRU, which takes it more than a second of compilation for each step of time.
"""

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
