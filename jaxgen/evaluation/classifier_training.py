"""How a classifier is trained: on the real training recordings of a store, and on nothing else."""

import dataclasses
import math
import sys
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
from jaxgen.audio import mix_down
from jaxgen.core.errors import UserError
from jaxgen.core.files import Corrupt
from jaxgen.core.names import expand
from jaxgen.core.numerics import random_key
from jaxgen.core.serial import content_hash
from jaxgen.data.store import Store
from jaxgen.evaluation.classifier import (
    FORMAT,
    FRAME_UNIT,
    LONGEST_SECONDS,
    N_MELS,
    RANGE_DB,
    ROWS,
    ClassifierTraining,
    LabelClassifier,
    Levels,
    graph_definition,
    init_params,
    mel_levels,
    pad_rows,
)
from jaxgen.evaluation.metrics import Samples
from jaxgen.features import LogMel, MuLaw

_MOST_VALUES = 100  # of a label that is classified
_MOST_CLIPS = 10_000  # that are learned from
_MOST_HEARD = 100  # times that a clip is learned from
_WORN_SECONDS = 2_000.0  # of recordings that are also used as codecs leave them


class _State(NamedTuple):
    """Everything that training changes."""

    step: jax.Array
    params: Any
    opt_state: Any


def classifiable_labels(store: Store) -> dict[str, tuple[str, ...]]:
    """The labels of a data set that can be classified, with their values, sorted.

    They are the fields that all its training clips have, with at least two values and at most 100, all of which validation
    can be checked for. A running number is none: one that has values there that training lacks, or the numbers with most
    values where all fields together tell every training clip apart.
    """
    train, validation = ([store.clips[i] for i in store.indices(split)] for split in ("train", "validation"))
    labels = {}
    for name in sorted({field for clip in train for field in clip.fields}):
        values = {clip.fields.get(name, "") for clip in train}
        heard = {clip.fields.get(name, "") for clip in validation}
        if "" not in values and 2 <= len(values) <= _MOST_VALUES and heard <= values:
            labels[name] = tuple(sorted(values))
    most = max(labels, key=lambda name: len(labels[name]), default="")
    if len(labels) > 1 and all(value.isdecimal() for value in labels[most]):
        told_apart = {tuple(clip.fields[name] for name in labels) for clip in train}
        if len(told_apart) == len(train):
            del labels[most]
    return labels


def require_labels(store: Store) -> dict[str, tuple[str, ...]]:
    """As `classifiable_labels`. Raises UserError where there is none."""
    labels = classifiable_labels(store)
    if not labels:
        raise UserError(
            "there is no label to classify: no field of the training clips has 2 to 100 values that validation clips share; "
            "name fields in --data.pattern or the manifest, or leave ClassifierMetrics out of the config's evaluation.metrics."
        )
    return labels


def classifier_path(store: Store, training: ClassifierTraining, cache_dir: str | Path) -> Path:
    """Where the classifier of a data set and settings is kept."""
    settings = [FORMAT, data_hash(store), store.features.sample_rate, dataclasses.asdict(training)]
    return Path(expand(cache_dir)) / "classifiers" / f"{content_hash(settings)[:24]}.npz"


def data_hash(store: Store) -> str:
    """SHA-256 over the recordings, their labels and splits, and what decoding made of them."""
    clips = [[c.name, c.digest, c.split, dict(c.fields), c.num_samples, c.loudness_dbfs] for c in store.clips]
    return content_hash(clips)


def load_or_train(store: Store, cache_dir: str | Path, training: ClassifierTraining | None = None) -> LabelClassifier:
    """The classifier of a data set from the cache, or trained now, which is said, and kept there. So is a damaged one.

    Raises UserError where the data has no label to classify or no validation clip, or the file cannot be read.
    """
    training = training or ClassifierTraining()
    path = classifier_path(store, training, cache_dir)
    if path.exists():
        try:
            return _of(store, training, LabelClassifier.load(path), path)
        except Corrupt as damage:
            print(f"jaxgen: {damage}", file=sys.stderr)
    print("training a classifier of this data's labels on its real training recordings", file=sys.stderr)
    classifier = train_classifier(store, training)
    try:
        classifier.save(path)
    except UserError as error:
        print(f"jaxgen: {error} The next evaluation trains one again.", file=sys.stderr)
    return classifier


def _of(store: Store, training: ClassifierTraining, classifier: LabelClassifier, path: Path) -> LabelClassifier:
    if classifier.about["data_sha256"] != data_hash(store) or classifier.training != training:
        raise Corrupt(f"'{path}' is a classifier of other recordings or settings.")
    return classifier


def train_classifier(store: Store, training: ClassifierTraining) -> LabelClassifier:
    """Trains a classifier on the training clips of a store, and counts what it recognises of them and of validation.

    Raises UserError where the data has no label to classify, or no validation clip.
    """
    labels = require_labels(store)
    train, validation = _thinned(store.indices("train"), _MOST_CLIPS), store.indices("validation")
    if not validation:
        raise UserError("there is no validation clip to check a classifier on; set some aside (data.validation).")
    rate = store.features.sample_rate
    clips = [_heard(store, i) for i in train]
    targets = _targets(store, train, labels)
    clean = [mel_levels(clip, rate) for clip in clips]
    params = _trained(training, labels, clean, _worn(clips, rate, training.seed), targets)
    about = {
        "format_version": FORMAT,
        "sample_rate": rate,
        "labels": {name: list(values) for name, values in labels.items()},
        "frequencies": {
            name: (np.bincount(targets[name], minlength=len(labels[name])) / len(train)).tolist() for name in labels
        },
        "data_sha256": data_hash(store),
        "versions": {"jaxgen": __version__, "jax": jax.__version__, "flax": flax.__version__, "numpy": np.__version__},
    }
    classifier = LabelClassifier(training, about, params)
    held_out = [mel_levels(_heard(store, i), rate) for i in validation]
    classifier.about["training_clips"] = _counts(classifier, clean, targets)
    classifier.about["validation"] = _counts(classifier, held_out, _targets(store, validation, labels))
    return classifier


def _heard(store: Store, clip: int) -> Samples:
    return mix_down(store.samples(clip, stop=round(LONGEST_SECONDS * store.features.sample_rate)))


def _thinned(items: Sequence[int], most: int) -> list[int]:
    return [items[place] for place in np.linspace(0, len(items) - 1, min(len(items), most)).round().astype(int)]


def _targets(store: Store, clips: Sequence[int], labels: Mapping[str, Sequence[str]]) -> dict[str, NDArray[np.int32]]:
    return {
        name: np.array([values.index(store.clips[i].fields[name]) for i in clips], np.int32)
        for name, values in labels.items()
    }


def _counts(
    classifier: LabelClassifier, levels: Sequence[Levels], targets: Mapping[str, NDArray[np.int32]]
) -> dict[str, list[int]]:
    """By label, how many clips it recognises, and of how many."""
    heard = classifier.classify(levels).probabilities
    return {name: [int((heard[name].argmax(1) == right).sum()), len(right)] for name, right in targets.items()}


def _worn(clips: Sequence[Samples], rate: int, seed: int) -> list[list[Levels]]:
    """The levels of each clip after 8-bit mu-law, and after a mel spectrogram made sound again by Griffin-Lim.

    A generated clip bears these traces whatever it says; a classifier that never saw them could take them for a cue. Clips
    beyond `_WORN_SECONDS` in all have none.
    """
    window = 1 << (rate // 32).bit_length()  # 32 to 64 ms
    mel = LogMel(sample_rate=rate, n_fft=window, hop_length=rate // 100, n_mels=N_MELS, floor=1e-5)
    codes = MuLaw(sample_rate=rate)
    worn: list[list[Levels]] = [[] for _ in clips]
    random = np.random.default_rng(seed)
    heard = np.cumsum([len(clip) for clip in clips]) <= _WORN_SECONDS * rate
    order = sorted(np.flatnonzero(heard).tolist(), key=lambda place: len(clips[place]))
    unit = FRAME_UNIT * mel.hop_length
    for start in range(0, len(order), ROWS):
        places = order[start : start + ROWS]
        longest = -(-max(len(clips[place]) for place in places) // unit) * unit
        rows = np.zeros((ROWS, longest), np.float32)
        for row, place in zip(rows, places, strict=False):
            loudness = random.uniform(0.2, 1.0) / max(float(np.abs(clips[place]).max()), 1e-5)
            row[: len(clips[place])] = clips[place] * np.float32(loudness)
        for made in (codes.decode(codes.encode(rows)), mel.decode(mel.encode(rows), 16)):
            for row, place in zip(np.asarray(made), places, strict=False):
                worn[place].append(mel_levels(row[: len(clips[place])], rate))
    return worn


def _trained(
    training: ClassifierTraining,
    labels: Mapping[str, Sequence[str]],
    clean: Sequence[Levels],
    worn: Sequence[Sequence[Levels]],
    targets: Mapping[str, NDArray[np.int32]],
) -> Any:
    """Parameters after training. Half of the examples are as recorded; all of it is changed by `_changed`."""
    steps = min(training.steps, math.ceil(_MOST_HEARD * len(clean) / training.batch_size))
    graph, params = graph_definition(training, labels), jax.jit(lambda: init_params(training, labels))()
    optimizer = training.optimizer.make(steps)
    keys = random_key(training.seed)

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
    bar = tqdm(range(steps), unit="step", desc="classifier", disable=not sys.stderr.isatty(), leave=False)
    for _ in bar:
        drawn = random.integers(len(clean), size=training.batch_size).tolist()
        heard = [clean[i] if not worn[i] or random.random() < 0.5 else random.choice(worn[i]) for i in drawn]
        rows = [_shifted(levels, frames, random) for levels in heard]
        state, _ = step(state, *pad_rows(rows, frames, len(rows)), {name: t[drawn] for name, t in targets.items()})
    return state.params


def _shifted(levels: Levels, most: int, random: np.random.Generator) -> Levels:
    """A clip with up to 0.1 s of silence before and after it, or a little cut away there; `most` frames of it at most."""
    before, after = random.integers(-3, 11, size=2)
    kept = levels[max(0, -before) : len(levels) - max(0, -after)] if len(levels) > 12 else levels
    padded = np.pad(kept, ((max(0, before), max(0, after)), (0, 0)), constant_values=-1)
    start = random.integers(max(1, len(padded) - most + 1))
    return padded[start : start + most]


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
