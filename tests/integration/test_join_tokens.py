"""Join tokens that nobody used yet: listed, withdrawn, never told again."""

from pathlib import Path

import pytest

from cloud_hub.devices.service import DeviceService
from cloud_hub.sql_database import Database
from shared.errors import RefusedError
from shared.join_token import parse_join_token
from tests.support.api_client import ApiHub
from tests.support.enrolled import make_devices, new_csr
from tests.support.manual_clock import ManualClock


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(now_s=1_800_000_000.0)


@pytest.fixture
def devices(database: Database, tmp_path: Path, clock: ManualClock) -> DeviceService:
    return make_devices(database, tmp_path, clock)


def test_open_tokens_are_listed_the_one_that_ends_first_first(
    devices: DeviceService, clock: ManualClock
) -> None:
    assert devices.open_tokens() == ()
    late = devices.create_token(name="gate", groups=("north", "canary"), ttl_s=7200)
    soon = devices.create_token(ttl_s=600)
    found = devices.open_tokens()
    assert [token.token_id for token in found] == [soon.token_id, late.token_id]
    assert (found[1].name, found[1].groups) == ("gate", ("canary", "north"))
    assert found[1].expires_ms == late.expires_ms
    clock.advance(600.0)
    assert [token.token_id for token in devices.open_tokens()] == [late.token_id]


def test_what_is_listed_is_no_part_of_the_token(devices: DeviceService) -> None:
    issued = devices.create_token(ttl_s=600)
    (token,) = devices.open_tokens()
    assert token.token_id == issued.token_id
    assert token.token_id not in issued.text
    assert parse_join_token(issued.text).secret not in repr(token)


def test_a_used_token_is_not_open(devices: DeviceService) -> None:
    devices.enrol(devices.create_token(ttl_s=600).text, new_csr())
    assert devices.open_tokens() == ()


def test_nobody_joins_with_a_withdrawn_token(devices: DeviceService) -> None:
    issued, other = devices.create_token(ttl_s=600), devices.create_token(ttl_s=600)
    for _ in range(2):  # It may be repeated.
        assert devices.withdraw_token(issued.token_id).token_id == issued.token_id
    assert [token.token_id for token in devices.open_tokens()] == [other.token_id]
    with pytest.raises(RefusedError) as raised:
        devices.enrol(issued.text, new_csr())
    assert raised.value.code == "enrolment.token_expired"
    assert devices.list_devices() == []
    assert devices.enrol(other.text, new_csr())


def test_a_used_token_cannot_be_withdrawn_and_says_what_can(devices: DeviceService) -> None:
    issued, csr = devices.create_token(ttl_s=600), new_csr()
    joined = devices.enrol(issued.text, csr)
    with pytest.raises(RefusedError) as raised:
        devices.withdraw_token(issued.token_id)
    assert raised.value.code == "enrolment.token_used"
    assert f"cloud-hub devices revoke {joined.device_id}" in raised.value.remedy
    assert devices.enrol(issued.text, csr) == joined, "a lost answer can still be asked for again"


@pytest.mark.parametrize("token_id", ["", "0" * 12, "0" * 64, "%", "' OR 1=1 --"])
def test_a_token_that_is_not_there(devices: DeviceService, token_id: str) -> None:
    devices.create_token(ttl_s=600)
    with pytest.raises(RefusedError) as raised:
        devices.withdraw_token(token_id)
    assert raised.value.code == "enrolment.token_unknown"
    assert len(devices.open_tokens()) == 1


@pytest.mark.slow
def test_the_api_lists_and_withdraws_and_writes_it_down(empty_hub: ApiHub) -> None:
    client = empty_hub.client()
    made = client.post("/api/v1/tokens", json={"name": "gate", "groups": ["north"]}).json()
    (listed,) = client.get("/api/v1/tokens").json()["tokens"]
    assert listed["token_id"] == made["token_id"]
    assert (listed["name"], listed["groups"]) == ("gate", ["north"])
    assert made["token"] not in str(listed)
    path = f"/api/v1/tokens/{made['token_id']}/revoke"
    assert empty_hub.client(token=None).post(path).status_code == 401
    assert client.post(path).json()["token_id"] == made["token_id"]
    assert client.get("/api/v1/tokens").json() == {"tokens": []}
    assert client.post("/api/v1/tokens/nothing/revoke").status_code == 409
    entry = empty_hub.services.audit.entries(limit=2)[1]
    assert (entry.action, entry.subject) == ("token.revoke", made["token_id"])
