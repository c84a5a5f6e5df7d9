"""Batches against the clips they are made of."""

import itertools
from collections import Counter

import numpy as np
import pytest

from jaxgen.core.errors import UserError
from jaxgen.data.pipeline import TrainingBatches, scoring_batches
from jaxgen.data.store import Store


def _training(store, *, labels=(), lookback=1, batch_size=3, seq_len=7, seed=0, stride=1):
    spec = store.spec(labels)
    options = {"lookback": lookback, "batch_size": batch_size, "seq_len": seq_len, "seed": seed, "stride": stride}
    return TrainingBatches(store, spec, labels, **options)


def _streams(batches, lookback):
    """(targets, flags) of each row, all batches joined."""
    joined = {name: np.concatenate([b[name] for b in batches], axis=1) for name in ("reset", "mask", "end", "clip")}
    x = np.concatenate([b["x"][:, lookback:] for b in batches], axis=1)
    return x, joined


def _clips_read(x, flags):
    """(clip, its steps as read) for each clip that a row holds from reset to end."""
    for row in range(len(x)):
        start = None
        for t in range(x.shape[1]):
            if flags["reset"][row, t]:
                start = t
            if flags["end"][row, t] and start is not None:
                assert flags["mask"][row, start : t + 1].all()
                assert len(set(flags["clip"][row, start : t + 1])) == 1
                yield flags["clip"][row, t], x[row, start : t + 1]
                start = None


@pytest.mark.parametrize("lookback", [1, 4])
def test_rows_read_whole_clips_behind_silence(mel_store, lookback):
    batches = list(itertools.islice(_training(mel_store, lookback=lookback), 20))
    x, flags = _streams(batches, lookback)
    read = list(_clips_read(x, flags))
    assert len(read) > 10
    for clip, steps in read:
        np.testing.assert_array_equal(steps, mel_store.steps(clip))
    silence = mel_store.features.silence()
    starts = np.argwhere(flags["reset"][:, :])
    stream = np.concatenate([batches[0]["x"][:, :lookback], x], axis=1)
    for row, t in starts:
        assert (stream[row, t : t + lookback] == silence).all()
    # the only places without a loss are the silence before each clip
    assert (~flags["mask"]).sum() <= lookback * flags["reset"].sum() + lookback * len(x)


def test_nothing_before_a_clip_is_read(mel_store, monkeypatch):
    """Where the silence before a clip goes on over a chunk, too."""
    read = Store.steps

    def checked(store, clip, start=0, stop=None):
        assert 0 <= start <= stop
        return read(store, clip, start, stop)

    monkeypatch.setattr(Store, "steps", checked)
    assert len(list(itertools.islice(_training(mel_store, lookback=20, seq_len=7), 50))) == 50


def test_clips_start_at_multiples_of_the_stride(mel_store):
    stride, lookback = 4, 6
    batches = list(itertools.islice(_training(mel_store, lookback=lookback, seq_len=8, stride=stride), 30))
    x, flags = _streams(batches, lookback)
    read = list(_clips_read(x, flags))
    assert len(read) > 10
    late = Counter()
    for clip, steps in read:
        whole = mel_store.steps(clip)
        late[len(whole) - len(steps)] += 1
        np.testing.assert_array_equal(steps, whole[-len(steps) :])
    assert set(late) == set(range(stride))  # so that frames are cut elsewhere in each epoch
    assert (np.argwhere(flags["reset"])[:, 1] % stride == 0).all()
    assert {len(steps) % stride for _, steps in read} != {0}  # else nothing was filled up
    silence = np.broadcast_to(mel_store.features.silence(), (lookback, x.shape[2]))
    stream = np.concatenate([batches[0]["x"][:, :lookback], x], axis=1)
    for row, t in np.argwhere(flags["reset"]):
        whole = np.concatenate([silence, mel_store.steps(flags["clip"][row, t])])
        before = stream[row, t : t + lookback]
        assert any((before == whole[begin : begin + lookback]).all() for begin in range(stride))
    scored = list(
        scoring_batches(
            mel_store, mel_store.spec(()), [0, 1, 2], (), lookback=lookback, batch_size=2, seq_len=8, stride=stride
        )
    )
    assert sum(int(batch["mask"].sum()) for batch in scored) == sum(
        mel_store.clips[clip].num_steps for clip in (0, 1, 2)
    )
    assert sum(int(batch["end"].sum()) for batch in scored) == 3
    assert all((batch["x"][:, lookback:][~batch["mask"]] == silence[0]).all() for batch in scored)


def test_chunks_that_cut_a_stride_are_refused(mel_store):
    with pytest.raises(UserError, match=r"--train\.seq-len is 7, expected a multiple of 4"):
        _training(mel_store, seq_len=7, stride=4)


def test_chunks_of_a_row_overlap_by_the_lookback(wave_store):
    first, second = itertools.islice(_training(wave_store, lookback=3), 2)
    np.testing.assert_array_equal(first["x"][:, -3:], second["x"][:, :3])


def test_each_epoch_reads_every_training_clip_once_in_another_order(mel_store):
    train = mel_store.indices("train")
    x, flags = _streams(list(itertools.islice(_training(mel_store, batch_size=1), 80)), 1)
    order = [clip for clip, _ in _clips_read(x, flags)]
    epochs = [order[i : i + len(train)] for i in range(0, len(order) - len(train), len(train))]
    assert len(epochs) >= 2
    assert all(sorted(epoch) == sorted(train) for epoch in epochs)
    assert epochs[0] != epochs[1]


def test_the_seed_decides_the_order(mel_store):
    def clips(seed):
        return [b["clip"].tolist() for b in itertools.islice(_training(mel_store, seed=seed), 5)]

    assert clips(1) == clips(1)
    assert clips(1) != clips(2)


@pytest.mark.parametrize("stride", [1, 5])
def test_a_restored_stream_goes_on_as_if_never_stopped(wave_store, stride):
    stream = iter(_training(wave_store, seq_len=1_000, stride=stride))
    for _ in range(5):
        next(stream)
    state = stream.get_state()
    expected = [next(stream) for _ in range(5)]
    other = iter(_training(wave_store, seq_len=1_000, stride=stride))
    other.set_state(state)
    for want in expected:
        got = next(other)
        for name in ("x", "reset", "mask", "end", "clip"):
            np.testing.assert_array_equal(got[name], want[name])


def test_labels_follow_their_clip_and_unseen_values_are_unknown(mel_store):
    spec = mel_store.spec(("timbre",))
    for batch in itertools.islice(_training(mel_store, labels=("timbre",)), 5):
        for row, t in np.argwhere(batch["mask"]):
            value = mel_store.clips[batch["clip"][row, t]].fields["timbre"]
            assert batch["labels"]["timbre"][row, t] == spec.label_index("timbre", value)
    narrow = type(spec)(**{**vars(spec), "vocabularies": (("timbre", ("glass",)),)})
    options = {"lookback": 1, "batch_size": 2, "seq_len": 5}
    batch = next(iter(scoring_batches(mel_store, narrow, (0, 1), ("timbre",), **options)))
    assert not batch["labels"]["timbre"].any()


def test_a_long_recording_is_cut_into_segments_with_their_real_past(wave_store):
    longest = max(clip.num_steps for clip in wave_store.clips)
    batches = _training(wave_store, lookback=2, batch_size=2, seq_len=longest // 64 // 2)
    resets = 0
    stream = list(itertools.islice(batches, 400))
    for batch in stream:
        resets += batch["reset"].sum()
        for row, t in np.argwhere(batch["reset"]):
            clip, now = batch["clip"][row, t], batch["x"][row, t : t + 3]
            steps = wave_store.steps(clip)
            padded = np.concatenate([np.full(2, wave_store.features.silence()), steps])
            windows = np.lib.stride_tricks.sliding_window_view(padded, 3)
            assert (windows == now).all(axis=1).any()
    ends = sum(batch["end"].sum() for batch in stream)
    assert resets > 1.5 * ends  # several segments a clip


def test_scoring_reads_every_step_of_every_clip_once(mel_store):
    clips = mel_store.indices("train")[:7]
    batches = list(scoring_batches(mel_store, mel_store.spec(()), clips, (), lookback=1, batch_size=3, seq_len=6))
    x, flags = _streams(batches, 1)
    read = list(_clips_read(x, flags))
    assert sorted(clip for clip, _ in read) == sorted(clips)
    for clip, steps in read:
        np.testing.assert_array_equal(steps, mel_store.steps(clip))
    counts = Counter(flags["clip"][flags["mask"]].tolist())
    assert counts == {clip: mel_store.clips[clip].num_steps for clip in clips}
