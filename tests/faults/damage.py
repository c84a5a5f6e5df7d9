"""Checkpoints that are damaged while nothing runs: noticed and told, or without effect."""

import contextlib
import io
import random
import shutil
import signal
from collections.abc import Callable, Sequence
from pathlib import Path

from jaxgen.training.checkpoint import Checkpoints
from tests.faults.trainer import Lost, Trainer, assert_equal, assert_same_state, state_like

Damage = Callable[[Path, random.Random], None]


def file_cut_short(step: Path, rng: random.Random) -> None:
    """Cuts a file short, perhaps to nothing."""
    path = _some_file(step, rng)
    with path.open("r+b") as file:
        file.truncate(rng.choice([0, rng.randrange(path.stat().st_size)]))


def bit_flipped(step: Path, rng: random.Random) -> None:
    """Flips one bit of a file."""
    path = _some_file(step, rng)
    content = bytearray(path.read_bytes())
    content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    path.write_bytes(content)


def file_zeroed(step: Path, rng: random.Random) -> None:
    """Leaves a file its length but not its content, as a file system may after a power cut."""
    path = _some_file(step, rng)
    path.write_bytes(bytes(path.stat().st_size))


def file_gone(step: Path, rng: random.Random) -> None:
    """Removes a file."""
    _some_file(step, rng).unlink()


def folder_gone(step: Path, rng: random.Random) -> None:
    """Removes a folder within the step's."""
    shutil.rmtree(rng.choice(sorted(path for path in step.rglob("*") if path.is_dir())))


def step_emptied(step: Path, rng: random.Random) -> None:
    """Removes all that is in the step's folder."""
    shutil.rmtree(step)
    step.mkdir()


def garbage_in_json(step: Path, rng: random.Random) -> None:
    """Puts something else into a file that holds JSON."""
    files = [path for path in _files(step) if path.read_bytes()[:1] in (b"{", b"[")]
    garbage = [b"", b"{", b"null", b"[]", b"{}", b"not JSON", b'{"a": NaN}', rng.randbytes(100)]
    rng.choice(files).write_bytes(rng.choice(garbage))


DAMAGES: tuple[Damage, ...] = (
    *(file_cut_short, bit_flipped, bit_flipped, file_zeroed, file_gone, folder_gone, step_emptied, garbage_in_json),
)
_TWO_NEWEST = 0.2  # share of damages that befall both


def stopped_runs(folder: Path, twin: Trainer, saves: Sequence[int]) -> list[Path]:
    """Folders of a run as a kill would have left them, in its n-th saves and in its report."""
    trainer = Trainer(folder / "stopped")
    trainer.take_compiled(twin)
    life, found = trainer.start(), []
    moments = [lambda count=count: life.saves >= count for count in saves]
    for number, reached in enumerate([*moments, life.reporting]):
        while life.running() and not reached():
            life.check_patience()
        life.process.send_signal(signal.SIGSTOP)
        found.append(folder / f"stopped-{number}")
        shutil.copytree(trainer.folder, found[-1])
        life.process.send_signal(signal.SIGCONT)
    life.end()
    return found


def _damaged(checkpoints: Path, rng: random.Random) -> tuple[str, list[int]]:
    """Damages the newest checkpoint, or two; returns what was done, and the steps that it befell."""
    steps = sorted(int(path.name) for path in checkpoints.iterdir() if path.name.isdecimal())
    damage, both = rng.choice(DAMAGES), rng.random() < _TWO_NEWEST
    befallen = steps[-2 if both else -1 :]
    for step in befallen:
        damage(checkpoints / str(step), rng)
    return damage.__name__.replace("_", " ") + (" in the two newest" if both else ""), befallen


class Reader:
    """Damages copies of a run's checkpoints and reads them as the next training would."""

    def __init__(self, stopped: Path):
        self._stopped = stopped / "run" / "checkpoints"
        with contextlib.closing(Checkpoints(self._stopped)) as checkpoints:
            self._runs = {step: checkpoints.run(step) for step in checkpoints.steps()}
            self._like = state_like(next(iter(self._runs.values())))
            self._saved = {step: checkpoints.restore(step, self._like) for step in self._runs}
            self._figures = {step: checkpoints.figures(step) for step in self._runs}

    def __call__(self, folder: Path, seed: int) -> tuple[str, str]:
        """Damages a copy in `folder`; returns (what was done, what came of it). Raises Lost where what is read is not
        what was saved, or damage is passed over in silence."""
        place = folder / "checkpoints"
        shutil.copytree(self._stopped, place)
        what, befallen = _damaged(place, random.Random(seed))
        said = io.StringIO()
        try:
            with contextlib.redirect_stderr(said), contextlib.closing(Checkpoints(place, keep=3)) as checkpoints:
                described, figures = checkpoints.newest_run(), {step: checkpoints.figures(step) for step in self._runs}
                found = checkpoints.restore_newest(self._like)
        except Exception as error:
            raise Lost(f"{what}: {type(error).__name__}: {error}") from error
        if found is None or described is None or described[1] != self._runs[described[0]]:
            raise Lost(f"{what}: {described} was read")
        assert_same_state(found.step, found, self._saved[found.step])
        believed = [step for step in self._runs if figures[step] and figures[step] != self._figures[step]]
        forgotten = [step for step in self._runs if step not in befallen and figures[step] != self._figures[step]]
        if believed or forgotten:
            raise Lost(f"{what}: of the validation figures of steps {believed + forgotten}, {figures} was read")
        return what, _noticed(what, befallen, folder, said.getvalue())


def damaged_run(stopped: Sequence[Path], twin: Trainer, folder: Path, seed: int) -> tuple[str, str]:
    """Damages a copy of a stopped run, has it go on to its end; returns (what was done, what came of it).

    Raises Lost where the end is not the twin's, or damage is passed over in silence.
    """
    rng, trainer = random.Random(seed), Trainer(folder)
    shutil.copytree(rng.choice(stopped), folder, dirs_exist_ok=True)
    what, befallen = _damaged(trainer.checkpoints, rng)
    try:
        life = trainer.finish()
        assert_equal(trainer, twin)
    except Lost as lost:
        raise Lost(f"{what}: {lost}") from None
    return f"{what}, run to the end", _noticed(what, befallen, trainer.workdir, life.said())


def _noticed(what: str, befallen: Sequence[int], workdir: Path, said: str) -> str:
    """Whether damage was noticed: then it is told, and what it befell is put aside. Raises Lost where only one is so."""
    aside = {path.name.split("-")[0] for path in (workdir / "damaged").glob("*")}
    told = {str(step) for step in befallen if f"the checkpoint of step {step} is damaged" in said}
    if aside != told:
        raise Lost(f"{what}: steps {sorted(aside)} were put aside, {sorted(told)} were told")
    return "noticed" if told else "no effect"


def _files(step: Path) -> list[Path]:
    return sorted(path for path in step.rglob("*") if path.is_file())


def _some_file(step: Path, rng: random.Random) -> Path:
    return rng.choice([path for path in _files(step) if path.stat().st_size])
