"""Which samples may leave a device, and how requests about them are signed: pure rules."""

import dataclasses
from datetime import time
from typing import Any

import msgspec
import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from cloud_hub.datasets.collecting.collection import Collection, require_length, require_same
from cloud_hub.datasets.dataset import DatasetName
from edge_agent.config import AgentConfig
from edge_agent.sharing.policy import (
    DAY_MS,
    Allowance,
    Sending,
    allowance,
    can_ever_leave,
    obstacles,
)
from edge_agent.sharing.settings import SharingSettings
from edge_agent.training.eligibility import BATTERY, BATTERY_LEVEL, HOURS, METERED, Conditions
from shared.errors import ContractError, IntegrityError, RefusedError
from shared.settings import parse_toml
from shared.wire.device_samples import SampleKind
from shared.wire.signed_request import (
    DEVICE_HEADER,
    NONCE_HEADER,
    SIGNATURE_HEADER,
    TIME_HEADER,
    RequestProof,
    headers_of,
    proof_of,
    signed_bytes,
    verify,
)
from tests.support.sharing_bench import item_of

SHARING = b"""
[[samples]]
dataset = "shapes"
path = "/samples"
"""
PIPELINE = b"""
[[pipelines]]
name = "p"
model = "m"
source = {kind = "csv", path = "x.csv", columns = ["a"], window = {samples = 4}}
"""
FREE = Conditions(local_time=time(12), cores_count=1)
NOW_MS = 1_700_000_000_000
KEY = ec.generate_private_key(ec.SECP256R1())


def settings(**changes: Any) -> SharingSettings:
    return msgspec.structs.replace(parse_toml(SHARING, SharingSettings, name="sharing"), **changes)


def test_nothing_is_shared_unless_the_file_says_so() -> None:
    assert parse_toml(PIPELINE, AgentConfig, name="agent").sharing is None
    own = settings()
    told = (own.samples[0].with_labels, own.samples[0].with_times, own.samples[0].site)
    assert told == (False, False, "")
    assert (own.on_metered, own.on_battery) == (False, False)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"samples = []", "samples"),
        (SHARING + b'pixels = "all"', "pixels"),
        (SHARING + SHARING, "same path"),
        (b'hours_from = "22:00"\n' + SHARING, "hours_to"),
        (b"items_per_day_max = 10001\n" + SHARING, "items_per_day_max"),
        (b"item_bytes_max = 8388609\n" + SHARING, "item_bytes_max"),
    ],
)
def test_a_wrong_file_is_refused_by_key(text: bytes, said: str) -> None:
    with pytest.raises(ContractError, match=said):
        parse_toml(text, SharingSettings, name="sharing")


@pytest.mark.parametrize(
    ("changes", "conditions", "codes"),
    [
        ({}, {}, []),
        ({}, {"is_on_battery": True}, [BATTERY]),
        ({"on_battery": True}, {"is_on_battery": True, "battery_share": 0.9}, []),
        ({"on_battery": True}, {"is_on_battery": True, "battery_share": 0.1}, [BATTERY_LEVEL]),
        ({}, {"is_metered": True}, [METERED]),
        ({"on_metered": True}, {"is_metered": True}, []),
        ({"hours_from": "22:00", "hours_to": "06:00"}, {}, [HOURS]),
        ({"hours_from": "22:00", "hours_to": "06:00"}, {"local_time": time(23)}, []),
        ({}, {"is_metered": True, "is_on_battery": True}, [BATTERY, METERED]),
    ],
)
def test_every_condition_that_stands_in_the_way_is_told(
    changes: dict[str, Any], conditions: dict[str, Any], codes: list[str]
) -> None:
    found = obstacles(settings(**changes), dataclasses.replace(FREE, **conditions))
    assert [obstacle.code for obstacle in found] == codes
    assert all("sharing." in obstacle.text for obstacle in found)


def sending(at_ms: int, bytes_count: int = 10) -> Sending:
    return Sending("0" * 64, bytes_count, at_ms, "shapes")


@pytest.mark.parametrize(
    ("sent", "left"),
    [
        ((), Allowance(3, 100)),
        ((sending(NOW_MS),), Allowance(2, 90)),
        ((sending(NOW_MS - DAY_MS),), Allowance(3, 100)),
        ((sending(NOW_MS - DAY_MS + 1),), Allowance(2, 90)),
        ((sending(NOW_MS + 9 * DAY_MS),), Allowance(2, 90)),  # The clock was set back
        ((sending(NOW_MS, 70), sending(NOW_MS, 70)), Allowance(1, 0)),
        (tuple(sending(NOW_MS) for _ in range(9)), Allowance(0, 10)),
    ],
)
def test_what_left_within_a_day_counts(sent: tuple[Sending, ...], left: Allowance) -> None:
    own = settings(items_per_day_max=3, bytes_per_day_max=100)
    assert allowance(own, sent, now_ms=NOW_MS) == left


def test_an_item_leaves_whole_or_not_at_all() -> None:
    assert Allowance(1, 10).has_room_for(10)
    assert not Allowance(1, 10).has_room_for(11)
    assert not Allowance(0, 10).has_room_for(1)
    own = settings(bytes_per_day_max=100, item_bytes_max=50)
    assert [can_ever_leave(own, size) for size in (0, 1, 50, 51)] == [False, True, True, False]
    assert not can_ever_leave(settings(bytes_per_day_max=10), 11)


def proof(**changes: Any) -> RequestProof:
    told: dict[str, Any] = {"device": "dev-1", "at_ms": NOW_MS, "nonce": "0" * 16} | changes
    data = signed_bytes("POST", "/path?a=1", b"body", **told)
    return RequestProof(**told, signature=KEY.sign(data, ec.ECDSA(hashes.SHA256())))


def test_what_is_signed_never_changes() -> None:
    data = signed_bytes("POST", "/p?q", b"", device="dev-1", at_ms=7, nonce="0123456789abcdef")
    empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    assert data.decode().split("\n") == [
        "isthmus-request-1", "POST", "/p?q", empty, "dev-1", "7", "0123456789abcdef",
    ]  # fmt: skip


def test_a_signature_is_good_for_one_request_only() -> None:
    signed, key = proof(), KEY.public_key()
    verify(signed, key, "POST", "/path?a=1", b"body")
    others = [
        (signed, "GET", "/path?a=1", b"body"),
        (signed, "POST", "/path?a=2", b"body"),
        (signed, "POST", "/path?a=1", b"bodY"),
        (msgspec.structs.replace(signed, device="dev-2"), "POST", "/path?a=1", b"body"),
        (msgspec.structs.replace(signed, at_ms=NOW_MS + 1), "POST", "/path?a=1", b"body"),
        (msgspec.structs.replace(signed, nonce="1" * 16), "POST", "/path?a=1", b"body"),
        (msgspec.structs.replace(signed, signature=b""), "POST", "/path?a=1", b"body"),
    ]
    for other, *request in others:
        with pytest.raises(IntegrityError):
            verify(other, key, *request)
    stranger = ec.generate_private_key(ec.SECP256R1()).public_key()
    with pytest.raises(IntegrityError):
        verify(signed, stranger, "POST", "/path?a=1", b"body")


def test_a_proof_comes_back_from_its_headers() -> None:
    signed = proof()
    assert proof_of(headers_of(signed)) == signed


@pytest.mark.parametrize(
    ("header", "value"),
    [
        (DEVICE_HEADER, ""),
        (DEVICE_HEADER, "Dev 1"),
        (DEVICE_HEADER, "dev-1\nPOST"),
        (TIME_HEADER, ""),
        (TIME_HEADER, "-1"),
        (TIME_HEADER, "1_0"),
        (TIME_HEADER, "٣"),
        (TIME_HEADER, "9" * 4000),
        (NONCE_HEADER, "xyz"),
        (SIGNATURE_HEADER, "§"),
        (SIGNATURE_HEADER, "A" * 4000),
    ],
)
def test_headers_that_are_no_proof_are_refused(header: str, value: str) -> None:
    headers = headers_of(proof()) | {header: value}
    with pytest.raises(ContractError) as caught:
        proof_of(headers)
    assert caught.value.code == "request.unsigned"
    del headers[header]
    with pytest.raises(ContractError):
        proof_of(headers)


def test_a_collection_takes_one_kind_of_samples() -> None:
    empty = Collection(DatasetName("d"), "g", 1, True, None, (), 0, 0, "anna")
    require_same(empty, SampleKind.WINDOW, (4, 2))
    windows = dataclasses.replace(empty, kind=SampleKind.WINDOW, window_shape=(4, 2))
    require_same(windows, SampleKind.WINDOW, (4, 2))
    for kind, shape in ((SampleKind.WINDOW, (4, 3)), (SampleKind.IMAGE, ())):
        with pytest.raises(RefusedError, match="windows"):
            require_same(windows, kind, shape)


@pytest.mark.parametrize(
    ("kind", "shape", "size", "is_good"),
    [
        (SampleKind.WINDOW, (4, 2), 32, True),
        (SampleKind.WINDOW, (4, 2), 31, False),
        (SampleKind.WINDOW, (4,), 16, False),
        (SampleKind.WINDOW, (), 16, False),
        (SampleKind.WINDOW, (65_536, 65_536), 16, False),
        (SampleKind.IMAGE, (), 5, True),
        (SampleKind.IMAGE, (4, 2), 32, False),
    ],
)
def test_a_window_is_as_long_as_it_says(
    kind: SampleKind, shape: tuple[int, ...], size: int, is_good: bool
) -> None:
    item = item_of(bytes(size), kind=kind, window_shape=shape)
    if is_good:
        require_length(item)
        return
    with pytest.raises(ContractError):
        require_length(item)
