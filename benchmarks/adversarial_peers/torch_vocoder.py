"""`jaxgen.models.vocoder` against `jaxgen.models.critics`, in PyTorch: layers as Vocos, HiFi-GAN and UnivNet have them."""

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.adversarial_peers.given import Tree, listed
from benchmarks.adversarial_peers.torch_layers import conv1d, conv2d, linear, mel_frames, norm, over_time, spectrum

DiscriminatorOutput = tuple[Tensor, list[Tensor]]
"""Scores, and what the layers heard."""

_LEAK = 0.1
_LOUDEST = 7.0


class Vocoder(nn.Module):
    """Mel frames [B, n_mels, N] to samples [B, (N - 1) * hop_length]."""

    def __init__(self, weights: Tree, mel: Tree, features: Tree) -> None:
        super().__init__()
        self.features, self.mean, self.std = features, float(mel["mean"]), float(mel["std"])
        filters = mel["filters"]
        inverse = np.linalg.pinv(filters.astype(np.float64)).astype(np.float32)
        loudest = np.log((features["n_fft"] / 2) ** 2 * filters.sum(axis=1))
        self.inverse, self.loudest = torch.tensor(inverse), torch.tensor(loudest)[:, None]
        self.first = conv1d(weights["first"]["product"], features["n_mels"])
        self.first_norm = norm(weights["first"]["norm"])
        self.blocks = nn.ModuleList([_Block(block) for block in listed(weights["blocks"])])
        self.norm = norm(weights["norm"])
        self.head = linear(weights["head"])

    def forward(self, frames: Tensor) -> Tensor:
        """The waveform, by way of the magnitude and phase of each frame's spectrum."""
        x = self.first((frames - self.mean) / self.std).transpose(1, 2)
        x = self.first_norm(x).transpose(1, 2)
        for block in self.blocks:
            x = block(x)
        mend, phase = self.head(self.norm(x.transpose(1, 2))).transpose(1, 2).chunk(2, dim=1)
        log_magnitude = mend + torch.log(self.rough(frames) + math.sqrt(self.features["floor"]))
        magnitude = log_magnitude.clamp_max(_LOUDEST).exp()
        n_fft = self.features["n_fft"]
        return torch.istft(
            torch.complex(magnitude * phase.cos(), magnitude * phase.sin()),
            n_fft,
            self.features["hop_length"],
            window=torch.hann_window(n_fft),
        )

    def rough(self, frames: Tensor) -> Tensor:
        """Magnitudes [B, n_fft // 2 + 1, N] by the pseudo-inverse of the mel filters."""
        floor = self.features["floor"]
        above = torch.minimum(frames, self.loudest).exp() - floor
        return (self.inverse @ torch.where(above > 1e-5 * floor, above, 0.0)).clamp_min(0.0).sqrt()


class _Block(nn.Module):
    """A ConvNeXt block, [B, C, N] to the same."""

    def __init__(self, weights: Tree) -> None:
        super().__init__()
        self.over_time = over_time(weights["over_time"])
        self.norm, self.widen, self.narrow = norm(weights["norm"]), linear(weights["widen"]), linear(weights["narrow"])
        self.scale = nn.Parameter(torch.tensor(weights["scale"]))

    def forward(self, x: Tensor) -> Tensor:
        mixed = self.norm(self.over_time(x).transpose(1, 2))
        inside = functional.gelu(self.widen(mixed), approximate="tanh")
        return x + (self.scale * self.narrow(inside)).transpose(1, 2)


class WaveCritic(nn.Module):
    """Samples [B, T] to what each part says of them."""

    def __init__(self, weights: Tree, config: Tree) -> None:
        super().__init__()
        parts, count = listed(weights["parts"]), len(config["periods"])
        periods = [_PeriodCritic(*part) for part in zip(parts[:count], config["periods"], strict=True)]
        windows = [_SpectralCritic(*part) for part in zip(parts[count:], config["windows"], strict=True)]
        self.parts = nn.ModuleList([*periods, *windows])

    def forward(self, samples: Tensor) -> list[DiscriminatorOutput]:
        return [part(samples) for part in self.parts]


class _PeriodCritic(nn.Module):
    def __init__(self, weights: Tree, period: int) -> None:
        super().__init__()
        self.period = period
        *hidden, last = listed(weights["layers"]["layers"])
        sizes = [1, *(len(layer["product"]["bias"]) for layer in hidden)]
        layers = [conv2d(layer["product"], size, (5, 1), (3, 1)) for layer, size in zip(hidden, sizes, strict=False)]
        self.layers = nn.ModuleList([*layers, conv2d(last["product"], sizes[-1], (3, 1), (1, 1))])

    def forward(self, samples: Tensor) -> DiscriminatorOutput:
        padded = functional.pad(samples, (0, -samples.shape[-1] % self.period))
        return _heard(self.layers, padded.unflatten(-1, (-1, self.period))[:, None])


class _SpectralCritic(nn.Module):
    def __init__(self, weights: Tree, window: int) -> None:
        super().__init__()
        self.window = window
        layers = [layer["product"] for layer in listed(weights["layers"]["layers"])]
        channels = len(layers[0]["bias"])
        shapes = [((3, 9), (1, 4)), *[((3, 5), (1, 2))] * 2, *[((3, 3), (1, 1))] * 2]
        inputs = [1, *[channels] * 4]
        self.layers = nn.ModuleList([conv2d(w, n, *shape) for w, n, shape in zip(layers, inputs, shapes, strict=True)])

    def forward(self, samples: Tensor) -> DiscriminatorOutput:
        return _heard(self.layers, magnitudes(samples, self.window).transpose(1, 2)[:, None])


def _heard(layers: nn.ModuleList, x: Tensor) -> DiscriminatorOutput:
    features = []
    *hidden, last = layers
    for layer in hidden:
        x = functional.leaky_relu(layer(x), _LEAK)
        features.append(x)
    return last(x).flatten(1), features


def magnitudes(samples: Tensor, window: int) -> Tensor:
    """[B, window // 2 + 1, frames] of samples [B, T]; frames are a quarter of a window apart, and lie inside."""
    hop = window // 4
    needed = window + max(0, -(-(samples.shape[-1] - window) // hop)) * hop
    power = torch.view_as_real(spectrum(functional.pad(samples, (0, needed - samples.shape[-1])), window, hop, False))
    return (power.square().sum(dim=-1) + 1e-7).sqrt()


class Game:
    """An update: first `critic_loss`, then `generator_loss` of the sound that the critic heard."""

    def __init__(self, tree: Tree, work: Tree) -> None:
        self.features, self.terms = work["features"], {term["class"].rpartition(".")[2]: term for term in work["terms"]}
        self.generator: nn.Module = Vocoder(tree["generator"], tree["mel"], self.features)
        self.critic: nn.Module = WaveCritic(tree["critic"], work["critic"])
        self.samples, self.filters = torch.tensor(tree["batch"]["samples"]), torch.tensor(tree["mel"]["filters"])
        self.frames, self.made = self.samples, self.samples

    def critic_loss(self, number: int) -> Tensor:
        """Least squares of real and made sound, heard together."""
        del number
        self.frames = mel_frames(self.samples, self.filters, self.features)
        self.made = self.generator(self.frames)
        views = self.critic(torch.cat([self.samples, self.made.detach()]))
        halves = [scores.chunk(2) for scores, _ in views]
        return _mean([(real - 1).square().mean() + made.square().mean() for real, made in halves])

    def generator_loss(self, number: int) -> Tensor:
        """Least squares, feature matching, and the distances of mel frames and spectra."""
        del number
        with torch.no_grad():
            real_views = self.critic(self.samples)
        made_views = self.critic(self.made)
        verdict = _mean([(scores - 1).square().mean() for scores, _ in made_views])
        pairs: list[Any] = [
            pair
            for (_, real), (_, made) in zip(real_views, made_views, strict=True)
            for pair in zip(real, made, strict=True)
        ]
        matching = _mean([functional.l1_loss(made, real) / (real.abs().mean() + 1e-6) for real, made in pairs])
        mel = functional.l1_loss(mel_frames(self.made, self.filters, self.features), self.frames)
        distances = {"FeatureMatching": matching, "MelDistance": mel, "StftDistance": self._stft_distance()}
        return verdict + sum(term["weight"] * distances[name] for name, term in self.terms.items())

    def _stft_distance(self) -> Tensor:
        by_window = []
        for window in self.terms["StftDistance"]["windows"]:
            real, made = magnitudes(self.samples, window), magnitudes(self.made, window)
            error = ((real - made).square().sum(dim=(1, 2)) + 1e-12).sqrt() / real.square().sum(dim=(1, 2)).sqrt()
            by_window.append(error.mean() + functional.l1_loss(made.log(), real.log()))
        return _mean(by_window)


def _mean(values: list[Tensor]) -> Tensor:
    return torch.stack(values).mean()
