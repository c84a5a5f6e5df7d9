"""Sound from mel frames by a trained vocoder: of whole clips, or as frames come."""

import copy
import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
import numpy as np

from jaxgen.features import LogMel
from jaxgen.models.vocoder import VocoderModule

_NEW_FRAMES = 64  # that are made sound at a time as frames come
_ROUNDED = 16  # whole clips are filled up to a multiple of so many frames, for each of which a program is compiled


class Renderer:
    """A `Decoder` of frames; compiled programs are kept from call to call."""

    def __init__(self, module: Callable[[Any], VocoderModule], features: LogMel, params: Any = None):
        """module: puts parameters into the vocoder, which was trained on frames of `features` (`Training.module`)."""
        self._module, self._features, self._params = module, features, params
        self._render = jax.jit(lambda params, frames, real: module(params).render(frames, real))

    def of(self, params: Any) -> "Renderer":
        """The same with other parameters."""
        other = copy.copy(self)
        other._params = params
        return other

    def decode(self, steps: np.ndarray) -> np.ndarray:
        """As `FeatureSpec.decode`: samples float32 [B, (nframe - 1) * hop_length] of the steps of whole clips, float32
        [B, nstep, *step_shape]."""
        frames = steps.reshape(len(steps), -1, self._features.n_mels)
        count = frames.shape[1]
        padded = np.pad(frames, [(0, 0), (0, -count % _ROUNDED), (0, 0)])
        samples = self._render(self._params, padded, np.arange(padded.shape[1]) < count)
        return np.asarray(samples)[:, : (count - 1) * self._features.hop_length]

    def decode_blocks(self, blocks: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        """As `FeatureSpec.decode_blocks`: samples float32 [B, any number] as steps [B, any number, *step_shape] come.

        Each window of frames is rendered with all before and after it that it depends on, so that the sound is that of
        all frames at once. A causal vocoder waits only for frames whose windows overlap.
        """
        hop = self._features.hop_length
        overlap = -(-self._features.n_fft // (2 * hop))
        before, after = (reach + overlap for reach in self._module(self._params).reach)
        size = before + _NEW_FRAMES + after
        frames, real, owed = np.empty((0, 0, 0), np.float32), np.zeros(before, bool), -hop
        for block in itertools.chain(blocks, [None]):
            if block is not None:
                block = block.reshape(len(block), -1, self._features.n_mels)
                held = frames if frames.size else _nothing(block, before)
                frames = np.concatenate([held, block], axis=1)
                real = np.append(real, np.ones(block.shape[1], bool))
                owed += block.shape[1] * hop
            elif owed > 0:
                frames = np.concatenate([frames, _nothing(frames, _NEW_FRAMES + after)], axis=1)
                real = np.append(real, np.zeros(_NEW_FRAMES + after, bool))
            while owed > 0 and len(real) >= size:
                samples = np.asarray(self._render(self._params, frames[:, :size], real[:size]))
                yield samples[:, before * hop : (before + _NEW_FRAMES) * hop][:, :owed]
                owed -= _NEW_FRAMES * hop
                frames, real = frames[:, _NEW_FRAMES:], real[_NEW_FRAMES:]


def _nothing(like: np.ndarray, num_frames: int) -> np.ndarray:
    return np.zeros((len(like), num_frames, like.shape[2]), np.float32)
