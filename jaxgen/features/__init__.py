"""Features: what a model sees of sound, and the way back: `MuLaw` and `Pcm16` code samples, `LogMel` frames. All are jit-able.
Further streams of an example: `Text` as it is read, its `Phones`, plain `Characters`, `Loudness` of each step."""

from jaxgen.features.chord_frames import Chords
from jaxgen.features.log_mel import LogMel
from jaxgen.features.mu_law import MuLaw
from jaxgen.features.notes import PianoRoll, ScoreSpec, Voices
from jaxgen.features.pcm16 import Pcm16
from jaxgen.features.score_streams import Countdown, Melody
from jaxgen.features.spec import Decoder, FeatureSpec, SampleSpec
from jaxgen.features.streams import Characters, Example, Loudness, StreamSpec
from jaxgen.features.text_streams import Phones, Text

__all__ = [
    "Characters",
    "Chords",
    "Countdown",
    "Decoder",
    "Example",
    "FeatureSpec",
    "LogMel",
    "Loudness",
    "Melody",
    "MuLaw",
    "Pcm16",
    "Phones",
    "PianoRoll",
    "SampleSpec",
    "ScoreSpec",
    "StreamSpec",
    "Text",
    "Voices",
]
