"""The sound of a score: an additive synthesiser. The same score always gives the same samples, whatever its length.

A note is a sum of partials below half the sample rate. Within a hop of 64 samples a partial turns evenly, and two hops are
cross-faded, so that a block of sound is one matrix product over all partials of all notes that sound in it.
"""

import math
from collections.abc import Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from jaxgen.audio import HIGHEST_RATE, LEAST_RATE, Samples, Waveform
from jaxgen.core.errors import UserError
from jaxgen.scores.score import Score, ends, to_seconds
from jaxgen.scores.timbres import Partials, Timbre, timbre_of

MOST_SOUNDING = 1_024
"""Notes that may sound at a time."""

_HOP = 64  # samples
_HOPS = 128  # of a block
_BLOCK = _HOP * _HOPS
_GROUPS = (4, 8, 16, 32, 64)  # notes that are computed together: each is one compiled program
_LEVEL = 0.35  # root mean square of a note at velocity 127, alone
_WIDTH = 0.6  # how far the outer tracks are from the middle
_KNEE = 0.8  # of full scale: what is above is pressed together
_LONG_AGO = 100.0  # seconds after which nothing of a note changes any more
_LONGEST_SECONDS = 48 * 3_600


def render(
    score: Score,
    sample_rate: int = 44_100,
    timbres: Sequence[Timbre] | None = None,
    pans: Sequence[float] | None = None,
) -> Waveform:
    """The sound of a score in stereo, all in memory: as the blocks of `render_blocks`, joined."""
    return Waveform(
        np.concatenate([np.zeros((0, 2), np.float32), *render_blocks(score, sample_rate, timbres, pans)]), sample_rate
    )


def render_blocks(
    score: Score,
    sample_rate: int = 44_100,
    timbres: Sequence[Timbre] | None = None,
    pans: Sequence[float] | None = None,
) -> Iterator[Samples]:
    """Blocks of the sound of a score, float32 [at most 8192, 2], full scale 1.0, as they come, in bounded memory.

    sample_rate: Hz. timbres: of the tracks; None for what is nearest to their programs. pans: of the tracks, -1 (left) to 1;
    None for side by side. The sound ends when the last note has died away. Its level falls with the square root of the
    number of notes that sound together at most, and is pressed together above 0.8: it never clips. Raises UserError for
    another number of timbres or pans, more than 1024 notes at a time, or more than 48 hours.
    """
    num_tracks = len(score.tracks)
    timbres = [timbre_of(track.program) for track in score.tracks] if timbres is None else list(timbres)
    pans = _side_by_side(num_tracks) if pans is None else list(pans)
    _check(score, sample_rate, timbres, pans)
    start = to_seconds(score, score.notes["onset"])
    stop = to_seconds(score, ends(score.notes))
    release = np.array([timbre.release for timbre in timbres])[score.notes["track"]]
    polyphony = _polyphony(start, stop + release)
    gain = _LEVEL / math.sqrt(max(1, polyphony))
    num_samples = math.ceil(max(score.seconds, float((stop + release).max(initial=0))) * sample_rate) + _HOP
    return _blocks(score, sample_rate, timbres, pans, start, stop, release, gain, num_samples)


def _blocks(
    score: Score,
    sample_rate: int,
    timbres: Sequence[Timbre],
    pans: Sequence[float],
    start: NDArray[np.float64],
    stop: NDArray[np.float64],
    release: NDArray[np.float64],
    gain: float,
    num_samples: int,
) -> Iterator[Samples]:
    order = np.argsort(start, kind="stable")
    sides = [(math.cos(angle), math.sin(angle)) for angle in ((pan + 1) * math.pi / 4 for pan in pans)]
    begun, sounding = 0, np.zeros(0, np.int64)
    for first in range(0, num_samples, _BLOCK):
        now, then = first / sample_rate, (first + _BLOCK) / sample_rate
        until = int(np.searchsorted(start, then, sorter=order))
        sounding = np.concatenate([sounding, order[begun:until]])
        begun = until
        sounding = sounding[stop[sounding] + release[sounding] > now]
        block = np.zeros((_BLOCK, 2), np.float32)
        for track in np.unique(score.notes["track"][sounding]):
            notes = sounding[score.notes["track"][sounding] == track]
            for part in _batched(notes):
                pitch, velocity = (score.notes[name][part].astype(np.float64) for name in ("pitch", "velocity"))
                partials = timbres[track].partials(pitch, velocity, sample_rate)
                mono = _sound(timbres[track], partials, now - start[part], stop[part] - now, sample_rate)
                block += mono[:, None] * (gain * np.array(sides[track], np.float32))
        yield press_peaks(block[: num_samples - first])


def _batched(notes: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
    for first in range(0, len(notes), _GROUPS[-1]):
        yield notes[first : first + _GROUPS[-1]]


def _side_by_side(num_tracks: int) -> list[float]:
    return np.linspace(-_WIDTH, _WIDTH, num_tracks).tolist() if num_tracks > 1 else [0.0] * num_tracks


def _check(score: Score, sample_rate: int, timbres: Sequence[Timbre], pans: Sequence[float]) -> None:
    if not LEAST_RATE <= sample_rate <= HIGHEST_RATE:
        raise UserError(f"the sample rate is {sample_rate} Hz, expected {LEAST_RATE} to {HIGHEST_RATE}.")
    if len(timbres) != len(score.tracks) or len(pans) != len(score.tracks):
        raise UserError(
            f"{len(timbres)} timbres and {len(pans)} pans for {len(score.tracks)} tracks, expected one of each a track."
        )
    if bad := [pan for pan in pans if not -1 <= pan <= 1]:
        raise UserError(f"a pan is {bad[0]}, expected -1 (left) to 1 (right).")
    if score.seconds > _LONGEST_SECONDS:
        raise UserError(
            f"the score lasts {score.seconds / 3600:.0f} h, expected at most {_LONGEST_SECONDS // 3600}; crop it."
        )


def _polyphony(start: NDArray[np.float64], stop: NDArray[np.float64]) -> int:
    """Notes that sound together at most. Raises UserError where they are too many."""
    times = np.concatenate([start, stop])
    changes = np.concatenate([np.ones(len(start), np.int64), -np.ones(len(stop), np.int64)])
    most = int(np.cumsum(changes[np.lexsort((changes, times))]).max(initial=0))
    if most > MOST_SOUNDING:
        raise UserError(f"{most} notes of the score sound at a time, expected at most {MOST_SOUNDING}.")
    return most


def _sound(
    timbre: Timbre, partials: Partials, age: NDArray[np.float64], left: NDArray[np.float64], sample_rate: int
) -> NDArray[np.float32]:
    """A block of notes of one timbre, float32 [_BLOCK]. age, left: seconds [N] since they began, until they end."""
    size = next(group for group in _GROUPS if group >= len(age))
    room = ((0, size - len(age)), (0, 0))
    turns = partials.hertz / sample_rate  # a sample; in float64, so that late notes are in tune
    vibrato = timbre.vibrato_hertz * age % 1

    def column(values: NDArray[np.float64]) -> NDArray[np.float32]:
        return np.pad(np.clip(values, -_LONG_AGO, _LONG_AGO)[:, None], room).astype(np.float32)

    def whole(values: NDArray[np.float64]) -> NDArray[np.float32]:
        return np.pad(values, room).astype(np.float32)

    depth = (2 ** (timbre.vibrato_cents / 1200) - 1) / (2 * math.pi * timbre.vibrato_hertz)  # seconds to and fro
    sound = _synthesise(
        whole((partials.phase + partials.hertz * age[:, None]) % 1),
        whole(turns * _HOP % 1),
        whole(turns),
        whole(partials.amplitude),
        whole(partials.fading),
        whole(partials.hertz * depth),
        column(age),
        column(left),
        column(vibrato),
        np.array([_HOP / sample_rate, timbre.attack, timbre.release, timbre.sustain, timbre.vibrato_hertz], np.float32),
    )
    return np.asarray(sound)


@jax.jit
def _synthesise(
    phase: jax.Array,
    hop_turns: jax.Array,
    sample_turns: jax.Array,
    amplitude: jax.Array,
    fading: jax.Array,
    depth: jax.Array,
    age: jax.Array,
    left: jax.Array,
    vibrato: jax.Array,
    settings: jax.Array,
) -> jax.Array:
    """Notes [N] of partials [N, K], summed: float32 [_BLOCK].

    phase, hop_turns, sample_turns: cycles, cycles a hop, cycles a sample. amplitude: [N, K]. fading: 1/s [N, K]. depth:
    cycles that vibrato sways by. age, left, vibrato: [N, 1], seconds since the beginning, until the end, cycles of the
    vibrato. settings: seconds of a hop, of attack and of release, level sustained, vibrato in Hz.
    """
    hop_seconds, attack, release, sustain, vibrato_hertz = settings
    hops = jnp.arange(_HOPS + 1, dtype=jnp.float32)[:, None, None]  # [A + 1, N, K] from here on
    passed = hops * hop_seconds
    envelope = _smooth((age + passed) / attack) * _smooth(1 + (left - passed) / release)
    level = sustain + (1 - sustain) * jnp.exp(-fading * jnp.maximum(age + passed, 0))
    sway = depth * jnp.cos(2 * jnp.pi * (vibrato + passed * vibrato_hertz))
    cycles = phase + hops * hop_turns - sway
    angle = 2 * jnp.pi * (cycles - jnp.round(cycles))
    scale = amplitude * envelope * level
    real, imaginary = (part.reshape(_HOPS + 1, -1) for part in (scale * jnp.cos(angle), scale * jnp.sin(angle)))

    ahead = jnp.arange(_HOP, dtype=jnp.float32)[None, :]  # [N K, B] from here on
    turn = 2 * jnp.pi * sample_turns.reshape(-1, 1)
    fade = ahead / _HOP
    waves = [
        (1 - fade) * jnp.cos(turn * ahead),
        -(1 - fade) * jnp.sin(turn * ahead),
        fade * jnp.cos(turn * (ahead - _HOP)),
        -fade * jnp.sin(turn * (ahead - _HOP)),
    ]
    ends_of_hops = jnp.concatenate([real[:-1], imaginary[:-1], real[1:], imaginary[1:]], axis=1)
    return jnp.matmul(ends_of_hops, jnp.concatenate(waves), precision=jax.lax.Precision.HIGHEST).reshape(_BLOCK)


def _smooth(share: jax.Array) -> jax.Array:
    """0 up to 0, 1 from 1 on, without corners between."""
    share = jnp.clip(share, 0, 1)
    return share * share * (3 - 2 * share)


def press_peaks(samples: NDArray[np.float32]) -> NDArray[np.float32]:
    """Samples below the knee as they are; those above never reach full scale."""
    beyond = np.abs(samples) > _KNEE
    if beyond.any():
        size = _KNEE + (1 - _KNEE) * np.tanh((np.abs(samples) - _KNEE) / (1 - _KNEE)) * 0.999
        samples = np.where(beyond, np.copysign(size, samples), samples).astype(np.float32)
    return samples
