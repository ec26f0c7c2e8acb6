"""FileStanding: `<state>/sharing/standing.json`, for people; the agent itself never reads it."""

from pathlib import Path

import msgspec

from edge_agent.sharing.standing import SharingStanding
from shared.durable_file import write_durably

NAME = "standing.json"
FILE_BYTES_MAX = 1 << 20


class FileStanding:
    """One file."""

    def __init__(self, folder: Path) -> None:
        """Args: folder: `<state>/sharing`; it is there when something is written."""
        self._path = folder / NAME

    def write(self, standing: SharingStanding) -> None:
        """Put it there. Raises TransientError `disk.write_failed`."""
        write_durably(self._path, msgspec.json.encode(standing), mode=0o600)

    def read(self) -> SharingStanding | None:
        """Return what the agent said last; None if nothing that makes sense."""
        try:
            with self._path.open("rb") as file:
                return msgspec.json.decode(file.read(FILE_BYTES_MAX), type=SharingStanding)
        except (OSError, msgspec.MsgspecError):
            return None
