"""What users of systems that write music complain of, as tests beside the same figures of the corpus.

One small model learns composed chorales. Each check is shown to fail on a piece that has its complaint.
"""

import dataclasses
import json
from collections.abc import Sequence
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from jaxgen.config import Config
from jaxgen.core.errors import UserError
from jaxgen.core.serial import from_json, to_json
from jaxgen.data.ingest import AudioPolicy
from jaxgen.data.preparation import prepare
from jaxgen.data.scores import ComposedChorales, Scores
from jaxgen.data.spec import DataSpec
from jaxgen.evaluation.score_evaluation import MarkovChain, ScoreEvaluation
from jaxgen.features import Countdown, Melody, Voices
from jaxgen.inference.score_sampler import ScoreSampler
from jaxgen.models.score_rnn import ScoreRNN
from jaxgen.nn.distributions import Sampling
from jaxgen.nn.note_heads import VoiceByVoice
from jaxgen.nn.recurrent import GRU
from jaxgen.objectives.likelihood import Likelihood
from jaxgen.objectives.optimizer import AdamW
from jaxgen.runs.saved_run import check_same_run
from jaxgen.scores.analysis import in_key_share, measure_score, rhythm_histogram
from jaxgen.scores.files import read_scores
from jaxgen.scores.midi import write_midi
from jaxgen.scores.score import Score, Tempo, TimeSignature, crop, crop_ticks, make_notes, select_tracks, transpose

pytestmark = pytest.mark.slow

BARS = 16
USUAL = Sampling(temperature=0.8)
OPTIMISED = {"xla_backend_optimization_level": 3, "xla_llvm_disable_expensive_passes": False}
"""Of the one program that trains, where the tests' own flags would cost more than they save."""


def learn(store, model, *, steps, batch_size, seq_len):
    """A sampler and the parameters that it takes."""
    spec = store.spec(())
    objective = Likelihood(optimizer=AdamW(learning_rate=1e-2, warmup_steps=20), ema_decay=0.98)
    task = objective.build(model, spec, steps=steps, batch_size=batch_size)
    state, step = task.init(jax.random.key(0)), jax.jit(task.train_step, compiler_options=OPTIMISED)
    batches = iter(model.training_batches(store, spec, batch_size=batch_size, seq_len=seq_len, seed=0))
    for _ in range(steps):
        state, _ = step(state, next(batches))
    return ScoreSampler(task.module, model, spec, store.features), state.average


@pytest.fixture(scope="session")
def trained(cache):
    """A model of chorales, what it learned, and that music itself, none of which it writes as well as a model of more
    minutes does.
    """
    store = prepare(ComposedChorales(num_clips=60), Voices(), AudioPolicy(), cache, {"left": Countdown(most=32)})
    model = ScoreRNN(
        cell=GRU(96),
        num_layers=1,
        output=VoiceByVoice(width=64),
        aligned_streams=("left",),
        lags=(4, 16),
        periods=(2, 4, 16),
        dropout=0.0,
    )
    sampler, params = learn(store, model, steps=500, batch_size=16, seq_len=64)

    def compose(number=4, temperature=USUAL.temperature, **options):
        sampling = Sampling(temperature=temperature)
        return sampler.compose(params, [{}] * number, sampling=sampling, **({"bars": BARS, "seed": 1} | options))

    steps = [store.steps(clip) for clip in store.indices("train")]
    held_out = [store.steps(clip) for clip in store.indices("validation")]
    corpus = [store.features.decode_score(each) for each in steps]
    return SimpleNamespace(
        compose=compose,
        sampler=sampler,
        params=params,
        features=store.features,
        held_out=held_out,
        corpus=corpus,
        steps=steps,
    )


@pytest.fixture(scope="session")
def pieces(trained):
    """Pieces as a user gets them."""
    return trained.compose(8)


def figures(name: str, scores: Sequence[Score]) -> list[float]:
    """One figure of `ScoreFigures` of each piece that has notes."""
    return [float(getattr(found, name)) for found in map(measure_score, scores) if found is not None]


# ------------------------------------------------------------------------------------------------ checks


def no_note_is_repeated_without_end(scores, corpus):
    """As often in a row as in the corpus, and half as often again at the most: its pieces are up to twice as long."""
    assert max(figures("longest_repeated_note", scores)) <= 1.5 * max(figures("longest_repeated_note", corpus))


def notes_stop(scores, corpus):
    """No note is longer than the longest of the corpus by more than half."""
    assert max(figures("longest_note", scores)) <= 1.5 * max(figures("longest_note", corpus))


def there_is_music_all_along(scores, corpus):
    """No bar is empty, no piece has less than half of the notes that the emptiest piece of the corpus has."""
    assert len(figures("notes_per_quarter", scores)) == len(scores), "a piece has no notes"
    assert min(figures("notes_per_quarter", scores)) >= 0.5 * min(figures("notes_per_quarter", corpus))
    assert max(figures("empty_bar_share", scores)) <= max(figures("empty_bar_share", corpus))


def is_no_chaos(scores, corpus, least_in_key):
    """As dense as the corpus within a quarter, as many notes at a time, and each stretch of four bars in some key."""
    dense, wanted = np.mean(figures("notes_per_quarter", scores)), np.mean(figures("notes_per_quarter", corpus))
    assert 0.75 * wanted <= dense <= 1.25 * wanted
    together, usual = (np.mean(figures("polyphony", each)) for each in (scores, corpus))
    assert together == pytest.approx(usual, abs=0.25)
    assert locally_in_key(scores) >= least_in_key


def locally_in_key(scores):
    """Mean share of the sounding time in the best key of each stretch of four bars."""
    stretches = [
        crop_ticks(score, start, start + 16 * score.ticks_per_quarter)
        for score in scores
        for start in range(0, score.length, 16 * score.ticks_per_quarter)
    ]
    return float(np.nanmean([in_key_share(stretch) for stretch in stretches if len(stretch.notes)]))


def test_every_check_can_fail(trained):
    corpus, quarter = trained.corpus, 4
    one = Score(make_notes(quarter * np.arange(64), quarter, 60), quarter, 64 * quarter)
    endless = Score(make_notes(0, 64 * quarter, [60, 64, 67, 72]), quarter, 64 * quarter)
    half = crop_ticks(corpus[0], 0, 64 * quarter)
    half = dataclasses.replace(half, notes=half.notes[half.notes["onset"] < 8 * quarter])
    random = np.random.default_rng(0)
    noise = Score(make_notes(np.repeat(np.arange(256), 4), 1, random.integers(40, 80, 1024)), quarter, 256)
    for check, bad in (
        (no_note_is_repeated_without_end, one),
        (notes_stop, endless),
        (there_is_music_all_along, half),
        (there_is_music_all_along, Score(make_notes([], [], []), quarter, 256)),
        (lambda *args: is_no_chaos(*args, 0.8), noise),
    ):
        with pytest.raises(AssertionError):
            check([bad], corpus)
        check(corpus, corpus)


# ------------------------------------------------------------------------------------------------ complaints


def test_one_note_repeated_without_end(trained, pieces):
    no_note_is_repeated_without_end(pieces, trained.corpus)


def test_notes_that_never_stop(trained, pieces):
    notes_stop(pieces, trained.corpus)


@pytest.mark.parametrize("temperature", [0.0, 0.5, 1.0, 2.0])
def test_nothing_at_some_temperature(trained, temperature):
    there_is_music_all_along(trained.compose(temperature=temperature), trained.corpus)


@pytest.mark.parametrize("bars", [1, 3, 17])
def test_another_number_of_bars_than_asked(trained, bars):
    assert [score.length for score in trained.compose(2, bars=bars)] == [bars * trained.features.frames_per_bar] * 2


@pytest.mark.parametrize("frames", [1, 15, 32, 33])
def test_the_first_note_after_a_prompt_is_lost(trained, frames):
    """A model that goes on with its own beginning writes what it would have written; on bar lines and off them."""
    sampling, features = Sampling(temperature=0), trained.features
    (whole,) = trained.compose(1, temperature=0, bars=4)
    steps = features.encode_score(whole)
    (followed,) = trained.sampler.compose(trained.params, [{}], prompt=steps[:frames], bars=4, sampling=sampling)
    np.testing.assert_array_equal(features.encode_score(followed), steps)


def test_a_gap_is_filled_towards_what_follows(trained):
    """All other bars stay as they are, and what follows the gap is likelier behind what fills it than behind one way to go
    on, or behind silence.
    """
    bar, sampler, features = trained.features.frames_per_bar, trained.sampler, trained.features
    start, stop = 2 * bar, 4 * bar
    nats = []
    for place, steps in enumerate(trained.held_out):
        (filled,) = sampler.infill(trained.params, [{}], (3, 4), prompt=steps, sampling=USUAL, seed=place)
        made = features.encode_score(filled)
        np.testing.assert_array_equal(made[:start], steps[:start])
        np.testing.assert_array_equal((made[stop:] + 1) // 2, (steps[stop:] + 1) // 2)  # the pitches that sound
        np.testing.assert_array_equal(made[stop + 1 :], steps[stop + 1 :])  # what is held over the end begins there
        left = sampler._with_defaults([{}], 0, len(steps) * features.hop_length / features.sample_rate)
        (went_on,) = sampler.compose(
            trained.params, [{}], inputs=left, prompt=steps[:start], bars=4, sampling=USUAL, seed=place
        )
        one, silent = steps.copy(), steps.copy()
        one[start:stop], silent[start:stop] = features.encode_score(went_on)[start:stop], 0
        ways = features.begin_notes(np.stack([made, one, silent]))
        conditioning = dataclasses.replace(sampler._streams([*left] * 3), static=sampler._conditions([{}] * 3))
        nats.append(np.asarray(sampler._behind(trained.params, ways, conditioning, stop)))
    ours, one, silent = np.mean(nats, axis=0)
    assert ours > one > silent
    with pytest.raises(UserError, match="--infill begins in bar 900"):
        sampler.infill(trained.params, [{}], (900, 901), prompt=trained.held_out[0])


def test_a_prompt_stays_as_it_was(trained):
    """And what follows it is not silence: in the bar behind it as many notes begin as in a bar of the corpus, or half of it."""
    bar, features = trained.features.frames_per_bar, trained.features
    begun = []
    for steps in trained.held_out:
        (made,) = trained.compose(1, prompt=steps[: 2 * bar], bars=6)
        encoded = features.encode_score(made)
        np.testing.assert_array_equal(encoded[: 2 * bar], steps[: 2 * bar])
        assert len(encoded) == 6 * bar
        onsets = made.notes["onset"]
        begun.append(int(((2 * bar <= onsets) & (onsets < 3 * bar)).sum()))
    usual = np.mean([len(score.notes) * bar / score.length for score in trained.corpus])
    assert np.mean(begun) >= 0.5 * usual


@pytest.mark.parametrize("temperature", [0.0, 1.0, 2.0])
def test_the_given_voice_is_changed(cache, temperature):
    """Whatever the model has learned: this one has learned nothing."""
    voices = Voices(names=("alto", "tenor", "bass"), tracks=(1, 2, 3))
    store = prepare(ComposedChorales(num_clips=4), voices, AudioPolicy(), cache, {"melody": Melody()})
    model = ScoreRNN(
        cell=GRU(4), num_layers=1, output=VoiceByVoice(width=4), context_streams=("melody",), context_cell=GRU(4)
    )
    task = Likelihood().build(model, store.spec(()), steps=1, batch_size=1)
    sampler = ScoreSampler(task.module, model, store.spec(()), voices)
    given = store.stream("melody", 1)
    made = sampler.compose(
        task.init(jax.random.key(0)).params,
        [{}] * 2,
        inputs=[{"melody": given}] * 2,
        sampling=Sampling(temperature=temperature),
    )
    chorale = ComposedChorales().compose(1)
    for score in made:
        ours, theirs = (select_tracks(each, [0]) for each in (score, chorale))
        for name in ("onset", "duration", "pitch"):
            scale = 1 if name == "pitch" else 4
            np.testing.assert_array_equal(
                ours.notes[name].astype(int) * scale // (1 if name == "pitch" else ours.ticks_per_quarter),
                theirs.notes[name].astype(int) * scale // (1 if name == "pitch" else theirs.ticks_per_quarter),
            )


def test_chaos_beyond_four_times_the_training_length(trained):
    """The last bars of pieces four times as long as the longest that was learned, beside the first bars and a Markov chain."""
    longest = max(score.length for score in trained.corpus) // trained.features.frames_per_bar
    bars = 4 * longest + 2 * BARS
    scores = trained.compose(4, bars=bars, seed=2)
    first, last = [crop(each, 0, BARS) for each in scores], [crop(each, bars - BARS, bars) for each in scores]
    chain, random = MarkovChain(trained.steps), np.random.default_rng(0)
    drawn = [
        trained.features.decode_score(chain.draw(BARS * trained.features.frames_per_bar, random)) for _ in range(4)
    ]
    corpus, floor = locally_in_key(trained.corpus), locally_in_key(drawn)
    assert floor < corpus
    is_no_chaos(last, trained.corpus, least_in_key=(floor + corpus) / 2)
    assert locally_in_key(last) >= locally_in_key(first) - 0.1
    no_note_is_repeated_without_end(last, trained.corpus)
    notes_stop(last, trained.corpus)


def test_the_tempo_is_lost_in_the_midi_file(trained, tmp_path):
    pytest.importorskip("symusic", reason="MIDI files need jaxgen[music]")
    given = Score(
        make_notes([], [], []), 4, 0, (), (Tempo(0, 1_000_000), Tempo(24, 750_000)), (TimeSignature(0, 3, 4),)
    )
    for timing, tempi, metre in ((None, [100.0], (4, 4)), (given, [60.0, 80.0], (3, 4))):
        (score,) = trained.compose(1, bars=4, timing=timing)
        write_midi(tmp_path / "a.mid", score)
        read = read_scores(tmp_path / "a.mid")[0][1].score
        assert [tempo.quarters_per_minute for tempo in read.tempi] == tempi
        assert [(each.numerator, each.denominator) for each in read.time_signatures] == [metre]
        assert read.seconds == pytest.approx(score.seconds, rel=1e-3)
        assert score.quarters == 4 * metre[0]


TRIPLETS = "(3CEG (3cGE (3DFA (3dAF|(3EGB (3eBG C2|" * 3


def test_note_lengths_are_sixteenths_only(cache, tmp_path):
    """A model of a finer grid writes triplets as often as its corpus; one of sixteenths cannot, and the report says so."""
    for place, key in enumerate("CDFG"):
        (tmp_path / f"{place}.abc").write_text(f"X:1\nM:4/4\nL:1/8\nK:{key}\n{TRIPLETS}\n")
    fine = Voices(names=("melody",), frames_per_quarter=12)
    store = prepare(Scores(root=str(tmp_path)), fine, AudioPolicy(), cache)
    coarse = prepare(Scores(root=str(tmp_path)), dataclasses.replace(fine, frames_per_quarter=4), AudioPolicy(), cache)
    third = 4  # twelfths of a quarter, as `rhythm_histogram` counts
    corpus = np.mean([rhythm_histogram(fine.decode_score(store.steps(clip)))[third] for clip in range(4)])
    assert corpus > 0.8
    assert (store.report["grid"]["pieces_shifted"], coarse.report["grid"]["pieces_shifted"]) == (0, 4)
    lost = rhythm_histogram(coarse.features.decode_score(coarse.steps(0)))
    assert lost[third] == 0
    model = ScoreRNN(
        cell=GRU(48), num_layers=1, output=VoiceByVoice(width=16), lags=(4, 12), periods=(4, 12), dropout=0.0
    )
    sampler, params = learn(store, model, steps=150, batch_size=8, seq_len=96)
    scores = sampler.compose(params, [{}] * 4, bars=8, sampling=Sampling(temperature=0.5))
    assert np.mean([rhythm_histogram(score)[third] for score in scores]) == pytest.approx(corpus, abs=0.15)


def test_another_vocabulary_at_generation(trained, tmp_path):
    """A run says itself what its numbers mean, to whatever opens it; what does not fit in is refused."""
    features = Voices(lowest=40, highest=77, frames_per_quarter=12)
    saved = json.loads(json.dumps(to_json(DataSpec(features=features))))
    assert from_json(saved, DataSpec, "a run").features == features
    chorale = ComposedChorales(seed=5).compose(0)
    for name, score in (("high", transpose(chorale, 24)), ("few", select_tracks(chorale, [0, 1]))):
        write_midi(tmp_path / f"{name}.mid", score)
    pytest.importorskip("symusic", reason="MIDI files need jaxgen[music]")
    with pytest.raises(UserError, match=r"the prompt '.*high\.mid' cannot be used \(pitches .* expected 33 to 90"):
        trained.sampler.read_prompt(str(tmp_path / "high.mid"))
    with pytest.raises(UserError, match=r"the prompt '.*few\.mid' cannot be used \(2 tracks, expected 4 voices"):
        trained.sampler.read_prompt(str(tmp_path / "few.mid"))
    config = Config(
        data=ComposedChorales(),
        features=features,
        model=ScoreRNN(output=VoiceByVoice()),
        evaluation=ScoreEvaluation(),
        workdir="runs/chorales",
    )
    check_same_run(config, config)
    for other in (Voices(highest=77, frames_per_quarter=12), dataclasses.replace(features, frames_per_quarter=4)):
        with pytest.raises(UserError, match=r"'runs/chorales' holds a run of another config: features\."):
            check_same_run(config, dataclasses.replace(config, features=other))
