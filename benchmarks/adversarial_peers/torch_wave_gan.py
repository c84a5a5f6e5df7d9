"""`jaxgen.models.wave_gan`, generator and critic, in PyTorch."""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.adversarial_peers.given import Tree, listed
from benchmarks.adversarial_peers.torch_layers import conv1d, linear, mel_frames

_LEAK = 0.2
_KEPT = math.sqrt(0.5)


class Labels(nn.Module):
    """Indices [B] each to their vectors, one after another."""

    def __init__(self, weights: Tree) -> None:
        super().__init__()
        tables = {name: torch.tensor(table["embedding"]) for name, table in weights["tables"].items()}
        self.tables = nn.ModuleDict({name: nn.Embedding.from_pretrained(t, freeze=False) for name, t in tables.items()})

    def forward(self, labels: dict[str, Tensor]) -> list[Tensor]:
        """[B, size] of each label."""
        return [table(labels[name]) for name, table in self.tables.items()]


class WaveGAN(nn.Module):
    """Latents [B, Z] and labels to clips [B, D, N]."""

    def __init__(self, weights: Tree, config: Tree, nothing: Tensor | None) -> None:
        super().__init__()
        self.width, self.nothing = config["channels"][0], nothing
        self.label_vectors = Labels(weights["label_vectors"])
        self.first = linear(weights["first"])
        sizes = zip(config["channels"], config["factors"], strict=False)
        self.stages = nn.ModuleList(
            [_Stage(w, *size) for w, size in zip(listed(weights["stages"]), sizes, strict=True)]
        )
        self.last = conv1d(weights["last"]["product"], config["channels"][-1])

    def forward(self, latents: Tensor, labels: dict[str, Tensor]) -> Tensor:
        condition = torch.cat([latents, *self.label_vectors(labels)], dim=-1)
        x = self.first(condition).unflatten(-1, (-1, self.width)).transpose(1, 2)
        for stage in self.stages:
            x = stage(x, condition)
        x = self.last(functional.leaky_relu(_normal(x), _LEAK))
        return torch.tanh(x) if self.nothing is None else functional.softplus(x) + self.nothing


class _Stage(nn.Module):
    """[B, in, N] to [B, out, factor N]."""

    def __init__(self, weights: Tree, num_in: int, factor: int) -> None:
        super().__init__()
        self.factor = factor
        self.enter, self.apart = _Modulated(weights["enter"]), conv1d(weights["apart"]["product"], num_in)
        num_out = self.apart.out_channels // factor
        further = listed(weights.get("further", {}))
        self.modulated = nn.ModuleList([_Modulated(w) for w in listed(weights.get("modulated", {}))])
        self.further = nn.ModuleList([conv1d(w["product"], num_out) for w in further])

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        x = self.apart(self.enter(x, condition))
        x = x.unflatten(1, (self.factor, -1)).permute(0, 2, 3, 1).flatten(2)
        for modulated, conv in zip(self.modulated, self.further, strict=True):
            x = _KEPT * (x + conv(modulated(x, condition)))
        return x


class _Modulated(nn.Module):
    def __init__(self, weights: Tree) -> None:
        super().__init__()
        self.says = linear(weights["says"])

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        scale, move = self.says(condition)[:, :, None].chunk(2, dim=1)
        return functional.leaky_relu(_normal(x) * (1 + scale) + move, _LEAK)


def _normal(x: Tensor) -> Tensor:
    return x * (x.square().mean(dim=1, keepdim=True) + 1e-8).rsqrt()


class ShuffleCritic(nn.Module):
    """Clips [B, D, N] and labels to scores [B]."""

    def __init__(self, weights: Tree, config: Tree, size: int) -> None:
        super().__init__()
        self.reaches = [config["shift"], *[config["shuffle"]] * (len(config["factors"]) - 1)]
        sizes = zip([size, *config["channels"]], config["factors"], strict=False)
        layers = zip(listed(weights["layers"]), sizes, strict=True)
        self.layers = nn.ModuleList([conv1d(w["product"], *size) for w, size in layers])
        self.whole, self.score = linear(weights["whole"]), linear(weights["score"])
        self.label_vectors = Labels(weights["label_vectors"])

    def forward(self, x: Tensor, labels: dict[str, Tensor], moves: list[list[int]]) -> Tensor:
        for layer, reach, places in zip(self.layers, self.reaches, moves, strict=True):
            x = functional.leaky_relu(layer(_shuffled(x, reach, places)), _LEAK)
        whole = functional.leaky_relu(self.whole(x.mean(dim=2)), _LEAK)
        by_label = sum((vectors * whole).sum(dim=-1) for vectors in self.label_vectors(labels))
        return self.score(whole)[:, 0] + by_label / math.sqrt(whole.shape[-1])


def _shuffled(x: Tensor, reach: int, places: list[int]) -> Tensor:
    """Each row of x [B, C, N] moved; what is missing is a reflection."""
    if reach == 0:
        return x
    rows = functional.pad(x, (reach, reach), mode="reflect").unbind()
    return torch.stack([row[:, place : place + x.shape[2]] for row, place in zip(rows, places, strict=True)])


class Game:
    """An update: first `critic_loss`, then `generator_loss` of the clips that the critic heard, by the logistic loss."""

    def __init__(self, tree: Tree, work: Tree) -> None:
        batch, self.features = tree["batch"], work["features"]
        self.samples, self.length = torch.tensor(batch["samples"])[:, None], torch.tensor(batch["length"])
        self.num_steps, nothing, size = work["seq_len"], None, 1
        if mel := tree.get("mel"):
            self.filters = torch.tensor(mel["filters"])
            self.mean, self.std = float(mel["mean"]), float(mel["std"])
            nothing = torch.tensor((math.log(self.features["floor"]) - self.mean) / self.std - 1)
            size = self.features["stack"] * self.features["n_mels"]
        self.nothing = nothing
        self.generator: nn.Module = WaveGAN(tree["generator"], work["model"], nothing)
        self.critic: nn.Module = ShuffleCritic(tree["critic"], work["critic"], size)
        self.labels = {name: torch.tensor(index).long() for name, index in batch["labels"].items()}
        self.twice = {name: torch.cat([index, index]) for name, index in self.labels.items()}
        self.drawn, self.made = listed(tree["drawn"]), self.samples
        self.latents = [torch.tensor(update["latents"]) for update in self.drawn]

    def critic_loss(self, number: int) -> Tensor:
        """Of real and made clips, heard together. number: of the update; draws of two take turns."""
        self.made = self.generator(self.latents[number % 2], self.labels)
        moves = self.drawn[number % 2]["critic"].tolist()
        real, made = self.critic(torch.cat([self.real(), self.made.detach()]), self.twice, moves).chunk(2)
        return functional.softplus(-real).mean() + functional.softplus(made).mean()

    def generator_loss(self, number: int) -> Tensor:
        """Of the clips that the critic has heard."""
        made: Any = self.critic(self.made, self.labels, self.drawn[number % 2]["generator"].tolist())
        return functional.softplus(-made).mean()

    def real(self) -> Tensor:
        """Samples [B, 1, N] or standardised frames [B, D, N], below silence where a clip has ended."""
        if self.nothing is None:
            return self.samples
        count = self.num_steps * self.features["stack"]
        frames = mel_frames(self.samples[:, 0], self.filters, self.features)[:, :, :count]
        frames = (frames - self.mean) / self.std
        there = torch.arange(count) < (1 + self.length // self.features["hop_length"])[:, None]
        frames = torch.where(there[:, None], frames, self.nothing)
        return frames.transpose(1, 2).reshape(len(frames), self.num_steps, -1).transpose(1, 2)
