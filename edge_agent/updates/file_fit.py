"""A release's fit beside its files: `fit.json` in the slot, written once, when the choice is made.

1. It is on the disk before the variants that were not chosen are removed, and before the release
   serves: a start, however often it is cut short, runs what was chosen and measures nothing.
2. One that is damaged, or of another release, is as good as none.
"""

from pathlib import Path

import msgspec

from shared.durable_file import write_durably
from shared.wire.fit import FitReport

NAME = "fit.json"
FILE_BYTES_MAX = 64 * 1024


class FileFits:
    """Reads and writes the fits of slots. Holds nothing."""

    def read(self, folder: Path, manifest_digest: str) -> FitReport | None:
        """Return what was chosen of the release in `folder`; None if nothing was."""
        try:
            with (folder / NAME).open("rb") as file:
                report = msgspec.json.decode(file.read(FILE_BYTES_MAX), type=FitReport)
        except (OSError, msgspec.MsgspecError, ValueError, RecursionError):
            return None
        is_of_release = report.manifest_digest == manifest_digest
        return report if is_of_release and report.choice is not None else None

    def write(self, folder: Path, report: FitReport) -> None:
        """Put a choice on the disk. Raises TransientError `disk.write_failed`."""
        write_durably(folder / NAME, msgspec.json.encode(report))

    def forget(self, folder: Path) -> None:
        """Take back what was chosen: the release is brought anew, and measured anew."""
        (folder / NAME).unlink(missing_ok=True)
