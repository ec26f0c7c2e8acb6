"""Digests: SHA-256 of bytes and files, in lower-case hexadecimal."""

import hashlib
from pathlib import Path


def digest_of(data: bytes) -> str:
    """Return the SHA-256 of `data`: 64 hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()


def digest_of_file(path: Path) -> str:
    """Return the SHA-256 of a file, read in pieces. Raises OSError."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
