"""Recordings that clips begin with."""

import os

import numpy as np

from jaxgen import audio
from jaxgen.core.errors import UserError
from jaxgen.data.ingest import AudioPolicy, check_channels, select_channels
from jaxgen.features import FeatureSpec


def read_prompt(path: str, features: FeatureSpec) -> np.ndarray:
    """Samples of a prompt, float32 [nsamp, *sample_shape]: as data, mixed down to mono, or one channel made both of stereo.

    Raises UserError where it cannot be read or has another rate.
    """
    sample_rate = features.sample_rate
    if not os.path.exists(path):
        raise UserError(f"no prompt at '{path}'. Pass --prompt an audio file.")
    try:
        with audio.open_recording(path) as recording:
            if recording.sample_rate != sample_rate:
                raise UserError(
                    f"the prompt '{path}' has {recording.sample_rate} Hz, but the model was trained at {sample_rate} Hz; "
                    "resample it first."
                )
            blocks = audio.limit_seconds(recording.blocks, sample_rate, AudioPolicy.max_seconds)
            policy = AudioPolicy()
            check_channels(recording.channels, features, policy)
            return np.concatenate([select_channels(block, features, policy) for block in blocks])
    except audio.AudioError as error:
        raise UserError(f"the prompt '{path}' cannot be read ({error}). Pass --prompt an audio file.") from None
