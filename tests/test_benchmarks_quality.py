"""The comparison of bits/sample with PyTorch: turns of equal time, one way to score, and a peer that learns the same task."""

import dataclasses
import importlib
import json
import math
from pathlib import Path

import numpy as np
import pytest

from benchmarks import quality
from benchmarks.quality_peers.clock import trained_in_turns
from jaxgen.config import load
from jaxgen.core.errors import UserError
from jaxgen.data.pipeline import scoring_batches
from jaxgen.data.synthetic import PluckedStrings
from jaxgen.objectives.likelihood import Likelihood
from jaxgen.objectives.optimizer import AdamW
from jaxgen.training.schedule import Train

pytestmark = [pytest.mark.slow, pytest.mark.nightly]

TINY = (
    *("--ours.data", "PluckedStrings", "--ours.data.num-clips", "12", "--ours.data.seconds", "0.1"),
    *("--ours.train.batch-size", "2", "--ours.train.seq-len", "64", "--ours.train.steps-per-call", "2"),
    *("--ours.model.cell.hidden-size", "16", "--ours.model.embedding-size", "8", "--peer.embedding-size", "8"),
)
PLAIN = AdamW(learning_rate=1e-2, warmup_steps=0)
CONFIG = load(Path(__file__).parent.parent / "configs" / "digits_wave.py")


@pytest.fixture
def torch():
    """PyTorch with one thread: several wait for each other where tests run side by side."""
    module = pytest.importorskip("torch", reason="torch is not installed (pip install 'jaxgen[bench]')")
    before = module.get_num_threads()
    module.set_num_threads(1)
    yield module
    module.set_num_threads(before)


@pytest.mark.usefixtures("torch")
def test_both_learn_in_turns_of_equal_time(cache, tmp_path, capsys):
    history, picture = tmp_path / "history.jsonl", tmp_path / "quality.png"
    asked = (
        "--minutes",
        "0.04",
        "--turns",
        "2",
        "--seeds",
        "1",
        "--ours.cache-dir",
        str(cache),
        "--chart",
        str(picture),
    )
    rows = quality.main([*TINY, *asked, "--chart", str(picture), "--record", "--history", str(history)])
    assert [row["candidate"] for row in rows] == [quality.OURS, quality.OURS, quality.PEER, quality.PEER]
    for early, late in (rows[:2], rows[2:]):
        assert 1.2 <= early["train_seconds"] <= late["train_seconds"]  # equal where the first took the time of both
        assert late["train_seconds"] >= 2.4
        assert 0 < early["steps"] <= late["steps"]
        assert 0 < late["bits_per_sample"] < 8.5  # how far it gets in a second is the machine's affair
        assert late["warmup_seconds"] > 0
    assert rows[1]["bits_per_sample"] < 8  # a fresh model's codes are all alike: 8 bits
    assert abs(rows[0]["parameters"] / rows[2]["parameters"] - 1) < 0.1  # of so few, a unit more is much
    recorded = [json.loads(line) for line in history.read_text().splitlines()]
    assert [{name: full[name] for name in row} for full, row in zip(recorded, rows, strict=True)] == rows
    assert {"commit", "device", "cpu", "torch", "jax"} <= recorded[0].keys()
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert quality.PEER in capsys.readouterr().out


def peer_of(cache, **changes):
    torch_lstm = importlib.import_module("benchmarks.quality_peers.torch_lstm")
    size = {"hidden_size": 12, "num_layers": 2, "embedding_size": 8, "peak": 1e-2, "seconds": 60.0, "turns": 1}
    data = PluckedStrings(num_clips=12, seconds=0.1)
    config = dataclasses.replace(
        CONFIG, data=data, cache_dir=str(cache), model=dataclasses.replace(CONFIG.model, labels=())
    )
    config = dataclasses.replace(config, train=Train(batch_size=2, seq_len=50), objective=Likelihood(optimizer=PLAIN))
    return torch_lstm._Learner(config, size | changes)


def test_the_peer_scores_each_clip_from_silence_and_a_fresh_state(cache, torch):
    peer = peer_of(cache)
    network, store = peer.network, peer._store
    total, count = 0.0, 0
    for clip in store.indices("validation"):  # clip by clip, in one call of the library's own modules
        steps = store.steps(clip).astype(np.int64)
        past = np.concatenate([[int(store.features.silence())], steps[:-1]])
        with torch.no_grad():
            hidden, _ = network.lstm(network.embedding(torch.from_numpy(past)[None]))
            nats = torch.nn.functional.cross_entropy(network.head(hidden)[0], torch.from_numpy(steps), reduction="sum")
        total, count = total + float(nats), count + len(steps)
    assert math.isclose(peer.bits_per_sample(), total / count / math.log(2), rel_tol=1e-5)


def test_the_peer_reads_clips_as_jaxgen_does_whatever_silence_is_before_them(cache, torch):
    peer = peer_of(cache)
    store, scores = peer._store, []
    for lookback in (1, 16):
        state, total = peer.network.start(2), 0.0
        batches = scoring_batches(
            store, store.spec(()), store.indices("validation"), (), lookback=lookback, batch_size=2, seq_len=50
        )
        for batch in batches:
            with torch.no_grad():
                nats, state = peer.network.nats(batch, state)
            total += float(nats.sum())
        scores.append(total)
    assert math.isclose(*scores, rel_tol=1e-5)


@pytest.mark.usefixtures("torch")
def test_the_peer_learns(cache):
    peer = peer_of(cache)
    before = peer.bits_per_sample()
    for _ in range(20):
        peer.update()
    assert peer.bits_per_sample() < before - 0.1


@pytest.mark.usefixtures("torch")
def test_the_width_matches_the_parameters(cache):
    for layers in (1, 2, 3):
        network = peer_of(cache, hidden_size=20, num_layers=layers, embedding_size=5).network
        assert sum(p.numel() for p in network.parameters()) == quality.parameters(256, 5, 20, layers)
        options = quality.Options(peer=quality.Peer(num_layers=layers, embedding_size=5))
        assert quality._size(options, quality.parameters(256, 5, 20, layers) + 3)["hidden_size"] == 20


def test_a_turn_makes_up_for_the_one_before(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("benchmarks.quality_peers.clock.time.perf_counter", lambda: now[0])

    def update() -> int:
        now[0] += 0.8
        return 5

    def bits() -> float:
        now[0] += 100.0  # does not count
        return 1.0

    run = trained_in_turns(2.0, update, bits)
    found = [run(1) for _ in range(3)]
    assert [score["steps"] for score in found] == [15, 25, 40]
    np.testing.assert_allclose([score["train_seconds"] for score in found], [2.4, 4.0, 6.4])


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (("--minutes", "0"), "--minutes 0"),
        (("--config", str(Path(__file__).parent.parent / "configs" / "digits_mel.py")), "MuLaw"),
        (("--ours.train.stepz", "2"), "--ours.train.steps"),
    ],
)
def test_a_mistake_is_one_line(asked, said):
    with pytest.raises(UserError, match=said):
        quality.main(asked)
