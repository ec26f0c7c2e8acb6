"""LiveServer: the pipelines of this device in a browser. Off unless the owner's file has [live].

1. `/` is a page; `/stream/<pipeline>.mjpeg` and `/snapshot/<pipeline>.jpg` are pictures with what
   was concluded drawn on them; `/api/pipelines` is the last decision of each, as JSON. Nothing can
   be changed by it: GET and HEAD only.
2. On loopback unless told otherwise, and without TLS: over a network it belongs behind a proxy
   that has it. Every request needs the token (live_access.py); it is never logged, nor is any
   request.
3. A picture is made only while somebody looks, by the viewer's thread. At most `viewers_max` look
   at a time, and CONNECTIONS_MAX connections are open; who does not take a picture within SEND_S
   is let go. The pipelines notice none of them.
"""

import contextlib
import ipaddress
import logging
import select
import socket
import socketserver
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

import msgspec

from edge_agent.sinks import live_page
from edge_agent.sinks.live_access import Access
from edge_agent.sinks.live_feeds import Feed, LiveFeeds
from edge_agent.sinks.live_settings import LiveSettings
from shared.errors import RefusedError

log = logging.getLogger(__name__)

CONNECTIONS_MAX = 64
REQUEST_S = 10.0  # For a request to come in
SEND_S = 5.0  # For one picture to go out
WAIT_S = 1.0  # How long a stream without pictures waits before it looks whether to end
SNAPSHOT_S = 5.0
SEND_BUFFER_BYTES = 1 << 18  # A slow viewer sees late frames by no more than this
STOP_S_MAX = 5.0
BOUNDARY = "isthmus-frame"
QUERY_FIELDS_MAX = 8


class LiveServer:
    """See the rules above. Owns its threads between `start` and `stop`."""

    def __init__(self, settings: LiveSettings, feeds: LiveFeeds, *, token: str) -> None:
        """Bind the port. Raises RefusedError `live.port`."""
        try:
            self._server = _Server(settings, feeds, token)
        except (OSError, UnicodeError) as error:
            raise RefusedError(
                "live.port",
                f"The live view cannot use {settings.host}:{settings.port}: {error}.",
                remedy="Give it another port, or end what has this one.",
            ) from error
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.2}, name="live-view"
        )

    @property
    def url(self) -> str:
        """Return where it serves, without the token."""
        host, port = self._server.server_address[:2]
        name = f"[{host!s}]" if ":" in str(host) else str(host)
        return f"http://{name}:{port}/"

    @property
    def viewers_count(self) -> int:
        """Return how many look just now."""
        return self._server.viewers_count

    def start(self) -> None:
        """Begin to serve; returns at once."""
        log.info("live.started", extra={"url": self.url})
        self._thread.start()

    def stop(self) -> None:
        """End every stream and close the port."""
        self._server.stopping.set()
        if self._thread.is_alive():
            self._server.shutdown()
            self._thread.join(STOP_S_MAX)
        self._server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 16

    def __init__(self, settings: LiveSettings, feeds: LiveFeeds, token: str) -> None:
        found = socket.getaddrinfo(settings.host, settings.port, type=socket.SOCK_STREAM)
        self.address_family = found[0][0]
        self.settings, self.feeds = settings, feeds
        self.stopping = threading.Event()
        self.viewers_count = 0
        self._viewers = threading.Semaphore(settings.viewers_max)
        self._connections = threading.Semaphore(CONNECTIONS_MAX)
        super().__init__((settings.host, settings.port), _Handler)
        self.access = Access(token, port=self.server_port, names=_own_names(settings.host))

    def server_bind(self) -> None:
        """Bind, without asking the name service what we are called, as HTTPServer does."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), self.server_address[1]

    def process_request(self, request: object, client_address: object) -> None:
        """Give the connection a thread, if there is one left."""
        assert isinstance(request, socket.socket)
        if not self._connections.acquire(blocking=False):
            self.shutdown_request(request)
            return
        try:
            super().process_request(request, client_address)
        except RuntimeError:  # No thread can be started
            self._connections.release()
            self.shutdown_request(request)

    def process_request_thread(self, request: object, client_address: object) -> None:
        """Serve one connection in its thread."""
        try:
            super().process_request_thread(request, client_address)  # type: ignore[arg-type]
        finally:
            self._connections.release()

    def handle_error(self, request: object, client_address: object) -> None:  # noqa: ARG002
        """Note a viewer that went, or our own bug."""
        error = sys.exception()
        if not isinstance(error, OSError):
            log.error("live.failed", extra={"detail": repr(error)})

    @contextmanager
    def viewer(self) -> Iterator[bool]:
        """Return a context that says whether one more may look."""
        is_free = self._viewers.acquire(blocking=False)
        if is_free:
            self.viewers_count += 1
        try:
            yield is_free
        finally:
            if is_free:
                self.viewers_count -= 1
                self._viewers.release()


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    server_version, sys_version = "isthmus", ""
    timeout = REQUEST_S  # Of the socket, by StreamRequestHandler

    def setup(self) -> None:
        """Prepare the connection."""
        super().setup()
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Log nothing: an address may hold the token."""

    def end_headers(self) -> None:
        """Add what every answer says."""
        for name, value in live_page.HEADERS.items():
            self.send_header(name, value)
        super().end_headers()

    def do_GET(self) -> None:
        """Answer."""
        with contextlib.suppress(ConnectionError, TimeoutError):  # The viewer went, or is too slow
            self._answer()

    do_HEAD = do_GET  # noqa: N815

    def do_POST(self) -> None:
        """Refuse: there is nothing to change."""
        self.close_connection = True
        self._text(HTTPStatus.METHOD_NOT_ALLOWED, "GET and HEAD only.\n", {"Allow": "GET, HEAD"})

    do_PUT = do_PATCH = do_DELETE = do_OPTIONS = do_POST  # noqa: N815

    def _answer(self) -> None:
        access = self.server.access
        if not access.is_host(self.headers.get("Host", "")):
            self._text(HTTPStatus.MISDIRECTED_REQUEST, "This device has another name.\n")
            return
        try:
            url = urlsplit(self.path)
            query = parse_qs(url.query, max_num_fields=QUERY_FIELDS_MAX)
        except ValueError:
            self._text(HTTPStatus.BAD_REQUEST, "That is no address.\n")
            return
        if url.path == "/page.css":  # These two hold nothing, and the page for the token has them
            self._send(HTTPStatus.OK, live_page.STYLE.encode(), "text/css; charset=utf-8")
            return
        if url.path == "/page.js":
            self._send(HTTPStatus.OK, live_page.SCRIPT.encode(), "text/javascript; charset=utf-8")
            return
        query_token = query.get("token", [""])[0]
        if not access.is_known(
            query_token=query_token,
            authorization=self.headers.get("Authorization", ""),
            cookie=self.headers.get("Cookie", ""),
        ):
            self._send(HTTPStatus.UNAUTHORIZED, live_page.token_page().encode())
            return
        self._route(url.path, query.get("pipeline", [""])[0], is_first=bool(query_token))

    def _route(self, path: str, wanted: str, *, is_first: bool) -> None:
        feeds = self.server.feeds.all()
        if path == "/":
            if is_first:  # The address is free of the token from here on
                self._welcome()
            else:
                self._main_page(feeds, wanted)
            return
        if path == "/api/pipelines":
            self._send(HTTPStatus.OK, _told(feeds), "application/json")
            return
        kind, _, name = path.removeprefix("/").partition("/")
        suffix = {"stream": ".mjpeg", "snapshot": ".jpg"}.get(kind)
        pipeline = unquote(name).removesuffix(suffix) if suffix else ""
        feed = feeds.get(pipeline)
        if feed is None or suffix is None or not name.endswith(suffix):
            self._text(HTTPStatus.NOT_FOUND, "There is no such page.\n")
            return
        with self.server.viewer() as is_free:
            if not is_free:
                self._text(
                    HTTPStatus.SERVICE_UNAVAILABLE, "Too many viewers.\n", {"Retry-After": "5"}
                )
            elif kind == "stream":
                self._stream(pipeline)
            else:
                self._snapshot(feed)

    def _welcome(self) -> None:
        access = self.server.access
        self.send_response(HTTPStatus.SEE_OTHER)
        self.send_header("Location", "/")
        self.send_header(
            "Set-Cookie",
            f"{access.cookie_name}={access.cookie_value}; HttpOnly; SameSite=Strict; Path=/",
        )
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _main_page(self, feeds: Mapping[str, Feed], wanted: str) -> None:
        shown = wanted if wanted in feeds else next(iter(feeds), "")
        has_pictures = bool(shown) and feeds[shown].has_pictures
        page = live_page.main_page(list(feeds), shown=shown, has_pictures=has_pictures)
        self._send(HTTPStatus.OK, page.encode())

    def _snapshot(self, feed: Feed) -> None:
        with feed.watching():
            picture = feed.next_picture(-1, wait_s=SNAPSHOT_S)
        if picture is None:
            self._text(HTTPStatus.SERVICE_UNAVAILABLE, "There is no picture just now.\n")
        else:
            self._send(HTTPStatus.OK, picture.jpeg, "image/jpeg")

    def _stream(self, pipeline: str) -> None:
        """Show a pipeline until its viewer goes, also when its settings change meanwhile."""
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", f"multipart/x-mixed-replace; boundary={BOUNDARY}")
        self.end_headers()
        if self.command == "HEAD":
            return
        self.connection.settimeout(SEND_S)
        while self._is_on():
            feed = self.server.feeds.all().get(pipeline)
            if feed is None:  # It is being made anew, or is gone and may come back
                self.server.stopping.wait(WAIT_S)
            else:
                self._show(feed, pipeline)

    def _show(self, feed: Feed, pipeline: str) -> None:
        """Show the pictures of `feed` as long as it is the pipeline's."""
        number = -1
        with feed.watching():
            while self._is_on() and self.server.feeds.all().get(pipeline) is feed:
                picture = feed.next_picture(number, wait_s=WAIT_S)
                if picture is None:
                    continue
                number = picture.number
                self.wfile.write(
                    f"--{BOUNDARY}\r\nContent-Type: image/jpeg\r\n"
                    f"Content-Length: {len(picture.jpeg)}\r\n\r\n".encode()
                    + picture.jpeg
                    + b"\r\n"
                )

    def _is_on(self) -> bool:
        """Return whether the view goes on, and the viewer has not closed the connection."""
        if self.server.stopping.is_set():
            return False
        readable, _, _ = select.select([self.connection], [], [], 0)
        return not readable or self.connection.recv(1, socket.MSG_PEEK) != b""

    def _text(
        self, status: HTTPStatus, text: str, headers: Mapping[str, str] | None = None
    ) -> None:
        self._send(status, text.encode(), "text/plain; charset=utf-8", headers)

    def _send(
        self,
        status: HTTPStatus,
        body: bytes,
        kind: str = "text/html; charset=utf-8",
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.connection.settimeout(SEND_S)
            self.wfile.write(body)


def _told(feeds: Mapping[str, Feed]) -> bytes:
    """Return the last result of each pipeline as JSON."""
    pipelines = [
        {"pipeline": name, "has_pictures": feed.has_pictures, "latest": feed.latest}
        for name, feed in feeds.items()
    ]
    return msgspec.json.encode({"pipelines": pipelines})


def _own_names(host: str) -> frozenset[str]:
    """Return what this device may be called in an address, in lower case."""
    name = socket.gethostname().lower()
    short = name.partition(".")[0]
    names = {name, short, f"{short}.local"}
    try:
        ipaddress.ip_address(host)
    except ValueError:
        names.add(host.lower())
    return frozenset(names - {""})
