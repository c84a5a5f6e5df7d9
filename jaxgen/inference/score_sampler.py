"""Written music that is made frame by frame: a score, its sound and its picture."""

import dataclasses
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxgen.core.errors import UserError
from jaxgen.core.files import write_atomic
from jaxgen.data.spec import DataSpec, count_notes
from jaxgen.features import ScoreSpec
from jaxgen.inference.generation import Generator
from jaxgen.inference.sampler import ClipBatch, ClipRequest
from jaxgen.models.sequence import SequenceConfig, SequenceModel
from jaxgen.nn.distributions import Sampling
from jaxgen.scores.files import read_scores
from jaxgen.scores.midi import write_midi
from jaxgen.scores.picture import draw_score
from jaxgen.scores.score import Score, ScoreError, join, quantise
from jaxgen.scores.transposition import fit_transposition


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
        sampling: Sampling = Sampling(),
        semitones: int = 0,
        **options: Any,
    ) -> list[Score]:
        """One piece for each mapping in `labels`. inputs: streams of each that the model reads; what they are of, as a given
        melody, stands in the score. prompt: frames [T, *step_shape] that every piece begins with. bars: length of each, prompt
        included; None takes `seconds`, or the length of the training pieces. semitones: how much higher the model is shown what
        is given (`fit_key`); what it makes comes back as much lower. options: as of `Generator.stream`.
        """
        features, before = self._features, self._no_steps() if prompt is None else prompt
        if bars is not None:
            left = bars * features.frames_per_bar - len(before)
            if left < 1:
                raise UserError(f"the prompt has {len(before) / features.frames_per_bar:g} bars; raise --bars {bars}.")
            seconds = left * features.hop_length / features.sample_rate
        given = [{}] * len(labels) if inputs is None else inputs
        steps, lengths = self.draw_steps(
            params,
            labels,
            features.moved(before, semitones),
            inputs=[self._moved(streams, semitones) for streams in given],
            seconds=seconds,
            sampling=sampling.moved(semitones),
            **options,
        )
        rows = np.concatenate(list(steps), axis=1)[:, len(before) :]
        pieces = [np.concatenate([before, features.moved(row, -semitones)]) for row in rows]
        return [
            self.with_given(row[:length], streams) for row, length, streams in zip(pieces, lengths, given, strict=True)
        ]

    def fit_key(self, inputs: Mapping[str, np.ndarray] | None = None, prompt: np.ndarray | None = None) -> int:
        """Semitones, -6 to 5, by which a prompt and given voices have to be higher to be in the key of the training data.

        0 where nothing is given, or the training data is in many keys.
        """
        steps = self._no_steps() if prompt is None else prompt
        notes = count_notes(self._features, dict(self._spec.streams), steps, inputs or {})
        return fit_transposition(notes, self._spec.key)

    def _moved(self, streams: Mapping[str, np.ndarray], semitones: int) -> dict[str, np.ndarray]:
        known = dict(self._spec.streams)
        return {
            name: known[name].moved(values, semitones) if name in known else values for name, values in streams.items()
        }

    def max_samples(self, request: ClipRequest) -> int:
        before = 0 if request.prompt is None else len(request.prompt)
        if request.bars is not None:
            return self._features.num_samples(max(before, request.bars * self._features.frames_per_bar))
        return super().max_samples(dataclasses.replace(request, prompt=None)) + self._features.num_samples(before)

    def _batch(
        self, params: Any, labels: Sequence[Mapping[str, str]], request: ClipRequest, options: Mapping[str, Any]
    ) -> ClipBatch:
        semitones = self.fit_key(request.input, request.prompt)
        if semitones and not options["first"]:
            print(
                f"jaxgen: the model reads what is given {semitones:+d} semitones, in the key of its training data; what it makes "
                "comes back.",
                file=sys.stderr,
            )
        scores = self.compose(params, labels, bars=request.bars, semitones=semitones, **options)
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
