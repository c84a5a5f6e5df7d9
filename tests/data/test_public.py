"""Public data sets: downloaded from a server of this machine, checked, kept, and read."""

import dataclasses
import functools
import hashlib
import http.server
import io
import os
import tarfile
import threading
import wave
from pathlib import Path

import pooch.core
import pytest

from jaxgen.core.errors import UserError
from jaxgen.data import public
from jaxgen.data.public import SOURCES, PublicDataset, SpeakerShare

NAMES = ["0_jackson_0", "3_theo_7", "9_theo_12"]


def wav() -> bytes:
    stream = io.BytesIO()
    with wave.open(stream, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(8_000)
        file.writeframes(b"\x00\x10" * 400)
    return stream.getvalue()


def archive(path: Path, members: dict[str, bytes]) -> str:
    """Writes a tar archive and returns its SHA-256."""
    with tarfile.open(path, "w:gz") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return hashlib.sha256(path.read_bytes()).hexdigest()


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format, *args):
        pass


@pytest.fixture
def server(tmp_path, monkeypatch):
    """Serves a small archive as fsdd; gives (folder served, address of a closed port after `close()`)."""
    monkeypatch.setattr(pooch.core.time, "sleep", lambda seconds: None)
    served = tmp_path / "served"
    served.mkdir()
    folder = SOURCES["fsdd"].folder
    members = {f"{folder}/{name}.wav": wav() for name in NAMES} | {f"{folder}/noise.wav": wav(), "top/README": b"text"}
    sha256 = archive(served / "v1.tar.gz", members)
    httpd = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=served))
    thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    url = f"http://127.0.0.1:{httpd.server_port}/v1.tar.gz"
    source = dataclasses.replace(SOURCES["fsdd"], url=url, sha256=sha256)
    monkeypatch.setattr(public, "SOURCES", {**SOURCES, "fsdd": source})

    def close():
        httpd.shutdown()
        httpd.server_close()
        thread.join()

    yield close
    if thread.is_alive():
        close()


def test_download_is_read_and_kept(server, tmp_path):
    data = PublicDataset(name="fsdd", cache_dir=str(tmp_path / "cache"))
    clips = data.clips()
    assert [clip.name for clip in clips] == [f"{name}.wav" for name in NAMES]  # and not noise.wav
    assert clips[1].fields == {"digit": "3", "speaker": "theo", "index": "7", "licence": "CC BY-SA 4.0"}
    assert clips[0].load().samples.shape == (400, 1)
    assert [data.split_of(clip.fields, clip.digest()) for clip in clips] == ["test", "validation", "train"]

    server()
    assert [clip.name for clip in data.clips()] == [clip.name for clip in clips]
    kept = os.listdir(tmp_path / "cache")
    assert len(kept) == 1, "the archive and temporary files are gone"
    assert kept[0].startswith("fsdd-")


def test_no_network_names_the_option(server, tmp_path):
    server()
    with pytest.raises(UserError, match=r"cannot download 'fsdd' from http://127.*--data\.root") as caught:
        PublicDataset(name="fsdd", cache_dir=str(tmp_path / "cache")).clips()
    assert "\n" not in str(caught.value)
    assert os.listdir(tmp_path / "cache") == []


def test_wrong_checksum_keeps_nothing(server, tmp_path, monkeypatch):
    wrong = dataclasses.replace(public.SOURCES["fsdd"], sha256="0" * 64)
    monkeypatch.setattr(public, "SOURCES", {"fsdd": wrong})
    with pytest.raises(UserError, match="SHA-256 differs") as caught:
        PublicDataset(name="fsdd", cache_dir=str(tmp_path / "cache")).clips()
    assert "\n" not in str(caught.value)
    assert os.listdir(tmp_path / "cache") == []


@pytest.mark.parametrize("name", ["../../escaped.wav", "/../../../escaped.wav", "a/../../../escaped.wav", ".."])
def test_members_outside_the_folder_are_refused_in_one_line(name, tmp_path):
    archive(tmp_path / "evil.tar.gz", {"good.wav": wav(), name: wav()})
    (tmp_path / "cache" / "deep").mkdir(parents=True)
    with pytest.raises(UserError, match=r"evil.tar.gz cannot be unpacked .*--data\.root") as caught:
        public._unpack(tmp_path / "evil.tar.gz", tmp_path / "cache" / "deep" / "evil")
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.rglob("escaped.wav"))
    assert os.listdir(tmp_path / "cache" / "deep") == []


def test_a_link_out_of_the_folder_is_refused(tmp_path):
    with tarfile.open(tmp_path / "evil.tar", "w") as tar:
        link = tarfile.TarInfo("link")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc"
        tar.addfile(link)
    with pytest.raises(UserError, match="cannot be unpacked"):
        public._unpack(tmp_path / "evil.tar", tmp_path / "evil")
    (tmp_path / "cut.tar.gz").write_bytes(b"\x1f\x8b\x08\x00")
    with pytest.raises(UserError, match="cannot be unpacked"):
        public._unpack(tmp_path / "cut.tar.gz", tmp_path / "evil")


@pytest.mark.parametrize("inside", ["", SOURCES["fsdd"].folder])
def test_local_copy_needs_no_network(inside, tmp_path, monkeypatch):
    monkeypatch.setattr(public, "_download", lambda *_: pytest.fail("asked for the network"))
    recordings = tmp_path / "copy" / inside
    recordings.mkdir(parents=True)
    for name in NAMES:
        (recordings / f"{name}.wav").write_bytes(wav())
    assert [clip.fields["digit"] for clip in PublicDataset(name="fsdd", root=str(tmp_path / "copy")).clips()] == [
        "0",
        "3",
        "9",
    ]


def test_local_copy_of_something_else(tmp_path):
    (tmp_path / "drum.wav").write_bytes(wav())
    with pytest.raises(UserError, match=r"no recording of 'fsdd'.*--data\.root"):
        PublicDataset(name="fsdd", root=str(tmp_path)).clips()


def test_unknown_name_lists_the_known():
    with pytest.raises(UserError, match=r"'speech_comands'.*yesno.*did you mean speech_commands\?"):
        PublicDataset(name="speech_comands")


@pytest.mark.parametrize("name", SOURCES)
def test_sources_are_complete(name):
    source = SOURCES[name]
    assert len(bytes.fromhex(source.sha256)) == 32
    assert source.licence
    assert source.url.endswith((".tar.gz", ".tar.bz2"))


def test_speech_commands_splits_are_the_official_lists():
    """Speakers from the heads of validation_list.txt and testing_list.txt of version 0.02."""
    validation, test = SOURCES["speech_commands"].validation, SOURCES["speech_commands"].test
    assert test is not None
    for speaker in ("a69b9b3e", "439c84f4", "409c962a", "dbaf8fc6", "a6d586b7", "0e17f595", "ff2b842e", "7fd25f7c"):
        fields = {"speaker": speaker}
        assert (validation.matches(fields, ""), test.matches(fields, "")) == (True, False)
    for speaker in ("bb05582b", "97f4c236", "f2e59fea", "fdb5155e", "dc75148d", "3f170018", "18f8afd5", "e1469561"):
        fields = {"speaker": speaker}
        assert (validation.matches(fields, ""), test.matches(fields, "")) == (False, True)


def test_speaker_share_covers_every_speaker_once():
    rules = [SpeakerShare(start=10 * i, stop=10 * i + 10) for i in range(9)] + [SpeakerShare(start=90, stop=101)]
    for speaker in map(str, range(200)):
        assert sum(rule.matches({"speaker": speaker}, "") for rule in rules) == 1
    with pytest.raises(UserError, match="speaker"):
        rules[0].matches({}, "")


def test_fsdd_as_it_is():
    if "JAXGEN_DATA" not in os.environ:
        pytest.skip("JAXGEN_DATA names no folder of real data")
    clips = PublicDataset(name="fsdd", root=os.path.join(os.environ["JAXGEN_DATA"], "fsdd")).clips()
    assert {clip.fields["digit"] for clip in clips} == set("0123456789")
