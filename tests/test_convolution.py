"""Convolutions are those of XLA, values and gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.nn.convolution import convolve


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sound", "kernel", "stride"),
    [
        ((2, 11, 1, 3), (5, 1, 3, 4), (4, 1)),  # a sequence, in blocks
        ((2, 8, 1, 2), (4, 1, 2, 2), (3, 1)),
        ((2, 5, 1, 2), (2, 1, 2, 2), (7, 1)),
        ((2, 9, 1, 8), (4, 1, 8, 2), (1, 1)),  # to fewer features
        ((2, 6, 7, 2), (3, 5, 2, 3), (1, 2)),
        ((2, 6, 7, 3), (2, 3, 3, 2), (1, 1)),
        ((2, 6, 21, 1), (3, 9, 1, 4), (1, 4)),  # of numbers one by one, in blocks
        ((2, 7, 3, 2), (5, 1, 2, 3), (3, 1)),
    ],
)
def test_a_convolution_is_that_of_xla(sound, kernel, stride):
    random = np.random.default_rng(0)
    x, weights = random.standard_normal(sound, np.float32), random.standard_normal(kernel, np.float32)
    margins = [(reach // 2, reach - 1) for reach in kernel[:2]]  # more than enough behind

    def xla(x, weights):
        whole = jax.lax.conv_general_dilated(x, weights, stride, margins, dimension_numbers=("NHWC", "HWIO", "NHWC"))
        return whole[:, : -(-sound[1] // stride[0]), : -(-sound[2] // stride[1])]

    ours, back = jax.vjp(lambda *given: convolve(*given, stride), x, weights)
    theirs, xla_back = jax.vjp(xla, x, weights)
    cotangent = random.standard_normal(ours.shape, np.float32)
    for got, expected in zip((ours, *back(cotangent)), (theirs, *xla_back(cotangent)), strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-4)

    def steepness(convolution):  # what a gradient penalty asks of a critic
        def of(weights):
            slope = jax.grad(lambda x: jnp.tanh(convolution(x, weights)).sum())(x)
            return jnp.square(slope).sum()

        return jax.grad(of)(weights)

    got, expected = steepness(lambda x, weights: convolve(x, weights, stride)), steepness(xla)
    np.testing.assert_allclose(got, expected, rtol=1e-3, atol=1e-3)
