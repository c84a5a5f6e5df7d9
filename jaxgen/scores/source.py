"""What reading a file of written music gives, and the bounds that keep a hostile one from costing memory or time."""

import dataclasses
from collections.abc import Mapping

from jaxgen.scores.score import Score, ScoreError

MOST_BYTES = 8 << 20
"""Size of the largest file of notes that is read; real ones have less than a tenth of it."""
MOST_NOTES = 1_000_000
"""Notes of the longest score that is read: days of music."""
MOST_EVENTS = 100_000
"""Changes of tempo, metre or key in a score."""
MOST_QUARTERS = 50_000
"""Length of the longest score that is read, in quarter notes: seven hours at a usual tempo."""
MOST_SECONDS = 24 * 3_600
"""And by its tempi."""


@dataclasses.dataclass(frozen=True)
class ScoreFile:
    """A score as a file had it."""

    score: Score
    left_out: Mapping[str, int] = dataclasses.field(default_factory=dict)
    """How many of what was not taken, such as {"drum notes": 12}."""
    comment: str = ""
    """The first text of the file: where the mark of synthetic music stands."""

    def __post_init__(self) -> None:
        if self.score.quarters > MOST_QUARTERS or self.score.seconds > MOST_SECONDS:
            raise ScoreError(
                f"its notes end after {self.score.quarters:.0f} quarters ({self.score.seconds / 3600:.1f} h), expected at "
                f"most {MOST_QUARTERS} ({MOST_SECONDS // 3600} h)"
            )


def check_size(num_bytes: int) -> None:
    """Raises ScoreError for a file that is larger than any real one."""
    if num_bytes > MOST_BYTES:
        raise ScoreError(f"{num_bytes / (1 << 20):.0f} MiB, expected at most {MOST_BYTES >> 20} MiB of written music")
