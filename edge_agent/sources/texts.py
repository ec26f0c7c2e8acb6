"""Texts out of bytes. Pure.

1. A text is UTF-8, without the white space around it; what is empty then is none.
2. What is longer than the limit, in bytes, is none: cutting could end in the middle of a meaning.
   (The model's own length cuts what it cannot take.)
"""


def to_text(data: bytes, *, bytes_max: int) -> str | None:
    """Return the text that `data` holds; None if it is none."""
    if len(data) > bytes_max:
        return None
    try:
        return data.decode("utf-8").strip() or None
    except UnicodeDecodeError:
        return None
