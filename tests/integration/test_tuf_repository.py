"""The signed repository: made, published to, cut off at every write, rotated, mended."""

import contextlib
import stat
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cloud_hub.object_store import ObjectStore
from cloud_hub.releases.service import ReleaseService
from cloud_hub.releases.tuf_keys import KeyFolder
from cloud_hub.releases.tuf_reader import TufReader
from cloud_hub.releases.tuf_repository import (
    VERSIONS_KEPT,
    RepositorySettings,
    TufRepository,
)
from cloud_hub.sql_database import Database
from edge_agent.updates.tuf_verifier import TrustedTargets
from shared.errors import IntegrityError, RefusedError, UnavailableError
from tests.support.cutting_store import CuttingStore, PowerCutError
from tests.support.manual_clock import ManualClock
from tests.support.release_hub import TestDevice, make_device, open_hub
from tests.support.repository_peer import RepositoryPeer

FILES = {f"releases/digits/1/{name}": name.encode() for name in ("a", "b", "manifest.json")}
DAY_S = 86_400
PUTS_OF_FIRST_START = 5
PUTS_OF_PUBLISH = 6
PUTS_OF_ONLINE_ROTATION = 10


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(time.time())


@pytest.fixture
def hub(tmp_path: Path, migrated_sqlite_file: Path, clock: ManualClock) -> Iterator[ReleaseService]:
    database = Database(f"sqlite:///{migrated_sqlite_file}")
    yield open_hub(tmp_path, database, clock=clock)
    database.close()


@pytest.fixture
def device(hub: ReleaseService, tmp_path: Path) -> TestDevice:
    return make_device(tmp_path / "device", RepositoryPeer(hub))


def repository(folder: Path, clock: ManualClock, store: ObjectStore | None = None) -> TufRepository:
    """Return the repository of a state folder, as another start of the hub would have it."""
    store = store or ObjectStore(str(folder / "repository"))
    return TufRepository(store, KeyFolder(folder / "keys"), clock)


def refreshed(device: TestDevice) -> TrustedTargets:
    return device.source._verifier.refresh(threading.Event())


def visible(device: TestDevice) -> set[str]:
    """Return which of FILES a device believes in, all of them checked to be readable."""
    trusted = refreshed(device)
    return {path for path in FILES if is_visible(device, trusted, path)}


def is_visible(device: TestDevice, trusted: TrustedTargets, path: str) -> bool:
    with contextlib.suppress(IntegrityError):
        file = trusted.file(path)
        where = file.repository_path
        file.verify_bytes(device.transfer.read(where, bytes_max=100, stop=threading.Event()))
        return True
    return False


def test_the_first_start_makes_keys_that_only_their_owner_reads(
    hub: ReleaseService, tmp_path: Path
) -> None:
    files = sorted((tmp_path / "keys").rglob("*.pem"))
    names = sorted(
        path.relative_to(tmp_path / "keys").as_posix().rsplit("-", 1)[0] for path in files
    )
    assert names == [
        "offline/root",
        "offline/root",
        "offline/root",
        "offline/targets",
        "online/releases",
        "online/snapshot",
        "online/timestamp",
    ]
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o600}
    assert stat.S_IMODE((tmp_path / "keys" / "offline").stat().st_mode) == 0o700
    assert "Move this folder" in (tmp_path / "keys" / "offline" / "README.txt").read_text()
    assert hub.offline_keys_present


def test_everything_but_rotation_works_without_the_offline_keys(
    hub: ReleaseService, device: TestDevice, tmp_path: Path, clock: ManualClock
) -> None:
    moved = {path: path.read_bytes() for path in (tmp_path / "keys" / "offline").glob("*.pem")}
    for path in moved:
        path.unlink()
    assert not hub.offline_keys_present
    again = repository(tmp_path, clock)
    again.open()
    again.publish(FILES, custom={})
    clock.advance(300 * DAY_S)
    assert again.refresh_online_metadata()
    assert visible(device) == set(FILES)
    for rotate in (again.rotate_root_keys, again.rotate_online_keys):
        with pytest.raises(UnavailableError) as raised:
            rotate()
        assert raised.value.code == "release_keys.missing"
    for path, data in moved.items():
        path.with_name("renamed-" + path.name).write_bytes(data)
    again.rotate_root_keys()
    assert visible(device) == set(FILES)


def test_a_hub_that_lost_its_online_keys_says_so(
    hub: ReleaseService, tmp_path: Path, clock: ManualClock
) -> None:
    for path in (tmp_path / "keys" / "online").glob("*.pem"):
        path.unlink()
    with pytest.raises(UnavailableError) as raised:
        repository(tmp_path, clock).publish(FILES, custom={})
    assert raised.value.code == "release_keys.missing"


def test_private_keys_are_nowhere_but_in_their_folder(hub: ReleaseService, tmp_path: Path) -> None:
    hub.repository.publish(FILES, custom={})
    for path in tmp_path.rglob("*"):
        if path.is_file() and "keys" not in path.parts:
            assert b"PRIVATE KEY" not in path.read_bytes()


def test_published_bytes_never_change(hub: ReleaseService) -> None:
    hub.repository.publish(FILES, custom={})
    hub.repository.publish(FILES, custom={})  # The same again is no change.
    path = next(iter(FILES))
    with pytest.raises(RefusedError) as raised:
        hub.repository.publish({path: b"other"}, custom={})
    assert raised.value.code == "release.immutable"
    assert hub.repository.read(path) == FILES[path]


def test_a_changed_file_is_noticed_when_read(hub: ReleaseService, tmp_path: Path) -> None:
    hub.repository.publish(FILES, custom={})
    path = next((tmp_path / "repository" / "targets").rglob("*.manifest.json"))
    path.write_bytes(b"manifest.jsoN")
    with pytest.raises(IntegrityError) as raised:
        hub.repository.read("releases/digits/1/manifest.json")
    assert raised.value.code == "repository.damaged"


def test_notes_are_signed_with_the_file(hub: ReleaseService) -> None:
    path = next(iter(FILES))
    hub.repository.publish(FILES, custom={path: {"candidate": "cand-1"}})
    files = hub.repository.files()
    assert files[path].custom == {"candidate": "cand-1"}
    assert files[path].file_bytes == len(FILES[path])


# Cut off at every write: what devices see is whole, and a new start goes on.


@pytest.mark.parametrize("is_written", [False, True])
@pytest.mark.parametrize("cut_at", range(PUTS_OF_FIRST_START))
def test_a_first_start_cut_off_is_finished_by_the_next(
    tmp_path: Path, clock: ManualClock, cut_at: int, *, is_written: bool
) -> None:
    store = CuttingStore(str(tmp_path / "repository"), cut_at=cut_at, is_written=is_written)
    with pytest.raises(PowerCutError):
        repository(tmp_path, clock, store).open()
    again = repository(tmp_path, clock)
    again.open()
    again.publish(FILES, custom={})
    reader = TufReader(ObjectStore(str(tmp_path / "repository")))
    assert set(reader.current().releases.targets) == set(FILES)


@pytest.mark.parametrize("is_written", [False, True])
@pytest.mark.parametrize("cut_at", range(PUTS_OF_PUBLISH))
def test_publishing_cut_off_shows_all_or_nothing(
    hub: ReleaseService,
    device: TestDevice,
    tmp_path: Path,
    clock: ManualClock,
    cut_at: int,
    *,
    is_written: bool,
) -> None:
    store = CuttingStore(str(tmp_path / "repository"), cut_at=cut_at, is_written=is_written)
    with pytest.raises(PowerCutError):
        repository(tmp_path, clock, store).publish(FILES, custom={})
    is_done = is_written and cut_at == PUTS_OF_PUBLISH - 1
    assert visible(device) == (set(FILES) if is_done else set())
    again = repository(tmp_path, clock)
    again.open()
    assert visible(device) == (set(FILES) if is_done else set())
    again.publish(FILES, custom={})
    assert visible(device) == set(FILES)


@pytest.mark.slow
@pytest.mark.parametrize("is_written", [False, True])
@pytest.mark.parametrize("cut_at", range(PUTS_OF_ONLINE_ROTATION))
def test_a_rotation_cut_off_is_mended_and_devices_follow(
    hub: ReleaseService,
    device: TestDevice,
    tmp_path: Path,
    clock: ManualClock,
    cut_at: int,
    *,
    is_written: bool,
) -> None:
    hub.repository.publish(FILES, custom={})
    assert visible(device) == set(FILES)
    store = CuttingStore(str(tmp_path / "repository"), cut_at=cut_at, is_written=is_written)
    with pytest.raises(PowerCutError):
        repository(tmp_path, clock, store).rotate_online_keys()
    assert visible(device) == set(FILES)
    again = repository(tmp_path, clock)
    again.open()
    assert visible(device) == set(FILES)
    again.rotate_online_keys()
    assert visible(device) == set(FILES)
    fresh = make_device(tmp_path / "fresh", RepositoryPeer(hub))
    assert visible(fresh) == set(FILES)


def count_puts(folder: Path, clock: ManualClock, act: Callable[[TufRepository], None]) -> int:
    store = CuttingStore(str(folder / "repository"), cut_at=1000, is_written=False)
    act(repository(folder, clock, store))
    return len(store.puts)


def test_the_cuts_above_are_at_every_write(tmp_path: Path, clock: ManualClock) -> None:
    assert count_puts(tmp_path, clock, TufRepository.open) == PUTS_OF_FIRST_START
    published = count_puts(tmp_path, clock, lambda it: it.publish(FILES, custom={}))
    assert published == PUTS_OF_PUBLISH
    rotated = count_puts(tmp_path, clock, TufRepository.rotate_online_keys)
    assert rotated == PUTS_OF_ONLINE_ROTATION


def test_a_lost_timestamp_is_made_again(
    hub: ReleaseService, device: TestDevice, tmp_path: Path, clock: ManualClock
) -> None:
    hub.repository.publish(FILES, custom={})
    assert visible(device) == set(FILES)
    (tmp_path / "repository" / "metadata" / "timestamp.json").write_bytes(b"")
    repository(tmp_path, clock).open()
    assert visible(device) == set(FILES)


def test_old_online_keys_are_worth_nothing_after_their_rotation(
    hub: ReleaseService, tmp_path: Path
) -> None:
    old = {path.name for path in (tmp_path / "keys" / "online").glob("*.pem")}
    hub.repository.rotate_online_keys()
    current = TufReader(ObjectStore(str(tmp_path / "repository"))).current()
    assert current.targets.delegations is not None
    assert current.targets.delegations.roles is not None
    trusted = [
        *current.root.roles["snapshot"].keyids,
        *current.root.roles["timestamp"].keyids,
        *current.targets.delegations.roles["releases"].keyids,
    ]
    assert len(trusted) == 3
    assert not {key_id[:8] for key_id in trusted} & {name.split("-")[1][:8] for name in old}


# Expiry.


def test_signatures_are_renewed_before_they_are_old(
    hub: ReleaseService, tmp_path: Path, clock: ManualClock
) -> None:
    reader = TufReader(ObjectStore(str(tmp_path / "repository")))
    assert not hub.refresh_online_metadata()
    first = reader.current()
    clock.advance(DAY_S + 1)
    assert hub.refresh_online_metadata()
    second = reader.current()
    assert second.timestamp.version > first.timestamp.version
    assert second.snapshot.version == first.snapshot.version
    assert not hub.refresh_online_metadata()
    clock.advance(200 * DAY_S)
    assert hub.refresh_online_metadata()
    third = reader.current()
    assert third.snapshot.version > second.snapshot.version
    days_left = (third.releases.expires.timestamp() - clock.now_s()) / DAY_S
    assert days_left == pytest.approx(RepositorySettings().offline_days_max, abs=0.01)


def test_root_lasts_longer_than_a_device(hub: ReleaseService, tmp_path: Path) -> None:
    root = TufReader(ObjectStore(str(tmp_path / "repository"))).current().root
    assert root.roles["root"].threshold == 2
    assert len(root.roles["root"].keyids) == 3
    assert root.consistent_snapshot
    expiry = hub.repository.expiry()
    assert root.expires.timestamp() == expiry.root_s > time.time() + 9 * 365 * DAY_S
    assert expiry.targets_s > time.time() + 9 * 365 * DAY_S
    assert time.time() + 364 * DAY_S < expiry.online_s < time.time() + 366 * DAY_S


def test_old_versions_are_forgotten_and_a_device_notices_nothing(
    hub: ReleaseService, device: TestDevice, tmp_path: Path
) -> None:
    for n in range(VERSIONS_KEPT + 4):
        hub.repository.publish({f"releases/many/{n}/a": b"x"}, custom={})
    hub.repository.publish(FILES, custom={})
    metadata = tmp_path / "repository" / "metadata"
    for role in ("releases", "snapshot"):
        assert len(list(metadata.glob(f"*.{role}.json"))) == VERSIONS_KEPT
    assert visible(device) == set(FILES)


def test_two_hubs_may_publish_at_once(tmp_path: Path, clock: ManualClock) -> None:
    repository(tmp_path, clock).open()
    hubs = [repository(tmp_path, clock) for _ in range(4)]
    threads = [
        threading.Thread(
            target=lambda hub=hub, n=n: hub.publish({f"releases/m{n}/1/a": b"x"}, custom={})
        )
        for n, hub in enumerate(hubs)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert set(repository(tmp_path, clock).files()) == {f"releases/m{n}/1/a" for n in range(4)}
