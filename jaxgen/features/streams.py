"""Streams of an example beside the steps that are modelled: its text, or how loud each step is."""

import dataclasses
import sys
import unicodedata
from collections.abc import Mapping, Sequence
from typing import ClassVar

import jax
import numpy as np

from jaxgen import audio
from jaxgen.core.errors import UserError
from jaxgen.core.serial import content_hash
from jaxgen.features.spec import FeatureSpec, require
from jaxgen.scores.score import Score

_MOST_SECONDS = 14_400  # of a recording whose loudness is asked for


@dataclasses.dataclass(frozen=True)
class Example:
    """What a stream may be made of."""

    fields: Mapping[str, str]
    """All that is known of the clip."""
    num_steps: int
    """Steps of the clip."""
    samples: np.ndarray
    """Float32 [nsamp], full scale 1.0; empty for written music."""
    score: Score | None = None
    """Written music, on the features' grid; None for sound."""


@dataclasses.dataclass(frozen=True)
class StreamSpec:
    """Base of the frozen dataclasses that say how a stream is made of a clip, or of what a user says."""

    is_aligned: ClassVar[bool]
    """Whether it has one value for each step; otherwise a sequence of its own length."""

    @property
    def step_shape(self) -> tuple[int, ...]:
        """Shape of one value."""
        return ()

    @property
    def step_dtype(self) -> np.dtype:
        """Dtype of one value: float32, about -1 to 1, or int32, from 0 up to `num_values` - 1."""
        raise NotImplementedError

    @property
    def num_values(self) -> int:
        """How many integers there are; 0 for numbers."""
        return 0

    def encode_clip(self, example: Example, features: FeatureSpec) -> np.ndarray:
        """[N, *step_shape] of a clip whose steps are of `features`; an aligned stream has one value for each of them.

        Raises audio.AudioError where the clip has to be refused.
        """
        raise NotImplementedError

    def default(self, num_steps: int) -> np.ndarray | None:
        """[N, *step_shape] of a clip of so many steps of which nobody says it; None where it has to be said."""
        del num_steps
        return None

    def written(self, values: np.ndarray, features: FeatureSpec) -> Score | None:
        """What stands beside the music that is made for these values, as a melody beside its accompaniment; None for nothing."""
        del values, features
        return None

    def ceiling(self, values: jax.Array) -> jax.Array | None:
        """The highest MIDI pitch that notes beside these values [...] have where voices do not cross, int32 [...]; None where
        the stream is no voice above them. Traceable.
        """
        del values
        return None

    def moved(self, values: np.ndarray, semitones: int) -> np.ndarray:
        """Values [N, *step_shape] that go with music so much higher, up to an octave."""
        del semitones
        return values

    def read_score(self, said: str, features: FeatureSpec) -> Score | None:
        """The written music that a user names, on the features' grid, for its tempo and metre; None for what is no music."""
        del said, features
        return None

    def vary(self, values: np.ndarray, variant: int) -> np.ndarray:
        """Values [N, *step_shape] that go with a variant of the clip (`FeatureSpec.vary`)."""
        del variant
        return values

    def parse(self, said: str, features: FeatureSpec) -> np.ndarray:
        """[N, *step_shape] of what a user asks for: a text, or the path of a file. Raises UserError where that is none."""
        raise NotImplementedError

    def settled(self) -> "StreamSpec":
        """This with all that it reads from files, as it stands in a store and a trained model. Raises UserError."""
        return self

    def check_clips(self, clips: Mapping[str, Mapping[str, str]]) -> None:
        """Raises UserError where the fields of clips, by their names, hold what must be mended; nothing is decoded yet."""

    def misfits(self, lengths: Sequence[int], seconds: Sequence[float]) -> dict[int, str]:
        """Clips, by their place, that are to be left out when all are seen together, with the reason.

        lengths: how many values each clip has; seconds: how long its sound is.
        """
        del lengths, seconds
        return {}

    def fingerprint(self) -> str:
        """16 hexadecimal digits that change with the kind of stream and with every setting of it."""
        return content_hash([type(self).__name__, dataclasses.asdict(self)])[:16]


@dataclasses.dataclass(frozen=True)
class Characters(StreamSpec):
    """The symbols of a text, int32 [N]: their places in `symbols`."""

    symbols: str = " abcdefghijklmnopqrstuvwxyz'\",.:;!?-()"
    """What is told apart. Capitals become small letters where the small one is among them and the capital is not."""
    field: str = "text"
    """Field of the manifest, or of the file-name pattern, that holds the text."""

    is_aligned = False

    def __post_init__(self) -> None:
        require(bool(self.symbols), "streams: Characters has no symbols; name at least one.")
        twice = [symbol for symbol in self.symbols if self.symbols.count(symbol) > 1]
        require(not twice, f"streams: Characters names {twice[:1]} twice; name each symbol once.")

    @property
    def step_dtype(self) -> np.dtype:
        return np.dtype(np.int32)

    @property
    def num_values(self) -> int:
        return len(self.symbols)

    def encode_clip(self, example: Example, features: FeatureSpec) -> np.ndarray:
        text = example.fields.get(self.field, "")
        found, unknown = self._places(text)
        if unknown:
            raise audio.AudioError(f"its {self.field} has '{unknown[0]}', which is not among the symbols of the stream")
        if not len(found):
            raise audio.AudioError(f"no {self.field}")
        return found

    def parse(self, said: str, features: FeatureSpec) -> np.ndarray:
        found, unknown = self._places(said)
        if not len(found):
            raise UserError(f"the {self.field} {said[:40]!r} has no symbol that the model knows: {self.symbols}")
        if unknown:
            skipped = " ".join(dict.fromkeys(unknown))
            print(f"jaxgen: the model does not know {skipped}; skipped in the {self.field}.", file=sys.stderr)
        return found

    def _places(self, text: str) -> tuple[np.ndarray, list[str]]:
        """Places of the symbols of a text, and those that are unknown."""
        places = {symbol: place for place, symbol in enumerate(self.symbols)}
        symbols = [each if each in places else each.lower() for each in unicodedata.normalize("NFC", text)]
        symbols = [symbol for each in symbols for symbol in ([each] if each in places else each)]
        known = [places[symbol] for symbol in symbols if symbol in places]
        return np.array(known, np.int32), [symbol for symbol in symbols if symbol not in places]


@dataclasses.dataclass(frozen=True)
class Loudness(StreamSpec):
    """The level of each step, float32: 0 at `quietest_dbfs` and below, 1 at full scale."""

    quietest_dbfs: float = -60.0
    """Root mean square level in dB that is told apart from silence."""

    is_aligned = True

    def __post_init__(self) -> None:
        require(
            -200 <= self.quietest_dbfs < 0,
            f"streams: quietest_dbfs is {self.quietest_dbfs:g}; expected a level from -200 to below 0 dB.",
        )

    @property
    def step_dtype(self) -> np.dtype:
        return np.dtype(np.float32)

    def encode_clip(self, example: Example, features: FeatureSpec) -> np.ndarray:
        if features.is_symbolic:
            raise UserError("Loudness is of sound, and the features are of written music; leave it out of the streams.")
        return self._levels(example.samples, features)

    def parse(self, said: str, features: FeatureSpec) -> np.ndarray:
        try:
            with audio.open_recording(said) as recording:
                blocks = audio.limit_seconds(recording.blocks, recording.sample_rate, _MOST_SECONDS)
                mono = (audio.mix_down(block) for block in blocks)
                samples = np.concatenate(list(audio.resample(mono, recording.sample_rate, features.sample_rate)))
        except (audio.AudioError, OSError) as error:
            raise UserError(f"the loudness of '{said}' cannot be read ({error}); pass an audio file.") from None
        return self._levels(samples, features)

    def _levels(self, samples: np.ndarray, features: FeatureSpec) -> np.ndarray:
        """Float32 [num_steps(nsamp)] of samples [nsamp]."""
        count, size = features.num_steps(len(samples)), features.samples_per_step
        whole = np.zeros(count * size, np.float32)
        whole[: len(samples)] = samples[: count * size]
        power = np.square(whole.reshape(count, size), dtype=np.float64).mean(axis=1)
        level = 10 * np.log10(np.maximum(power, 1e-20))
        return np.clip(1 - level / self.quietest_dbfs, 0, 1).astype(np.float32)
