"""Memorisation against constructions whose answer is known: exact, scaled and shifted copies, and new sound."""

import math
import os
from pathlib import Path

import numpy as np
import pytest
import soundfile

from jaxgen.evaluation.memorisation import MAX_CHUNKS, memorisation
from jaxgen.evaluation.metrics import log_mel_db

pytestmark = pytest.mark.slow

RATE = 8_000


def tune(seed: int, seconds: float = 2.0) -> np.ndarray:
    """Notes of random pitch, loudness and length, over a little noise."""
    rng = np.random.default_rng(seed)
    parts: list[np.ndarray] = []
    while sum(len(part) for part in parts) < seconds * RATE:
        time = np.arange(rng.integers(600, 1800)) / RATE
        harmonics = rng.uniform(0, 1, size=6) / np.arange(1, 7)
        pitch = rng.uniform(100, 500)
        note = sum(h * np.sin(2 * np.pi * pitch * k * time) for k, h in enumerate(harmonics, start=1))
        parts.append(rng.uniform(0.05, 0.3) * np.exp(-6 * time) * note)
    clip = np.concatenate(parts)[: round(seconds * RATE)]
    return (clip + 1e-3 * rng.normal(size=len(clip))).astype(np.float32)


def named(role: str, seeds: range) -> list[tuple[str, np.ndarray]]:
    return [(f"{role}{seed}", tune(seed)) for seed in seeds]


TRAINING, HELD_OUT = named("train", range(30)), named("held_out", range(100, 110))


def test_new_sound_is_as_far_as_held_out_sound():
    found = memorisation(TRAINING, named("new", range(200, 210)), HELD_OUT, RATE)
    assert found.ratio == pytest.approx(1, abs=0.15)
    assert found.suspicious_share < 0.15
    assert [match.distance_db for match in found.nearest] == sorted(match.distance_db for match in found.nearest)


@pytest.mark.parametrize("gain", [1.0, 0.1, -0.5])
def test_a_copy_is_found_at_any_volume(gain):
    found = memorisation(TRAINING, [("copy", gain * TRAINING[7][1])], HELD_OUT, RATE)
    assert found.generated.db.max() < 0.1
    assert found.ratio < 0.01
    assert found.suspicious_share == 1
    assert found.nearest[0].generated == "copy"
    assert found.nearest[0].training == "train7"
    assert found.nearest[0].generated_seconds == pytest.approx(found.nearest[0].training_seconds)


@pytest.mark.parametrize("shift", [1600, 1600 + 17, 1600 + 40])
def test_a_copy_is_found_wherever_it_starts(shift):
    """A hop is 80 samples: a shift of half of it is the hardest."""
    found = memorisation(TRAINING, [("copy", TRAINING[7][1][shift:])], HELD_OUT, RATE)
    assert found.ratio < 0.35
    assert found.suspicious_share > 0.9
    assert found.nearest[0].training == "train7"
    moved = found.nearest[0].training_seconds - found.nearest[0].generated_seconds
    assert moved == pytest.approx(shift / RATE, abs=0.006)


def test_what_cannot_be_measured_is_said_in_words():
    silence = [("silence", np.zeros(RATE, np.float32))]
    for kind, generated, held_out in (("generated", silence, HELD_OUT), ("held-out", HELD_OUT, silence)):
        found = memorisation(TRAINING, generated, held_out, RATE)
        assert f"not measured, as no {kind} chunk" in found.in_words
        assert "nan" not in found.in_words + found.medians_in_words
    told = memorisation(TRAINING, [("copy", TRAINING[7][1])], HELD_OUT, RATE)
    assert told.in_words.startswith(f"100.0% of {told.generated.db.size} generated chunks")


def test_one_copy_among_new_clips_comes_first():
    generated = [*named("new", range(200, 205)), ("copy", TRAINING[3][1][500:])]
    found = memorisation(TRAINING, generated, HELD_OUT, RATE)
    assert (found.nearest[0].generated, found.nearest[0].training) == ("copy", "train3")
    assert len(found.nearest) == len(generated)


def test_distance_is_the_root_mean_square_difference_of_levels():
    """Against a loop over all pairs of chunks: 24 bands, every second of 25 frames, mean taken out, 50 dB deep."""

    def chunks(clip: np.ndarray, hop: int) -> list[np.ndarray]:
        levels = log_mel_db(clip, RATE, n_mels=24, floor_db=-200.0).astype(np.float64)
        cut = [levels[start : start + 25 : 2] for start in range(0, len(levels) - 24, hop)]
        cut = [np.maximum(chunk, chunk.max() - 50) for chunk in cut]
        return [chunk - chunk.mean() for chunk in cut]

    training, generated = tune(0), tune(1)
    expected = [
        min(np.sqrt(np.mean((ours - theirs) ** 2)) for theirs in chunks(training, 1)) for ours in chunks(generated, 12)
    ]
    found = memorisation([("a", training)], [("b", generated)], [], RATE)
    np.testing.assert_allclose(found.generated.db, expected, atol=0.01)
    assert found.generated.median_db == pytest.approx(np.median(expected), abs=0.01)
    assert math.isnan(found.ratio)


def test_silence_is_left_out_and_short_clips_are_not():
    silence, short = np.zeros(RATE, np.float32), TRAINING[0][1][:700]
    found = memorisation([("short", short)], [("silence", silence), ("short", short)], [("silence", silence)], RATE)
    assert [match.generated for match in found.nearest] == ["short"]
    assert found.generated.db.max() == pytest.approx(0, abs=0.05)
    assert math.isnan(found.held_out.median_db)
    assert math.isnan(found.suspicious_share)


def test_without_training_sound_nothing_is_said():
    found = memorisation([("silence", np.zeros(RATE, np.float32))], TRAINING[:1], HELD_OUT[:1], RATE)
    assert found.nearest == ()
    assert math.isnan(found.ratio)
    assert math.isnan(found.suspicious_share)


def test_iterators_do_and_long_clips_are_thinned_evenly():
    long = np.tile(TRAINING[0][1], 80)  # 160 s, 1333 chunks
    found = memorisation(iter(TRAINING[:3]), iter([("long", long)]), iter(HELD_OUT), RATE)
    assert len(found.generated.db) == MAX_CHUNKS


@pytest.mark.skipif("JAXGEN_DATA" not in os.environ, reason="JAXGEN_DATA names no folder of real recordings")
def test_a_copied_digit_is_told_from_a_new_one():
    folder = Path(os.environ["JAXGEN_DATA"], "fsdd", "recordings")

    def digits(indices: range) -> list[tuple[str, np.ndarray]]:
        names = [f"{digit}_{speaker}_{i}" for digit in range(10) for speaker in ("theo", "jackson") for i in indices]
        return [(name, soundfile.read(folder / f"{name}.wav", dtype="float32")[0]) for name in names]

    training, held_out = digits(range(10, 35)), digits(range(5, 7))
    new = memorisation(training, digits(range(7, 9)), held_out, RATE)
    copied = memorisation(
        training, [(name, clip[33:] * np.float32(0.5)) for name, clip in training[::20]], held_out, RATE
    )
    assert new.ratio == pytest.approx(1, abs=0.1)
    assert new.suspicious_share < 0.15
    assert copied.ratio < 0.4
    assert copied.suspicious_share > 0.8
