"""The benchmarked LSTM models in PyTorch, with the same sizes, generating a step at a time."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn

from benchmarks.workloads import Workload, q_levels
from jaxgen.data.spec import DataSpec
from jaxgen.distributions import NormalMixture
from jaxgen.models.mel_rnn import MelRNN

Carry = Any


class Network(nn.Module):
    """Inputs, LSTM layers (with residual connections, if the model has them) and the linear head."""

    def __init__(self, inputs: nn.Module, width: int, work: Workload, outputs: int):
        super().__init__()
        model = work.model
        hidden = model.cell.hidden_size
        self.inputs, self.residual = inputs, model.residual
        widths = [width] + [hidden] * (model.num_layers - 1)
        self.layers = nn.ModuleList([nn.LSTM(width, hidden, batch_first=True) for width in widths])
        self.head = nn.Linear(hidden, outputs)

    def forward(self, past: torch.Tensor, carry: Carry) -> tuple[torch.Tensor, Carry]:
        """past: [B, T, ...] -> (outputs [B, T, P], carry)."""
        x, after = self.inputs(past), []
        for index, layer in enumerate(self.layers):
            y, state = layer(x, carry[index])
            x = x + y if self.residual and index else y
            after.append(state)
        return self.head(x), after


class CodeInputs(nn.Module):
    """The embedding of the last code, and the code as a number: `WaveRNN` with a lookback of 1."""

    def __init__(self, levels: int, size: int):
        super().__init__()
        self.levels, self.embedding = levels, nn.Embedding(levels, size)

    def forward(self, codes: torch.Tensor) -> torch.Tensor:
        """Codes [B, T] -> [B, T, size + 1]."""
        return torch.cat([self.embedding(codes), codes[..., None] * (2 / self.levels) - 1], dim=-1)


class Mixture:
    """The end of a clip and a mixture of diagonal normals, as `jaxgen.distributions.NormalMixture`."""

    def __init__(self, distribution: NormalMixture):
        self.components, self.min_scale = distribution.num_components, distribution.min_scale

    def split(self, outputs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Logits [..., K], means and scales [..., K, D]."""
        logits, vectors = outputs[..., : self.components], outputs[..., self.components : -1]
        means, raw = vectors.unflatten(-1, (2, self.components, -1)).unbind(-3)
        scales = nn.functional.softplus(raw + math.log(math.expm1(1)))
        return logits, means, self.min_scale + (1 - self.min_scale) * scales

    def sample(self, outputs: torch.Tensor) -> torch.Tensor:
        """A frame [B, D]."""
        logits, means, scales = self.split(outputs)
        chosen = torch.multinomial(logits.softmax(-1), 1)[..., None].expand(-1, 1, means.shape[-1])
        mean, scale = means.gather(1, chosen)[:, 0], scales.gather(1, chosen)[:, 0]
        return mean + scale * torch.randn_like(mean)


class Codes:
    """Codes under softmax cross-entropy."""

    def sample(self, outputs: torch.Tensor) -> torch.Tensor:
        """A code [B]."""
        return torch.multinomial(outputs.softmax(-1), 1)[:, 0]


def build(work: Workload) -> tuple[Network, Mixture | Codes]:
    """The network on the device that torch would use, and what its outputs mean."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = work.model
    if isinstance(model, MelRNN):
        assert isinstance(model.distribution, NormalMixture)
        bands = work.features.step_shape[0]
        outputs = model.distribution.num_params(bands) + 1
        return Network(nn.Identity(), bands, work, outputs).to(device), Mixture(model.distribution)
    levels = q_levels(work)
    return Network(CodeInputs(levels, model.embedding_size), model.embedding_size + 1, work, levels).to(device), Codes()


def generation(work: Workload, spec: DataSpec, streams: int, steps: int) -> Callable[[], float]:
    """`steps` steps of free-running generation from silence, in eager mode; each call returns a number of the last."""
    network, likelihood = build(work)
    device = network.head.weight.device
    silence = standardised(work.features.silence()[None], spec)
    first = torch.from_numpy(np.repeat(silence, streams, axis=0)).to(device)

    @torch.inference_mode()
    def call() -> float:
        step, carry = first, _zero_carry(work, streams, device)
        for _ in range(steps):
            outputs, carry = network(step[:, None], carry)
            step = likelihood.sample(outputs[:, 0])
        return float(step.flatten()[0])

    return call


def standardised(x: np.ndarray, spec: DataSpec) -> np.ndarray:
    """Frames in units of the data's own deviation; codes as the integers that an embedding reads."""
    if not spec.mean:
        return x.astype(np.int64)
    return ((x - np.array(spec.mean)) / np.array(spec.std)).astype(np.float32)


def _zero_carry(work: Workload, rows: int, device: torch.device) -> Carry:
    zeros = torch.zeros(1, rows, work.model.cell.hidden_size, device=device)
    return [(zeros, zeros)] * work.model.num_layers
