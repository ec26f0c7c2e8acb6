"""A process that never ends by itself: `python -m tests.support.pausing_process FOLDER`."""

import os
import signal
import sys
from pathlib import Path


def main() -> None:
    """Write its process id to the folder, then wait for ever."""
    folder = Path(sys.argv[1])
    (folder / "pid.tmp").write_text(str(os.getpid()))
    (folder / "pid.tmp").rename(folder / "pid")
    while True:
        signal.pause()


if __name__ == "__main__":
    main()
