"""Requests to Flower's APIs, as devices and as strangers make them."""

import socket
import ssl
from base64 import b64encode
from collections.abc import Iterable
from pathlib import Path

import httpx
from cryptography.hazmat.primitives.asymmetric import ec
from fastapi.routing import iter_route_contexts
from flwr.common.constant import TIMESTAMP_HEADER
from flwr.supercore.constant import FLEET_HTTP_PUBLIC_KEY_HEADER, FLEET_HTTP_SIGNATURE_HEADER
from flwr.supercore.date import now
from flwr.supercore.primitives.asymmetric import public_key_to_bytes, sign_message
from google.protobuf.message import Message

PROTOBUF = {"content-type": "application/protobuf"}


def signed_headers(key: ec.EllipticCurvePrivateKey) -> dict[str, str]:
    """Return what proves a device's key to the Fleet API."""
    at = now().isoformat()
    return {
        FLEET_HTTP_PUBLIC_KEY_HEADER: b64encode(public_key_to_bytes(key.public_key())).decode(),
        FLEET_HTTP_SIGNATURE_HEADER: b64encode(sign_message(key, at.encode())).decode(),
        TIMESTAMP_HEADER: at,
    }


def call(
    client: httpx.Client, url: str, message: Message, headers: dict[str, str] | None = None
) -> httpx.Response:
    return client.post(url, content=message.SerializeToString(), headers=PROTOBUF | (headers or {}))


def raw_status(port: int, ca_path: Path, line: str, headers: Iterable[tuple[str, str]] = ()) -> int:
    """Return the status with which a request line, sent as it is, was answered."""
    tls = ssl.create_default_context(cafile=str(ca_path))
    head = "".join(f"{name}: {value}\r\n" for name, value in headers)
    with (
        socket.create_connection(("127.0.0.1", port), 10) as plain,
        tls.wrap_socket(plain, server_hostname="localhost") as secure,
    ):
        secure.sendall(f"{line} HTTP/1.1\r\n{head}\r\n".encode("latin-1"))
        return int(secure.recv(4096).split(b" ")[1])


def routes_of(app: object) -> list[tuple[str, str]]:
    """Return (method, path) of every route of a FastAPI app, its own documentation included."""
    found: set[tuple[str, str]] = set()
    for context in iter_route_contexts(app.routes):  # type: ignore[attr-defined]
        route = context.route
        path = str(getattr(context, "path", None) or getattr(route, "path", ""))
        for method in getattr(route, "methods", None) or ():
            found.add((method, path))
    return sorted(found)
