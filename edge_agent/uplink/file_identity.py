"""FileIdentity: who this device is, in one folder: its key, its certificate, and its hub.

1. The private key is made on the device, lies in `device.key` (mode 0600) and never leaves it.
2. A device has joined when `device.crt` is there: it is removed first and written last, so that
   whatever a power cut leaves is either the old identity, or none and the key to join again with.
3. Joining again uses a new key, kept as `device.key.next` until the hub has answered.
4. Every file is written whole or not at all.
"""

import threading
from pathlib import Path
from typing import Annotated

import msgspec
from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from msgspec import Meta

from shared.durable_file import create_durably, make_folder, sync_folder, write_durably
from shared.errors import IntegrityError, RefusedError, UnavailableError
from shared.ids import DeviceId
from shared.wire.enrolment import Host, Port
from shared.wire.limits import Digest, Name, ShortText

FILE_BYTES_MAX = 512 * 1024
_PEM = serialization.Encoding.PEM


class HubRecord(msgspec.Struct, frozen=True, kw_only=True):
    """Which hub this device belongs to, and as whom (`hub.json`)."""

    device_id: Name
    url: Annotated[str, Meta(max_length=300)]
    broker_host: Host
    broker_port: Port
    ca_fingerprint: Digest
    hub_name: ShortText = ""
    hub_version: ShortText = ""  # When the device joined


class FileIdentity:
    """See the rules above. Safe to share between threads."""

    def __init__(self, folder: Path) -> None:
        """Args: folder: made when the device joins."""
        self._folder = folder
        self._lock = threading.Lock()
        self._key: ec.EllipticCurvePrivateKey | None = None

    @property
    def key_path(self) -> Path:
        """Return where the private key lies."""
        return self._folder / "device.key"

    @property
    def certificate_path(self) -> Path:
        """Return where the device's certificate lies."""
        return self._folder / "device.crt"

    @property
    def ca_path(self) -> Path:
        """Return where the hub's authority lies."""
        return self._folder / "ca.crt"

    @property
    def root_path(self) -> Path:
        """Return where the TUF root lies that the device began with."""
        return self._folder / "root.json"

    @property
    def is_joined(self) -> bool:
        """Whether this device belongs to a hub. Raises RefusedError `identity.permissions`."""
        try:
            return self.certificate_path.exists()
        except OSError as error:  # Not that it is not there: we may not look
            raise _not_readable(self._folder) from error

    @property
    def hub(self) -> HubRecord:
        """Return which hub this device belongs to. Raises as `key`."""
        data = self._read(self._folder / "hub.json")
        try:
            return msgspec.json.decode(data, type=HubRecord)
        except (msgspec.MsgspecError, ValueError) as error:
            raise _corrupt(self._folder / "hub.json", str(error)) from error

    @property
    def device_id(self) -> DeviceId:
        """Return this device's id. Raises as `key`."""
        return DeviceId(self.hub.device_id)

    @property
    def key(self) -> ec.EllipticCurvePrivateKey:
        """Return the private key.

        Raises RefusedError `identity.missing`, `identity.permissions`; UnavailableError
        `identity.corrupt`.
        """
        with self._lock:
            if self._key is None:
                self._require_joined()
                self._key = self._read_key(self.key_path)
            return self._key

    @property
    def certificate(self) -> x509.Certificate:
        """Return the device's certificate. Raises as `key`."""
        return self._read_certificate(self.certificate_path)

    @property
    def ca_pem(self) -> str:
        """Return the hub's authority. Raises as `key`."""
        return self._read(self.ca_path).decode("ascii", "replace")

    @property
    def root(self) -> bytes:
        """Return the TUF root that the device began with. Raises as `key`."""
        return self._read(self.root_path)

    def check(self) -> None:
        """Return if every part is there and they belong together. Raises as `key`."""
        record, key = self.hub, self.key
        certificate, authority = self.certificate, self._read_certificate(self.ca_path)
        if certificate.public_key() != key.public_key():
            raise _corrupt(self.certificate_path, "it does not belong to device.key")
        if common_name(certificate) != record.device_id:
            raise _corrupt(self.certificate_path, "it is another device's")
        if authority.fingerprint(hashes.SHA256()).hex() != record.ca_fingerprint:
            raise _corrupt(self.ca_path, "it is another hub's")
        if not self.root:
            raise _corrupt(self.root_path, "it is empty")

    def sign(self, data: bytes) -> bytes:
        """Return the device's signature: ECDSA P-256 with SHA-256, DER. Raises as `key`."""
        return self.key.sign(data, ec.ECDSA(hashes.SHA256()))

    def csr_pem(self) -> str:
        """Return a request to sign the device's key anew. Raises as `key`."""
        return make_csr(self.key)

    def key_for_joining(self) -> ec.EllipticCurvePrivateKey:
        """Return the key to join with; make it unless an earlier try to join did.

        Raises RefusedError `identity.permissions`; UnavailableError `identity.corrupt`;
        TransientError `disk.write_failed`.
        """
        make_folder(self._folder, mode=0o700)
        path = self._next_key_path if self.is_joined else self.key_path
        if self._next_key_path.exists():
            path = self._next_key_path
        if not path.exists():
            data = ec.generate_private_key(ec.SECP256R1()).private_bytes(
                _PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
            create_durably(path, data, mode=0o600)
        return self._read_key(path)

    def install(self, record: HubRecord, *, certificate_pem: str, ca_pem: str, root: bytes) -> None:
        """Become the device that the hub answered with, with the key of `key_for_joining`.

        Raises IntegrityError `enrolment.bad_certificate` if it is for another key, name or hub;
        TransientError `disk.write_failed`.
        """
        key, authority = self.key_for_joining(), load_certificate(ca_pem)
        require_own(load_certificate(certificate_pem), key, authority, name=record.device_id)
        with self._lock:
            if self.is_joined:
                self.certificate_path.unlink()
                sync_folder(self._folder)
            if self._next_key_path.exists():
                self._next_key_path.replace(self.key_path)
                sync_folder(self._folder)
            write_durably(self.ca_path, ca_pem.encode(), mode=0o644)
            write_durably(self.root_path, root, mode=0o644)
            write_durably(self._folder / "hub.json", msgspec.json.encode(record), mode=0o644)
            write_durably(self.certificate_path, certificate_pem.encode(), mode=0o644)
            self._key = None

    def replace_certificate(self, certificate_pem: str) -> None:
        """Take a renewed certificate in place of the old one.

        Raises IntegrityError `enrolment.bad_certificate` if it is for another key, name or hub, or
        does not last longer; and as `key`.
        """
        renewed = load_certificate(certificate_pem)
        authority = self._read_certificate(self.ca_path)
        require_own(renewed, self.key, authority, name=self.device_id)
        if renewed.not_valid_after_utc <= self.certificate.not_valid_after_utc:
            raise _bad("it does not last longer than the one in use")
        write_durably(self.certificate_path, certificate_pem.encode(), mode=0o644)

    @property
    def _next_key_path(self) -> Path:
        return self._folder / "device.key.next"

    def _require_joined(self) -> None:
        if not self.is_joined:
            raise RefusedError(
                "identity.missing",
                "This device has not joined a hub.",
                remedy="Run `cloud-hub token create` on the hub, and here the line it prints: "
                "edge-agent join ...",
            )

    def _read(self, path: Path) -> bytes:
        self._require_joined()
        try:
            with path.open("rb") as file:
                data = file.read(FILE_BYTES_MAX + 1)
        except PermissionError as error:
            raise _not_readable(path) from error
        except OSError as error:
            raise _corrupt(path, error.strerror or str(error)) from error
        if len(data) > FILE_BYTES_MAX:
            raise _corrupt(path, f"it is over {FILE_BYTES_MAX} bytes")
        return data

    def _read_key(self, path: Path) -> ec.EllipticCurvePrivateKey:
        try:
            mode = path.stat().st_mode
            if mode & 0o077:
                raise RefusedError(
                    "identity.permissions",
                    f"{path} can be read by other users of this machine.",
                    remedy=f"Run: chmod 600 {path}",
                )
            key = serialization.load_pem_private_key(path.read_bytes(), password=None)
        except (OSError, ValueError, TypeError, UnsupportedAlgorithm) as error:
            raise _corrupt(path, str(error)) from error
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise _corrupt(path, "it is not an ECDSA key")
        return key

    def _read_certificate(self, path: Path) -> x509.Certificate:
        try:
            return x509.load_pem_x509_certificate(self._read(path))
        except ValueError as error:
            raise _corrupt(path, str(error)) from error


def make_csr(key: ec.EllipticCurvePrivateKey) -> str:
    """Return a signing request: it proves that we have the key; the hub decides the name."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "isthmus device")])
    request = x509.CertificateSigningRequestBuilder(subject_name=name).sign(key, hashes.SHA256())
    return request.public_bytes(_PEM).decode()


def load_certificate(pem: str) -> x509.Certificate:
    """Return a certificate. Raises IntegrityError `enrolment.bad_certificate`."""
    try:
        return x509.load_pem_x509_certificate(pem.encode())
    except ValueError as error:
        raise _bad(str(error)) from error


def common_name(certificate: x509.Certificate) -> str:
    """Return whose certificate it is; "" if it does not say."""
    names = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return str(names[0].value) if names else ""


def require_own(
    certificate: x509.Certificate,
    key: ec.EllipticCurvePrivateKey,
    authority: x509.Certificate,
    *,
    name: str,
) -> None:
    """Raise IntegrityError `enrolment.bad_certificate` unless it is this device's, from its hub."""
    if certificate.public_key() != key.public_key():
        raise _bad("it is for another key")
    if common_name(certificate) != name:
        raise _bad("it is for another device")
    try:
        certificate.verify_directly_issued_by(authority)
    except (ValueError, TypeError, InvalidSignature) as error:
        raise _bad("the hub's authority did not sign it") from error


def _bad(reason: str) -> IntegrityError:
    return IntegrityError(
        "enrolment.bad_certificate", f"The hub sent a certificate that is not ours: {reason}."
    )


def _not_readable(path: Path) -> RefusedError:
    return RefusedError(
        "identity.permissions",
        f"This user may not read {path}.",
        remedy="Do it as the user that joined, or name another folder with --state.",
    )


def _corrupt(path: Path, reason: str) -> UnavailableError:
    return UnavailableError(
        "identity.corrupt",
        f"{path} cannot be used: {reason}.",
        remedy="Join again with a new token: edge-agent join --again.",
    )
