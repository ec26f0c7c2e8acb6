"""HubClient: the hub's API as typed answers; every failure is one of our five families."""

import ssl
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import BinaryIO, Generic, Self, TypeVar
from urllib.parse import urlsplit

import httpx
import msgspec

from shared.errors import (
    ContractError,
    IntegrityError,
    IsthmusError,
    RefusedError,
    TransientError,
    UnavailableError,
)

TIMEOUT_S = 30.0
UPLOAD_TIMEOUT_S = 600.0
LONG_TIMEOUT_S = 7200.0  # What the hub itself ends before: imports
ANSWER_BYTES_MAX = 64 << 20
FAMILY_BY_STATUS: Mapping[int, type[IsthmusError]] = MappingProxyType(
    {
        400: ContractError,
        411: ContractError,
        413: ContractError,
        401: RefusedError,
        403: RefusedError,
        404: RefusedError,
        405: ContractError,
        409: RefusedError,
        422: IntegrityError,
        429: RefusedError,
        503: TransientError,
    }
)
HOW_TO_IDENTIFY = (
    "On the hub's own machine, name its state folder with --state; elsewhere, name a file that "
    "holds an operator token with --operator-token-file."
)
V = TypeVar("V")
Query = Mapping[str, str | int | None]


@dataclass(frozen=True, slots=True)
class Answer(Generic[V]):
    """What the hub answered: its own bytes for programs, and what a command reads of it."""

    json: bytes
    value: V


class _ErrorBody(msgspec.Struct, frozen=True):
    code: str
    message: str
    remedy: str = ""


class HubClient:
    """One hub's API. Use it in a `with`."""

    def __init__(self, url: str, *, token: str, ca: Path | None) -> None:
        """Args: `ca` is the certificate to trust for https; without it, the system's.

        Raises ContractError `hub.url` or `hub.ca`.
        """
        if urlsplit(url).scheme not in ("http", "https") or not urlsplit(url).netloc:
            raise ContractError(
                "hub.url",
                f"{url!r} is not a hub's address.",
                remedy="Give it as http://host:port or https://host:port.",
            )
        self.url = url.rstrip("/")
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        try:
            self._http = httpx.Client(
                base_url=self.url,
                headers=headers,
                timeout=TIMEOUT_S,
                verify=_trust(ca) if self.url.startswith("https:") else False,
                trust_env=False,  # A proxy for the outside world is no way to one's own hub.
            )
        except OSError as error:  # ssl.SSLError is one
            raise ContractError(
                "hub.ca",
                f"Cannot use {ca} as the hub's certificate authority: {error}.",
                remedy="Give the hub's pki/ca.crt with --ca.",
            ) from error

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the connection."""
        self._http.close()

    def get(self, path: str, shape: type[V], *, query: Query | None = None) -> Answer[V]:
        """Return what is at `path`, as `shape`."""
        return self._ask("GET", path, shape, query=query)

    def send(self, method: str, path: str, shape: type[V], body: object = None) -> Answer[V]:
        """Return the answer to a JSON `body`."""
        content = msgspec.json.encode(body) if body is not None else None
        return self._ask(method, path, shape, content=content)

    def upload(
        self,
        path: str,
        shape: type[V],
        *,
        files: Sequence[tuple[str, Path]],
        fields: Mapping[str, str],
    ) -> Answer[V]:
        """Return the answer to a form of files, each (field, path), and text fields.

        Raises ContractError `file.unreadable`.
        """
        opened = []
        try:
            for field, file in files:
                opened.append((field, (file.name, file.open("rb"))))
            return self._ask(
                "POST", path, shape, files=opened, fields=fields, timeout_s=UPLOAD_TIMEOUT_S
            )
        except OSError as error:
            raise _unreadable(error) from error
        finally:
            for _, (_, stream) in opened:
                stream.close()

    def send_file(self, method: str, path: str, shape: type[V], file: Path) -> Answer[V]:
        """Return the answer to a body that is a file's bytes. Raises ContractError as `upload`."""
        try:
            content = file.read_bytes()
        except OSError as error:
            raise _unreadable(error) from error
        return self._ask(method, path, shape, content=content, timeout_s=UPLOAD_TIMEOUT_S)

    def send_long(self, method: str, path: str, shape: type[V], content: bytes) -> Answer[V]:
        """Return the answer to a JSON body whose work takes minutes."""
        return self._ask(method, path, shape, content=content, timeout_s=LONG_TIMEOUT_S)

    def stream_file(
        self, method: str, path: str, shape: type[V], file: Path, *, query: Query
    ) -> Answer[V]:
        """Return the answer to a body that is a file, sent piece by piece; raises as `upload`."""
        try:
            with file.open("rb") as opened:
                return self._ask(
                    method, path, shape, query=query, content=opened, timeout_s=LONG_TIMEOUT_S
                )
        except OSError as error:
            raise _unreadable(error) from error

    def download(self, path: str, file: Path, *, query: Query | None = None) -> int:
        """Write what is at `path` into a file, piece by piece; return how many bytes.

        Raises ContractError `file.unwritable`; a file that is there already is replaced, once all
        of it has come.
        """
        part = file.with_name(f"{file.name}.part")
        params = {name: value for name, value in (query or {}).items() if value is not None}
        size = 0
        try:
            stream = self._http.stream("GET", path, params=params, timeout=LONG_TIMEOUT_S)
            with stream as response:
                if response.status_code >= 400:
                    response.read()
                    raise _error_of(response)
                with part.open("wb") as opened:
                    for piece in response.iter_bytes():
                        size += opened.write(piece)
            part.replace(file)
        except httpx.HTTPError as error:
            part.unlink(missing_ok=True)
            raise _unreachable(self.url, error) from error
        except OSError as error:
            part.unlink(missing_ok=True)
            raise ContractError(
                "file.unwritable",
                f"Cannot write {file}: {error.strerror}.",
                remedy="Name another file.",
            ) from error
        return size

    def fetch(self, path: str, *, query: Query | None = None) -> bytes:
        """Return what is at `path` as it is: text, a picture, a table of commas."""
        return self._request("GET", path, query=query).content

    def _ask(
        self,
        method: str,
        path: str,
        shape: type[V],
        *,
        query: Query | None = None,
        content: bytes | BinaryIO | None = None,
        files: object = None,
        fields: Mapping[str, str] | None = None,
        timeout_s: float = TIMEOUT_S,
    ) -> Answer[V]:
        response = self._request(
            method,
            path,
            query=query,
            content=content,
            files=files,
            fields=fields,
            timeout_s=timeout_s,
        )
        return Answer(json=response.content, value=_decode(response, shape))

    def _request(
        self,
        method: str,
        path: str,
        *,
        query: Query | None = None,
        content: bytes | BinaryIO | None = None,
        files: object = None,
        fields: Mapping[str, str] | None = None,
        timeout_s: float = TIMEOUT_S,
    ) -> httpx.Response:
        params = {name: value for name, value in (query or {}).items() if value is not None}
        headers = {"Content-Type": "application/json"} if content is not None else {}
        try:
            response = self._http.request(
                method,
                path,
                params=params,
                content=content,
                headers=headers,
                files=files,  # type: ignore[arg-type]  # httpx's own union of file tuples
                data=dict(fields) if fields else None,
                timeout=timeout_s,
            )
        except httpx.HTTPError as error:
            raise _unreachable(self.url, error) from error
        if response.status_code >= 400:
            raise _error_of(response)
        return response


def _unreachable(url: str, error: httpx.HTTPError) -> TransientError:
    return TransientError(
        "hub.unreachable",
        f"No hub answers at {url}: {error}.",
        remedy="Start it with `cloud-hub serve`, or name it with --hub.",
    )


def _unreadable(error: OSError) -> ContractError:
    return ContractError(
        "file.unreadable",
        f"Cannot read {error.filename}: {error.strerror}.",
        remedy="Check the path.",
    )


def _trust(ca: Path | None) -> bool | ssl.SSLContext:
    return True if ca is None else ssl.create_default_context(cafile=str(ca))


def _decode(response: httpx.Response, shape: type[V]) -> V:
    try:
        return msgspec.json.decode(response.content, type=shape)
    except msgspec.MsgspecError as error:
        raise ContractError(
            "hub.answer",
            f"The hub's answer is not understood: {error}.",
            remedy="Bring this program and the hub to the same version.",
        ) from error


def _error_of(response: httpx.Response) -> IsthmusError:
    family = FAMILY_BY_STATUS.get(response.status_code, UnavailableError)
    try:
        body = msgspec.json.decode(response.content, type=_ErrorBody)
    except msgspec.MsgspecError:
        message = f"HTTP status {response.status_code}: this is no hub, or one that failed."
        return UnavailableError("hub.answer", message, remedy="Check --hub.")
    remedy = HOW_TO_IDENTIFY if body.code == "auth.token_missing" else body.remedy
    return family(body.code, body.message, remedy=remedy)
