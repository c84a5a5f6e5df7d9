"""Every kind of config and preset compiles down to what XLA reads for CPUs, NVIDIA GPUs and TPUs, at its full size."""

from pathlib import Path

import jax
import numpy as np
import pytest
from conftest import nightly

from jaxgen.config import load
from jaxgen.data.pipeline import VARIANT
from jaxgen.data.spec import DataSpec
from jaxgen.data.synthetic import PluckedStrings
from jaxgen.models.latent import LatentGeneratorConfig
from jaxgen.models.sequence import SequenceConfig
from jaxgen.models.vocoder import Vocoder
from jaxgen.recipes.presets import any_sound, quickstart
from jaxgen.runs.run import build_task
from jaxgen.training.loop import scan_updates

pytestmark = pytest.mark.slow

CONFIGS = {path.stem: path for path in sorted((Path(__file__).parent.parent / "configs").glob("*.py"))}
MAKE = {name: lambda path=path: load(path) for name, path in CONFIGS.items()}
MAKE |= {"quickstart": quickstart, "any_sound": lambda: any_sound(PluckedStrings(num_clips=2))}


def spec_of(config):
    """Of data that nobody has heard, but with the labels that the model asks for."""
    features = config.features
    size = int(np.prod(features.step_shape)) if features.step_dtype.kind == "f" else 0
    vocabularies = tuple((name, ("a", "b", "c")) for name in config.model.labels)
    streams = tuple(config.streams.items())
    return DataSpec(
        features=features, vocabularies=vocabularies, mean=(0.0,) * size, std=(1.0,) * size, streams=streams
    )


def batch_of(config, spec, *leading):
    rows, steps = (*leading, config.train.batch_size), config.train.seq_len
    if not isinstance(config.model, SequenceConfig):
        samples = steps * spec.features.samples_per_step
        return {
            "samples": jax.ShapeDtypeStruct((*rows, samples, *spec.features.sample_shape), np.float32),
            **{name: jax.ShapeDtypeStruct(rows, np.int32) for name in ("length", "clip")},
            "labels": {name: jax.ShapeDtypeStruct(rows, np.int32) for name in config.model.labels},
        }

    def array(length, dtype, *shape):
        return jax.ShapeDtypeStruct((*rows, length, *shape), dtype)

    def stream(name):
        return array(steps, config.streams[name].step_dtype, *config.streams[name].step_shape)

    labels = (*config.model.labels, *((VARIANT,) if spec.features.num_variants > 1 else ()))
    return {
        "x": array(config.model.lookback + steps, spec.features.step_dtype, *spec.features.step_shape),
        **{name: array(steps, bool) for name in ("reset", "mask", "end")},
        "clip": array(steps, np.int32),
        "labels": {name: array(steps, np.int32) for name in labels},
        "aligned": {name: stream(name) for name in config.model.aligned_streams},
        "context": {name: (stream(name), array(steps, bool)) for name in config.model.context_streams},
    }


def custom_calls_of(lowered_function, *operands):
    """The names of our own native kernels in a program for this machine, which export knows nothing of."""
    text = jax.jit(lowered_function).lower(*operands).as_text()
    names = {part.split("(")[0] for part in text.split("stablehlo.custom_call @")[1:]}
    return [jax.export.DisabledSafetyCheck.custom_call(name) for name in names]


PLATFORMS = ("cpu", "cuda", "tpu")
MODELS = {name: make().model for name, make in MAKE.items()}
SEQUENCES = [name for name, model in MODELS.items() if isinstance(model, SequenceConfig)]
SIZES_ALONE = ("digits_vocoder", "drums_gan")  # what others have that differ in nothing else
SOUNDS = [name for name in MAKE if name not in (*SEQUENCES, *SIZES_ALONE)]


@pytest.mark.parametrize("name", [SOUNDS[0], *map(nightly, SOUNDS[1:])])
def test_steps_of_models_of_sound_lower(name):
    """For all platforms at once, as nothing in these models knows on which it is."""
    config = MAKE[name]()
    spec = spec_of(config)
    task = build_task(config, spec)
    state = jax.eval_shape(task.init, jax.random.key(0))
    step = jax.jit(scan_updates(task), donate_argnums=0)
    exported = jax.export.export(step, platforms=PLATFORMS)(state, batch_of(config, spec, config.train.steps_per_call))
    check_step(exported, config, state)
    batch = batch_of(config, spec)
    if not isinstance(config.model, LatentGeneratorConfig):
        exported = jax.export.export(jax.jit(task.distances), platforms=PLATFORMS)(state.average, batch)
        scores = jax.tree.unflatten(exported.out_tree, exported.out_avals)
        assert scores["loss"].shape == (config.train.batch_size,)
        return

    def clips(params, batch):
        model = task.module(params)
        return model.to_clips(model.generate_like(batch, jax.random.key(0)))

    exported = jax.export.export(jax.jit(clips), platforms=PLATFORMS)(state.average, batch)
    steps, lengths = jax.tree.unflatten(exported.out_tree, exported.out_avals)
    assert steps.shape[:2] == (config.train.batch_size, config.train.seq_len)
    assert (steps.dtype, lengths.shape) == (spec.features.step_dtype, (config.train.batch_size,))


def check_step(exported, config, state):
    got, metrics = jax.tree.unflatten(exported.out_tree, exported.out_avals)
    assert [(a.shape, a.dtype) for a in jax.tree.leaves(got)] == [(a.shape, a.dtype) for a in jax.tree.leaves(state)]
    assert metrics["loss"].shape == (config.train.steps_per_call,)


@pytest.mark.parametrize("platform", PLATFORMS)
@pytest.mark.parametrize("name", [SEQUENCES[0], *map(nightly, SEQUENCES[1:])])
def test_train_and_eval_steps_lower(name, platform):
    config = MAKE[name]()
    spec = spec_of(config)
    task = build_task(config, spec)
    state = jax.eval_shape(task.init, jax.random.key(0))
    batches = batch_of(config, spec, config.train.steps_per_call)
    step = jax.jit(scan_updates(task), donate_argnums=0)
    checks = custom_calls_of(task.train_step, state, batch_of(config, spec)) if platform == "cpu" else ()
    exported = jax.export.export(step, platforms=[platform], disabled_checks=checks)(state, batches)
    check_step(exported, config, state)
    batch = batch_of(config, spec)
    score = jax.export.export(jax.jit(task.eval_step), platforms=[platform], disabled_checks=checks)
    exported = score(state.params, state.carry, batch)
    _, scores, predictions = jax.tree.unflatten(exported.out_tree, exported.out_avals)
    assert scores["loss"].shape == (config.train.batch_size, config.train.seq_len)
    assert predictions.shape[2:] == spec.features.step_shape


@pytest.mark.parametrize("name", [name for name, model in MODELS.items() if isinstance(model, Vocoder)])
def test_rendering_by_a_vocoder_lowers(name):
    config = MAKE[name]()
    task = build_task(config, spec_of(config))
    params = jax.eval_shape(task.init, jax.random.key(0)).average
    frames = jax.ShapeDtypeStruct((1, 64, config.features.frame_size), np.float32)
    render = jax.jit(lambda params, frames, real: task.module(params).render(frames, real))
    exported = jax.export.export(render, platforms=PLATFORMS)(params, frames, jax.ShapeDtypeStruct((64,), bool))
    assert exported.out_avals[0].shape == (1, 63 * config.features.hop_length, *config.features.sample_shape)
