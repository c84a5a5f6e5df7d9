"""The position in a clip as an input: what it says of each step, and that a model ends clips by it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.core.errors import UserError
from jaxgen.data.spec import DataSpec
from jaxgen.features import LogMel
from jaxgen.models.conditioning import Conditioning
from jaxgen.models.mel_rnn import MelRNN
from jaxgen.models.sequence import RunState
from jaxgen.nn.distributions import Normal, Sampling
from jaxgen.nn.position import PositionEncoding
from jaxgen.nn.recurrent import GRU
from jaxgen.objectives.likelihood import Likelihood
from jaxgen.objectives.optimizer import AdamW

STEPS = 9  # of every clip
UPDATES = 150
DATA = DataSpec(features=LogMel(sample_rate=8_000, n_fft=64, hop_length=32, n_mels=2), mean=(0.0, 0.0), std=(1.0, 1.0))


@pytest.mark.parametrize("num_frequencies", [1, 5, 28])
def test_steps_are_sines_and_cosines_of_octaves(num_frequencies):
    """Against numpy in float64, far into a clip too."""
    encoding = PositionEncoding(num_frequencies)
    steps = np.array([0, 1, 2, 3, 1_000, 123_456_789])
    features, after = encoding.step(jnp.asarray(steps, jnp.int32))
    angles = 2 * np.pi * steps[:, None] / 2.0 ** np.arange(2, num_frequencies + 2)
    np.testing.assert_allclose(features, np.concatenate([np.sin(angles), np.cos(angles)], axis=1), atol=1e-6)
    np.testing.assert_array_equal(after, steps + 1)
    assert features.shape == (len(steps), encoding.num_features)


def test_no_two_steps_look_alike_as_long_as_they_last():
    features, _ = PositionEncoding(6).step(jnp.arange(2**6))
    distances = np.linalg.norm(np.asarray(features)[:, None] - features, axis=-1) + 10 * np.eye(2**6)
    assert distances.min() > 0.5


def test_unroll_counts_from_each_reset_and_goes_on_from_chunk_to_chunk():
    """Against counting one by one."""
    encoding, random = PositionEncoding(4), np.random.default_rng(0)
    reset = random.random((5, 40)) < 0.1
    first = random.integers(50, size=5)
    expected, count = np.zeros(reset.shape, np.int32), first.copy()
    for t in range(reset.shape[1]):
        count = np.where(reset[:, t], 0, count)
        expected[:, t], count = count, count + 1
    carry, features = jnp.asarray(first, jnp.int32), []
    for chunk in np.split(reset, [7, 8], axis=1):
        seen, carry = encoding.unroll(carry, chunk)
        features.append(seen)
    np.testing.assert_array_equal(np.concatenate(features, axis=1), encoding.step(jnp.asarray(expected))[0])
    np.testing.assert_array_equal(carry, count)


@pytest.mark.parametrize("num_frequencies", [-1, 29])
def test_a_number_of_frequencies_that_cannot_be(num_frequencies):
    with pytest.raises(UserError, match=f"--model.position-frequencies is {num_frequencies}, expected 0"):
        PositionEncoding(num_frequencies)


@pytest.fixture(scope="module")
def trained():
    """A model of clips of STEPS steps of noise: no frame tells the time."""
    model = MelRNN(cell=GRU(hidden_size=16), num_layers=1, distribution=Normal(), position_frequencies=4)
    optimizer = AdamW(learning_rate=2e-2, warmup_steps=0)
    task = Likelihood(optimizer=optimizer, ema_decay=0).build(model, DATA, steps=UPDATES, batch_size=8)
    place = np.arange(1, 3 * (STEPS + 1)) % (STEPS + 1)  # 0 is the step of silence before each clip
    flags = {"reset": place == 1, "mask": place > 0, "end": place == STEPS}
    batch = {name: np.tile(value, (8, 1)) for name, value in flags.items()} | {"labels": {}}
    state, train_step, random = task.init(jax.random.key(0)), jax.jit(task.train_step), np.random.default_rng(0)
    for _ in range(UPDATES):
        state, _ = train_step(state, batch | {"x": random.normal(size=(8, 1 + len(place), 2)).astype(np.float32)})
    return task.module(state.params)


@pytest.mark.parametrize("late", [0, 3])
def test_clips_end_by_their_position(trained, late):
    """As long as those of the data; and as much shorter as the position is ahead when they begin."""
    noise = jax.vmap(jax.vmap(trained.noise))(jax.random.split(jax.random.key(1), (64, 3 * STEPS)))
    carry = trained.init_carry(64)
    start = RunState(carry | {"position": carry["position"] + late}, jnp.zeros((64, 1, 2)), jnp.zeros(64, bool))
    _, _, ends = jax.jit(lambda: trained.free_run(start, Conditioning(), noise, Sampling(), jnp.zeros(2)))()
    lengths = np.where(np.asarray(ends).any(axis=1), 1 + np.asarray(ends).argmax(axis=1), 3 * STEPS)
    assert (lengths == STEPS - late).mean() > (0.9 if late == 0 else 0.5)  # the memory, which is not ahead, has a say
