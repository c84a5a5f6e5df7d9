"""The same training, once by jaxgen and once by each peer: candidates of `benchmarks.processes` whose work is a turn.

`prepare` compiles, which does not count. Each turn trains until its seconds are spent on updates and then, outside of that
time, scores the validation clips; the facts of a run are `train_seconds` and `steps` so far, and `bits_per_sample`.
"""
