"""Written music that is made frame by frame: a score, its sound and its picture."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxgen.core.errors import UserError
from jaxgen.core.files import write_atomic
from jaxgen.data.spec import DataSpec
from jaxgen.features import ScoreSpec
from jaxgen.inference.generation import Generator
from jaxgen.inference.sampler import ClipBatch, ClipRequest
from jaxgen.models.sequence import SequenceConfig, SequenceModel
from jaxgen.scores.files import read_scores
from jaxgen.scores.midi import write_midi
from jaxgen.scores.picture import draw_score
from jaxgen.scores.score import Score, ScoreError, join, quantise


class ScoreSampler(Generator):
    """Draws new pieces of written music, or goes on with one."""

    kind = "writes music frame by frame"
    unsupported = ("interpolate",)

    def __init__(
        self, module: Callable[[Any], SequenceModel], model: SequenceConfig, spec: DataSpec, features: ScoreSpec
    ):
        super().__init__(module, model, spec)
        self._features = features

    def read_prompt(self, path: str) -> np.ndarray:
        """Frames [T, *step_shape] of a file of written music."""
        try:
            found = read_scores(path)[0][1]
            if isinstance(found, ScoreError):
                raise found
            return self._features.encode_score(quantise(found.score, (self._features.grid,))[0])
        except ScoreError as error:
            raise UserError(
                f"the prompt '{path}' cannot be used ({error}); pass --prompt a file of written music."
            ) from None

    def compose(
        self,
        params: Any,
        labels: Sequence[Mapping[str, str]],
        *,
        inputs: Sequence[Mapping[str, np.ndarray]] | None = None,
        prompt: np.ndarray | None = None,
        bars: int | None = None,
        seconds: float | None = None,
        **options: Any,
    ) -> list[Score]:
        """One piece for each mapping in `labels`. inputs: streams of each that the model reads; what they are of, as a given
        melody, stands in the score. prompt: frames [T, *step_shape] that every piece begins with. bars: length of each, prompt
        included; None takes `seconds`, or the length of the training pieces. options: as of `Generator.stream`.
        """
        features, before = self._features, self._no_steps() if prompt is None else prompt
        if bars is not None:
            left = bars * features.frames_per_bar - len(before)
            if left < 1:
                raise UserError(f"the prompt has {len(before) / features.frames_per_bar:g} bars; raise --bars {bars}.")
            seconds = left * features.hop_length / features.sample_rate
        steps, lengths = self.draw_steps(params, labels, before, inputs=inputs, seconds=seconds, **options)
        rows = np.concatenate(list(steps), axis=1)
        given = [{}] * len(labels) if inputs is None else inputs
        return [
            self.with_given(row[:length], streams) for row, length, streams in zip(rows, lengths, given, strict=True)
        ]

    def max_samples(self, request: ClipRequest) -> int:
        before = 0 if request.prompt is None else len(request.prompt)
        if request.bars is not None:
            return self._features.num_samples(max(before, request.bars * self._features.frames_per_bar))
        return super().max_samples(dataclasses.replace(request, prompt=None)) + self._features.num_samples(before)

    def _batch(
        self, params: Any, labels: Sequence[Mapping[str, str]], request: ClipRequest, options: Mapping[str, Any]
    ) -> ClipBatch:
        scores = self.compose(params, labels, bars=request.bars, **options)
        return ClipBatch(options["first"], labels, self._perform(scores), _Writer(scores))

    def _perform(self, scores: Sequence[Score]) -> Iterator[list[np.ndarray]]:
        """Sound of all scores, a block at a time; shorter ones are over before the others."""
        features = self._features
        none = np.zeros((0, *features.sample_shape), np.float32)
        sounds = [features.perform(score, round(score.seconds * features.sample_rate)) for score in scores]
        parts = [next(sound, none) for sound in sounds]
        while any(map(len, parts)):
            yield parts
            parts = [next(sound, none) for sound in sounds]

    def with_given(self, steps: np.ndarray, streams: Mapping[str, np.ndarray]) -> Score:
        """The score of frames [T, *step_shape], behind what these streams [T, ...] are of, such as a given melody."""
        known = dict(self._spec.streams)
        given = [known[name].written(values[: len(steps)], self._features) for name, values in streams.items()]
        return join([*(each for each in given if each is not None), self._features.decode_score(steps)])

    def _no_steps(self) -> np.ndarray:
        silence = self._features.silence()
        return np.zeros((0, *silence.shape), silence.dtype)


@dataclasses.dataclass(frozen=True)
class _Writer:
    """Writes a MIDI file and a picture of a score beside its sound."""

    scores: Sequence[Score]

    def __call__(self, place: int, wav: Path) -> None:
        score, mark = self.scores[place], wav.with_suffix(".json").read_text()
        write_midi(wav.with_suffix(".mid"), score, comment=mark)
        write_atomic(wav.with_suffix(".png"), draw_score(score, synthetic=True, comment=wav.stem))
