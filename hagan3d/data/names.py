"""Names that people write, in one form: Unicode has two for an accented letter, and systems of files prefer either."""

import unicodedata


def canonical(name: str) -> str:
    """Return a name with composed characters (NFC); macOS decomposes those of files."""
    return unicodedata.normalize("NFC", name)
