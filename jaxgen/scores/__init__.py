"""Written music: scores, the files they are read from and written to, what they sound like, and what can be counted in them."""
