"""Excerpts: which pieces of which clips make a batch."""

import collections

import numpy as np

from jaxgen.data.excerpts import Excerpts, excerpt_per_clip


def test_excerpts_depend_on_number_and_row_alone(mel_store):
    options = {"batch_size": 6, "length": 500, "seed": 3}
    stream = iter(Excerpts(mel_store, mel_store.spec(()), **options))
    batches = [next(stream) for _ in range(3)]
    later = iter(Excerpts(mel_store, mel_store.spec(()), rows=[1, 4], **options))
    later.set_state({"next": 2})
    some = next(later)
    for name in ("samples", "clip"):
        np.testing.assert_array_equal(some[name], batches[2][name][[1, 4]])
    assert later.get_state() == stream.get_state() == {"next": 3}
    for batch in batches:
        for samples, clip in zip(batch["samples"], batch["clip"], strict=True):
            windows = np.lib.stride_tricks.sliding_window_view(mel_store.samples(clip), 500)
            assert (windows == samples).all(axis=1).any()
            assert mel_store.clips[clip].split == "train"


def test_a_clip_that_is_shorter_than_an_excerpt_is_followed_by_silence(mel_store):
    batch = Excerpts(mel_store, mel_store.spec(()), batch_size=2, length=5_000, seed=0).batch(0)
    for samples, clip in zip(batch["samples"], batch["clip"], strict=True):
        whole = mel_store.samples(clip)
        np.testing.assert_array_equal(samples[: len(whole)], whole)
        assert not samples[len(whole) :].any()


def test_each_clip_is_scored_once(mel_store):
    clips = mel_store.indices("train")
    found = [batch["clip"][:count] for batch, count in excerpt_per_clip(mel_store, clips, batch_size=4, length=100)]
    assert np.concatenate(found).tolist() == list(clips)


def test_whole_clips_begin_where_they_begin_and_are_drawn_alike(mel_store):
    spec = mel_store.spec(("timbre", "tempo"))
    excerpts = Excerpts(mel_store, spec, ("timbre", "tempo"), batch_size=200, length=500, seed=0, whole=True)
    batch = excerpts.batch(0)
    counts = collections.Counter(batch["clip"].tolist())
    assert set(counts) == set(mel_store.indices("train"))
    assert max(counts.values()) < 3 * min(counts.values()) + 10
    for row, clip in enumerate(batch["clip"]):
        np.testing.assert_array_equal(batch["samples"][row], mel_store.samples(clip)[:500])
        for name, values in spec.vocabularies:
            assert values[batch["labels"][name][row] - 1] == mel_store.clips[clip].fields[name]
    assert (batch["length"] == 500).all()
    some = Excerpts(mel_store, spec, ("tempo",), batch_size=200, length=500, seed=0, whole=True, rows=[3, 7]).batch(0)
    np.testing.assert_array_equal(some["labels"]["tempo"], batch["labels"]["tempo"][[3, 7]])
