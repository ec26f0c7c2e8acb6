"""Authority: the hub's own certificate authority, in one folder.

1. `ca.key` and `ca.crt` are made once. Whoever has `ca.key` can be any device: it has mode 0600,
   lies nowhere but in this folder, and never enters the database.
2. `server.crt` (HTTPS and MQTT, with the hub's host names) and `hub.crt` (the hub as a client of
   its broker) are made at start, and made again when a third of their life is left, when the
   host names changed, or when key and certificate do not belong together.
3. `crl.pem` lists the revoked devices' certificates, for brokers that read such a list. Each list
   bears a later date than the one before it (x509_certificates.py says why).
4. Every file is written whole or not at all; several processes that start at once take turns.
"""

import fcntl
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from cloud_hub.devices.ifaddr_hosts import local_hosts
from cloud_hub.devices.x509_certificates import (
    DEVICE_LIFETIME,
    SERVICE_LIFETIME,
    IssuedCertificate,
    Issuer,
    describe,
    hosts_of,
    make_ca,
    make_client,
    make_crl,
    make_server,
    normalize_host,
)
from shared.clock import Clock, SystemClock
from shared.durable_file import make_folder, write_durably, write_failed
from shared.errors import UnavailableError
from shared.ids import HUB_ID, DeviceId

RENEW_SHARE = 1 / 3  # Of its lifetime: a certificate with less left is made again.
MINTED_LIFETIME = timedelta(minutes=5)
_PEM = serialization.Encoding.PEM


class Authority:
    """See the rules above. Safe to share between threads."""

    def __init__(
        self, folder: Path, *, host_names: Sequence[str] = (), clock: Clock | None = None
    ) -> None:
        """Open the authority in `folder`; make what is missing there.

        Args: host_names: names and addresses under which devices reach the hub; by default all
            that this machine knows of itself. "localhost" is always among them.

        Raises UnavailableError `authority.key_missing`, `authority.damaged`, `authority.expired`
        or `authority.permissions`; ContractError `authority.host_name`.
        """
        self._folder = folder
        self._clock = clock or SystemClock()
        make_folder(folder, mode=0o700)
        with self._lock():
            self._issuer = self._open_ca()
            self._open_server(host_names)
            self._hub = self._open_hub()

    @property
    def ca_path(self) -> Path:
        """Return where the authority's own certificate lies."""
        return self._folder / "ca.crt"

    @property
    def server_certificate_path(self) -> Path:
        """Return where the certificate of the HTTPS and MQTT servers lies."""
        return self._folder / "server.crt"

    @property
    def server_key_path(self) -> Path:
        """Return where the servers' private key lies."""
        return self._folder / "server.key"

    @property
    def hub_certificate_path(self) -> Path:
        """Return where the hub's certificate as a client of its broker lies."""
        return self._folder / "hub.crt"

    @property
    def hub_key_path(self) -> Path:
        """Return where the private key to that lies."""
        return self._folder / "hub.key"

    @property
    def crl_path(self) -> Path:
        """Return where the list of revoked certificates lies (`write_crl` makes it)."""
        return self._folder / "crl.pem"

    @property
    def ca_pem(self) -> str:
        """Return the authority's own certificate."""
        return self._issuer.certificate.public_bytes(_PEM).decode()

    @property
    def ca_fingerprint(self) -> str:
        """Return the SHA-256 of that certificate (DER): 64 hexadecimal digits."""
        return self._issuer.certificate.fingerprint(hashes.SHA256()).hex()

    @property
    def hub_serial(self) -> int:
        """Return the serial number of the hub's own client certificate."""
        return self._hub.serial_number

    def issue(self, public_key: ec.EllipticCurvePublicKey, device: DeviceId) -> IssuedCertificate:
        """Return a certificate for a device's key."""
        assert device != HUB_ID, "no device is the hub"
        certificate = make_client(
            self._issuer, public_key, name=device, now=self._now(), lifetime=DEVICE_LIFETIME
        )
        return describe(certificate)

    def mint(self, device: DeviceId) -> tuple[bytes, bytes]:
        """Return a certificate in a device's name and its key, PEM, good for minutes.

        With it the hub takes over a session that an external broker holds, to end it.
        """
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = make_client(
            self._issuer, key.public_key(), name=device, now=self._now(), lifetime=MINTED_LIFETIME
        )
        key_pem = key.private_bytes(
            _PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        return certificate.public_bytes(_PEM), key_pem

    def write_crl(self, read_revoked: Callable[[], Iterable[tuple[str, int]]]) -> None:
        """Write the list of revoked certificates.

        Args: read_revoked: returns (serial, since when in ms) of each; called while nobody else
            writes the list, so that an older answer never takes the place of a newer one.
        """
        with self._lock():
            previous = self._last_update()
            crl = make_crl(self._issuer, read_revoked(), now=self._now(), previous=previous)
            write_durably(self.crl_path, crl.public_bytes(_PEM), mode=0o644)

    def _last_update(self) -> datetime | None:
        """Return the date of the list that is there, if there is one that can be read."""
        try:
            return x509.load_pem_x509_crl(self.crl_path.read_bytes()).last_update_utc
        except (OSError, ValueError):
            return None

    def _open_ca(self) -> Issuer:
        key = self._read_key("ca")
        certificate = self._read_certificate("ca")
        if key is None and certificate is not None:
            raise UnavailableError(
                "authority.key_missing",
                f"{self._folder}/ca.key is missing, but ca.crt is there.",
                remedy="Put ca.key back from a backup: without it no device can join or renew.",
            )
        if key is None:
            key = self._make_key("ca")
        if certificate is None:
            certificate = make_ca(key, now=self._now())
            self._write_certificate("ca", certificate)
        if certificate.public_key() != key.public_key():
            raise _damaged(self.ca_path, "it does not belong to ca.key")
        if certificate.not_valid_after_utc <= self._now():
            raise UnavailableError(
                "authority.expired",
                f"The hub's authority expired on {certificate.not_valid_after_utc:%Y-%m-%d}.",
                remedy="Check this machine's clock.",
            )
        return Issuer(certificate=certificate, key=key)

    def _open_server(self, host_names: Sequence[str]) -> None:
        wanted = [*host_names, "localhost", "127.0.0.1", "::1"] if host_names else local_hosts()
        hosts = tuple(dict.fromkeys(normalize_host(host) for host in wanted))

        def make(key: ec.EllipticCurvePublicKey) -> x509.Certificate:
            return make_server(self._issuer, key, hosts=hosts, now=self._now())

        self._open_pair("server", make, lambda good: hosts_of(good) >= frozenset(hosts))

    def _open_hub(self) -> x509.Certificate:
        def make(key: ec.EllipticCurvePublicKey) -> x509.Certificate:
            return make_client(
                self._issuer, key, name=HUB_ID, now=self._now(), lifetime=SERVICE_LIFETIME
            )

        return self._open_pair("hub", make, lambda _: True)

    def _open_pair(
        self,
        name: str,
        make: Callable[[ec.EllipticCurvePublicKey], x509.Certificate],
        fits: Callable[[x509.Certificate], bool],
    ) -> x509.Certificate:
        """Return the certificate `name`; make it again, with a new key, unless it is still good."""
        key, certificate = self._read_key(name), self._read_certificate(name)
        if key is not None and certificate is not None:
            is_pair = certificate.public_key() == key.public_key()
            if is_pair and self._is_ours_and_fresh(certificate) and fits(certificate):
                return certificate
        certificate = make(self._make_key(name).public_key())
        self._write_certificate(name, certificate)
        return certificate

    def _is_ours_and_fresh(self, certificate: x509.Certificate) -> bool:
        try:
            certificate.verify_directly_issued_by(self._issuer.certificate)
        except (ValueError, TypeError, InvalidSignature):
            return False
        start, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
        return start <= self._now() and (end - self._now()) > RENEW_SHARE * (end - start)

    def _make_key(self, name: str) -> ec.EllipticCurvePrivateKey:
        key = ec.generate_private_key(ec.SECP256R1())
        data = key.private_bytes(
            _PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        write_durably(self._folder / f"{name}.key", data, mode=0o600)
        return key

    def _read_key(self, name: str) -> ec.EllipticCurvePrivateKey | None:
        path = self._folder / f"{name}.key"
        if not path.exists():
            return None
        if path.stat().st_mode & 0o077:
            raise UnavailableError(
                "authority.permissions",
                f"{path} can be read by other users of this machine.",
                remedy=f"Run: chmod 600 {path}",
            )
        try:
            key = serialization.load_pem_private_key(path.read_bytes(), password=None)
        except (OSError, ValueError, TypeError, UnsupportedAlgorithm) as error:
            raise _damaged(path, str(error)) from error
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise _damaged(path, "it is not an ECDSA key")
        return key

    def _read_certificate(self, name: str) -> x509.Certificate | None:
        path = self._folder / f"{name}.crt"
        if not path.exists():
            return None
        try:
            return x509.load_pem_x509_certificate(path.read_bytes())
        except (OSError, ValueError) as error:
            raise _damaged(path, str(error)) from error

    def _write_certificate(self, name: str, certificate: x509.Certificate) -> None:
        write_durably(self._folder / f"{name}.crt", certificate.public_bytes(_PEM), mode=0o644)

    def _now(self) -> datetime:
        return datetime.fromtimestamp(self._clock.now_s(), UTC)

    @contextmanager
    def _lock(self) -> Iterator[None]:
        path = self._folder / ".lock"
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise write_failed(path, error) from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)


def _damaged(path: Path, reason: str) -> UnavailableError:
    return UnavailableError(
        "authority.damaged",
        f"{path} cannot be used: {reason}.",
        remedy="Put the folder back from a backup.",
    )
