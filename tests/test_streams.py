"""Further streams of a clip: stored, batched, read by a model of a context, said by a user."""

import dataclasses
import itertools
import json
from pathlib import Path

import jax
import numpy as np
import pytest
import soundfile
from flax import nnx
from toy_streams import CONFIG, FREQUENCIES, RATE, STEPS_PER_LETTER, Spelt

from jaxgen import audio
from jaxgen.audio import AudioError
from jaxgen.cli import evaluate, generate, train
from jaxgen.core.errors import UserError
from jaxgen.data.ingest import AudioPolicy
from jaxgen.data.padded import PaddedBatches, Padder, padded_scoring_batches, round_up
from jaxgen.data.pipeline import TrainingBatches
from jaxgen.data.preparation import prepare
from jaxgen.data.store import Store
from jaxgen.features import Characters, Example, LogMel, Loudness, StreamSpec
from jaxgen.models.conditioning import Conditioning
from jaxgen.models.mel_rnn import MelRNN
from jaxgen.nn.recurrent import GRU
from jaxgen.recipes.presets import load_config

TOY = Path(__file__).parent / "toy_streams.py"
NAMES = (), ("loudness",), ("text",)


@pytest.fixture(scope="module")
def store(cache) -> Store:
    return prepare(Spelt(), CONFIG.features, AudioPolicy(), cache, CONFIG.streams)


def test_a_store_has_the_streams_of_its_clips(store, cache):
    again = prepare(Spelt(), CONFIG.features, AudioPolicy(), cache, CONFIG.streams)
    assert again.directory == store.directory
    for clip, entry in enumerate(store.clips):
        assert "".join("abc"[symbol] for symbol in store.stream("text", clip)) == entry.fields["text"]
        np.testing.assert_array_equal(
            store.stream("loudness", clip), Loudness().encode_clip(Example({}, 0, store.samples(clip)), store.features)
        )
        np.testing.assert_array_equal(store.stream("loudness", clip, 3, 5), store.stream("loudness", clip)[3:5])
    other = prepare(Spelt(), CONFIG.features, AudioPolicy(), cache, {"loudness": Loudness(quietest_dbfs=-40)})
    assert other.directory != store.directory
    assert prepare(Spelt(), CONFIG.features, AudioPolicy(), cache).streams == {}


def test_a_damaged_stream_is_found(cache, tmp_path, capsys):
    made = prepare(Spelt(num_clips=4), CONFIG.features, AudioPolicy(), tmp_path, CONFIG.streams)
    path = made.directory / "stream-text.bin"
    path.write_bytes(bytes([7]) + path.read_bytes()[1:])
    prepare(Spelt(num_clips=4), CONFIG.features, AudioPolicy(), tmp_path, CONFIG.streams).verify()
    assert "made anew" in capsys.readouterr().err


def test_packed_rows_read_the_value_of_each_step(store):
    spec = store.spec(())
    sizes = {"lookback": 2, "batch_size": 3, "seq_len": 16, "seed": 0}
    for batch in itertools.islice(TrainingBatches(store, spec, (), aligned=("loudness",), **sizes), 20):
        for row, start in np.argwhere(batch["reset"] & batch["mask"]):
            clip = int(batch["clip"][row, start])
            whole = store.stream("loudness", clip)
            stop = min(16, start + len(whole))
            np.testing.assert_array_equal(batch["aligned"]["loudness"][row, start:stop], whole[: stop - start])


def padded(store, **options):
    padder = Padder(store, store.spec(()), *NAMES, lookback=1)
    return PaddedBatches(padder, **({"batch_size": 7, "longest": 64, "seed": 3} | options))


def test_padded_batches_hold_each_clip_once_an_epoch(store):
    clips = store.indices("train")
    per_epoch = -(-len(clips) // 7)
    stream = iter(padded(store))
    orders = []
    for _ in range(2):
        batches = list(itertools.islice(stream, per_epoch))
        rows = [pair for batch in batches for pair in zip(batch["clip"], batch["mask"], strict=True)]
        seen = [int(clip[0]) for clip, mask in rows if mask.any()]
        assert sorted(seen) == sorted(clips)
        orders.append(seen)
    assert orders[0] != orders[1]


def test_padded_rows_are_whole_clips(store):
    for batch in itertools.islice(iter(padded(store)), 12):
        values, mask = batch["context"]["text"]
        assert batch["reset"][:, 0].all()
        assert not batch["reset"][:, 1:].any()
        for row, count in enumerate(batch["mask"].sum(axis=1)):
            if not count:
                assert not mask[row].any()
                continue
            clip = int(batch["clip"][row, 0])
            assert batch["mask"][row, :count].all()
            assert batch["end"][row].nonzero()[0].tolist() == [count - 1]
            np.testing.assert_array_equal(batch["x"][row, 1 : 1 + count], store.steps(clip))
            assert (batch["x"][row, 0] == store.features.silence()).all()
            np.testing.assert_array_equal(batch["aligned"]["loudness"][row, :count], store.stream("loudness", clip))
            np.testing.assert_array_equal(values[row][mask[row]], store.stream("text", clip))
            assert batch["mask"].shape[1] <= round_up(round_up(int(batch["mask"].sum(axis=1).max()), 1), 1)


def test_padded_batches_go_on_from_where_they_were(store):
    batches = padded(store)
    stream = iter(batches)
    for _ in range(9):
        next(stream)
    state, expected = json.loads(json.dumps(stream.get_state())), [next(stream) for _ in range(12)]
    other = iter(batches)
    other.set_state(state)
    for batch in expected:
        jax.tree.map(np.testing.assert_array_equal, batch, next(other))


def test_rows_of_processes_are_those_of_one(store):
    whole, some = iter(padded(store)), iter(padded(store, rows=[1, 5]))
    for _ in range(10):
        rows = jax.tree.map(lambda array: array[[1, 5]], next(whole))
        jax.tree.map(np.testing.assert_array_equal, rows, next(some))


def test_scoring_reads_each_clip_once(store):
    clips = store.indices("validation")
    batches = padded_scoring_batches(Padder(store, store.spec(()), *NAMES, lookback=1), clips, 4)
    counts = np.zeros(len(store.clips), int)
    for batch in batches:
        counts += np.bincount(batch["clip"][batch["mask"]], minlength=len(counts))
    assert counts.tolist() == [entry.num_steps * (clip in clips) for clip, entry in enumerate(store.clips)]


def test_clips_that_are_too_long_are_told(store, capsys):
    longest = 3 * STEPS_PER_LETTER
    for batch in itertools.islice(iter(padded(store, longest=longest)), 20):
        assert batch["mask"].sum(axis=1).max() <= longest
    assert "are longer than --train.seq-len 24 steps and left out" in capsys.readouterr().err
    with pytest.raises(UserError, match=r"none of \d+ training clips has at most 3 steps; raise --train.seq-len"):
        padded(store, longest=3)


@pytest.mark.parametrize("multiple", [1, 3, 16, 40])
def test_lengths_are_rounded_up_to_a_few(multiple):
    lengths = {round_up(count, multiple) for count in range(1, 3_000)}
    assert all(length % multiple == 0 for length in lengths)
    assert all(
        count <= round_up(count, multiple) <= max(1.25 * count + multiple, 16 + multiple) for count in range(1, 3_000)
    )
    assert len(lengths) < 30


MODELS = {
    "packed": MelRNN(cell=GRU(5), num_layers=1, aligned_streams=("loudness",)),
    "padded": dataclasses.replace(CONFIG.model, cell=GRU(5)),
}


@pytest.mark.parametrize("name", MODELS)
def test_unroll_is_repeated_step_and_reads_the_streams(store, name):
    config, spec = MODELS[name], store.spec(())
    model = config.make(spec, rngs=nnx.Rngs(0))
    sizes = {"batch_size": 4, "seq_len": 48}
    batch = next(iter(config.training_batches(store, spec, seed=0, **sizes)))
    carry = model.init_carry(4)

    @nnx.jit
    def unroll(model, batch):
        conditioning = model.encode_context(Conditioning.of(batch))
        return model.unroll(batch["x"], conditioning, carry, batch["reset"])[0], conditioning

    outputs, conditioning = unroll(model, batch)
    step = nnx.jit(lambda model, *arguments: model.step(*arguments))
    for t in range(12):
        reset = batch["reset"][:, t]
        carry = jax.tree.map(
            lambda new, old, reset=reset: np.where(reset.reshape(-1, *[1] * (new.ndim - 1)), new, old),
            model.init_carry(4),
            carry,
        )
        out, carry = step(model, batch["x"][:, t : t + 1], conditioning.at(t), carry)
        np.testing.assert_allclose(out, outputs[:, t], rtol=1e-4, atol=1e-5)
    louder = batch | {"aligned": {"loudness": batch["aligned"]["loudness"] + 0.5}}
    assert np.abs(unroll(model, louder)[0] - outputs).max() > 1e-3
    if batch.get("context"):
        values, mask = batch["context"]["text"]
        behind = batch | {"context": {"text": (np.where(mask, values, 1), mask)}}
        np.testing.assert_array_equal(unroll(model, behind)[0], outputs)
        other = batch | {"context": {"text": ((values + 1) % 3, mask)}}
        assert np.abs(unroll(model, other)[0] - outputs).max() > 1e-3


def test_symbols_that_a_stream_does_not_know(capsys):
    text = Characters(symbols="abc B")
    assert text.parse("aB A b", CONFIG.features).tolist() == [0, 4, 3, 0, 3, 1]
    assert text.parse("a🙂ß", CONFIG.features).tolist() == [0]
    assert "the model does not know 🙂 ß; skipped" in capsys.readouterr().err
    with pytest.raises(AudioError, match="its text has 'z', which is not among the symbols"):
        text.encode_clip(Example({"text": "abz"}, 0, np.zeros(0)), CONFIG.features)
    with pytest.raises(AudioError, match="no text"):
        text.encode_clip(Example({}, 0, np.zeros(0)), CONFIG.features)
    with pytest.raises(UserError, match="has no symbol that the model knows"):
        text.parse("🙂", CONFIG.features)
    with pytest.raises(UserError, match="names \\['a'\\] twice"):
        Characters(symbols="aba")


def test_loudness_is_the_level_of_each_step(tmp_path):
    features = LogMel(sample_rate=RATE, n_fft=256, hop_length=100, n_mels=10)
    samples = np.concatenate([np.full(100, 1.0), np.full(100, 10**-1.5), np.full(150, 1e-5)]).astype(np.float32)
    levels = Loudness(quietest_dbfs=-60).encode_clip(Example({}, 0, samples), features)
    assert len(levels) == features.num_steps(350)
    np.testing.assert_allclose(levels[:3], [1, 0.5, 0], atol=1e-3)
    soundfile.write(tmp_path / "a.wav", samples, RATE, subtype="FLOAT")
    np.testing.assert_allclose(Loudness().parse(str(tmp_path / "a.wav"), features), levels, atol=1e-4)
    for path in (tmp_path / "none.wav", TOY):
        with pytest.raises(UserError, match="cannot be read"):
            Loudness().parse(str(path), features)


@dataclasses.dataclass(frozen=True)
class TooShort(StreamSpec):
    """An aligned stream with one value alone."""

    is_aligned = True
    step_dtype = np.dtype(np.float32)

    def encode_clip(self, example, features):
        return np.zeros(1, np.float32)


def test_an_aligned_stream_of_another_length_is_refused(cache):
    with pytest.raises(UserError, match=r"TooShort made \[1\] of 'spelt/00000', expected \[\d+\]"):
        prepare(Spelt(num_clips=4), CONFIG.features, AudioPolicy(), cache, {"short": TooShort()})


def test_a_stream_needs_a_plain_name():
    with pytest.raises(UserError, match=r"a stream is called 'text/\.\.'"):
        dataclasses.replace(CONFIG, streams={"text/..": Characters()})


def test_options_set_what_a_stream_is():
    asked = load_config(["--config", str(TOY), "--streams.loudness.quietest-dbfs", "-40"], "test")
    assert asked.streams == {"text": CONFIG.streams["text"], "loudness": Loudness(quietest_dbfs=-40)}
    for words, said in (
        (["--streams.loudness.quietest-dbfs", "nan"], "expected a level from -200 to below 0 dB"),
        (["--streams.text.symbol", "ab"], "did you mean --streams.text.symbols"),
        (["--streams.pitch.most", "3"], "unknown option --streams.pitch.most"),
    ):
        with pytest.raises(UserError, match=said):
            load_config(["--config", str(TOY), *words], "test")


def test_a_stream_that_the_model_does_not_read_is_refused():
    with pytest.raises(UserError, match="the stream 'more', which Speller does not read"):
        dataclasses.replace(CONFIG, streams={**CONFIG.streams, "more": Loudness()})


def test_a_model_asks_for_streams_that_the_data_has(store):
    with pytest.raises(UserError, match="the model reads the stream 'pitch', but the data has loudness, text"):
        MelRNN(aligned_streams=("pitch",)).make(store.spec(()), rngs=nnx.Rngs(0))


def tone_of(samples: np.ndarray) -> str:
    """The letter whose tone is loudest."""
    power = np.square(np.abs(np.fft.rfft(samples)))
    places = np.fft.rfftfreq(len(samples), 1 / RATE)
    return max(FREQUENCIES, key=lambda letter: power[np.abs(places - FREQUENCIES[letter]) < 150].sum())


def test_it_trains_stops_speaks_and_is_measured(command, cache, tmp_path):
    """What is said is heard, letter by letter, as loud as it was asked for; and the report is made of held-out texts."""

    def call(main, *options):
        return command(main, "--config", TOY, "--workdir", tmp_path / "run", "--cache-dir", cache, *options)

    assert call(train.main)[0] == 0
    losses = [json.loads(line)["loss"] for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert losses[-1] < losses[0] - 20
    text, levels = "cabac", np.repeat([0.5, 0.05, 0.5, 0.5, 0.05], STEPS_PER_LETTER * 80)
    levels = levels * np.random.default_rng(0).choice([-1, 1], len(levels))
    soundfile.write(tmp_path / "level.wav", levels, RATE, subtype="FLOAT")
    asked = ("--input", f"text={text}", "--input", f"loudness={tmp_path / 'level.wav'}")
    code, _, err = call(generate.main, "--num-clips", "3", *asked)
    assert code == 0, err
    for path in sorted((tmp_path / "run" / "generated" / "seed_0").glob("*.wav")):
        samples = audio.read(path).samples[:, 0]
        letters = [
            samples[at : at + STEPS_PER_LETTER * 80] for at in range(0, len(samples) - 400, STEPS_PER_LETTER * 80)
        ]
        heard = "".join(map(tone_of, letters))
        assert sum(a == b for a, b in zip(heard, text, strict=False)) >= 4, heard
        made, wanted = (Loudness().encode_clip(Example({}, 0, each), CONFIG.features) for each in (samples, levels))
        count = min(len(made), len(wanted))
        assert np.corrcoef(made[:count], wanted[:count])[0, 1] > 0.5
    for options, said in (
        ((), "the model reads 'loudness', which is not said; pass --input loudness=..."),
        (("--input", "text=ab"), "the model reads 'loudness', which is not said"),
        ((*asked, "--input", "pitch=3"), "the model has no input 'pitch'; its inputs: loudness, text"),
        (("--input", "text"), "--input is 'text', expected name=value"),
    ):
        code, _, err = call(generate.main, *options)
        assert (code, said in err) == (2, True), err
    assert call(evaluate.main, "--num-clips", "2")[0] == 0


@pytest.mark.nightly
def test_a_stopped_run_goes_on_as_if_it_had_not_been(command, cache, tmp_path):
    def call(folder):
        options = ("--train.steps", "20", "--train.checkpoint-every", "5", "--train.eval-every", "10")
        return command(train.main, "--config", TOY, "--workdir", folder, "--cache-dir", cache, *options)

    for folder in (tmp_path / "whole", tmp_path / "stopped"):
        assert call(folder)[0] == 0
    (tmp_path / "stopped" / "report.json").unlink()
    for step in (15, 20):
        checkpoint = tmp_path / "stopped" / "checkpoints" / str(step)
        for path in sorted(checkpoint.rglob("*"), reverse=True):
            path.unlink() if path.is_file() else path.rmdir()
        checkpoint.rmdir()
    assert call(tmp_path / "stopped")[0] == 0
    rows = [(tmp_path / name / "metrics.jsonl").read_text().splitlines()[-1] for name in ("whole", "stopped")]
    losses = [json.loads(row)["loss"] for row in rows]
    assert losses[0] == losses[1]
