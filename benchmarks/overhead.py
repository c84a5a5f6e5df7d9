"""What the training loop costs beside the train step: `python -m benchmarks.overhead [--digits DIR]`.

The loop of `jaxgen.train` (batches made anew, metrics logged) and a bare loop of the same compiled call over batches that
lie on the device, in turn, in one process. The bare loop runs inside the loop's validations, so that neither compiles
anew. `data_wait_share` is what the loop's own telemetry says.
"""

import dataclasses
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from benchmarks import measure
from benchmarks.measure import Row
from jaxgen.config import Config, load, parse
from jaxgen.core.machine import keep_freed_memory
from jaxgen.data.batches import Batches
from jaxgen.data.preparation import prepare
from jaxgen.data.synthetic import PluckedStrings
from jaxgen.features import MuLaw
from jaxgen.models.wave_rnn import WaveRNN
from jaxgen.nn.recurrent import LSTM
from jaxgen.recipes.presets import quickstart
from jaxgen.runs.run import build_task, training_batches
from jaxgen.training.checkpoint import Checkpoints
from jaxgen.training.feed import prefetch_groups
from jaxgen.training.loop import Validation, fit, scan_updates
from jaxgen.training.mesh import Devices
from jaxgen.training.schedule import Train

_CONFIGS = Path(__file__).parent.parent / "configs"
_WAIT = "speed/data_wait_share"


@dataclasses.dataclass(frozen=True)
class Options(measure.Repeated):
    """Cost of the training loop beside the train step."""

    steps: int = 40
    """Updates that are timed together."""
    steps_per_call: int = 1
    """Updates that the device does in one go."""
    clips: int = 100
    """SyntheticDataset clips that are trained on."""
    digits: str = ""
    """Folder of the spoken digits; with it their configs are measured too."""
    hidden_size: int | None = None
    """Width of all models; none takes their own."""


def main(argv: Sequence[str]) -> list[Row]:
    """Measures, prints and returns the figures."""
    keep_freed_memory()
    options = parse(Options, Options(), argv, "python -m benchmarks.overhead")
    place = measure.environment()
    rows = [_measured(name, config, options) for name, config in _works(options).items()]
    measure.report(rows, place, options)
    return rows


def _works(options: Options) -> dict[str, Config]:
    data = PluckedStrings(num_clips=options.clips)
    smallest = Config(
        data=data,
        features=MuLaw(sample_rate=data.sample_rate),
        model=WaveRNN(cell=LSTM(hidden_size=128), lookback=1),
        train=Train(batch_size=8, seq_len=2048),
    )
    works = {"lstm-8-2048-128-1": smallest, "quickstart": dataclasses.replace(quickstart(), data=data)}
    if options.digits:
        for path in sorted(_CONFIGS.glob("digits_*.py")):
            config: Any = load(path)
            works[path.stem] = dataclasses.replace(config, data=dataclasses.replace(config.data, root=options.digits))
    return works


def _measured(name: str, config: Config, options: Options) -> Row:
    measure.say(f"{name}: {options.repeats} rounds of {options.steps} updates ...")
    model: Any = config.model
    if options.hidden_size is not None:
        cell = dataclasses.replace(model.cell, hidden_size=options.hidden_size)
        config = dataclasses.replace(config, model=dataclasses.replace(model, cell=cell))
    train = dataclasses.replace(
        config.train,
        steps=options.steps * (options.repeats + 1),  # the first round compiles
        eval_every=options.steps,
        checkpoint_every=options.steps,
        steps_per_call=options.steps_per_call,
        early_stopping=0,
    )
    with tempfile.TemporaryDirectory() as folder:
        seconds = _in_turn(dataclasses.replace(config, train=train), Path(folder))
        waited = _scalars(Path(folder, "tensorboard"), _WAIT)
    ratio = measure.median_ratio(seconds["loop"], seconds["bare"])
    return {
        "benchmark": "overhead",
        "work": name,
        "candidate": f"{options.steps_per_call} updates a call",
        **measure.spread(seconds["loop"], options.steps),
        "step_seconds": float(np.median(seconds["bare"])) / options.steps,
        "overhead_share": ratio - 1,
        "data_wait_share": float(np.mean(waited)),
    }


def _in_turn(config: Config, folder: Path) -> dict[str, np.ndarray]:
    """Seconds of each round of the loop and of the bare one."""
    train = config.train
    store = prepare(config.data, config.features, config.audio, folder)
    spec = store.spec(config.model.labels)
    batches = training_batches(config, store, spec)
    task = build_task(config, spec)
    bare = _bare_loop(task, batches, train)
    seconds: dict[str, list[float]] = {"loop": [], "bare": []}
    started = time.perf_counter()

    def validate(params: Any, _: int) -> Validation:
        nonlocal started
        jax.block_until_ready(params)
        seconds["loop"].append(time.perf_counter() - started)
        seconds["bare"].append(bare())
        started = time.perf_counter()
        return Validation({"loss": 0.0}, [], config.features.sample_rate)

    fit(
        task,
        batches,
        _NoCheckpoints(folder / "none", keep=1),
        validate,
        train,
        folder,
        Devices(train.batch_size),
        seconds_per_step=1.0,
        run={},
    )
    return {name: np.array(values[1:]) for name, values in seconds.items()}


def _bare_loop(task: Any, batches: Batches, train: Train) -> Callable[[], float]:
    """A round of the same updates, without all that the loop does beside them; returns its seconds."""
    step, state = jax.jit(scan_updates(task), donate_argnums=0), jax.jit(task.init)(jax.random.key(0))
    lasts = [*range(train.steps_per_call, train.eval_every, train.steps_per_call), train.eval_every]
    rounds = list(prefetch_groups(iter(batches), 1, lasts))

    def run() -> float:
        nonlocal state
        started = time.perf_counter()
        for call in rounds:
            state, _ = step(state, call.batches)
        jax.block_until_ready(state)
        return time.perf_counter() - started

    run()
    return run


class _NoCheckpoints(Checkpoints):
    """Saves nothing: what is measured is what each update costs."""

    def save(self, *_: Any) -> None:
        pass


def _scalars(folder: Path, tag: str) -> list[float]:
    """The values of a scalar in the TensorBoard events of a folder."""
    from tensorboardX.proto.event_pb2 import Event

    events, found = b"".join(path.read_bytes() for path in folder.iterdir()), []
    while events:  # length (8 bytes), its checksum (4), event, its checksum (4)
        size = int.from_bytes(events[:8], "little")
        found += [v.simple_value for v in Event.FromString(events[12 : 12 + size]).summary.value if v.tag == tag]
        events = events[16 + size :]
    if not found:
        raise LookupError(f"the loop has logged no {tag}")
    return found


if __name__ == "__main__":
    measure.start(main)
