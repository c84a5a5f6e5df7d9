"""The same train step, once in each framework: candidates of `benchmarks.processes`.

Each says how many `parameters` it trains, how many it is `missing` because its framework merges or lacks biases that
jaxgen and PyTorch have, and after each run the `losses` of the last step of every run so far.
"""
