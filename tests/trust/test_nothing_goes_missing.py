"""What a folder holds is read, or listed with the true reason why it was not."""

import errno
import os
import socket
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxgen import audio
from jaxgen.audio import AudioError, recordings
from jaxgen.core.errors import UserError
from jaxgen.core.files import open_regular
from jaxgen.data import report as data_report
from jaxgen.data import tree
from jaxgen.data.folder import Folder
from jaxgen.data.ingest import AudioPolicy
from jaxgen.data.preparation import prepare as decode
from jaxgen.data.store import Store
from jaxgen.data.tree import walk
from jaxgen.features import MuLaw
from jaxgen.inference.prompts import read_prompt
from jaxgen.provenance.record import Provenance, mark
from jaxgen.recipes.presets import any_sound, quickstart
from jaxgen.runs.saved_run import save_config

WAVE = MuLaw(sample_rate=8_000)
LENIENT = AudioPolicy(max_refused=1.0)


def tone(seconds: float = 0.1, rate: int = 8_000, level: float = 0.3) -> np.ndarray:
    return level * np.sin(np.arange(int(seconds * rate)) * 0.1)


def record(path: Path, sound: np.ndarray | None = None, rate: int = 8_000, **how: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, tone() if sound is None else sound, rate, **how)
    return path


def decoded(root: Path, cache: Path, policy: AudioPolicy = LENIENT, **options: str) -> Store:
    return decode(Folder(root=str(root), **options), WAVE, policy, cache)


def reasons(store: Store) -> dict[str, str]:
    return {entry["name"]: entry["reason"] for entry in store.report["refused"]}


def test_linked_folders_are_read_and_what_is_not_is_told(tmp_path, monkeypatch):
    root, elsewhere = tmp_path / "data", tmp_path / "elsewhere"
    record(root / "yes" / "1.wav")
    record(elsewhere / "2.wav", tone(0.2))
    (root / "no").symlink_to(elsewhere)
    (root / "also").symlink_to("no")
    (root / "yes" / "up").symlink_to("..")
    (root / "yes" / "self").symlink_to("self")
    (root / "gone.wav").symlink_to("nowhere")
    os.mkfifo(root / "pipe.wav")
    with socket.socket(socket.AF_UNIX) as server:
        monkeypatch.chdir(root)  # a socket's path is short
        server.bind("s.wav")
        store = decoded(root, tmp_path / "cache", pattern="{word}/{id}")
    assert {clip.fields["word"] for clip in store.clips} == {"yes", "also"}  # by the link that comes first
    assert reasons(store) == {
        "gone.wav": "dangling link",
        "no": "read already (as 'also')",
        "pipe.wav": "a named pipe, not a regular file",
        "s.wav": "a socket, not a regular file",
        "yes/self": "too many levels of symbolic links",
        "yes/up": "link loop (back to '.')",
    }


folders = st.lists(st.sampled_from(["", "a", "b", "a/c", "a/c/d", "b/e"]), min_size=1, max_size=5)


@settings(max_examples=25, deadline=None)
@given(
    links=st.lists(st.tuples(folders.map(lambda f: f[0]), st.integers(0, 9), folders.map(lambda f: f[0])), max_size=8)
)
def test_any_links_end_and_each_folder_is_read_once(links, tmp_path_factory):
    root = tmp_path_factory.mktemp("tree")
    for folder in ("a/c/d", "b/e"):
        (root / folder).mkdir(parents=True)
    for folder in ("", "a", "b", "a/c", "a/c/d", "b/e"):
        (root / folder / "x.wav").write_bytes(b"")
    made = set()
    for place, number, target in links:
        link = root / place / f"l{number}"
        if not link.is_symlink():
            link.symlink_to(root / target)
            made.add(link.relative_to(root).as_posix())
    found = walk(root)
    assert found.files == sorted(
        ["x.wav", "a/x.wav", "b/x.wav", "a/c/x.wav", "a/c/d/x.wav", "b/e/x.wav"], key=lambda name: name.split("/")
    )
    assert {name for name, _ in found.skipped} == made


@pytest.fixture
def failing(monkeypatch):
    """`failing(name, error)` has the folders and files of that name fail."""

    def fail(name: str, number: int) -> None:
        for module, function in ((tree.os, "scandir"), (os, "open")):
            real = getattr(module, function)

            def wrapped(path, *args, _real=real, **kwargs):
                if isinstance(path, str | Path) and Path(path).name == name:
                    raise OSError(number, os.strerror(number), str(path))
                return _real(path, *args, **kwargs)

            monkeypatch.setattr(module, function, wrapped)

    return fail


def test_no_permission_is_told_as_that(tmp_path, failing):
    for name in ("yes/1.wav", "no/2.wav", "shut.wav"):
        record(tmp_path / "data" / name)
    failing("no", errno.EACCES)
    failing("shut.wav", errno.EACCES)
    store = decoded(tmp_path / "data", tmp_path / "cache")
    assert reasons(store) == {"no": "permission denied", "shut.wav": "permission denied"}
    assert "2 permission denied" in data_report.summary(store.report)


def test_a_folder_that_fails_for_now_is_an_error(tmp_path, failing):
    record(tmp_path / "yes" / "1.wav")
    record(tmp_path / "no" / "2.wav")
    failing("no", errno.EIO)
    with pytest.raises(UserError, match=r"input/output error, at '.*no'"):
        Folder(root=str(tmp_path)).clips()


def test_what_is_left_out_is_told_where_the_clips_were_decoded_before(tmp_path):
    record(tmp_path / "data" / "1.wav")
    assert reasons(decoded(tmp_path / "data", tmp_path / "cache")) == {}
    (tmp_path / "data" / "no").symlink_to("nowhere")
    (tmp_path / "data" / ".secret").mkdir()
    assert reasons(decoded(tmp_path / "data", tmp_path / "cache")) == {"no": "dangling link", ".secret": "hidden"}


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, lambda path: os.symlink("/dev/zero", path)])
def test_only_regular_files_are_opened(make, tmp_path):
    for name in ("manifest.csv", "x.wav"):
        make(tmp_path / name)
        with pytest.raises(OSError, match="not a regular file"):
            open_regular(tmp_path / name)
    with pytest.raises(AudioError, match="not a regular file"), audio.open_recording(tmp_path / "x.wav"):
        pass
    with pytest.raises(AudioError, match="not a regular file"):
        audio.read_comment(tmp_path / "x.wav")
    with pytest.raises(UserError, match=r"manifest\.csv cannot be read \(.*not a regular file"):
        Folder(root=str(tmp_path)).clips()


def test_a_file_replaced_before_it_is_opened_is_not_waited_for(tmp_path, monkeypatch):
    os.mkfifo(tmp_path / "x.wav")
    plain = os.stat(__file__)
    monkeypatch.setattr(os, "stat", lambda *args, **kwargs: plain)
    with pytest.raises(OSError, match="a named pipe"):
        open_regular(tmp_path / "x.wav")


def test_a_manifest_stays_in_its_folder_unless_told(tmp_path):
    root = tmp_path / "data"
    record(root / "sub" / "a.wav")
    record(tmp_path / "x.wav", tone(0.2))
    record(tmp_path / "y.wav", tone(0.3))
    names = ["sub/a.wav", "../x.wav", f"{tmp_path}/y.wav", "sub/../../x.wav", "/dev/zero", "sub"]
    (root / "manifest.csv").write_text("path\n" + "\n".join(names) + "\n")
    opened = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recordings, "open_regular", lambda path: opened.append(str(path)) or open_regular(path))
        store = decoded(root, tmp_path / "cache")
    assert [clip.name for clip in store.clips] == ["sub/a.wav"]
    assert opened == [f"{root}/sub/a.wav"]
    outside = "outside the folder; --data.outside takes it"
    assert reasons(store) == {**dict.fromkeys(names[1:5], outside), "sub": "a folder, not a regular file"}
    there = decoded(root, tmp_path / "cache", outside=True)
    assert len(there.clips) == 3
    assert reasons(there)["/dev/zero"] == "a device, not a regular file"
    assert reasons(there)["sub/../../x.wav"] == "the same file as '../x.wav'"


def test_recordings_that_a_manifest_does_not_name_are_told(tmp_path):
    for name in ("a.wav", "b.wav"):
        record(tmp_path / "data" / name)
    (tmp_path / "data" / "manifest.csv").write_text("path\na.wav\n")
    (tmp_path / "data" / "manifest.jsonl").write_text('{"path": "b.wav"}\n')
    found = reasons(decoded(tmp_path / "data", tmp_path / "cache"))
    assert found == {"b.wav": "not named in the manifest", "manifest.jsonl": "a second manifest"}


def test_a_run_is_no_training_data(tmp_path):
    root = tmp_path / "data"
    record(root / "a.wav")
    record(root / "b.wav", tone(0.2))
    made = Provenance(model="M", checkpoint="r/1", config_sha256="", data_manifest_sha256="", seed=0, clip=0)
    for folder in (root / "runs" / "mine", root):  # in a folder below, and in the very folder
        save_config(quickstart(), folder)
        (folder / "generated").mkdir()
        mark(folder / "generated" / "000.wav", tone().astype(np.float32), 8_000, made)
    store = decoded(root, tmp_path / "cache")
    assert {clip.name for clip in store.clips} == {"a.wav", "b.wav"}
    assert reasons(store) == {
        "config.json": "not an audio file",
        "generated/000.json": "not an audio file",
        "generated/000.wav": "made by a model, not recorded; --audio.synthetic accept takes it",
        "runs/mine": "a run of jaxgen, not recordings",
    }
    taken = decoded(root, tmp_path / "cache", AudioPolicy(synthetic="accept"))
    assert {clip.name for clip in taken.clips} == {"a.wav", "b.wav", "generated/000.wav"}


@pytest.mark.parametrize("content", ["", "[]", '{"class": 5}', '{"class": "my.config.Config"}', "[" * 5_000, "\0"])
def test_other_folders_with_a_config_are_recordings(content, tmp_path):
    record(tmp_path / "session" / "a.wav")
    (tmp_path / "session" / "config.json").write_text(content)
    assert [clip.name for clip in Folder(root=str(tmp_path)).clips()] == ["session/a.wav"]


@settings(max_examples=15, deadline=None)
@given(
    files=st.lists(
        st.tuples(st.sampled_from([8_000, 11_025, 16_000]), st.sampled_from([0.1, 0.2, 0.4])), min_size=1, max_size=6
    )
)
def test_the_rate_of_most_hours_is_taken(files, tmp_path_factory):
    root = tmp_path_factory.mktemp("rates")
    hours: dict[int, float] = {}
    for index, (rate, seconds) in enumerate(files):
        record(root / f"{index}.wav", tone(seconds, rate), rate)
        hours[rate] = hours.get(rate, 0.0) + seconds
    (root / "0broken.wav").write_bytes(b"none")
    rate = any_sound(Folder(root=str(root))).features.sample_rate
    assert hours[rate] == pytest.approx(max(hours.values()))


def test_what_was_resampled_is_said(tmp_path):
    for index in range(4):
        record(tmp_path / "data" / f"{index}.wav", tone(0.1, 16_000), 16_000 if index else 4_000)
    store = decoded(tmp_path / "data", tmp_path / "cache")
    lines = data_report.summary(store.report).splitlines()
    assert "sample rates (Hz): 16000 3, 4000 1; 4 resampled to 8000 Hz" in lines
    assert "warning: 1 of the clips have lower rates and hold nothing above half of them" in lines


def test_channels_that_cancel_are_not_called_silent(tmp_path):
    left, nothing = tone(), np.zeros(800)
    for name, channels in {
        "anti": (left, -left),
        "right": (nothing, left),
        "near": (left, -0.95 * left),
        "no": (nothing, nothing),
    }.items():
        record(tmp_path / "data" / f"{name}.wav", np.stack(channels, axis=1), subtype="FLOAT")
    mixed = decoded(tmp_path / "data", tmp_path / "cache")
    assert reasons(mixed) == {
        "anti.wav": "channels that cancel each other in the mix; --audio.channels first takes one",
        "no.wav": "silent",
    }
    assert "1 of the clips lost over 20 dB of their peak" in data_report.summary(mixed.report)
    first = decoded(tmp_path / "data", tmp_path / "cache", AudioPolicy(channels="first"))
    assert reasons(first) == {
        "no.wav": "silent",
        "right.wav": "first channel silent, others are not; --audio.channels mix takes all",
    }


def test_above_full_scale_is_told(tmp_path):
    for index, level in enumerate((0.5, 1.5, 2.5)):
        record(tmp_path / "data" / f"{index}.wav", tone(level=level), subtype="FLOAT")
    store = decoded(tmp_path / "data", tmp_path / "cache")
    assert store.report["above_full_scale"] == {"clips": 2, "peak": pytest.approx(2.5, rel=1e-2)}
    assert "above full scale: 2 of the clips, up to 2.50" in data_report.summary(store.report)


@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg", "mp3"])
def test_a_recording_is_decoded_no_further_than_it_may_last(suffix, tmp_path, monkeypatch):
    monkeypatch.setattr(recordings, "_BLOCK_VALUES", 1_000)
    record(tmp_path / "data" / f"long.{suffix}", tone(30))
    record(tmp_path / "data" / "short.wav", tone(2))
    blocks = []
    monkeypatch.setattr(audio, "mix_down", lambda block, mix=audio.mix_down: blocks.append(len(block)) or mix(block))
    store = decoded(tmp_path / "data", tmp_path / "cache", AudioPolicy(max_seconds=2.5))
    assert reasons(store) == {f"long.{suffix}": "longer than --audio.max-seconds 2.5"}
    assert [clip.name for clip in store.clips] == ["short.wav"]
    assert sum(blocks) < 2 * 3 * 8_000
    assert (store.directory / "samples.bin").stat().st_size == 2 * 8_000 * 4


def test_a_prompt_lasts_no_longer_than_a_recording(tmp_path, monkeypatch):
    monkeypatch.setattr(AudioPolicy, "max_seconds", 1.5)
    assert len(read_prompt(str(record(tmp_path / "short.wav", tone(1))), WAVE)) == 8_000
    with pytest.raises(UserError, match=r"cannot be read \(longer than --audio.max-seconds 1.5\)"):
        read_prompt(str(record(tmp_path / "long.flac", tone(2))), WAVE)
    os.mkfifo(tmp_path / "pipe.wav")
    with pytest.raises(UserError, match="a named pipe, not a regular file"):
        read_prompt(str(tmp_path / "pipe.wav"), WAVE)


def test_a_header_that_lies_about_the_length_is_not_believed(tmp_path):
    path = record(tmp_path / "data" / "a.wav", tone(1))
    content = bytearray(path.read_bytes())
    content[40:44] = content[4:8] = (2**32 - 1).to_bytes(4, "little")  # as a program writes that does not know yet
    path.write_bytes(content)
    store = decoded(tmp_path / "data", tmp_path / "cache", AudioPolicy(max_seconds=2))
    assert [clip.num_samples for clip in store.clips] == [8_000]


def test_absolute_paths_of_a_manifest_are_those_in_the_folder(tmp_path):
    root = tmp_path / "sound"
    root.mkdir()
    for name in ("a", "b"):
        soundfile.write(root / f"{name}.wav", np.random.default_rng(0).uniform(-0.5, 0.5, 900), 8_000)
    (root / "manifest.csv").write_text(f"path,word\n{root}/a.wav,one\nb.wav,two\n")
    clips = Folder(root=str(root)).clips()
    assert [(clip.name, clip.fields["word"], clip.refused) for clip in clips] == [
        ("a.wav", "one", ""),
        ("b.wav", "two", ""),
    ]
    (root / "manifest.csv").write_text(f"path,word\n{root}/a.wav,one\na.wav,two\n")
    with pytest.raises(UserError, match="names a file twice, by its path in the folder and the whole one"):
        Folder(root=str(root)).clips()


def test_the_option_that_takes_what_was_refused_is_named(tmp_path):
    root, outside = tmp_path / "sound", tmp_path / "elsewhere"
    for folder in (root, outside):
        folder.mkdir()
    soundfile.write(outside / "a.wav", np.random.default_rng(0).uniform(-0.5, 0.5, 900), 8_000)
    (root / "manifest.csv").write_text(f"path\n{outside}/a.wav\n")
    with pytest.raises(
        UserError, match=r"all 1 files were refused \(1 outside the folder; .*\)\. --data.outside takes it\."
    ):
        decode(Folder(root=str(root)), MuLaw(sample_rate=8_000), AudioPolicy(), tmp_path / "cache")


def test_a_header_that_lies_does_not_decide_the_rate(tmp_path):
    for index in range(24):
        soundfile.write(tmp_path / f"{index}.wav", np.random.default_rng(index).uniform(-0.5, 0.5, 8_000), 8_000)
    soundfile.write(tmp_path / "lies.flac", np.random.default_rng(9).uniform(-0.5, 0.5, 4_000), 44_100)
    content = bytearray((tmp_path / "lies.flac").read_bytes())
    content[21:26] = (int.from_bytes(content[21:26], "big") & ~(2**36 - 1) | 44_100 * 14_000).to_bytes(5, "big")
    (tmp_path / "lies.flac").write_bytes(content)
    with audio.open_recording(tmp_path / "lies.flac") as recording:
        assert recording.stated_seconds < 14_000
    assert any_sound(Folder(root=str(tmp_path))).features.sample_rate == 8_000


@pytest.mark.parametrize(
    ("name", "reason"), [("a.m4a", "audio of a format that is not read"), ("a.txt", "not an audio file")]
)
def test_what_is_left_out_has_its_true_reason(name, reason, tmp_path):
    soundfile.write(tmp_path / "b.wave", np.random.default_rng(0).uniform(-0.5, 0.5, 900), 8_000, format="WAV")
    (tmp_path / name).write_bytes(b"x")
    data = Folder(root=str(tmp_path))
    assert [clip.name for clip in data.clips()] == ["b.wave"]
    assert dict(data.list_skipped())[name] == reason


def test_a_file_that_a_manifest_names_in_two_ways_is_one_clip(tmp_path):
    soundfile.write(tmp_path / "a.wav", np.random.default_rng(0).uniform(-0.5, 0.5, 900), 8_000)
    soundfile.write(tmp_path / "b.wav", np.random.default_rng(1).uniform(-0.5, 0.5, 900), 8_000)
    (tmp_path / "again").symlink_to(tmp_path)
    os.link(tmp_path / "b.wav", tmp_path / "c.wav")
    rows = ["path,split", "a.wav,train", "again/a.wav,val", "b.wav,train", "c.wav,val"]
    (tmp_path / "manifest.csv").write_text("\n".join(rows) + "\n")
    store = decode(Folder(root=str(tmp_path)), MuLaw(sample_rate=8_000), AudioPolicy(), tmp_path / "cache")
    assert [clip.name for clip in store.clips] == ["a.wav", "b.wav"]
    refused = {entry["name"]: entry["reason"] for entry in store.report["refused"]}
    assert refused.items() >= {"again/a.wav": "the same file as 'a.wav'", "c.wav": "the same file as 'b.wav'"}.items()
