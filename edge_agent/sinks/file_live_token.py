"""The live view's token, in a file that only its owner can read."""

import secrets
from pathlib import Path

from shared.durable_file import create_durably
from shared.errors import RefusedError

TOKEN_NAME = "live.token"  # noqa: S105  (the file's name)
TOKEN_CHARS_MIN, TOKEN_CHARS_MAX = 16, 1024
TOKEN_BYTES = 32
READABLE_BY_OTHERS = 0o077


def live_token_path(path: str, *, folder: Path) -> Path:
    """Return where the token is: at `path`; empty: in `folder`."""
    return Path(path) if path else folder / TOKEN_NAME


def load_live_token(path: str, *, folder: Path) -> str:
    """Return the token in the file at `path`; empty: in one in `folder`, made if it is missing.

    Raises RefusedError `live.token`, or TransientError `disk.write_failed`.
    """
    file = live_token_path(path, folder=folder)
    if not path:
        create_durably(file, f"{secrets.token_urlsafe(TOKEN_BYTES)}\n".encode(), mode=0o600)
    try:
        if file.stat().st_mode & READABLE_BY_OTHERS:
            raise RefusedError(
                "live.token",
                f"Others than its owner can read {file}.",
                remedy=f"Run: chmod 600 {file}",
            )
        token = file.read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise RefusedError(
            "live.token", f"Cannot read {file}: {error}.", remedy="Correct `token_file`."
        ) from error
    if not TOKEN_CHARS_MIN <= len(token) <= TOKEN_CHARS_MAX or not token.isprintable():
        raise RefusedError(
            "live.token",
            f"The token in {file} must be one line of {TOKEN_CHARS_MIN} characters or more.",
            remedy="Delete the file and leave `token_file` empty: then a good one is made.",
        )
    return token
