"""Languages that texts are read in, one module each, which defines LANGUAGE and is named by its code (ISO 639-1)."""
