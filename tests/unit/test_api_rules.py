"""The API's pure rules: errors to statuses, the login throttle, secrets, paths, drawings."""

import pytest

from cloud_hub.api.errors import STATUS_BY_FAMILY, status_of
from cloud_hub.api.operators import ADDRESSES_MAX, LoginThrottle, hash_secret, new_secret
from cloud_hub.api.tokens import join_command
from cloud_hub.dashboard import formats
from cloud_hub.dashboard.charts import STRIP_UNITS, count_states, spark, strip
from cloud_hub.dashboard.login import own_path
from cloud_hub.rollouts.rollout import DeviceState, RolloutState
from shared.errors import (
    ContractError,
    IntegrityError,
    IsthmusError,
    RefusedError,
    TransientError,
    UnavailableError,
)

FAMILIES = (ContractError, TransientError, RefusedError, IntegrityError, UnavailableError)


def test_every_family_of_errors_has_a_status() -> None:
    assert set(STATUS_BY_FAMILY) == set(FAMILIES)


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (ContractError("wire.invalid", "x"), 400),
        (RefusedError("rollout.busy", "x"), 409),
        (RefusedError("device.unknown", "x"), 404),
        (ContractError("channel.unknown", "x"), 404),
        (RefusedError("enrolment.token_unknown", "x"), 409),  # A token is no place to look
        (RefusedError("auth.token_wrong", "x"), 401),
        (RefusedError("auth.origin", "x"), 403),
        (RefusedError("auth.too_many_attempts", "x"), 429),
        (ContractError("limit.body", "x"), 413),
        (IntegrityError("repository.damaged", "x"), 422),
        (TransientError("database.unavailable", "x"), 503),
        (TransientError("database.unknown", "x"), 503),  # Nothing is missing, the hub is unwell
        (UnavailableError("release_keys.missing", "x"), 503),
    ],
)
def test_the_table_of_statuses(error: IsthmusError, status: int) -> None:
    assert status_of(error) == status


def test_a_subclass_of_a_family_has_its_family_s_status() -> None:
    class SpecialError(RefusedError):
        pass

    assert status_of(SpecialError("gate.refused", "x")) == 409


def test_secrets_are_long_never_twice_the_same_and_kept_as_hashes() -> None:
    secrets = {new_secret("isthmus-op-") for _ in range(100)}
    assert len(secrets) == 100
    assert all(len(secret) >= len("isthmus-op-") + 43 for secret in secrets)
    assert all(secret not in hash_secret(secret) for secret in secrets)


def test_the_throttle_closes_one_address_and_opens_it_again() -> None:
    throttle = LoginThrottle(failures_max=3, window_s=60)
    for second in range(3):
        throttle.check("10.0.0.1", now_s=second)
        throttle.failed("10.0.0.1", now_s=second)
    with pytest.raises(RefusedError) as caught:
        throttle.check("10.0.0.1", now_s=3)
    assert caught.value.code == "auth.too_many_attempts"
    assert "58 seconds" in caught.value.remedy
    throttle.check("10.0.0.2", now_s=3)
    throttle.check("10.0.0.1", now_s=61)


def test_the_throttle_remembers_a_bounded_number_of_addresses() -> None:
    throttle = LoginThrottle(failures_max=1, window_s=60)
    for number in range(ADDRESSES_MAX + 10):
        throttle.failed(f"address-{number}", now_s=0)
    throttle.check("address-0", now_s=0)  # Forgotten
    with pytest.raises(RefusedError):
        throttle.check(f"address-{ADDRESSES_MAX + 9}", now_s=0)


@pytest.mark.parametrize(
    "path",
    ["https://evil.test/", "//evil.test", "/\\evil.test", "evil", "", "/a\nb", "/" + "a" * 600],
)
def test_the_login_leads_nowhere_else(path: str) -> None:
    assert own_path(path) == "/"


def test_the_login_leads_on_to_our_own_pages() -> None:
    assert own_path("/rollouts/roll-1") == "/rollouts/roll-1"


def test_the_join_command_is_one_shell_command_whatever_the_token() -> None:
    command = join_command("https://hub:8443", "a b;rm -rf /")
    assert command == "edge-agent join https://hub:8443 --token 'a b;rm -rf /'"


@pytest.mark.parametrize("state", [*RolloutState, *DeviceState])
def test_every_state_that_asks_for_attention_has_a_colour(state: str) -> None:
    quiet = {"waiting", "removed", "cancelled"}
    assert bool(formats.tone(state)) == (state not in quiet)


def test_a_strip_is_as_long_as_its_counts() -> None:
    parts = strip(count_states(["waiting", "updated", "updated", "failed"]))
    assert [(part.state, part.count) for part in parts] == [
        ("updated", 2),
        ("failed", 1),
        ("waiting", 1),
    ]
    assert sum(part.width for part in parts) == pytest.approx(STRIP_UNITS, abs=0.1)
    assert strip({}) == ()


@pytest.mark.parametrize("state", DeviceState)
def test_no_device_is_missing_from_a_strip(state: DeviceState) -> None:
    assert count_states([state.value]) == {state.value: 1}


def test_a_spark_needs_two_values_and_stays_inside_its_box() -> None:
    assert spark([]) is None
    assert spark([1.0]) is None
    line = spark([0.0, 5.0, 2.5])
    assert line is not None
    heights = [float(point.split(",")[1]) for point in line.points.split()]
    assert all(0 <= height <= 26 for height in heights)
    assert heights[1] < heights[2] < heights[0]
    assert spark([0.0, 0.0]) is not None  # No division by the largest value


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (formats.milliseconds(4.25), "4.2 ms"),
        (formats.milliseconds(1234.5), "1,234 ms"),
        (formats.milliseconds(None), "–"),
        (formats.size(0), "0 B"),
        (formats.size(90 << 20), "90.0 MiB"),
        (formats.size(3 << 40), "3072.0 GiB"),
        (formats.ago(None, 0), "never"),
        (formats.ago(10_000, 11_000), "just now"),
        (formats.ago(0 + 1, 200_001), "3 min ago"),
        (formats.percent(0.935), "94 %"),
        (formats.span(-5), "0 s"),
    ],
)
def test_numbers_for_people(text: str, expected: str) -> None:
    assert text == expected
