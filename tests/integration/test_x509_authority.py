"""The hub's authority on a real folder, judged by OpenSSL through Python's own TLS."""

import multiprocessing
import ssl
import threading
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID

from cloud_hub.devices.ifaddr_hosts import local_hosts
from cloud_hub.devices.x509_authority import Authority
from cloud_hub.devices.x509_certificates import hosts_of, make_crl, read_csr
from edge_agent.uplink.file_identity import common_name, make_csr
from shared.clock import SystemClock
from shared.errors import ContractError, UnavailableError
from shared.ids import DeviceId
from tests.support.manual_clock import ManualClock

DAY_S = 86_400.0


def open_authority(folder: Path, clock: ManualClock, *hosts: str) -> Authority:
    return Authority(folder / "pki", host_names=hosts or ("localhost",), clock=clock)


def read(path: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate(path.read_bytes())


def test_opening_again_changes_nothing(tmp_path: Path) -> None:
    clock = ManualClock()
    first = open_authority(tmp_path, clock)
    before = {path.name: path.read_bytes() for path in (tmp_path / "pki").iterdir()}
    second = open_authority(tmp_path, clock)
    assert {path.name: path.read_bytes() for path in (tmp_path / "pki").iterdir()} == before
    assert second.ca_fingerprint == first.ca_fingerprint
    assert second.hub_serial == read(first.hub_certificate_path).serial_number


def test_every_key_is_for_its_owner_alone(tmp_path: Path) -> None:
    open_authority(tmp_path, ManualClock())
    keys = sorted((tmp_path / "pki").glob("*.key"))
    assert [key.name for key in keys] == ["ca.key", "hub.key", "server.key"]
    assert {key.stat().st_mode & 0o777 for key in keys} == {0o600}
    assert (tmp_path / "pki").stat().st_mode & 0o777 == 0o700


def test_a_key_that_others_can_read_is_refused(tmp_path: Path) -> None:
    authority = open_authority(tmp_path, ManualClock())
    (authority.ca_path.parent / "ca.key").chmod(0o640)
    with pytest.raises(UnavailableError, match="chmod 600") as raised:
        open_authority(tmp_path, ManualClock())
    assert raised.value.code == "authority.permissions"


def test_a_lost_authority_key_is_not_replaced(tmp_path: Path) -> None:
    authority = open_authority(tmp_path, ManualClock())
    (authority.ca_path.parent / "ca.key").unlink()
    with pytest.raises(UnavailableError, match="backup") as raised:
        open_authority(tmp_path, ManualClock())
    assert raised.value.code == "authority.key_missing"


def test_a_power_cut_between_key_and_certificate_is_repaired(tmp_path: Path) -> None:
    authority = open_authority(tmp_path, ManualClock())
    ca_key = (authority.ca_path.parent / "ca.key").read_bytes()
    authority.ca_path.unlink()
    authority.server_key_path.write_bytes(authority.hub_key_path.read_bytes())
    authority.hub_certificate_path.unlink()
    repaired = open_authority(tmp_path, ManualClock())
    assert (authority.ca_path.parent / "ca.key").read_bytes() == ca_key
    for name in ("server", "hub"):
        key = serialization.load_pem_private_key(
            (tmp_path / "pki" / f"{name}.key").read_bytes(), password=None
        )
        certificate = read(tmp_path / "pki" / f"{name}.crt")
        assert certificate.public_key() == key.public_key()
        certificate.verify_directly_issued_by(read(repaired.ca_path))


def test_service_certificates_renew_at_start_when_a_third_of_their_life_is_left(
    tmp_path: Path,
) -> None:
    clock = ManualClock()
    first = open_authority(tmp_path, clock)
    server, hub = read(first.server_certificate_path), read(first.hub_certificate_path)
    clock.advance(250 * DAY_S)
    open_authority(tmp_path, clock)
    assert read(first.server_certificate_path) == server
    clock.advance(20 * DAY_S)
    open_authority(tmp_path, clock)
    assert read(first.server_certificate_path) != server
    assert read(first.hub_certificate_path) != hub
    assert read(first.ca_path).fingerprint(hashes.SHA256()).hex() == first.ca_fingerprint


def test_new_host_names_get_a_new_server_certificate_and_only_that(tmp_path: Path) -> None:
    clock = ManualClock()
    first = open_authority(tmp_path, clock, "hub.example")
    hub = read(first.hub_certificate_path)
    open_authority(tmp_path, clock, "HUB.example", "FD00::7", "192.0.2.7")
    server = read(first.server_certificate_path)
    assert hosts_of(server) == {
        "hub.example", "192.0.2.7", "fd00::7", "localhost", "127.0.0.1", "::1",
    }  # fmt: skip
    open_authority(tmp_path, clock, "fd00:0::7")
    assert read(first.server_certificate_path) == server, "it holds that address already"
    assert read(first.hub_certificate_path) == hub


def test_without_settings_the_machine_is_known_by_all_its_addresses(tmp_path: Path) -> None:
    authority = Authority(tmp_path / "pki")
    assert {"localhost", "127.0.0.1"} <= set(local_hosts())
    assert hosts_of(read(authority.server_certificate_path)) == {h.lower() for h in local_hosts()}


def test_a_host_name_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ContractError) as raised:
        open_authority(tmp_path, ManualClock(), "höst")
    assert raised.value.code == "authority.host_name"


def test_a_device_certificate_says_who_and_how_long(tmp_path: Path) -> None:
    clock = ManualClock()
    authority = open_authority(tmp_path, clock)
    key = ec.generate_private_key(ec.SECP256R1())
    issued = authority.issue(key.public_key(), DeviceId("dev-a"))
    certificate = x509.load_pem_x509_certificate(issued.certificate_pem.encode())
    assert common_name(certificate) == "dev-a"
    assert issued.serial == f"{certificate.serial_number:x}"
    now_ms = int(clock.now_s() * 1000)
    assert (issued.issued_ms - now_ms, issued.expires_ms - now_ms) == (-300_000, 90 * 86_400_000)
    usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(usage) == [x509.ExtendedKeyUsageOID.CLIENT_AUTH]


def test_the_revocation_list_holds_what_was_revoked(tmp_path: Path) -> None:
    clock = ManualClock()
    authority = open_authority(tmp_path, clock)
    authority.write_crl(lambda: [("ab12", 1_600_000_000_000)])
    crl = x509.load_pem_x509_crl(authority.crl_path.read_bytes())
    ca = read(authority.ca_path)
    ca_key = ca.public_key()
    assert isinstance(ca_key, ec.EllipticCurvePublicKey)
    assert crl.is_signature_valid(ca_key)
    entry = crl.get_revoked_certificate_by_serial_number(0xAB12)
    assert entry is not None
    assert int(entry.revocation_date_utc.timestamp()) == 1_600_000_000
    authority.write_crl(list)
    assert not list(x509.load_pem_x509_crl(authority.crl_path.read_bytes()))


def test_every_revocation_list_bears_a_later_date_but_none_in_the_future(tmp_path: Path) -> None:
    clock = ManualClock()
    dates = []
    for _ in range(3):
        authority = open_authority(tmp_path, clock)  # Also after a restart
        authority.write_crl(list)
        dates.append(x509.load_pem_x509_crl(authority.crl_path.read_bytes()).last_update_utc)
    assert dates == sorted(set(dates))
    clock.advance(-3600)  # A clock that was set right
    authority.write_crl(list)
    dates.append(x509.load_pem_x509_crl(authority.crl_path.read_bytes()).last_update_utc)
    clock.advance(7 * 86_400)
    authority.write_crl(list)
    dates.append(x509.load_pem_x509_crl(authority.crl_path.read_bytes()).last_update_utc)
    assert dates == sorted(set(dates))
    now = datetime.fromtimestamp(clock.now_s(), UTC)
    latest = make_crl(authority._issuer, [], now=now, previous=now).last_update_utc
    assert latest == now.replace(microsecond=0)


def test_an_older_answer_never_takes_the_place_of_a_newer_list(tmp_path: Path) -> None:
    authority = open_authority(tmp_path, ManualClock())
    revoked: list[tuple[str, int]] = []
    asked, may_answer = threading.Event(), threading.Event()

    def slow_answer() -> list[tuple[str, int]]:
        answer = list(revoked)
        asked.set()
        may_answer.wait(0.3)  # Another thread could get past us here.
        return answer

    slow = threading.Thread(target=authority.write_crl, args=(slow_answer,))
    slow.start()
    assert asked.wait(5)
    revoked.append(("ab12", 1_600_000_000_000))
    authority.write_crl(lambda: list(revoked))
    may_answer.set()
    slow.join()
    assert len(x509.load_pem_x509_crl(authority.crl_path.read_bytes())) == 1


def test_a_request_with_a_broken_proof_or_another_kind_of_key_is_refused() -> None:
    csr = x509.load_pem_x509_csr(make_csr(ec.generate_private_key(ec.SECP256R1())).encode())
    der = bytearray(csr.public_bytes(serialization.Encoding.DER))
    der[-1] ^= 1
    forged = "-----BEGIN CERTIFICATE REQUEST-----\n" + ssl.DER_cert_to_PEM_cert(bytes(der)).split(
        "\n", 1
    )[1].replace("END CERTIFICATE", "END CERTIFICATE REQUEST")
    with pytest.raises(ContractError) as raised:
        read_csr(forged)
    assert raised.value.code == "enrolment.csr_invalid"
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "x")])
    for key in (ec.generate_private_key(ec.SECP384R1()), rsa.generate_private_key(65537, 2048)):
        other = x509.CertificateSigningRequestBuilder(subject_name=name).sign(key, hashes.SHA256())
        with pytest.raises(ContractError) as raised:
            read_csr(other.public_bytes(serialization.Encoding.PEM).decode())
        assert raised.value.code == "enrolment.key_type"
    for text in ("", "x" * 9000, "-----BEGIN CERTIFICATE REQUEST-----\nAA==\n", "\ud800"):
        with pytest.raises(ContractError):
            read_csr(text)


def test_both_ends_of_tls_accept_what_the_authority_made(tmp_path: Path) -> None:
    authority = Authority(tmp_path / "pki", host_names=("localhost",))
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(authority.ca_path))
    server.verify_mode = ssl.CERT_REQUIRED
    server.load_cert_chain(authority.server_certificate_path, authority.server_key_path)
    client = ssl.create_default_context(cafile=str(authority.ca_path))
    client.verify_flags |= ssl.VERIFY_X509_STRICT  # The default from Python 3.13 on
    client.load_cert_chain(authority.hub_certificate_path, authority.hub_key_path)
    assert handshake(server, client) == "hub"


def handshake(server: ssl.SSLContext, client: ssl.SSLContext) -> str:
    """Return the client's name as the server sees it, after a handshake in memory."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    near = client.wrap_bio(to_client, to_server, server_hostname="localhost")
    far = server.wrap_bio(to_server, to_client, server_side=True)
    for _ in range(5):
        for side in (near, far):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
    subject = dict(pair[0] for pair in far.getpeercert()["subject"])  # type: ignore[index,misc]
    return str(subject["commonName"])


def open_in_process(folder: str) -> None:
    Authority(Path(folder), host_names=("localhost",), clock=SystemClock())


@pytest.mark.slow
def test_several_processes_that_start_at_once_make_one_authority(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    folder = tmp_path / "pki"
    processes = [context.Process(target=open_in_process, args=(str(folder),)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0, 0]
    certificates = [read(folder / f"{name}.crt") for name in ("server", "hub")]
    for certificate in certificates:
        certificate.verify_directly_issued_by(read(folder / "ca.crt"))


def test_threads_may_issue_at_once(tmp_path: Path) -> None:
    authority = open_authority(tmp_path, ManualClock())
    key = ec.generate_private_key(ec.SECP256R1()).public_key()
    serials: list[str] = []
    threads = [
        threading.Thread(
            target=lambda i=i: serials.append(authority.issue(key, DeviceId(f"dev-{i}")).serial)
        )
        for i in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(serials)) == 8
