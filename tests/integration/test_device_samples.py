"""Samples that devices send to the hub: who may, what is refused, what is kept, and the version."""

import json
import shutil
import socket
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import msgspec
import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from cloud_hub.api.enrolment import FAILURES_MAX, WINDOW_S
from cloud_hub.api.http_limits import SAMPLES_MAX
from cloud_hub.command_line.parser import build_parser, parse, run
from cloud_hub.datasets.collecting import sql_store
from cloud_hub.datasets.collecting.service import CollectionService
from cloud_hub.datasets.collecting.settings import CollectionSettings
from cloud_hub.datasets.manifest import Part
from shared.clock import now_ms
from shared.errors import TransientError
from shared.ids import DeviceId
from shared.release.digest import digest_of
from shared.wire.device_samples import (
    ITEM_PATH,
    ITEM_REQUEST_BYTES_MAX,
    OFFER_PATH,
    SampleKind,
    Wish,
)
from shared.wire.signed_request import STALE_MS_MAX, TIME_HEADER
from tests.support.api_client import COLLECTION, ApiHub
from tests.support.shape_sources import picture, write_pictures, zipped
from tests.support.sharing_bench import DATASET, GROUP, SharingDevice, item_of, offer_of
from tests.support.small_disk import small_disk
from tests.support.waiting import wait_until

pytestmark = pytest.mark.slow

BASE = f"/api/v1/datasets/{DATASET}/collection"


@pytest.fixture
def hub(empty_hub: ApiHub) -> ApiHub:
    """A hub that takes shapes of the group's devices."""
    answer = empty_hub.client().put(BASE, json={"group": GROUP})
    assert answer.status_code == 200, answer.text
    return empty_hub


def code_of(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["code"]


def arrivals(hub: ApiHub) -> list[Path]:
    folder = hub.state / "arrivals"
    return sorted(p for p in folder.rglob("*") if p.is_file() and p.suffix != ".jsonl")


def waiting(hub: ApiHub) -> int:
    return hub.services.collections.get(DATASET).waiting.items_count


def test_what_is_wanted_is_kept_and_wanted_once(hub: ApiHub) -> None:
    device = SharingDevice.enrol(hub)
    one, two = picture(1), picture(2)
    reply = device.offer(one, two).json()
    assert reply["wish"] == Wish.WANTED
    assert (reply["wanted"], reply["known"]) == ([digest_of(one), digest_of(two)], [])

    answer = device.send(one, label="circle", captured_ms=5, site="hall", group="clip")
    assert answer.json() == {"digest": digest_of(one), "is_new": True}
    (kept,) = arrivals(hub)
    assert (kept.name, kept.read_bytes()) == (digest_of(one), one)
    assert kept.stat().st_mode & 0o077 == 0

    reply = device.offer(one, two).json()
    assert (reply["wanted"], reply["known"]) == ([digest_of(two)], [digest_of(one)])
    again = device.send(one, label="square")
    assert again.json() == {"digest": digest_of(one), "is_new": False}
    other = SharingDevice.enrol(hub).send(one)
    assert other.json()["is_new"] is False
    assert waiting(hub) == 1


def test_a_sent_request_that_is_sent_again_changes_nothing(hub: ApiHub) -> None:
    device = SharingDevice.enrol(hub)
    body = msgspec.msgpack.encode(item_of(picture(1)))
    proof = device.proof(ITEM_PATH, body)
    assert [device.post(ITEM_PATH, body, proof).json()["is_new"] for _ in range(3)] == [
        True, False, False,
    ]  # fmt: skip
    standing = hub.services.collections.get(DATASET)
    assert (standing.collection.arrived_count, standing.waiting.items_count) == (1, 1)
    # Of the day's items only one is spent.
    reply = device.offer(*(picture(n) for n in range(2, 12))).json()
    assert len(reply["wanted"]) == COLLECTION.items_per_device_day_max - 1


def test_only_what_this_device_has_signed_now_is_taken(hub: ApiHub) -> None:
    device, other = SharingDevice.enrol(hub), SharingDevice.enrol(hub)
    body = msgspec.msgpack.encode(item_of(picture(1)))
    good = device.proof(ITEM_PATH, body)
    stranger = SharingDevice(hub, DeviceId("dev-aaaaaaaa"), ec.generate_private_key(ec.SECP256R1()))
    refused: list[tuple[Any, bytes, tuple[int, str]]] = [
        (other.proof(ITEM_PATH, body), body, (422, "request.signature")),
        (good, body + b"\0", (422, "request.signature")),
        (device.proof(OFFER_PATH, body), body, (422, "request.signature")),
        (device.proof(ITEM_PATH, body, method="PUT"), body, (422, "request.signature")),
        (stranger.proof(ITEM_PATH, body), body, (404, "device.unknown")),
        (device.proof(ITEM_PATH, body, late_ms=-STALE_MS_MAX - 1), body, (409, "request.stale")),
        (device.proof(ITEM_PATH, body, late_ms=STALE_MS_MAX + 1), body, (409, "request.stale")),
    ]
    for proof, sent, expected in refused:
        named = msgspec.structs.replace(proof, device=proof.device)
        if proof is refused[0][0]:  # Signed by another device in this one's name
            named = msgspec.structs.replace(proof, device=device.device_id)
        answer = device.post(ITEM_PATH, sent, named)
        assert code_of(answer) == expected
        assert answer.headers[TIME_HEADER] == str(now_ms(hub.clock))
    unsigned = hub.client(token=None).post(ITEM_PATH, content=body)
    assert code_of(unsigned) == (400, "request.unsigned")
    operator = hub.client().post(ITEM_PATH, content=body)  # A token is no device's signature.
    assert code_of(operator) == (400, "request.unsigned")
    assert arrivals(hub) == []
    assert device.post(ITEM_PATH, body, good).json()["is_new"] is True


def test_whoever_fails_too_often_must_wait_but_not_for_a_wrong_clock(hub: ApiHub) -> None:
    device = SharingDevice.enrol(hub)
    body = msgspec.json.encode(offer_of(picture(1)))
    for _ in range(FAILURES_MAX + 1):
        late = device.proof(OFFER_PATH, body, late_ms=-2 * STALE_MS_MAX)
        assert code_of(device.post(OFFER_PATH, body, late)) == (409, "request.stale")
    forged = msgspec.structs.replace(device.proof(OFFER_PATH, body), nonce="0" * 16)
    for _ in range(FAILURES_MAX):
        assert device.post(OFFER_PATH, body, forged).status_code == 422
    assert code_of(device.post(OFFER_PATH, body)) == (429, "samples.too_many_failures")
    hub.clock.advance(WINDOW_S + 1)
    assert device.post(OFFER_PATH, body).status_code == 200


def test_a_revoked_device_is_refused_at_once(hub: ApiHub) -> None:
    device = SharingDevice.enrol(hub)
    assert device.send(picture(1)).status_code == 200
    hub.services.devices.revoke(device.device_id)
    assert code_of(device.send(picture(2))) == (409, "device.revoked")
    assert code_of(device.offer(picture(2))) == (409, "device.revoked")
    assert waiting(hub) == 1


def test_what_nobody_opened_is_not_wanted(empty_hub: ApiHub) -> None:
    hub = empty_hub
    device, outsider = SharingDevice.enrol(hub), SharingDevice.enrol(hub, groups=("south",))
    assert device.offer(picture(1)).json()["wish"] == Wish.NOT_WANTED
    assert code_of(device.send(picture(1))) == (409, "samples.not_wanted")

    http = hub.client()
    assert http.get(BASE).status_code == 404
    assert http.put(BASE, json={"group": GROUP}).status_code == 200
    assert device.offer(picture(1)).json()["wish"] == Wish.WANTED
    reply = outsider.offer(picture(1)).json()
    assert (reply["wish"], reply["wanted"]) == (Wish.NOT_WANTED, [])
    assert reply["retry_s"] == CollectionSettings().not_wanted_s
    assert code_of(outsider.send(picture(1))) == (409, "samples.not_wanted")

    assert http.delete(BASE).json()["is_open"] is False
    assert device.offer(picture(1)).json()["wish"] == Wish.NOT_WANTED
    assert code_of(device.send(picture(1))) == (409, "samples.not_wanted")
    assert arrivals(hub) == []
    actions = [entry.action for entry in hub.services.audit.entries(limit=10)]
    assert actions[:2] == ["dataset.collect_stop", "dataset.collect"]


def test_limits_of_a_day_and_of_the_collection(hub: ApiHub) -> None:
    device, most = SharingDevice.enrol(hub), COLLECTION.items_per_device_day_max
    for number in range(most):
        assert device.send(picture(number)).status_code == 200
    reply = device.offer(picture(99)).json()
    assert (reply["wish"], reply["wanted"]) == (Wish.DAY_FULL, [])
    assert 0 < reply["retry_s"] <= 86_400
    assert code_of(device.send(picture(99))) == (409, "samples.day_full")
    assert len(arrivals(hub)) == most  # What was refused is not left lying.
    hub.clock.advance(reply["retry_s"] + 1)
    assert device.send(picture(99)).json()["is_new"] is True

    hub.client().put(BASE, json={"group": GROUP, "items_max": most + 1})
    other = SharingDevice.enrol(hub)
    reply = other.offer(picture(0), picture(100)).json()
    assert (reply["wish"], reply["known"]) == (Wish.HUB_FULL, [digest_of(picture(0))])
    assert other.offer(picture(0)).json()["wish"] == Wish.WANTED  # Nothing of it is new.
    assert code_of(other.send(picture(100))) == (409, "collection.full")
    large = bytes((1 << 20) + 1)
    hub.client().put(BASE, json={"group": GROUP, "items_max": 100})
    assert other.offer(large).json()["wish"] == Wish.DAY_FULL
    assert other.offer(large, picture(100)).json()["wanted"] == [digest_of(picture(100))]
    assert code_of(other.send(large)) == (409, "samples.day_full")


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"digest": "0" * 64}, (422, "samples.digest")),
        ({"kind": SampleKind.WINDOW, "window_shape": (3, 3)}, (400, "samples.shape")),
        ({"window_shape": (3, 3)}, (400, "samples.shape")),
        ({"label": "x" * 121}, (400, "request.invalid")),
        ({"dataset": "../hub"}, (400, "request.invalid")),
        ({"data": b""}, (400, "request.invalid")),
    ],
)
def test_what_makes_no_sense_is_refused(
    hub: ApiHub, changes: dict[str, Any], expected: tuple[int, str]
) -> None:
    device = SharingDevice.enrol(hub)
    assert code_of(device.send(picture(1), **changes)) == expected
    assert arrivals(hub) == []


def test_bodies_are_bounded_and_of_one_kind(hub: ApiHub) -> None:
    device = SharingDevice.enrol(hub)
    for body in (b"", b"\xff" * 10, b"null", b"[" * 5000, msgspec.msgpack.encode({"a": 1})):
        assert code_of(device.post(ITEM_PATH, body)) == (400, "request.invalid")
        assert code_of(device.post(OFFER_PATH, body)) == (400, "request.invalid")
    huge = bytes(ITEM_REQUEST_BYTES_MAX + 1)
    assert code_of(device.post(ITEM_PATH, huge)) == (413, "limit.body")
    assert device.send(picture(1)).status_code == 200
    window = np.ones((4, 2), "<f4").tobytes()
    answer = device.send(window, kind=SampleKind.WINDOW, window_shape=(4, 2))
    assert code_of(answer) == (409, "collection.kind")


def test_only_so_many_samples_are_in_memory_at_once(hub: ApiHub) -> None:
    device, address = SharingDevice.enrol(hub), urlsplit(hub.url)
    head = f"POST {ITEM_PATH} HTTP/1.1\r\nHost: hub\r\nContent-Length: 1000\r\n\r\nx"
    slow = [
        socket.create_connection((address.hostname or "", address.port or 0), timeout=10)
        for _ in range(2 * SAMPLES_MAX)
    ]
    try:
        for stream in slow:
            stream.sendall(head.encode())

        def is_refused() -> bool:
            answer = device.send(picture(1))
            return (answer.status_code, answer.json().get("code")) == (503, "limit.samples")

        wait_until(is_refused)
        assert device.offer(picture(1)).status_code == 200  # Everything else goes on.
    finally:
        for stream in slow:
            stream.close()
    wait_until(lambda: not is_refused())


def test_the_dataset_says_what_may_come(hub: ApiHub, tmp_path: Path) -> None:
    pictures = zipped(write_pictures(tmp_path / "s"), tmp_path / "s.zip")
    hub.services.datasets.import_file("views", pictures, by="anna")
    found = hub.services.collections.collect("views", group=GROUP, by="anna")
    assert found.kind is SampleKind.IMAGE
    device = SharingDevice.enrol(hub)
    window = np.ones((4, 2), "<f4").tobytes()
    shape = {"kind": SampleKind.WINDOW, "window_shape": (4, 2)}
    assert code_of(device.send(window, dataset="views", **shape)) == (409, "collection.kind")
    # A picture that a version has already is a duplicate of the import's, and harmless.
    assert device.send(picture(0), dataset="views").status_code == 200


def test_arrivals_become_a_version_in_which_no_device_is_split(hub: ApiHub) -> None:
    devices = [SharingDevice.enrol(hub) for _ in range(4)]
    for number, device in enumerate(devices):
        for index in range(5):
            label = "circle" if index % 2 else None
            data = picture(10 * number + index)
            assert device.send(data, label=label, site="hall", group="clip").status_code == 200
    assert devices[0].send(b"no picture at all").status_code == 200
    assert len(arrivals(hub)) == 21

    http = hub.client()
    rule = {"train": 0.5, "validation": 0.25, "test": 0.25}
    made = http.post(f"{BASE}/version", json={"rule": rule}, timeout=60)
    assert made.status_code == 200, made.text
    assert (made.json()["added_count"], made.json()["broken_count"]) == (20, 1)
    assert (made.json()["layout"], arrivals(hub)) == ("arrivals", [])

    version = hub.services.datasets.version(DATASET)
    manifest = hub.services.datasets.manifest(version)
    parts = {device.device_id: set[Part]() for device in devices}
    for item in manifest.items:
        parts[DeviceId(item.device)].add(item.part)
        assert (item.site, item.group) == ("hall", f"{item.device}/clip")
    assert all(len(found) == 1 for found in parts.values())
    assert {part for found in parts.values() for part in found} == set(Part)
    assert version.labelled_count == 8
    data = hub.services.datasets.item_bytes(manifest, 0)
    assert digest_of(data) == manifest.items[0].digest
    report = hub.services.datasets.report(version)
    assert report is not None
    assert report.broken_count == 1

    # What a version has is not wanted again; what comes later is added.
    assert devices[0].offer(picture(0)).json()["known"] == [digest_of(picture(0))]
    assert code_of(http.post(f"{BASE}/version", json={})) == (409, "collection.empty")
    hub.clock.advance(86_400)
    assert devices[1].send(picture(500)).status_code == 200
    again = http.post(f"{BASE}/version", json={}, timeout=60).json()
    assert (again["added_count"], again["version"]["items_count"]) == (1, 21)
    assert again["version"]["parent"] == 1


def test_windows_and_texts_become_versions_too(hub: ApiHub) -> None:
    devices = [SharingDevice.enrol(hub) for _ in range(3)]
    for name in ("shaft", "notes"):
        hub.services.collections.collect(name, group=GROUP, by="anna")
    for number, device in enumerate(devices):
        window = np.full((4, 2), number, "<f4").tobytes()
        shape = {"kind": SampleKind.WINDOW, "window_shape": (4, 2)}
        assert device.send(window, dataset="shaft", **shape).status_code == 200
        text = f"note {number}".encode()
        assert device.send(text, dataset="notes", kind=SampleKind.TEXT).status_code == 200
    for name, shape_of_all in (("shaft", (4, 2)), ("notes", ())):
        made = hub.services.collections.make_version(name, by="anna")
        manifest = hub.services.datasets.manifest(made.version)
        assert (len(manifest.items), manifest.window_shape) == (3, shape_of_all)


def test_what_was_killed_while_a_version_was_made_is_done_again(hub: ApiHub) -> None:
    for number in range(3):
        assert SharingDevice.enrol(hub).send(picture(number)).status_code == 200
    services = hub.services
    # The version is made, and then the hub dies before it says which arrivals it has.
    shutil.copytree(hub.state / "arrivals", hub.state / "before")
    first = services.collections.make_version(DATASET, by="anna").version
    shutil.rmtree(hub.state / "arrivals")
    (hub.state / "before").rename(hub.state / "arrivals")
    with hub.database.begin() as connection:
        connection.execute(sql_store.arrivals.update().values(version=None))
    later = CollectionService(
        hub.database,
        services.devices,
        services.datasets,
        hub.clock,
        COLLECTION,
        folder=hub.state / "arrivals",
    )
    later.open()
    assert later.get(DATASET).waiting.items_count == 3
    again = later.make_version(DATASET, by="anna")
    assert (again.version.version, again.added_count) == (first.version, 0)
    assert later.get(DATASET).waiting.items_count == 0
    assert arrivals(hub) == []


def test_what_a_killed_hub_left_is_removed_and_what_it_acknowledged_stays(hub: ApiHub) -> None:
    assert SharingDevice.enrol(hub).send(picture(1)).status_code == 200
    (kept,) = arrivals(hub)
    orphan = kept.with_name("f" * 64)
    orphan.write_bytes(b"on the disk, never acknowledged")
    kept.with_name(f".{kept.name}.1234.tmp").write_bytes(b"half")
    hub.services.collections.open()
    assert arrivals(hub) == [kept]
    assert hub.services.collections.discard(DATASET) == 1
    assert arrivals(hub) == []
    assert waiting(hub) == 0


def test_a_full_disk_is_said_and_passes(hub: ApiHub, tmp_path: Path) -> None:
    services = hub.services
    with small_disk(tmp_path / "small", size_bytes=2 << 20) as disk:
        own = CollectionService(
            hub.database,
            services.devices,
            services.datasets,
            hub.clock,
            CollectionSettings(free_bytes_min=1 << 16),
            folder=disk.folder / "arrivals",
        )
        own.open()
        device = SharingDevice.enrol(hub).device_id
        assert own.take(device, item_of(picture(1))).is_new
        disk.fill()
        assert own.offer(device, offer_of(picture(2))).wish is Wish.HUB_FULL
        with pytest.raises(TransientError) as caught:
            own.take(device, item_of(picture(2)))
        assert caught.value.code == "collection.disk_full"
        assert own.get(DATASET).waiting.items_count == 1
        disk.empty()
        assert own.offer(device, offer_of(picture(2))).wish is Wish.WANTED
        assert own.take(device, item_of(picture(2))).is_new


def command(hub: ApiHub, *words: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    code = run(parse(build_parser(), [*words, "--hub", hub.url, "--state", str(hub.state)]))
    return code, capsys.readouterr().out


def test_people_do_it_on_the_command_line(hub: ApiHub, capsys: pytest.CaptureFixture[str]) -> None:
    hub.services.collections.discard(DATASET)
    code, text = command(
        hub, "datasets", "collect", DATASET, "--group", GROUP, "--items-max", "50", capsys=capsys
    )
    assert (code, "[sharing]" in text) == (0, True)
    devices = [SharingDevice.enrol(hub) for _ in range(3)]
    for number, device in enumerate(devices):
        device.send(picture(number))
    _, text = command(hub, "datasets", "collect", DATASET, capsys=capsys)
    assert "3 of at most 50" in text
    assert all(device.device_id in text for device in devices)
    _, text = command(hub, "datasets", "collections", capsys=capsys)
    assert GROUP in text
    code, text = command(
        hub, "datasets", "collect", DATASET, "--make-version", "--json", capsys=capsys
    )
    assert (code, json.loads(text.splitlines()[-1])["added_count"]) == (0, 3)
    code, text = command(hub, "datasets", "collect", DATASET, "--stop", "--discard", capsys=capsys)
    assert (code, "nobody now" in text) == (0, True)
    code, _ = command(hub, "datasets", "collect", DATASET, "--discard", capsys=capsys)
    assert code != 0
