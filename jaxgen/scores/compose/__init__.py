"""Music composed by rules from a seed: chorales and tunes for first runs and tests, without files."""
