"""Features: what a model sees of sound, and the way back: `MuLaw` codes samples, `LogMel` frames. Both are jit-able."""

import dataclasses
import functools
import hashlib
import itertools
import json
import warnings
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen.errors import UserError

_HIGHEST = jax.lax.Precision.HIGHEST
_FRAMES_PER_BLOCK = 4096  # bounds the memory of encode on long recordings
_NEW_FRAMES = 32  # that are made sound at a time when streaming
_NNLS_ITERATIONS = 60
_GRIFFIN_LIM_MOMENTUM = 0.99
_ROUNDING = 1e-5  # relative error of exp(log(x)) in float32, with room


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise UserError(message)


@dataclasses.dataclass(frozen=True, kw_only=True)
class FeatureSpec:
    """How samples become the steps of a modelled sequence, and back. Subclasses: `MuLaw`, `LogMel`."""

    sample_rate: int
    """Hz of the samples that are encoded."""

    step_unit: ClassVar[str]
    """What one step is: "sample" or "frame"."""

    def __post_init__(self) -> None:
        _require(self.sample_rate > 0, f"sample_rate is {self.sample_rate}; features.sample_rate must be above 0 Hz.")

    if TYPE_CHECKING:  # a field of LogMel; a property here would become that field's default value

        @property
        def hop_length(self) -> int:
            """Samples per step."""

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
        """Samples float32 [..., nsamp], full scale 1.0, to steps [..., num_steps(nsamp), *step_shape].

        Compiles once per shape. Zeros appended to the samples leave the first num_steps(nsamp) steps unchanged, so a
        caller with clips of many lengths may pad them to a few and cut the result.
        """
        raise NotImplementedError

    def decode(self, steps: jax.Array | np.ndarray) -> jax.Array:
        """Steps [..., nstep, *step_shape] to samples float32 [..., nsamp]."""
        raise NotImplementedError

    def decode_blocks(self, blocks: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        """Samples float32 [B, any number] as steps [B, any number, *step_shape] come, in bounded memory.

        Joined, they are num_samples(all steps) samples; how the steps are cut into blocks makes no difference to them.
        """
        for block in blocks:
            yield np.asarray(self.decode(block))

    def silence(self) -> np.ndarray:
        """The step of digital silence, shape step_shape: what every sequence starts from."""
        raise NotImplementedError

    def fingerprint(self) -> str:
        """16 hexadecimal digits that change with the kind of feature and with every setting of it."""
        described = json.dumps([type(self).__name__, dataclasses.asdict(self)], sort_keys=True)
        return hashlib.sha256(described.encode()).hexdigest()[:16]


@dataclasses.dataclass(frozen=True, kw_only=True)
class MuLaw(FeatureSpec):
    """Samples as mu-law codes: `librosa.mu_compress`, quantised, shifted to 0..q_levels-1."""

    q_levels: int = 256
    """Quantisation levels, 2 to 256; 256 is 8 bits a sample."""

    step_unit: ClassVar[str] = "sample"

    def __post_init__(self) -> None:
        super().__post_init__()
        _require(
            2 <= self.q_levels <= 256,
            f"q_levels is {self.q_levels}; features.q_levels must be from 2 to 256, so that a code fits a byte.",
        )

    @property
    def hop_length(self) -> int:
        return 1

    @property
    def step_shape(self) -> tuple[int, ...]:
        return ()

    @property
    def step_dtype(self) -> np.dtype:
        return np.dtype(np.uint8)

    def num_steps(self, num_samples: int) -> int:
        return num_samples

    def num_samples(self, num_steps: int) -> int:
        return num_steps

    def num_samples_seen(self, num_steps: int) -> int:
        return num_steps

    @functools.partial(jax.jit, static_argnums=0)
    def encode(self, samples: jax.Array | np.ndarray) -> jax.Array:
        """Samples float32 [..., nsamp] to codes uint8 [..., nsamp]; samples beyond full scale are clipped.

        Equal, for every float32, to `librosa.mu_compress(x, mu=q_levels - 1, quantize=True) + q_levels // 2`, but for
        x a few roundings from 1.0, where librosa can give one code too many (128 at mu=255): here it is the top code.
        """
        places = _ordered(jax.lax.bitcast_convert_type(jnp.asarray(samples, jnp.float32), jnp.int32))
        thresholds = jnp.asarray(_mu_law_thresholds(self.q_levels))
        return jnp.searchsorted(thresholds, places, side="right").astype(jnp.uint8)

    @functools.partial(jax.jit, static_argnums=0)
    def decode(self, steps: jax.Array | np.ndarray) -> jax.Array:
        """Codes, integer [..., nstep], to samples float32 [..., nstep], as `librosa.mu_expand` does."""
        return jnp.take(jnp.asarray(_mu_law_levels(self.q_levels)), jnp.asarray(steps).astype(jnp.int32), mode="clip")

    def silence(self) -> np.ndarray:
        return np.searchsorted(_mu_law_thresholds(self.q_levels), 0, side="right").astype(self.step_dtype)


@dataclasses.dataclass(frozen=True, kw_only=True)
class LogMel(FeatureSpec):
    """Frames of log-mel power (Slaney mel scale and area normalisation, as librosa's default)."""

    n_fft: int
    """Samples in the Fourier transform of a frame."""
    hop_length: int
    """Samples from one frame to the next."""
    n_mels: int
    """Mel bands of a frame."""
    win_length: int | None = None
    """Samples under the Hann window; None means n_fft."""
    fmin: float = 0.0
    """Lowest frequency of the mel bands in Hz."""
    fmax: float | None = None
    """Highest frequency of the mel bands in Hz; None means half of sample_rate."""
    floor: float = 1e-5
    """Smallest mel power; all below it is silence."""

    step_unit: ClassVar[str] = "frame"

    def __post_init__(self) -> None:
        super().__post_init__()
        nyquist = self.sample_rate / 2
        window, top = self.win_length or self.n_fft, self.fmax or nyquist
        _require(self.n_fft >= 2, f"n_fft is {self.n_fft}; features.n_fft must be at least 2 samples.")
        _require(self.n_mels >= 1, f"n_mels is {self.n_mels}; features.n_mels must be at least 1.")
        _require(
            1 <= window <= self.n_fft,
            f"win_length is {window}; features.win_length must be from 1 to n_fft={self.n_fft} samples.",
        )
        _require(
            1 <= self.hop_length <= window,
            f"hop_length is {self.hop_length}; features.hop_length must be from 1 to the window's {window} samples"
            f" (n_fft={self.n_fft}), or samples between frames are lost.",
        )
        _require(
            0 <= self.fmin < top <= nyquist,
            f"fmin={self.fmin} and fmax={top} do not fit: features.fmin must lie below features.fmax, and that at or"
            f" below half of sample_rate ({nyquist} Hz).",
        )
        _require(self.floor > 0, f"floor is {self.floor}; features.floor must be above 0.")

    @property
    def step_shape(self) -> tuple[int, ...]:
        return (self.n_mels,)

    @property
    def step_dtype(self) -> np.dtype:
        return np.dtype(np.float32)

    def num_steps(self, num_samples: int) -> int:
        return 1 + num_samples // self.hop_length

    def num_samples(self, num_steps: int) -> int:
        return (num_steps - 1) * self.hop_length

    def num_samples_seen(self, num_steps: int) -> int:
        return (num_steps - 1) * self.hop_length + self.n_fft // 2

    @functools.partial(jax.jit, static_argnums=0)
    def encode(self, samples: jax.Array | np.ndarray) -> jax.Array:
        """Natural log of mel power, floored at `floor`: `librosa.feature.melspectrogram(pad_mode="constant")`, logged.

        samples: float32 [..., nsamp], full scale 1.0, at sample_rate Hz.
        Returns float32 [..., nframe, n_mels], nframe = 1 + nsamp // hop_length (centred frames, zeros beyond the ends).
        """
        samples = jnp.asarray(samples, jnp.float32)
        num_frames = self.num_steps(samples.shape[-1])
        block = min(num_frames, _FRAMES_PER_BLOCK)
        num_blocks = -(-num_frames // block)
        window = jnp.asarray(_window(self.n_fft, self.win_length))
        filters = jnp.asarray(_filterbank(self))
        block_samples = (block - 1) * self.hop_length + self.n_fft
        needed = (num_blocks - 1) * block * self.hop_length + block_samples
        padded = _pad_last(samples, self.n_fft // 2, needed)

        def encode_block(start: jax.Array) -> jax.Array:
            excerpt = jax.lax.dynamic_slice_in_dim(padded, start, block_samples, axis=-1)
            power = jnp.square(jnp.abs(jnp.fft.rfft(_frame(excerpt, self.n_fft, self.hop_length, block) * window)))
            mel = jnp.matmul(power, filters.T, precision=_HIGHEST)
            return jnp.log(jnp.maximum(mel, self.floor))

        blocks = jax.lax.map(encode_block, jnp.arange(num_blocks) * (block * self.hop_length))
        frames = jnp.moveaxis(blocks, 0, -3).reshape(*samples.shape[:-1], num_blocks * block, self.n_mels)
        return frames[..., :num_frames, :]

    @functools.partial(jax.jit, static_argnums=(0, 2))
    def decode(self, steps: jax.Array | np.ndarray, iterations: int = 64) -> jax.Array:
        """Log-mel float32 [..., nframe, n_mels] to samples float32 [..., (nframe - 1) * hop_length].

        `mel_to_magnitude`, then `griffin_lim` with so many iterations; the same steps give the same samples.
        """
        magnitude = mel_to_magnitude(jnp.asarray(steps, jnp.float32), self)
        return griffin_lim(magnitude, self.n_fft, self.hop_length, self.win_length, iterations)

    def decode_blocks(self, blocks: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        """As for every feature: the phases of _NEW_FRAMES frames are found at a time, for good, by Griffin-Lim over them,
        the frames before, whose samples stay, and as many after as they overlap (Zhu, Beauregard & Wyse 2007).
        """
        hop, reach = self.hop_length, -(-self.n_fft // self.hop_length)  # a frame overlaps this many on either side
        owed = -hop
        frames = known = np.empty((0, 0, 0), np.float32)
        for block in itertools.chain(blocks, [None]):
            if block is not None:
                before = frames if frames.size else self._silent(len(block), reach)
                frames = np.concatenate([before, block], axis=1)
                known = known if known.size else np.zeros((len(block), reach * hop), np.float32)
                owed += block.shape[1] * hop
            elif owed > 0:  # silence follows the end
                frames = np.concatenate([frames, self._silent(len(frames), _NEW_FRAMES + reach)], axis=1)
            while owed > 0 and frames.shape[1] >= _NEW_FRAMES + 2 * reach:
                samples = np.asarray(self._decode_window(frames[:, : _NEW_FRAMES + 2 * reach], known))
                yield samples[:, reach * hop :][:, :owed]
                owed -= _NEW_FRAMES * hop
                frames, known = frames[:, _NEW_FRAMES:], samples[:, -reach * hop :]

    def _silent(self, rows: int, num_frames: int) -> np.ndarray:
        return np.broadcast_to(self.silence(), (rows, num_frames, self.n_mels))

    @functools.partial(jax.jit, static_argnums=0)
    def _decode_window(self, steps: jax.Array, known: jax.Array) -> jax.Array:
        """The known samples of the first frames, and those of _NEW_FRAMES frames after them."""
        magnitude = mel_to_magnitude(steps, self)
        samples = griffin_lim(magnitude, self.n_fft, self.hop_length, self.win_length, known=known)
        return samples[..., : known.shape[-1] + _NEW_FRAMES * self.hop_length]

    def silence(self) -> np.ndarray:
        return np.full(self.n_mels, np.log(self.floor), np.float32)


def stft(samples: jax.Array, n_fft: int, hop_length: int, win_length: int | None = None) -> jax.Array:
    """Short-time Fourier transform, periodic Hann window, centred frames, zeros beyond the ends.

    samples: float32 [..., nsamp]. Returns complex64 [..., 1 + nsamp // hop_length, n_fft // 2 + 1], as `librosa.stft`
    with pad_mode="constant" but time before frequency. Holds n_fft / hop_length times the samples in memory.
    """
    num_frames = 1 + samples.shape[-1] // hop_length
    padded = _pad_last(jnp.asarray(samples, jnp.float32), n_fft // 2, (num_frames - 1) * hop_length + n_fft)
    return jnp.fft.rfft(_frame(padded, n_fft, hop_length, num_frames) * _window(n_fft, win_length))


def istft(spectrum: jax.Array, n_fft: int, hop_length: int, win_length: int | None = None) -> jax.Array:
    """The signal whose `stft` is nearest in the least-squares sense (Griffin & Lim 1984, eq. 6).

    spectrum: complex64 [..., nframe, n_fft // 2 + 1]. Returns float32 [..., (nframe - 1) * hop_length].
    """
    num_frames = spectrum.shape[-2]
    window = _window(n_fft, win_length)
    summed = _overlap_add(jnp.fft.irfft(spectrum, n=n_fft) * window, hop_length)
    weight = _overlap_add(jnp.broadcast_to(jnp.square(window), (num_frames, n_fft)), hop_length)
    inside = slice(n_fft // 2, n_fft // 2 + (num_frames - 1) * hop_length)
    return summed[..., inside] / jnp.maximum(weight[inside], 1e-8)


def mel_to_magnitude(log_mel: jax.Array, spec: LogMel) -> jax.Array:
    """The magnitude spectrum [..., nframe, n_fft // 2 + 1] whose mel power is nearest to exp(log_mel) - spec.floor.

    Non-negative least squares on power: the clipped pseudo-inverse, then accelerated projected gradient (Beck &
    Teboulle 2009). Silence gives exact zeros; bands louder than full scale allows are clipped to that.
    """
    filters, inverse, lipschitz, loudest = _inversion(spec)
    above = jnp.exp(jnp.minimum(log_mel, loudest)) - spec.floor
    target = jnp.where(above > _ROUNDING * spec.floor, above, 0.0)
    gram = jnp.asarray(filters.T @ filters)
    pull = jnp.matmul(target, filters, precision=_HIGHEST)

    def descend(_: int, state: tuple[jax.Array, jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array, jax.Array]:
        power, ahead, pace = state
        gradient = jnp.matmul(ahead, gram, precision=_HIGHEST) - pull
        following = jnp.maximum(ahead - gradient / lipschitz, 0.0)
        next_pace = (1 + jnp.sqrt(1 + 4 * pace**2)) / 2
        return following, following + (pace - 1) / next_pace * (following - power), next_pace

    start = jnp.maximum(jnp.matmul(target, inverse.T, precision=_HIGHEST), 0.0)
    power, _, _ = jax.lax.fori_loop(0, _NNLS_ITERATIONS, descend, (start, start, jnp.float32(1.0)))
    return jnp.sqrt(power)


def griffin_lim(
    magnitude: jax.Array,
    n_fft: int,
    hop_length: int,
    win_length: int | None = None,
    iterations: int = 64,
    known: jax.Array | None = None,
) -> jax.Array:
    """Samples whose STFT magnitude is near `magnitude`: fast Griffin-Lim (Perraudin et al. 2013), momentum 0.99.

    magnitude: float32 [..., nframe, n_fft // 2 + 1]. Returns float32 [..., (nframe - 1) * hop_length]. The phases start
    from fixed random values. known: float32 [..., nknown], samples that the result shall begin with.
    """
    tiny = jnp.finfo(jnp.float32).tiny
    turns = jax.random.uniform(jax.random.key(0), magnitude.shape[-2:])
    phases = jnp.broadcast_to(jnp.exp(2j * jnp.pi * turns).astype(jnp.complex64), magnitude.shape)

    def rebuild(phases: jax.Array) -> jax.Array:
        samples = istft(magnitude * phases, n_fft, hop_length, win_length)
        return samples if known is None else samples.at[..., : known.shape[-1]].set(known)

    def improve(_: int, state: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        phases, before = state
        rebuilt = stft(rebuild(phases), n_fft, hop_length, win_length)
        ahead = rebuilt - _GRIFFIN_LIM_MOMENTUM / (1 + _GRIFFIN_LIM_MOMENTUM) * before
        return ahead / (jnp.abs(ahead) + tiny), rebuilt

    phases, _ = jax.lax.fori_loop(0, iterations, improve, (phases, jnp.zeros_like(phases)))
    return rebuild(phases)


def _ordered(bits: jax.Array | np.ndarray) -> jax.Array | np.ndarray:
    """Float32 bit patterns (int32) to integers in the order of the floats, and back: it is its own inverse.

    Integers are compared because processors may flush subnormal floats to zero.
    """
    return bits ^ ((bits >> 31) & 0x7FFFFFFF)


@functools.lru_cache
def _mu_law_thresholds(q_levels: int) -> np.ndarray:
    """Int32 [q_levels - 1]: the `_ordered` place of the smallest float32 in [-1, 1] that has code 1, 2, ...

    Bisection over all float32, as the law is monotone: exact where inverting the formula would be off by a rounding.
    """
    mu = q_levels - 1

    def code_at(places: np.ndarray) -> np.ndarray:
        samples = np.asarray(_ordered(places.astype(np.int32))).view(np.float32)
        compressed = np.sign(samples) * np.log1p(mu * np.abs(samples)) / np.log1p(mu)
        return np.digitize(compressed, np.linspace(-1, 1, num=q_levels, endpoint=True), right=True)

    ends = np.asarray(_ordered(np.array([-1.0, 1.0], np.float32).view(np.int32))).astype(np.int64)
    codes = np.arange(1, q_levels)
    below, reached = np.full(mu, ends[0] - 1), np.full(mu, ends[1])
    while np.any(reached - below > 1):
        middle = (below + reached) // 2
        enough = code_at(middle) >= codes
        below, reached = np.where(enough, below, middle), np.where(enough, middle, reached)
    return reached.astype(np.int32)


@functools.lru_cache
def _mu_law_levels(q_levels: int) -> np.ndarray:
    """Float32 [q_levels]: the sample that each code stands for."""
    mu = q_levels - 1
    compressed = (np.arange(q_levels) - q_levels // 2) * 2.0 / (1 + mu)
    return (np.sign(compressed) / mu * (np.power(1 + mu, np.abs(compressed)) - 1)).astype(np.float32)


@functools.lru_cache
def _window(n_fft: int, win_length: int | None) -> np.ndarray:
    """Float32 [n_fft]: a periodic Hann window with zeros on either side."""
    length = win_length or n_fft
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(length) / length)
    before = (n_fft - length) // 2
    return np.pad(hann, (before, n_fft - length - before)).astype(np.float32)


@functools.lru_cache
def _filterbank(spec: LogMel) -> np.ndarray:
    """Float32 [n_mels, n_fft // 2 + 1]."""
    import librosa.filters  # slow to import, and only log-mel features need it

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # librosa warns of empty bands; that is an error here
        filters = librosa.filters.mel(
            sr=spec.sample_rate, n_fft=spec.n_fft, n_mels=spec.n_mels, fmin=spec.fmin, fmax=spec.fmax
        )
    empty = int(np.sum(filters.max(axis=1) == 0))
    _require(
        empty == 0,
        f"{empty} of the {spec.n_mels} mel bands hold no frequency of an n_fft={spec.n_fft} transform at"
        f" {spec.sample_rate} Hz; lower features.n_mels, or raise features.n_fft or features.fmin.",
    )
    return filters


@functools.lru_cache
def _inversion(spec: LogMel) -> tuple[np.ndarray, np.ndarray, float, np.ndarray]:
    """Filters, their pseudo-inverse, the largest eigenvalue of filters.T @ filters, the log-mel that none exceeds."""
    filters = _filterbank(spec)
    inverse = np.linalg.pinv(filters.astype(np.float64)).astype(np.float32)
    full_scale = _window(spec.n_fft, spec.win_length).sum() ** 2
    return filters, inverse, float(np.linalg.norm(filters, 2) ** 2), np.log(full_scale * filters.sum(axis=1))


def _pad_last(samples: jax.Array, before: int, length: int) -> jax.Array:
    """Zeros before and after (or a cut at the end), so that the last axis has `length` elements."""
    after = length - before - samples.shape[-1]
    return jax.lax.pad(samples, jnp.float32(0), [(0, 0, 0)] * (samples.ndim - 1) + [(before, after, 0)])


def _frame(samples: jax.Array, n_fft: int, hop_length: int, num_frames: int) -> jax.Array:
    """[..., at least (num_frames - 1) * hop_length + n_fft] to [..., num_frames, n_fft], by slices: no gather."""
    pieces = -(-n_fft // hop_length)
    blocks = _pad_last(samples, 0, (num_frames + pieces - 1) * hop_length)
    blocks = blocks.reshape(*samples.shape[:-1], num_frames + pieces - 1, hop_length)
    shifted = [blocks[..., i : i + num_frames, :] for i in range(pieces)]
    return jnp.concatenate(shifted, axis=-1)[..., :n_fft]


def _overlap_add(frames: jax.Array, hop_length: int) -> jax.Array:
    """The transpose of `_frame`: [..., nframe, n_fft] to [..., (nframe - 1 + ceil(n_fft / hop)) * hop]."""
    num_frames, n_fft = frames.shape[-2:]
    pieces = -(-n_fft // hop_length)
    padded = _pad_last(frames, 0, pieces * hop_length)
    leading = [(0, 0)] * (frames.ndim - 2)
    total = sum(
        jnp.pad(padded[..., i * hop_length : (i + 1) * hop_length], [*leading, (i, pieces - 1 - i), (0, 0)])
        for i in range(pieces)
    )
    return jnp.asarray(total).reshape(*frames.shape[:-2], (num_frames + pieces - 1) * hop_length)
