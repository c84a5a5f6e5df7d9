"""Trains a model: `python -m jaxgen.train` (the quickstart), `--data.root DIR` (any sound) or `--config FILE`.

The run's folder then holds checkpoints, metrics.jsonl, TensorBoard events, generated clips and report.html. The same
command continues an interrupted run, and finds a finished one.
"""

import sys

from jaxgen.cli.config_options import read_config
from jaxgen.core.errors import run


def main() -> int:
    words = sys.argv[1:]
    config = read_config(words, "python -m jaxgen.train")

    from jaxgen.recipes.presets import config_file  # for these --help does not wait
    from jaxgen.runs.training import train

    return train(config, config_file(words))


if __name__ == "__main__":
    run(main)
