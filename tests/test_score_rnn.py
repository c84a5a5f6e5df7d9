"""Models of written music: their heads are distributions, their steps are one function of time, and pieces are as asked."""

import dataclasses
import itertools
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import nightly
from flax import nnx

from jaxgen.cli import generate, train
from jaxgen.core.errors import UserError
from jaxgen.data.ingest import AudioPolicy
from jaxgen.data.preparation import prepare
from jaxgen.data.scores import ComposedChorales, ComposedTunes, Scores
from jaxgen.evaluation.score_evaluation import MarkovChain
from jaxgen.features import Chords, Countdown, LogMel, Melody, PianoRoll, Voices
from jaxgen.features.notes import SOUNDING, STRUCK
from jaxgen.inference.score_sampler import ScoreSampler
from jaxgen.models.conditioning import Conditioning
from jaxgen.models.score_rnn import ScoreRNN
from jaxgen.nn.attention import PastAttention
from jaxgen.nn.distributions import Sampling
from jaxgen.nn.note_heads import (
    IndependentKeys,
    IndependentKeysHead,
    RootThenQuality,
    SortedKeys,
    SortedKeysHead,
    VoiceByVoice,
)
from jaxgen.nn.recurrent import GRU
from jaxgen.objectives.likelihood import Likelihood
from jaxgen.objectives.optimizer import AdamW
from jaxgen.scores.chords import match_chord
from jaxgen.scores.compose.tunes import compose_tune
from jaxgen.scores.files import read_scores
from jaxgen.scores.midi import write_midi
from jaxgen.scores.score import Score, ScoreError, ends, make_notes, quantise, select_tracks

B, T, H = 3, 12, 6
VOICES = Voices(lowest=36, highest=84)
SMALL = Voices(names=("high", "low"), lowest=60, highest=61)
KEYS = 4


@pytest.fixture(scope="module")
def chorales(cache):
    streams = {"left": Countdown(most=8), "melody": Melody()}
    return prepare(ComposedChorales(num_clips=20), Voices(), AudioPolicy(), cache, streams)


@pytest.fixture(scope="module")
def tunes(cache):
    return prepare(ComposedTunes(num_clips=20), PianoRoll(), AudioPolicy(), cache, {"left": Countdown(most=8)})


@pytest.fixture(scope="module")
def accompanied(cache):
    return prepare(ComposedTunes(num_clips=20), Chords(), AudioPolicy(), cache, {"melody": Melody(per_frame=2)})


# ------------------------------------------------------------------------------------------------ heads


def small_keys(head, config, onsets):
    """A head over four keys, so that all frames can be listed."""
    kind = type("Few", (PianoRoll,), {"step_shape": property(lambda self: (KEYS,))})
    few = kind(onsets=onsets)
    arguments = (few, H, jnp.float32, nnx.Rngs(0))
    return head(config, *arguments) if config else head(*arguments)


def every_frame(before, onsets):
    """All frames that can stand behind one: a key that was silent cannot go on."""
    codes = [(0, 1, 2) if was else (0, 2) for was in before] if onsets else [(0, 1)] * len(before)
    return np.array(list(itertools.product(*codes)), np.uint8)


@pytest.mark.parametrize("onsets", [False, True])
@pytest.mark.parametrize(("head", "config"), [(IndependentKeysHead, None), (SortedKeysHead, SortedKeys(width=5))])
def test_probabilities_of_all_frames_add_up_to_one(head, config, onsets):
    module = small_keys(head, config, onsets)
    before = np.array([1, 0, 2, 0], np.uint8) if onsets else np.array([1, 0, 1, 0], np.uint8)
    frames = every_frame(before, onsets)
    hidden = jax.random.normal(jax.random.key(1), (H,))
    nats = module.log_prob(*(np.broadcast_to(x, (len(frames), len(x))) for x in (hidden, before)), frames)
    assert np.exp(nats).sum() == pytest.approx(1, abs=1e-4)


def test_probabilities_of_all_voices_add_up_to_one():
    module = VoiceByVoice(width=5).make(SMALL, H, dtype=jnp.float32, rngs=nnx.Rngs(0))
    hidden, before = jax.random.normal(jax.random.key(1), (H,)), np.array([3, 0], np.uint8)
    high = [0, 1, 3, 4]  # rest, two pitches, and the second of them held
    frames = np.array(list(itertools.product(high, [0, 1, 3])), np.uint8)
    nats = module.log_prob(*(np.broadcast_to(x, (len(frames), len(x))) for x in (hidden, before)), frames)
    assert np.exp(nats).sum() == pytest.approx(1, abs=1e-4)


def test_probabilities_of_all_chords_add_up_to_one():
    head = RootThenQuality().make(Chords(qualities=("", "m")), H, dtype=jnp.float32, rngs=nnx.Rngs(0))
    hidden = jax.random.normal(jax.random.key(0), (H,))
    frames = np.array([[0, 0], *itertools.product(range(1, 13), range(2))], np.uint8)
    nats = head.log_prob(jnp.broadcast_to(hidden, (len(frames), H)), frames, frames)
    assert float(jnp.exp(nats).sum()) == pytest.approx(1, abs=1e-5)
    drawn = head.sample(
        jnp.broadcast_to(hidden, (500, H)), frames[:500], jax.random.uniform(jax.random.key(1), (500, 2)), Sampling()
    )
    shares = [float((drawn == frame).all(axis=1).mean()) for frame in frames]
    np.testing.assert_allclose(shares, np.exp(nats), atol=0.08)


def test_chords_are_those_of_the_score(accompanied):
    """Composed tunes play triads and sevenths: what is read of them is what they are made of, and comes back."""
    features, steps = accompanied.features, accompanied.steps(0)
    again = features.encode_score(dataclasses.replace(select_tracks(features.decode_score(steps), [0, 0])))
    np.testing.assert_array_equal(again, steps)
    moved = features.vary(steps, 2)
    np.testing.assert_array_equal(moved[:, 0] % 12, (steps[:, 0] + 1) % 12)
    np.testing.assert_array_equal(features.vary(moved, 1), steps)


@pytest.mark.slow
def test_attention_finds_what_followed():
    """Behind a state that was there before, the frame that followed it weighs most, wherever that was in reach."""
    attention = PastAttention(8, 1, 4, 3, dtype=jnp.float32, rngs=nnx.Rngs(0))
    for linear in (attention.query, attention.key):
        linear.kernel[...] = 10 * jnp.eye(4)
    attention.value.kernel[...] = jnp.eye(3, 4)
    attention.out.kernel[...] = jnp.eye(4)
    states = np.eye(4, dtype=np.float32)[[0, 1, 2, 3, 1]][None]
    frames = np.eye(3, dtype=np.float32)[[0, 0, 1, 2, 0]][
        None
    ]  # the frame before each step: 1 followed the state of step 1
    since = np.arange(5)[None]
    out, _ = attention(jnp.asarray(states), jnp.asarray(frames), jnp.asarray(since), attention.init_carry(1))
    read = np.asarray(out - states)
    np.testing.assert_allclose(read[0, 4, :3], [0, 1, 0], atol=0.01)
    np.testing.assert_allclose(read[0, 0], 0, atol=1e-6)
    anew, _ = attention(
        jnp.asarray(states), jnp.asarray(frames), jnp.asarray(since - since[:, 3:4]).clip(0), attention.init_carry(1)
    )
    np.testing.assert_allclose((anew - states)[0, 3], 0, atol=1e-6)  # a clip that begins there reads none before it
    with pytest.raises(UserError, match="attention of 3 heads"):
        PastAttention(8, 3, 4, 3, dtype=jnp.float32, rngs=nnx.Rngs(0))


@pytest.mark.parametrize("kind", ["independent", "sorted", "voices"])
def test_frames_are_drawn_as_often_as_they_are_likely(kind):
    if kind == "voices":
        module, before = VoiceByVoice(width=5).make(SMALL, H, dtype=jnp.float32, rngs=nnx.Rngs(0)), [3, 0]
    else:
        head, config = {
            "independent": (IndependentKeysHead, None),
            "sorted": (SortedKeysHead, SortedKeys(width=5)),
        }[kind]
        module, before = small_keys(head, config, True), [1, 0, 2, 0]
    count, hidden = 20_000, jax.random.normal(jax.random.key(1), (H,))
    many = [np.broadcast_to(x, (count, len(x))) for x in (hidden, np.array(before, np.uint8))]
    noise = jax.vmap(module.noise)(jax.random.split(jax.random.key(2), count))
    frames, counts = np.unique(module.sample(*many, noise, Sampling()), axis=0, return_counts=True)
    nats = module.log_prob(many[0][: len(frames)], many[1][: len(frames)], frames)
    np.testing.assert_allclose(counts / count, np.exp(nats), atol=4 * np.sqrt(0.25 / count))
    likeliest = module.predict(*(each[:1] for each in many))[0]
    if kind != "sorted":  # whose likeliest first key may not begin the likeliest chord
        assert (likeliest == frames[counts.argmax()]).all()


def test_a_piece_with_too_many_notes_is_refused(tunes):
    few = dataclasses.replace(tunes.features, most_notes=2)
    with pytest.raises(ScoreError, match=r"notes at a time, expected at most --features\.most-notes 2"):
        few.encode_score(tunes.features.decode_score(tunes.steps(0)))


@pytest.mark.parametrize(
    ("output", "features", "said"),
    [
        (VoiceByVoice(), PianoRoll(), "VoiceByVoice draws frames of Voices, but --features is PianoRoll"),
        (SortedKeys(), Voices(), "SortedKeys draws frames of PianoRoll, but --features is Voices"),
        (IndependentKeys(), Voices(), "IndependentKeys draws frames of PianoRoll"),
        (SortedKeys(width=0), PianoRoll(), "--model.output.width is 0"),
    ],
)
def test_a_head_asks_for_its_frames(output, features, said):
    with pytest.raises(UserError, match=said):
        output.make(features, H, dtype=jnp.float32, rngs=nnx.Rngs(0))


# ------------------------------------------------------------------------------------------------ features


@pytest.mark.parametrize(("variant", "semitones"), list(enumerate((0, -1, 1, -2, 2, -3, 3, -4, 4, -5, 5, 6))))
def test_a_variant_is_the_piece_in_another_key(chorales, tunes, variant, semitones):
    for store in (chorales, tunes):
        features, steps = store.features, store.steps(0)
        plain, moved = (features.decode_score(each).notes for each in (steps, features.vary(steps, variant)))
        for name in ("onset", "duration", "track"):
            np.testing.assert_array_equal(np.sort(plain[name]), np.sort(moved[name]))
        by = np.sort(moved["pitch"]).astype(int) - np.sort(plain["pitch"])
        assert set(by.tolist()) == {semitones}


def test_a_repeated_note_is_told_from_a_held_one(tunes):
    """As many keys are struck as notes begin."""
    steps, score = tunes.steps(0), tunes.features.decode_score(tunes.steps(0))
    onsets = {(int(note["onset"]), int(note["pitch"])) for note in score.notes}
    assert (steps == STRUCK).sum() == len(onsets) == len(score.notes)
    assert (steps == SOUNDING).sum() > 0
    repeated = Score(make_notes([0, 4], 4, 60), 4, 8)
    np.testing.assert_array_equal(np.argwhere(PianoRoll().encode_score(repeated) == STRUCK), [[0, 39], [4, 39]])
    assert not (PianoRoll(onsets=False).encode_score(repeated) == STRUCK).any()


def test_notes_that_go_on_from_none_begin(chorales, tunes):
    """Where pieces are put together: as what is written, and read again."""
    for store in (chorales, tunes):
        joined = np.concatenate([store.steps(0)[5:21], store.steps(1)[9:33], store.steps(2)[3:]])
        features = store.features
        begun = features.begin_notes(np.stack([joined, joined[::-1]]))
        for mine, given in zip(begun, (joined, joined[::-1]), strict=True):
            np.testing.assert_array_equal(mine, features.encode_score(features.decode_score(given))[: len(given)])


@pytest.mark.parametrize("semitones", range(-12, 13))
def test_no_code_is_beyond_the_range(semitones):
    """Of a range of less than an octave, notes that have no place are left out."""
    few = Voices(names=("m",), lowest=60, highest=66, transpositions=1)
    codes = np.arange(1 + 2 * few.num_pitches, dtype=np.uint8)[:, None]
    moved = few.moved(codes, semitones)
    assert moved.max() <= 2 * few.num_pitches
    stay = (moved > 0)[:, 0]
    assert set(((moved[stay].astype(int) - codes[stay]) // 2 - semitones).ravel().tolist()) <= {0, 12, -12}
    with pytest.raises(UserError, match="at most 127 pitches"):
        Voices(lowest=0, highest=127)
    with pytest.raises(UserError, match="Melody is track -1"):
        Melody(track=-1)


def test_chords_are_those_that_sound_in_their_frame():
    features = Chords()
    for index in range(5):
        score = quantise(compose_tune(3, index), (4,))[0]
        notes, ticks = select_tracks(score, [1]).notes, score.ticks_per_quarter // 2
        for frame, (root, quality) in enumerate(features.encode_score(score).tolist()):
            sounds = (notes["onset"] < (frame + 1) * ticks) & (ends(notes) > frame * ticks)
            chord = match_chord(notes[sounds]["pitch"].tolist(), features.qualities)
            assert (root > 0) == (chord is not None)
            if chord is not None:
                assert (root - 1, features.qualities[quality]) == (chord.root, chord.quality)


def test_variant_0_is_the_piece_itself(chorales):
    np.testing.assert_array_equal(chorales.features.vary(chorales.steps(0), 0), chorales.steps(0))


def test_the_melody_goes_where_the_voices_go(chorales):
    melody = dict(chorales.streams)["melody"]
    codes = chorales.stream("melody", 0)
    np.testing.assert_array_equal(codes, chorales.steps(0)[:, 0])
    moved = chorales.features.vary(chorales.steps(0), 4)[:, 0]
    np.testing.assert_array_equal(melody.vary(codes, 4), moved)


def test_a_countdown_ends_with_the_piece(chorales):
    left = chorales.stream("left", 0)
    assert left[-9:].tolist() == [8, 7, 6, 5, 4, 3, 2, 1, 0]
    assert set(left[:-9].tolist()) == {8}
    with pytest.raises(UserError, match="the number of frames is 'x'"):
        Countdown().parse("x", chorales.features)


def test_sound_is_no_score_and_scores_make_sound(cache, tunes):
    with pytest.raises(UserError, match="PianoRoll are frames of written music"):
        PianoRoll().encode(np.zeros(100, np.float32))
    mel = LogMel(sample_rate=8_000, n_fft=256, hop_length=100, n_mels=10)
    heard = prepare(ComposedTunes(num_clips=2), mel, AudioPolicy(), cache)
    assert heard.samples(0).max() > 0.01
    assert np.abs(len(tunes.samples(0)) - tunes.features.num_samples(len(tunes.steps(0)))) == 0
    assert tunes.samples(0).shape[1] == 2


# ------------------------------------------------------------------------------------------------ models


MODELS = {
    "voices": (ScoreRNN(cell=GRU(H), output=VoiceByVoice(width=5), aligned_streams=("left",), lags=(1, 4)), "chorales"),
    "melody": (
        ScoreRNN(cell=GRU(H), output=VoiceByVoice(width=5), context_streams=("melody",), context_cell=GRU(4)),
        "chorales",
    ),
    "chords": (
        ScoreRNN(cell=GRU(H), output=RootThenQuality(), context_streams=("melody",), context_cell=GRU(4), lags=(2,)),
        "accompanied",
    ),
    "attention": (ScoreRNN(cell=GRU(H), output=VoiceByVoice(width=5), attention=5, attention_heads=2), "chorales"),
    "keys": (ScoreRNN(cell=GRU(H), output=SortedKeys(width=5), periods=(), lags=()), "tunes"),
    "independent": (ScoreRNN(cell=GRU(H), num_layers=1, output=IndependentKeys()), "tunes"),
}


@pytest.fixture(params=["voices", "chords", "attention", nightly("melody"), nightly("keys"), nightly("independent")])
def made(request):
    config, store = MODELS[request.param]
    store = request.getfixturevalue(store)
    return config, store, config.make(store.spec(()), rngs=nnx.Rngs(0))


def test_unroll_is_repeated_step(made):
    config, store, model = made
    batch = next(iter(config.training_batches(store, store.spec(()), batch_size=B, seq_len=640, seed=1)))
    batch = {name: value[:, : config.lookback + T] if name == "x" else value for name, value in batch.items()}
    conditioning = model.encode_context(Conditioning.of(batch)).each_step(lambda values: values[:, :T])
    reset = np.array(batch["reset"][:, :T])
    reset[1, 5] = True
    outputs, last = nnx.jit(lambda model: model.unroll(batch["x"], conditioning, model.init_carry(B), reset))(model)
    step, carry = nnx.jit(lambda model, *arguments: model.step(*arguments)), model.init_carry(B)
    for t in range(T):
        fresh = model.init_carry(B)
        now = reset[:, t]
        carry = jax.tree.map(
            lambda new, old, now=now: np.where(now.reshape(-1, *[1] * (new.ndim - 1)), new, old), fresh, carry
        )
        out, carry = step(model, batch["x"][:, t : t + config.lookback], conditioning.at(t), carry)
        if t == 5:  # within a clip the age of a note is that of x, which a reset alone does not cut
            continue
        rows = slice(None) if t < 5 else [0, 2]
        np.testing.assert_allclose(np.asarray(out)[rows], np.asarray(outputs)[rows, t], rtol=1e-4, atol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a[::2], b[::2], rtol=1e-4, atol=1e-5), carry, last)


def test_it_learns_and_writes_pieces_as_long_as_asked(made):
    config, store, _ = made
    spec = store.spec(())
    learning = AdamW(learning_rate=1e-2, warmup_steps=1)
    task = Likelihood(optimizer=learning).build(config, spec, steps=30, batch_size=4)
    state, step = task.init(jax.random.key(0)), jax.jit(task.train_step)
    batch = next(iter(config.training_batches(store, spec, batch_size=4, seq_len=640, seed=0)))
    losses = []
    for _ in range(30):
        state, metrics = step(state, batch)
        losses.append(float(metrics["loss"]))
    assert losses[-1] < 0.8 * losses[0]
    sampler = ScoreSampler(task.module, config, spec, spec.features)
    given = [{"melody": store.stream("melody", 0)}] * 2 if config.context_streams else None
    bars = None if given else 2
    scores = sampler.compose(state.average, [{}] * 2, inputs=given, bars=bars)
    frames = len(store.stream("melody", 0)) if given else 32
    assert [score.quarters for score in scores] == [frames / spec.features.frames_per_quarter] * 2
    again = sampler.compose(state.average, [{}] * 2, inputs=given, bars=bars)
    assert scores == again
    if given:
        assert select_tracks(scores[0], [0]).notes.tolist() == melody_notes(store).tolist()
        return
    prompt = store.steps(0)[:16]
    longer = sampler.compose(state.average, [{}], prompt=prompt, bars=3)[0]
    features = spec.features  # a model that has hardly learned may draw more notes than a piece may have
    if isinstance(features, PianoRoll):
        features = dataclasses.replace(features, most_notes=88)
    np.testing.assert_array_equal(features.encode_score(longer)[:16], prompt)
    assert longer.quarters == 12
    with pytest.raises(UserError, match="the prompt has 1 bars; raise --bars 1"):
        sampler.compose(state.average, [{}], prompt=prompt, bars=1)


def melody_notes(store):
    melody = dict(store.streams)["melody"]
    return melody.written(store.stream("melody", 0), store.features).notes


def test_a_chain_is_a_distribution_over_frames():
    pieces = [np.random.default_rng(0).integers(3, size=(50, 2)).astype(np.uint8)]
    chain = MarkovChain(pieces)
    codes = np.array(list(itertools.product(range(3), repeat=2)), np.uint8)
    nats = [chain.nats_per_frame([frame[None]]) for frame in codes]
    assert np.exp(-np.array(nats)).sum() == pytest.approx(1)
    drawn = chain.draw(20_000, np.random.default_rng(1))
    assert chain.nats_per_frame([drawn]) == pytest.approx(chain.nats_per_frame(pieces), rel=0.05)


# ------------------------------------------------------------------------------------------------ commands


SHRUNK = (
    *("--data.composed.num-clips", "10", "--model.cell.hidden-size", "8", "--model.num-layers", "1"),
    *("--train.steps", "2", "--train.eval-every", "2", "--train.checkpoint-every", "2", "--train.batch-size", "9"),
    *("--evaluation.num-clips", "2", "--evaluation.num-previews", "1"),
)


def test_a_melody_comes_out_as_it_is(command, cache, tmp_path):
    pytest.importorskip("symusic", reason="MIDI files need jaxgen[music]")
    run = tmp_path / "run"
    config = (
        "--config",
        Path(__file__).parent.parent / "configs" / "harmonise.py",
        "--workdir",
        run,
        "--cache-dir",
        cache,
    )
    assert command(train.main, *config, *SHRUNK, "--model.context-cell.hidden-size", "4")[0] == 0
    table = json.loads((run / "report.json").read_text())["table"]
    assert {"held-out data", "generated", "Markov chain"} < table.keys()
    assert table["held-out data"]["in_key_share"] > table["Markov chain"]["in_key_share"]
    melody = select_tracks(ComposedChorales(seed=9).compose(0), [0])
    write_midi(tmp_path / "tune.mid", melody)
    shared = ("--workdir", run, "--cache-dir", cache, "--num-clips", "1")
    code, _, err = command(generate.main, *shared, "--melody", tmp_path / "tune.mid")
    assert code == 0, err
    folder = run / "generated" / "seed_0"
    assert {path.suffix for path in folder.iterdir()} == {".json", ".mid", ".png", ".wav"}
    read = read_scores(folder / "000.mid")[0][1]
    assert json.loads(read.comment)["synthetic"] is True
    first = select_tracks(read.score, [0])

    def plain(score):
        notes, frame = score.notes, score.ticks_per_quarter // 4
        return list(zip(notes["onset"] // frame, notes["duration"] // frame, notes["pitch"], strict=True))

    assert plain(first) == plain(melody)
    for options, said in (
        ((), "the model reads 'melody', which is not said; pass --melody FILE"),
        (("--melody", tmp_path / "none.mid"), "the melody"),
        (("--melody", folder / "000.wav"), "is no suffix of written music"),
        (("--vocoder", run), "--vocoder holds a run of a ScoreRNN"),
    ):
        code, _, err = command(generate.main, *shared, *options)
        assert (code, said in err, err.count("\n")) == (2, True, 1), err


def test_what_a_model_wrote_is_no_data(tmp_path, cache):
    pytest.importorskip("symusic", reason="MIDI files need jaxgen[music]")
    mark = '{"synthetic": true, "generator": "jaxgen 0.2.0"}'
    for place in range(4):
        score = ComposedTunes(seed=1).compose(place)
        (tmp_path / "music").mkdir(exist_ok=True)
        write_midi(tmp_path / "music" / f"{place}.mid", score, comment=mark if place == 3 else "")
    data, policy = Scores(root=str(tmp_path / "music")), AudioPolicy()
    kept = prepare(data, PianoRoll(), policy, cache)
    assert [clip.name for clip in kept.clips] == ["0.mid", "1.mid", "2.mid"]
    assert kept.report["refused"] == [
        {"name": "3.mid", "reason": "written by a model; --audio.synthetic accept takes it"}
    ]
    taken = prepare(data, PianoRoll(), dataclasses.replace(policy, synthetic="accept"), cache)
    assert len(taken.clips) == 4
    mel = LogMel(sample_rate=8_000, n_fft=256, hop_length=100, n_mels=10)
    assert len(prepare(data, mel, policy, cache).clips) == 3


def test_a_folder_without_music_is_one_line(tmp_path):
    (tmp_path / "notes.txt").write_text("no music")
    with pytest.raises(UserError, match="no written music in"):
        Scores(root=str(tmp_path)).clips()
    with pytest.raises(UserError, match="no folder"):
        Scores(root=str(tmp_path / "none")).clips()
    (tmp_path / "a.npz").write_bytes(b"no archive")
    with pytest.raises(UserError, match="holds no written music"):
        Scores(root=str(tmp_path / "a.npz")).clips()
