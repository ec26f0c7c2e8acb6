"""A small certificate authority that plays the hub's own, so that link and broker stand alone."""

import datetime
import ipaddress
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

_DAY = datetime.timedelta(days=1)


class Pki:
    """One CA in one folder: `<name>.crt` and `<name>.key` for each name issued, and `crl.pem`."""

    def __init__(self, folder: Path, *, name: str = "test CA") -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.ca_path = folder / "ca.crt"
        self.crl_path = folder / "crl.pem"
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = _name(name)
        self._revoked: list[int] = []
        self._crl_count = 0
        certificate = (
            _builder(self._name, self._name, self._key)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_usage(signs_certificates=True), critical=True)
            .sign(self._key, hashes.SHA256())
        )
        self.ca_path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        self.write_crl()

    def issue(self, name: str, *, is_server: bool = False, file: str = "") -> tuple[Path, Path]:
        """Make a certificate with common name `name`; return the paths of it and of its key."""
        key = ec.generate_private_key(ec.SECP256R1())
        usage = ExtendedKeyUsageOID.SERVER_AUTH if is_server else ExtendedKeyUsageOID.CLIENT_AUTH
        builder = (
            _builder(_name(name), self._name, key, signer=self._key)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
        )
        if is_server:
            names: list[x509.GeneralName] = [
                x509.DNSName("localhost"),
                x509.IPAddress(ipaddress.ip_address("127.0.0.1")),
            ]
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        certificate = builder.sign(self._key, hashes.SHA256())
        certificate_path = self.folder / f"{file or name}.crt"
        key_path = self.folder / f"{file or name}.key"
        certificate_path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        key_path.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )
        return certificate_path, key_path

    def serial(self, certificate_path: Path) -> int:
        """Return the serial number of an issued certificate."""
        return x509.load_pem_x509_certificate(certificate_path.read_bytes()).serial_number

    def revoke(self, certificate_path: Path) -> bytes:
        """Put a certificate on the revocation list; write and return it."""
        self._revoked.append(self.serial(certificate_path))
        return self.write_crl()

    def write_crl(self) -> bytes:
        """Write and return the revocation list."""
        now = datetime.datetime.now(datetime.UTC)
        self._crl_count += 1  # OpenSSL takes the list with the later second for the newer one.
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(self._name)
            .last_update(now - _DAY + datetime.timedelta(seconds=self._crl_count))
            .next_update(now + 30 * _DAY)
        )
        for serial in self._revoked:
            entry = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(now)
            builder = builder.add_revoked_certificate(entry.build())
        data = builder.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
        self.crl_path.write_bytes(data)
        return data


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePrivateKey,
    *,
    signer: ec.EllipticCurvePrivateKey | None = None,
) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    signer = signer or key
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _DAY)
        .not_valid_after(now + 30 * _DAY)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False
        )
    )
