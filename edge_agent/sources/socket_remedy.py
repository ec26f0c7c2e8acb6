"""stream_remedy: why a stream cannot be opened, as far as its server tells a plain question.

ffmpeg does not say why: a wrong password, a wrong path and a camera that is off look the same. So
the server is asked once more, without a password, what it has at that path.

1. Asked only after opening failed, by the thread that opened; it takes ASK_S_MAX at most twice.
2. No user, no password and no query of the address is ever part of what is said.
3. A server that asks for a password does so before it looks at the path: then either may be wrong.
"""

import socket
from urllib.parse import SplitResult, urlsplit

from shared.pipeline.sources import without_password

ASK_S_MAX = 2.0
ANSWER_BYTES_MAX = 4096
PORTS = {"rtsp": 554, "rtsps": 322, "http": 80, "https": 443, "rtmp": 1935}
USUAL = "Check that it is on, reachable, and that its address is right."
SIGNS = "In a password @ is written %40, : %3A, / %2F, # %23, ? %3F."


def stream_remedy(url: str) -> str:
    """Return what to do about a stream that could not be opened. Never raises."""
    try:
        parts = urlsplit(url)
        port = parts.port or PORTS.get(parts.scheme, 0)
    except ValueError:  # A sign in the password that ends the host too early
        return f"Its address cannot be read. {SIGNS}"
    if not parts.hostname or not port:
        return USUAL
    try:
        with socket.create_connection((parts.hostname, port), timeout=ASK_S_MAX) as connection:
            status = _ask(connection, parts)
    except socket.gaierror:
        return f"There is no host of the name {parts.hostname} here: check the address. {SIGNS}"
    except ConnectionRefusedError:
        return f"{parts.hostname} is there, but nothing answers on port {port}: check the port."
    except OSError:
        return f"{parts.hostname} does not answer: check that it is on, and in this network."
    return _said(status, parts)


def _ask(connection: socket.socket, parts: SplitResult) -> int:
    """Return the status that the server gives for the path; 0: none that can be read."""
    host, path = parts.hostname or "", parts.path or "/"
    target = f"{path}?{parts.query}" if parts.query else path
    host = f"[{host}]" if ":" in host else host
    if parts.scheme == "rtsp":
        where = f"rtsp://{host}:{parts.port or PORTS['rtsp']}{target}"
        lines = (f"DESCRIBE {where} RTSP/1.0", "CSeq: 1", "Accept: application/sdp")
    elif parts.scheme == "http":
        lines = (f"GET {target} HTTP/1.0", f"Host: {host}", "Accept: */*")
    else:
        return 0
    connection.settimeout(ASK_S_MAX)
    connection.sendall("\r\n".join((*lines, "User-Agent: isthmus", "", "")).encode())
    words = connection.recv(ANSWER_BYTES_MAX).partition(b"\r\n")[0].split()
    return int(words[1]) if len(words) > 1 and words[1].isdigit() else 0


def _said(status: int, parts: SplitResult) -> str:
    if status in (401, 403):
        if parts.username is None:
            return (
                "It asks for a user and a password: write them into the address, "
                f"{parts.scheme}://USER:PASSWORD@{parts.hostname}/... {SIGNS}"
            )
        return (
            f"It asks for a user and a password: check those in the address, and its path. {SIGNS}"
        )
    if status == 404:
        path = without_password(parts.path or "/")
        return f"It has no stream at {path}: check the path in the camera's manual."
    if status == 200:
        return "It answers: check that the address is a stream's and that ffmpeg reads its codec."
    return f"It answers {status}." if status else USUAL
