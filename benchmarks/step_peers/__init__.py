"""The same train step, once in each framework; see `benchmarks.processes` for what a module here offers."""
