"""ffmpeg as a camera on loopback: one client, a test picture in MPEG-TS or MJPEG over HTTP."""

import signal
import socket
import subprocess

from tests.support.requirements import require_program

FORMATS = {
    "mpegts": ["-c:v", "mpeg2video", "-g", "5", "-f", "mpegts"],
    "mjpeg": ["-c:v", "mjpeg", "-q:v", "5", "-f", "mpjpeg"],
}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class HttpStream:
    """Serves one client at a time; a client that leaves ends it, as ffmpeg does."""

    def __init__(self, kind: str) -> None:
        self._program = require_program("ffmpeg")
        self._kind = kind
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}/live"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self._process = subprocess.Popen(
            [
                *(self._program, "-hide_banner", "-loglevel", "error", "-re"),
                *("-f", "lavfi", "-i", "testsrc=size=160x120:rate=20"),
                *FORMATS[self._kind],
                *("-listen", "1", self.url),
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def pause(self) -> None:
        """Freeze it: the connection stays, nothing comes."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait(10)
            self._process = None
