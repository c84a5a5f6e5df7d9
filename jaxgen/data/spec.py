"""All that a model or a generator must know of the data it was trained on; stored in every checkpoint."""

import dataclasses
import math
from collections.abc import Mapping, Sequence

import numpy as np

from jaxgen.core.errors import UserError
from jaxgen.core.names import normalize
from jaxgen.features import FeatureSpec


@dataclasses.dataclass(frozen=True)
class DataSpec:
    """Plain values, so that it stands in JSON."""

    features: FeatureSpec
    """How samples become steps."""
    vocabularies: tuple[tuple[str, tuple[str, ...]], ...] = ()
    """Label names and their values, sorted. The index of a value is its place plus one; 0 is unknown."""
    mean: tuple[float, ...] = ()
    """Mean of the training steps in each dimension; empty for codes."""
    std: tuple[float, ...] = ()
    """Standard deviation of the training steps in each dimension; empty for codes."""
    licences: tuple[str, ...] = ()
    """Licences of the training clips, each once."""
    manifest_hash: str = ""
    """SHA-256 over the names, contents and splits of all clips."""
    typical_seconds: float = 1.0
    """Median length of a training clip in seconds."""
    max_seconds: float = 1.0
    """Longest training clip in seconds."""

    def label_shares(self, name: str, value: str) -> np.ndarray:
        """How much there is of each index, float32 [V + 1], for a value, or for a mix of some as in "3:0.7,8:0.3".

        Shares are divided by their sum; those that are not said are equal. Raises UserError as `label_index`, and for a
        share that is not a number above 0.
        """
        known = self._indices(name)
        is_one = normalize(value) in known or not set(value) & set(",:")
        parts = {value: 1.0} if is_one else dict(map(_share, value.split(",")))
        shares = np.zeros(1 + len(known), np.float32)
        for part, share in parts.items():
            shares[self.label_index(name, part)] = share / sum(parts.values())
        return shares

    def label_index(self, name: str, value: str) -> int:
        """The index that models know a label value by. Raises UserError for a name or value never seen in training."""
        known = self._indices(name)
        if not known:
            labels = ", ".join(dict(self.vocabularies)) or "no labels"
            raise UserError(f"the model knows no label '{name}'; it was trained with {labels}.")
        if normalize(value) not in known:
            some = ", ".join([*known][:20]) + (", ..." if len(known) > 20 else "")
            raise UserError(f"'{value}' was never seen in training as {name}; expected one of {some}.")
        return known[normalize(value)]

    def label_indices(self, name: str, values: Sequence[str]) -> np.ndarray:
        """The index of each value, int32 [n]; 0 for those never seen in training."""
        known = self._indices(name)
        return np.array([known.get(normalize(value), 0) for value in values], np.int32)

    def _indices(self, name: str) -> dict[str, int]:
        """The index of each value of a label, in one spelling (NFC); none for a label that the model does not know."""
        values = dict(self.vocabularies).get(name, ())
        return {normalize(value): index for index, value in enumerate(values, start=1)}

    def draw_labels(
        self, names: Sequence[str], rows: Sequence[Mapping[str, str]], seed: int
    ) -> tuple[dict[str, str], ...]:
        """The labels of each clip, and where one of `names` is not said, a value of it: each is as likely as any other.

        Raises UserError for a label never seen in training.
        """
        known, drawn = dict(self.vocabularies), []
        for place, row in enumerate(rows):
            random = np.random.default_rng((seed, place))
            for name, value in row.items():
                self.label_shares(name, value)
            drawn.append({name: str(random.choice(known[name])) for name in names} | dict(row))
        return tuple(drawn)


def _share(text: str) -> tuple[str, float]:
    """A value and its share: "3:0.7", or "3" for 1."""
    value, colon, share = text.partition(":")
    try:
        number = float(share) if colon else 1.0
    except ValueError:
        number = math.nan
    if not 0 < number < math.inf:
        raise UserError(
            f"the share of '{value}' is '{share}', expected a number above 0, as in --label digit=3:0.7,8:0.3."
        )
    return value.strip(), number
