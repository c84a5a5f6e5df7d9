"""What a model that accompanies melodies has to beat: a hidden Markov model, whose hidden states are the accompaniment."""

import collections
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

_SMALLEST = 1e-3


class HiddenMarkovModel:
    """Each state emits a set of notes, each note by itself (Rabiner 1989, with Bernoulli emissions)."""

    def __init__(
        self, hidden: Sequence[NDArray[np.int64]], observed: Sequence[NDArray[np.bool_]], num_states: int
    ) -> None:
        """hidden: what each frame of a piece has, int [T, W]; the `num_states` most frequent are states, all others are left
        out. observed: the notes that are given, bool [T, D].
        """
        rows = [[tuple(row) for row in piece.tolist()] for piece in hidden]
        counts = collections.Counter(row for piece in rows for row in piece)
        self.states = np.array([state for state, _ in counts.most_common(num_states)])
        places = {tuple(state): place for place, state in enumerate(self.states.tolist())}
        size = len(places)
        usual = np.array([counts[tuple(state)] for state in self.states.tolist()], float)
        starts, moves = 0.1 * usual / usual.sum(), np.tile(0.1 * usual / usual.sum(), (size, 1))
        notes, frames = np.full((size, observed[0].shape[1]), 0.1), np.full(size, 1.0)
        for piece, given in zip(rows, observed, strict=True):
            path = np.array([places.get(row, -1) for row in piece])
            if path[0] >= 0:
                starts[path[0]] += 1
            both = (path[:-1] >= 0) & (path[1:] >= 0)
            np.add.at(moves, (path[:-1][both], path[1:][both]), 1)
            np.add.at(notes, path[path >= 0], given[path >= 0])
            np.add.at(frames, path[path >= 0], 1)
        shares = np.clip(notes / frames[:, None], _SMALLEST, 1 - _SMALLEST)
        self._starts, self._moves = np.log(starts / starts.sum()), np.log(moves / moves.sum(axis=1, keepdims=True))
        self._odds, self._none = np.log(shares / (1 - shares)), np.log(1 - shares).sum(axis=1)

    def decode(self, observed: NDArray[np.bool_]) -> NDArray[np.int64]:
        """The likeliest accompaniment [T, W] of given notes bool [T, D] (Viterbi 1967)."""
        emitted = observed @ self._odds.T + self._none
        best, back = self._starts + emitted[0], []
        for row in emitted[1:]:
            reached = best[:, None] + self._moves
            back.append(reached.argmax(axis=0))
            best = reached.max(axis=0) + row
        path = [int(best.argmax())]
        for came in reversed(back):
            path.append(int(came[path[-1]]))
        return self.states[path[::-1]]
