"""An inference worker that says nonsense: `python -m`, with the arguments of a real one."""

import socket
import sys

from edge_agent.inference import worker_messages as words


def main() -> None:
    """Say that it is ready without saying what for, then wait to be let go of."""
    with socket.socket(fileno=int(sys.argv[1])) as control:
        control.send(words.json_packet(words.READY, {"runtime": "none"}))
        control.recv(words.PACKET_BYTES_MAX)


if __name__ == "__main__":
    main()
