"""What a device and the hub say to each other over HTTPS before the device belongs to it.

1. GET CA_PATH answers HubIntroduction. The device trusts nothing in it but a CA certificate whose
   SHA-256 its join token names.
2. POST JOIN_PATH takes JoinRequest and answers JoinReply, over TLS verified by that CA.
3. POST RENEW_PATH takes RenewRequest and answers RenewReply: for a device that was off until its
   certificate expired, so that its broker does not let it in any more. The CSR proves that it has
   the key; what it gets is of no use to anybody else.
4. An error is ErrorReply, with the same codes as everywhere.
"""

from typing import Annotated

import msgspec
from msgspec import Meta

from shared.wire.limits import CertificatePem, Code, LongText, Name, ShortText, UnixMs
from shared.wire.presence import Hardware

CA_PATH = "/api/v1/enrolment/ca"
JOIN_PATH = "/api/v1/enrolment"
RENEW_PATH = "/api/v1/enrolment/renewal"
REQUEST_BYTES_MAX = 32 * 1024
REPLY_BYTES_MAX = 512 * 1024
ROOT_CHARS_MAX = 256 * 1024
HOST_CHARS_MAX = 253

Host = Annotated[str, Meta(min_length=1, max_length=HOST_CHARS_MAX)]
Port = Annotated[int, Meta(ge=1, le=65535)]


class HubIntroduction(msgspec.Struct, frozen=True, kw_only=True):
    """Who the hub says that it is. More fields may come; older devices skip them."""

    ca_pem: CertificatePem
    now_ms: UnixMs  # The hub's clock
    hub_name: ShortText = ""
    hub_version: ShortText = ""


class JoinRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Let me in."""

    token: Annotated[str, Meta(max_length=200)]
    csr_pem: CertificatePem
    hardware: Hardware | None = None


class JoinReply(msgspec.Struct, frozen=True, kw_only=True):
    """All that a device needs from now on. More fields may come; older devices skip them."""

    device_id: Name
    certificate_pem: CertificatePem
    ca_pem: CertificatePem
    broker_host: Host | None = None  # None: the host under which the device reached the hub
    broker_port: Port
    tuf_root: Annotated[str, Meta(max_length=ROOT_CHARS_MAX)]  # Base64
    hub_name: ShortText = ""
    hub_version: ShortText = ""


class RenewRequest(msgspec.Struct, frozen=True, kw_only=True):
    """My certificate has expired; here is the same key."""

    device_id: Name
    csr_pem: CertificatePem


class RenewReply(msgspec.Struct, frozen=True, kw_only=True):
    """The new certificate. More fields may come; older devices skip them."""

    certificate_pem: CertificatePem


class ErrorReply(msgspec.Struct, frozen=True, kw_only=True):
    """Why not."""

    code: Code
    message: LongText
    remedy: LongText = ""
