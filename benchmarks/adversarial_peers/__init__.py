"""The same train step of a generator against its critic, in each framework that has it: candidates of
`benchmarks.processes`.

Each says how many `parameters` it trains and that it is `missing` none, and after each run the `losses` of the generator
and the `critic_losses` of the last step of every run so far.
"""
