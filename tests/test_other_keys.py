"""A melody or a prompt in another key than the training data: found out, moved there, and what is made is moved back."""

import dataclasses

import jax
import numpy as np
import pytest

from jaxgen.data.ingest import AudioPolicy
from jaxgen.data.preparation import prepare
from jaxgen.data.scores import ComposedScores, ComposedTunes
from jaxgen.features import Countdown, Melody, PianoRoll, Voices
from jaxgen.features.notes import OFFSETS
from jaxgen.inference.score_sampler import ScoreSampler
from jaxgen.models.score_rnn import ScoreRNN
from jaxgen.nn.distributions import Sampling
from jaxgen.nn.note_heads import SortedKeys, VoiceByVoice
from jaxgen.nn.recurrent import GRU
from jaxgen.objectives.likelihood import Likelihood
from jaxgen.objectives.optimizer import AdamW
from jaxgen.scores.compose.chorales import compose_chorale
from jaxgen.scores.compose.tunes import compose_tune
from jaxgen.scores.limits import NoteLimits
from jaxgen.scores.score import select_tracks, transpose
from jaxgen.scores.transposition import count_pitch_classes, find_key, fit_transposition

WAYS = [-5, -4, -3, -2, -1, 1, 2, 3, 4, 5]
ACCOMPANIMENT = Voices(names=("alto", "tenor", "bass"), tracks=(1, 2, 3), lowest=30)


def in_c(score):
    """The piece in C major or A minor."""
    key = score.key_signatures[0]
    return transpose(score, -((key.tonic + 3 * key.minor + 5) % 12 - 5))


@dataclasses.dataclass(frozen=True)
class ChoralesInC(ComposedScores):
    def compose(self, index):
        return in_c(compose_chorale(self.seed, index))


@pytest.mark.parametrize("compose", [compose_chorale, compose_tune])
def test_the_key_of_a_corpus_is_found_where_there_is_one(compose):
    pieces = [compose(0, index) for index in range(40)]
    assert find_key([count_pitch_classes(piece) for piece in pieces]) == ()
    key = find_key([count_pitch_classes(in_c(piece)) for piece in pieces])
    assert np.shape(key) == (40, 12)
    found, alike = [], []
    for index in range(100, 130):
        melody = select_tracks(in_c(compose(0, index)), [0])
        found.append(fit_transposition(count_pitch_classes(melody), key) == 0)
        ways = [fit_transposition(count_pitch_classes(transpose(melody, way)), key) + way for way in WAYS]
        alike += [way % 12 == 0 for way in ways] if found[-1] else []
    assert np.mean(found) > 0.8  # some melodies of few notes are in several keys
    assert all(alike)


def test_without_a_key_nothing_moves():
    assert find_key([]) == find_key([(1,) * 12]) == ()
    assert fit_transposition((5, *[0] * 11), ()) == 0
    assert fit_transposition((0,) * 12, [(9, 0, 4, 0, 5, 4, 0, 8, 0, 4, 0, 2)] * 3) == 0


def make(cache, data, features, streams, **options):
    store = prepare(data, features, AudioPolicy(), cache, streams)
    options = {"cell": GRU(8), "num_layers": 1, "output": VoiceByVoice(width=8), "lags": (4,), "dropout": 0.0} | options
    config = ScoreRNN(**options)
    spec = store.spec(())
    task = Likelihood(optimizer=AdamW(learning_rate=1e-2, warmup_steps=20), ema_decay=0.98).build(
        config, spec, steps=120, batch_size=16
    )
    return store, task, config, ScoreSampler(task.module, config, spec, spec.features)


def made(score, first_track=0):
    """Onset, duration and pitch of the notes of all tracks from one on."""
    return [(n["onset"], n["duration"], int(n["pitch"])) for n in score.notes if n["track"] >= first_track]


def test_a_prompt_is_continued_as_its_transposition_is(cache):
    streams = {"left": Countdown(most=8)}
    options = {"output": SortedKeys(width=8), "aligned_streams": ("left",)}
    store, task, _, sampler = make(cache, ComposedTunes(num_clips=20), PianoRoll(), streams, **options)
    assert store.spec(()).key == ()
    params, prompt = task.init(jax.random.key(0)).average, store.steps(0)[:32]
    assert sampler.fit_key(prompt=prompt) == 0
    within = Sampling(range=("36:90",))
    plain = sampler.compose(params, [{}] * 2, prompt=prompt, bars=3, sampling=within)
    for way in (-5, 3):
        moved = store.features.moved(prompt, way)
        scores = sampler.compose(params, [{}] * 2, prompt=moved, bars=3, semitones=-way, sampling=within.moved(way))
        assert [made(score) for score in scores] == [made(transpose(score, way)) for score in plain]
    inside = sampler.compose(params, [{}], prompt=prompt, bars=4, semitones=3, sampling=Sampling(key="Eb"))[0]
    new = inside.notes[inside.notes["onset"] >= 32]["pitch"].astype(int)
    assert len(new)
    assert NoteLimits(key=(3, False)).allow(new).all()


@pytest.mark.slow
def test_a_melody_is_harmonised_alike_in_all_keys(cache):
    """In C and A minor only, a small model learns for seconds; what it does with a melody does not depend on its key."""
    streams, context = {"melody": Melody()}, {"context_streams": ("melody",), "context_cell": GRU(24)}
    sizes = {"cell": GRU(48), "output": VoiceByVoice(width=48)}
    store, task, config, sampler = make(cache, ChoralesInC(num_clips=60), ACCOMPANIMENT, streams, **context, **sizes)
    spec = store.spec(())
    assert len(spec.key) == 54
    state, step = task.init(jax.random.key(0)), jax.jit(task.train_step)
    batches = config.training_batches(store, spec, batch_size=16, seq_len=192, seed=0)
    for _, batch in zip(range(120), batches, strict=False):
        state, _ = step(state, batch)
    shares, melody = [], streams["melody"]
    for clip in store.indices("validation")[:4]:
        given = store.stream("melody", clip)[:96]
        assert sampler.fit_key({"melody": given}) == 0
        key = in_c(compose_chorale(0, int(store.clips[clip].name[-5:]))).key_signatures[0]
        here = []
        for variant, way in enumerate(OFFSETS):
            inputs = {"melody": melody.vary(given, variant)}
            options = {"semitones": sampler.fit_key(inputs), "sampling": Sampling(temperature=0.0)}
            score = sampler.compose(state.average, [{}], inputs=[inputs], **options)[0]
            assert made(select_tracks(score, [0])) == made(melody.written(inputs["melody"], spec.features))
            here.append([(onset, duration, pitch - way) for onset, duration, pitch in made(score, 1)])
            notes = score.notes[score.notes["track"] >= 1]
            inside = NoteLimits(key=((key.tonic + way) % 12, key.minor)).allow(notes["pitch"].astype(int))
            shares.append((notes["duration"] * inside).sum() / notes["duration"].sum())
        assert all(notes == here[0] for notes in here)
    shares = np.reshape(shares, (-1, len(OFFSETS))).mean(axis=0)
    assert np.ptp(shares) < 0.05 * shares.max()
