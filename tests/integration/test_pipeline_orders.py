"""Pipelines that the hub orders: by the API, the command line's answers, and in Targets."""

from pathlib import Path

import httpx
import msgspec
import pytest
from msgspec import UNSET

from shared.pipeline.pipeline import PipelineSettings
from shared.wire.target import ORDERS_MAX, Target
from tests.support.api_client import ApiHub
from tests.support.digits_hub import type_here
from tests.support.fleet_simulator import SimulatedDevice

SETTINGS = {
    "model": "people",
    "source": {"kind": "stream", "url": "rtsp://10.0.0.7/1"},
    "decisions": {"confidence_min": 0.5},
}


def newest(hub: ApiHub, device: SimulatedDevice) -> Target:
    """The newest Target that a device has taken up."""
    hub.step()
    return device.targets[-1]


def order(
    client: httpx.Client, device_id: str, pipeline: str = "gate", /, **changes: object
) -> httpx.Response:
    settings = {**SETTINGS, **changes}
    return client.put(
        f"/api/v1/devices/{device_id}/pipelines/{pipeline}", json={"settings": settings}
    )


def test_an_ordered_pipeline_reaches_the_device_and_is_taken_back(empty_hub: ApiHub) -> None:
    device, other = empty_hub.enrol(2)
    client = empty_hub.client()
    assert order(client, device.device_id).is_success
    (ordered,) = newest(empty_hub, device).orders or ()
    settings = msgspec.json.decode(ordered.settings, type=PipelineSettings)
    assert (ordered.name, settings.name, settings.model) == ("gate", "gate", "people")
    assert settings.decisions.confidence_min == 0.5
    revision = newest(empty_hub, device).revision

    found = order(client, device.device_id, decisions={"confidence_min": 0.7}).json()
    assert [one["name"] for one in found["pipelines"]] == ["gate"]
    assert found["pipelines"][0]["settings"]["decisions"]["confidence_min"] == 0.7
    assert found["pipelines"][0]["state"] == "ordered"
    assert newest(empty_hub, device).revision == revision + 1

    path = f"/api/v1/devices/{device.device_id}/pipelines/gate"
    assert client.delete(path).json()["pipelines"] == []
    assert newest(empty_hub, device).orders is UNSET
    assert client.delete(path).json()["code"] == "pipeline.unknown"
    assert not other.targets


def test_a_group_is_ordered_at_once(empty_hub: ApiHub) -> None:
    devices = empty_hub.enrol(3)
    for device in devices[:2]:
        empty_hub.services.devices.set_groups(device.device_id, ["north"])
    client = empty_hub.client()
    done = client.put("/api/v1/pipelines/gate", json={"settings": SETTINGS, "group": "north"})
    assert done.json()["devices"] == sorted(device.device_id for device in devices[:2])
    empty_hub.step()
    assert [len(device.targets) for device in devices] == [1, 1, 0]
    nobody = client.put("/api/v1/pipelines/gate", json={"settings": SETTINGS, "group": "south"})
    assert (nobody.status_code, nobody.json()["code"]) == (409, "pipeline.not_active")
    named = [devices[2].device_id]
    some = client.put("/api/v1/pipelines/yard", json={"settings": SETTINGS, "devices": named})
    assert some.json() == {"name": "yard", "devices": named}
    empty_hub.step()
    assert [len(device.targets) for device in devices] == [1, 1, 1]
    both = client.put(
        "/api/v1/pipelines/gate", json={"settings": SETTINGS, "devices": named, "group": "north"}
    )
    assert both.status_code == 400
    neither = client.put("/api/v1/pipelines/gate", json={"settings": SETTINGS})
    assert neither.status_code == 400


def test_devices_are_ordered_by_name_as_the_command_line_asks(
    empty_hub: ApiHub, tmp_path: Path
) -> None:
    (device,) = empty_hub.enrol(1)
    file = tmp_path / "gate.toml"
    source = 'source = {kind = "stream", url = "rtsp://10.0.0.7/1"}'
    file.write_text(f'name = "gate"\nmodel = "people"\n{source}\n')
    with empty_hub.serve():
        typed = type_here(empty_hub, "pipelines", "set", file, "--device", device.device_id)
    assert typed.code == 0
    assert f"gate is ordered of {device.device_id}." in typed.out
    (ordered,) = newest(empty_hub, device).orders or ()
    assert ordered.name == "gate"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"source": {"kind": "stream", "url": "gopher://x"}}, "$.source.url"),
        ({"source": {"kind": "telepathy"}}, "telepathy"),
        ({"decisions": {"confidence_min": 2}}, "$.decisions.confidence_min"),
        ({"lens": 3}, "lens"),
        ({"name": "other"}, "Leave `name` out"),
        ({"frames": {"region": [0.5, 0, 0.5, 1]}}, "region must be"),
    ],
)
def test_what_is_wrong_with_an_order_is_named(
    empty_hub: ApiHub, change: dict[str, object], said: str
) -> None:
    (device,) = empty_hub.enrol(1)
    answer = order(empty_hub.client(), device.device_id, **change)
    assert answer.status_code == 400
    assert answer.json()["code"] == "pipeline.invalid"
    assert said in answer.json()["message"] + answer.json()["remedy"]
    empty_hub.step()
    assert not device.targets


def test_a_device_has_at_most_so_many_orders_and_loses_none_to_one_too_many(
    empty_hub: ApiHub,
) -> None:
    (device,) = empty_hub.enrol(1)
    client = empty_hub.client()
    for number in range(ORDERS_MAX):
        assert order(client, device.device_id, f"gate-{number}").is_success
    refused = order(client, device.device_id, "one-more")
    assert refused.json()["code"] == "pipeline.too_many"
    orders = newest(empty_hub, device).orders
    assert orders is not UNSET
    assert len(orders) == ORDERS_MAX


def test_a_revoked_device_is_ordered_nothing(empty_hub: ApiHub) -> None:
    (device,) = empty_hub.enrol(1)
    empty_hub.services.devices.revoke(device.device_id)
    empty_hub.clock.advance(60.0)
    answer = order(empty_hub.client(), device.device_id)
    assert answer.json()["code"] == "pipeline.not_active"


GATE = """
[[pipelines]]
name = "gate"
model = "people"
source = {kind = "stream", url = "rtsp://10.0.0.7/1"}
"""


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (GATE, "two pipelines of the name gate"),
        (
            GATE.replace('"gate"', '"yard"').replace("url", "urll"),
            "The pipeline yard is not valid: Object contains unknown field `urll`",
        ),
        (GATE.replace('"gate"', '"yard"').replace("url", "urll"), "did you mean `url`?"),
    ],
)
def test_a_file_with_one_wrong_pipeline_orders_none(
    empty_hub: ApiHub,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    more: str,
    said: str,
) -> None:
    (device,) = empty_hub.enrol(1)
    file = tmp_path / "both.toml"
    file.write_text(GATE + more)
    with empty_hub.serve():
        typed = type_here(empty_hub, "pipelines", "set", file, "--device", device.device_id)
    assert typed.code == 3
    assert said in capsys.readouterr().err
    empty_hub.step()
    assert not device.targets


def test_what_only_the_owner_says_and_a_model_without_releases_are_told(
    empty_hub: ApiHub, tmp_path: Path
) -> None:
    (device,) = empty_hub.enrol(1)
    file = tmp_path / "agent.toml"
    file.write_text(GATE + "[live]\n[metrics]\n")
    with empty_hub.serve():
        typed = type_here(empty_hub, "pipelines", "set", file, "--device", device.device_id)
    assert typed.code == 0
    assert "[live], [metrics]" in typed.out
    assert "There is no release of the model people" in typed.out
