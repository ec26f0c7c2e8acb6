"""A camera that speaks MJPEG over HTTP, in a thread, and does what a test tells it."""

import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import cv2
import numpy as np

from tests.support.http_streams import free_port

BOUNDARY = "frame"
PERIOD_S = 0.04


class MjpegServer:
    """Serves any number of clients; what is set while it runs holds from the next frame on."""

    def __init__(self) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}/live"
        self.size = (160, 120)
        self.is_still = False  # The same picture over and over
        self.is_silent = False  # The connection stays, nothing comes
        self.is_damaged = False  # Every other frame is cut in the middle, or is no picture at all
        self._server: ThreadingHTTPServer | None = None
        self._thread: threading.Thread | None = None
        self._is_over = threading.Event()

    def start(self) -> None:
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                server._serve(self)

            def log_message(self, *_: Any) -> None:
                pass

        self._is_over.clear()
        self._server = ThreadingHTTPServer(("127.0.0.1", self.port), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()

    def kill(self) -> None:
        """End it, and every connection with it."""
        self._is_over.set()
        if self._server is not None and self._thread is not None:
            self._server.shutdown()
            self._server.server_close()
            self._thread.join(10.0)
            self._server = None

    def _serve(self, request: BaseHTTPRequestHandler) -> None:
        request.send_response(200)
        request.send_header("Content-Type", f"multipart/x-mixed-replace; boundary={BOUNDARY}")
        request.end_headers()
        index = 0
        try:
            while not self._is_over.is_set():
                if not self.is_silent:
                    request.wfile.write(self._part(index))
                    index += 1
                time.sleep(PERIOD_S)
        except OSError:
            pass  # The client left.

    def _part(self, index: int) -> bytes:
        width, height = self.size
        dice = np.random.default_rng(0 if self.is_still else index)
        pixels = dice.integers(0, 256, (height, width, 3), np.uint8)
        jpeg = bytes(cv2.imencode(".jpg", pixels)[1])
        if self.is_damaged and index % 2:
            jpeg = jpeg[: len(jpeg) // 2] if index % 4 == 1 else b"no picture at all"
        head = f"--{BOUNDARY}\r\nContent-Type: image/jpeg\r\nContent-Length: {len(jpeg)}\r\n\r\n"
        return head.encode() + jpeg + b"\r\n"
