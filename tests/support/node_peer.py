"""Plays the learning process towards the agent: writes its standing, ends as it is told.

Called as `python -m tests.support.node_peer BEHAVIOUR FOLDER`; BEHAVIOUR is `serve`, `end` (exits
with 0 at once), `deaf` (ignores SIGTERM) or `mute` (lives, and the hub never answers it).
"""

import json
import os
import signal
import sys
import threading
import time
from pathlib import Path

from shared.durable_file import write_durably

WRITE_S = 0.05


def main() -> int:
    """Play until SIGTERM."""
    behaviour, folder = sys.argv[1], Path(sys.argv[2])
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: None if behaviour == "deaf" else stop.set())
    if behaviour == "end":
        return 0
    while not stop.is_set():
        now_ms = int(time.time() * 1000)
        # A test says by this file what else the process tells of itself.
        extra = folder / "extra.json"
        standing = {
            "at_ms": now_ms,
            "pid": os.getpid(),
            "state": "online",
            "answered_ms": 0 if behaviour == "mute" else now_ms,
            **(json.loads(extra.read_text()) if extra.exists() else {}),
        }
        write_durably(folder / "standing.json", json.dumps(standing).encode())
        stop.wait(WRITE_S)
    return 0


if __name__ == "__main__":
    sys.exit(main())
