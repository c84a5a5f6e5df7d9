"""Written music to steps: each score is read, put on the features' grid, and encoded."""

import collections
import concurrent.futures
import dataclasses
from collections.abc import Iterable, Iterator

import numpy as np

from jaxgen.audio import AudioError
from jaxgen.data.clips import Clip
from jaxgen.data.ingest import AudioPolicy
from jaxgen.data.score_report import ScoreFacts, facts_of
from jaxgen.features import Example, ScoreSpec
from jaxgen.provenance import record as provenance
from jaxgen.scores.score import Score, ScoreError, quantise

_AT_ONCE = 64  # scores that wait encoded


@dataclasses.dataclass(frozen=True)
class EncodedScore:
    """A score and its steps."""

    score: Score
    """On the grid."""
    steps: np.ndarray
    """[nstep, *step_shape]."""
    facts: ScoreFacts

    def example(self, clip: Clip) -> Example:
        """What further streams are made of."""
        return Example(clip.fields, len(self.steps), np.zeros(0, np.float32), self.score)


def encode_scores(
    clips: Iterable[Clip], features: ScoreSpec, policy: AudioPolicy, pool: concurrent.futures.Executor
) -> Iterator[concurrent.futures.Future[EncodedScore]]:
    """Each clip's score, read in parallel; the future raises AudioError where it is refused."""
    pending: collections.deque[concurrent.futures.Future[EncodedScore]] = collections.deque()
    for clip in clips:
        pending.append(pool.submit(_encode, clip, features, policy))
        if len(pending) == _AT_ONCE:
            yield pending.popleft()
    yield from pending


def _encode(clip: Clip, features: ScoreSpec, policy: AudioPolicy) -> EncodedScore:
    if clip.refused:
        raise AudioError(clip.refused)
    if clip.score is None:
        raise AudioError(f"sound, and {type(features).__name__} are of written music")
    try:
        found = clip.score()
        if policy.synthetic == "refuse" and provenance.parse(found.comment) is not None:
            raise AudioError("written by a model; --audio.synthetic accept takes it")
        score, error = quantise(found.score, (features.grid,))
        steps = features.encode_score(score)
    except ScoreError as reason:
        raise AudioError(str(reason)) from None
    if not steps.any():
        raise AudioError("no notes")
    return EncodedScore(score, steps, facts_of(score, error, features.quarters_per_minute))
