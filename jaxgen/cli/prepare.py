"""Decodes data ahead of training and reports on it: `python -m jaxgen.prepare --data.root DIR`."""

import sys

from jaxgen.cli.config_options import read_config
from jaxgen.core.errors import ExitCode, run


def main() -> int:
    config = read_config(sys.argv[1:], "python -m jaxgen.prepare")

    from jaxgen.core.numerics import fix_settings  # for these --help does not wait
    from jaxgen.data import report
    from jaxgen.data.preparation import prepare
    from jaxgen.runs.run import enable_compilation_cache
    from jaxgen.storage import output_folder

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
