"""Limits of what is drawn: no note outside a range or a key, no voice above the one over it, and else the same notes."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxgen.cli import generate
from jaxgen.core.errors import UserError
from jaxgen.data.ingest import AudioPolicy
from jaxgen.data.preparation import prepare
from jaxgen.data.scores import ComposedChorales
from jaxgen.evaluation.score_evaluation import ScoreEvaluation
from jaxgen.features import Melody, PianoRoll, Voices
from jaxgen.inference.score_sampler import ScoreSampler
from jaxgen.models.score_rnn import ScoreRNN
from jaxgen.models.wave_rnn import WaveRNN
from jaxgen.nn.distributions import Sampling
from jaxgen.nn.note_heads import IndependentKeys, RootThenQuality, SortedKeys, VoiceByVoice
from jaxgen.nn.recurrent import GRU
from jaxgen.objectives.likelihood import Likelihood
from jaxgen.scores.analysis import SCALES
from jaxgen.scores.limits import HIGHEST_PITCH, NoteLimits
from jaxgen.scores.rolls import fill_holds, to_voices

B, T, H = 64, 8, 6
VOICES = Voices(lowest=40, highest=80)
CHOIR = ("60:75", "53:70", "47:66", "40:60")
HEADS = [
    pytest.param(VoiceByVoice(width=5), VOICES, id="voices"),
    pytest.param(SortedKeys(width=5), PianoRoll(), id="sorted"),
    pytest.param(IndependentKeys(), PianoRoll(), id="independent"),
]


def draw(output, features, sampling, ceiling=HIGHEST_PITCH, seed=0):
    """Frames uint8 [T, B, W] of an untrained head, one behind another; the first is behind notes that may be outside."""
    head = output.make(features, H, dtype=jnp.float32, rngs=nnx.Rngs(seed))
    keys = jax.random.split(jax.random.key(seed), (T, B))
    hidden = 3 * jax.random.normal(jax.random.key(seed + 1), (T, B, H))
    highest = 2 * features.num_pitches if isinstance(features, Voices) else 1
    before = jnp.full((B, features.step_shape[0]), highest, jnp.uint8)

    def step(before, now):
        hidden, noise = now
        frame = head.sample(hidden, before, noise, sampling, ceiling)
        return frame, frame

    return np.asarray(jax.lax.scan(step, before, (hidden, jax.vmap(jax.vmap(head.noise))(keys)))[1])


def pitches(frames, features):
    """MIDI pitches of the notes that sound, one row a voice: int [N, V], -1 for silence."""
    rows = frames.reshape(-1, frames.shape[-1]).astype(int)
    if isinstance(features, Voices):
        return np.where(rows > 0, features.lowest + (rows - 1) // 2, -1)
    return np.where(rows > 0, 21 + np.arange(88), -1)


@pytest.mark.parametrize(("output", "features"), HEADS)
@pytest.mark.parametrize(
    "sampling", [Sampling(), Sampling(temperature=0.0), Sampling(temperature=5.0, top_p=0.9), Sampling(top_k=3)]
)
def test_no_note_outside_is_drawn(output, features, sampling):
    free = pitches(draw(output, features, sampling), features)
    limited = dataclasses.replace(sampling, range=("48:67",), key="F#m")
    drawn = pitches(draw(output, features, limited), features)
    inside = [pitch for pitch in range(48, 68) if (pitch - 6) % 12 in SCALES[True]]
    assert not set(free[free >= 0].tolist()) <= set(inside)
    assert set(drawn[drawn >= 0].tolist()) <= set(inside)
    assert (drawn >= 0).any()


@pytest.mark.parametrize(("output", "features"), HEADS)
@pytest.mark.parametrize("sampling", [Sampling(), Sampling(temperature=0.0), Sampling(top_p=0.8)])
def test_limits_that_leave_all_notes_change_no_bit(output, features, sampling):
    wide = dataclasses.replace(sampling, range=("0:127",))
    np.testing.assert_array_equal(draw(output, features, sampling), draw(output, features, wide))


@pytest.mark.parametrize("temperature", [0.0, 1.0, 5.0])
def test_voices_stay_in_their_ranges_and_do_not_cross(temperature):
    free = pitches(draw(VoiceByVoice(width=5), VOICES, Sampling(temperature=temperature)), VOICES)
    sampling = Sampling(temperature=temperature, range=CHOIR, crossing=False)
    ceiling = jnp.asarray(np.random.default_rng(0).integers(60, 80, B))
    frames = draw(VoiceByVoice(width=5), VOICES, sampling, ceiling)
    drawn = pitches(frames, VOICES)
    for voice, (low, high) in enumerate(tuple(map(int, pair.split(":"))) for pair in CHOIR):
        sounding = drawn[:, voice][drawn[:, voice] >= 0]
        assert len(sounding)
        assert low <= sounding.min() <= sounding.max() <= high

    def crossings(rows):
        return sum(bool((np.diff(row[row >= 0]) > 0).any()) for row in rows)

    assert crossings(free) > 0
    assert crossings(drawn) == 0
    top = drawn.reshape(T, B, -1).max(axis=2)
    assert (top <= np.asarray(ceiling)).all()


def test_a_note_that_may_not_begin_is_not_held():
    head = VoiceByVoice(width=5).make(VOICES, H, dtype=jnp.float32, rngs=nnx.Rngs(0))
    before = jnp.full((1, 4), 1 + 2 * (70 - VOICES.lowest), jnp.uint8)
    head.to_symbol[0].bias[...] = head.to_symbol[0].bias[...].at[-1].set(50.0)  # it holds whatever it can
    noise = jnp.full((1, 4), 0.5)
    held = head.sample(jnp.zeros((1, H)), before, noise, Sampling())
    assert held[0, 0] == before[0, 0] + 1
    moved = head.sample(jnp.zeros((1, H)), before, noise, Sampling(key="F#"))  # 70 is A#, which F# has
    assert moved[0, 0] == before[0, 0] + 1
    gone = head.sample(jnp.zeros((1, H)), before, noise, Sampling(key="C"))
    assert gone[0, 0] not in (before[0, 0], before[0, 0] + 1)


def test_keys_and_ranges_move_with_the_music():
    limits = NoteLimits.parse(("60:81", "0:120"), True, "Bbm")
    assert limits.moved(0) == (("60:81", "0:120"), "Bbm")
    assert limits.moved(3) == (("63:84", "3:123"), "C#m")
    assert limits.moved(-14) == (("46:67", "0:106"), "Abm")
    for name in ("C", "C#", "Db", "F#m", "Gbm", "B#"):
        key = NoteLimits.parse((), True, name).key
        assert NoteLimits.parse((), True, NoteLimits.parse((), True, name).moved(12)[1]).key == key


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Sampling(range=("36-81",)), r"--range is '36-81', expected the lowest and the highest MIDI pitch"),
        (lambda: Sampling(range=("81:36",)), r"--range is '81:36'"),
        (lambda: Sampling(range=("36:128",)), r"--range is '36:128'"),
        (lambda: Sampling(key="H"), r"--key is 'H', expected a note, and m for minor"),
        (lambda: ScoreRNN(output=VoiceByVoice()).check_limits(Sampling(range=("1:50", "2:60")).limits, VOICES),
         "--range has 2 ranges, expected one, or 4, one for each voice"),
        (lambda: ScoreRNN().check_limits(Sampling(range=("40:50", "2:60")).limits, PianoRoll()),
         "--range has 2 ranges, expected one"),
        (lambda: ScoreRNN(output=VoiceByVoice()).check_limits(Sampling(range=("1:9",)).limits, VOICES),
         "--range and --key leave no note; the model has MIDI pitches 40 to 80"),
        (lambda: ScoreRNN().check_limits(Sampling(crossing=False).limits, PianoRoll()),
         "SortedKeys draws keys and no voices that could cross; leave out --no-crossing"),
        (lambda: ScoreRNN(output=RootThenQuality()).check_limits(Sampling(key="C").limits, PianoRoll()),
         "RootThenQuality draws chords and no notes; leave out --range, --no-crossing and --key"),
        (lambda: WaveRNN().check_limits(Sampling(key="C").limits, PianoRoll()),
         "the model draws sound and no notes; leave out --range, --no-crossing and --key"),
    ],
)  # fmt: skip
def test_what_a_model_cannot_keep_is_one_line(make, said):
    with pytest.raises(UserError, match=said) as raised:
        make()
    assert "\n" not in str(raised.value)


def test_options_of_limits_reach_the_model():
    words = ["--workdir", "x", "--range", "60:81", "36:64", "--no-crossing", "--key", "Am"]
    options = generate.parse(generate.Options, None, words, "jaxgen.generate")
    sampling = ScoreEvaluation().with_sampling(options.overrides).sampling
    assert sampling == Sampling(range=("60:81", "36:64"), crossing=False, key="Am")
    assert generate.parse(generate.Options, None, words[:2], "jaxgen.generate").overrides == {}


def test_voices_stay_under_a_melody_that_is_given(cache):
    store = prepare(
        ComposedChorales(num_clips=20),
        Voices(names=("alto", "tenor"), tracks=(1, 2)),
        AudioPolicy(),
        cache,
        {"melody": Melody()},
    )
    config = ScoreRNN(cell=GRU(H), output=VoiceByVoice(width=5), context_streams=("melody",), context_cell=GRU(4))
    spec = store.spec(())
    task = Likelihood().build(config, spec, steps=1, batch_size=4)
    sampler = ScoreSampler(task.module, config, spec, spec.features)
    given = [{"melody": store.stream("melody", 0)}] * 4

    def above(sampling):
        scores = sampler.compose(task.init(jax.random.key(0)).average, [{}] * 4, inputs=given, sampling=sampling)
        voices = [fill_holds(to_voices(score, 4)) for score in scores]
        return sum(int((each[:, 1:].max(axis=1) > each[:, 0])[each[:, 0] >= 0].sum()) for each in voices)

    assert above(Sampling()) > 0
    assert above(Sampling(crossing=False)) == 0


@pytest.mark.parametrize(("word", "key"), [("C minor", (0, True)), ("B♭ major", (10, False)), ("F♯m", (6, True))])
def test_a_key_is_known_as_reports_write_it(word, key):
    assert NoteLimits.parse((), True, word).key == key


def test_one_range_may_be_a_text():
    assert NoteLimits.parse("36:81", True, "").ranges == ((36, 81),)
    with pytest.raises(UserError, match="--range is"):
        NoteLimits.parse(("٣:٤",), True, "")
