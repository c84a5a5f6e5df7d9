"""Distributions against scipy and plain float64 formulas; samples against the probabilities they are drawn with."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats
from flax import nnx

from jaxgen.core.errors import UserError
from jaxgen.features import Pcm16
from jaxgen.nn.distributions import Categorical, LogisticMixture, Normal, NormalMixture, Sampling, VectorDistribution
from jaxgen.nn.heads import CoarseFine

D = 3
MIXTURE = NormalMixture(num_components=4, min_scale=0.1)
DISTRIBUTIONS = [(Categorical(6), 1), (Normal(scale=0.7), D), (MIXTURE, D), (LogisticMixture(3), 1)]
DRAWS = 20_000


def draw_params(distribution, event_size, shape=(), seed=0, scale=1.0):
    size = distribution.num_params(event_size)
    return scale * np.random.default_rng(seed).normal(size=(*shape, size)).astype(np.float32)


def draw_noise(distribution, event_size, shape, seed=0):
    keys = jax.random.split(jax.random.key(seed), int(np.prod(shape)))
    noise = jax.vmap(functools.partial(distribution.noise, event_size))(keys)
    return noise.reshape(*shape, -1)


@functools.partial(jax.jit, static_argnums=(0, 2, 3))
def draw(distribution, params, sampling, event_size=1):
    many = jnp.broadcast_to(params, (DRAWS, *params.shape))
    return distribution.sample(many, draw_noise(distribution, event_size, (DRAWS,)), sampling)


def mixture_parts(params):
    """Weights [K], means and standard deviations [K, D] of MIXTURE in float64, by its documented layout."""
    k = MIXTURE.num_components
    params = params.astype(np.float64)
    means, raw = params[k : k + k * D].reshape(k, D), params[k + k * D :].reshape(k, D)
    scales = 0.1 + 0.9 * np.log1p(np.exp(raw + np.log(np.expm1(1))))
    return scipy.special.softmax(params[:k]), means, scales


@pytest.mark.parametrize(("distribution", "event_size"), DISTRIBUTIONS)
@pytest.mark.parametrize("shape", [(), (5,), (2, 4)])
def test_shapes_and_dtypes(distribution, event_size, shape):
    def everything(params):
        x = distribution.sample(params, draw_noise(distribution, event_size, shape), Sampling(top_k=2))
        return x, distribution.mode(params), distribution.log_prob(params, x)

    params = jnp.zeros((*shape, distribution.num_params(event_size)), jnp.bfloat16)
    x, mode, log_prob = jax.eval_shape(everything, params)
    assert x.shape == mode.shape == (shape if event_size == 1 else (*shape, event_size))
    assert log_prob.shape == shape
    assert log_prob.dtype == jnp.float32
    if isinstance(distribution, VectorDistribution):
        mean = jax.eval_shape(distribution.mean, params)
        assert (mean.shape, mean.dtype) == ((*shape, event_size), jnp.float32)


def test_categorical_log_prob_is_softmax_cross_entropy():
    params = draw_params(Categorical(6), 1, (10,), scale=5.0)
    x = np.arange(10) % 6
    expected = scipy.special.log_softmax(params.astype(np.float64), axis=-1)[np.arange(10), x]
    np.testing.assert_allclose(Categorical(6).log_prob(params, x.astype(np.uint8)), expected, rtol=1e-6, atol=1e-6)


def test_normal_log_prob_is_scipys():
    mean, x = draw_params(Normal(), D, (10,)), draw_params(Normal(), D, (10,), seed=1, scale=4.0)
    expected = scipy.stats.norm.logpdf(x.astype(np.float64), mean, 0.7).sum(-1)
    np.testing.assert_allclose(Normal(scale=0.7).log_prob(mean, x), expected, rtol=1e-5)


def test_normal_likelihood_is_least_squares():
    mean, x = draw_params(Normal(), D, (10,)), draw_params(Normal(), D, (10,), seed=1)
    nats = jax.value_and_grad(lambda p: -Normal().log_prob(p, x).sum())(mean)
    squares = jax.value_and_grad(lambda p: 0.5 * D * jnp.square(p - x).mean(-1).sum())(mean)
    np.testing.assert_allclose(nats[1], squares[1], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(nats[0] - squares[0], 10 * D * 0.5 * np.log(2 * np.pi), rtol=1e-5)


def test_mixture_log_prob_is_that_of_whole_frames():
    params, x = draw_params(MIXTURE, D, (10,)), draw_params(Normal(), D, (10,), seed=1, scale=2.0)
    expected = []
    for p, frame in zip(params, x.astype(np.float64), strict=True):
        weights, means, scales = mixture_parts(p)
        components = [
            scipy.stats.multivariate_normal(m, np.diag(s**2)).pdf(frame) for m, s in zip(means, scales, strict=True)
        ]
        expected.append(np.log(weights @ components))
    np.testing.assert_allclose(MIXTURE.log_prob(params, x), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("raw", [1.0, -4.0, -20.0])  # wide; about a bin; narrower than may be
def test_logistic_mixture_log_prob_is_that_of_bins_of_a_mu_law_axis(raw):
    x = np.array([-(2**15), -30_000, -2_000, -20, -3, -2, -1, 0, 1, 2, 3, 50, 2_000, 30_000, 2**15 - 1])
    logits, means = np.array([0.3, -1.0]), np.array([0.0, 0.7])
    params = np.concatenate([logits, means - [-0.5, 0.5], [raw, raw]])
    low, high = (np.sign(y) * np.log1p(255 * np.abs(y)) / np.log(256) for y in ((x - 0.5) / 2**15, (x + 0.5) / 2**15))
    low[0], high[-1] = -np.inf, np.inf
    expected = np.zeros(len(x))
    for weight, mean in zip(scipy.special.softmax(logits), means, strict=True):
        logistic = scipy.stats.logistic(mean, np.exp(max(raw - np.log(4), -9.0)))
        upper = logistic.sf(low) - logistic.sf(high)  # exact where the other would be 1 - 1
        expected += weight * np.where(low > mean, upper, logistic.cdf(high) - logistic.cdf(low))
    found = LogisticMixture(2).log_prob(np.broadcast_to(params.astype(np.float32), (len(x), 6)), x)
    known = expected > 1e-200  # beyond, float64 has no number for it
    np.testing.assert_allclose(
        found[known], np.log(expected[known]), atol=0.03
    )  # loud bins are 50 float32 roundings wide


def test_fresh_mixture_is_a_standard_normal():
    params, x = jnp.zeros(MIXTURE.num_params(D)), np.array([0.3, -1.0, 2.0], np.float32)
    np.testing.assert_allclose(MIXTURE.log_prob(params, x), scipy.stats.norm.logpdf(x).sum(), rtol=1e-6)


@pytest.mark.parametrize(("distribution", "event_size"), DISTRIBUTIONS)
@pytest.mark.parametrize("size", [1e4, -1e4])
def test_value_and_gradient_are_finite_at_extremes(distribution, event_size, size):
    x = jnp.full((event_size,), 1e3) if event_size > 1 else jnp.asarray(0)
    value_and_grad = jax.jit(jax.value_and_grad(distribution.log_prob))
    for params in (np.full(distribution.num_params(event_size), size), draw_params(distribution, event_size) * size):
        value, gradient = value_and_grad(jnp.asarray(params, jnp.float32), x)
        assert np.isfinite(value)
        assert np.isfinite(gradient).all()


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_categorical_samples_follow_the_tempered_softmax(temperature):
    params = draw_params(Categorical(6), 1)
    counts = np.bincount(draw(Categorical(6), params, Sampling(temperature=temperature)), minlength=6)
    expected = DRAWS * scipy.special.softmax(params.astype(np.float64) / temperature)
    assert scipy.stats.chisquare(counts, expected).pvalue > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sampling", "kept"),
    [
        (Sampling(top_k=1), [5]),
        (Sampling(top_k=2), [3, 5]),
        (Sampling(top_k=99), [0, 1, 2, 3, 4, 5]),
        (Sampling(top_p=0.39), [5]),
        (Sampling(top_p=0.41), [3, 5]),
        (Sampling(top_p=0.75), [1, 3, 5]),
        (Sampling(top_k=3, top_p=0.8), [3, 5]),  # of the three left, the first two hold 0.65 / 0.80
        (Sampling(temperature=0.25, top_p=0.9), [3, 5]),  # the temperature comes first: 0.80, 0.12, 0.02
    ],
)
def test_top_k_and_top_p_keep_the_likeliest_and_their_ratios(sampling, kept):
    probs = np.array([0.06, 0.15, 0.08, 0.25, 0.06, 0.4])
    codes = draw(Categorical(6), jnp.log(jnp.asarray(probs, jnp.float32)), sampling)
    counts = np.bincount(codes, minlength=6)
    assert np.flatnonzero(counts).tolist() == kept
    tempered = probs[kept] ** (1 / sampling.temperature)
    assert len(kept) == 1 or scipy.stats.chisquare(counts[kept], DRAWS * tempered / tempered.sum()).pvalue > 1e-3


def test_top_k_keeps_k_of_equal_codes():
    assert len(np.unique(draw(Categorical(6), jnp.zeros(6), Sampling(top_k=2)))) == 2


@pytest.mark.slow
@pytest.mark.parametrize("size", [2, 15, 16, 17, 256])
def test_a_categorical_sample_is_the_inverse_of_the_cumulative_distribution(size):
    params = draw_params(Categorical(size), 1, scale=2.0)
    uniform = np.random.default_rng(1).random(DRAWS, np.float32)
    many = jnp.broadcast_to(params, (DRAWS, size))
    codes = np.asarray(Categorical(size).sample(many, uniform[:, None], Sampling()))
    cumulative = np.cumsum(scipy.special.softmax(params.astype(np.float64)))
    near = np.abs(cumulative - uniform[:, None]).min(1) < 1e-5  # either neighbour is right
    np.testing.assert_array_equal(codes[~near], np.searchsorted(cumulative, uniform, side="right")[~near])


@pytest.mark.parametrize("possible", [[0], [37], [255], [16, 31], [0, 255]])
@pytest.mark.parametrize("uniform", [0.0, 0.3, 1 - 2**-23])
def test_a_code_that_cannot_be_is_never_drawn(possible, uniform):
    params = np.full(256, -np.inf, np.float32)
    params[possible] = 0.0
    assert int(Categorical(256).sample(jnp.asarray(params), jnp.array([uniform]), Sampling())) in possible


@pytest.mark.parametrize(("temperature", "spread"), [(1.0, 1.0), (0.25, 1.0), (1.0, 0.3)])
def test_normal_samples_have_the_tempered_moments(temperature, spread):
    mean = draw_params(Normal(), D)
    x = draw(Normal(scale=0.7), mean, Sampling(temperature=temperature, noise_scale=spread), D)
    scale = 0.7 * spread * np.sqrt(temperature)
    assert scipy.stats.kstest(((x - mean) / scale).ravel(), "norm").pvalue > 1e-3


@pytest.mark.parametrize(("temperature", "spread"), [(1.0, 1.0), (0.25, 1.0), (1.0, 0.3)])
def test_mixture_samples_have_the_tempered_moments(temperature, spread):
    params = draw_params(MIXTURE, D)
    weights, means, scales = mixture_parts(params)
    tempered = weights ** (1 / temperature) / (weights ** (1 / temperature)).sum()
    mean = tempered @ means
    covariance = np.einsum("k,kd,ke->de", tempered, means - mean, means - mean)
    covariance += np.diag(tempered @ (temperature * spread**2 * scales**2))
    x = draw(MIXTURE, params, Sampling(temperature=temperature, noise_scale=spread), D)
    np.testing.assert_allclose(x.mean(0), mean, atol=5 * np.sqrt(covariance.max() / DRAWS))
    np.testing.assert_allclose(np.cov(x.T), covariance, atol=0.08 * covariance.max())


def test_mixture_means_mode_and_truncation():
    params = draw_params(MIXTURE, D)
    weights, means, scales = mixture_parts(params)
    np.testing.assert_allclose(MIXTURE.mean(params), weights @ means, rtol=1e-5)
    likeliest = means[weights.argmax()]
    np.testing.assert_allclose(MIXTURE.mode(params), likeliest, rtol=1e-6)
    x = draw(MIXTURE, params, Sampling(top_k=1), D)
    np.testing.assert_allclose(x.mean(0), likeliest, atol=5 * scales.max() / np.sqrt(DRAWS))


@pytest.mark.slow
@pytest.mark.parametrize(("distribution", "event_size"), DISTRIBUTIONS)
def test_temperature_zero_is_the_mode_and_a_tiny_one_close_to_it(distribution, event_size):
    params = draw_params(distribution, event_size, (50,))
    for sampling in (Sampling(temperature=0), Sampling(temperature=0, top_k=3, top_p=0.5), Sampling(temperature=1e-30)):
        x = distribution.sample(params, draw_noise(distribution, event_size, (50,)), sampling)
        np.testing.assert_allclose(x, distribution.mode(params), atol=1e-5)


def test_sharpness_is_of_both_bytes():
    head = CoarseFine(8).make(Pcm16(sample_rate=8_000), 4, dtype=jnp.float32, rngs=nnx.Rngs(0))
    outputs = 30 * head(jax.random.normal(jax.random.key(0), (50, 4)))
    noise = jax.random.uniform(jax.random.key(1), (50, 2))
    sharp = head.sample(outputs, noise, Sampling(temperature=0.6), jnp.full(50, 3.0))
    np.testing.assert_array_equal(sharp, head.sample(outputs, noise, Sampling(temperature=0.2)))
    apart = np.asarray(sharp, np.int32) - np.asarray(head.sample(outputs, noise, Sampling(temperature=0.6)))
    assert ((apart % 256 != 0) & (np.abs(apart) < 256)).any()  # the same high byte, another low one


@pytest.mark.slow
@pytest.mark.parametrize("distribution", [Categorical(6), LogisticMixture(3)])
def test_sharpness_is_a_temperature_of_each_step(distribution):
    params, noise = draw_params(distribution, 1, (50,), scale=3.0), draw_noise(distribution, 1, (50,))
    sharp = distribution.sample(params, noise, Sampling(temperature=0.6), jnp.where(jnp.arange(50) < 25, 1.0, 3.0))
    for part, temperature in ((slice(25), 0.6), (slice(25, 50), 0.2)):
        alone = distribution.sample(params[part], noise[part], Sampling(temperature=temperature))
        np.testing.assert_allclose(sharp[part], alone, atol=int(isinstance(distribution, LogisticMixture)))
        assert (sharp[part] != distribution.mode(params[part])).any()


@pytest.mark.parametrize(
    ("option", "make"),
    [
        ("--temperature", lambda: Sampling(temperature=-0.1)),
        ("--voiced-sharpness", lambda: Sampling(voiced_sharpness=-1.0)),
        ("--temperature", lambda: Sampling(temperature=float("nan"))),
        ("--top-k", lambda: Sampling(top_k=-1)),
        ("--top-p", lambda: Sampling(top_p=0.0)),
        ("--top-p", lambda: Sampling(top_p=1.5)),
        ("q_levels", lambda: Categorical(1)),
        ("scale", lambda: Normal(scale=0.0)),
        ("num-components", lambda: NormalMixture(num_components=0)),
        ("min-scale", lambda: NormalMixture(min_scale=0.0)),
        ("--model.distribution", lambda: Categorical(256).num_params(64)),
    ],
)
def test_mistakes_name_their_option(option, make):
    with pytest.raises(UserError, match=option):
        make()
