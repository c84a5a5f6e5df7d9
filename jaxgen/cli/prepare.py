"""Decodes data ahead of training and reports on it: `python -m jaxgen.prepare --data.root DIR`."""

import sys

from jaxgen.core.errors import ExitCode, run
from jaxgen.core.numerics import fix_settings
from jaxgen.data import report
from jaxgen.data.preparation import prepare
from jaxgen.recipes.presets import load_config
from jaxgen.runs.run import enable_compilation_cache
from jaxgen.storage import output_folder


def main() -> int:
    config = load_config(sys.argv[1:], "python -m jaxgen.prepare")
    fix_settings()
    enable_compilation_cache(config.cache_dir)
    store = prepare(config.data, config.features, config.audio, config.cache_dir, config.streams)
    with output_folder(config.workdir) as out:
        report.write(store.report, out)
    print(
        f"{report.summary(store.report)}\nreport: {config.workdir}/data_report.json and .png; decoded in {store.directory}"
    )
    return ExitCode.DONE


if __name__ == "__main__":
    run(main)
