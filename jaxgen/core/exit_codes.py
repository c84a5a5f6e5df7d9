"""Exit codes of all commands."""

import enum


class ExitCode(enum.IntEnum):
    """What a jaxgen command tells the shell. 75 and 76 are `sysexits.h` EX_TEMPFAIL and its neighbour; 130 is
    what shells say of Ctrl-C."""

    DONE = 0
    BAD_INPUT = 2
    PREEMPTED = 75
    DIVERGED = 76
    INTERRUPTED = 130
