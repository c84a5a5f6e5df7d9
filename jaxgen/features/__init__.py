"""Features: what a model sees of sound, and the way back: `MuLaw` and `Pcm16` code samples, `LogMel` frames. All are jit-able."""

from jaxgen.features.log_mel import LogMel
from jaxgen.features.mu_law import MuLaw
from jaxgen.features.pcm16 import Pcm16
from jaxgen.features.spec import Decoder, FeatureSpec, SampleSpec

__all__ = ["Decoder", "FeatureSpec", "LogMel", "MuLaw", "Pcm16", "SampleSpec"]
