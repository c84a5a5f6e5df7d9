"""What marks generated sound as synthetic: a JSON mark in the file's own metadata and in a file beside it.

The mark holds no time and no host name, so that the same command writes the same bytes.
"""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jaxgen import __version__, audio
from jaxgen.core.files import write_atomic

_MOST_BYTES = 1900  # libsndfile gives back no comment of a wav that is longer than about 2000
_OF_ANY_LENGTH = ("prompt", "labels", "licences", "checkpoint", "vocoder", "soundfont")
_ELSEWHERE = "in the JSON file beside this one"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Provenance:
    """Where a generated clip comes from."""

    synthetic: bool = dataclasses.field(default=True, init=False)
    """Always true: what this mark is for."""
    generator: str = dataclasses.field(default=f"jaxgen {__version__}", init=False)
    """Program and version."""
    model: str
    """Class name of the model."""
    checkpoint: str
    """Name of the run's folder and the step of the checkpoint: `digits/6000`."""
    config_sha256: str
    """SHA-256 of the run's config, hexadecimal."""
    data_manifest_sha256: str
    """SHA-256 of the manifest of the training data, hexadecimal."""
    licences: tuple[str, ...] = ()
    """Licences of the training data."""
    seed: int
    """Seed of the command that made the clip."""
    clip: int
    """Place of the clip among those of the command, from 0."""
    labels: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """Label values the clip was asked for, by label name."""
    prompt: str = ""
    """The recording that was continued, or the text that was spoken; empty for none."""
    vocoder: str = ""
    """Run and step of the vocoder that made sound of frames, as for `checkpoint`; empty for none."""
    soundfont: str = ""
    """Name of the SoundFont file that played written music; empty for none."""


def mark(path: Path, samples: NDArray[np.float32], sample_rate: int, provenance: Provenance) -> None:
    """Writes a wav that carries its provenance, and the same mark as JSON beside it, under the suffix `.json`.

    The JSON is there first, so that no interruption leaves a wav without it; neither file is ever half-written. What
    is too long for the metadata of a wav stands in the JSON file only, and the mark in the wav says so.

    samples: float32 [nsamp] or [nsamp, nch], full scale 1.0. Raises UserError where they cannot be written.
    """
    content = dataclasses.asdict(provenance)
    write_atomic(path.with_suffix(".json"), json.dumps(content, indent=2) + "\n")
    audio.write(path, samples, sample_rate, comment=_comment(content))


def _comment(content: Mapping[str, Any]) -> str:
    text = json.dumps(content, separators=(",", ":"))
    for name in _OF_ANY_LENGTH:
        if len(text) > _MOST_BYTES:
            content = {**content, name: _ELSEWHERE}
            text = json.dumps(content, separators=(",", ":"))
    return text


def read(path: Path) -> dict[str, Any] | None:
    """The mark inside an audio file; None where it carries none. Raises audio.AudioError where it is no audio file."""
    return parse(audio.read_comment(path))


def parse(comment: str) -> dict[str, Any] | None:
    """The mark in a comment of an audio file's metadata; None where it holds none."""
    try:
        content = json.loads(comment)
    except (ValueError, RecursionError):
        return None
    return content if isinstance(content, dict) and content.get("synthetic") is True else None
