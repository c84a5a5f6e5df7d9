"""The rows of the yardstick."""

from benchmarks.adversarial_work import ADVERSARIAL
from benchmarks.recurrent_work import RECURRENT
from benchmarks.step_work import StepWork
from jaxgen.core.errors import UserError

ROWS: dict[str, StepWork] = {**RECURRENT, **ADVERSARIAL}
"""All rows by name."""


def rows_named(names: tuple[str, ...]) -> list[StepWork]:
    """The rows of these names, or all. Raises UserError for a name that no row has."""
    if unknown := [name for name in names if name not in ROWS]:
        raise UserError(f"--rows has '{unknown[0]}', but the rows are {', '.join(ROWS)}.")
    return [ROWS[name] for name in names or ROWS]
