"""Each framework generating with the same weights: candidates of `benchmarks.generate`."""
