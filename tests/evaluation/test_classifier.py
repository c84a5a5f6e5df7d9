"""The classifier: what it learns from, its file, and scores whose values are known."""

import contextlib
import dataclasses
import itertools
import json
import math

import jax
import numpy as np
import pytest
from flax import nnx

from jaxgen import audio
from jaxgen.cli import classifier, evaluate, train
from jaxgen.core.errors import UserError
from jaxgen.data.clips import Clip, Dataset
from jaxgen.data.ingest import AudioPolicy
from jaxgen.data.preparation import prepare
from jaxgen.data.synthetic import PluckedStrings
from jaxgen.evaluation import classifier_training
from jaxgen.evaluation.audio_metric import ClipSet, Reference
from jaxgen.evaluation.classifier import ClassifierTraining, LabelClassifier, graph_definition, init_params
from jaxgen.evaluation.classifier_metrics import (
    ClassifierMetrics,
    am_score,
    inception_score,
    lowest_recognition_rate,
    modified_inception_score,
    recognition_rate,
    within_labels_distance,
)
from jaxgen.evaluation.classifier_training import classifiable_labels, classifier_path, load_or_train, train_classifier
from jaxgen.evaluation.prosody import Prosody, seconds_distance
from jaxgen.features import MuLaw
from jaxgen.objectives.optimizer import AdamW

pytestmark = pytest.mark.slow

SMALL = ClassifierTraining(
    steps=100,
    batch_size=32,
    channels=32,
    embedding_size=8,
    dropout=0.0,
    optimizer=AdamW(learning_rate=3e-3, warmup_steps=5),
)


@dataclasses.dataclass(frozen=True)
class Glides(Dataset):
    """Tones that rise or fall, of one or three harmonics, a third of a second or less; every fourth is for validation."""

    num_clips: int = 96

    def clips(self):
        return [self._clip(index) for index in range(self.num_clips)]

    def split_of(self, fields, digest):
        return "validation" if int(fields["index"]) % 8 in (3, 6) else "train"

    def _clip(self, index):
        fields = {"way": ("up", "down")[index % 2], "sound": ("dull", "bright")[index // 8 % 2], "index": str(index)}
        return Clip(f"{index:03}", fields, lambda: self._opened(index, fields), lambda: f"{index:064x}")

    @contextlib.contextmanager
    def _opened(self, index, fields):
        random = np.random.default_rng(index)
        time = np.arange(random.integers(1_600, 2_400)) / 8_000
        glide = {"up": 1.5, "down": -1.5}[fields["way"]]
        phase = 2 * np.pi * random.uniform(400, 700) * (time + glide * time**2)
        harmonics = {"dull": (1,), "bright": (1, 2, 3)}[fields["sound"]]
        tone = sum(np.sin(k * phase) for k in harmonics) / len(harmonics)
        yield audio.Recording(8_000, 1, iter([(random.uniform(0.1, 0.9) * tone[:, None]).astype(np.float32)]))


@pytest.fixture(scope="module")
def store(cache):
    return prepare(Glides(), MuLaw(sample_rate=8_000), AudioPolicy(), cache)


@pytest.fixture(scope="module")
def small(store):
    return train_classifier(store, SMALL)


def _samples(store, split):
    return [store.samples(i) for i in store.indices(split)]


def test_labels_are_fields_that_validation_can_be_checked_for(store):
    assert classifiable_labels(store) == {"sound": ("bright", "dull"), "way": ("down", "up")}  # not the running number


@pytest.mark.nightly
def test_a_few_seconds_of_training_beat_chance_by_far(small):
    for right, total in small.about["validation"].values():
        assert total == 24
        assert right >= 22  # chance is 12


@pytest.mark.nightly
def test_what_it_counts_is_what_it_hears(small, store):
    clips = store.indices("validation")
    heard = small([store.samples(i) for i in clips]).probabilities["way"].argmax(1)
    right = sum(
        small.labels["way"][value] == store.clips[i].fields["way"] for i, value in zip(clips, heard, strict=True)
    )
    assert small.about["validation"]["way"] == [right, len(clips)]


def test_only_training_clips_are_learned_from(store, monkeypatch):
    learned = []
    samples, read = store.samples, []
    monkeypatch.setattr(store, "samples", lambda i, **part: (read.append(i), samples(i, **part))[1])
    monkeypatch.setattr(classifier_training, "_worn", lambda clips, rate, seed: [[]] * len(clips))
    monkeypatch.setattr(
        classifier_training,
        "_trained",
        lambda training, labels, *heard: (learned.extend(read), init_params(training, labels))[1],
    )
    train_classifier(store, SMALL)
    assert sorted(learned) == sorted(store.indices("train"))  # all that was read before training ended
    assert set(read) - set(learned) == set(store.indices("validation"))


@pytest.mark.nightly
def test_the_same_seed_trains_the_same_classifier(small, store):
    clips = _samples(store, "validation")
    np.testing.assert_array_equal(train_classifier(store, SMALL)(clips).embedding, small(clips).embedding)


def test_what_it_learns_does_not_hang_on_how_it_is_compiled():
    """A maximum's gradient does, where the compiler computes what is compared with it once more."""
    labels = {"digit": ("a", "b")}
    training = ClassifierTraining()
    levels = np.random.default_rng(0).normal(-0.5, 1, (60, 64, 40)).astype(np.float32)
    real = np.broadcast_to(np.arange(64) < 50, (60, 64)).astype(np.float32)
    graph = graph_definition(training, labels)

    def loss(params):
        logits, _ = nnx.merge(graph, params)(levels, real, jax.random.key(0))
        return -jax.nn.log_softmax(logits["digit"])[:, 0].mean()

    lowered = jax.jit(jax.grad(loss)).lower(init_params(training, labels))
    quick, plain = (
        lowered.compile({"xla_backend_optimization_level": level})(init_params(training, labels)) for level in (3, 0)
    )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-2, atol=1e-3), quick, plain)


def test_a_saved_classifier_is_the_same_classifier(small, store, tmp_path):
    small.save(tmp_path / "a" / "classifier.npz")
    loaded = LabelClassifier.load(tmp_path / "a" / "classifier.npz")
    assert loaded.about == small.about
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["classifier.npz"]
    clips = _samples(store, "validation")
    ours, theirs = small(clips), loaded(clips)
    np.testing.assert_array_equal(ours.embedding, theirs.embedding)
    for name in small.labels:
        np.testing.assert_array_equal(ours.probabilities[name], theirs.probabilities[name])


@pytest.mark.parametrize("damage", ["cut", "flipped", "foreign", "empty", "other arrays"])
def test_a_damaged_or_foreign_file_is_told(damage, small, tmp_path):
    path = tmp_path / "classifier.npz"
    small.save(path)
    whole = path.read_bytes()
    if damage == "other arrays":
        np.savez(path, weights=np.zeros(3))
    else:
        middle = len(whole) // 2
        flipped = whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :]
        path.write_bytes({"cut": whole[:middle], "flipped": flipped, "foreign": b"RIFF" * 9, "empty": b""}[damage])
    with pytest.raises(UserError, match="no whole classifier"):
        LabelClassifier.load(path)


def test_a_missing_file_is_told(tmp_path):
    with pytest.raises(UserError, match="there is no classifier at"):
        LabelClassifier.load(tmp_path / "none.npz")


def test_neither_padding_nor_company_nor_loudness_changes_a_prediction(small, store):
    clips = _samples(store, "validation")
    long = np.concatenate([clips[1]] * 9)
    alone = small([clips[0]])
    for heard in (small([clips[0], long]), small([*clips[1:], clips[0]][::-1]), small([0.1 * clips[0]])):
        np.testing.assert_allclose(heard.embedding[0], alone.embedding[0], atol=1e-4)
        np.testing.assert_allclose(heard.probabilities["way"][0], alone.probabilities["way"][0], atol=1e-4)


@pytest.mark.parametrize("count", [0, 1, 50])
def test_clips_without_sound_are_classified_without_complaint(count, small):
    heard = small([np.zeros(count, np.float32)])
    assert heard.probabilities["way"].sum() == pytest.approx(1.0, abs=1e-5)
    assert np.isfinite(heard.embedding).all()


def test_data_without_labels_is_told_before_anything_is_trained(cache):
    unlabelled = prepare(Glides(num_clips=8), MuLaw(sample_rate=8_000), AudioPolicy(), cache)
    assert classifiable_labels(unlabelled) == {"way": ("down", "up")}  # all eight sound dull
    few = prepare(Glides(num_clips=1), MuLaw(sample_rate=8_000), AudioPolicy(), cache)
    for told in (lambda: ClassifierMetrics().check(few), lambda: train_classifier(few, SMALL)):
        with pytest.raises(UserError, match="no label to classify"):
            told()


@pytest.mark.nightly
def test_the_cache_keeps_a_classifier_for_each_data_set_and_setting(store, mel_store, tmp_path, capsys):
    first = load_or_train(store, tmp_path, SMALL)
    assert "training a classifier" in capsys.readouterr().err
    again = load_or_train(store, tmp_path, SMALL)
    assert "training a classifier" not in capsys.readouterr().err
    assert first.about == again.about
    paths = {
        classifier_path(data, training, tmp_path)
        for data in (store, mel_store)
        for training in (SMALL, dataclasses.replace(SMALL, seed=1))
    }
    assert len(paths) == 4


# Scores of predictions whose values are known


def test_scores_of_certain_and_even_predictions():
    certain = np.tile(np.eye(10), (6, 1))
    assert inception_score(certain) == pytest.approx(10.0, rel=1e-3)
    assert am_score(certain, np.full(10, 0.1)) == pytest.approx(0.0, abs=1e-3)
    # of 60 x 60 pairs nine tenths have other values: KL is then log(1 / 1e-6), cut there
    assert modified_inception_score(certain) == pytest.approx(math.exp(0.9 * math.log(1e6)), rel=0.01)
    for unsure in (np.tile(np.eye(10)[3], (8, 1)), np.full((8, 10), 0.1)):
        assert inception_score(unsure) == pytest.approx(1.0, abs=1e-3)
        assert modified_inception_score(unsure) == pytest.approx(1.0, abs=1e-3)
    assert am_score(np.full((8, 10), 0.1), np.full(10, 0.1)) == pytest.approx(math.log(10))


def test_modified_inception_score_is_the_mean_over_pairs():
    p = np.random.default_rng(0).dirichlet(np.ones(4), size=7)
    pairs = [np.sum(a * np.log(a / b)) for a in p for b in p]
    assert modified_inception_score(p) == pytest.approx(math.exp(np.mean(pairs)), rel=1e-4)


def test_recognised_counts_only_clips_that_were_asked_for_a_known_value():
    values = ("a", "b")
    p = np.array([[0.9, 0.1], [0.9, 0.1], [0.2, 0.8], [0.2, 0.8]])
    assert recognition_rate(p, values, ["a", "b", "b", None]) == pytest.approx(2 / 3)
    assert recognition_rate(p[:1], values, ["elsewhere"]) != recognition_rate(p[:1], values, ["elsewhere"])  # NaN


def test_the_least_recognised_value_is_one_that_was_asked_for():
    values = ("a", "b", "c")
    p = np.array([[0.9, 0.1, 0.0], [0.9, 0.1, 0.0], [0.2, 0.8, 0.0], [0.2, 0.8, 0.0]])
    assert lowest_recognition_rate(p, values, [None, "b", "b", None]) == 0.5
    assert lowest_recognition_rate(p, values, ["a", "a", "b", "c"]) == 0.0
    assert math.isnan(lowest_recognition_rate(p, values, ["elsewhere"] * 4))


def test_a_running_number_is_no_label_where_validation_has_the_same_numbers(cache):
    class Anywhere(Glides):
        def split_of(self, fields, digest):
            return "validation" if int(digest, 16) % 7 == 3 else "train"

        def _clip(self, index):
            clip = super()._clip(index)
            return dataclasses.replace(clip, fields=clip.fields | {"index": str(index // 16 * 4 + index % 8 // 2)})

    store = prepare(Anywhere(), MuLaw(sample_rate=8_000), AudioPolicy(), cache)
    assert len({clip.fields["index"] for clip in store.clips}) == 24
    assert tuple(classifiable_labels(store)) == ("sound", "way")


def test_halves_and_samples_are_alike_in_their_labels():
    clips = ClipSet(
        [np.full(1, i) for i in range(24)], 8_000, [{"x": "abc"[i % 3], "y": "de"[i % 2]} for i in range(24)]
    )
    first, second = clips.halves(("x", "y"))
    assert sorted(first + second) == list(range(24))
    for places in (first, second, clips.sample(12, ("x", "y"))):
        assert {
            label: len(found) for label, found in clips.select(places).group_by(("x", "y")).items()
        } == dict.fromkeys(itertools.product("abc", "de"), 2)
    assert len(clips.sample(100, ())) == 24


def test_distance_within_labels():
    clips = ClipSet([np.zeros(1)] * 4, 8_000, [{"x": "a"}, {"x": "a"}, {"x": "b"}, {}])
    embedding = np.array([[0.0, 0.0], [3.0, 4.0], [9.0, 9.0], [7.0, 7.0]])
    assert within_labels_distance(embedding, clips, ("x",)) == pytest.approx(5.0)
    assert math.isnan(within_labels_distance(embedding, clips.select([0, 2]), ("x",)))


def test_real_recordings_are_their_own_ceiling_and_noise_is_far(small, store, tmp_path):
    small.save(tmp_path / "classifier.npz")
    indices = [*store.indices("validation"), *store.indices("train")[:16]]
    real = ClipSet([store.samples(i) for i in indices], 8_000, [store.clips[i].fields for i in indices])
    measure = ClassifierMetrics(classifier=str(tmp_path / "classifier.npz")).prepare(Reference(store, real, tmp_path))
    noise = np.random.default_rng(0).normal(0, 0.1, (40, 2_000)).astype(np.float32)
    ceiling, floor = measure(real), measure(ClipSet(list(noise), 8_000, real.labels))
    assert ceiling["classified_clips"] == floor["classified_clips"] == 40
    assert ceiling["way_recognised_of_real"] == 1.0
    assert ceiling["classifier_frechet_clips"] == floor["classifier_frechet_clips"] == 20
    assert floor["classifier_frechet_distance"] > 3 * ceiling["classifier_frechet_distance"]
    assert floor["way_recognised"] < ceiling["way_recognised"]
    assert floor["way_least_recognised"] < ceiling["way_least_recognised"] <= ceiling["way_recognised"]
    same = measure(ClipSet([real.samples[0]] * 40, 8_000, real.labels))
    assert same["within_labels_distance"] == pytest.approx(0.0, abs=1e-3) != ceiling["within_labels_distance"]
    assert same["way_inception_score"] == pytest.approx(1.0, abs=1e-3)
    other_rate = Reference(store, dataclasses.replace(real, sample_rate=16_000), tmp_path)
    with pytest.raises(UserError, match="is for 8000 Hz"):
        ClassifierMetrics(classifier=str(tmp_path / "classifier.npz")).prepare(other_rate)


# Lengths and pitches


def _tones(seconds, hertz):
    return ClipSet(
        [
            np.sin(2 * np.pi * f * np.arange(round(s * 8_000)) / 8_000).astype(np.float32)
            for s, f in zip(seconds, hertz, strict=True)
        ],
        8_000,
        [{"way": str(place % 2)} for place in range(len(seconds))],
    )


def test_lengths_and_pitches_of_tones(store):
    real = _tones([0.3, 0.5, 0.3, 0.5], [100, 200, 100, 200])
    slow = _tones([0.4, 0.6, 0.4, 0.6], [150, 150, 150, 150])
    measure = Prosody().prepare(Reference(store, real, ""))
    figures = measure(slow)
    assert figures["seconds_distance"] == pytest.approx(0.1)
    assert figures["way_seconds_distance"] == pytest.approx(0.1)
    assert figures["prosody_clips"] == 4
    assert figures["seconds_p50"] == pytest.approx(0.5)
    assert figures["pitch_p50_hz"] == pytest.approx(150, rel=0.01)
    assert measure(real)["pitch_p10_hz"] == pytest.approx(100, rel=0.01)
    assert measure(real)["pitch_p90_hz"] == pytest.approx(200, rel=0.01)
    assert seconds_distance(real, real, ("way",)) == 0.0
    assert math.isnan(seconds_distance(real, real, ("speaker",)))


@pytest.mark.parametrize("change", [{"lowest_hz": 0.0}, {"lowest_hz": 500.0}, {"highest_hz": math.inf}])
def test_bad_pitch_range(change):
    with pytest.raises(UserError, match="Prosody needs"):
        Prosody(**change)


# The commands

CONFIG = """
from jaxgen.config import Config
from jaxgen.data.synthetic import PluckedStrings
from jaxgen.evaluation.classifier_metrics import ClassifierMetrics
from jaxgen.evaluation.prosody import Prosody
from jaxgen.evaluation.autoregressive import AutoregressiveEvaluation
from jaxgen.features import LogMel
from jaxgen.models.mel_rnn import MelRNN
from jaxgen.nn.recurrent import GRU
from jaxgen.training.loop import Train

CONFIG = Config(
    data=PluckedStrings(num_clips=30, seconds=0.3),
    features=LogMel(sample_rate=8_000, n_fft=256, hop_length=200, n_mels=20),
    model=MelRNN(cell=GRU(8), num_layers=1, labels=("timbre", "tempo")),
    train=Train(steps=2, batch_size=2, seq_len=8, eval_every=2, checkpoint_every=2, log_every=1),
    evaluation=AutoregressiveEvaluation(num_clips=12, num_previews=2, metrics=(ClassifierMetrics(), Prosody())),
)
"""


@pytest.mark.nightly
def test_a_run_is_measured_by_the_classifier_of_its_data(command, cache, tmp_path, monkeypatch):
    monkeypatch.setattr(classifier_training, "_MOST_HEARD", 1)
    (tmp_path / "config.py").write_text(CONFIG)
    shared = ["--config", tmp_path / "config.py", "--cache-dir", tmp_path / "cache", "--workdir", tmp_path / "run"]
    code, out, _ = command(classifier.main, *shared)
    assert code == 0
    assert "timbre (3 values): recognises" in out
    assert out.strip().splitlines()[-1].endswith(".npz")
    code, out, err = command(train.main, *shared)
    assert code == 0
    assert "training a classifier" not in err
    assert "Timbre recognised (%)" in out
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    held_out, made = report["table"]["held-out data"], report["table"]["generated"]
    assert held_out["classified_clips"] == 3
    assert made["classified_clips"] == 12
    assert held_out["timbre_recognised_of_real"] == 1.0
    assert {"tempo_inception_score", "pitch_p50_hz", "seconds_distance"} <= made.keys()
    assert (
        "at least 2" in report["absent"]["table"]["generated"]["classifier_frechet_distance"]
    )  # a half of three is one
    page = (tmp_path / "run" / "report.html").read_text()
    assert "By timbre and tempo" in page
    pairs = page.split("By timbre and tempo")[-1].split("</table>")[0].count("<audio")
    places = {
        (c.fields["timbre"], c.fields["tempo"])
        for c in PluckedStrings(num_clips=30).clips()
        if c.fields["split"] != "train"
    }
    assert pairs == 2 * len(places)
    code, _, err = command(
        evaluate.main, "--cache-dir", tmp_path / "cache", "--workdir", tmp_path / "run", "--out", tmp_path / "again"
    )
    assert code == 0
    assert "training a classifier" not in err
    again = json.loads((tmp_path / "again" / "report.json").read_text())["table"]["generated"]
    assert again == pytest.approx(made, nan_ok=True)
