"""The base of metrics that know one kind of data; a config names those it wants (`AutoregressiveEvaluation.metrics`)."""

import dataclasses
import itertools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np

from jaxgen.audio import mix_down
from jaxgen.core.descriptions import Descriptions
from jaxgen.data.store import Store


@dataclasses.dataclass(frozen=True)
class ClipSet:
    """Clips and what is known of them."""

    samples: Sequence[np.ndarray]
    """float32 [nsamp] each, full scale 1.0: what is given of several channels [nsamp, nch] is mixed down."""
    sample_rate: int
    labels: Sequence[Mapping[str, str]]
    """Of each clip: what it was asked to be, or is; empty where nobody says."""
    originals: Sequence[np.ndarray] | None = None
    """Of each clip, as long as it: the recording that it is a copy of; None where clips are made freely."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "samples", [mix_down(clip) for clip in self.samples])
        if self.originals is not None:
            object.__setattr__(self, "originals", [mix_down(clip) for clip in self.originals])

    def select(self, places: Sequence[int]) -> "ClipSet":
        """The clips at these places."""
        originals = self.originals and [self.originals[i] for i in places]
        return ClipSet([self.samples[i] for i in places], self.sample_rate, [self.labels[i] for i in places], originals)

    def group_by(self, names: Sequence[str]) -> dict[tuple[str, ...], list[int]]:
        """The places of clips with equal values of some labels, by those; without the clips that lack one."""
        found: dict[tuple[str, ...], list[int]] = {}
        for place, labels in enumerate(self.labels):
            if all(name in labels for name in names):
                found.setdefault(tuple(labels[name] for name in names), []).append(place)
        return found

    def halves(self, names: Sequence[str]) -> tuple[list[int], list[int]]:
        """The places of two halves, as alike in the labels `names` as can be; the first may have a clip more."""
        order = self._by_labels(names)
        return order[::2], order[1::2]

    def sample(self, count: int, names: Sequence[str]) -> list[int]:
        """The places of at most `count` clips, in which values of the labels `names` are as frequent as in all."""
        order = self._by_labels(names)
        return [order[i] for i in np.linspace(0, len(order) - 1, min(count, len(order))).round().astype(int)]

    def _by_labels(self, names: Sequence[str]) -> list[int]:
        """All places, those with equal labels `names` side by side, else in a random order that is always the same."""
        groups: dict[tuple[str, ...], list[int]] = {}
        for place in np.random.default_rng(0).permutation(len(self.samples)).tolist():
            groups.setdefault(tuple(self.labels[place].get(name, "") for name in names), []).append(place)
        return list(itertools.chain.from_iterable(groups.values()))


@dataclasses.dataclass(frozen=True)
class Reference:
    """What a metric may compare with."""

    training: Store
    """The data trained on."""
    real: ClipSet
    """Held-out real recordings; scored like any other set, they are the ceiling."""
    cache_dir: str | Path
    """Where a metric may keep what took it long to make."""


Measure = Callable[[ClipSet], dict[str, float]]
"""Figures of a set by unit-bearing name; `Absent(why)`, or NaN, where its clips do not tell. Given `Reference.real` itself,
the ceiling."""


class AudioMetric:
    """A frozen dataclass that scores sets of clips. One new metric is one file with one subclass."""

    compares_copies: ClassVar[bool] = False
    """Whether it compares copies with the recordings they were made of."""
    descriptions: ClassVar[Descriptions] = {}
    """What its figures are, for people; one that is not there is named by its name."""

    def check(self, training: Store) -> None:
        """Raises UserError where `prepare` will, as far as can be told at once: before hours of training."""

    def prepare(self, reference: Reference) -> Measure:
        """What scores sets of clips beside the reference. Raises UserError where that cannot be made."""
        raise NotImplementedError
