"""Renewing a device's certificate over its own authenticated session."""

from typing import ClassVar

import msgspec

from shared.wire.limits import CertificatePem, Code, LongText


class CertificateRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Please sign this: a CSR over the key that the device already has."""

    schema: ClassVar[int] = 1

    csr_pem: CertificatePem


class CertificateReply(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The new certificate, or why not."""

    schema: ClassVar[int] = 1

    certificate_pem: CertificatePem = ""
    code: Code | None = None
    text: LongText = ""
