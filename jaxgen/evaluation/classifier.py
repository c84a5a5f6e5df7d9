"""A classifier of labelled sound: a small network that recognises a clip's labels, trained on real recordings alone.

Frames of mel levels pass through convolutions over time; what they find is pooled by mean and maximum over the clip's
own frames, made an embedding, and each label has a head of its own. Nothing that a generator made is ever learned from.
"""

import dataclasses
import io
import json
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from numpy.typing import NDArray

from jaxgen.core.errors import UserError
from jaxgen.core.files import Corrupt, explain_write_errors, read_checksummed, write_checksummed
from jaxgen.core.numerics import random_key
from jaxgen.core.serial import from_json, to_json
from jaxgen.evaluation.metrics import Samples, log_mel_db
from jaxgen.objectives.optimizer import AdamW

Levels = NDArray[np.float32]
"""Mel levels of a clip, [nframe, N_MELS]."""

LONGEST_SECONDS = 4.0
"""Of a clip only its beginning is read."""
N_MELS = 40
RANGE_DB = 50.0
"""Levels are told from one another down to this below the clip's loudest, so that neither loudness nor a faint hum counts."""

FORMAT = 5  # of a classifier's file and of how it is trained; a change trains every classifier anew
ROWS = 64  # clips that are classified at a time
FRAME_UNIT = 32  # frames are padded to a multiple of this many, so that few shapes are compiled


@dataclasses.dataclass(frozen=True)
class ClassifierTraining:
    """How a classifier is trained."""

    steps: int = 1_000
    """Updates; fewer where each clip would be trained on more than 100 times."""
    batch_size: int = 64
    """Clips in an update."""
    channels: int = 96
    """Features of a frame inside."""
    embedding_size: int = 48
    """Features of a clip; few, so that some hundred clips have a covariance."""
    dropout: float = 0.15
    """Share of what is pooled that training switches off."""
    optimizer: AdamW = AdamW(learning_rate=2e-3, warmup_steps=50, weight_decay=0.05)
    """Who changes the parameters."""
    seed: int = 0
    """The same seed trains the same classifier."""


class Predictions(NamedTuple):
    """A classifier's outputs for n clips."""

    probabilities: dict[str, NDArray[np.float32]]
    """By label [n, K], in the order of its values."""
    embedding: NDArray[np.float32]
    """[n, embedding_size]."""


class Network(nnx.Module):
    """Levels [B, T, N_MELS] and which frames are real [B, T] to logits by label and the embedding."""

    def __init__(self, training: ClassifierTraining, labels: Mapping[str, Sequence[str]], rngs: nnx.Rngs):
        width, size = training.channels, training.embedding_size
        self.first = nnx.Linear(5 * N_MELS, width, rngs=rngs)
        self.blocks = nnx.List([nnx.Linear(3 * width, width, rngs=rngs) for _ in range(4)])
        self.norms = nnx.List([nnx.LayerNorm(width, rngs=rngs) for _ in range(5)])
        self.embed = nnx.Linear(2 * width, size, rngs=rngs)
        self.heads = nnx.Dict({name: nnx.Linear(size, len(values), rngs=rngs) for name, values in labels.items()})
        self.dropout = training.dropout

    def __call__(
        self, levels: jax.Array, real: jax.Array, key: jax.Array | None = None
    ) -> tuple[dict[str, jax.Array], jax.Array]:
        real = real[..., None]
        x = self.norms[0](jax.nn.gelu(self.first(_beside((levels + 1) * real, 5)))) * real
        for place, (block, norm) in enumerate(zip(self.blocks, self.norms[1:], strict=True)):
            if place in (1, 2):  # two frames become one; half a real frame is one
                x, real = x[:, ::2], real[:, ::2]
            x = (x + norm(jax.nn.gelu(block(_beside(x, 3))))) * real
        mean = x.sum(1) / real.sum(1)
        pooled = _dropped(jnp.concatenate([mean, _highest(x, real)], -1), self.dropout, key)
        embedding = jnp.tanh(self.embed(pooled))
        return {name: head(embedding) for name, head in self.heads.items()}, embedding


def _beside(x: jax.Array, width: int) -> jax.Array:
    """Each frame with its neighbours, [B, T, width * D]: a convolution is one product of this."""
    reach = width // 2
    padded = jnp.pad(x, ((0, 0), (reach, reach), (0, 0)))
    return jnp.concatenate([padded[:, place : place + x.shape[1]] for place in range(width)], -1)


def _highest(x: jax.Array, real: jax.Array) -> jax.Array:
    """The maximum over real frames, [B, D]. The gradient of `max` compares x with it, and is 0 / 0 where a compiler has
    computed x twice with different rounding; that of a place does not.
    """
    place = jnp.where(real, jax.lax.stop_gradient(x), -jnp.inf).argmax(1, keepdims=True)
    return jnp.take_along_axis(x, place, axis=1)[:, 0]


def _dropped(x: jax.Array, share: float, key: jax.Array | None) -> jax.Array:
    if key is None or share == 0:
        return x
    return jnp.where(jax.random.bernoulli(key, 1 - share, x.shape), x / (1 - share), 0.0)


class LabelClassifier:
    """A trained classifier. `about` is what its file says beside the parameters."""

    def __init__(self, training: ClassifierTraining, about: Mapping[str, Any], params: Any):
        self.about = dict(about)
        self.sample_rate: int = about["sample_rate"]
        self.labels: dict[str, tuple[str, ...]] = {name: tuple(values) for name, values in about["labels"].items()}
        self.training = training
        self._params = params
        graph = graph_definition(training, self.labels)
        self._classify = jax.jit(lambda params, levels, real: nnx.merge(graph, params)(levels, real))

    def __call__(self, clips: Sequence[Samples]) -> Predictions:
        """Classifies clips of any lengths, float32 [nsamp] at `sample_rate` Hz; of each at most the first 4 s."""
        return self.classify([mel_levels(clip, self.sample_rate) for clip in clips])

    def classify(self, levels: Sequence[Levels]) -> Predictions:
        """As a call, of clips whose `mel_levels` are known."""
        order = sorted(range(len(levels)), key=lambda place: len(levels[place]))  # those of a batch are about as long
        found: dict[str, list[np.ndarray]] = {name: [] for name in self.labels}
        embeddings: list[np.ndarray] = []
        for start in range(0, len(order), ROWS):
            rows = [levels[place] for place in order[start : start + ROWS]]
            logits, embedding = self._classify(self._params, *pad_rows(rows, max(map(len, rows)), ROWS))
            embeddings.append(np.asarray(embedding)[: len(rows)])
            for name, values in logits.items():
                found[name].append(np.asarray(jax.nn.softmax(values))[: len(rows)])
        back = np.argsort(order)
        return Predictions(
            {name: np.concatenate(parts)[back] for name, parts in found.items()}, np.concatenate(embeddings)[back]
        )

    def save(self, path: Path) -> None:
        """Writes one file, whole or not at all. Raises UserError where it cannot be written."""
        with explain_write_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        arrays = {name: np.asarray(leaf) for name, leaf in _named(self._params).items()}
        content = io.BytesIO()
        about = json.dumps(self.about | {"training": to_json(self.training)})
        np.savez(content, allow_pickle=False, about=np.frombuffer(about.encode(), np.uint8), **arrays)
        write_checksummed(path, content.getvalue())

    @staticmethod
    def load(path: Path) -> "LabelClassifier":
        """The classifier in a file. Raises UserError where there is none, or it cannot be read; Corrupt where it is damaged."""
        try:
            with np.load(
                io.BytesIO(read_checksummed(path)), allow_pickle=False
            ) as file:  # numpy leaves a damaged file open
                arrays = dict(file)
            about = json.loads(arrays.pop("about").tobytes())
            if (found := about.get("format_version", about.get("format"))) != FORMAT:
                raise ValueError(f"its format is {found}, not {FORMAT}")
            values = about.pop("training")
            try:
                training = from_json(values, ClassifierTraining, "its training")
            except UserError as error:
                raise ValueError(str(error).rstrip(".")) from None
            expected = jax.eval_shape(lambda: init_params(training, about["labels"]))
            if {name: (a.shape, a.dtype) for name, a in arrays.items()} != {
                name: (a.shape, a.dtype) for name, a in _named(expected).items()
            }:
                raise ValueError("its arrays are not those of its settings")
            leaves = [jnp.asarray(arrays[name]) for name in _named(expected)]
            return LabelClassifier(training, about, jax.tree.unflatten(jax.tree.structure(expected), leaves))
        except FileNotFoundError:
            raise UserError(f"there is no classifier at '{path}'; `python -m jaxgen.classifier` trains one.") from None
        except (
            Corrupt,
            OSError,
            EOFError,
            ValueError,
            LookupError,
            TypeError,
            AttributeError,
            zipfile.BadZipFile,
        ) as error:
            raise Corrupt(
                f"'{path}' is no whole classifier of this version ({error}); `python -m jaxgen.classifier` trains one."
            ) from None


def init_params(training: ClassifierTraining, labels: Mapping[str, Sequence[str]]) -> Any:
    """The parameters that training starts from."""
    return nnx.state(Network(training, labels, nnx.Rngs(random_key(training.seed))), nnx.Param)


def graph_definition(training: ClassifierTraining, labels: Mapping[str, Sequence[str]]) -> Any:
    """The network without its parameters, for `nnx.merge`."""
    return nnx.graphdef(nnx.eval_shape(lambda: Network(training, labels, nnx.Rngs(random_key(0)))))


def _named(params: Any) -> dict[str, Any]:
    """The arrays of a network's parameters by name, in their order."""
    return {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(params)}


def mel_levels(samples: Samples, sample_rate: int) -> Levels:
    """The classifier's input: float32 [nframe, N_MELS], 10 ms apart, from -1 (`RANGE_DB` below the loudest) to 1 (the loudest).

    samples: float32 [nsamp], full scale 1.0; at most the first 4 s count. A clip without sound is -1 throughout.
    """
    levels = log_mel_db(first_seconds(samples, sample_rate), sample_rate, N_MELS, floor_db=-120.0)
    below = np.maximum(levels - max(float(levels.max()), -120.0 + RANGE_DB), -RANGE_DB)
    return below * np.float32(2 / RANGE_DB) + 1


def first_seconds(samples: Samples, sample_rate: int) -> Samples:
    """The beginning of a clip, `LONGEST_SECONDS` at most."""
    return samples[: round(LONGEST_SECONDS * sample_rate)]


def pad_rows(rows: Sequence[Levels], frames: int, count: int) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Rows in one array [count, T, N_MELS] with T a multiple of a unit, and which frames are real [count, T].

    Rows that are not there have one real frame, so that a mean over it is a number.
    """
    levels = np.full((count, -(-frames // FRAME_UNIT) * FRAME_UNIT, N_MELS), -1, np.float32)
    real = np.zeros(levels.shape[:2], bool)
    real[:, 0] = True
    for place, row in enumerate(rows):
        levels[place, : len(row)] = row
        real[place, : len(row)] = True
    return levels, real
