"""All that a model or a generator must know of the data it was trained on; stored in every checkpoint."""

import dataclasses
import math
from collections.abc import Mapping, Sequence

import numpy as np

from jaxgen.core.errors import UserError
from jaxgen.core.names import normalize
from jaxgen.features import FeatureSpec, StreamSpec
from jaxgen.scores.transposition import count_pitch_classes

UNKNOWN = "unknown"
"""What a label is said to be that shall not be known, unless it is a value of it."""


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
    combinations: tuple[tuple[tuple[str, ...], int], ...] = ()
    """Values of the labels that training clips have together, one a label ("" for none), and how many clips have them."""
    streams: tuple[tuple[str, StreamSpec], ...] = ()
    """Further streams of an example by name, sorted: what `Conditioning.aligned` and `context` are made of."""
    key: tuple[tuple[int, ...], ...] = ()
    """Of written music in one key: notes of each pitch class in some training pieces (`scores.transposition.find_key`)."""

    def parse_inputs(self, said: Mapping[str, str]) -> dict[str, np.ndarray]:
        """Streams [N, *step_shape] of what a user says of them: a text, the path of a file. Raises UserError."""
        known = dict(self.streams)
        if strangers := [name for name in said if name not in known]:
            reads = ", ".join(known) or "none"
            raise UserError(f"the model has no input '{strangers[0]}'; its inputs: {reads}. Change --input.")
        return {name: known[name].parse(value, self.features) for name, value in said.items()}

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
        if normalize(value) == UNKNOWN and UNKNOWN not in known:
            return 0
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
        """The labels of each clip; those of `names` that are not said are drawn.

        They are as likely as in the training clips that have what is said, all together: a digit is drawn with a speaker who
        says it. Where no clip has that, each is drawn by itself. Raises UserError for a label never seen in training.
        """
        known, drawn = dict(self.vocabularies), []
        fitting: dict[tuple[tuple[str, str], ...], tuple[list[dict[str, str]], np.ndarray]] = {}
        for place, row in enumerate(rows):
            random = np.random.default_rng((seed, place))
            if (said := tuple(row.items())) not in fitting:
                fitting[said] = self._combinations_with(row)
            clips, shares = fitting[said]
            if clips:
                values = clips[random.choice(len(clips), p=shares)]
            else:
                values = {name: str(random.choice(known[name])) for name in names}
            drawn.append({name: values[name] for name in names if values[name]} | dict(row))
        return tuple(drawn)

    def _combinations_with(self, row: Mapping[str, str]) -> tuple[list[dict[str, str]], np.ndarray]:
        """The combinations that have what is said, or a part of what is mixed, and the share of each among them."""
        said = {name: self.label_shares(name, value) for name, value in row.items()}
        names = [name for name, _ in self.vocabularies]
        clips = [(dict(zip(names, values, strict=True)), count) for values, count in self.combinations]
        fitting = [
            (values, count)
            for values, count in clips
            if all(mix[0] or mix[self.label_indices(name, [values[name]])[0]] for name, mix in said.items())
        ]
        counts = np.array([count for _, count in fitting], np.float64)
        return [values for values, _ in fitting], counts / max(counts.sum(), 1)


def count_notes(
    features: FeatureSpec, known: Mapping[str, StreamSpec], steps: np.ndarray, streams: Mapping[str, np.ndarray]
) -> np.ndarray:
    """Notes of each pitch class, int64 [12], in frames [T, *step_shape] and in what is written beside them, as a melody."""
    written = [known[name].written(values, features) for name, values in streams.items() if name in known]
    scores = [features.decode_score(steps), *(score for score in written if score is not None)]
    return np.sum([count_pitch_classes(score) for score in scores], axis=0)


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
