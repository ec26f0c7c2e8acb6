"""Join tokens, labels, groups, hub addresses, announcements: what people and networks write."""

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloud_hub.devices.groups import GROUPS_PER_DEVICE_MAX, normalize_groups, parse_label
from cloud_hub.devices.join_token import StoredToken, parse_ttl_s, require_usable
from edge_agent.uplink.http_enrolment import HubAddress, parse_hub_url
from edge_agent.uplink.renewal import is_due
from shared.errors import ContractError, RefusedError
from shared.ids import DeviceId
from shared.join_token import TOKEN_CHARS, new_join_token, parse_join_token
from shared.wire.announcement import read_announcement, write_announcement

FINGERPRINT = "ab" * 32


def test_a_token_survives_being_written_down() -> None:
    token = new_join_token(FINGERPRINT)
    assert parse_join_token(f"  {token.text}\n") == token
    assert len(token.text) == TOKEN_CHARS
    assert token.secret not in token.secret_hash
    assert new_join_token(FINGERPRINT).secret != token.secret


@given(st.text(max_size=200))
def test_no_other_text_is_a_token(text: str) -> None:
    with pytest.raises(ContractError) as raised:
        parse_join_token(text)
    assert raised.value.code == "enrolment.token_invalid"


def stored(**changes: object) -> StoredToken:
    values: dict[str, object] = {
        "token_hash": "",
        "name": None,
        "groups": (),
        "created_ms": 0,
        "expires_ms": 1000,
    }
    return StoredToken(**(values | changes))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("token", "code"),
    [
        (None, "enrolment.token_unknown"),
        (stored(redeemed_ms=500, device_id=DeviceId("dev-a")), "enrolment.token_used"),
        (stored(expires_ms=999), "enrolment.token_expired"),
        # Used and expired: "used" tells more.
        (stored(redeemed_ms=5, expires_ms=999), "enrolment.token_used"),
    ],
)
def test_an_unusable_token_says_why_and_what_to_do(token: StoredToken | None, code: str) -> None:
    with pytest.raises(RefusedError) as raised:
        require_usable(token, now_ms=999)
    assert raised.value.code == code
    assert "cloud-hub token create" in raised.value.remedy


def test_a_fresh_token_is_usable() -> None:
    assert require_usable(stored(), now_ms=999) == stored()


@pytest.mark.parametrize("ttl_s", [0, 59, 30 * 86400 + 1])
def test_a_token_lives_neither_too_short_nor_too_long(ttl_s: int) -> None:
    with pytest.raises(RefusedError, match="30 days"):
        parse_ttl_s(ttl_s)


def test_groups_are_sorted_and_counted_once() -> None:
    assert normalize_groups(["north", "cameras", "north"]) == ("cameras", "north")


def test_too_many_groups_are_refused() -> None:
    with pytest.raises(RefusedError):
        normalize_groups(f"g{i}" for i in range(GROUPS_PER_DEVICE_MAX + 1))


@pytest.mark.parametrize("text", ["", "  ", "x" * 64, "a\0b", "bell\a"])
def test_a_label_must_be_readable(text: str) -> None:
    with pytest.raises(ContractError):
        parse_label(text)


def test_a_label_may_be_what_people_say() -> None:
    assert parse_label("  Tor  3, Süd ") == "Tor 3, Süd"


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("hub.local", "hub.local", 8443),
        ("https://hub.local:9000/", "hub.local", 9000),
        ("192.0.2.7:443", "192.0.2.7", 443),
        ("https://[fd00::2]:8443", "fd00::2", 8443),
    ],
)
def test_a_hub_address_is_understood(text: str, host: str, port: int) -> None:
    assert parse_hub_url(text) == HubAddress(host, port)
    assert parse_hub_url(parse_hub_url(text).url) == HubAddress(host, port)


@pytest.mark.parametrize(
    "text", ["", "http://hub.local", "hub.local:0", "hub.local:99999", "https://hub/path", "a b"]
)
def test_what_is_no_hub_address_is_refused(text: str) -> None:
    with pytest.raises(ContractError, match=r"https://hub\.local"):
        parse_hub_url(text)


def test_an_announcement_is_read_back() -> None:
    entries = {
        k.encode(): v.encode() for k, v in write_announcement(FINGERPRINT, port=8443).items()
    }
    announcement = read_announcement(entries)
    assert announcement.port == 8443
    assert announcement.is_of(FINGERPRINT)
    assert not announcement.is_of("ba" * 32)


@given(st.dictionaries(st.sampled_from([b"v", b"fp", b"port"]), st.none() | st.binary(max_size=20)))
def test_any_announcement_is_read_or_refused(entries: dict[bytes, bytes | None]) -> None:
    with suppress(ContractError):  # Any other error fails the test.
        assert 1 <= read_announcement(entries).port <= 65535


@pytest.mark.parametrize(
    ("now_s", "due"), [(0.0, False), (59.9, False), (60.1, True), (90.0, True), (200.0, True)]
)
def test_a_certificate_is_due_when_a_third_of_its_life_is_left(now_s: float, due: bool) -> None:
    assert is_due(not_before_s=0.0, not_after_s=90.0, now_s=now_s) is due
