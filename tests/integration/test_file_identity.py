"""FileIdentity on a real folder: what a device is, and what it says when that is broken."""

from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from cloud_hub.devices.x509_authority import Authority
from edge_agent.uplink.file_identity import FileIdentity, HubRecord
from shared.errors import IntegrityError, IsthmusError, RefusedError, UnavailableError
from shared.ids import DeviceId
from tests.support.manual_clock import ManualClock

ROOT = b"{}"


def record(authority: Authority, device: str = "dev-a") -> HubRecord:
    return HubRecord(
        device_id=device,
        url="https://hub.local:8443",
        broker_host="hub.local",
        broker_port=8883,
        ca_fingerprint=authority.ca_fingerprint,
    )


def install(identity: FileIdentity, authority: Authority, device: str = "dev-a") -> None:
    key = identity.key_for_joining()
    issued = authority.issue(key.public_key(), DeviceId(device))
    identity.install(
        record(authority, device),
        certificate_pem=issued.certificate_pem,
        ca_pem=authority.ca_pem,
        root=ROOT,
    )


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "pki", host_names=("localhost",), clock=ManualClock())


@pytest.fixture
def identity(tmp_path: Path) -> FileIdentity:
    return FileIdentity(tmp_path / "identity")


@pytest.fixture
def joined(identity: FileIdentity, authority: Authority) -> FileIdentity:
    install(identity, authority)
    return identity


def test_a_joined_device_knows_who_it_is(joined: FileIdentity, authority: Authority) -> None:
    joined.check()
    assert joined.device_id == "dev-a"
    assert joined.hub == record(authority)
    assert joined.root == ROOT
    assert joined.ca_path.read_text() == authority.ca_pem
    fresh = FileIdentity(joined.key_path.parent)
    signature = fresh.sign(b"text")
    public_key = joined.certificate.public_key()
    assert isinstance(public_key, ec.EllipticCurvePublicKey)
    public_key.verify(signature, b"text", ec.ECDSA(hashes.SHA256()))
    csr = x509.load_pem_x509_csr(fresh.csr_pem().encode())
    assert csr.is_signature_valid
    assert csr.public_key() == public_key


def test_the_key_and_its_folder_are_the_owners_alone(joined: FileIdentity) -> None:
    assert joined.key_path.stat().st_mode & 0o777 == 0o600
    assert joined.key_path.parent.stat().st_mode & 0o777 == 0o700
    names = sorted(path.name for path in joined.key_path.parent.iterdir())
    assert names == ["ca.crt", "device.crt", "device.key", "hub.json", "root.json"]


@pytest.mark.parametrize(
    "ask",
    [
        lambda identity: identity.key,
        lambda identity: identity.certificate,
        lambda identity: identity.hub,
        lambda identity: identity.sign(b""),
        lambda identity: identity.check(),
    ],
)
def test_a_device_that_has_not_joined_says_how_to(
    identity: FileIdentity, ask: Callable[[FileIdentity], object]
) -> None:
    with pytest.raises(RefusedError, match="edge-agent join") as raised:
        ask(identity)
    assert raised.value.code == "identity.missing"
    assert not identity.is_joined


def test_a_key_that_others_can_read_is_refused(joined: FileIdentity) -> None:
    joined.key_path.chmod(0o644)
    with pytest.raises(RefusedError, match="chmod 600") as raised:
        _ = joined.key
    assert raised.value.code == "identity.permissions"


# What a TUF root must look like is for the TUF client to say: root.json takes any text.
DAMAGES = [
    (name, damage)
    for name in ("device.key", "device.crt", "ca.crt", "hub.json", "root.json")
    for damage in ("empty", "junk", "gone", "huge")
    if (name, damage) != ("root.json", "junk")
]


@pytest.mark.parametrize(("name", "damage"), DAMAGES)
def test_a_damaged_part_is_named(joined: FileIdentity, name: str, damage: str) -> None:
    path = joined.key_path.parent / name
    match damage:
        case "empty":
            path.write_bytes(b"")
        case "junk":
            path.write_bytes(b"\xff\x00 junk")
        case "huge":
            path.write_bytes(b"x" * 600_000)
        case _:
            path.unlink()
    fresh = FileIdentity(joined.key_path.parent)
    with pytest.raises((UnavailableError, RefusedError)) as raised:
        fresh.check()
    if (name, damage) == ("device.crt", "gone"):
        assert raised.value.code == "identity.missing"
    else:
        assert raised.value.code == "identity.corrupt"
        assert name in raised.value.message
        assert "join --again" in raised.value.remedy


def test_parts_of_two_identities_are_noticed(
    joined: FileIdentity, authority: Authority, tmp_path: Path
) -> None:
    other = FileIdentity(tmp_path / "other")
    install(other, authority, "dev-b")
    joined.certificate_path.write_bytes(other.certificate_path.read_bytes())
    with pytest.raises(UnavailableError, match=r"device\.key"):
        joined.check()
    joined.key_path.write_bytes(other.key_path.read_bytes())
    with pytest.raises(UnavailableError, match="another device"):
        FileIdentity(joined.key_path.parent).check()


def test_the_key_to_join_with_stays_the_same_until_the_hub_has_answered(
    identity: FileIdentity, authority: Authority
) -> None:
    first = identity.key_for_joining().public_key()
    assert FileIdentity(identity.key_path.parent).key_for_joining().public_key() == first
    install(identity, authority)
    assert identity.key.public_key() == first
    second = identity.key_for_joining().public_key()
    assert second != first
    assert identity.key.public_key() == first, "the old identity works until the new one is there"
    identity.check()
    install(identity, authority, "dev-b")
    assert identity.key.public_key() == second
    identity.check()
    assert identity.device_id == "dev-b"


def other_key(identity: FileIdentity, authority: Authority, tmp: Path) -> tuple[str, str]:
    stranger = ec.generate_private_key(ec.SECP256R1()).public_key()
    return authority.issue(stranger, DeviceId("dev-a")).certificate_pem, authority.ca_pem


def other_name(identity: FileIdentity, authority: Authority, tmp: Path) -> tuple[str, str]:
    own = identity.key_for_joining().public_key()
    return authority.issue(own, DeviceId("dev-b")).certificate_pem, authority.ca_pem


def other_hub(identity: FileIdentity, authority: Authority, tmp: Path) -> tuple[str, str]:
    own = identity.key_for_joining().public_key()
    foreign = Authority(tmp / "foreign", host_names=("localhost",), clock=ManualClock())
    return foreign.issue(own, DeviceId("dev-a")).certificate_pem, authority.ca_pem


def nonsense(identity: FileIdentity, authority: Authority, tmp: Path) -> tuple[str, str]:
    return "nonsense", authority.ca_pem


@pytest.mark.parametrize("make", [other_key, other_name, other_hub, nonsense])
def test_a_certificate_that_is_not_ours_is_not_installed(
    identity: FileIdentity,
    authority: Authority,
    tmp_path: Path,
    make: Callable[[FileIdentity, Authority, Path], tuple[str, str]],
) -> None:
    certificate_pem, ca_pem = make(identity, authority, tmp_path)
    with pytest.raises(IntegrityError) as raised:
        identity.install(
            record(authority), certificate_pem=certificate_pem, ca_pem=ca_pem, root=ROOT
        )
    assert raised.value.code == "enrolment.bad_certificate"
    assert not identity.is_joined


def test_a_renewed_certificate_must_last_longer(
    joined: FileIdentity, authority: Authority, tmp_path: Path
) -> None:
    before = joined.certificate_path.read_bytes()
    same_day = authority.issue(joined.key.public_key(), DeviceId("dev-a")).certificate_pem
    with pytest.raises(IsthmusError, match="longer"):
        joined.replace_certificate(same_day)
    assert joined.certificate_path.read_bytes() == before
    later = ManualClock()
    later.advance(70 * 86_400)
    renewing = Authority(tmp_path / "pki", host_names=("localhost",), clock=later)
    renewed = renewing.issue(joined.key.public_key(), DeviceId("dev-a")).certificate_pem
    joined.replace_certificate(renewed)
    assert joined.certificate_path.read_text() == renewed
    joined.check()
