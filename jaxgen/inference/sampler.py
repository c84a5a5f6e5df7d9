"""What commands and the Python API ask of whatever makes new clips, and what they get."""

import abc
import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from jaxgen.audio import MOST_WAV_SAMPLES
from jaxgen.core.errors import UserError
from jaxgen.scores.score import Score

if TYPE_CHECKING:  # jax is slow to import
    from jaxgen.features import FeatureSpec


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClipRequest:
    """Which clips are wanted. What is None is left to the sampler."""

    num_clips: int
    labels: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """Label name to value, or to values mixed (`DataSpec.label_shares`), of every clip."""
    seed: int = 0
    batch_size: int | None = None
    """Clips that are made at a time."""
    seconds: float | None = None
    """Longest clip, beyond the prompt."""
    prompt: NDArray[Any] | None = None
    """What every clip begins with and continues: samples [nsamp] at the features' sample rate, or frames of written music."""
    interpolate: int | None = None
    """One more clip, in which each turns into the next in so many steps."""
    input: Mapping[str, NDArray[Any]] | None = None
    """Further streams [N, ...] by name that the model reads, such as a text (`DataSpec.parse_inputs`), of every clip."""
    bars: int | None = None
    """Length of every clip of written music, prompt included."""
    infill: tuple[int, int] | None = None
    """Bars of the prompt, the first and the last from 1 on, that are written anew; all else of it stays."""
    timing: Score | None = None
    """Tempi and metres of written music, taken over from what it continues or accompanies (`ClipSampler.read_timing`)."""
    soundfont: str | None = None
    """SoundFont file that plays written music; None plays it by additive synthesis."""

    def __post_init__(self) -> None:
        if self.num_clips < 1:
            raise UserError(f"--num-clips is {self.num_clips}, expected at least 1 clip.")
        if self.bars is not None and not 1 <= self.bars <= 10_000:
            raise UserError(f"--bars is {self.bars}, expected 1 to 10,000 bars.")
        if self.infill is not None and not 1 <= self.infill[0] <= self.infill[1] <= 10_000:
            raise UserError(f"--infill is {self.infill[0]}-{self.infill[1]}, expected bars of the prompt, such as 5-8.")
        if self.infill is not None and self.bars is not None:
            raise UserError("--infill keeps the length of the prompt; leave out --bars.")
        if self.batch_size is not None and self.batch_size < 1:
            raise UserError(f"--batch-size is {self.batch_size}, expected at least 1 clip at a time.")
        if self.seconds is not None and not 0 < self.seconds < float("inf"):
            raise UserError(f"--seconds is {self.seconds:g}, expected a length above 0.")
        if self.interpolate is not None and (self.interpolate < 1 or self.num_clips < 2):
            raise UserError(
                f"--interpolate is {self.interpolate} and --num-clips {self.num_clips}, expected at least 1 step and 2 clips "
                "to go between."
            )

    @property
    def total(self) -> int:
        """Clips that are made, the interpolated one included."""
        return self.num_clips + (self.interpolate is not None)


def check_size(num_samples: int, features: "FeatureSpec") -> None:
    """Raises UserError where a clip of so many samples is more than a wav file holds."""
    rate, most = features.sample_rate, MOST_WAV_SAMPLES // features.channels
    if num_samples > most:
        stereo = " in stereo" * (features.channels > 1)
        raise UserError(
            f"a clip would last {num_samples / rate:.3g} s, but a wav file holds at most {most // rate:,} s at {rate} "
            f"Hz{stereo}; lower --seconds or --bars and continue with --prompt, or lower --interpolate or --num-clips."
        )


def parse_bars(said: str) -> tuple[int, int]:
    """The first and the last of bars that a user names, such as 5-8 or 5. Raises UserError where it is neither."""
    first, _, last = said.partition("-")
    if not (first.isdecimal() and (last or first).isdecimal()) or len(said) > 12:
        raise UserError(f"--infill is '{said[:40]}', expected bars of the prompt, such as 5-8.")
    return int(first), int(last or first)


@dataclasses.dataclass(frozen=True)
class ClipBatch:
    """Clips that are about to be made together."""

    first: int
    """Place of the first of them among all."""
    labels: Sequence[Mapping[str, str]]
    """Of each clip."""
    blocks: Iterable[Sequence[NDArray[np.float32]]]
    """The next samples of every clip, [any number] each, again and again until all are made."""
    scores: Sequence[Score] | None = None
    """Of each clip, where they are written music."""


class ClipSampler(abc.ABC):
    """Makes clips with a model of one kind; what it compiles is kept from call to call."""

    kind: ClassVar[str]
    """What its models do, after "the model"."""
    unsupported: ClassVar[tuple[str, ...]]
    """Fields of a request that such a model has no use for."""
    default_batch_size: ClassVar[int]

    def batches(self, params: Any, request: ClipRequest, sampling: Any) -> Iterator[ClipBatch]:
        """The clips of a request, a batch at a time. sampling: how they are drawn (`EvaluationConfig.sampling`).

        Raises UserError for what such a model has no use for, or a label never seen in training.
        """
        for name in self.unsupported:
            if getattr(request, name) is not None:
                raise UserError(f"the run's model {self.kind}; leave out --{name.replace('_', '-')}.")
        return self._batches(params, request, sampling)

    def read_prompt(self, path: str) -> Any:
        """What `ClipRequest.prompt` takes of a file. Raises UserError where that cannot be read."""
        raise UserError(f"the run's model {self.kind}; leave out --prompt.")

    def read_timing(self, prompt: str | None, inputs: Mapping[str, str]) -> Score | None:
        """What `ClipRequest.timing` takes of the files that a user names; None for models of sound. Raises UserError."""
        del prompt, inputs
        return None

    def clips(
        self, params: Any, request: ClipRequest, sampling: Any
    ) -> tuple[list[Mapping[str, str]], list[NDArray[np.float32]], list[Score]]:
        """All clips of a request: the labels, the samples [nsamp] and, of written music, the score of each."""
        labels, clips, scores = list[Mapping[str, str]](), list[NDArray[np.float32]](), list[Score]()
        for batch in self.batches(params, request, sampling):
            labels += batch.labels
            clips += [np.concatenate(pieces) for pieces in zip(*batch.blocks, strict=True)]
            scores += batch.scores or ()
        return labels, clips, scores

    @abc.abstractmethod
    def _batches(self, params: Any, request: ClipRequest, sampling: Any) -> Iterator[ClipBatch]:
        """As `batches`, for a request that fits."""

    @abc.abstractmethod
    def max_samples(self, request: ClipRequest) -> int:
        """Samples that the longest clip of a request may have."""
