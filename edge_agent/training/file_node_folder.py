"""NodeFolder: the agent's side of the files it shares with its learning process (node_files.py)."""

from pathlib import Path

import msgspec

from edge_agent.training.node_files import FILE_BYTES_MAX, ORDER, STANDING, NodeOrder, NodeStanding
from shared.durable_file import make_private_folder, write_durably

MODE = 0o600


class NodeFolder:
    """`<state>/learning`."""

    def __init__(self, path: Path) -> None:
        """Args: made when it is first written to."""
        self.path = path

    def write_order(self, order: NodeOrder) -> None:
        """Put the order there. Raises TransientError `disk.write_failed`."""
        make_private_folder(self.path)
        data = msgspec.json.format(msgspec.json.encode(order))
        write_durably(self.path / ORDER, data, mode=MODE)

    def standing(self, pid: int | None) -> NodeStanding | None:
        """Return what the process `pid` last said of itself; None if it has said nothing yet."""
        try:
            with (self.path / STANDING).open("rb") as file:
                data = file.read(FILE_BYTES_MAX)
            standing = msgspec.json.decode(data, type=NodeStanding)
        except (OSError, msgspec.MsgspecError, ValueError):
            return None
        return standing if standing.pid == pid else None
