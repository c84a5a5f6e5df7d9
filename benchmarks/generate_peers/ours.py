"""Generation as `jaxgen.generate` runs it: the stream of samples, block by block, with what decodes them."""

import time
from typing import Any

import jax
import numpy as np

from benchmarks.generate_work import GenerateWork, given
from jaxgen.inference.generation import Generator, use_all_cores
from jaxgen.models.conditioning import Conditioning


def prepare(spec: dict[str, Any]) -> tuple[dict[str, Any], Any]:
    """spec: `work`, the fields of a `GenerateWork`, and `steps`."""
    use_all_cores()
    work = GenerateWork(**spec["work"])
    task = work.task()
    params = task.init(jax.random.key(0)).params
    generator = Generator(task.module, work.model, work.data)
    firsts: list[float] = []

    def run(times: int) -> dict[str, Any]:
        seconds = spec["steps"] / work.data.features.sample_rate
        for seed in range(times):
            started = time.perf_counter()
            stream = generator.stream(params, [{}] * work.streams, seconds=seconds, seed=seed)
            last = next(stream)
            firsts.append(time.perf_counter() - started)
            for block in stream:
                last = block
        return {"first_audio_seconds": float(np.median(firsts)), "distinct_codes": len(np.unique(last[0]))}

    model, numbers = task.module(params), given(work)
    carry, logits = model.init_carry(1), []
    step = jax.jit(model.step)
    for code in numbers.codes:
        outputs, carry = step(np.full((1, 1), code, np.uint8), Conditioning(), carry)
        logits.append(np.asarray(outputs[0]).tolist())
    return {"logits": logits}, run
