"""A sweep: every combination of a grid of options is trained, each in its own folder, by a process of its own."""

import dataclasses
import itertools
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from jaxgen.config import Config
from jaxgen.core.errors import ExitCode, UserError
from jaxgen.core.names import file_name
from jaxgen.core.serial import content_hash, to_json
from jaxgen.recipes.presets import load_config
from jaxgen.runs.lock import run_lock
from jaxgen.runs.saved_run import check_same_run, same_experiment, saved_config
from jaxgen.runs.sweep_report import NOT_TRAINED, Entry, print_table, write_report
from jaxgen.storage import is_remote
from jaxgen.training.interrupts import run_child

_FORBIDDEN = ("workdir", "cache_dir")
_FLAGS = {"true": True, "false": False}


@dataclasses.dataclass(frozen=True)
class Combination:
    """One point of a grid."""

    values: Mapping[str, str]
    """By option, in the grid's spelling: {"train.seed": "0"}."""
    words: tuple[str, ...]
    """The command line of its training."""
    config: Config
    """With the workdir that its run has."""

    @property
    def name(self) -> str:
        return ",".join(f"{option}={value}" for option, value in self.values.items())


def parse_grid(words: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """The values of each option, by its name as a config has it: {"train.seed": ("0", "1")}.

    words: `option=value,value` each. Raises UserError for what is none, and for what is said twice.
    """
    grid: dict[str, tuple[str, ...]] = {}
    for word in words:
        name, _, said = word.partition("=")
        name, values = name.lstrip("-").replace("-", "_"), tuple(value.strip() for value in said.split(","))
        if not name or not all(values):
            raise UserError(f"--grid has '{word}', expected option=value,value as in train.seed=0,1,2.")
        if name in _FORBIDDEN:
            raise UserError(
                f"--grid has {name}, but each combination has a folder of its own below the sweep's; leave it out."
            )
        if name in grid:
            raise UserError(f"--grid has {name} twice; give all its values at once, as in {name}={said},...")
        if len(set(values)) < len(values):
            raise UserError(f"--grid has a value of {name} twice: {said}; leave one out.")
        grid[name] = values
    if not grid:
        raise UserError("--grid has no options, expected option=value,value as in train.seed=0,1,2.")
    return grid


def plan_sweep(grid: Mapping[str, Sequence[str]], train: Sequence[str], workdir: str) -> tuple[Path, list[Combination]]:
    """The sweep's folder and its combinations, each with a config that holds.

    train: the options that all share. workdir: the folder; empty takes sweeps/ and the name that a run would have.
    Raises UserError, before anything is trained, for an option or value that is none, or a folder that does not fit.
    """
    asked = {word.partition("=")[0].replace("_", "-") for word in train if word.startswith("--")}
    for name in ("workdir", *grid):
        if (option := f"--{name.replace('_', '-')}") in asked:
            raise UserError(
                f"{option} is among the options of train; "
                + (
                    "each combination has a folder of its own: pass the sweep's --workdir before --."
                    if name == "workdir"
                    else "give it there or in --grid, not in both."
                )
            )
    planned = []
    for values in itertools.product(*grid.values()):
        chosen = dict(zip(grid, values, strict=True))
        words = (*train, *itertools.chain.from_iterable(_words(*item) for item in chosen.items()))
        planned.append(Combination(chosen, words, load_config(words, "python -m jaxgen.train")))
    folder = Path(workdir or Path("sweeps") / Path(planned[0].config.workdir).name)
    if is_remote(workdir):
        raise UserError(
            f"the sweep's folder '{workdir}' is in an object store; pass --workdir a folder of this machine."
        )
    if saved_config(folder) is not None:
        raise UserError(f"'{folder}' holds a run; pass --workdir another folder for the sweep.")
    for one, other in itertools.combinations(planned, 2):
        if same_experiment(one.config, other.config):
            raise UserError(f"--grid has one experiment twice, {one.name} and {other.name}; leave one out.")
    saved = {path.parent: saved_config(path.parent) for path in sorted(folder.glob("*/config.json"))}
    return folder, [_place(combination, folder, saved) for combination in planned]


def run_sweep(folder: Path, combinations: Sequence[Combination]) -> ExitCode | int:
    """Trains one combination after another, and writes the tables and the plot after each.

    Returns DONE, PREEMPTED where one was stopped, which stops the sweep; else the code of the first one that failed.
    """
    options = ", ".join(combinations[0].values)
    print(f"sweep: {len(combinations)} combinations of {options} in {folder}", file=sys.stderr)
    status = dict.fromkeys((combination.config.workdir for combination in combinations), NOT_TRAINED)
    codes, stopped = list[int](), False
    with run_lock(folder):
        for place, combination in enumerate(combinations, 1):
            workdir = combination.config.workdir
            print(f"\nsweep: {place} of {len(combinations)}, {combination.name}", file=sys.stderr)
            code, signalled = run_child(
                [sys.executable, "-m", "jaxgen.train", *combination.words, "--workdir", workdir]
            )
            stopped = signalled or code == ExitCode.PREEMPTED
            status[workdir] = "stopped" if stopped and code != ExitCode.DONE else _status(code)
            codes.append(code)
            entries = [Entry(each.values, each.config, status[each.config.workdir]) for each in combinations]
            write_report(folder, entries)
            if stopped:
                break
    print_table(folder, entries)
    if stopped:
        print(f"\nStopped; the same command continues {folder}.", file=sys.stderr)
        return ExitCode.PREEMPTED
    return next((code for code in codes if code), ExitCode.DONE)


def _status(code: int) -> str:
    """How a training ended, in a word."""
    words: Mapping[int, str] = {ExitCode.DONE: "done", ExitCode.DIVERGED: "diverged"}
    return words.get(code, f"failed, exit code {code}")


def _words(name: str, value: str) -> list[str]:
    """A value of the grid as words of a command line; one of several words stands in quotes, as in 'model.labels=a b'."""
    head, _, last = name.replace("_", "-").rpartition(".")
    before = f"--{head}." if head else "--"
    if (flag := _FLAGS.get(value.lower())) is not None:
        return [f"{before}{'' if flag else 'no-'}{last}"]
    try:
        return [f"{before}{last}", *shlex.split(value)]
    except ValueError as error:
        raise UserError(f"--grid has {name}={value}, whose quotes do not match ({error}).") from None


def _place(combination: Combination, folder: Path, saved: Mapping[Path, Config | None]) -> Combination:
    """The combination in the folder that holds its run already, else in one of its name.

    Raises UserError where that one holds a run of another config.
    """
    config, name = combination.config, file_name(combination.name)
    if name != combination.name:  # it is cut, or has another sign
        name = f"{name}-{content_hash(to_json(dict(combination.values)))[:8]}"
    same = [path for path, other in saved.items() if other is not None and same_experiment(other, config)]
    at = same[0] if same else folder / name
    placed = dataclasses.replace(config, workdir=str(at))
    if not same and (other := saved.get(at)) is not None:
        check_same_run(other, placed)
    return dataclasses.replace(combination, config=placed)
