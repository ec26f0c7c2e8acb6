"""Exit codes of both command lines: one table, from the families of errors."""

from collections.abc import Mapping
from types import MappingProxyType

from shared.errors import (
    ContractError,
    IntegrityError,
    IsthmusError,
    RefusedError,
    TransientError,
    UnavailableError,
)

DONE = 0
BUG = 1
USAGE = 2
CONTRACT = 3
REFUSED = 4
INTEGRITY = 5
UNAVAILABLE = 6
NOT_REACHED = 7
INTERRUPTED = 130

MEANINGS: Mapping[int, str] = MappingProxyType(
    {
        DONE: "done",
        BUG: "a fault of this program",
        USAGE: "wrong arguments",
        CONTRACT: "a file or value you gave is not valid",
        REFUSED: "refused: no such thing, wrong state, wrong token",
        INTEGRITY: "bytes are not what was signed",
        UNAVAILABLE: "something needed cannot be reached or is busy; try again",
        NOT_REACHED: "what was waited for or asked after is not so",
        INTERRUPTED: "interrupted (Ctrl-C)",
    }
)
_BY_FAMILY: Mapping[type[IsthmusError], int] = MappingProxyType(
    {
        ContractError: CONTRACT,
        RefusedError: REFUSED,
        IntegrityError: INTEGRITY,
        TransientError: UNAVAILABLE,
        UnavailableError: UNAVAILABLE,
    }
)


def exit_code_of(error: IsthmusError) -> int:
    """Return the exit code for an error."""
    return next(code for family, code in _BY_FAMILY.items() if isinstance(error, family))


def exit_codes_text() -> str:
    """Return the table as help text."""
    return "\n".join(f"  {code:<4} {meaning}" for code, meaning in MEANINGS.items())
