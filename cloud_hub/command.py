"""The command `cloud-hub`: runs it, or says what to install where a library of its is missing."""

import sys

from shared.exit_codes import UNAVAILABLE
from shared.quick_imports import quick_imports

MISSING = ""
try:
    with quick_imports():
        from cloud_hub.__main__ import main as run_command
except ModuleNotFoundError as error:  # Installed without the extra `hub`: a device, say.
    if (error.name or "").partition(".")[0] in ("shared", "cloud_hub"):
        raise
    MISSING = error.name or "a library"


def main() -> int:
    """Run one command; return its exit code."""
    if MISSING:
        print(  # noqa: T201  (all that this command can do here)
            f"cloud-hub: {MISSING} is not installed here.\n"
            "  Install what a server needs: pip install 'isthmus[hub]'",
            file=sys.stderr,
        )
        return UNAVAILABLE
    return run_command()
