"""Settings of a part: a frozen struct, read from TOML, an unknown or wrong key named at start.

Each part owns a small `…Settings(Settings)`; the package's `config.py` puts them together.
What must not live here: any particular setting.
"""

from pathlib import Path
from typing import TypeVar

import msgspec

from shared.choices import hint
from shared.errors import ContractError

CONFIG_BYTES_MAX = 1 << 20


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of every settings struct: frozen, keyword-only, unknown keys refused."""


T = TypeVar("T")


def load_toml(path: Path, shape: type[T]) -> T:
    """Return the TOML file at `path` as `shape`.

    Raises ContractError `config.missing`, `config.too_large` or `config.invalid`; the last names
    the key ("$.pipelines[0].source.fps") and what it should be.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ContractError(
            "config.missing", f"Cannot read {path}: {error.strerror}.", remedy="Check the path."
        ) from error
    return parse_toml(data, shape, name=str(path))


def parse_toml(data: bytes, shape: type[T], *, name: str) -> T:
    """Return TOML bytes as `shape`; `name` says in errors where they came from. See load_toml."""
    if len(data) > CONFIG_BYTES_MAX:
        raise ContractError(
            "config.too_large",
            f"{name} is over {CONFIG_BYTES_MAX} bytes.",
            remedy="Name a TOML file written by hand.",
        )
    try:
        return msgspec.toml.decode(data, type=shape)
    except msgspec.ValidationError as error:
        raise ContractError(
            "config.invalid",
            f"{name}: {error}.",
            remedy=f"Correct that key{hint(error, shape)}; `$` stands for the whole file.",
        ) from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ContractError(
            "config.invalid",
            f"{name} is not TOML: {error}.",
            remedy="Correct it there. TOML is text in UTF-8; see https://toml.io.",
        ) from error
