"""Sound from mel frames by a trained vocoder: of whole clips, or as frames come."""

import copy
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import jax
import numpy as np

from jaxgen.features import LogMel
from jaxgen.models.vocoder import VocoderModule

_NEW_FRAMES = 64  # that are made sound at a time as frames come
_ROUNDED = 16  # rows of whole clips are filled up to a multiple of so many frames, or of more where they are long


class Renderer:
    """A `Decoder` of frames; compiled programs are kept from call to call."""

    def __init__(self, module: Callable[[Any], VocoderModule], features: LogMel, params: Any = None):
        """module: puts parameters into the vocoder, which was trained on frames of `features` (`TrainTask.module`)."""
        self._module, self._features, self._params = module, features, params
        self._render = jax.jit(lambda params, frames, real: module(params).render(frames, real))

    def with_params(self, params: Any) -> "Renderer":
        """The same with other parameters."""
        other = copy.copy(self)
        other._params = params
        return other

    def decode_clips(self, clips: Sequence[np.ndarray]) -> list[np.ndarray]:
        """As `FeatureSpec.decode_clips`: clips lie end to end, with frames of nothing between them that keep them apart, so
        that none must be as long as another.
        """
        hop, apart = self._features.hop_length, self._module(self._params).gap_frames
        frames = [clip.reshape(-1, self._features.frame_size) for clip in clips]
        starts = list(itertools.accumulate((len(each) + apart for each in frames), initial=0))
        row = np.zeros((1, _rounded(starts[-1] - apart), self._features.frame_size), np.float32)
        real = np.zeros(row.shape[1], bool)
        for start, each in zip(starts, frames, strict=False):
            row[0, start : start + len(each)], real[start : start + len(each)] = each, True
        sound = np.asarray(self._render(self._params, row, real))[0]
        return [sound[start * hop :][: (len(each) - 1) * hop] for start, each in zip(starts, frames, strict=False)]

    def decode_blocks(self, blocks: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        """As `FeatureSpec.decode_blocks`: samples float32 [B, any number, *sample_shape] as steps [B, any number, ...] come.

        Each window of frames is rendered with all before and after it that it depends on, so that the sound is that of all
        frames at once, but for rounding. A causal vocoder waits only for frames whose windows overlap, once more for each
        refinement.
        """
        hop = self._features.hop_length
        overlap = -(-self._features.n_fft // (2 * hop))
        before, after = (reach + overlap for reach in self._module(self._params).receptive_field)
        size = before + _NEW_FRAMES + after
        frames, real, owed = np.empty((0, 0, 0), np.float32), np.zeros(before, bool), -hop
        for block in itertools.chain(blocks, [None]):
            if block is not None:
                block = block.reshape(len(block), -1, self._features.frame_size)
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


def _rounded(count: int) -> int:
    """At least so many frames, a multiple of _ROUNDED and, of long rows, at most a sixteenth more: for each such length a
    program is compiled."""
    unit = max(_ROUNDED, (1 << count.bit_length()) // 32)
    return -(-count // unit) * unit


def _nothing(like: np.ndarray, num_frames: int) -> np.ndarray:
    return np.zeros((len(like), num_frames, like.shape[2]), np.float32)
