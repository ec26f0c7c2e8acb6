"""From a real repository to a device's disk, over good and bad links, and under attack."""

import json
import shutil
import signal
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import Metadata, Root, Timestamp

from cloud_hub.releases.service import ReleaseService
from cloud_hub.sql_database import Database
from edge_agent.updates.transfer import TransferSettings
from shared.errors import IntegrityError, IsthmusError, RefusedError, TransientError
from shared.release.digest import digest_of_file
from shared.wire.blocks import BLOCK_BYTES, WINDOW_BLOCKS_MAX
from shared.wire.target import TargetRelease
from tests.support.manual_clock import ManualClock
from tests.support.release_hub import (
    LARGE,
    TestDevice,
    add,
    copy_state,
    make_device,
    open_hub,
)
from tests.support.repository_peer import RepositoryPeer

replace = msgspec.structs.replace
HEADER_BYTES = 80  # Of a .blocks file: 16 of magic, 64 of digest


@pytest.fixture(scope="module")
def template(
    tmp_path_factory: pytest.TempPathFactory, migrated_sqlite_file: Path
) -> tuple[Path, TargetRelease]:
    """A hub's state with one release of 2.4 MB, made once."""
    state = tmp_path_factory.mktemp("hub") / "state"
    state.mkdir()
    (state / "hub.db").write_bytes(migrated_sqlite_file.read_bytes())
    database = Database(f"sqlite:///{state}/hub.db")
    target = add(open_hub(state, database), hidden=LARGE)
    database.close()
    return state, target


@pytest.fixture
def state(template: tuple[Path, TargetRelease], tmp_path: Path) -> Path:
    copy_state(template[0], tmp_path / "state")
    return tmp_path / "state"


@pytest.fixture
def target(template: tuple[Path, TargetRelease]) -> TargetRelease:
    return template[1]


@pytest.fixture
def hub(state: Path) -> Iterator[ReleaseService]:
    database = Database(f"sqlite:///{state}/hub.db")
    yield open_hub(state, database)
    database.close()


@pytest.fixture
def device(hub: ReleaseService, tmp_path: Path) -> TestDevice:
    return make_device(tmp_path / "device", RepositoryPeer(hub))


def refusal(device: TestDevice, target: TargetRelease) -> IsthmusError:
    """Return the error that a fetch ends with."""
    with pytest.raises(IsthmusError) as raised:
        device.fetch(target)
    return raised.value


def metadata_file(state: Path, name: str) -> Path:
    return state / "repository" / "metadata" / name


def releases_files(state: Path) -> list[Path]:
    """Return every N.releases.json, oldest first."""
    found = (state / "repository" / "metadata").glob("*.releases.json")
    return sorted(found, key=lambda path: int(path.name.partition(".")[0]))


def target_file(state: Path, name: str) -> Path:
    return next((state / "repository" / "targets").rglob(f"*.{name}"))


def publish_something(hub: ReleaseService, name: str = "a") -> None:
    """Bring the repository to a new state, without a release."""
    hub.repository.publish({f"releases/other/1/{name}": name.encode()}, custom={})


# What must work.


def test_a_release_arrives_whole_and_can_be_reopened(
    device: TestDevice, target: TargetRelease
) -> None:
    fetched = device.fetch(target)
    assert fetched.manifest.model == "digits"
    assert fetched.manifest_digest == target.manifest_digest
    assert fetched.artifact_path.read_bytes()[:1]
    assert digest_of_file(fetched.artifact_path) == fetched.variant.artifact.digest
    assert digest_of_file(fetched.golden_path) == fetched.variant.golden.digest
    assert device.source.reopen(device.slot) == fetched
    assert device.shares == sorted(device.shares)
    assert device.shares[-1] == 1.0
    assert sorted(path.name for path in device.slot.iterdir()) == [
        "golden.npz",
        "manifest.json",
        "model.onnx",
        "release.json",
    ]


def test_each_block_is_sent_once_over_a_good_link(
    device: TestDevice, target: TargetRelease
) -> None:
    fetched = device.fetch(target)
    blocks = -(-fetched.variant.artifact.file_bytes // BLOCK_BYTES)
    assert device.peer.indexes_of(".onnx") == list(range(blocks))
    assert device.transfer.dropped_count == 0


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_loss_duplicates_and_disorder_change_nothing(
    hub: ReleaseService, target: TargetRelease, tmp_path: Path, seed: int
) -> None:
    peer = RepositoryPeer(hub, loss=0.2, duplicates=0.2, is_reordered=True, seed=seed)
    device = make_device(tmp_path / "device", peer)
    fetched = device.fetch(target)
    assert digest_of_file(fetched.artifact_path) == fetched.variant.artifact.digest
    blocks = -(-fetched.variant.artifact.file_bytes // BLOCK_BYTES)
    assert len(peer.indexes_of(".onnx")) < 2 * blocks


def test_nothing_new_costs_two_small_messages(device: TestDevice, target: TargetRelease) -> None:
    device.fetch(target)
    first_bytes = device.transfer.bytes_received
    sent = len(device.peer.sent)
    device.fetch(target)
    paths = [path for path, _ in device.peer.sent[sent:]]
    assert paths == ["metadata/2.root.json", "metadata/timestamp.json"]
    assert device.transfer.bytes_received - first_bytes < 600


def test_a_file_that_is_here_already_is_not_fetched_again(
    device: TestDevice, target: TargetRelease
) -> None:
    device.fetch(target)
    (device.slot / "golden.npz").unlink()
    sent = len(device.peer.sent)
    device.fetch(target)
    assert {path.rpartition(".")[2] for path, _ in device.peer.sent[sent:]} == {"json", "npz"}


@pytest.mark.slow
def test_kill_9_in_the_middle_then_only_what_is_missing(
    state: Path, hub: ReleaseService, target: TargetRelease, tmp_path: Path
) -> None:
    folder = tmp_path / "device"
    killed_at = 30
    command = [sys.executable, "-m", "tests.support.fetch_process"]
    arguments = [str(state), str(folder), str(killed_at), json.dumps(target.manifest_digest)]
    done = subprocess.run([*command, *arguments], check=False, timeout=60)
    assert done.returncode == -signal.SIGKILL
    saved = saved_blocks(folder / "slot" / "model.onnx")
    # Thirty had come; what lay in the mailbox, at most a window, was not written yet.
    assert killed_at - WINDOW_BLOCKS_MAX <= len(saved) <= killed_at
    device = make_device(folder, RepositoryPeer(hub))
    fetched = device.fetch(target)
    blocks = -(-fetched.variant.artifact.file_bytes // BLOCK_BYTES)
    assert device.peer.indexes_of(".onnx") == sorted(set(range(blocks)) - saved)
    assert device.source.reopen(device.slot) == fetched


def saved_blocks(path: Path) -> set[int]:
    """Return which blocks an interrupted fetch left on the disk, read from the files themselves."""
    part = path.with_name(path.name + ".part").read_bytes()
    marks = path.with_name(path.name + ".blocks").read_bytes()[HEADER_BYTES:]
    found = set()
    for index in range(len(marks) // 4):
        mark = int.from_bytes(marks[4 * index : 4 * index + 4], "little")
        data = part[index * BLOCK_BYTES : (index + 1) * BLOCK_BYTES]
        if mark and mark == zlib.crc32(data):
            found.add(index)
    return found


def stopped_halfway(device: TestDevice, target: TargetRelease) -> None:
    stop = threading.Event()

    def on_progress(share: float) -> None:
        if share > 0.5:
            stop.set()

    with pytest.raises(TransientError) as raised:
        device.source.fetch(target, device.slot, on_progress=on_progress, stop=stop)
    assert raised.value.code == "transfer.stopped"


def test_a_stopped_fetch_goes_on_where_it_was(device: TestDevice, target: TargetRelease) -> None:
    stopped_halfway(device, target)
    before = len(device.peer.sent)
    device.fetch(target)
    again = [index for path, index in device.peer.sent[before:] if ".onnx" in path]
    assert 0 < len(again) < 25


def test_a_block_that_did_not_reach_the_disk_is_fetched_again_alone(
    device: TestDevice, target: TargetRelease
) -> None:
    """As after a power cut: the mark was written, the block was not."""
    stopped_halfway(device, target)
    part = device.slot / "model.onnx.part"
    with part.open("r+b") as file:
        file.seek(3 * BLOCK_BYTES + 100)
        file.write(bytes(1000))
    before = len(device.peer.sent)
    device.fetch(target)
    again = [index for path, index in device.peer.sent[before:] if ".onnx" in path]
    assert again[0] == 3
    assert len(again) < 25


def test_remains_of_another_file_are_thrown_away(device: TestDevice, target: TargetRelease) -> None:
    stopped_halfway(device, target)
    marks = device.slot / "model.onnx.blocks"
    data = bytearray(marks.read_bytes())
    data[20] ^= 1  # Another file's header
    marks.write_bytes(data)
    before = len(device.peer.sent)
    fetched = device.fetch(target)
    again = [index for path, index in device.peer.sent[before:] if ".onnx" in path]
    assert again == list(range(-(-fetched.variant.artifact.file_bytes // BLOCK_BYTES)))


def test_a_device_that_knows_only_the_first_root_follows_rotations(
    hub: ReleaseService, device: TestDevice, target: TargetRelease
) -> None:
    hub.repository.rotate_root_keys()
    hub.repository.rotate_online_keys()
    hub.repository.rotate_root_keys()
    device.fetch(target)
    paths = [path for path, _ in device.peer.sent]
    assert [p for p in paths if "root" in p] == [f"metadata/{n}.root.json" for n in range(2, 7)]


def test_a_device_follows_a_rotation_it_slept_through(
    hub: ReleaseService, device: TestDevice, target: TargetRelease
) -> None:
    device.fetch(target)
    hub.repository.rotate_online_keys()
    publish_something(hub)
    device.fetch(target)


def test_a_hub_restored_from_a_backup_is_believed_after_signing_again(
    state: Path, hub: ReleaseService, device: TestDevice, target: TargetRelease, tmp_path: Path
) -> None:
    copy_state(state / "repository", tmp_path / "backup")
    publish_something(hub)
    device.fetch(target)
    shutil.rmtree(state / "repository")
    copy_state(tmp_path / "backup", state / "repository")
    assert refusal(device, target).code == "tuf.rollback"
    time_ahead = ManualClock(time.time() + 5)
    database = Database(f"sqlite:///{state}/hub.db")
    open_hub(state, database, clock=time_ahead).repository.reissue()
    database.close()
    device.fetch(target)


# Attacks and accidents, each with its own code.


def test_a_flipped_bit_in_the_artifact(
    state: Path, device: TestDevice, target: TargetRelease
) -> None:
    path = target_file(state, "fp32.onnx")
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    error = refusal(device, target)
    assert isinstance(error, IntegrityError)
    assert error.code == "release.digest"
    assert not (device.slot / "model.onnx").exists()
    assert not (device.slot / "model.onnx.part").exists()
    with pytest.raises(IntegrityError):
        device.source.reopen(device.slot)


def test_an_artifact_of_another_size(
    state: Path, device: TestDevice, target: TargetRelease
) -> None:
    with target_file(state, "fp32.onnx").open("ab") as file:
        file.write(b"more")
    error = refusal(device, target)
    assert (type(error), error.code) == (IntegrityError, "release.digest")


def test_a_flipped_bit_in_the_manifest(
    state: Path, device: TestDevice, target: TargetRelease
) -> None:
    path = target_file(state, "manifest.json")
    path.write_bytes(path.read_bytes().replace(b'"schema":1', b'"schema":2'))
    error = refusal(device, target)
    assert (type(error), error.code) == (IntegrityError, "release.digest")


def test_another_manifest_than_the_target_names(device: TestDevice, target: TargetRelease) -> None:
    error = refusal(device, replace(target, manifest_digest="0" * 64))
    assert (type(error), error.code) == (IntegrityError, "release.digest")


def test_replayed_old_metadata(
    state: Path, hub: ReleaseService, device: TestDevice, target: TargetRelease
) -> None:
    old = metadata_file(state, "timestamp.json").read_bytes()
    publish_something(hub)
    device.fetch(target)
    metadata_file(state, "timestamp.json").write_bytes(old)
    error = refusal(device, target)
    assert (type(error), error.code) == (IntegrityError, "tuf.rollback")
    assert device.source.reopen(device.slot).manifest_digest == target.manifest_digest


def test_expired_metadata(state: Path, tmp_path: Path, target: TargetRelease) -> None:
    long_ago = ManualClock(time.time() - 400 * 86_400)
    database = Database(f"sqlite:///{state}/hub.db")
    hub = open_hub(state, database, clock=long_ago)
    publish_something(hub)
    device = make_device(tmp_path / "device", RepositoryPeer(hub))
    error = refusal(device, target)
    database.close()
    assert (type(error), error.code) == (TransientError, "tuf.expired")
    assert "clock" in error.remedy


def resign(path: Path, kind: type, signer: CryptoSigner) -> None:
    metadata = Metadata[kind].from_bytes(path.read_bytes())  # type: ignore[valid-type]
    metadata.signatures.clear()
    metadata.sign(signer, append=True)
    path.write_bytes(metadata.to_bytes())


def test_a_foreign_key(state: Path, device: TestDevice, target: TargetRelease) -> None:
    resign(metadata_file(state, "timestamp.json"), Timestamp, CryptoSigner.generate_ed25519())
    error = refusal(device, target)
    assert (type(error), error.code) == (IntegrityError, "tuf.signature")


def test_a_new_root_with_one_signature_of_two(
    state: Path, hub: ReleaseService, device: TestDevice, target: TargetRelease
) -> None:
    hub.repository.rotate_root_keys()
    path = metadata_file(state, "2.root.json")
    metadata = Metadata[Root].from_bytes(path.read_bytes())
    first = next(iter(metadata.signatures))
    metadata.signatures = {first: metadata.signatures[first]}
    path.write_bytes(metadata.to_bytes())
    error = refusal(device, target)
    assert (type(error), error.code) == (IntegrityError, "tuf.signature")


def test_mixed_and_matched_metadata(
    state: Path, hub: ReleaseService, device: TestDevice, target: TargetRelease
) -> None:
    """The attacker has pieces that were all really signed, and offers them together."""
    publish_something(hub, "a")
    old = releases_files(state)[-1].read_bytes()
    publish_something(hub, "b")
    releases_files(state)[-1].write_bytes(old)
    error = refusal(device, target)
    assert (type(error), error.code) == (IntegrityError, "tuf.mismatch")


def test_the_releases_key_cannot_sign_elsewhere(
    state: Path, hub: ReleaseService, device: TestDevice, target: TargetRelease
) -> None:
    hub.repository.publish({"settings/agent.toml": b"x", "releases/a/b/c/d": b"y"}, custom={})
    device.fetch(target)
    trusted = device.source._verifier.refresh(threading.Event())
    for path in ("settings/agent.toml", "releases/a/b/c/d"):
        with pytest.raises(IntegrityError) as raised:
            trusted.file(path)
        assert raised.value.code == "tuf.unknown_target"


def test_a_release_that_nobody_signed(device: TestDevice, target: TargetRelease) -> None:
    error = refusal(device, replace(target, version=2))
    assert (type(error), error.code) == (IntegrityError, "tuf.unknown_target")


def test_metadata_that_is_no_metadata(
    state: Path, device: TestDevice, target: TargetRelease
) -> None:
    metadata_file(state, "timestamp.json").write_bytes(b"{}")
    error = refusal(device, target)
    assert (type(error), error.code) == (IntegrityError, "tuf.invalid")


def test_files_on_the_device_that_change_later_are_noticed(
    device: TestDevice, target: TargetRelease
) -> None:
    device.fetch(target)
    for name in ("manifest.json", "model.onnx", "golden.npz", "release.json"):
        path = device.slot / name
        good = path.read_bytes()
        path.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
        with pytest.raises(IntegrityError) as raised:
            device.source.reopen(device.slot)
        assert raised.value.code == "release.digest"
        path.write_bytes(good)
    assert device.source.reopen(device.slot)


# The hub or the link is not there; the disk is full.


def test_a_silent_hub_is_asked_again_then_given_up(
    device: TestDevice, target: TargetRelease
) -> None:
    device.peer.is_silent = True
    error = refusal(device, target)
    assert (type(error), error.code) == (TransientError, "transfer.no_answer")
    assert len(device.peer.requests) == TransferSettings().tries_max


def test_a_link_that_is_down(device: TestDevice, target: TargetRelease) -> None:
    device.peer.is_down = True
    error = refusal(device, target)
    assert (type(error), error.code) == (TransientError, "link.down")


def test_a_signed_file_that_the_hub_lost_is_a_reason_to_try_later(
    state: Path, device: TestDevice, target: TargetRelease
) -> None:
    target_file(state, "fp32.onnx").unlink()
    error = refusal(device, target)
    assert isinstance(error, TransientError)
    assert error.code == "transfer.missing"


def test_a_hub_without_metadata_is_a_reason_to_try_later(
    state: Path, device: TestDevice, target: TargetRelease
) -> None:
    metadata_file(state, "timestamp.json").unlink()
    error = refusal(device, target)
    assert isinstance(error, TransientError)
    assert error.code == "transfer.missing"


def test_a_disk_without_room(hub: ReleaseService, target: TargetRelease, tmp_path: Path) -> None:
    settings = TransferSettings(disk_reserve_bytes=1 << 60)
    device = make_device(tmp_path / "device", RepositoryPeer(hub), settings=settings)
    error = refusal(device, target)
    assert (type(error), error.code) == (RefusedError, "transfer.disk_full")
    assert error.remedy


def test_a_disk_that_fills_up_in_the_middle(device: TestDevice, target: TargetRelease) -> None:
    device.slot.mkdir(parents=True)
    (device.slot / "model.onnx.part").symlink_to("/dev/full")
    error = refusal(device, target)
    assert (type(error), error.code) == (RefusedError, "transfer.disk_full")


def test_a_file_over_the_limit(hub: ReleaseService, target: TargetRelease, tmp_path: Path) -> None:
    settings = TransferSettings(file_bytes_max=1000)
    device = make_device(tmp_path / "device", RepositoryPeer(hub), settings=settings)
    error = refusal(device, target)
    assert (type(error), error.code) == (RefusedError, "transfer.too_large")


def test_a_precision_the_device_does_not_take(
    hub: ReleaseService, target: TargetRelease, tmp_path: Path
) -> None:
    device = make_device(tmp_path / "device", RepositoryPeer(hub), precisions=("int8",))
    error = refusal(device, target)
    assert (type(error), error.code) == (RefusedError, "release.no_variant")


def test_metadata_lost_on_the_device_is_fetched_again(
    device: TestDevice, target: TargetRelease
) -> None:
    device.fetch(target)
    for name in ("timestamp.json", "snapshot.json", "releases.json", "targets.json"):
        (device.folder / "tuf" / name).write_bytes(b"")
    assert device.fetch(target)
