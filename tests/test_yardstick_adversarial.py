"""Generators that learn against a critic: PyTorch computes what jaxgen does, or is refused; their arithmetic is counted."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from benchmarks import step
from benchmarks.adversarial_peers.given import Given
from benchmarks.adversarial_work import ADVERSARIAL, AdversarialWork
from benchmarks.product_flops import product_flops
from jaxgen.core.serial import to_json
from jaxgen.features import LogMel
from jaxgen.models.critics import WaveCritic
from jaxgen.models.vocoder import Vocoder
from jaxgen.models.wave_gan import ShuffleCritic, WaveGAN
from jaxgen.nn.convolution import Conv
from jaxgen.objectives.adversarial_loss import LeastSquares, Logistic
from jaxgen.objectives.terms import FeatureMatching, MelDistance, StftDistance
from tests.test_yardstick import told

pytestmark = [pytest.mark.slow, pytest.mark.nightly]

FRAMES = LogMel(sample_rate=8_000, n_fft=64, hop_length=32, n_mels=5, floor=1e-4)
TINY = [
    AdversarialWork(
        model=Vocoder(width=8, num_blocks=1),
        features=FRAMES,
        critic=WaveCritic(periods=(3,), windows=(64,), channels=2, spectral_channels=2),
        loss=LeastSquares(),
        batch_size=2,
        seq_len=8,
        terms=(FeatureMatching(weight=2.0), MelDistance(weight=5.0), StftDistance(windows=(32,))),
    ),
    AdversarialWork(
        model=WaveGAN(
            first_steps=3, factors=(4,), channels=(6, 5), kernel_size=3, depth=1, latent_size=4, labels=("a",)
        ),
        features=dataclasses.replace(FRAMES, stack=2),
        critic=ShuffleCritic(factors=(2, 2), channels=(4, 5), kernel_size=3, shuffle=1, shift=2, width=4),
        loss=Logistic(),
        batch_size=3,
        seq_len=12,
    ),
]


@pytest.mark.parametrize("work", TINY, ids=lambda work: work.name)
def test_pytorch_computes_the_same_losses_and_update_or_is_refused(work, tmp_path):
    pytest.importorskip("torch", reason="torch is not installed (pip install 'jaxgen[bench]')")
    given, spec = work.given(), {"work": json.loads(json.dumps(to_json(work))), "file": str(tmp_path / "given.npz")}
    given.save(spec["file"])
    ours, theirs = told("ours", spec), told("torch_eager", spec, work.peers)
    assert step.disagreeing({"jaxgen": ours, "torch": theirs}) == {}
    for losses in work.losses:
        np.testing.assert_allclose(theirs[losses][0], ours[losses][0], rtol=1e-5)
        assert theirs[losses][0] - theirs[losses][1] == pytest.approx(ours[losses][0] - ours[losses][1], rel=1e-2)
    for side in ("generator", "critic"):
        tree = jax.tree.map(np.array, given.tree)
        largest = max(jax.tree.leaves(tree[side]), key=np.size)
        largest[:] = np.roll(largest, 1, axis=0)
        Given(tree).save(spec["file"])
        refused = step.disagreeing({"jaxgen": ours, "torch": told("torch_eager", spec, work.peers)})
        assert "jaxgen's" in refused["torch"], side


def test_products_are_counted_as_often_as_they_are_needed():
    a, b = jnp.ones((2, 3)), jnp.ones((3, 3))

    def function(choice):
        unused = a @ b
        rows, _ = jax.lax.scan(lambda rows, _: (rows @ b, None), a, length=5)
        return jax.lax.cond(choice, lambda: rows @ b @ b, lambda: rows @ b), unused.shape[0]

    assert product_flops(function, True) == 2 * (2 * 3 * 3) * (5 + 2)
    convolution = jnp.ones((4, 6, 2, 3))
    assert product_flops(lambda x: Conv(3, 5, (3, 1), (2, 1), nnx.Rngs(0))(x), convolution) == 2 * 4 * 3 * 2 * 9 * 5


def test_the_rows_are_those_that_were_agreed():
    assert ADVERSARIAL.keys() == {"vocoder-16-32-192-6", "wavegan-16-4096-256-5", "wavegan-32-48-256-3"}
