"""Trains the classifier of a data set's labels: `python -m jaxgen.classifier --data.name fsdd [--data.root DIR]`.

It takes the options of `jaxgen.train` and the data that they name. The classifier is kept in the cache, where
`jaxgen.evaluate` finds it.
"""

import sys

from jaxgen.cli.config_options import read_config
from jaxgen.core.errors import ExitCode, run


def main() -> int:
    config = read_config(sys.argv[1:], "python -m jaxgen.classifier")

    from jaxgen.core.machine import keep_freed_memory  # for these --help does not wait
    from jaxgen.core.numerics import fix_settings
    from jaxgen.data.preparation import prepare
    from jaxgen.evaluation.classifier import ClassifierTraining
    from jaxgen.evaluation.classifier_training import classifier_path, load_or_train
    from jaxgen.runs.run import enable_compilation_cache

    fix_settings()
    enable_compilation_cache(config.cache_dir)
    keep_freed_memory()
    store = prepare(config.data, config.features, config.audio, config.cache_dir)
    classifier = load_or_train(store, config.cache_dir)
    for name, values in classifier.labels.items():
        right, total = classifier.about["validation"][name]
        known, of = classifier.about["training_clips"][name]
        print(
            f"{name} ({len(values)} values): recognises {right / total:.1%} of {total} real validation recordings, "
            f"{known / of:.1%} of {of} training ones"
        )
    print(f"classifier: {classifier_path(store, ClassifierTraining(), config.cache_dir)}")
    return ExitCode.DONE


if __name__ == "__main__":
    run(main)
