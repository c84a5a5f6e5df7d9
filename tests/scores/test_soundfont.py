"""A SoundFont made here, of one sine, plays a score in tune and on time."""

import struct
from pathlib import Path

import numpy as np
import pytest
from test_render import loudest_hertz

from jaxgen.core.errors import UserError
from jaxgen.scores.score import Score, make_notes
from jaxgen.scores.soundfont import play_soundfont

pytest.importorskip("tinysoundfont", reason="pip install 'jaxgen[soundfont]'")
RATE = 22_050


def chunk(name: bytes, data: bytes) -> bytes:
    return name + struct.pack("<I", len(data)) + data + b"\0" * (len(data) % 2)


def listed(kind: bytes, *chunks: bytes) -> bytes:
    return chunk(b"LIST", kind + b"".join(chunks))


def sine_font(path: Path) -> Path:
    """SoundFont 2.01 (Creative 1998): one preset of one instrument of one looped sine of middle C, as in its section 7."""
    period = 100  # samples
    tone = (20_000 * np.sin(2 * np.pi * np.arange(2_000) / period)).astype("<i2")
    smpl = tone.tobytes() + bytes(2 * 46)
    rate = round(period * 440 * 2 ** (-9 / 12))
    name = lambda text: text.ljust(20, b"\0")  # noqa: E731
    header = struct.Struct("<20sHHHIII")
    sample = struct.Struct("<20sIIIIIBbHH")
    generators = struct.pack("<HHHH", 54, 1, 53, 0)  # looped; the sample
    pdta = listed(
        b"pdta",
        chunk(b"phdr", header.pack(name(b"sine"), 0, 0, 0, 0, 0, 0) + header.pack(name(b"EOP"), 0, 0, 1, 0, 0, 0)),
        chunk(b"pbag", struct.pack("<HHHH", 0, 0, 1, 0)),
        chunk(b"pmod", bytes(10)),
        chunk(b"pgen", struct.pack("<HH", 41, 0) + bytes(4)),
        chunk(b"inst", struct.pack("<20sH20sH", name(b"sine"), 0, name(b"EOI"), 1)),
        chunk(b"ibag", struct.pack("<HHHH", 0, 0, 2, 0)),
        chunk(b"imod", bytes(10)),
        chunk(b"igen", generators + bytes(4)),
        chunk(
            b"shdr",
            sample.pack(name(b"sine"), 0, 2_000, 500, 1_500, rate, 60, 0, 0, 1)
            + sample.pack(name(b"EOS"), 0, 0, 0, 0, 0, 0, 0, 0, 0),
        ),
    )
    info = listed(
        b"INFO", chunk(b"ifil", struct.pack("<HH", 2, 1)), chunk(b"isng", b"EMU8000\0"), chunk(b"INAM", b"sine\0\0")
    )
    path.write_bytes(chunk(b"RIFF", b"sfbk" + info + listed(b"sdta", chunk(b"smpl", smpl)) + pdta))
    return path


def test_a_soundfont_plays_the_score(tmp_path):
    score = Score(make_notes([0, 4], 2, [60, 69], 100), 2, 6)  # half a second each, half a second between
    samples = np.concatenate(list(play_soundfont(score, sine_font(tmp_path / "a.sf2"), RATE)))
    assert samples.shape == (round(3.5 * RATE), 2)
    assert np.abs(samples).max() < 1
    assert not samples[RATE - RATE // 10 : RATE].round(3).any()
    for start, hertz in ((0, 261.6256), (RATE, 440.0)):
        note = samples[start : start + RATE // 2, 0]
        assert abs(1200 * np.log2(loudest_hertz(note, hertz, RATE) / hertz)) < 5
        assert np.std(note) > 0.01


def test_what_is_no_soundfont_is_one_line(tmp_path):
    score = Score(make_notes(0, 2, 60), 2, 2)
    (tmp_path / "b.sf2").write_bytes(b"RIFF\0\0\0\0sfbkdamaged")
    (tmp_path / "c.sf2").write_bytes(b"nothing")
    for name, reason in (("absent.sf2", "cannot read"), ("c.sf2", "no SoundFont"), ("b.sf2", "cannot be played")):
        with pytest.raises(UserError, match=reason):
            play_soundfont(score, tmp_path / name)
    with pytest.raises(UserError, match="no instrument 5"):
        play_soundfont(score, sine_font(tmp_path / "a.sf2"), program=5)
