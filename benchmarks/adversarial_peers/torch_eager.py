"""The train step of a generator against its critic in PyTorch, eager."""

from collections.abc import Callable
from typing import Any

import torch

from benchmarks.adversarial_peers import torch_vocoder, torch_wave_gan
from benchmarks.adversarial_peers.given import load
from benchmarks.step_peers.given import LEARNING_RATE

Game = torch_vocoder.Game | torch_wave_gan.Game


def prepare(spec: dict[str, Any]) -> tuple[dict[str, Any], Callable[[int], dict[str, Any]]]:
    """spec: `work`, an `AdversarialWork` as JSON, and `file`, see `given.load`.

    An update is one of the critic and one of the generator, each with its own Adam.
    """
    work, tree = spec["work"], load(spec)
    kind = torch_vocoder.Game if work["model"]["class"].endswith(".Vocoder") else torch_wave_gan.Game
    game: Game = kind(tree, work)
    generator, critic = list(game.generator.parameters()), list(game.critic.parameters())
    critic_adam, generator_adam = (torch.optim.Adam(own, lr=LEARNING_RATE) for own in (critic, generator))

    def step(number: int) -> tuple[torch.Tensor, torch.Tensor]:
        critic_adam.zero_grad()
        critic_loss = game.critic_loss(number)
        critic_loss.backward()
        critic_adam.step()
        game.critic.requires_grad_(False)  # the generator's turn needs no gradient of its weights
        generator_adam.zero_grad()
        generator_loss = game.generator_loss(number)
        generator_loss.backward()
        generator_adam.step()
        game.critic.requires_grad_(True)
        return generator_loss, critic_loss

    number = 0
    facts: dict[str, list[float]] = {"losses": [], "critic_losses": []}

    def run(times: int) -> dict[str, Any]:
        nonlocal number
        for _ in range(times):
            losses = step(number)
            number += 1
        for name, loss in zip(facts, losses, strict=True):
            facts[name].append(loss.item())
        return dict(facts)

    return {"parameters": sum(weights.numel() for weights in (*generator, *critic)), "missing": 0}, run
