"""The sound of a score by a SoundFont that the user names, played by tinysoundfont. None comes with jaxgen."""

import heapq
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from jaxgen.audio import Samples
from jaxgen.core.errors import UserError, printable
from jaxgen.core.files import cause, open_regular
from jaxgen.scores.render import press_peaks
from jaxgen.scores.score import Score, ends, to_seconds

_BLOCK = 8_192  # samples
_TAIL_SECONDS = 2.0  # behind the last note
_GAIN_DB = -9.0
_CHANNELS = tuple(channel for channel in range(16) if channel != 9)  # that one has drums


def play_soundfont(
    score: Score, path: str | Path, sample_rate: int = 44_100, program: int | None = None
) -> Iterator[Samples]:
    """Blocks of the sound of a score, float32 [at most 8192, 2], as they come; two seconds follow the last note.

    path: an SF2 or SF3 file, which native code reads: name none that you do not trust. program: of all tracks; None for
    their own. What is above 0.8 is pressed together, as by `render.render_blocks`. Raises UserError where the file cannot be
    read, has not the instrument of a track, or tinysoundfont is not installed.
    """
    synth = _load(path, sample_rate)
    for index, track in enumerate(score.tracks[: len(_CHANNELS)]):
        wanted = track.program if program is None else program
        try:
            synth.program_select(_CHANNELS[index], 0, 0, wanted)
            missing = synth.program_info(_CHANNELS[index])[2] != wanted
        except Exception as error:  # of a type of its own
            raise UserError(
                f"'{path}' has no instrument {wanted} for the track '{printable(track.name)}' ({printable(str(error))[:60]}); "
                "name another SoundFont, or another program for all tracks."
            ) from None
        if missing:
            raise UserError(f"'{path}' has no instrument {wanted}; name another SoundFont, or another program.")
    return _blocks(score, synth, sample_rate)


def check_soundfont(path: str | Path) -> None:
    """Raises UserError where `play_soundfont` could not load the file."""
    _load(path, 44_100)


def _load(path: str | Path, sample_rate: int) -> Any:
    try:
        import tinysoundfont
    except ImportError:
        raise UserError(
            "to play SoundFonts needs tinysoundfont: pip install 'jaxgen[soundfont]', or, where PortAudio is missing, "
            "pip install --no-deps tinysoundfont"
        ) from None
    try:
        with open_regular(path) as file:
            head = file.read(12)
    except OSError as error:
        raise UserError(f"cannot read '{path}' ({cause(error)}); name an SF2 or SF3 file.") from None
    synth = tinysoundfont.Synth(gain=_GAIN_DB, samplerate=sample_rate)
    try:
        if head[:4] != b"RIFF" or head[8:] != b"sfbk":
            raise ValueError("no SoundFont")
        synth.sfload(str(path))
    except Exception as error:  # of a type of its own
        raise UserError(f"'{path}' cannot be played ({printable(str(error))[:60]}); name an SF2 or SF3 file.") from None
    return synth


def _blocks(score: Score, synth: Any, sample_rate: int) -> Iterator[Samples]:
    notes = score.notes
    start = np.rint(to_seconds(score, notes["onset"]) * sample_rate).astype(np.int64)
    stop = np.rint(to_seconds(score, ends(notes)) * sample_rate).astype(np.int64)
    num_samples = round((score.seconds + _TAIL_SECONDS) * sample_rate)
    begins = [(int(start[i]), 1, i) for i in np.argsort(start, kind="stable")]
    stops = [(int(stop[i]), 0, i) for i in np.argsort(stop, kind="stable")]  # first where both are at one sample
    events = list(heapq.merge(stops, begins))
    place = 0
    for first in range(0, num_samples, _BLOCK):
        until, now = min(first + _BLOCK, num_samples), first
        parts = []
        while now < until:
            while place < len(events) and events[place][0] <= now:
                _, begin, index = events[place]
                channel, pitch = _CHANNELS[int(notes["track"][index]) % len(_CHANNELS)], int(notes["pitch"][index])
                if begin:
                    synth.noteon(channel, pitch, int(notes["velocity"][index]))
                else:
                    synth.noteoff(channel, pitch)
                place += 1
            then = min(until, events[place][0]) if place < len(events) else until
            parts.append(np.frombuffer(bytes(synth.generate(then - now)), np.float32).reshape(-1, 2))
            now = then
        yield press_peaks(np.concatenate(parts))
