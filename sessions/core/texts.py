"""Text as models send it, in the form that every backend can store."""

from __future__ import annotations

__all__ = ["storable"]


def storable(text: str) -> str:
    """Return a text as every backend can store it: models do send halves of characters, and NUL."""
    text = text.replace("\0", "\ufffd")
    if text.isascii():
        return text
    try:
        text.encode()
    except UnicodeEncodeError:
        # Two halves in two pieces are one character; a half without the other is none.
        text = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text
