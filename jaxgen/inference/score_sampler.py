"""Written music that is made frame by frame: scores, and their sound."""

import dataclasses
import functools
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen.core.errors import UserError
from jaxgen.data.spec import DataSpec, count_notes
from jaxgen.features import ScoreSpec
from jaxgen.inference.generation import Generator
from jaxgen.inference.sampler import ClipBatch, ClipRequest
from jaxgen.models.conditioning import Conditioning
from jaxgen.models.sequence import SequenceConfig, SequenceModel
from jaxgen.nn.distributions import Sampling
from jaxgen.scores.score import Score, ScoreError, bar_end, join, to_seconds
from jaxgen.scores.soundfont import check_soundfont, play_soundfont
from jaxgen.scores.transposition import fit_transposition

_CANDIDATES = 64  # ways to fill a gap


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
        score, told = self._read(path)
        if told:
            print(f"jaxgen: {told}", file=sys.stderr)
        try:
            return self._features.encode_score(score)
        except ScoreError as error:
            raise _unusable(path, error) from None

    def read_timing(self, prompt: str | None, inputs: Mapping[str, str]) -> Score | None:
        known = dict(self._spec.streams)
        given = [known[name].read_score(said, self._features) for name, said in inputs.items() if name in known]
        found = [score for score in given if score is not None] + ([] if prompt is None else [self._read(prompt)[0]])
        return self._features.timing(found[0]) if found else None

    def _read(self, path: str) -> tuple[Score, str]:
        try:
            return self._features.read_score(path)
        except ScoreError as error:
            raise _unusable(path, error) from None

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
        timing: Score | None = None,
        **options: Any,
    ) -> list[Score]:
        """One piece for each mapping in `labels`. inputs: streams of each that the model reads; what they are of, as a given
        melody, stands in the score. prompt: frames [T, *step_shape] that every piece begins with. bars: length of each, prompt
        included; None takes `seconds`, or the length of the training pieces. semitones: how much higher the model is shown what
        is given (`fit_key`); what it makes comes back as much lower. timing: tempi and metres of the pieces, in which bars and
        seconds are counted; None for those of the features. options: as of `Generator.stream`.
        """
        features, before = self._features, self._no_steps() if prompt is None else prompt
        given = [{}] * len(labels) if inputs is None else inputs
        timing = timing or features.timing()
        end = 0 if bars is None else self._frames(timing, bars)
        if bars is not None:
            if end <= len(before):
                raise UserError(f"the prompt has {len(before) * bars / end:g} bars; raise --bars {bars}.")
            seconds = (end - len(before)) * features.hop_length / features.sample_rate
            given = [{name: self._until(name, values, end) for name, values in row.items()} for row in given]
        elif seconds is not None:
            seconds *= timing.tempi[-1].quarters_per_minute / features.quarters_per_minute
        steps, lengths = self.draw_steps(
            params,
            labels,
            features.moved(before, semitones),
            inputs=[self._moved(streams, semitones) for streams in given],
            seconds=seconds,
            sampling=sampling.moved(semitones),
            **options,
        )
        if bars is not None and lengths.min() < end:
            there = lengths.min() * bars / end
            remedy = f"pass --bars {int(there)} or fewer, or leave it out" if there >= 1 else "leave out --bars"
            raise UserError(f"what the pieces go along with has {there:.3g} bars; {remedy}.")
        rows = np.concatenate(list(steps), axis=1)[:, len(before) :]
        pieces = [np.concatenate([before, features.moved(row, -semitones)]) for row in rows]
        return [
            self.with_given(row[:length], streams, timing)
            for row, length, streams in zip(pieces, lengths, given, strict=True)
        ]

    def infill(
        self,
        params: Any,
        labels: Sequence[Mapping[str, str]],
        bars: tuple[int, int],
        *,
        prompt: np.ndarray,
        inputs: Sequence[Mapping[str, np.ndarray]] | None = None,
        sampling: Sampling = Sampling(),
        semitones: int = 0,
        timing: Score | None = None,
        seed: int = 0,
        first: int = 0,
    ) -> list[Score]:
        """Pieces that are `prompt` [T, *step_shape] but for some bars, the first and the last from 1 on, which are new. A note
        that is held out of them begins behind them.

        The model itself only looks back. So 64 ways to go on into the gap are drawn, and one of them is chosen by how likely it
        makes all that follows: sampling importance resampling (Rubin 1987). The rest is as in `compose`.
        """
        timing = timing or self._features.timing()
        start, stop = self._gap(timing, bars, len(prompt))
        piece = self._features.moved(prompt, semitones)
        seconds = [
            count * self._features.hop_length / self._features.sample_rate for count in (len(piece), stop - start)
        ]
        scores = []
        for place, row in enumerate(labels):
            streams = {} if inputs is None else inputs[place]
            (given,) = self._with_defaults([self._moved(streams, semitones)], 0, seconds[0])
            rows, streams_of = [row] * _CANDIDATES, [given] * _CANDIDATES
            steps, _ = self.draw_steps(
                params,
                rows,
                piece[:start],
                inputs=streams_of,
                seconds=seconds[1],
                sampling=sampling.moved(semitones),
                seed=seed,
                first=(first + place) * _CANDIDATES,
            )
            ways = np.concatenate(list(steps), axis=1)[:, start:stop]
            around = np.broadcast_to(piece, (_CANDIDATES, *piece.shape))
            whole = self._features.begin_notes(np.concatenate([around[:, :start], ways, around[:, stop:]], axis=1))
            conditioning = dataclasses.replace(self._streams(streams_of), static=self._conditions(rows))
            nats = np.asarray(self._behind(params, whole, conditioning, stop))
            if sampling.temperature:
                nats = nats + np.random.default_rng((seed, first + place)).gumbel(size=len(nats))
            new = self._features.moved(ways[nats.argmax()], -semitones)
            scores.append(self.with_given(np.concatenate([prompt[:start], new, prompt[stop:]]), streams, timing))
        return scores

    def _gap(self, timing: Score, bars: tuple[int, int], num_frames: int) -> tuple[int, int]:
        """The frames from the first of some bars to behind the last. Raises UserError where the piece has no such bars."""
        start = self._frames(timing, bars[0] - 1) if bars[0] > 1 else 0
        if start >= num_frames:
            raise UserError(
                f"--infill begins in bar {bars[0]}, and the prompt ends before that; name bars that it has."
            )
        return start, min(self._frames(timing, bars[1]), num_frames)

    @functools.cached_property
    def _behind(self) -> Callable[..., jax.Array]:
        """Log likelihood in nats, float32 [B], of the frames from `start` on in pieces [B, T, *step_shape]."""

        def behind(params: Any, pieces: jax.Array, conditioning: Conditioning, start: jax.Array) -> jax.Array:
            model = self._module(params)
            batch_size, num_steps = pieces.shape[:2]
            silence = jnp.broadcast_to(self._features.silence(), (batch_size, model.lookback, *pieces.shape[2:]))
            read = model.encode_context(conditioning)
            read = dataclasses.replace(
                read.over_time(num_steps), aligned={name: each[:, :num_steps] for name, each in read.aligned.items()}
            )
            none = jnp.zeros((batch_size, num_steps), bool)
            outputs, _ = model.unroll(
                jnp.concatenate([silence, pieces], axis=1), read, model.init_carry(batch_size), none
            )
            nats = model.log_prob(outputs, pieces, none)
            return jnp.where(jnp.arange(num_steps) >= start, nats, 0.0).sum(axis=1)

        return jax.jit(behind)

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

    def _frames(self, timing: Score, bars: int) -> int:
        """Frames of so many bars."""
        return -(-bar_end(timing, bars) // self._ticks)

    @property
    def _ticks(self) -> int:
        """Of a frame."""
        return self._features.grid // self._features.frames_per_quarter

    def max_samples(self, request: ClipRequest) -> int:
        before, timing = 0 if request.prompt is None else len(request.prompt), request.timing or self._features.timing()
        if request.infill is not None:
            return round(float(to_seconds(timing, np.array([self._ticks * before]))[0]) * self._features.sample_rate)
        if request.bars is not None:
            ticks = self._ticks * max(before, self._frames(timing, request.bars))
            return round(float(to_seconds(timing, np.array([ticks]))[0]) * self._features.sample_rate)
        pace = self._features.quarters_per_minute / timing.tempi[-1].quarters_per_minute
        new = super().max_samples(dataclasses.replace(request, prompt=None))
        return round(new if request.seconds else pace * new) + round(pace * self._features.num_samples(before))

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
        if request.soundfont is not None:
            check_soundfont(request.soundfont)
        if request.infill is None:
            scores = self.compose(
                params, labels, bars=request.bars, timing=request.timing, semitones=semitones, **options
            )
        elif request.prompt is None:
            raise UserError("--infill is of a piece that is given; pass --prompt the file of it.")
        else:
            kept = {name: options[name] for name in ("prompt", "inputs", "sampling", "seed", "first")}
            scores = self.infill(params, labels, request.infill, timing=request.timing, semitones=semitones, **kept)
        sound = self._synthesise(scores) if request.soundfont is None else self._play(scores, request.soundfont)
        return ClipBatch(options["first"], labels, sound, scores)

    def _synthesise(self, scores: Sequence[Score]) -> Iterator[list[np.ndarray]]:
        """Sound of all scores, a block at a time; shorter ones are over before the others."""
        features = self._features
        none = np.zeros((0, *features.sample_shape), np.float32)
        sounds = [features.perform(score, round(score.seconds * features.sample_rate)) for score in scores]
        parts = [next(sound, none) for sound in sounds]
        while any(map(len, parts)):
            yield parts
            parts = [next(sound, none) for sound in sounds]

    def _play(self, scores: Sequence[Score], soundfont: str) -> Iterator[list[np.ndarray]]:
        """Sound of one score after another: a SoundFont takes much memory."""
        features = self._features
        for place, score in enumerate(scores):
            for block in play_soundfont(score, soundfont, features.sample_rate):
                parts = [np.zeros((0, *features.sample_shape), np.float32)] * len(scores)
                parts[place] = block if features.channels == 2 else block.mean(axis=1)
                yield parts

    def _until(self, name: str, values: np.ndarray, end: int) -> np.ndarray:
        known = dict(self._spec.streams)
        return values[:end] if name in known and known[name].is_aligned else values

    def with_given(self, steps: np.ndarray, streams: Mapping[str, np.ndarray], timing: Score | None = None) -> Score:
        """The score of frames [T, *step_shape], behind what these streams [T, ...] are of, such as a given melody.

        timing: its tempi and metres; None for those of the features.
        """
        known = dict(self._spec.streams)
        given = [known[name].written(values[: len(steps)], self._features) for name, values in streams.items()]
        parts = (timing or self._features.timing(), *given, self._features.decode_score(steps))
        return join([part for part in parts if part is not None])

    def _no_steps(self) -> np.ndarray:
        silence = self._features.silence()
        return np.zeros((0, *silence.shape), silence.dtype)


def _unusable(path: str, error: ScoreError) -> UserError:
    reason = str(error).partition("; ")[0]  # what may be changed in training does not help here
    return UserError(f"the prompt '{path}' cannot be used ({reason}); pass --prompt a file like the training pieces.")
