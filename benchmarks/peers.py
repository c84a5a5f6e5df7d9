"""PyTorch generating with the benchmarked models."""

import importlib.util
from collections.abc import Callable

from benchmarks.workloads import Workload
from jaxgen.data.spec import DataSpec
from jaxgen.recurrent import LSTM

HAS_TORCH = importlib.util.find_spec("torch") is not None


def torch_generation(work: Workload, spec: DataSpec, streams: int, steps: int) -> dict[str, Callable[[], object]]:
    """Free-running generation in PyTorch, as a candidate; none where torch is not installed or the cell is not its LSTM."""
    if not (HAS_TORCH and isinstance(work.model.cell, LSTM)):
        return {}
    from benchmarks import torch_peer

    return {"torch nn.LSTM": torch_peer.generation(work, spec, streams, steps)}
