"""Features: what a model sees of sound, and the way back: `MuLaw` codes samples, `LogMel` frames. Both are jit-able."""

from jaxgen.features.log_mel import LogMel
from jaxgen.features.mu_law import MuLaw
from jaxgen.features.spec import FeatureSpec

__all__ = ["FeatureSpec", "LogMel", "MuLaw"]
