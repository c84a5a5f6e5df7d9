"""The train step as `jaxgen.train` runs it: the objective's own, jitted, with donated state, on batches of the pipeline."""

from collections.abc import Callable
from typing import Any

import jax

from benchmarks.step_work import StepWork, start
from jaxgen.core.machine import keep_freed_memory
from jaxgen.core.serial import from_json


def prepare(spec: dict[str, Any]) -> tuple[dict[str, Any], Callable[[int], dict[str, Any]]]:
    """spec: `work`, a `StepWork` as `jaxgen.core.serial` writes it."""
    keep_freed_memory()
    work = from_json(spec["work"], StepWork, "the order")  # type: ignore[type-abstract]
    training, batch = work.bound(), work.batch()
    state = start(training)
    step = jax.jit(training.train_step, donate_argnums=0).lower(state, batch).compile()
    plan = step.memory_analysis()
    assert plan is not None
    planned = plan.argument_size_in_bytes + plan.output_size_in_bytes - plan.alias_size_in_bytes
    losses: dict[str, list[float]] = {name: [] for name in work.losses}

    def run(times: int) -> dict[str, Any]:
        nonlocal state
        for _ in range(times):
            state, metrics = step(state, batch)
        jax.block_until_ready((metrics, state))
        for name, metric in work.losses.items():
            losses[name].append(float(metrics[metric]))
        return dict(losses)

    return {
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(state.params)),
        "missing": 0,
        "planned_bytes": planned + plan.temp_size_in_bytes,
    }, run
