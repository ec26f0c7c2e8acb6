"""The command `edge-agent`: runs it, or says what to install where a library of its is missing."""

import sys

from shared.exit_codes import UNAVAILABLE
from shared.quick_imports import quick_imports

MISSING = ""
try:
    with quick_imports():
        from edge_agent.__main__ import main as run_command
except ModuleNotFoundError as error:  # Installed without the extra `edge`: a hub, say.
    if (error.name or "").partition(".")[0] in ("shared", "edge_agent"):
        raise
    MISSING = error.name or "a library"


def main() -> int:
    """Run one command; return its exit code."""
    if MISSING:
        print(  # noqa: T201  (all that this command can do here)
            f"edge-agent: {MISSING} is not installed here.\n"
            "  Install what a device needs: pip install 'isthmus[edge]'",
            file=sys.stderr,
        )
        return UNAVAILABLE
    return run_command()
