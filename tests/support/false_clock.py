"""A clock that a test sets for one process: libfaketime, preloaded, reads it from a file.

Only the wall clock is false, as where somebody sets a machine's date: time that has passed is true.
"""

from pathlib import Path

from tests.support.requirements import require_library

DAY_S = 86_400


class FalseClock:
    """Give `env` to a process; `set` changes its date, also while it runs."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "faketime"
        self.set(days=0)
        self.env = {
            "LD_PRELOAD": str(require_library("faketime/libfaketime.so.1")),
            "FAKETIME_TIMESTAMP_FILE": str(self._path),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "DONT_FAKE_MONOTONIC": "1",
        }

    def set(self, *, days: float) -> None:
        """Put the clock off by so many days."""
        fresh = self._path.with_suffix(".new")
        fresh.write_text(f"{days * DAY_S:+.0f}\n")
        fresh.replace(self._path)
