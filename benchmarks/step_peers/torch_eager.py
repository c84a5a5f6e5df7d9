"""The train step in PyTorch, eager: `nn.LSTM`, `nn.GRU` or `nn.RNN`, which call oneDNN where it has the cell."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from benchmarks.step_peers.given import LEARNING_RATE, Given, Layer, load, reordered

_ORDERS = {"LSTM": (0, 1, 3, 2), "GRU": (0, 1, 2), "RNN": (0,)}  # PyTorch's gates, by their place in ours


class Network(nn.Module):
    """From the past to the loss."""

    def __init__(self, given: Given) -> None:
        super().__init__()
        self.given = given
        self.embedding = None
        if given.embedding is not None:
            self.embedding = nn.Embedding.from_pretrained(torch.tensor(given.embedding), freeze=False)
        width, hidden = given.layers[0].input.shape[0], given.hidden_size
        module = {"LSTM": nn.LSTM, "GRU": nn.GRU, "RNN": nn.RNN}[given.cell]
        self.recurrence = module(width, hidden, len(given.layers), batch_first=True)
        self.initial = nn.ParameterList([torch.stack([torch.tensor(s) for s in t]) for t in _states(given.layers)])
        self.head = nn.Linear(hidden, given.head_kernel.shape[1])
        self.load_state_dict(_named(given), strict=False)

    def forward(self, past: torch.Tensor, values: torch.Tensor | None, target: torch.Tensor) -> torch.Tensor:
        """Mean loss. values: the codes as numbers [B, T, 1]."""
        x = past
        if self.embedding is not None and values is not None:
            x = torch.cat([self.embedding(past), values], dim=-1)
        start = tuple(state[:, None].expand(-1, len(x), -1).contiguous() for state in self.initial)
        hidden, _ = self.recurrence(x, start if len(start) > 1 else start[0])
        outputs = self.head(hidden)
        if self.embedding is not None:
            return nn.functional.cross_entropy(outputs.flatten(0, 1), target.flatten())
        squares = 0.5 * (outputs[..., :-1] - target).square().sum(-1)
        return (squares + nn.functional.softplus(outputs[..., -1])).mean() + self.given.constant


def prepare(spec: dict[str, Any]) -> tuple[dict[str, Any], Callable[[int], dict[str, Any]]]:
    """spec: see `given.load`."""
    given = load(spec)
    network = Network(given)
    return training(given, network, network)


def training(
    given: Given, network: Network, loss: Callable[..., torch.Tensor]
) -> tuple[dict[str, Any], Callable[[int], dict[str, Any]]]:
    """The step that minimises `loss`, which is the network's forward pass or made of it."""
    past, target = torch.tensor(given.past), torch.tensor(given.target)
    values = None if given.embedding is None else torch.tensor(given.values())
    adam = torch.optim.Adam(network.parameters(), lr=LEARNING_RATE)

    def step() -> torch.Tensor:
        adam.zero_grad()
        value = loss(past, values, target)
        value.backward()
        adam.step()
        return value

    losses: list[float] = []

    def run(times: int) -> dict[str, Any]:
        for _ in range(times):
            value = step()
        losses.append(value.item())
        return {"losses": losses}

    return {"parameters": sum(p.numel() for p in network.parameters()), "missing": 0}, run


def _states(layers: list[Layer]) -> list[tuple[Any, ...]]:
    """Initial h of all layers, and then c."""
    return list(zip(*(layer.initial for layer in layers), strict=True))


def _named(given: Given) -> dict[str, torch.Tensor]:
    """Weights by PyTorch's names."""
    order, named = _ORDERS[given.cell], {"head.weight": given.head_kernel.T, "head.bias": given.head_bias}
    for i, layer in enumerate(given.layers):
        named[f"recurrence.weight_ih_l{i}"] = reordered(layer.input, order).T
        named[f"recurrence.weight_hh_l{i}"] = reordered(layer.recurrent, order).T
        named[f"recurrence.bias_ih_l{i}"] = reordered(layer.bias, order)
        named[f"recurrence.bias_hh_l{i}"] = reordered(layer.recurrent_bias, order)
    return {name: torch.tensor(array) for name, array in named.items()}
