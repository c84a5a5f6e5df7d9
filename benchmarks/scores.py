"""Models of written music beside published figures: `python -m benchmarks.scores RUN... [--split test]` prints a table a run.

| run of | figures |
|---|---|
| PianoRoll | likelihood by the protocol of papers, and by another one that is also in use |
| Voices | likelihood, grade and errors of voice leading of pieces that are drawn |
| Voices behind a melody | the same, and the accuracy of each voice at its note changes, beside two floors |
| Chords behind a melody | share of time with the right root, and the right chord, beside two floors |

Choose by validation pieces, which are the default, and score the test split once.
"""

import argparse
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.score_floors import HiddenMarkovModel
from jaxgen.core import errors
from jaxgen.core.numerics import fix_settings
from jaxgen.data.clips import Split
from jaxgen.data.pipeline import VARIANT
from jaxgen.data.preparation import prepare
from jaxgen.evaluation.scoring import Scorer, Scores
from jaxgen.features import Chords, PianoRoll, Voices
from jaxgen.nn.distributions import Sampling
from jaxgen.runs.run import Run, enable_compilation_cache
from jaxgen.scores.estimation import estimate_key
from jaxgen.scores.grading import ChoraleGrader
from jaxgen.scores.rolls import fill_holds, mark_holds, strike_beats, to_roll, to_voices
from jaxgen.scores.score import Score, join, select_tracks
from jaxgen.scores.voice_leading import VoiceErrors, count_voice_errors

_DRAWN = 100  # pieces
_BATCH = 32
_CHORD_STATES, _VOICE_STATES = 200, 1_000  # of the hidden Markov models
Rows = dict[str, Sequence[Any]]


class Opened:
    """A run and its data."""

    def __init__(self, workdir: str, split: Split, temperature: float):
        self.run, self.temperature = Run.open(workdir), temperature
        config = self.run.config
        enable_compilation_cache(config.cache_dir)
        self.features: Any = config.features
        self.store = prepare(config.data, config.features, config.audio, config.cache_dir, config.streams)
        self.train, self.clips = self.store.indices("train"), self.store.indices(split)
        self.sampler: Any = config.evaluation.sampler(self.run.task, config.model, self.run.spec)
        self.given = [name for name, stream in self.store.streams.items() if stream.default(1) is None]
        """Streams that have to be said: a melody."""

    def score(self, variant: int = 0) -> Scores:
        """Losses and predictions of each held-out piece, in the key of that variant."""
        config: Any = self.run.config
        sizes = {"batch_size": config.train.batch_size, "seq_len": config.train.seq_len}
        task: Any = self.run.task
        shown: Any = _Shown(config.model, self.features, variant)
        return Scorer(task, shown, self.run.spec, **sizes)(self.run.params, self.store, self.clips, predict=self.clips)

    def compose(self, temperature: float) -> list[Score]:
        """A piece for each held-out melody, as it is given; without melodies, `_DRAWN` pieces."""
        wanted = self.clips if self.given else range(_DRAWN)
        pieces: list[Score] = []
        for first in range(0, len(wanted), _BATCH):
            clips = wanted[first : first + _BATCH]
            inputs = [{name: self.store.stream(name, clip) for name in self.given} for clip in clips]
            pieces += self.sampler.compose(
                self.run.params,
                [{}] * len(clips),
                inputs=inputs if self.given else None,
                sampling=Sampling(temperature=temperature),
                first=first,
            )
        return pieces

    def whole(self, clip: int) -> Score:
        """A piece of the data with what is given."""
        given = [self.store.streams[name].written(self.store.stream(name, clip), self.features) for name in self.given]
        return join([*(score for score in given if score), self.features.decode_score(self.store.steps(clip))])


class _Shown:
    """A model that is shown each piece in another key."""

    def __init__(self, model: Any, features: Any, variant: int):
        self._model, self._features, self._variant = model, features, variant

    def scoring_batches(self, *arguments: Any, **sizes: Any) -> Iterator[Any]:
        for batch in self._model.scoring_batches(*arguments, **sizes):
            if not self._variant:
                yield batch
                continue
            x = batch["x"]
            moved = self._features.vary(x.reshape(-1, x.shape[-1]), self._variant).reshape(x.shape)
            variant = np.full_like(batch["labels"][VARIANT], self._variant)
            yield {**batch, "x": moved, "labels": {**batch["labels"], VARIANT: variant}}


def roll_figures(opened: Opened) -> Rows:
    """Nats a frame of piano rolls, of the model, and of the mixture of what it says of each frame in all keys."""
    views = [opened.score(variant).losses for variant in range(opened.features.num_variants)]
    sounds = {clip: np.any(opened.store.steps(clip), axis=-1) for clip in opened.clips}
    rows: Rows = {
        "nats/frame": ["model", f"mixture of {len(views)} keys"],
        "total loss over total frames, x[1:] of x[:-1]": [],
        "the same with first frames": [],
        "mean over pieces, without first and silent frames": [],
    }
    for losses in (views[0], {clip: _mixed([view[clip] for view in views]) for clip in opened.clips}):
        figures = (
            np.concatenate([losses[clip][1:] for clip in opened.clips]).mean(),
            np.concatenate([losses[clip] for clip in opened.clips]).mean(),
            np.mean([losses[clip][1:][sounds[clip][1:]].mean() for clip in opened.clips if sounds[clip][1:].any()]),
        )
        for name, value in zip([*rows][1:], figures, strict=True):
            rows[name] = [*rows[name], float(value)]
    return rows


def _mixed(losses: Sequence[NDArray[np.float32]]) -> NDArray[np.float64]:
    """Negative log likelihood [T] of the mean of distributions that give these [T] each."""
    return -np.logaddexp.reduce(-np.asarray(losses, np.float64), axis=0) + math.log(len(losses))


def voice_figures(opened: Opened) -> Rows:
    """Nats a frame, grades and errors of voices; behind a melody also how often each voice is right."""
    found = opened.score()
    drawn = [_pitches(score) for score in opened.compose(opened.temperature)][:_DRAWN]
    real = [_pitches(opened.whole(clip)) for clip in opened.clips]
    rows: Rows = {"nats/frame": [found.metrics["loss"]]}
    if opened.given:
        rows |= _accuracies(opened, found.predictions)
    rows["pieces drawn"] = ["drawn", "Bach"]
    ours, theirs = _errors(drawn), _errors(real)
    rows |= {f"{name.replace('_', ' ')} a hundred chords": [ours[name], theirs[name]] for name in ours}
    grader = ChoraleGrader([_struck(_pitches(opened.whole(clip))) for clip in opened.train])
    grades = [[grader.grade(_struck(piece))["grade"] for piece in pieces] for pieces in (drawn, real)]
    return rows | {"grade, median": [float(np.median(each)) for each in grades]}


def _accuracies(opened: Opened, predictions: Mapping[int, NDArray[np.uint8]]) -> Rows:
    """Share of each voice's note changes whose pitch is right, given what came before."""
    pieces = {clip: _moved_to_c(opened, clip) for clip in (*opened.train, *opened.clips)}
    train = [pieces[clip] for clip in opened.train]
    model = HiddenMarkovModel(
        [voices[:, 1:] for voices, _ in train], [_one_hot(voices[:, 0]) for voices, _ in train], _VOICE_STATES
    )
    rows: Rows = {"right pitch at note changes": ["ours", "copy of the frame before", "hidden Markov model"]}
    right: dict[str, list[NDArray[np.bool_]]] = {name: [] for name in opened.features.names}
    for clip in opened.clips:
        voices, offset = pieces[clip]
        truth = voices[:, 1:] - offset
        ours = np.asarray(opened.features.places(predictions[clip])) - 1 + opened.features.lowest
        copied = np.concatenate([np.full_like(truth[:1], -1), truth[:-1]])
        hidden = model.decode(_one_hot(voices[:, 0])) - offset
        changes = (truth != copied) & (voices[:, 1:] >= 0)
        for place, name in enumerate(right):
            guesses = np.stack([each[:, place] for each in (ours, copied, hidden)])
            right[name].append((guesses == truth[:, place])[:, changes[:, place]])
    return rows | {name: np.concatenate(each, axis=1).mean(axis=1).tolist() for name, each in right.items()}


def chord_figures(opened: Opened) -> Rows:
    """How often root and chord are right."""
    real = [opened.store.steps(clip).astype(np.int64) for clip in opened.clips]
    ours = [opened.features.encode_score(score) for score in opened.compose(0.0)]
    train = [_chords_in_c(opened, clip) for clip in opened.train]
    model = HiddenMarkovModel([chords for chords, _, _ in train], [notes for _, notes, _ in train], _CHORD_STATES)
    usual = model.states[0]
    guesses: dict[str, list[NDArray[Any]]] = {"ours": ours, "hidden Markov model": [], "the most frequent chord": []}
    for clip in opened.clips:
        _, notes, offset = _chords_in_c(opened, clip)
        guesses["hidden Markov model"].append(_moved_chords(model.decode(notes), -offset))
        guesses["the most frequent chord"].append(_moved_chords(np.tile(usual, (len(notes), 1)), -offset))
    rows: Rows = {"share of time": list(guesses), "root right": [], "chord right": []}
    for pieces in guesses.values():
        same = np.concatenate([_fitted(piece, len(each)) == each for piece, each in zip(pieces, real, strict=True)])
        rows["root right"] = [*rows["root right"], float(same[:, 0].mean())]
        rows["chord right"] = [*rows["chord right"], float(same.all(axis=1).mean())]
    return rows


def _offset_to_c(melody: Score) -> int:
    """Semitones that bring a melody to C major or A minor, the nearest way."""
    key = estimate_key(melody)
    tonic = 0 if key is None else (key.tonic + 3 * key.minor) % 12
    return -tonic if tonic <= 6 else 12 - tonic


def _moved_to_c(opened: Opened, clip: int) -> tuple[NDArray[np.int64], int]:
    """Pitches of all voices, int [T, V], moved to C by the melody's key, and by how much."""
    score = opened.whole(clip)
    offset = _offset_to_c(select_tracks(score, [0]))
    pitches = _pitches(score)
    return np.where(pitches < 0, -99, pitches + offset), offset


def _chords_in_c(opened: Opened, clip: int) -> tuple[NDArray[np.int64], NDArray[np.bool_], int]:
    """Chords [T, 2] and pitch classes of the melody, bool [T, 12], moved to C, and by how much."""
    score = opened.whole(clip)
    melody, grid = select_tracks(score, [0]), opened.features.grid
    offset = _offset_to_c(melody)
    roll = to_roll(melody, grid).sounding
    frames = len(opened.store.steps(clip))
    roll = np.any(_fitted(roll, frames * opened.features.places_per_frame).reshape(frames, -1, 88), axis=1)
    notes = np.zeros((frames, 12), bool)
    for key in range(88):
        notes[:, (key + 9 + offset) % 12] |= roll[:, key]  # key 0 is an A
    return _moved_chords(opened.store.steps(clip), offset), notes, offset


def _moved_chords(chords: NDArray[Any], semitones: int) -> NDArray[np.int64]:
    roots = (chords[:, 0].astype(np.int64) - 1 + semitones) % 12 + 1
    return np.stack([np.where(chords[:, 0] == 0, 0, roots), chords[:, 1]], axis=1)


def _one_hot(pitches: NDArray[np.int64]) -> NDArray[np.bool_]:
    return pitches[:, None] == np.arange(128)


def _fitted(frames: NDArray[Any], count: int) -> NDArray[Any]:
    return np.pad(frames[:count], ((0, max(0, count - len(frames))), *[(0, 0)] * (frames.ndim - 1)))


def _pitches(score: Score) -> NDArray[np.int64]:
    """What sounds in each voice, int [T, V], -1 for silence."""
    return fill_holds(to_voices(score, 4)).astype(np.int64)


def _struck(pitches: NDArray[np.int64]) -> NDArray[np.int16]:
    return strike_beats(mark_holds(pitches), 4)


def _errors(pieces: Sequence[NDArray[np.int64]]) -> dict[str, float]:
    return sum(map(count_voice_errors, pieces), start=VoiceErrors(0, 0, 0, 0, 0)).per_hundred()


_FIGURES: Mapping[type, Callable[[Opened], Rows]] = {
    PianoRoll: roll_figures,
    Voices: voice_figures,
    Chords: chord_figures,
}


def main(argv: Sequence[str] | None = None) -> str:
    """The tables of these runs, in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", metavar="RUN", help="folder of a run")
    parser.add_argument("--split", default="validation", choices=("validation", "test"))
    parser.add_argument("--temperature", default=1.0, type=float, help="of the voices that are drawn")
    options = parser.parse_args(argv)
    fix_settings()
    tables = []
    for workdir in options.runs:
        opened = Opened(workdir, options.split, options.temperature)
        if (figures := _FIGURES.get(type(opened.features))) is None:
            raise errors.UserError(f"'{workdir}' models {type(opened.features).__name__}, expected written music.")
        title = f"{workdir}, {len(opened.clips)} {options.split} pieces, update {opened.run.step}"
        tables.append(f"{title}\n\n{_table(figures(opened))}\n")
    return "\n".join(tables)


def _table(rows: Rows) -> str:
    width = max(map(len, rows.values()))
    lines = [["figure", *[""] * width], ["---"] * (width + 1)]
    for name, values in rows.items():
        cells = [f"{value:.4g}" if isinstance(value, float) else str(value) for value in values]
        lines.append([name, *cells, *[""] * (width - len(cells))])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _print() -> None:
    print(main())


if __name__ == "__main__":
    errors.run(_print)
