"""cuDNN's LSTM: our weights become its weights and back, and the train step for NVIDIA GPUs calls it."""

import contextlib
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax._src.lib import gpu_rnn
from jax.experimental import rnn
from jax.interpreters import mlir

from jaxgen.data.spec import DataSpec
from jaxgen.features import MuLaw
from jaxgen.models.wave_rnn import WaveRNN
from jaxgen.nn.recurrent import GRU, LSTM, cudnn
from jaxgen.objectives.likelihood import Likelihood
from tests.rounding import POINTWISE, rounding

pytestmark = pytest.mark.slow

B, T, D, H = 3, 5, 4, 8
SIZES = (D, H, 1, False)


def draw():
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(functools.partial(LSTM(H).init, in_features=D), jax.random.key(0))
    params = {name: jnp.float32(rng.normal(size=s.shape)) for name, s in shapes.items()}
    return params, jnp.float32(rng.normal(size=(B, T, D))), tuple(jnp.float32(rng.normal(size=(2, B, H))))


def test_our_weights_in_its_order_give_our_outputs():
    params, x, carry = draw()
    expected, last = LSTM(H).unroll(params, x, carry, np.zeros((B, T), bool))
    weights = rnn.unpack_lstm_weights(cudnn.pack_weights(params), *SIZES)
    lengths = jnp.full(B, T, jnp.int32)
    y, h, c = rnn.lstm_ref(x, carry[0][None], carry[1][None], *weights, lengths, D, H, 1, 0.0, False)
    for got, wanted in zip((y, h[0], c[0]), (expected, *last), strict=True):
        np.testing.assert_allclose(got, wanted, atol=rounding(T * (D + H + POINTWISE), wanted))


def test_gradients_come_back_in_our_order():
    """Packing is a permutation, so that a checkpoint never holds anything but our layout."""
    params, *_ = draw()
    weights, pull = jax.vjp(cudnn.pack_weights, params)
    assert weights.size == rnn.get_num_params_in_lstm(*SIZES)
    (back,) = pull(weights)
    for name in ("input", "recurrent", "bias", "recurrent_bias"):
        np.testing.assert_array_equal(back[name], params[name])


@pytest.fixture
def nvidia(monkeypatch):
    """A process that believes it has a GPU: jax asks the driver for the size of cuDNN's workspace when it traces."""

    class Descriptor:
        @staticmethod
        def build_rnn_descriptor(*sizes):
            return b""

    monkeypatch.setattr(cudnn, "available", lambda: True)
    monkeypatch.setattr(gpu_rnn, "compute_rnn_workspace_reserve_space_sizes", lambda *sizes: (64, 64), raising=False)
    for primitive, rule in ((rnn.rnn_fwd_p, gpu_rnn._rnn_fwd_lowering), (rnn.rnn_bwd_p, gpu_rnn._rnn_bwd_lowering)):
        mlir.register_lowering(primitive, functools.partial(rule, Descriptor, "cu"), platform="cuda")


def lowered_for_cuda(cell, dtype="float32", dropout=0.0, around=contextlib.nullcontext):
    """Text of the real train step, traced within a context."""
    data = DataSpec(features=MuLaw(sample_rate=8000, q_levels=16))
    model = WaveRNN(cell=cell, embedding_size=4, dropout=dropout)
    task = Likelihood(dtype=dtype).build(model, data, steps=10, batch_size=B)
    state = jax.eval_shape(task.init, jax.random.key(0))
    shape = jax.ShapeDtypeStruct((B, T), bool)
    batch = dict.fromkeys(("reset", "mask", "end"), shape) | {"labels": {}}
    batch["x"] = jax.ShapeDtypeStruct((B, T + model.lookback), np.uint8)
    checks = [jax.export.DisabledSafetyCheck.custom_call(name) for name in ("cudnn_rnn_ffi", "cudnn_rnn_bwd_ffi")]

    def step(state, batch):
        with around():
            return task.train_step(state, batch)

    exported = jax.export.export(jax.jit(step), platforms=["cuda"], disabled_checks=checks)
    return exported(state, batch).mlir_module()


def test_the_train_step_calls_cudnn_forward_and_backward(nvidia):
    text = lowered_for_cuda(LSTM(H))
    assert "@cudnn_rnn_ffi" in text
    assert "@cudnn_rnn_bwd_ffi" in text


def test_each_of_several_devices_calls_it_for_its_own_rows(nvidia):
    mesh = jax.sharding.AbstractMesh((B,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    text = lowered_for_cuda(LSTM(H), around=lambda: jax.sharding.use_abstract_mesh(mesh))
    outputs = re.findall(r"@cudnn_rnn_ffi\(.*-> \(?tensor<(\d+)x", text)
    assert outputs
    assert set(outputs) == {"1"}


@pytest.mark.parametrize(
    "options",
    [
        {"cell": GRU(H)},
        {"cell": LSTM(H, layer_norm=True)},
        {"cell": LSTM(H), "dtype": "bfloat16"},
        {"cell": LSTM(H), "dropout": 0.5},
    ],
    ids=["GRU", "layer_norm", "bfloat16", "dropout"],
)
def test_what_cudnn_cannot_do_takes_the_scan(nvidia, options):
    text = lowered_for_cuda(**options)
    assert "cudnn_rnn" not in text
    assert "stablehlo.while" in text
