"""What every evaluation offers, what a report is made of, and which clips are looked at."""

import abc
import dataclasses
import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import jax
import numpy as np

from jaxgen.core.descriptions import SHARE, Better, Description, Descriptions
from jaxgen.core.errors import UserError
from jaxgen.core.machine import available_cores
from jaxgen.data.spec import DataSpec
from jaxgen.data.store import Store
from jaxgen.evaluation import stereo
from jaxgen.evaluation.audio_metric import AudioMetric
from jaxgen.evaluation.memorisation import Memorisation
from jaxgen.evaluation.metrics import NO_CLIPS, clipping_rate, mean, silence_rate
from jaxgen.features import Decoder, FeatureSpec
from jaxgen.inference.sampler import ClipSampler
from jaxgen.models.config import ModelConfig
from jaxgen.objectives.objective import TrainTask
from jaxgen.scores.score import Score


@dataclasses.dataclass(frozen=True)
class ClipGroup:
    """A set of clips that the table describes."""

    name: str
    clips: list[np.ndarray]
    """float32 [nsamp] each, or of stereo sound [nsamp, 2]; of written music, those that the page plays."""
    labels: Sequence[Mapping[str, str]]
    """What each was asked to be, or is."""
    scores: Sequence[Score] = ()
    """Of written music, what each clip plays."""


@dataclasses.dataclass(frozen=True)
class EvaluationResult:
    """All that a report says."""

    metrics: dict[str, float]
    """Figures of the model, by unit-bearing name; `Absent` where they cannot be computed, here and in the table."""
    groups: tuple[ClipGroup, ...]
    """Training data, held-out data, generated clips, clips of the untrained model, noise."""
    table: dict[str, dict[str, float]]
    """Figures by column name, then by unit-bearing name."""
    labels: tuple[dict[str, str], ...]
    """Labels of the generated clips; those of the held-out clips at the same places."""
    notes: dict[str, str]
    """What the figures rest on, by name."""
    memorisation: Memorisation | None
    """How near generated clips are to training data; None where they are not made freely."""
    real_time_factor: float
    side_by_side: str = "Clips side by side have the same labels"
    """What a held-out and a generated clip at the same place have in common."""
    losses_are_comparable: bool = True
    """Whether the losses of training and of validation are of one kind."""
    descriptions: Descriptions = dataclasses.field(default_factory=dict)
    """What the figures are, for people."""
    references: tuple[str, ...] = ("held-out data", "untrained model")
    """Columns of the table that a reader compares the generated clips with first."""
    partly_labelled: tuple[str, ...] = ()
    """Columns of the table with clips for which not all labels were said."""


@dataclasses.dataclass(frozen=True)
class EvaluationConfig(abc.ABC):
    """Base of the configs of what is made and measured while training and for the report."""

    num_clips: int = 64
    """Clips made for the report, over which its figures are means; more are steadier and slower."""
    num_previews: int = 8
    """Clips made at each validation, and shown in the report."""
    clips_per_value: int = 10
    """Where one label is said alone, or none: clips for each value of the label with the most, at most `num_clips`."""
    metrics: tuple[AudioMetric, ...] = ()
    """Further metrics that know this kind of data."""

    models: ClassVar[str]
    """What models of this kind do, after "the model"."""
    next_command: ClassVar[str]
    """What to do with a trained run, `{workdir}`, which is quoted."""
    makes_copies: ClassVar[bool] = False
    """Whether its clips are copies of held-out recordings."""

    if TYPE_CHECKING:  # a field of some; a property here would become a field's default value

        @property
        def sampling(self) -> Any:
            """How clips are drawn: a frozen dataclass, or None where nothing is."""
    else:
        sampling = None

    def __post_init__(self) -> None:
        if min(self.num_clips, self.num_previews, self.clips_per_value) < 1:
            raise UserError(
                "--evaluation.num-clips, --evaluation.num-previews and --evaluation.clips-per-value must be at least 1."
            )
        if strangers := [
            type(metric).__name__ for metric in self.metrics if metric.compares_copies and not self.makes_copies
        ]:
            raise UserError(
                f"{strangers[0]} compares copies with the recordings they were made of, and {type(self).__name__} makes none; "
                "leave it out of the metrics, or use it with a vocoder's run."
            )

    def partly_labelled(
        self,
        spec: DataSpec,
        names: Sequence[str],
        seed: int,
        make: Callable[[Sequence[Mapping[str, str]]], list[np.ndarray]],
    ) -> list[ClipGroup]:
        """Clips that `make` makes of labels when one of `names` is said, a group each, and when none is; the rest is drawn, as
        `jaxgen.generate` does. Nothing for a model with fewer than two labels.

        The values of a label that is said come in turn.
        """
        if len(names) < 2:
            return []
        values = {name: dict(spec.vocabularies)[name] for name in names}
        count = min(self.num_clips, self.clips_per_value * max(map(len, values.values())))
        said: dict[str, list[dict[str, str]]] = {
            f"only {name} said": [{name: value} for value in itertools.islice(itertools.cycle(values[name]), count)]
            for name in names
        }
        said["no label said"] = [{}] * count
        drawn = {group: spec.draw_labels(names, rows, seed) for group, rows in said.items()}
        return [ClipGroup(group, make(rows), rows) for group, rows in drawn.items()]

    def with_sampling(self, overrides: Mapping[str, Any]) -> Self:
        """The same with other settings of how clips are drawn, by name.

        Raises UserError for one that its models do not have.
        """
        known = {field.name for field in dataclasses.fields(self.sampling)} if self.sampling is not None else set()
        for name in overrides:
            if name not in known:
                raise UserError(f"the run's model {self.models}; leave out --{name.replace('_', '-')}.")
        if not overrides:
            return self
        changed: dict[str, Any] = {"sampling": dataclasses.replace(self.sampling, **overrides)}
        return dataclasses.replace(self, **changed)

    @abc.abstractmethod
    def sampler(
        self, task: TrainTask, model: ModelConfig, spec: DataSpec, decoder: Decoder | None = None
    ) -> ClipSampler:
        """What makes new clips with models of this config. decoder: makes sound of their steps; none takes the features.

        Raises UserError where they make none.
        """

    def decoder(
        self, task: TrainTask, model: ModelConfig, spec: DataSpec, features: FeatureSpec, params: Any
    ) -> Decoder:
        """What makes sound of the steps of `features` with a model of this config. Raises UserError where it makes none."""
        raise UserError(
            f"--vocoder holds a run of a {type(model).__name__}; pass the folder of a run of a Vocoder, as "
            "configs/digits_vocoder.py trains."
        )

    @abc.abstractmethod
    def evaluator(
        self,
        task: TrainTask,
        model: ModelConfig,
        spec: DataSpec,
        *,
        batch_size: int,
        seq_len: int,
        seed: int,
        cache_dir: str | Path,
        decoder: Decoder | None = None,
    ) -> "Evaluator":
        """What measures models of this config. decoder: makes sound of their steps; none takes the features.

        Raises UserError where they are of another kind.
        """


class Evaluator(abc.ABC):
    """Measures models of one config; what it compiles is kept from call to call."""

    @abc.abstractmethod
    def validate(
        self, params: Any, store: Store, clips: Sequence[int], most: int
    ) -> tuple[dict[str, float], Iterable[np.ndarray]]:
        """Figures (among them `loss`) over at most `most` of these clips, evenly spread, and a few clips to hear, which may
        be made as they are read.
        """

    @abc.abstractmethod
    def evaluate(
        self, params: Any, untrained: Any, training: Store, store: Store, clips: Sequence[int]
    ) -> EvaluationResult:
        """Measures `params` on held-out clips of `store`, beside the data trained on and an untrained model.

        Raises UserError without held-out clips.
        """


CLIP_DESCRIPTIONS: Descriptions = {
    "clipping_rate": Description("Clipped samples", "Share of samples at full scale.", SHARE, Better.LIKE_RECORDINGS),
    "silence_rate": Description(
        "Silence", "Share of frames of 20 ms that are below -60 dBFS.", SHARE, Better.LIKE_RECORDINGS
    ),
    "seconds_per_clip": Description("Length", "Mean length of a clip.", "s", Better.LIKE_RECORDINGS),
    **stereo.CLIP_DESCRIPTIONS,
}
"""Of the figures of `describe`."""

REAL_TIME_FACTOR = Description(
    "Speed",
    "Seconds of sound made per second, on the machine of this evaluation.",
    "s/s",
    Better.HIGHER,
    importance=1,
    reference="1 is real time",
)

TRAINING = Description(
    "training data", "The same of training clips; a wide gap is overfitting.", reference_of="{figure}"
)


def describe(group: ClipGroup, sample_rate: int) -> dict[str, float]:
    """What the clips are like, by unit-bearing name."""
    return {
        "clipping_rate": mean([clipping_rate(clip) for clip in group.clips], NO_CLIPS),
        "silence_rate": mean([silence_rate(clip, sample_rate) for clip in group.clips], NO_CLIPS),
        "seconds_per_clip": mean([len(clip) / sample_rate for clip in group.clips], NO_CLIPS),
    } | stereo.describe_stereo(group.clips)


def describe_hardware() -> str:
    """What a time is measured on, in words."""
    if jax.default_backend() != "cpu":
        return f"on one {jax.devices()[0].device_kind}"
    cores = available_cores()
    return f"on {cores} processor core{'s' * (cores > 1)}"


def pick_evenly(items: Sequence[int], count: int) -> list[int]:
    """At most `count` of the items, evenly spread over them."""
    places = np.linspace(0, len(items) - 1, min(count, len(items))).round().astype(int)
    return [items[place] for place in places]


def pick_balanced(store: Store, clips: Sequence[int], labels: Sequence[str], count: int) -> list[int]:
    """Exactly `count` of the clips, as evenly as can be over the combinations of labels; in no order of those, so that
    the first few are of many.
    """
    groups: dict[tuple[str, ...], list[int]] = {}
    for clip in clips:
        groups.setdefault(tuple(store.clips[clip].fields.get(name, "") for name in labels), []).append(clip)
    order = np.random.default_rng(0).permutation(len(groups))
    repeated = [_repeated(list(groups.values())[place], -(-count // len(groups))) for place in order]
    return [clip for turn in zip(*repeated, strict=True) for clip in turn][:count]


def fields(store: Store, clips: Sequence[int]) -> list[Mapping[str, str]]:
    """What is known of each clip."""
    return [store.clips[clip].fields for clip in clips]


def known_labels(
    spec: DataSpec, names: Sequence[str], store: Store, clips: Sequence[int]
) -> tuple[dict[str, str], ...]:
    """Labels of the clips by these names, those values that a model trained on `spec` knows."""
    known = dict(spec.vocabularies)
    return tuple({name: f[name] for name in names if f.get(name) in known[name]} for f in fields(store, clips))


def known_streams(names: Sequence[str], store: Store, clips: Sequence[int]) -> list[dict[str, np.ndarray]]:
    """Streams [N, ...] of the clips by these names."""
    return [{name: store.stream(name, clip) for name in names} for clip in clips]


def _repeated(items: Sequence[int], count: int) -> list[int]:
    """Exactly `count` of the items, evenly spread, over and over where there are fewer."""
    return list(itertools.islice(itertools.cycle(pick_evenly(items, count)), count))
