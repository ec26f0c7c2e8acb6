"""The device's questions to a hub over HTTPS, while the broker does not let it in.

Standard library only: a device needs HTTP for nothing else. `ask_hub` and `accepted` are also
what other questions over HTTPS are asked with. What must not live here: what to believe
(joining.py), and files.
"""

import http.client
import re
import ssl
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TypeVar

import msgspec

from shared.errors import (
    ContractError,
    IntegrityError,
    IsthmusError,
    RefusedError,
    TransientError,
)
from shared.wire.enrolment import (
    CA_PATH,
    JOIN_PATH,
    RENEW_PATH,
    REPLY_BYTES_MAX,
    ErrorReply,
    HubIntroduction,
    JoinReply,
    JoinRequest,
    RenewReply,
    RenewRequest,
)

PORT_DEFAULT = 8443
TIMEOUT_S = 10.0  # Of each wait for the network
ANSWER_S_MAX = 30.0  # Of a whole answer, however slowly it drips
CHUNK_BYTES = 64 * 1024
_URL = re.compile(r"(?:https://)?(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9._-]{1,253})(?::(\d{1,5}))?/?")
_HOST_MISMATCH_CODES = (62, 64)  # X509_V_ERR_HOSTNAME_MISMATCH, _IP_ADDRESS_MISMATCH

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class HubAddress:
    """Where a hub answers over HTTPS."""

    host: str  # A name or an address; IPv6 without brackets
    port: int

    @property
    def url(self) -> str:
        """Return it as a URL."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"https://{host}:{self.port}"


def parse_hub_url(text: str) -> HubAddress:
    """Return the address in "https://hub.local:8443", "hub.local:8443" or "hub.local".

    Raises ContractError `enrolment.url_invalid`.
    """
    match = _URL.fullmatch(text.strip())
    port = int(match[2] or PORT_DEFAULT) if match else 0
    if match is None or not 1 <= port <= 65535:
        raise ContractError(
            "enrolment.url_invalid",
            f"{text[:200]!r} is not a hub's address.",
            remedy=f"Write it like https://hub.local:{PORT_DEFAULT}.",
        )
    return HubAddress(host=match[1].strip("[]"), port=port)


def fetch_introduction(hub: HubAddress) -> HubIntroduction:
    """Return who the hub at this address says that it is: unverified, since nothing is known yet.

    Raises TransientError `enrolment.hub_unreachable`, ContractError `enrolment.not_a_hub`.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return _ask(hub, context, HubIntroduction, method="GET", path=CA_PATH, body=None)


def request_join(hub: HubAddress, request: JoinRequest, *, ca_pem: str) -> JoinReply:
    """Return what the hub answers to a device that wants to join.

    The hub must prove by its certificate that it belongs to the authority `ca_pem`, and has this
    host name. Raises what the hub refuses with (its own codes), IntegrityError
    `enrolment.wrong_host`, `enrolment.wrong_certificate`; and as `fetch_introduction`.
    """
    context = ssl.create_default_context(cadata=ca_pem)
    body = msgspec.json.encode(request)
    return _ask(hub, context, JoinReply, method="POST", path=JOIN_PATH, body=body)


def request_renewal(hub: HubAddress, request: RenewRequest, *, ca_pem: str) -> RenewReply:
    """Return the hub's new certificate for a device whose old one has expired.

    Raises as `request_join`.
    """
    context = ssl.create_default_context(cadata=ca_pem)
    body = msgspec.json.encode(request)
    return _ask(hub, context, RenewReply, method="POST", path=RENEW_PATH, body=body)


@dataclass(frozen=True, slots=True)
class HubAnswer:
    """What came back, whether the hub said yes or no."""

    status: int
    headers: Mapping[str, str]  # By names in lower case
    data: bytes


def ask_hub(
    hub: HubAddress,
    context: ssl.SSLContext,
    *,
    method: str,
    path: str,
    body: bytes | Iterable[bytes] | None,
    headers: Mapping[str, str],
) -> HubAnswer:
    """Return what answers at this address, whatever it says.

    Args:
        hub: where to ask.
        context: whom to believe.
        method: of HTTP.
        path: with its query.
        body: whole or in pieces; in pieces `headers` say its length. None: none.
        headers: besides `Connection`.

    Raises TransientError, ContractError, IntegrityError as `request_join`.
    """
    connection = http.client.HTTPSConnection(hub.host, hub.port, timeout=TIMEOUT_S, context=context)
    try:
        connection.request(method, path, body=body, headers={"Connection": "close", **headers})
        # Closed by hand: after a counted body read in pieces http.client leaves it open.
        with connection.getresponse() as response:
            data = _read(response, hub)
    except ssl.SSLCertVerificationError as error:
        raise _not_verified(hub, error) from error
    except ssl.SSLError as error:
        raise _not_a_hub(hub, "it does not speak TLS as hubs do") from error
    except (http.client.HTTPException, UnicodeError) as error:
        raise _not_a_hub(hub, "it does not speak HTTP") from error
    except OSError as error:
        raise _unreachable(hub, error) from error
    finally:
        connection.close()
    told = {name.lower(): value for name, value in response.headers.items()}
    return HubAnswer(response.status, told, data)


def accepted(hub: HubAddress, answer: HubAnswer, shape: type[T]) -> T:
    """Return a hub's yes as `shape`. Raises what it refuses with, ContractError."""
    if not 200 <= answer.status < 300:
        raise _refusal(hub, answer.status, answer.data)
    try:
        return msgspec.json.decode(answer.data, type=shape)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise _not_a_hub(hub, "its answer makes no sense") from error


def _ask(
    hub: HubAddress,
    context: ssl.SSLContext,
    shape: type[T],
    *,
    method: str,
    path: str,
    body: bytes | None,
) -> T:
    headers = {"Content-Type": "application/json"} if body is not None else {}
    answer = ask_hub(hub, context, method=method, path=path, body=body, headers=headers)
    return accepted(hub, answer, shape)


def _read(response: http.client.HTTPResponse, hub: HubAddress) -> bytes:
    deadline_s = time.monotonic() + ANSWER_S_MAX
    data = bytearray()
    while chunk := response.read1(CHUNK_BYTES):
        data += chunk
        if len(data) > REPLY_BYTES_MAX:
            raise _not_a_hub(hub, f"its answer is over {REPLY_BYTES_MAX} bytes")
        if time.monotonic() > deadline_s:
            raise TimeoutError("the answer takes too long")
    return bytes(data)


def _refusal(hub: HubAddress, status: int, data: bytes) -> IsthmusError:
    try:
        reply = msgspec.json.decode(data, type=ErrorReply)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return _not_a_hub(hub, f"it answers with HTTP status {status}")
    families: dict[int, type[IsthmusError]] = {
        409: RefusedError,
        422: IntegrityError,
        429: TransientError,
        500: TransientError,
        503: TransientError,
    }
    family = families.get(status, ContractError)
    return family(reply.code, reply.message, remedy=reply.remedy)


def _unreachable(hub: HubAddress, error: OSError) -> TransientError:
    reason = error.strerror or str(error) or type(error).__name__
    return TransientError(
        "enrolment.hub_unreachable",
        f"No hub answers at {hub.url}: {reason}.",
        remedy="Check the address, that the hub runs there, and that no firewall is between.",
    )


def _not_a_hub(hub: HubAddress, reason: str) -> ContractError:
    return ContractError(
        "enrolment.not_a_hub",
        f"What answers at {hub.url} is not an Isthmus hub: {reason}.",
        remedy="Check the address and the port.",
    )


def _not_verified(hub: HubAddress, error: ssl.SSLCertVerificationError) -> IntegrityError:
    if error.verify_code in _HOST_MISMATCH_CODES:
        return IntegrityError(
            "enrolment.wrong_host",
            f"The hub's certificate is not for {hub.host!r}.",
            remedy="Use a name or address that the hub knows itself by, or add this one to its "
            "setting host_names and restart it.",
        )
    return IntegrityError(
        "enrolment.wrong_certificate",
        f"The server at {hub.url} could not prove that it is the hub: {error.verify_message}.",
        remedy="Somebody may be between this device and the hub. Do not join over this network.",
    )
