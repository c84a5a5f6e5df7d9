"""In which order bars are played where some are repeated."""

import dataclasses
from collections.abc import Sequence

_MOST_TIMES = 9


@dataclasses.dataclass(frozen=True)
class BarMarks:
    """What stands at a bar's ends."""

    begins_repeat: bool = False
    ends_repeat: bool = False
    ends_section: bool = False
    """A double bar, behind which a repeat without a beginning begins."""
    endings: frozenset[int] = frozenset()
    """An ending begins: the times that it is played, from 1."""


def play_order(bars: Sequence[BarMarks]) -> list[int]:
    """Indices of bars in the order of playing: repeats are played twice, or as often as their endings say, at most 9 times."""
    order: list[int] = []
    start = place = 0  # of the section
    time, times = 1, 2
    while place < len(bars):
        bar = bars[place]
        if bar.begins_repeat and place != start:
            start, time, times = place, 1, 2
        following = bars[place + 1].endings if place + 1 < len(bars) else ()
        times = min(_MOST_TIMES, max([times, *bar.endings, *following]))
        if bar.endings and time not in bar.endings:
            place += 1
            while place < len(bars) and not bars[place].endings and not bars[place - 1].ends_repeat:
                place += 1
            continue
        order.append(place)
        place += 1
        if bar.ends_repeat and time < times:
            place, time = start, time + 1
        elif bar.ends_repeat or bar.ends_section:
            start, time, times = place, 1, 2
    return order
