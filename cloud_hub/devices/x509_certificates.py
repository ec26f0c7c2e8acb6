"""Certificates as values: what the hub's own authority writes into each kind, and reads in a CSR.

1. Every key is ECDSA on P-256; every signature uses SHA-256.
2. A certificate is good from five minutes before it was made, for clocks that are a little late.
3. Of a signing request (CSR) only the public key counts, once its signature proved that the sender
   has the private key: the hub decides the name and everything else.

What must not live here: files, and what time it is.
"""

import ipaddress
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from shared.errors import ContractError

EARLY = timedelta(minutes=5)
CA_LIFETIME = timedelta(days=20 * 365)
SERVICE_LIFETIME = timedelta(days=397)  # The longest that all TLS clients accept of a server.
DEVICE_LIFETIME = timedelta(days=90)
CRL_EARLY = timedelta(days=1)
CRL_LIFETIME = timedelta(days=365)  # Brokers refuse everybody once the list they hold is too old.
CSR_CHARS_MAX = 8192
ORGANIZATION = "Isthmus"


@dataclass(frozen=True, slots=True)
class Issuer:
    """The authority's certificate with its private key."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey


@dataclass(frozen=True, slots=True)
class IssuedCertificate:
    """A certificate as the hub hands it out and remembers it."""

    certificate_pem: str
    serial: str  # Hexadecimal, no leading zeros
    issued_ms: int
    expires_ms: int


def make_ca(key: ec.EllipticCurvePrivateKey, *, now: datetime) -> x509.Certificate:
    """Return a self-signed certificate for a new authority."""
    public_key = key.public_key()
    # The number tells two hubs' authorities apart wherever only the name is shown.
    name = _name(f"Isthmus CA {x509.random_serial_number() & 0xFFFFFFFF:08x}")
    return (
        x509.CertificateBuilder(subject_name=name, issuer_name=name, public_key=public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - EARLY)
        .not_valid_after(now + CA_LIFETIME)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(signs_certificates=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
        .sign(key, hashes.SHA256())
    )


def make_client(
    issuer: Issuer,
    public_key: ec.EllipticCurvePublicKey,
    *,
    name: str,
    now: datetime,
    lifetime: timedelta,
) -> x509.Certificate:
    """Return a certificate that lets `name` (a device, or the hub itself) into the broker."""
    builder = _start(issuer, public_key, name=name, now=now, lifetime=lifetime)
    usage = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH])
    return builder.add_extension(usage, critical=False).sign(issuer.key, hashes.SHA256())


def make_server(
    issuer: Issuer, public_key: ec.EllipticCurvePublicKey, *, hosts: Sequence[str], now: datetime
) -> x509.Certificate:
    """Return a certificate for the hub's HTTPS and MQTT servers under these names and addresses.

    Raises ContractError `authority.host_name`.
    """
    builder = _start(issuer, public_key, name="hub server", now=now, lifetime=SERVICE_LIFETIME)
    usage = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH])
    names = x509.SubjectAlternativeName([_host(host) for host in hosts])
    return (
        builder.add_extension(usage, critical=False)
        .add_extension(names, critical=False)
        .sign(issuer.key, hashes.SHA256())
    )


def hosts_of(certificate: x509.Certificate) -> frozenset[str]:
    """Return the names and addresses that a server certificate is good for."""
    try:
        extension = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except x509.ExtensionNotFound:
        return frozenset()
    names = extension.value.get_values_for_type(x509.DNSName)
    addresses = extension.value.get_values_for_type(x509.IPAddress)
    return frozenset(names) | frozenset(str(address) for address in addresses)


def normalize_host(host: str) -> str:
    """Return a name or an address in the one form that `hosts_of` gives it back in."""
    try:
        return str(ipaddress.ip_address(host))
    except ValueError:
        return host.lower()


def make_crl(
    issuer: Issuer,
    revoked: Iterable[tuple[str, int]],
    *,
    now: datetime,
    previous: datetime | None = None,
) -> x509.CertificateRevocationList:
    """Return the list of revoked certificates. Args: revoked: (serial, since when in ms).

    A broker that reads its list again keeps the old one, too, and OpenSSL asks only the one with
    the later `last_update`, in whole seconds: two lists with one date, and the second is not
    read. So the date is at least a second after that of the `previous` list, but never in the
    future, where nobody would be let in. Hence it begins CRL_EARLY before now: that is room for
    86,400 revocations at once.
    """
    last_update = now - CRL_EARLY
    if previous is not None:
        last_update = min(max(last_update, previous + timedelta(seconds=1)), now)
    builder = (
        x509.CertificateRevocationListBuilder(issuer_name=issuer.certificate.subject)
        .last_update(last_update)
        .next_update(now + CRL_LIFETIME)
        .add_extension(_authority_key_id(issuer), critical=False)
        .add_extension(x509.CRLNumber(int(now.timestamp() * 1000)), critical=False)
    )
    for serial, revoked_ms in revoked:
        entry = x509.RevokedCertificateBuilder(
            serial_number=int(serial, 16),
            revocation_date=datetime.fromtimestamp(revoked_ms / 1000, UTC).replace(tzinfo=None),
        )
        builder = builder.add_revoked_certificate(entry.build())
    return builder.sign(issuer.key, hashes.SHA256())


def read_csr(csr_pem: str) -> ec.EllipticCurvePublicKey:
    """Return the public key of a CSR whose sender proved that it has the private key.

    Raises ContractError `enrolment.csr_invalid`, `enrolment.key_type`.
    """
    if len(csr_pem) > CSR_CHARS_MAX:
        raise _bad_csr(f"it is over {CSR_CHARS_MAX} characters")
    try:
        csr = x509.load_pem_x509_csr(csr_pem.encode())
        public_key = csr.public_key()
        is_proven = csr.is_signature_valid
    except (ValueError, TypeError, UnsupportedAlgorithm, InvalidSignature) as error:
        raise _bad_csr(str(error)) from error
    if not is_proven:
        raise _bad_csr("its signature does not fit its key")
    if not isinstance(public_key, ec.EllipticCurvePublicKey) or not isinstance(
        public_key.curve, ec.SECP256R1
    ):
        raise ContractError("enrolment.key_type", "A device's key must be ECDSA on P-256.")
    return public_key


def describe(certificate: x509.Certificate) -> IssuedCertificate:
    """Return what the hub remembers of a certificate."""
    return IssuedCertificate(
        certificate_pem=certificate.public_bytes(serialization.Encoding.PEM).decode(),
        serial=f"{certificate.serial_number:x}",
        issued_ms=int(certificate.not_valid_before_utc.timestamp() * 1000),
        expires_ms=int(certificate.not_valid_after_utc.timestamp() * 1000),
    )


def public_bytes(key: ec.EllipticCurvePublicKey) -> bytes:
    """Return a public key as DER (SubjectPublicKeyInfo)."""
    return key.public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def _start(
    issuer: Issuer,
    public_key: ec.EllipticCurvePublicKey,
    *,
    name: str,
    now: datetime,
    lifetime: timedelta,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder(
            subject_name=_name(name),
            issuer_name=issuer.certificate.subject,
            public_key=public_key,
        )
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - EARLY)
        .not_valid_after(now + lifetime)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(signs_certificates=False), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
        .add_extension(_authority_key_id(issuer), critical=False)
    )


def _name(common_name: str) -> x509.Name:
    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, ORGANIZATION),
            x509.NameAttribute(NameOID.COMMON_NAME, common_name),
        ]
    )


def _host(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        pass
    try:
        return x509.DNSName(host)
    except ValueError as error:
        raise ContractError(
            "authority.host_name",
            f"{host[:80]!r} is no host name.",
            remedy="Write names with other letters in their ASCII form (xn--...).",
        ) from error


def _authority_key_id(issuer: Issuer) -> x509.AuthorityKeyIdentifier:
    return x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer.key.public_key())


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _bad_csr(reason: str) -> ContractError:
    return ContractError("enrolment.csr_invalid", f"The signing request is not valid: {reason}.")
