"""Trains a judge of a data set's labels: `python -m jaxgen.judge --data.name fsdd [--data.root DIR]`.

It takes the options of `jaxgen.train` and the data that they name. The judge is kept in the cache, where
`jaxgen.evaluate` finds it.
"""

import sys

from jaxgen.core.errors import ExitCode, run
from jaxgen.core.machine import keep_freed_memory
from jaxgen.core.numerics import fix_settings
from jaxgen.data.store import prepare
from jaxgen.evaluation.classifier import JudgeTraining
from jaxgen.evaluation.judge_training import judge_of, judge_path
from jaxgen.recipes.presets import load_config
from jaxgen.runs.run import keep_compiled


def main() -> int:
    config = load_config(sys.argv[1:], "python -m jaxgen.judge")
    fix_settings()
    keep_compiled(config.cache_dir)
    keep_freed_memory()
    store = prepare(config.data, config.features, config.audio, config.cache_dir)
    judge = judge_of(store, config.cache_dir)
    for name, values in judge.labels.items():
        right, total = judge.about["validation"][name]
        known, of = judge.about["training_clips"][name]
        print(
            f"{name} ({len(values)} values): hears {right / total:.1%} of {total} real validation recordings rightly, "
            f"{known / of:.1%} of {of} training ones"
        )
    print(f"judge: {judge_path(store, JudgeTraining(), config.cache_dir)}")
    return ExitCode.DONE


if __name__ == "__main__":
    run(main)
