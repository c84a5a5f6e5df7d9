"""Does the model recite its training data? Distance of generated chunks to the nearest training chunk."""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from jaxgen.core.descriptions import SHARE, Better, Description, Descriptions
from jaxgen.evaluation.metrics import FRAME_SECONDS, Absent, Samples, log_mel_db, mel_hop_length, pad_to

Clips = Iterable[tuple[str, Samples]]

CHUNK_SECONDS = 0.25
MAX_CHUNKS = 1000
"""Most chunks looked up for each of the generated and the held-out clips; more are thinned evenly."""

_N_MELS = 24
_FRAMES = round(CHUNK_SECONDS / FRAME_SECONDS)
_RANGE_DB = 50.0
_SILENT_DB = -60.0
_BLOCK = 8192


DESCRIPTIONS: Descriptions = {
    "memorisation_suspicious_share": Description(
        "Near-copies of training data",
        "Share of generated chunks of 0.25 s nearer to training data than 95 % of held-out chunks are.",
        SHARE,
        Better.LOWER,
        importance=3,
        reference="5 % if nothing is copied",
    ),
    "memorisation_ratio": Description(
        "Distance from training data, relative",
        "Median distance of generated chunks to training data, divided by that of held-out chunks; 0 for copies.",
        "",
        Better.HIGHER,
        reference="about 1 if nothing is copied",
    ),
    "memorisation_generated_median_db": Description(
        "Distance from training data",
        "Median distance of generated chunks of 0.25 s to the nearest training chunk.",
        "dB",
        Better.LIKE_RECORDINGS,
    ),
    "memorisation_held_out_median_db": Description(
        "held-out data",
        "The same of held-out chunks.",
        "dB",
        reference_of="memorisation_generated_median_db",
    ),
}
"""Of the figures of `Memorisation.figures`."""


@dataclass(frozen=True)
class Match:
    """A generated chunk and the training chunk nearest to it."""

    generated: str
    generated_seconds: float
    training: str
    training_seconds: float
    distance_db: float


@dataclass(frozen=True)
class Distances:
    """Distances of some chunks to their nearest training chunks. The summaries are `Absent` where there is none."""

    db: NDArray[np.float32]

    @property
    def median_db(self) -> float:
        return float(np.median(self.db)) if self.db.size else _silent()

    @property
    def percentile5_db(self) -> float:
        return float(np.percentile(self.db, 5)) if self.db.size else _silent()


@dataclass(frozen=True)
class Memorisation:
    """What `memorisation` found."""

    generated: Distances
    held_out: Distances
    nearest: tuple[Match, ...]
    """The nearest match of each generated clip, nearest first."""

    @property
    def ratio(self) -> float:
        """Generated median over held-out median: about 1 or more for new sound, towards 0 for copies."""
        if not self.generated.db.size or not self.held_out.db.size:
            return _silent()
        if not self.held_out.median_db:
            return Absent("half of the held-out chunks are in the training data")
        return self.generated.median_db / self.held_out.median_db

    @property
    def suspicious_share(self) -> float:
        """Share of generated chunks nearer to training data than 95 % of held-out ones are: 0.05 if nothing is copied."""
        if not self.generated.db.size or not self.held_out.db.size:
            return _silent()
        return float(np.mean(self.generated.db < self.held_out.percentile5_db))

    @property
    def figures(self) -> dict[str, float]:
        """By unit-bearing name."""
        return {
            "memorisation_ratio": self.ratio,
            "memorisation_suspicious_share": self.suspicious_share,
            "memorisation_generated_median_db": self.generated.median_db,
            "memorisation_held_out_median_db": self.held_out.median_db,
        }

    @property
    def in_words(self) -> str:
        """The suspicious share, or why there is none."""
        if silent := [kind for kind in ("generated", "held_out") if not getattr(self, kind).db.size]:
            kind = silent[0].replace("_", "-")
            return f"not measured, as no {kind} chunk above {_SILENT_DB:.0f} dB compares with the training data"
        return (
            f"{self.suspicious_share:.1%} of {self.generated.db.size} generated chunks are nearer to training data than 95 % of "
            f"{self.held_out.db.size} held-out ones are (5.0% if nothing is copied)"
        )

    @property
    def medians_in_words(self) -> str:
        """How far chunks are from the training data, of those that there are."""
        kinds = {"held-out": self.held_out, "generated": self.generated}
        medians = [f"of {kind} ones {found.median_db:.3g} dB" for kind, found in kinds.items() if found.db.size]
        return f"Median distances of chunks to the training data: {', '.join(medians) or 'none'}."


def memorisation(training: Clips, generated: Clips, held_out: Clips, sample_rate: int) -> Memorisation:
    """Compares how near generated chunks and held-out real chunks come to the training data.

    A chunk is 0.25 s of mel levels (24 bands, a frame every 20 ms). Its loudness is taken out: levels are floored 50 dB
    below the chunk's loudest and their mean is subtracted, so that a copy at another volume is still a copy. The
    distance of two chunks is the root mean square difference of their levels, in dB. Generated and held-out clips are
    cut every 0.12 s and training clips every 10 ms, so that a copy is found wherever it starts. Chunks with nothing
    above -60 dB are silence and left out; a clip shorter than a chunk is padded with silence.

    training, generated, held_out: (name, float [nsamp], full scale 1.0) at `sample_rate` Hz; each is read once, so a
    generator will do, and training audio need not fit in memory. Time grows with the length of the training audio.
    """
    query_clips, query_frames, queries = _thinned(generated, sample_rate)
    _, _, references = _thinned(held_out, sample_rate)
    search = _Search(np.concatenate([queries, references]))
    for block in _blocks(training, sample_rate, hop=1):
        search.add(*block)
    distances = search.distances_db()
    seconds = mel_hop_length(sample_rate) / sample_rate
    matches: dict[str, Match] = {}
    for index in np.argsort(distances[: len(queries)]):
        name = query_clips[index]
        if name not in matches:
            matches[name] = Match(
                generated=name,
                generated_seconds=float(query_frames[index]) * seconds,
                training=search.clips[index],
                training_seconds=float(search.frames[index]) * seconds,
                distance_db=float(distances[index]),
            )
    return Memorisation(
        generated=Distances(distances[: len(queries)]),
        held_out=Distances(distances[len(queries) :]),
        nearest=tuple(matches.values()),
    )


def _silent() -> Absent:
    return Absent(f"no chunk above {_SILENT_DB:.0f} dB compares with the training data")


class _Search:
    """Nearest training chunk of every query, over training chunks that arrive in blocks."""

    def __init__(self, queries: NDArray[np.float32]) -> None:
        self.queries = queries
        self.norms = np.sum(queries**2, axis=1)
        self.squared = np.full(len(queries), np.inf, np.float32)
        self.clips = [""] * len(queries)
        self.frames = np.zeros(len(queries), np.int64)

    def add(self, clips: list[str], frames: NDArray[np.int64], chunks: NDArray[np.float32]) -> None:
        scores = self.queries @ chunks.T
        scores *= -2
        scores += np.sum(chunks**2, axis=1)
        nearest = np.argmin(scores, axis=1)
        squared = np.take_along_axis(scores, nearest[:, None], axis=1)[:, 0] + self.norms
        for index in np.flatnonzero(squared < self.squared):
            self.squared[index] = squared[index]
            self.clips[index] = clips[nearest[index]]
            self.frames[index] = frames[nearest[index]]

    def distances_db(self) -> NDArray[np.float32]:
        """One a query; none at all where no training chunk came."""
        if np.isinf(self.squared).any():
            return np.zeros(0, np.float32)
        return np.sqrt(np.maximum(self.squared, 0.0) / self.queries.shape[1])


Block = tuple[list[str], NDArray[np.int64], NDArray[np.float32]]
"""Clip name and first frame of each chunk, and the chunks, float32 [nchunk, D]."""


def _blocks(clips: Clips, sample_rate: int, hop: int) -> Iterator[Block]:
    """The audible chunks of `clips`, every `hop` frames, about `_BLOCK` at a time."""
    pending: list[Block] = []
    for name, samples in clips:
        samples = pad_to(samples, math.ceil(CHUNK_SECONDS * sample_rate))
        levels = log_mel_db(samples, sample_rate, _N_MELS, floor_db=_SILENT_DB - _RANGE_DB)
        windows = np.lib.stride_tricks.sliding_window_view(levels, _FRAMES, axis=0)[::hop, :, ::2]
        for start in range(0, len(windows), _BLOCK):
            chunks = windows[start : start + _BLOCK].reshape(-1, windows.shape[1] * windows.shape[2])
            loudest = chunks.max(axis=1, keepdims=True)
            audible = loudest[:, 0] > _SILENT_DB
            chunks = np.maximum(chunks[audible], loudest[audible] - _RANGE_DB)
            chunks -= chunks.mean(axis=1, keepdims=True)
            frames = (start + np.flatnonzero(audible)) * hop
            pending.append(([name] * len(frames), frames, chunks))
            if sum(len(block[1]) for block in pending) >= _BLOCK:
                yield _join(pending)
                pending = []
    if any(len(block[1]) for block in pending):
        yield _join(pending)


def _thinned(clips: Clips, sample_rate: int) -> Block:
    names, frames, chunks = _join(list(_blocks(clips, sample_rate, hop=_FRAMES // 2)))
    keep = np.unique(np.linspace(0, len(names) - 1, min(len(names), MAX_CHUNKS)).round().astype(np.int64))
    return [names[index] for index in keep], frames[keep], chunks[keep]


def _join(blocks: list[Block]) -> Block:
    if not blocks:
        return [], np.zeros(0, np.int64), np.zeros((0, _N_MELS * len(range(0, _FRAMES, 2))), np.float32)
    names = [name for block in blocks for name in block[0]]
    return names, np.concatenate([block[1] for block in blocks]), np.concatenate([block[2] for block in blocks])
