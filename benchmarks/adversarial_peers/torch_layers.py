"""Layers of PyTorch with given weights."""

from typing import TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.adversarial_peers.given import Tree

L = TypeVar("L", nn.Linear, nn.Conv1d, nn.Conv2d, nn.LayerNorm)


def linear(weights: Tree) -> nn.Linear:
    """[..., in] to [..., out]."""
    layer = nn.Linear(*weights["kernel"].shape)
    return _filled(layer, weights["kernel"].T, weights["bias"])


def conv1d(weights: Tree, num_in: int, stride: int = 1) -> nn.Conv1d:
    """[B, in, N] to [B, out, ceil(N / stride)]; zeros beyond the ends."""
    kernel = weights["kernel"].reshape(-1, num_in, weights["kernel"].shape[1])
    size, _, num_out = kernel.shape
    layer = nn.Conv1d(num_in, num_out, size, stride, padding=size // 2)
    return _filled(layer, kernel.transpose(2, 1, 0), weights["bias"])


def conv2d(weights: Tree, num_in: int, size: tuple[int, int], stride: tuple[int, int]) -> nn.Conv2d:
    """[B, in, H, W] to [B, out, ceil(H / stride), ceil(W / stride)]; zeros beyond the ends."""
    kernel = weights["kernel"].reshape(*size, num_in, -1)
    layer = nn.Conv2d(num_in, kernel.shape[-1], size, stride, padding=(size[0] // 2, size[1] // 2))
    return _filled(layer, kernel.transpose(3, 2, 0, 1), weights["bias"])


def over_time(kernel: np.ndarray) -> nn.Conv1d:
    """Each feature by itself: [B, C, N] to the same."""
    size, width = kernel.shape
    layer = nn.Conv1d(width, width, size, padding=size // 2, groups=width, bias=False)
    layer.weight.data = torch.tensor(np.ascontiguousarray(kernel.T[:, None]))
    return layer


def norm(weights: Tree) -> nn.LayerNorm:
    """Of the last axis."""
    layer = nn.LayerNorm(len(weights["scale"]), eps=1e-6)
    return _filled(layer, weights["scale"], weights["bias"])


def spectrum(samples: Tensor, n_fft: int, hop_length: int, center: bool) -> Tensor:
    """Of samples [B, T] under a Hann window: complex [B, n_fft // 2 + 1, frames]."""
    window = torch.hann_window(n_fft)
    return torch.stft(
        samples, n_fft, hop_length, window=window, center=center, pad_mode="constant", return_complex=True
    )


def mel_frames(samples: Tensor, filters: Tensor, features: Tree) -> Tensor:
    """Log-mel frames [B, n_mels, frames] of samples [B, T]. features: the fields of a `LogMel`."""
    power = spectrum(samples, features["n_fft"], features["hop_length"], center=True).abs().square()
    return (filters @ power).clamp_min(features["floor"]).log()


def _filled(layer: L, weight: np.ndarray, bias: np.ndarray) -> L:
    layer.weight = nn.Parameter(torch.tensor(np.ascontiguousarray(weight)))
    layer.bias = nn.Parameter(torch.tensor(bias))
    return layer
