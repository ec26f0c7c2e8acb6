"""The part of the agent that sends samples, with the hub's own services on the other side."""

import dataclasses
import json
import os
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import msgspec
import numpy as np
import pytest

from cloud_hub.datasets.collecting.service import CollectionService
from edge_agent.command_line.sharing_view import look_at_sharing, sharing_lines, view_sharing
from edge_agent.config import AgentConfig
from edge_agent.sharing.building import items_of
from edge_agent.sharing.file_ledger import LINE_BYTES_MAX, KeptLine, SentLine, SharingLedger
from edge_agent.sharing.http_sharing import HttpSharing
from edge_agent.sharing.local_item import LocalItem
from edge_agent.sharing.settings import SharingSettings
from edge_agent.sharing.standing import EntryState
from edge_agent.training.eligibility import METERED
from edge_agent.training.settings import SampleFormat
from edge_agent.uplink.file_identity import FileIdentity, HubRecord, make_csr
from shared.errors import IntegrityError, RefusedError, TransientError
from shared.findings import Level
from shared.ids import DeviceId
from shared.release.digest import digest_of
from shared.settings import parse_toml
from shared.wire.device_samples import (
    ItemReply,
    OfferReply,
    SampleKind,
    SampleOffer,
    SharedItem,
    Wish,
)
from tests.support.api_client import ApiHub
from tests.support.https_server import serve_https
from tests.support.manual_clock import ManualClock
from tests.support.shape_sources import picture, write_pictures
from tests.support.sharing_bench import (
    DATASET,
    GROUP,
    SharerBench,
    SharingDevice,
    item_of,
    offer_of,
    share,
)
from tests.support.small_disk import small_disk

pytestmark = pytest.mark.slow

LATER_S = 3600.0
STOP = threading.Event()
PIPELINE = b"""
[[pipelines]]
name = "p"
model = "m"
source = {kind = "csv", path = "x.csv", columns = ["a"], window = {samples = 4}}
"""


@dataclass
class HubAtHand:
    """The hub's service without the way there; it can be down, or die once it has an item."""

    service: CollectionService
    device: DeviceId
    is_down: bool = False
    dies_after: set[int] = field(default_factory=set)  # Numbers of items, whose answer is lost
    sent: list[SharedItem] = field(default_factory=list)
    offers: list[SampleOffer] = field(default_factory=list)

    def offer(self, offer: SampleOffer, stop: threading.Event) -> OfferReply:
        self._reach(stop)
        self.offers.append(offer)
        return self.service.offer(self.device, offer)

    def send(self, item: SharedItem, stop: threading.Event) -> ItemReply:
        self._reach(stop)
        self.sent.append(item)
        reply = self.service.take(self.device, item)
        if len(self.sent) in self.dies_after:
            raise TransientError("enrolment.hub_unreachable", "The connection ended.")
        return reply

    def _reach(self, stop: threading.Event) -> None:
        if self.is_down or stop.is_set():
            raise TransientError("enrolment.hub_unreachable", "No hub answers.")


@pytest.fixture
def hub(empty_hub: ApiHub) -> HubAtHand:
    collections = empty_hub.services.collections
    collections.collect(DATASET, group=GROUP, by="anna")
    return HubAtHand(collections, SharingDevice.enrol(empty_hub).device_id)


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Four pictures, two of each class, an hour old."""
    return old(write_pictures(tmp_path / "samples", count=2))


def old(path: Path) -> Path:
    for file in [path, *path.rglob("*")]:
        os.utime(file, (1_600_000_000, 1_600_000_000))
    return path


def bench(tmp_path: Path, hub: HubAtHand, *entries: Any, **changes: Any) -> SharerBench:
    settings = SharingSettings(samples=entries, **changes)
    return SharerBench(tmp_path / "state", settings, hub, ManualClock())


def test_what_the_owner_shares_arrives_as_it_is_and_once(
    tmp_path: Path, hub: HubAtHand, pictures: Path
) -> None:
    own = bench(tmp_path, hub, share(pictures))
    own.sharer.step(STOP)
    files = {digest_of(file.read_bytes()) for file in pictures.rglob("*.png")}
    assert {item.digest for item in hub.sent} == files
    assert len(hub.sent) == 4
    told = {(item.label, item.captured_ms, item.site, item.group) for item in hub.sent}
    assert told == {(None, None, "", "")}
    assert own.places[0].state is EntryState.DONE
    own.sharer.step(STOP)
    assert (len(hub.sent), len(hub.offers)) == (4, 1)
    sent = [line for line in own.ledger.lines() if isinstance(line, SentLine)]
    assert {line.digest for line in sent} == files

    (pictures / "circle" / "new.png").write_bytes(picture(77))
    old(pictures)
    own.sharer.step(STOP)
    assert [item.digest for item in hub.sent[4:]] == [digest_of(picture(77))]


def test_labels_times_and_the_site_are_told_only_where_the_owner_says_so(
    tmp_path: Path, hub: HubAtHand, pictures: Path
) -> None:
    entry = share(pictures, with_labels=True, with_times=True, site="hall")
    bench(tmp_path, hub, entry).sharer.step(STOP)
    told = {(item.label, item.captured_ms, item.site) for item in hub.sent}
    assert told == {(name, 1_600_000_000_000, "hall") for name in ("circle", "square")}


def test_only_pictures_of_the_folder_itself_leave(
    tmp_path: Path, hub: HubAtHand, pictures: Path
) -> None:
    secret = tmp_path / "secret.png"
    secret.write_bytes(picture(5))
    (pictures / "circle" / "link.png").symlink_to(secret)
    (pictures / "elsewhere").symlink_to(tmp_path, target_is_directory=True)
    (pictures / "circle" / "notes.txt").write_text("not a picture")
    (pictures / "circle" / "key.png").write_text("-----BEGIN PRIVATE KEY-----")
    (pictures / "circle" / "deeper").mkdir()
    (pictures / "circle" / "deeper" / "x.png").write_bytes(picture(6))
    old(pictures)
    (pictures / "square" / "fresh.png").write_bytes(picture(7)[:50])
    own = bench(tmp_path, hub, share(pictures))
    now = (pictures / "square" / "fresh.png").stat().st_mtime
    own.clock.jump(now + 1.0 - own.clock.now_s())  # type: ignore[attr-defined]  # A ManualClock
    own.sharer.step(STOP)
    names = [Path("circle/0000.png"), Path("circle/0001.png")]
    names += [Path("square/0000.png"), Path("square/0001.png")]
    expected = {digest_of((pictures / name).read_bytes()) for name in names}
    assert {item.digest for item in hub.sent} == expected


def test_the_day_is_spent_and_comes_again_also_after_a_restart(
    tmp_path: Path, hub: HubAtHand, pictures: Path
) -> None:
    own = bench(tmp_path, hub, share(pictures), items_per_day_max=3)
    own.sharer.step(STOP)
    assert len(hub.sent) == 3
    assert own.places[0].code == "sharing.day_spent"
    again = bench(tmp_path, hub, share(pictures), items_per_day_max=3)
    again.sharer.step(STOP)
    assert len(hub.sent) == 3
    again.clock.jump(-40 * 86_400.0)  # type: ignore[attr-defined]  # A ManualClock
    again.sharer.step(STOP)
    assert len(hub.sent) == 3
    again.clock.jump(41 * 86_400.0 + 1)  # type: ignore[attr-defined]
    again.clock.advance(LATER_S)  # type: ignore[attr-defined]
    again.sharer.step(STOP)
    assert len(hub.sent) == 4
    assert len({item.digest for item in hub.sent}) == 4


def test_bytes_of_a_day_and_of_an_item_are_limits_too(
    tmp_path: Path, hub: HubAtHand, pictures: Path
) -> None:
    (pictures / "large.png").write_bytes(picture(9, side=64))
    old(pictures)
    sizes = [file.stat().st_size for file in pictures.rglob("[0-9]*.png")]
    own = bench(
        tmp_path,
        hub,
        share(pictures),
        bytes_per_day_max=sum(sizes) - 1,
        item_bytes_max=max(sizes),
    )
    own.sharer.step(STOP)
    assert len(hub.sent) == 3
    assert own.places[0].left_out_count == 1
    assert sum(len(item.data) for item in hub.sent) < sum(sizes)


def test_an_item_whose_answer_was_lost_is_not_sent_again(
    tmp_path: Path, hub: HubAtHand, pictures: Path
) -> None:
    hub.dies_after = {2}
    own = bench(tmp_path, hub, share(pictures))
    assert own.sharer.step(STOP) > 0
    assert (len(hub.sent), own.places[0].state) == (2, EntryState.WAITING)
    own.sharer.step(STOP)
    assert len(hub.sent) == 4
    assert len({item.digest for item in hub.sent}) == 4


def test_a_line_is_on_the_disk_before_its_item_leaves(
    tmp_path: Path, hub: HubAtHand, pictures: Path
) -> None:
    own = bench(tmp_path, hub, share(pictures))
    seen: list[bool] = []

    class Watching(HubAtHand):
        def send(self, item: SharedItem, stop: threading.Event) -> ItemReply:
            lines = SharingLedger(tmp_path / "state" / "sharing").sendings()
            seen.append(lines[-1].digest == item.digest)
            return super().send(item, stop)

    watching = Watching(hub.service, hub.device)
    SharerBench(own.state, own.settings, watching, own.clock).sharer.step(STOP)
    assert seen == [True] * 4


def test_without_room_for_the_line_nothing_leaves(
    tmp_path: Path, hub: HubAtHand, pictures: Path
) -> None:
    with small_disk(tmp_path / "small", size_bytes=1 << 20) as disk:
        settings = SharingSettings(samples=(share(pictures),))
        own = SharerBench(disk.folder / "state", settings, hub, ManualClock())
        own.ledger.open()
        disk.fill()
        own.sharer.step(STOP)
        assert hub.sent == []
        assert own.places[0].code == "disk.write_failed"
        disk.empty()
        own.sharer.step(STOP)
        assert len(hub.sent) == 4


def test_a_hub_that_wants_nothing_is_left_in_peace(
    tmp_path: Path, hub: HubAtHand, pictures: Path
) -> None:
    hub.service.stop(DATASET)
    own = bench(tmp_path, hub, share(pictures))
    own.sharer.step(STOP)
    own.sharer.step(STOP)
    place = own.places[0]
    assert (hub.sent, len(hub.offers)) == ([], 1)
    assert place.state is EntryState.NOT_WANTED
    wait_s = place.not_before_s - own.clock.monotonic_s()
    assert 6 * 3600.0 <= wait_s <= 9 * 3600.0
    hub.service.collect(DATASET, group=GROUP, by="anna")
    own.clock.advance(wait_s)  # type: ignore[attr-defined]  # A ManualClock
    own.sharer.step(STOP)
    assert len(hub.sent) == 4


def test_a_hub_that_is_down_is_asked_again_later_and_later(
    tmp_path: Path, hub: HubAtHand, pictures: Path
) -> None:
    hub.is_down = True
    own = bench(tmp_path, hub, share(pictures))
    waits = [own.sharer.step(STOP) for _ in range(12)]
    assert waits[0] <= 5.0
    assert max(waits) <= 900.0
    assert waits[-1] > 400.0
    hub.is_down = False
    own.sharer.step(STOP)
    assert len(hub.sent) == 4


def test_the_policy_is_asked_before_anything_leaves(
    tmp_path: Path, hub: HubAtHand, pictures: Path
) -> None:
    own = bench(tmp_path, hub, share(pictures))
    own.conditions.append(dataclasses.replace(own.conditions[0], is_metered=True))
    own.sharer.step(STOP)
    assert (hub.sent, hub.offers, own.places[0].code) == ([], [], METERED)
    own.conditions.append(own.conditions[0])
    own.clock.advance(60.0)  # type: ignore[attr-defined]  # A ManualClock
    own.sharer.step(STOP)
    assert len(hub.sent) == 4


def test_stopping_ends_it_between_two_items(tmp_path: Path, hub: HubAtHand, pictures: Path) -> None:
    stop = threading.Event()

    class Stopping(HubAtHand):
        def send(self, item: SharedItem, stop: threading.Event) -> ItemReply:
            reply = super().send(item, stop)
            stop.set()
            return reply

    stopping = Stopping(hub.service, hub.device)
    settings = SharingSettings(samples=(share(pictures),))
    SharerBench(tmp_path / "state", settings, stopping, ManualClock()).sharer.step(stop)
    assert len(stopping.sent) == 1


def test_one_broken_place_holds_up_no_other(tmp_path: Path, hub: HubAtHand, pictures: Path) -> None:
    own = bench(tmp_path, hub, share(tmp_path / "nothing"), share(pictures))
    own.sharer.step(STOP)
    assert [place.code for place in own.places] == ["samples.missing", ""]
    assert len(hub.sent) == 4


def test_a_damaged_ledger_stops_it_and_a_torn_last_line_does_not(
    tmp_path: Path, hub: HubAtHand, pictures: Path
) -> None:
    own = bench(tmp_path, hub, share(pictures), items_per_day_max=2)
    own.sharer.step(STOP)
    whole = own.ledger.path.read_bytes()
    own.ledger.path.write_bytes(whole + b'{"type":"sent","at_ms":1')
    later = bench(tmp_path, hub, share(pictures), items_per_day_max=3)
    later.sharer.step(STOP)
    assert len(hub.sent) == 3
    assert own.ledger.path.read_bytes().startswith(whole)
    assert len(list(own.ledger.lines())) == 6

    own.ledger.path.write_bytes(b"{}\n" + whole)
    last = bench(tmp_path, hub, share(pictures))
    last.sharer.step(STOP)
    assert (len(hub.sent), last.places[0].code) == (3, "sharing.ledger")
    with pytest.raises(IntegrityError, match="line 1"):
        list(own.ledger.lines())


def test_the_ledger_is_bounded_and_keeps_what_is_newest(tmp_path: Path) -> None:
    ledger = SharingLedger(tmp_path / "sharing", file_bytes_max=2000)
    ledger.open()
    for number in range(100):
        digest = f"{number:064x}"
        ledger.append(SentLine(at_ms=number, digest=digest, bytes_count=1, dataset="d"))
        ledger.append(KeptLine(at_ms=number, digest=digest, dataset="d"))
    sizes = [file.stat().st_size for file in (tmp_path / "sharing").iterdir()]
    assert len(sizes) == 2
    assert max(sizes) <= 2000 + LINE_BYTES_MAX
    assert ledger.sendings()[-1].at_ms == 99
    assert len(ledger.sendings()) > 5
    assert oct(ledger.path.stat().st_mode & 0o777) == "0o600"


def rows_of(path: Path, done: frozenset[int] = frozenset(), **changes: Any) -> list[LocalItem]:
    entry = share(path, format=SampleFormat.NPZ, **changes)
    return list(items_of(entry).items(done, now_s=0.0))


def test_rows_of_arrays_become_pictures_windows_and_texts(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    gray = random.integers(0, 256, (3, 5, 4), dtype=np.uint8)
    np.savez(tmp_path / "a.npz", items=gray, labels=np.array([0, 1, 0]))
    found = rows_of(tmp_path / "a.npz")
    assert [item.label for item in found] == ["0", "1", "0"]
    for item, pixels in zip(found, gray, strict=True):
        decoded = cv2.imdecode(np.frombuffer(item.data, np.uint8), cv2.IMREAD_UNCHANGED)
        assert np.array_equal(decoded, pixels)
        assert item.digest == digest_of(item.data)
    named = rows_of(tmp_path / "a.npz", classes=("cat", "dog"))
    assert [item.label for item in named] == ["cat", "dog", "cat"]
    assert len(rows_of(tmp_path / "a.npz", frozenset({found[0].key}))) == 2

    windows = random.normal(size=(2, 4, 3))
    np.savez_compressed(tmp_path / "w.npz", items=windows)
    item = rows_of(tmp_path / "w.npz")[1]
    assert (item.kind, item.window_shape, item.label) == (SampleKind.WINDOW, (4, 3), None)
    assert item.data == windows[1].astype("<f4").tobytes()

    texts = np.zeros((1, 9), np.uint8)
    texts[0, :5] = np.frombuffer(b"hello", np.uint8)
    np.savez(tmp_path / "t.npz", items=texts)
    (item,) = rows_of(tmp_path / "t.npz")
    assert (item.kind, item.data) == (SampleKind.TEXT, b"hello")


@pytest.mark.parametrize(
    "arrays",
    [
        {"labels": np.zeros(3, int)},
        {"items": np.zeros((3, 5), float)},
        {"items": np.array([object()])},
        {"items": np.zeros((2, 4, 4), np.uint8), "labels": np.zeros(3, int)},
        {"items": np.zeros((2, 4, 4), np.uint8), "labels": np.zeros(2)},
    ],
)
def test_arrays_that_are_no_samples_are_refused(tmp_path: Path, arrays: dict[str, Any]) -> None:
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(RefusedError) as caught:
        rows_of(tmp_path / "a.npz")
    assert caught.value.code == "samples.invalid"
    (tmp_path / "b.npz").write_bytes(b"PK\x03\x04 no archive")
    with pytest.raises(RefusedError):
        rows_of(tmp_path / "b.npz")


@dataclass
class Served:
    """A hub over HTTPS, and the way there as a device has it."""

    hub: ApiHub
    identity: FileIdentity
    device: DeviceId


@pytest.fixture
def served(empty_hub: ApiHub, tmp_path: Path) -> Iterator[Served]:
    services, pki = empty_hub.services, empty_hub.state / "pki"
    services.collections.collect(DATASET, group=GROUP, by="anna")
    identity = FileIdentity(tmp_path / "identity")
    token = services.devices.create_token(groups=(GROUP,), ttl_s=600)
    enrolment = services.devices.enrol(token.text, make_csr(identity.key_for_joining()))
    with serve_https(empty_hub.app, certificate=pki / "server.crt", key=pki / "server.key") as port:
        record = HubRecord(
            device_id=enrolment.device_id,
            url=f"https://localhost:{port}",
            broker_host="localhost",
            broker_port=1,
            ca_fingerprint=services.hub.ca_fingerprint,
        )
        identity.install(
            record,
            certificate_pem=enrolment.certificate_pem,
            ca_pem=services.enrolment.ca_pem,
            root=b"root",
        )
        yield Served(empty_hub, identity, enrolment.device_id)


def test_over_the_wire_with_a_clock_that_is_wrong(served: Served) -> None:
    clock = ManualClock(now_s=served.hub.clock.now_s() - 40 * 86_400.0)
    way = HttpSharing(served.identity, clock)
    large = bytes(3 << 20)
    assert way.offer(offer_of(picture(1)), STOP).wish is Wish.WANTED
    assert way.send(item_of(picture(1)), STOP).is_new
    assert not way.send(item_of(picture(1)), STOP).is_new
    with pytest.raises(RefusedError) as caught:  # Over the day's bytes of this hub
        way.send(item_of(large), STOP)
    assert caught.value.code == "samples.day_full"
    served.hub.services.devices.revoke(served.device)
    with pytest.raises(RefusedError) as caught:
        way.send(item_of(picture(2)), STOP)
    assert caught.value.code == "device.revoked"
    assert clock.now_s() == served.hub.clock.now_s() - 40 * 86_400.0


def test_what_is_no_hub_is_tried_again_and_a_stop_ends_a_request(
    served: Served, tmp_path: Path
) -> None:
    way = HttpSharing(served.identity, ManualClock())
    stop = threading.Event()
    stop.set()
    with pytest.raises(TransientError) as caught:
        way.send(item_of(picture(1)), stop)
    assert caught.value.code == "sharing.stopped"
    with socket.create_server(("127.0.0.1", 0)) as plain:  # Takes connections, never answers
        record = tmp_path / "identity" / "hub.json"
        port = plain.getsockname()[1]
        told = json.loads(record.read_text()) | {"url": f"https://localhost:{port}"}
        record.write_text(json.dumps(told))
        answering = threading.Thread(target=hang_up, args=(plain,))
        answering.start()
        with pytest.raises(TransientError):
            way.offer(offer_of(picture(1)), STOP)
        answering.join()


def hang_up(server: socket.socket) -> None:
    connection, _ = server.accept()
    with connection:
        connection.recv(64)
        connection.sendall(b"this is no TLS")


def test_owner_and_doctor_are_told_what_leaves(
    tmp_path: Path, hub: HubAtHand, pictures: Path
) -> None:
    config = parse_toml(PIPELINE, AgentConfig, name="agent")
    (finding,) = look_at_sharing(config, tmp_path / "state", ManualClock())
    assert (finding.level, "no [sharing]" in finding.text) == (Level.GOOD, True)
    with pytest.raises(RefusedError) as caught:
        view_sharing(config, tmp_path / "state", ManualClock())
    assert caught.value.code == "sharing.absent"

    entry = share(pictures, with_labels=True, model="m", site="hall")
    own = bench(tmp_path, hub, entry, share(tmp_path / "none"), items_per_day_max=10)
    own.sharer.step(STOP)
    own.sharer.tell()
    sharing = msgspec.structs.replace(config, sharing=own.settings)
    view = view_sharing(sharing, own.state, own.clock, last=2)
    assert (view.sent_count, view.left_count, len(view.last)) == (4, 6, 2)
    text = "\n".join(sharing_lines(view))
    assert f"samples of m in {pictures} leave for the dataset shapes, with labels" in text
    assert "6 of 10 samples" in text
    assert "the hub has all of it; 4 sent" in text
    assert view.last[-1].digest in text
    assert json.loads(msgspec.json.encode(view))["sent_count"] == 4
    missing, good = look_at_sharing(sharing, own.state, own.clock)
    assert (missing.level, good.level) == (Level.WARNING, Level.GOOD)
    assert "left today: 6 samples" in good.text
