"""Sound from mel frames by a trained vocoder: of whole clips, or as frames come."""

import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
import numpy as np

from jaxgen.features import LogMel
from jaxgen.models.vocoder import VocoderModule

_NEW_FRAMES = (
    64  # that are made sound at a time; clips are padded to a multiple, for each of which a program is compiled
)


class Renderer:
    """Makes sound of frames; compiled programs are kept from call to call."""

    def __init__(self, module: Callable[[Any], VocoderModule], features: LogMel):
        """module: puts parameters into the vocoder, which was trained on frames of `features` (`Training.module`)."""
        self._module, self._features = module, features
        self._render = jax.jit(lambda params, frames, real: module(params).render(frames, real))

    def clip(self, params: Any, frames: np.ndarray) -> np.ndarray:
        """Samples float32 [(nframe - 1) * hop_length] of one clip's frames, float32 [nframe, n_mels]."""
        count = len(frames)
        padded = np.zeros((-(-count // _NEW_FRAMES) * _NEW_FRAMES, frames.shape[1]), np.float32)
        padded[:count] = frames
        samples = self._render(params, padded[None], np.arange(len(padded)) < count)
        return np.asarray(samples[0, : (count - 1) * self._features.hop_length])

    def decode_blocks(self, params: Any, blocks: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        """As `FeatureSpec.decode_blocks`: samples float32 [B, any number] as steps [B, any number, *step_shape] come.

        Each window of frames is rendered with all before and after it that it depends on, so that the sound is that of
        all frames at once. A causal vocoder waits only for frames whose windows overlap.
        """
        hop = self._features.hop_length
        overlap = -(-self._features.n_fft // (2 * hop))
        before, after = (reach + overlap for reach in self._module(params).reach)
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
                samples = np.asarray(self._render(params, frames[:, :size], real[:size]))
                yield samples[:, before * hop : (before + _NEW_FRAMES) * hop][:, :owed]
                owed -= _NEW_FRAMES * hop
                frames, real = frames[:, _NEW_FRAMES:], real[_NEW_FRAMES:]


def _nothing(like: np.ndarray, num_frames: int) -> np.ndarray:
    return np.zeros((len(like), num_frames, like.shape[2]), np.float32)
