"""The page of what devices send: opened, filled, made a version of, closed; and hostile names."""

import pytest

from cloud_hub.dashboard.collection_view import trouble_of
from cloud_hub.datasets.collecting.collection import Collection
from cloud_hub.datasets.dataset import DatasetName
from tests.support.api_client import COLLECTION, ApiHub
from tests.support.shape_sources import picture
from tests.support.sharing_bench import DATASET, GROUP, SharingDevice

pytestmark = pytest.mark.slow
PLACE = "/collections"
COUNT = COLLECTION.items_per_device_day_max


def page(hub: ApiHub, **headers: str) -> str:
    answer = hub.client().get(PLACE, headers=headers)
    assert answer.status_code == 200, answer.text
    return answer.text


def post(hub: ApiHub, path: str, **fields: str) -> tuple[int, str]:
    answer = hub.client().post(path, data=fields, follow_redirects=False)
    return answer.status_code, answer.headers.get("location", answer.text)


def test_a_dataset_is_opened_filled_and_becomes_a_version_from_its_page(empty_hub: ApiHub) -> None:
    assert "No dataset is open to devices" in page(empty_hub)
    fields = {"dataset": DATASET, "group": GROUP, "items_max": "40"}
    assert post(empty_hub, PLACE, **fields) == (303, PLACE)
    assert f"No device is in the group {GROUP}" in page(empty_hub)
    device = SharingDevice.enrol(empty_hub)
    for index in range(COUNT):
        device.send(picture(index), label="circle" if index % 2 else "square", group=f"g{index}")
    fragment = page(empty_hub, **{"hx-request": "true"})
    assert "<html" not in fragment
    assert f'href="/devices/{device.device_id}"' in fragment
    assert f"{COUNT} labelled" in fragment
    assert "No device is in the group" not in fragment
    # One device cannot be in three parts: what to do about it is said.
    status, text = post(empty_hub, f"{PLACE}/{DATASET}/version")
    assert status == 400
    assert "split" in text.lower()
    version = f"{PLACE}/{DATASET}/version"
    assert post(empty_hub, version, by="item") == (303, f"/datasets/{DATASET}?version=1")
    shown = page(empty_hub)
    assert f'href="/datasets/{DATASET}"' in shown
    assert "nobody yet" in shown, "what a version has waits no more"
    assert post(empty_hub, f"{PLACE}/{DATASET}/stop") == (303, PLACE)
    assert "Open again" in page(empty_hub)
    acts = [entry.action for entry in empty_hub.services.audit.entries(limit=10)]
    assert {"dataset.collect", "dataset.collect_version", "dataset.collect_stop"} <= set(acts)


def test_what_waits_is_forgotten_only_when_asked_to(empty_hub: ApiHub) -> None:
    post(empty_hub, PLACE, dataset=DATASET, group=GROUP)
    SharingDevice.enrol(empty_hub).send(picture(1))
    assert post(empty_hub, f"{PLACE}/{DATASET}/stop")[0] == 303
    assert empty_hub.services.collections.get(DATASET).waiting.items_count == 1
    assert post(empty_hub, f"{PLACE}/{DATASET}/discard")[0] == 303
    assert empty_hub.services.collections.get(DATASET).waiting.items_count == 0


def test_what_cannot_be_done_is_a_page_that_says_why(empty_hub: ApiHub) -> None:
    for path, status in (
        (f"{PLACE}/none/stop", 404),
        (f"{PLACE}/none/version", 404),
        (f"{PLACE}/none/fly", 400),
        (f"{PLACE}/../x/stop", 404),
    ):
        assert post(empty_hub, path)[0] == status, path
    for fields in (
        {"dataset": "<b>", "group": GROUP},
        {"dataset": DATASET, "group": "../x"},
        {"dataset": DATASET, "group": GROUP, "items_max": "0"},
        {"dataset": DATASET},
    ):
        assert post(empty_hub, PLACE, **fields)[0] == 400, fields
    post(empty_hub, PLACE, dataset=DATASET, group=GROUP)
    status, text = post(empty_hub, f"{PLACE}/{DATASET}/version")
    assert status == 409
    assert "No device has sent anything" in text


def test_only_an_open_collection_can_be_in_trouble() -> None:
    full = Collection(DatasetName("gate"), "north", 5, True, None, (), 5, 0, "ada")
    closed = Collection(DatasetName("gate"), "north", 5, False, None, (), 5, 0, "ada")
    fine = Collection(DatasetName("gate"), "north", 5, True, None, (), 4, 0, "ada")
    assert "full" in trouble_of(full, devices_count=2)
    assert "north" in trouble_of(fine, devices_count=0)
    assert trouble_of(fine, devices_count=2) == trouble_of(closed, devices_count=0) == ""
