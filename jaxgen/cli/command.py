"""The console command: `jaxgen train ...` is `python -m jaxgen.train ...`, and so for each verb."""

import importlib
import sys

from jaxgen import __version__
from jaxgen.core import errors
from jaxgen.core.errors import ExitCode, UserError

VERBS = {
    "train": "train a model on sound, or go on with a run that was stopped",
    "generate": "make new clips with a trained run",
    "evaluate": "measure a trained run and write its report",
    "prepare": "decode data ahead of training and report on it",
    "sweep": "train every combination of a grid of options, and compare them",
    "classifier": "train the classifier of a data set's labels, by which generated clips are judged",
    "completion": "print a script that completes verbs and options in bash, zsh or fish",
}
_HELP = """usage: jaxgen VERB [OPTIONS]

{verbs}

`jaxgen VERB --help` lists the options of each; `jaxgen --version` says which version this is.
"""


def main() -> int:
    verb, *options = sys.argv[1:] or ["--help"]
    if verb in ("--version", "-V"):
        print(f"jaxgen {__version__}")
    elif verb in ("--help", "-h", "help"):
        width = max(map(len, VERBS))
        print(_HELP.format(verbs="\n".join(f"  {name:{width}}  {what}" for name, what in VERBS.items())), end="")
    elif verb in VERBS:
        sys.argv = [f"jaxgen {verb}", *options]
        return int(importlib.import_module(f"jaxgen.cli.{verb}").main())
    else:
        raise UserError(f"there is no verb '{verb}', expected one of {', '.join(VERBS)}; see jaxgen --help.")
    return ExitCode.DONE


def start() -> None:
    """The entry point of the console command."""
    errors.begin()
    errors.run(main)
