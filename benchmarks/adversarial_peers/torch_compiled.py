"""The train step in PyTorch with both networks under `torch.compile`; losses and optimisers stay eager."""

from collections.abc import Callable
from typing import Any

from benchmarks.adversarial_peers.torch_eager import made, training


def prepare(spec: dict[str, Any]) -> tuple[dict[str, Any], Callable[[int], dict[str, Any]]]:
    """spec: see `torch_eager.made`."""
    game = made(spec)
    game.generator.compile()
    game.critic.compile()
    return training(game)
