"""What every kind of feature offers."""

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, ClassVar, Protocol

import jax
import numpy as np

from jaxgen.core.errors import UserError
from jaxgen.core.serial import content_hash
from jaxgen.scores.score import Score


def require(condition: bool, message: str) -> None:
    """Raises UserError(message) where a setting does not fit."""
    if not condition:
        raise UserError(message)


class Decoder(Protocol):
    """What makes sound of steps: features themselves, or a vocoder."""

    def decode_clips(self, clips: Sequence[np.ndarray]) -> list[np.ndarray]:
        """See `FeatureSpec`."""

    def decode_blocks(self, blocks: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        """See `FeatureSpec`."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class FeatureSpec:
    """How samples become the steps of a modelled sequence, and back. Subclasses: `MuLaw`, `Pcm16`, `LogMel`."""

    sample_rate: int
    """Hz of the samples that are encoded."""
    channels: int = 1
    """Channels of the samples: 1, or 2 for stereo, which LogMel has."""

    step_unit: ClassVar[str]
    """What one step is: "sample" or "frame"."""
    is_symbolic: ClassVar[bool] = False
    """Whether steps are of written music: they are not made of samples, but samples of them."""

    def __post_init__(self) -> None:
        require(self.sample_rate > 0, f"sample_rate is {self.sample_rate}; features.sample_rate must be above 0 Hz.")
        require(
            self.channels in (1, 2), f"channels is {self.channels}; features.channels must be 1 (mono) or 2 (stereo)."
        )

    if TYPE_CHECKING:  # a field of LogMel; a property here would become that field's default value

        @property
        def hop_length(self) -> int:
            """Samples from one frame to the next."""

    @property
    def sample_shape(self) -> tuple[int, ...]:
        """Shape of the samples of one moment: () for mono, (2,) for stereo, left and right."""
        return () if self.channels == 1 else (self.channels,)

    @property
    def samples_per_step(self) -> int:
        """Samples from the start of one step to that of the next."""
        return self.hop_length

    @property
    def unstacked(self) -> "FeatureSpec":
        """The same with one frame, or sample, a step."""
        return self

    @property
    def step_shape(self) -> tuple[int, ...]:
        """Shape of one step."""
        raise NotImplementedError

    @property
    def step_dtype(self) -> np.dtype:
        """Dtype of a step."""
        raise NotImplementedError

    def num_steps(self, num_samples: int) -> int:
        """Steps that `encode` makes of num_samples samples."""
        raise NotImplementedError

    def num_samples(self, num_steps: int) -> int:
        """Samples that `decode` makes of num_steps steps."""
        raise NotImplementedError

    def num_samples_seen(self, num_steps: int) -> int:
        """Samples that the first num_steps steps depend on."""
        raise NotImplementedError

    def encode(self, samples: jax.Array | np.ndarray) -> jax.Array:
        """Samples float32 [..., nsamp, *sample_shape], full scale 1.0, to steps [..., num_steps(nsamp), *step_shape].

        Compiles once per shape. Zeros appended to the samples leave the first num_steps(nsamp) steps unchanged, so a
        caller with clips of many lengths may pad them to a few and cut the result.
        """
        raise NotImplementedError

    def decode(self, steps: jax.Array | np.ndarray) -> jax.Array:
        """Steps [..., nstep, *step_shape] to samples float32 [..., nsamp, *sample_shape]."""
        raise NotImplementedError

    def decode_clips(self, clips: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Of each clip, steps [nstep, *step_shape], the samples float32 [num_samples(nstep), *sample_shape].

        But for rounding, those of one clip do not depend on what others there are. One at a time, unless the features know
        better.
        """
        return [np.asarray(self.decode(clip)) for clip in clips]

    def decode_blocks(self, blocks: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        """Samples float32 [B, any number, *sample_shape] as steps [B, any number, *step_shape] come, in bounded memory.

        Joined, they are num_samples(all steps) samples; how the steps are cut into blocks makes no difference to them.
        """
        for block in blocks:
            yield np.asarray(self.decode(block))

    def decode_score(self, steps: np.ndarray) -> Score:
        """The score that steps [T, *step_shape] of written music are."""
        raise UserError(f"{type(self).__name__} are steps of sound, and no written music.")

    def silence(self) -> np.ndarray:
        """The step of digital silence, shape step_shape: what every sequence starts from."""
        raise NotImplementedError

    @property
    def num_variants(self) -> int:
        """Forms in which training shows a clip, drawn anew each epoch: such as all keys. Variant 0 is the clip as it is."""
        return 1

    def vary(self, steps: np.ndarray, variant: int) -> np.ndarray:
        """Steps [T, *step_shape] in another form."""
        del variant
        return steps

    def fingerprint(self) -> str:
        """16 hexadecimal digits that change with the kind of feature and with every setting of it."""
        settings = dataclasses.asdict(self)
        if self.channels == 1:  # what is stored of mono sound is from before there was stereo
            del settings["channels"]
        return content_hash([type(self).__name__, settings])[:16]


class SampleSpec(FeatureSpec):
    """Steps that are samples, as integer codes. Subclasses: `MuLaw`, `Pcm16`."""

    step_unit: ClassVar[str] = "sample"
    q_levels: int
    """Codes that `codes` tells apart."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            self.channels == 1,
            f"channels is {self.channels}, but {type(self).__name__} codes samples of one channel; set features.channels to "
            "1, or use LogMel features, which know stereo.",
        )

    @property
    def hop_length(self) -> int:
        return 1

    @property
    def step_shape(self) -> tuple[int, ...]:
        return ()

    def num_steps(self, num_samples: int) -> int:
        return num_samples

    def num_samples(self, num_steps: int) -> int:
        return num_steps

    def num_samples_seen(self, num_steps: int) -> int:
        return num_steps

    def decode_clips(self, clips: Sequence[np.ndarray]) -> list[np.ndarray]:
        joined, ends = np.concatenate(clips), np.cumsum([len(clip) for clip in clips])
        filled = np.resize(joined, 1 << len(joined).bit_length())  # a program is compiled for each length
        return np.split(np.asarray(self.decode(filled))[: len(joined)], ends[:-1])

    def codes(self, steps: jax.Array) -> jax.Array:
        """Mu-law codes int32 [...], 0 to q_levels - 1, of steps [...]: for embeddings."""
        raise NotImplementedError

    def to_mu_law(self, steps: jax.Array) -> jax.Array:
        """Codes [...] as float32 from -1 to 1 on a mu-law scale, on which loudness is heard about evenly."""
        raise NotImplementedError

    def bits_within_code(self) -> np.ndarray:
        """Bits that tell a 16-bit sample from the others of its code, float64 by code; they make the likelihoods of
        codes of all kinds one scale, that of 16-bit samples.
        """
        raise NotImplementedError
