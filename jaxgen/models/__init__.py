"""Models: one file each; none imports another, only the contract in `sequence`."""
