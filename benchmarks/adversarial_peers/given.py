"""What every peer is given: the same numbers in, the same weights, and what is left to chance.

A tree of arrays, float32 but for indices, by name:

    generator, critic   weights, as jaxgen's modules name them; layers of a list by their number
    batch               `samples` [B, T], `length` [B] and `labels` [B] each, see `jaxgen.data.excerpts`
    mel                 of frames: `filters` [n_mels, n_fft // 2 + 1], and `mean` and `std` of all bands
    drawn               of models of noise, for updates 0 and 1: `latents` [B, Z], and for the turns of the `critic` and of
                        the `generator` [layers, rows], the steps that the phase shuffle before each layer moves what it
                        hears, from 0 to twice its reach; in the critic's turn real rows come first

Kernels of convolutions are [places * in, out]. What the numbers mean stands in the row (`benchmarks.adversarial_work`),
which peers read as the plain JSON that it crosses processes as.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

Tree = dict[str, Any]


class Given:
    """The tree, and its way through a file."""

    def __init__(self, tree: Mapping[Any, Any]) -> None:
        self.tree = tree

    def save(self, path: str) -> None:
        """Writes everything to a file of numpy arrays."""
        np.savez(path, **dict(_leaves(self.tree, "")))


def load(spec: Mapping[str, Any]) -> Tree:
    """spec: `file`, as `Given.save` wrote it."""
    tree: Tree = {}
    with np.load(spec["file"]) as file:
        for name in file.files:
            *parents, last = name.split("/")
            branch = tree
            for parent in parents:
                branch = branch.setdefault(parent, {})
            branch[last] = file[name]
    return tree


def listed(branch: Tree) -> list[Any]:
    """Layers of a list, which stand in the tree by their number."""
    return [branch[str(number)] for number in range(len(branch))]


def _leaves(branch: Mapping[Any, Any], above: str) -> Iterator[tuple[str, Any]]:
    for name, value in branch.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{above}{name}/")
        else:
            yield above + str(name), value
