"""A judge of labelled sound: a small network that hears a clip's labels, trained on real recordings alone.

Frames of mel levels pass through convolutions over time; what they find is pooled by mean and maximum over the clip's
own frames, made an embedding, and each label has a head of its own. Nothing that a generator made is ever learned from.
"""

import dataclasses
import hashlib
import io
import json
import math
import sys
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import flax
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from numpy.typing import NDArray
from tqdm import tqdm

from jaxgen import __version__
from jaxgen.data.store import Store
from jaxgen.errors import UserError
from jaxgen.evaluation.metrics import Samples, log_mel_db
from jaxgen.features import LogMel, MuLaw
from jaxgen.files import write_whole, writing
from jaxgen.objectives.optimizer import AdamW

Levels = NDArray[np.float32]
"""Mel levels of a clip, [nframe, N_MELS]."""

LONGEST_SECONDS = 4.0
"""What is heard of a clip: its beginning."""
N_MELS = 40
RANGE_DB = 50.0
"""Levels are told from one another down to this below the clip's loudest, so that neither loudness nor a faint hum counts."""

_FORMAT = 1  # of a judge's file; a change trains every judge anew
_MOST_VALUES = 100  # of a label that is judged
_MOST_CLIPS = 10_000  # that are learned from
_MOST_HEARD = 100  # times that a clip is learned from
_WORN_SECONDS = 2_000.0  # of recordings that are also heard as codecs leave them
_ROWS = 64
_FRAME_UNIT = 32  # frames are padded to a multiple of this many, so that few shapes are compiled


@dataclasses.dataclass(frozen=True)
class JudgeTraining:
    """How a judge is trained."""

    steps: int = 1_000
    """Updates; fewer where each clip would be heard more than 100 times."""
    batch_size: int = 64
    """Clips in an update."""
    channels: int = 96
    """Features of a frame inside."""
    embedding_size: int = 48
    """Features of a clip; few, so that some hundred clips have a covariance."""
    dropout: float = 0.15
    """Share of what is pooled that training switches off."""
    optimizer: AdamW = AdamW(peak=2e-3, warmup_steps=50, weight_decay=0.05)
    """Who changes the parameters."""
    seed: int = 0
    """The same seed trains the same judge."""


class Verdict(NamedTuple):
    """What a judge says of n clips."""

    probabilities: dict[str, NDArray[np.float32]]
    """By label [n, K], in the order of its values."""
    embedding: NDArray[np.float32]
    """[n, embedding_size]."""


class _State(NamedTuple):
    """Everything that training changes."""

    step: jax.Array
    params: Any
    opt_state: Any


class _Network(nnx.Module):
    """Levels [B, T, N_MELS] and which frames are real [B, T] to logits by label and the embedding."""

    def __init__(self, training: JudgeTraining, labels: Mapping[str, Sequence[str]], rngs: nnx.Rngs):
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
        highest = jnp.where(real, x, -jnp.inf).max(1)
        pooled = _dropped(jnp.concatenate([mean, highest], -1), self.dropout, key)
        embedding = jnp.tanh(self.embed(pooled))
        return {name: head(embedding) for name, head in self.heads.items()}, embedding


def _beside(x: jax.Array, width: int) -> jax.Array:
    """Each frame with its neighbours, [B, T, width * D]: a convolution is one product of this."""
    reach = width // 2
    padded = jnp.pad(x, ((0, 0), (reach, reach), (0, 0)))
    return jnp.concatenate([padded[:, place : place + x.shape[1]] for place in range(width)], -1)


def _dropped(x: jax.Array, share: float, key: jax.Array | None) -> jax.Array:
    if key is None or share == 0:
        return x
    return jnp.where(jax.random.bernoulli(key, 1 - share, x.shape), x / (1 - share), 0.0)


class Judge:
    """A trained judge. `about` is what its file says beside the parameters."""

    def __init__(self, training: JudgeTraining, about: Mapping[str, Any], params: Any):
        self.about = dict(about)
        self.sample_rate: int = about["sample_rate"]
        self.labels: dict[str, tuple[str, ...]] = {name: tuple(values) for name, values in about["labels"].items()}
        self.training = training
        self._params = params
        graph = _graph(training, self.labels)
        self._judge = jax.jit(lambda params, levels, real: nnx.merge(graph, params)(levels, real))

    def __call__(self, clips: Sequence[Samples]) -> Verdict:
        """Judges clips of any lengths, float32 [nsamp] at `sample_rate` Hz; of each at most the first 4 s."""
        return self._heard([mel_levels(clip, self.sample_rate) for clip in clips])

    def _heard(self, levels: Sequence[Levels]) -> Verdict:
        order = sorted(range(len(levels)), key=lambda place: len(levels[place]))  # those of a batch are about as long
        found: dict[str, list[np.ndarray]] = {name: [] for name in self.labels}
        embeddings: list[np.ndarray] = []
        for start in range(0, len(order), _ROWS):
            rows = [levels[place] for place in order[start : start + _ROWS]]
            logits, embedding = self._judge(self._params, *_padded(rows, max(map(len, rows)), _ROWS))
            embeddings.append(np.asarray(embedding)[: len(rows)])
            for name, values in logits.items():
                found[name].append(np.asarray(jax.nn.softmax(values))[: len(rows)])
        back = np.argsort(order)
        return Verdict(
            {name: np.concatenate(parts)[back] for name, parts in found.items()}, np.concatenate(embeddings)[back]
        )

    def save(self, path: Path) -> None:
        """Writes one file, whole or not at all. Raises UserError where it cannot be written."""
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        arrays = {name: np.asarray(leaf) for name, leaf in _named(self._params).items()}
        content = io.BytesIO()
        about = json.dumps(self.about | {"training": dataclasses.asdict(self.training)})
        np.savez(content, allow_pickle=False, about=np.frombuffer(about.encode(), np.uint8), **arrays)
        write_whole(path, content.getvalue())

    @staticmethod
    def load(path: Path) -> "Judge":
        """The judge in a file. Raises UserError where it is damaged, or something else."""
        try:
            with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as file:  # numpy leaves a damaged file open
                arrays = dict(file)
            about = json.loads(arrays.pop("about").tobytes())
            if about["format"] != _FORMAT:
                raise ValueError(f"its format is {about['format']}, not {_FORMAT}")
            values = about.pop("training")
            training = JudgeTraining(**values | {"optimizer": AdamW(**values["optimizer"])})
            expected = jax.eval_shape(lambda: _first(training, about["labels"]))
            if {name: (a.shape, a.dtype) for name, a in arrays.items()} != {
                name: (a.shape, a.dtype) for name, a in _named(expected).items()
            }:
                raise ValueError("its arrays are not those of its settings")
            leaves = [jnp.asarray(arrays[name]) for name in _named(expected)]
            return Judge(training, about, jax.tree.unflatten(jax.tree.structure(expected), leaves))
        except FileNotFoundError:
            raise UserError(f"there is no judge at '{path}'; `python -m jaxgen.evaluation.judge` trains one.") from None
        except (
            OSError,
            EOFError,
            ValueError,
            LookupError,
            TypeError,
            AttributeError,
            zipfile.BadZipFile,
            UserError,
        ) as error:
            raise UserError(
                f"'{path}' is no whole judge ({error}); remove it, and `python -m jaxgen.evaluation.judge` trains it anew."
            ) from None


def _first(training: JudgeTraining, labels: Mapping[str, Sequence[str]]) -> Any:
    """The parameters that training starts from."""
    return nnx.state(_Network(training, labels, nnx.Rngs(training.seed)), nnx.Param)


def _graph(training: JudgeTraining, labels: Mapping[str, Sequence[str]]) -> Any:
    return nnx.graphdef(nnx.eval_shape(lambda: _Network(training, labels, nnx.Rngs(0))))


def _named(params: Any) -> dict[str, Any]:
    """The arrays of a network's parameters by name, in their order."""
    return {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(params)}


def judged_labels(store: Store) -> dict[str, tuple[str, ...]]:
    """The labels of a data set that can be judged, with their values, sorted.

    They are the fields that all its training clips have, with at least two values and at most 100, all of which validation
    can be checked for: a field with a value there that training lacks, such as a running number, is none.
    """
    train, validation = ([store.clips[i] for i in store.indices(split)] for split in ("train", "validation"))
    labels = {}
    for name in sorted({field for clip in train for field in clip.fields}):
        values = {clip.fields.get(name, "") for clip in train}
        heard = {clip.fields.get(name, "") for clip in validation}
        if "" not in values and 2 <= len(values) <= _MOST_VALUES and heard <= values:
            labels[name] = tuple(sorted(values))
    return labels


def labels_to_judge(store: Store) -> dict[str, tuple[str, ...]]:
    """As `judged_labels`. Raises UserError where there is none."""
    labels = judged_labels(store)
    if not labels:
        raise UserError(
            "there is no label to judge: no field of the training clips has 2 to 100 values that validation clips share; "
            "name fields in --data.pattern or the manifest, or leave Judged out of the config's evaluation.metrics."
        )
    return labels


def judge_path(store: Store, training: JudgeTraining, cache_dir: str | Path) -> Path:
    """Where the judge of a data set and settings is kept."""
    settings = [_FORMAT, data_hash(store), store.features.sample_rate, dataclasses.asdict(training)]
    name = hashlib.sha256(json.dumps(settings).encode()).hexdigest()[:24]
    return Path(cache_dir).expanduser() / "judges" / f"{name}.npz"


def data_hash(store: Store) -> str:
    """SHA-256 over the recordings, their labels and splits, and what decoding made of them."""
    clips = [[c.name, c.digest, c.split, dict(c.fields), c.num_samples, c.loudness_dbfs] for c in store.clips]
    return hashlib.sha256(json.dumps(clips, sort_keys=True).encode()).hexdigest()


def judge_of(store: Store, cache_dir: str | Path, training: JudgeTraining | None = None) -> Judge:
    """The judge of a data set from the cache, or trained now, which is said, and kept there.

    Raises UserError where the data has no label to judge or no validation clip, or the file is damaged.
    """
    training = training or JudgeTraining()
    path = judge_path(store, training, cache_dir)
    if path.exists():
        return Judge.load(path)
    print("training a judge of this data's labels on its real training recordings", file=sys.stderr)
    judge = train_judge(store, training)
    judge.save(path)
    return judge


def train_judge(store: Store, training: JudgeTraining) -> Judge:
    """Trains a judge on the training clips of a store, and counts what it hears rightly of them and of validation.

    Raises UserError where the data has no label to judge, or no validation clip.
    """
    labels = labels_to_judge(store)
    train, validation = _thinned(store.indices("train"), _MOST_CLIPS), store.indices("validation")
    if not validation:
        raise UserError("there is no validation clip to check a judge on; set some aside (data.validation).")
    rate = store.features.sample_rate
    clips = [_heard_part(store.samples(i), rate) for i in train]
    targets = _targets(store, train, labels)
    clean = [mel_levels(clip, rate) for clip in clips]
    params = _trained(training, labels, clean, _worn(clips, rate, training.seed), targets)
    about = {
        "format": _FORMAT,
        "sample_rate": rate,
        "labels": {name: list(values) for name, values in labels.items()},
        "frequencies": {
            name: (np.bincount(targets[name], minlength=len(labels[name])) / len(train)).tolist() for name in labels
        },
        "data_sha256": data_hash(store),
        "versions": {"jaxgen": __version__, "jax": jax.__version__, "flax": flax.__version__, "numpy": np.__version__},
    }
    judge = Judge(training, about, params)
    held_out = [mel_levels(store.samples(i), rate) for i in validation]
    judge.about["training_clips"] = _counts(judge, clean, targets)
    judge.about["validation"] = _counts(judge, held_out, _targets(store, validation, labels))
    return judge


def mel_levels(samples: Samples, sample_rate: int) -> Levels:
    """What a judge hears: float32 [nframe, N_MELS], 10 ms apart, from -1 (`RANGE_DB` below the loudest) to 1 (the loudest).

    samples: float32 [nsamp], full scale 1.0; at most the first 4 s count. A clip without sound is -1 throughout.
    """
    levels = log_mel_db(_heard_part(samples, sample_rate), sample_rate, N_MELS, floor_db=-120.0)
    below = np.maximum(levels - max(float(levels.max()), -120.0 + RANGE_DB), -RANGE_DB)
    return below * np.float32(2 / RANGE_DB) + 1


def _heard_part(samples: Samples, sample_rate: int) -> Samples:
    return samples[: round(LONGEST_SECONDS * sample_rate)]


def _thinned(items: Sequence[int], most: int) -> list[int]:
    return [items[place] for place in np.linspace(0, len(items) - 1, min(len(items), most)).round().astype(int)]


def _targets(store: Store, clips: Sequence[int], labels: Mapping[str, Sequence[str]]) -> dict[str, NDArray[np.int32]]:
    return {
        name: np.array([values.index(store.clips[i].fields[name]) for i in clips], np.int32)
        for name, values in labels.items()
    }


def _counts(judge: Judge, levels: Sequence[Levels], targets: Mapping[str, NDArray[np.int32]]) -> dict[str, list[int]]:
    """By label, how many clips it hears rightly, and of how many."""
    heard = judge._heard(levels).probabilities
    return {name: [int((heard[name].argmax(1) == right).sum()), len(right)] for name, right in targets.items()}


def _worn(clips: Sequence[Samples], rate: int, seed: int) -> list[list[Levels]]:
    """The levels of each clip after 8-bit mu-law, and after a mel spectrogram made sound again by Griffin-Lim.

    A generated clip bears these traces whatever it says; a judge that never heard them could take them for a cue. Clips
    beyond `_WORN_SECONDS` in all have none.
    """
    window = 1 << (rate // 32).bit_length()  # 32 to 64 ms
    mel = LogMel(sample_rate=rate, n_fft=window, hop_length=rate // 100, n_mels=N_MELS, floor=1e-5)
    codes = MuLaw(sample_rate=rate)
    worn: list[list[Levels]] = [[] for _ in clips]
    random = np.random.default_rng(seed)
    heard = np.cumsum([len(clip) for clip in clips]) <= _WORN_SECONDS * rate
    order = sorted(np.flatnonzero(heard).tolist(), key=lambda place: len(clips[place]))
    unit = _FRAME_UNIT * mel.hop_length
    for start in range(0, len(order), _ROWS):
        places = order[start : start + _ROWS]
        longest = -(-max(len(clips[place]) for place in places) // unit) * unit
        rows = np.zeros((_ROWS, longest), np.float32)
        for row, place in zip(rows, places, strict=False):
            loudness = random.uniform(0.2, 1.0) / max(float(np.abs(clips[place]).max()), 1e-5)
            row[: len(clips[place])] = clips[place] * np.float32(loudness)
        for made in (codes.decode(codes.encode(rows)), mel.decode(mel.encode(rows), 16)):
            for row, place in zip(np.asarray(made), places, strict=False):
                worn[place].append(mel_levels(row[: len(clips[place])], rate))
    return worn


def _trained(
    training: JudgeTraining,
    labels: Mapping[str, Sequence[str]],
    clean: Sequence[Levels],
    worn: Sequence[Sequence[Levels]],
    targets: Mapping[str, NDArray[np.int32]],
) -> Any:
    """Parameters after training. Half of what is heard is as recorded; all of it is changed by `_changed`."""
    steps = min(training.steps, math.ceil(_MOST_HEARD * len(clean) / training.batch_size))
    graph, params = _graph(training, labels), jax.jit(lambda: _first(training, labels))()
    optimizer = training.optimizer.make(steps)
    keys = jax.random.key(training.seed)

    def loss(params: Any, levels: jax.Array, real: jax.Array, targets: Mapping[str, jax.Array], key: jax.Array):
        change, drop = jax.random.split(key)
        logits, _ = nnx.merge(graph, params)(_changed(levels, real, change), real, drop)
        losses = [optax.softmax_cross_entropy_with_integer_labels(logits[name], targets[name]) for name in targets]
        return sum(each.mean() for each in losses)

    def train_step(state: _State, levels: jax.Array, real: jax.Array, targets: Mapping[str, jax.Array]):
        value, gradient = jax.value_and_grad(loss)(
            state.params, levels, real, targets, jax.random.fold_in(keys, state.step)
        )
        updates, opt_state = optimizer.update(gradient, state.opt_state, state.params)
        return _State(state.step + 1, optax.apply_updates(state.params, updates), opt_state), value

    step = jax.jit(train_step, donate_argnums=0)
    state = _State(jnp.int32(0), params, jax.jit(optimizer.init)(params))
    random = np.random.default_rng(training.seed)
    frames = math.ceil(1.1 * np.percentile([len(each) for each in clean], 95))
    bar = tqdm(range(steps), unit="step", desc="judge", disable=not sys.stderr.isatty(), leave=False)
    for _ in bar:
        drawn = random.integers(len(clean), size=training.batch_size).tolist()
        heard = [clean[i] if not worn[i] or random.random() < 0.5 else random.choice(worn[i]) for i in drawn]
        rows = [_shifted(levels, frames, random) for levels in heard]
        state, _ = step(state, *_padded(rows, frames, len(rows)), {name: t[drawn] for name, t in targets.items()})
    return state.params


def _shifted(levels: Levels, most: int, random: np.random.Generator) -> Levels:
    """A clip with up to 0.1 s of silence before and after it, or a little cut away there; `most` frames of it at most."""
    before, after = random.integers(-3, 11, size=2)
    kept = levels[max(0, -before) : len(levels) - max(0, -after)] if len(levels) > 12 else levels
    padded = np.pad(kept, ((max(0, before), max(0, after)), (0, 0)), constant_values=-1)
    start = random.integers(max(1, len(padded) - most + 1))
    return padded[start : start + most]


def _padded(rows: Sequence[Levels], frames: int, count: int) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Rows in one array [count, T, N_MELS] with T a multiple of a unit, and which frames are real [count, T].

    Rows that are not there have one real frame, so that a mean over it is a number.
    """
    levels = np.full((count, -(-frames // _FRAME_UNIT) * _FRAME_UNIT, N_MELS), -1, np.float32)
    real = np.zeros(levels.shape[:2], bool)
    real[:, 0] = True
    for place, row in enumerate(rows):
        levels[place, : len(row)] = row
        real[place, : len(row)] = True
    return levels, real


def _changed(levels: jax.Array, real: jax.Array, key: jax.Array) -> jax.Array:
    """Augmentation: noise and a tilt of the spectrum, then masks over bands and frames (SpecAugment, Park et al. 2019)."""
    rows, frames, bands = levels.shape
    keys = iter(jax.random.split(key, 9))
    tilt = 0.15 * jax.random.normal(next(keys), (rows, 1, 1)) * jnp.linspace(-1, 1, bands)
    wobble = 0.05 * jax.random.normal(next(keys), levels.shape)
    noise = jax.random.uniform(
        next(keys), (rows, 1, 1), minval=-1.4, maxval=-0.5
    )  # about 60 to 38 dB below the loudest
    noisy = jnp.logaddexp((levels + tilt + wobble) * _NEPERS, (noise + wobble) * _NEPERS) / _NEPERS
    levels = jnp.clip(noisy, -1, 1.2)
    places = jnp.arange(frames)[:, None], jnp.arange(bands)
    for place, most, length in ((places[0], 12, real.sum(1)), (places[1], 8, bands), (places[1], 8, bands)):
        wide = jax.random.uniform(next(keys), (rows, 1, 1), maxval=most)
        start = jax.random.uniform(next(keys), (rows, 1, 1)) * jnp.reshape(length, (-1, 1, 1))
        levels = jnp.where((place >= start) & (place < start + wide), -0.3, levels)
    return levels


_NEPERS = RANGE_DB / 2 * math.log(10) / 10  # of power, in one unit of the levels
