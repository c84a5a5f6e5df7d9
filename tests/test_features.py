"""Features against librosa, and the promises of their docstrings."""

import dataclasses
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxgen.audio.fourier import griffin_lim, istft, stft
from jaxgen.core.errors import UserError
from jaxgen.features import FeatureSpec, LogMel, MuLaw, Pcm16, log_mel
from jaxgen.features.log_mel import mel_griffin_lim, mel_to_magnitude

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import librosa

SMALL = LogMel(sample_rate=8_000, n_fft=256, hop_length=80, n_mels=24)
SHORT_WINDOW = LogMel(sample_rate=8_000, n_fft=256, hop_length=50, n_mels=20, win_length=180, fmin=60.0, fmax=3_500.0)
ODD = LogMel(sample_rate=11_025, n_fft=301, hop_length=77, n_mels=16, floor=1e-3)
STACKED = dataclasses.replace(SHORT_WINDOW, stack=3)
CODES: list[FeatureSpec] = [MuLaw(sample_rate=8_000), MuLaw(sample_rate=8_000, q_levels=17), Pcm16(sample_rate=8_000)]
SPECS: list[FeatureSpec] = [*CODES, SMALL, SHORT_WINDOW, ODD, STACKED]


def sound(*shape: int, seed: int = 0) -> np.ndarray:
    """A few decaying tones in a little noise, quiet enough in places to reach the floor."""
    random = np.random.default_rng(seed)
    time = np.arange(shape[-1]) / 8_000
    tones = sum(np.sin(2 * np.pi * hertz * time) for hertz in (220.0, 443.0, 1_320.0))
    noise = 1e-3 * random.standard_normal(shape)
    return (0.2 * tones * np.exp(-6 * time) + noise).astype(np.float32)


# Mu-law codes


def librosa_codes(samples: np.ndarray, q_levels: int) -> np.ndarray:
    codes = librosa.mu_compress(samples, mu=q_levels - 1, quantize=True) + q_levels // 2
    return np.where(samples > 1 - 1e-6, q_levels - 1, codes)  # there librosa's rounding may give one code too many


def all_thresholds(q_levels: int) -> np.ndarray:
    """Float32 neighbours, 3 to either side, of every place where the formula's code changes."""
    mu = q_levels - 1
    edges = np.linspace(-1, 1, q_levels)
    samples = (np.sign(edges) * ((1 + mu) ** np.abs(edges) - 1) / mu).astype(np.float32)
    near, up, down = [samples], samples, samples
    for _ in range(3):
        up, down = np.nextafter(up, np.float32(2)), np.nextafter(down, np.float32(-2))
        near += [up, down]
    return np.clip(np.concatenate(near), -1, 1)


@pytest.mark.parametrize("q_levels", [2, 3, 16, 255, 256])
def test_codes_are_librosas(q_levels):
    tiny = np.finfo(np.float32).smallest_subnormal
    special = np.array([0.0, -0.0, tiny, -tiny, 1.0, -1.0, 1e-20, -1e-20], np.float32)
    random = np.random.default_rng(0).uniform(-1, 1, 20_000).astype(np.float32)
    samples = np.concatenate([special, all_thresholds(q_levels), random, random**5])
    codes = np.asarray(MuLaw(sample_rate=8_000, q_levels=q_levels).encode(samples))
    assert codes.dtype == np.uint8
    np.testing.assert_array_equal(codes, librosa_codes(samples, q_levels))


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(-1, 1, width=32), min_size=8, max_size=8))
def test_codes_of_any_float(samples):
    values = np.array(samples, np.float32)
    np.testing.assert_array_equal(MuLaw(sample_rate=8_000).encode(values), librosa_codes(values, 256))


def test_codes_beyond_full_scale_are_clipped():
    mu_law = MuLaw(sample_rate=8_000)
    np.testing.assert_array_equal(mu_law.encode(np.array([-3.0, 3.0], np.float32)), [0, 255])


@pytest.mark.parametrize("q_levels", [2, 16, 256])
def test_decoded_codes_are_librosas(q_levels):
    codes = np.arange(q_levels)
    expected = librosa.mu_expand(codes - q_levels // 2, mu=q_levels - 1, quantize=True)
    mu_law = MuLaw(sample_rate=8_000, q_levels=q_levels)
    np.testing.assert_allclose(mu_law.decode(codes), expected, rtol=1e-6, atol=1e-7)


def test_codes_lose_little():
    samples = sound(4_000)
    mu_law = MuLaw(sample_rate=8_000)
    error = np.asarray(mu_law.decode(mu_law.encode(samples))) - samples
    assert np.all(np.abs(error) <= 0.045 * np.abs(samples) + 2e-4)  # a level: ln(256) * 2 / 255


# Log-mel frames


def librosa_log_mel(samples: np.ndarray, spec: LogMel) -> np.ndarray:
    power = librosa.feature.melspectrogram(
        y=samples.astype(np.float64),
        sr=spec.sample_rate,
        n_fft=spec.n_fft,
        hop_length=spec.hop_length,
        win_length=spec.win_length,
        pad_mode="constant",
        power=2.0,
        n_mels=spec.n_mels,
        fmin=spec.fmin,
        fmax=spec.fmax,
    )
    return np.log(np.maximum(power, spec.floor)).swapaxes(-1, -2)


@pytest.mark.parametrize("spec", [SMALL, SHORT_WINDOW, ODD], ids=["small", "short_window", "odd"])
@pytest.mark.parametrize("length", [1, 79, 80, 1_601])
def test_log_mel_is_librosas(spec, length):
    samples = sound(length)
    padded = np.pad(samples, (0, max(0, spec.n_fft - length)))  # librosa refuses what is shorter than a frame
    frames = spec.encode(samples)
    assert frames.shape == (spec.num_steps(length), spec.n_mels)
    np.testing.assert_allclose(frames, librosa_log_mel(padded, spec)[: len(frames)], atol=2e-3)


@pytest.mark.parametrize("num_frames", [10, 11, 12, 35])
def test_blocks_do_not_show(num_frames, monkeypatch):
    monkeypatch.setattr(log_mel, "_FRAMES_PER_BLOCK", 11)
    spec = dataclasses.replace(SMALL, floor=1e-6 * num_frames)  # another spec: nothing compiled before is used
    samples = sound(2, (num_frames - 1) * spec.hop_length + 7)
    np.testing.assert_allclose(spec.encode(samples), librosa_log_mel(samples, spec), atol=2e-3)


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.fingerprint()[:4])
def test_zeros_appended_leave_the_first_steps(spec):
    samples = sound(1_003)
    steps = np.asarray(spec.encode(samples))
    longer = np.asarray(spec.encode(np.pad(samples, (0, 997))))
    np.testing.assert_allclose(longer[: len(steps)], steps, atol=1e-5)


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.fingerprint()[:4])
def test_silence_is_the_step_of_zeros(spec):
    steps = np.asarray(spec.encode(np.zeros(500, np.float32)))
    silence = spec.silence()
    assert silence.dtype == steps.dtype == spec.step_dtype
    assert silence.shape == spec.step_shape
    np.testing.assert_allclose(steps, np.broadcast_to(silence, steps.shape), rtol=1e-6)
    np.testing.assert_array_equal(spec.decode(steps), 0.0)


@pytest.mark.parametrize("length", [1, 49, 50, 149, 150, 1_601])
def test_stacked_frames_are_those_of_one_step_after_another(length):
    samples = sound(length)
    frames = np.asarray(SHORT_WINDOW.encode(np.pad(samples, (0, 3 * 50))))
    steps = np.asarray(STACKED.encode(samples))
    assert len(steps) == STACKED.num_steps(length) == -(-SHORT_WINDOW.num_steps(length) // 3)
    np.testing.assert_allclose(steps.reshape(-1, SHORT_WINDOW.n_mels), frames[: 3 * len(steps)], atol=1e-4)
    assert np.asarray(STACKED.decode(steps)).shape == (STACKED.num_samples(len(steps)),)


def test_16_bit_samples_come_back_bit_for_bit():
    spec = Pcm16(sample_rate=8_000)
    every = np.arange(-(2**15), 2**15)
    np.testing.assert_array_equal(spec.encode(every.astype(np.float32) / 2**15), every)
    np.testing.assert_array_equal(spec.decode(every), every.astype(np.float32) / 2**15)
    np.testing.assert_array_equal(spec.encode(np.float32([-3, 3])), [-(2**15), 2**15 - 1])
    codes = np.asarray(spec.codes(every))
    assert codes.min() == 0
    assert codes.max() == spec.q_levels - 1
    assert (np.diff(codes) >= 0).all()
    assert np.abs(np.asarray(spec.to_mu_law(every))).max() <= 1


@pytest.mark.parametrize("spec", [SPECS[0], SMALL], ids=["mu_law", "log_mel"])
def test_batches_and_transformations(spec):
    """Leading axes, vmap and jit around them give what one clip gives."""
    batch = np.stack([[sound(801, seed=2 * i + j) for j in range(2)] for i in range(2)])
    steps = np.asarray(spec.encode(batch))
    samples = np.asarray(spec.decode(steps))
    assert steps.shape == (2, 2, spec.num_steps(801), *spec.step_shape)
    assert samples.shape == (2, 2, spec.num_samples(spec.num_steps(801)))
    np.testing.assert_allclose(steps[1, 0], spec.encode(batch[1, 0]), atol=1e-4)
    np.testing.assert_allclose(jax.jit(jax.vmap(spec.encode))(batch), steps, atol=1e-4)
    level = np.sqrt(np.mean(samples**2))
    assert np.sqrt(np.mean((samples[1, 0] - np.asarray(spec.decode(steps[1, 0]))) ** 2)) < 0.05 * level


# Transforms


@pytest.mark.parametrize(("n_fft", "hop_length", "win_length"), [(256, 64, None), (256, 80, 200), (301, 77, None)])
def test_stft_is_librosas_and_istft_inverts_it(n_fft, hop_length, win_length):
    samples = sound(2, 20 * hop_length + 1)
    spectrum = stft(jnp.asarray(samples), n_fft, hop_length, win_length)
    settings_ = {"n_fft": n_fft, "hop_length": hop_length, "win_length": win_length}
    expected = librosa.stft(samples.astype(np.float64), pad_mode="constant", **settings_)
    np.testing.assert_allclose(spectrum, expected.swapaxes(-1, -2), atol=1e-4)
    np.testing.assert_allclose(istft(spectrum, n_fft, hop_length, win_length), samples[:, :-1], atol=1e-5)


def test_istft_is_librosas_for_inconsistent_spectra():
    random = np.random.default_rng(1)
    spectrum = (random.standard_normal((12, 129)) + 1j * random.standard_normal((12, 129))).astype(np.complex64)
    expected = librosa.istft(spectrum.T, n_fft=256, hop_length=64)
    np.testing.assert_allclose(istft(jnp.asarray(spectrum), 256, 64), expected, atol=1e-5)


def spectral_convergence(samples: np.ndarray, magnitude: np.ndarray, n_fft: int, hop_length: int) -> float:
    found = np.abs(librosa.stft(np.asarray(samples), n_fft=n_fft, hop_length=hop_length, pad_mode="constant"))
    return float(np.linalg.norm(found.T - magnitude) / np.linalg.norm(magnitude))


def test_griffin_lim_is_no_worse_than_librosas():
    samples = sound(4_000)
    magnitude = np.abs(librosa.stft(samples, n_fft=256, hop_length=64, pad_mode="constant"))
    turns = np.random.default_rng(0).random(magnitude.T.shape, np.float32)
    start = jnp.asarray(magnitude.T * np.exp(2j * np.pi * turns), jnp.complex64)
    ours = griffin_lim(start, lambda reached: jnp.asarray(magnitude.T), 256, 64, None, 32)
    theirs = librosa.griffinlim(magnitude, n_iter=32, hop_length=64, n_fft=256, pad_mode="constant", random_state=0)
    reached, bar = (spectral_convergence(y, magnitude.T, 256, 64) for y in (np.asarray(ours), theirs))
    assert reached < max(1.1 * bar, 0.02)


def test_mel_inversion_is_no_worse_than_librosas():
    """Mel power of the magnitudes found, against the mel power asked for."""
    log_mel = np.asarray(SMALL.encode(sound(4_000)))
    filters = librosa.filters.mel(sr=8_000, n_fft=256, n_mels=24)
    target = np.exp(log_mel)

    def residual(magnitude: np.ndarray) -> float:
        return float(np.linalg.norm(magnitude**2 @ filters.T - target) / np.linalg.norm(target))

    theirs = librosa.feature.inverse.mel_to_stft(target.T.astype(np.float32), sr=8_000, n_fft=256, power=2.0)
    assert residual(np.asarray(mel_to_magnitude(jnp.asarray(log_mel), SMALL, 60))) <= residual(theirs.T) + 1e-3


def test_decode_is_no_worse_than_librosas_mel_to_audio():
    """How near the log-mel frames of the decoded sound are to those asked for, in nats; the same every time."""
    log_mel = np.asarray(SMALL.encode(sound(4_000)))
    power = np.exp(log_mel.T)
    theirs = librosa.feature.inverse.mel_to_audio(
        power, sr=8_000, n_fft=256, hop_length=80, pad_mode="constant", n_iter=64
    )
    ours = np.asarray(SMALL.decode(log_mel))
    reached, bar = (np.sqrt(np.mean((librosa_log_mel(y, SMALL) - log_mel) ** 2)) for y in (ours, theirs))
    assert reached < 1.1 * bar
    np.testing.assert_array_equal(ours, SMALL.decode(log_mel))


def refined(log_mel: np.ndarray, iterations: int = 64) -> np.ndarray:
    """Sound from random phases, and magnitudes that are found with them."""
    magnitude = mel_to_magnitude(jnp.asarray(log_mel), SMALL, 0)
    turns = np.random.default_rng(0).random(magnitude.shape, np.float32)
    start = jnp.asarray(magnitude * np.exp(2j * np.pi * turns), jnp.complex64)
    return np.asarray(mel_griffin_lim(start, jnp.asarray(log_mel), SMALL, iterations))


def test_sound_that_has_the_frames_stays_as_it_is():
    samples = sound(80 * 40)
    log_mel, spectrum = SMALL.encode(samples), stft(jnp.asarray(samples), 256, 80)
    np.testing.assert_allclose(mel_griffin_lim(spectrum, log_mel, SMALL, 8), samples, atol=1e-4)


@pytest.mark.parametrize("seed", [0, 1])
def test_magnitudes_are_found_far_nearer_to_the_frames_than_by_least_squares(seed):
    noise = 0.1 * np.random.default_rng(seed).standard_normal(4_000)
    log_mel = np.asarray(SMALL.encode((noise * np.hanning(4_000)).astype(np.float32)))
    away = [np.abs(np.asarray(SMALL.encode(y)) - log_mel).mean() for y in (refined(log_mel), SMALL.decode(log_mel))]
    assert away[0] < 0.03
    assert away[0] < 0.5 * away[1]


def test_frames_are_taken_to_what_there_can_be():
    loud, quiet = np.full((20, 24), 80.0, np.float32), np.full((20, 24), -80.0, np.float32)
    np.testing.assert_array_equal(refined(loud), refined(loud / 2))
    mixed = np.asarray(SMALL.encode(sound(1_600))).copy()
    mixed[:, 12:] = SMALL.silence()[12:]
    lower = np.where(np.arange(24) < 12, mixed, quiet[:1])
    np.testing.assert_array_equal(refined(lower), refined(mixed))
    np.testing.assert_array_equal(refined(quiet), np.zeros(19 * 80))


@pytest.mark.parametrize("stack", [1, 2])
@pytest.mark.parametrize("cuts", [[], [1], [40], [5, 5, 6, 41, 80, 100]])
def test_decoding_in_blocks_does_not_depend_on_the_blocks(cuts, stack):
    spec = dataclasses.replace(SMALL, stack=stack)
    samples = np.random.default_rng(0).normal(0, 0.1, (2, 110 * stack * SMALL.hop_length)).astype(np.float32)
    steps = np.asarray(spec.encode(samples))
    whole = np.concatenate(list(spec.decode_blocks([steps])), axis=-1)
    assert whole.shape == (2, spec.num_samples(steps.shape[1]))
    pieces = list(spec.decode_blocks(np.split(steps, cuts, axis=1)))
    assert max(piece.shape[1] for piece in pieces) <= 32 * SMALL.hop_length  # bounded, however long the sound
    np.testing.assert_array_equal(np.concatenate(pieces, axis=-1), whole)
    assert list(spec.decode_blocks([])) == []


@pytest.mark.parametrize("spec", [SMALL, MuLaw(sample_rate=8_000)], ids=["LogMel", "MuLaw"])
def test_decoding_in_blocks_is_as_near_to_the_steps_as_decoding_at_once(spec):
    seconds = np.arange(1.5 * 8_000) / 8_000
    sweep = (0.3 * np.sin(2 * np.pi * (200 * seconds + 400 * seconds**2))).astype(np.float32)[None]
    steps = np.asarray(spec.encode(sweep))

    def error(samples):
        return np.sqrt(np.mean(np.square(np.asarray(spec.encode(samples), np.float32) - steps)))

    at_once = error(spec.decode(steps))
    assert error(np.concatenate(list(spec.decode_blocks([steps])), axis=-1)) <= 1.1 * at_once


def test_decode_survives_absurd_frames():
    frames = np.full((20, 24), 80.0, np.float32)
    assert np.isfinite(SMALL.decode(frames)).all()


# Settings


@pytest.mark.parametrize("spec", [SPECS[0], STACKED], ids=["mu_law", "log_mel"])
def test_fingerprint_changes_with_every_setting(spec):
    names = [field.name for field in dataclasses.fields(spec) if field.name != "channels"]
    changes = [{name: getattr(spec, name) - (1e-6 if name == "floor" else 1)} for name in names]
    changes += [{"channels": 2}] * isinstance(spec, LogMel)  # codes have one channel
    fingerprints = {spec.fingerprint(), *(dataclasses.replace(spec, **change).fingerprint() for change in changes)}
    assert len(fingerprints) == 1 + len(changes)
    assert dataclasses.replace(spec).fingerprint() == spec.fingerprint()


@pytest.mark.parametrize(
    ("change", "option"),
    [
        ({"sample_rate": 0}, "features.sample_rate"),
        ({"n_fft": 1}, "features.n_fft"),
        ({"n_mels": 0}, "features.n_mels"),
        ({"win_length": 257}, "features.win_length"),
        ({"hop_length": 0}, "features.hop_length"),
        ({"hop_length": 257}, "features.hop_length"),
        ({"fmin": 4_000.0}, "features.fmin"),
        ({"fmax": 4_001.0}, "features.fmax"),
        ({"floor": 0.0}, "features.floor"),
    ],
)
def test_bad_settings_name_the_option(change, option):
    with pytest.raises(UserError, match=option) as caught:
        dataclasses.replace(SMALL, **change)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("q_levels", [1, 257])
def test_bad_q_levels(q_levels):
    with pytest.raises(UserError, match=r"features\.q_levels"):
        MuLaw(sample_rate=8_000, q_levels=q_levels)


def test_empty_mel_bands_are_an_error():
    with pytest.raises(UserError, match=r"features\.n_mels"):
        dataclasses.replace(SMALL, n_mels=200).encode(np.zeros(400, np.float32))


@pytest.mark.slow
@pytest.mark.parametrize("spec", [SMALL, STACKED, MuLaw(sample_rate=8_000)], ids=["mel", "stacked", "mu-law"])
def test_clips_are_decoded_as_if_each_were_alone(spec):
    random = np.random.default_rng(0)
    waves = [0.3 * random.standard_normal(spec.num_samples(count) + 1, np.float32) for count in (3, 30, 5, 9, 8, 4)]
    clips = [np.asarray(spec.encode(wave)) for wave in waves]
    for clip, sound in zip(clips, spec.decode_clips(clips), strict=True):
        assert sound.shape == (spec.num_samples(len(clip)),)
        np.testing.assert_array_equal(sound, spec.decode_clips([clip])[0])
