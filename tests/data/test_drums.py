"""SyntheticDataset drums: each kind sounds as its name says, and no two clips alike."""

import numpy as np
import pytest

from jaxgen.core.errors import UserError
from jaxgen.data.drums import DRUMS, Drums


def _sounds(**options):
    data = Drums(**{"num_clips": 70} | options)
    by_kind = {}
    for clip in data.clips():
        by_kind.setdefault(clip.fields["drum"], []).append(clip.load().samples[:, 0])
    return by_kind


def _centroid(samples):
    power = np.square(np.abs(np.fft.rfft(samples, 8_000)))
    return (np.arange(len(power)) * power).sum() / power.sum()


def test_every_kind_is_there_and_as_long_as_it_rings():
    sounds = _sounds()
    assert sounds.keys() == DRUMS.keys()
    for kind, clips in sounds.items():
        assert len(clips) == 10
        for samples in clips:
            assert samples.dtype == np.float32
            assert np.isfinite(samples).all()
            assert 0.5 <= np.abs(samples).max() <= 0.9 + 1e-6, kind
            assert 80 <= len(samples) <= 4_000
    seconds = {kind: np.mean([len(samples) / 8_000 for samples in clips]) for kind, clips in sounds.items()}
    assert seconds["closed-hat"] < 0.12 < seconds["clap"] < seconds["open-hat"]


def test_kinds_are_told_apart_by_where_their_sound_is():
    heights = {kind: [_centroid(samples) for samples in clips] for kind, clips in _sounds().items()}
    assert max(heights["kick"]) < 250
    assert max(heights["kick"]) < min(heights["snare"])
    assert max(heights["tom"]) < min(heights["clap"])
    assert max(heights["clap"]) < min(heights["closed-hat"])


def test_the_same_seed_makes_the_same_drums_and_no_two_are_alike():
    first, again, other = _sounds(), _sounds(), _sounds(seed=1)
    for kind, clips in first.items():
        for samples, same in zip(clips, again[kind], strict=True):
            np.testing.assert_array_equal(samples, same)
        assert len({samples.tobytes() for samples in clips + other[kind]}) == 20


def test_digests_and_splits_are_known_without_a_sound():
    clips = Drums(num_clips=30).clips()
    assert len({clip.digest() for clip in clips}) == 30
    assert [clip.fields["split"] for clip in clips].count("validation") == 3
    with pytest.raises(UserError, match="at least 1"):
        Drums(num_clips=0)
    with pytest.raises(UserError, match="at least 8000"):
        Drums(sample_rate=6_000)
