"""What figures are, in words: each metric brings the descriptions of its own, and one without is named by its name."""

import dataclasses
import enum
import math
import re
from collections.abc import Mapping

SHARE = "%"
"""The unit of a share: a figure from 0 to 1 that people read in percent."""


class Better(enum.Enum):
    """Which way a figure is better."""

    LOWER = "lower is better"
    HIGHER = "higher is better"
    LIKE_RECORDINGS = "nearer to the recordings is better"
    NEITHER = "neither way is better"
    UNKNOWN = "its metric does not say which way is better"

    @property
    def brief(self) -> str:
        """One word for a narrow column; empty where no way is better."""
        return {Better.LOWER: "lower", Better.HIGHER: "higher", Better.LIKE_RECORDINGS: "as real"}.get(self, "")


@dataclasses.dataclass(frozen=True)
class Description:
    """A figure in words. What stands in {braces} in the figure's name may stand in braces in `name` and `meaning`."""

    name: str
    """A few words, without the unit."""
    meaning: str
    """One line."""
    unit: str = ""
    """`SHARE`, or as it is written behind a number; empty for a bare one."""
    better: Better = Better.NEITHER
    importance: int = 0
    """Above 0 for the few that a reader looks at first; the highest comes first."""
    reference: str = ""
    """What it is read against, where that is known beforehand."""
    reference_of: str = ""
    """Name of the figure that this one is only a reference of, which may have the same braces; it has then no row of its own."""

    @property
    def title(self) -> str:
        """The name and the unit."""
        return f"{self.name} ({self.unit})" if self.unit else self.name


Descriptions = Mapping[str, Description]
"""By name of the figure. {Braces} in a name stand for anything: a label, the name of another figure."""


def find_description(descriptions: Descriptions, figure: str) -> Description:
    """The description of a figure, its braces filled: the one whose name says most where several fit, else `read_name`."""
    fitting = [(name, match) for name in descriptions if (match := _pattern(name).fullmatch(figure))]
    if not fitting:
        return read_name(figure)
    name, match = max(fitting, key=lambda each: len(re.sub(r"\{\w+\}", "", each[0])))
    found = descriptions[name]
    values = match.groupdict()
    words = {key: value.replace("_", " ") for key, value in values.items()}
    return dataclasses.replace(
        found,
        name=_fill(found.name, words) if found.reference_of else _capitalise(_fill(found.name, words)),
        meaning=_fill(found.meaning, words),
        reference_of=_fill(found.reference_of, values),
    )


def read_name(figure: str) -> Description:
    """What the name of a figure tells of itself: its words, and the unit that it ends with."""
    words = [word for word in re.split(r"[_\s]+", figure) if word] or [figure]
    unit = ""
    if len(words) > 3 and words[-2] == "per" and words[-3] in _UNITS:
        unit, words = f"{_UNITS[words[-3]]}/{words[-1]}", words[:-3]
    elif len(words) > 1 and words[-1] in _UNITS:
        unit, words = _UNITS[words[-1]], words[:-1]
    return Description(_capitalise(" ".join(words)), "Its metric does not describe it.", unit, Better.UNKNOWN)


def show_figure(value: float | None, unit: str = "") -> str:
    """A figure of this unit for people, without it: four digits that say something, three of a share; a dash where none is."""
    if value is None or not math.isfinite(value):
        return "–"
    if unit == SHARE:
        return f"{100 * value:.3g}"
    if float(value).is_integer() and abs(value) < 1e12:
        return f"{int(value):,}"
    return f"{value:.4g}"


_UNITS = {
    "db2": "dB²",
    "db": "dB",
    "dbfs": "dBFS",
    "hz": "Hz",
    "khz": "kHz",
    "seconds": "s",
    "ms": "ms",
    "cents": "cents",
    "nats": "nats",
    "bits": "bits",
    "share": SHARE,
    "clips": "clips",
}


def _pattern(name: str) -> re.Pattern[str]:
    parts = re.split(r"\{(\w+)\}", name)
    return re.compile(
        "".join(f"(?P<{part}>.+)" if place % 2 else re.escape(part) for place, part in enumerate(parts)), re.DOTALL
    )


def _fill(text: str, values: Mapping[str, str]) -> str:
    return re.sub(r"\{(\w+)\}", lambda match: values[match[1]], text)


def _capitalise(text: str) -> str:
    return text[:1].upper() + text[1:]
