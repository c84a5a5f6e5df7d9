"""Stores: what is decoded, what is refused and why, and that a store is made once and whole."""

import dataclasses
import hashlib
import itertools
import json
import os
import pickle
import shutil
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import scipy.signal
import soundfile

from jaxgen import audio
from jaxgen.core.errors import UserError
from jaxgen.data import report
from jaxgen.data.clips import FieldIn, HashFraction
from jaxgen.data.folder import Folder
from jaxgen.data.ingest import AudioPolicy
from jaxgen.data.preparation import prepare
from jaxgen.data.store import Store
from jaxgen.features import LogMel, MuLaw

MEL = LogMel(sample_rate=8_000, n_fft=128, hop_length=40, n_mels=10)
WAVE = MuLaw(sample_rate=8_000)
LENIENT = AudioPolicy(max_refused=0.9)


def noise(seed: int, seconds: float = 0.1, sample_rate: int = 8_000, channels: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-0.5, 0.5, (round(seconds * sample_rate), channels))


def folder(root: Path, count: int = 6, **options) -> Folder:
    """Clips of growing length, named 0_a.wav, 1_b.wav, 2_a.wav and so on."""
    root.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        soundfile.write(root / f"{i}_{'ab'[i % 2]}.wav", noise(i, 0.1 + 0.03 * i), 8_000)
    return Folder(root=str(root), pattern="{index}_{who}", **{"validation": FieldIn("index", (1,)), **options})


def reasons(store: Store) -> dict[str, str]:
    return {entry["name"]: entry["reason"] for entry in store.report["refused"]}


@pytest.mark.parametrize("features", [MEL, WAVE], ids=["mel", "mu-law"])
def test_steps_are_the_features_of_the_recorded_samples(features, tmp_path):
    store = prepare(folder(tmp_path / "data"), features, AudioPolicy(), tmp_path / "cache")
    assert [clip.name for clip in store.clips] == [f"{i}_{'ab'[i % 2]}.wav" for i in range(6)]
    for index, clip in enumerate(store.clips):
        recorded, _ = soundfile.read(tmp_path / "data" / clip.name, dtype="float32")
        np.testing.assert_array_equal(store.samples(index), recorded)
        expected = np.asarray(features.encode(recorded))
        assert (clip.num_samples, clip.num_steps) == (len(recorded), len(expected))
        assert store.steps(index).dtype == features.step_dtype
        np.testing.assert_allclose(store.steps(index), expected, rtol=1e-5, atol=1e-5)


def test_spec_describes_the_training_clips(tmp_path):
    store = prepare(folder(tmp_path / "data", licence="CC0"), MEL, AudioPolicy(), tmp_path / "cache")
    spec = store.spec(("who",))
    train = store.indices("train")
    assert train == (0, 2, 3, 4, 5)
    assert store.indices("validation") == (1,)
    steps = np.concatenate([store.steps(i) for i in train]).astype(np.float64)
    np.testing.assert_allclose(spec.mean, steps.mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(spec.std, steps.std(axis=0), rtol=1e-6)
    assert spec.vocabularies == (("who", ("a", "b")),)
    assert (spec.licences, spec.features) == (("CC0",), MEL)
    assert spec.max_seconds == pytest.approx(0.25)
    assert spec.typical_seconds == pytest.approx(0.19)
    assert prepare(folder(tmp_path / "data"), WAVE, AudioPolicy(), tmp_path / "cache").spec(()).mean == ()


def test_a_dimension_that_never_changes_keeps_a_usable_deviation(tmp_path):
    soundfile.write(tmp_path / "a.wav", noise(0), 8_000)
    quiet = dataclasses.replace(MEL, floor=1e3)  # every band is at the floor
    store = prepare(Folder(root=str(tmp_path)), quiet, AudioPolicy(), tmp_path / "cache")
    assert set(store.spec(()).std) == {0.1}


def test_labels_must_be_fields_of_training_clips_and_few(tmp_path, monkeypatch):
    store = prepare(folder(tmp_path / "data"), WAVE, AudioPolicy(), tmp_path / "cache")
    with pytest.raises(UserError, match=r"conditioned on 'speaker'.*index, licence, who"):
        store.spec(("speaker",))
    monkeypatch.setattr("jaxgen.data.store._MOST_LABEL_VALUES", 3)
    with pytest.raises(UserError, match="'index' has 5 values; a label may have 3"):
        store.spec(("index",))


def test_no_training_clip(tmp_path):
    data = folder(tmp_path / "data", validation=FieldIn("index", range(6)))
    with pytest.raises(UserError, match="no training clip"):
        prepare(data, WAVE, AudioPolicy(), tmp_path / "cache").spec(())


@pytest.mark.parametrize("sample_rate", [8_000, 11_025, 44_100])
@pytest.mark.parametrize("channels", [1, 2, 3])
def test_any_rate_and_channels(sample_rate, channels, tmp_path):
    time = np.arange(sample_rate // 5) / sample_rate
    tones = np.stack([0.3 * np.sin(2 * np.pi * 500 * (1 + c) * time) for c in range(channels)], axis=1)
    soundfile.write(tmp_path / "a.wav", tones, sample_rate)
    store = prepare(Folder(root=str(tmp_path)), WAVE, AudioPolicy(), tmp_path / "cache")
    seconds = np.arange(1_600) / 8_000
    expected = sum(0.3 * np.sin(2 * np.pi * 500 * (1 + c) * seconds) for c in range(channels)) / channels
    assert len(store.samples(0)) == 1_600
    np.testing.assert_allclose(store.samples(0)[200:-200], expected[200:-200], atol=2e-3)
    assert (store.clips[0].source_rate, store.clips[0].source_channels) == (sample_rate, channels)
    assert store.report["resampled"] == (sample_rate != 8_000)
    assert store.report["mixed_down"] == (channels > 1)


def test_the_first_channel_alone(tmp_path):
    sound = noise(0, channels=2).astype(np.float32)
    soundfile.write(tmp_path / "a.wav", sound, 8_000, subtype="FLOAT")
    store = prepare(Folder(root=str(tmp_path)), WAVE, AudioPolicy(channels="first"), tmp_path / "cache")
    np.testing.assert_array_equal(store.samples(0), sound[:, 0])


def test_each_bad_file_is_refused_with_its_reason(tmp_path):
    data = folder(tmp_path / "data")
    root = tmp_path / "data"
    (root / "10_a.wav").write_bytes(b"")
    (root / "11_a.wav").write_bytes(b"text " * 100)
    soundfile.write(root / "12_a.wav", noise(0, 0.01), 8_000)
    soundfile.write(root / "13_a.wav", 1e-4 * noise(0), 8_000, subtype="FLOAT")
    soundfile.write(root / "14_a.wav", np.full(800, np.nan), 8_000, subtype="FLOAT")
    soundfile.write(root / "15_a.wav", noise(0, channels=2), 8_000)
    soundfile.write(root / "16_a.wav", noise(0), 16_000)
    soundfile.write(root / "noise.wav", noise(0), 8_000)
    above = np.sin(2 * np.pi * 10_000 * np.arange(8_000) / 44_100) * scipy.signal.windows.hann(8_000)
    soundfile.write(root / "17_a.wav", above, 44_100)
    strict = dataclasses.replace(LENIENT, channels="refuse", resample="refuse")
    store = prepare(data, WAVE, strict, tmp_path / "cache")
    assert {name: reason.partition(":")[0] for name, reason in reasons(store).items()} == {
        "10_a.wav": "empty file",
        "11_a.wav": "not audio, or damaged",
        "12_a.wav": "too short (0.010 s)",
        "13_a.wav": "silent",
        "14_a.wav": "NaN or infinite samples",
        "15_a.wav": "2 channels",
        "16_a.wav": "16000 Hz instead of 8000 Hz",
        "17_a.wav": "44100 Hz instead of 8000 Hz",
        "noise.wav": "name is not {index}_{who}",
    }
    assert len(store.clips) == store.report["clips"] == 6
    converted = prepare(data, WAVE, LENIENT, tmp_path / "cache")
    assert reasons(converted)["17_a.wav"] == "silent at this sample rate"  # nothing of it lies below 4 kHz
    assert {"15_a.wav", "16_a.wav"}.isdisjoint(reasons(converted))


def test_too_many_refused_stops_with_a_list(tmp_path):
    data = folder(tmp_path / "data", count=8)
    for name in ("10_a.wav", "11_a.wav"):
        (tmp_path / "data" / name).write_bytes(b"")
    cache = tmp_path / "cache"
    with pytest.raises(UserError, match=r"2 of 10 files were refused \(2 empty file; list in .*\).*max-refused 0\.1"):
        prepare(data, WAVE, AudioPolicy(max_refused=0.1), cache)
    listed = json.loads((cache / "refused.json").read_text())
    assert listed == [{"name": name, "reason": "empty file"} for name in ("10_a.wav", "11_a.wav")]
    assert list((cache / "store").iterdir()) == []
    assert len(prepare(data, WAVE, AudioPolicy(max_refused=0.2), cache).clips) == 8


def test_all_refused_counts_the_kinds(tmp_path):
    for index in range(3):
        (tmp_path / f"{index}.wav").write_bytes(b"text " * index)
        soundfile.write(tmp_path / f"short{index}.wav", noise(0, 0.001 * (1 + index)), 8_000)
    with pytest.raises(
        UserError, match=r"all 6 files were refused \(3 too short, 2 not audio, or damaged, 1 empty file"
    ):
        prepare(Folder(root=str(tmp_path)), WAVE, AudioPolicy(max_refused=1.0), tmp_path / "cache")


def test_max_refused_is_a_share():
    with pytest.raises(UserError, match=r"audio\.max_refused is a share"):
        AudioPolicy(max_refused=10)


def test_the_second_call_opens_without_decoding(tmp_path, monkeypatch):
    data = folder(tmp_path / "data")
    first = prepare(data, MEL, AudioPolicy(), tmp_path / "cache")
    monkeypatch.setattr(audio, "open_recording", lambda path: pytest.fail(f"decoded {path} again"))
    second = prepare(folder(tmp_path / "data"), MEL, AudioPolicy(), tmp_path / "cache")
    assert (second.directory, second.clips, second.report) == (first.directory, first.clips, first.report)


def test_files_are_read_again_only_where_they_may_have_changed(tmp_path, monkeypatch):
    data, cache = folder(tmp_path / "data"), tmp_path / "cache"
    before = prepare(data, WAVE, AudioPolicy(), cache).clips
    path = tmp_path / "data" / "3_b.wav"
    status, sound = path.stat(), path.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(hashlib, "file_digest", lambda *_: pytest.fail("read again"))
        assert prepare(data, WAVE, AudioPolicy(), cache).clips == before
    path.write_bytes(sound[:-2] + b"\1\2")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))  # as tools do that keep the time of what they copy
    after = prepare(data, WAVE, AudioPolicy(), cache).clips
    assert [clip.name for clip, old in zip(after, before, strict=True) if clip.digest != old.digest] == ["3_b.wav"]
    shutil.copy(path, tmp_path / "data" / "9_z.wav")
    with mock.patch.object(hashlib, "file_digest", wraps=hashlib.file_digest) as reading:
        assert len(prepare(data, WAVE, AudioPolicy(), cache).clips) == len(before) + 1
    assert reading.call_count == 1  # the new one


def test_whatever_changes_a_store_makes_another(tmp_path):
    data = folder(tmp_path / "data")

    def directory(data=data, features=MEL, policy=LENIENT):
        return prepare(data, features, policy, tmp_path / "cache").directory

    directories = [
        directory(),
        directory(features=dataclasses.replace(MEL, n_mels=11)),
        directory(policy=AudioPolicy()),
        directory(data=dataclasses.replace(data, validation=FieldIn("index", (2,)))),
        directory(data=dataclasses.replace(data, licence="CC0")),
    ]
    soundfile.write(tmp_path / "data" / "0_a.wav", noise(99), 8_000)
    directories.append(directory())
    assert len(set(directories)) == len(directories)


def test_a_failure_midway_leaves_no_store(tmp_path, monkeypatch):
    opened = audio.open_recording

    def killed(path):
        if path.name == "4_a.wav":
            raise KeyboardInterrupt
        return opened(path)

    monkeypatch.setattr(audio, "open_recording", killed)
    with pytest.raises(KeyboardInterrupt):
        prepare(folder(tmp_path / "data"), MEL, AudioPolicy(), tmp_path / "cache")
    assert list((tmp_path / "cache" / "store").iterdir()) == []
    monkeypatch.undo()
    assert len(prepare(folder(tmp_path / "data"), MEL, AudioPolicy(), tmp_path / "cache").clips) == 6


def test_never_more_than_a_few_recordings_wait_in_memory(tmp_path, monkeypatch):
    monkeypatch.setattr("jaxgen.data.ingest._AT_ONCE", 2)
    opened = mock.Mock(wraps=audio.open_recording)
    ahead: list[int] = []

    def encode(self, samples):
        ahead.append(opened.call_count - len(ahead))
        return np.zeros(len(samples), np.uint8)

    monkeypatch.setattr(audio, "open_recording", opened)
    monkeypatch.setattr(MuLaw, "encode", encode)
    prepare(folder(tmp_path / "data", count=12), WAVE, AudioPolicy(), tmp_path / "cache")
    assert len(ahead) == 12
    assert max(ahead) <= 2


def test_a_cache_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match=r"cannot write to .*file"):
        prepare(folder(tmp_path / "data"), WAVE, AudioPolicy(), tmp_path / "file")


def test_a_store_travels_as_its_path(tmp_path):
    store = prepare(folder(tmp_path / "data"), MEL, AudioPolicy(), tmp_path / "cache")
    store.samples(0)  # opens the file
    pickled = pickle.dumps(store)
    assert len(pickled) < 1_000
    np.testing.assert_array_equal(pickle.loads(pickled).steps(3), store.steps(3))


def test_one_clip_is_held_out_where_the_rules_hold_none_and_never_a_refused_one(tmp_path):
    data = folder(tmp_path / "data", validation=HashFraction(0.0))
    lowest = min(data.clips(), key=lambda clip: clip.digest())
    store = prepare(data, WAVE, AudioPolicy(), tmp_path / "cache")
    assert [store.clips[i].name for i in store.indices("validation")] == [lowest.name]
    texts = (b"text %d" % number for number in itertools.count())
    (tmp_path / "data" / "9_bad.wav").write_bytes(
        next(text for text in texts if hashlib.sha256(text).hexdigest() < lowest.digest())
    )
    store = prepare(data, WAVE, LENIENT, tmp_path / "cache")
    assert [store.clips[i].name for i in store.indices("validation")] == [lowest.name]


def test_duplicates_are_kept_and_counted(tmp_path):
    data = folder(tmp_path / "data")
    shutil.copy(tmp_path / "data" / "2_a.wav", tmp_path / "data" / "7_a.wav")
    found = prepare(data, WAVE, AudioPolicy(), tmp_path / "cache").report
    assert (found["clips"], found["duplicates"], found["held_out_in_train"]) == (7, 1, 0)
    held_out = dataclasses.replace(data, validation=FieldIn("index", (7,)))
    found = prepare(held_out, WAVE, AudioPolicy(), tmp_path / "cache").report
    assert found["held_out_in_train"] == 1
    assert "1 held-out clips have the content of a training clip" in report.summary(found)


def test_report_says_what_was_found(tmp_path):
    store = prepare(folder(tmp_path / "data", licence="CC0"), WAVE, AudioPolicy(), tmp_path / "cache")
    found = store.report
    seconds = [0.1 + 0.03 * i for i in range(6)]
    assert found["hours"] == pytest.approx(sum(seconds) / 3600)
    assert {name: split["clips"] for name, split in found["splits"].items()} == {"train": 5, "validation": 1}
    assert found["labels"]["who"] == {"a": 3, "b": 3}
    assert found["licences"] == {"CC0": 6}
    assert sum(found["seconds"]["counts"]) == sum(found["loudness_dbfs"]["counts"]) == 6
    assert found["seconds"]["median"] == pytest.approx(np.median(seconds))
    assert found["loudness_dbfs"]["median"] == pytest.approx(20 * np.log10(0.5 / np.sqrt(3)), abs=0.3)  # uniform noise
    assert "who: a 3, b 3" in report.summary(found)


def test_report_of_hostile_labels_is_drawn(tmp_path):
    root = tmp_path / "data"
    folder(root, count=3)
    texts = ["$a_{$", "漢字", "long " * 40]
    rows = [json.dumps({"path": f"{i}_{'ab'[i % 2]}.wav", "$t_{": text}) for i, text in enumerate(texts)]
    (root / "manifest.jsonl").write_text("\n".join(rows))
    store = prepare(Folder(root=str(root)), WAVE, AudioPolicy(), tmp_path / "cache")
    report.write(store.report, tmp_path / "out")
    assert json.loads((tmp_path / "out" / "data_report.json").read_text()) == store.report
    assert (tmp_path / "out" / "data_report.png").read_bytes().startswith(b"\x89PNG")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["data_report.json", "data_report.png"]


def test_spoken_digits(recordings, tmp_path):
    if not (recordings / "fsdd").is_dir():
        pytest.skip("JAXGEN_DATA has no folder fsdd")
    for source in sorted((recordings / "fsdd").rglob("*.wav"))[::135]:
        shutil.copy(source, tmp_path)
    data = Folder(root=str(tmp_path), pattern="{digit}_{speaker}_{index}", validation=FieldIn("index", range(5, 10)))
    store = prepare(data, MEL, AudioPolicy(), tmp_path / "cache")
    assert len(store.clips) == 20
    assert set(store.vocabulary("digit")) <= set("0123456789")
    assert all(clip.source_rate == 8_000 and clip.loudness_dbfs < 0 for clip in store.clips)
