"""How the clips of a run are drawn, where that is asked for and not as its config says."""

import dataclasses
from typing import Any


@dataclasses.dataclass(frozen=True)
class SamplingOverrides:
    """Options of how clips are drawn."""

    temperature: float | None = None
    """Below 1 likelier steps, above 1 more varied ones; none takes the config's."""
    top_k: int | None = None
    """Draw only among this many likeliest; 0 is all, none takes the config's."""
    top_p: float | None = None
    """Draw only among the likeliest that hold this share of probability, 0 to 1; none takes the config's."""
    noise_scale: float | None = None
    """Times the standard deviation of frames: below 1 cleaner, above 1 rougher; none takes the config's."""
    guidance: float | None = None
    """Above 0 labels are heard more clearly; none takes the config's."""
    voiced_sharpness: float | None = None
    """Above 0 voices that a PlannedRNN plans are less rough; none takes the config's."""
    range: tuple[str, ...] | None = None
    """Of written music: lowest and highest MIDI pitch, as 36:81, or one pair for each voice; none takes the config's."""
    crossing: bool = True
    """--no-crossing draws no voice above the one over it; else the config decides."""
    key: str | None = None
    """Of written music: draw only notes of this key, as C, F# or Bbm; none takes the config's."""
    truncation: float | None = None
    """Of a model of noise: smaller clips are cleaner and more alike; none takes the config's."""

    @property
    def overrides(self) -> dict[str, Any]:
        """What is asked for, by name."""
        asked = [(field, getattr(self, field.name)) for field in dataclasses.fields(SamplingOverrides)]
        return {field.name: value for field, value in asked if value != field.default}
