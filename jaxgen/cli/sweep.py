"""Trains every combination of a grid: `python -m jaxgen.sweep --grid train.seed=0,1,2 -- --data.root DIR`.

All options after `--` are those of `jaxgen.train`. The same command goes on with a sweep that was stopped.
"""

import dataclasses
import sys

from jaxgen.core.errors import UserError, run
from jaxgen.core.names import UserPath
from jaxgen.core.options import parse, split_values

USAGE = """Trains every combination of a grid of options, one after another, each in its own folder; all options after -- are
those of train:

  python -m jaxgen.sweep --grid train.seed=0,1,2 model.cell.hidden_size=256,512 -- --data.root DIR

A table and a plot compare the best validations. The same command goes on with a sweep that was stopped."""
"""What --help says above the options."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """Trains every combination of a grid of options."""

    grid: tuple[str, ...] = ()
    """Options of train with their values, as train.seed=0,1,2; a value of several words is in quotes: 'model.labels=a,a b'."""
    workdir: UserPath = ""
    """Folder of the sweep, with one of each run in it; none takes sweeps/ and the name of the config file or data folder."""


def main() -> int:
    words = sys.argv[1:]
    at = words.index("--") if "--" in words else len(words)
    own, train = words[:at], split_values(words[at + 1 :])
    for word in split_values(own):
        if word.startswith("--") and word not in ("--grid", "--workdir", "--help"):
            raise UserError(
                f"{word} is no option of a sweep, which has --grid and --workdir; options of train come after --."
            )
    options = parse(Options, None, own, "python -m jaxgen.sweep", USAGE)

    from jaxgen.runs.sweep import parse_grid, plan_sweep, run_sweep  # jax is slow to import, and --help needs none
    from jaxgen.training.interrupts import raise_on_signal

    with raise_on_signal():
        return run_sweep(*plan_sweep(parse_grid(options.grid), train, options.workdir))


if __name__ == "__main__":
    run(main)
