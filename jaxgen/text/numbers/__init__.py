"""Number words, one module a language."""
