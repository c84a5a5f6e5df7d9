"""Names and labels as text: one spelling for what looks the same, and none that cannot be written."""

import unicodedata


def normalize(text: str) -> str:
    """One spelling (NFC) for what looks the same: an accent may be a character of its own, as macOS writes it."""
    return unicodedata.normalize("NFC", text)


def display_name(name: str) -> str:
    r"""A file name as text that stands in JSON and UTF-8: bytes that are no UTF-8 are written out, as in caf\xe9.wav."""
    return name.encode(errors="surrogateescape").decode(errors="backslashreplace")
