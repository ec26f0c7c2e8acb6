"""Slots and journals on a real disk."""

from pathlib import Path

import pytest

from edge_agent.updates.file_journal import FileJournal, FileTarget
from edge_agent.updates.file_slots import FileSlots
from edge_agent.updates.journal import Journal, Slot
from shared.errors import ContractError, RefusedError, TransientError
from shared.wire.target import Target

ONE, TWO = "1" * 64, "2" * 64


@pytest.fixture
def slots(tmp_path: Path) -> FileSlots:
    return FileSlots(tmp_path / "releases", free_bytes_min=1)


def test_files_of_the_same_release_stay(slots: FileSlots) -> None:
    folder = slots.prepare("tones", Slot.A, ONE)
    (folder / "model.part").write_bytes(b"half")
    assert slots.prepare("tones", Slot.A, ONE) == folder
    assert (folder / "model.part").read_bytes() == b"half"


def test_files_of_two_releases_never_mix(slots: FileSlots) -> None:
    folder = slots.prepare("tones", Slot.A, ONE)
    (folder / "model.part").write_bytes(b"half")
    (slots.prepare("tones", Slot.B, ONE) / "other").write_bytes(b"stays")
    assert list(slots.prepare("tones", Slot.A, TWO).iterdir()) == []
    assert slots.holds_files("tones", Slot.B)


def test_a_cleared_slot_keeps_neither_files_nor_name(slots: FileSlots) -> None:
    folder = slots.prepare("tones", Slot.A, ONE)
    (folder / "model.onnx").write_bytes(b"all")
    slots.clear("tones", Slot.A)
    assert not slots.holds_files("tones", Slot.A)
    assert list(folder.parent.iterdir()) == []
    slots.clear("tones", Slot.A)  # Twice is once.


def test_no_room_refuses_what_begins_and_not_what_goes_on(tmp_path: Path) -> None:
    begun = FileSlots(tmp_path, free_bytes_min=1).prepare("tones", Slot.A, ONE)
    (begun / "model.onnx").write_bytes(b"all")
    small = FileSlots(tmp_path, free_bytes_min=1 << 60)
    assert small.prepare("tones", Slot.A, ONE) == begun
    for slot, digest in ((Slot.A, TWO), (Slot.B, ONE), (Slot.B, ONE)):
        with pytest.raises(RefusedError) as caught:
            small.prepare("tones", slot, digest)
        assert caught.value.code == "disk.full"
        assert caught.value.remedy


@pytest.mark.parametrize(
    ("number", "error", "code"),
    [
        (28, RefusedError, "disk.full"),
        (122, RefusedError, "disk.full"),
        (5, TransientError, "disk.failed"),
    ],
)
def test_a_disks_errors_become_ours(
    slots: FileSlots, number: int, error: type[RefusedError | TransientError], code: str
) -> None:
    with pytest.raises(error) as caught, slots.guard():
        raise OSError(number, "the disk says")
    assert caught.value.code == code


def test_a_journal_comes_back_as_it_was(tmp_path: Path) -> None:
    journals = FileJournal(tmp_path)
    assert journals.read("tones") is None
    journal = Journal(model="tones", starts_count=3)
    journals.write(journal)
    assert FileJournal(tmp_path).read("tones") == journal
    assert (tmp_path / "tones.json").stat().st_mode & 0o777 == 0o600


def test_what_a_crash_left_half_written_is_swept(tmp_path: Path) -> None:
    FileJournal(tmp_path).write(Journal(model="tones"))
    (tmp_path / ".tones.json.1234abcd.tmp").write_bytes(b"{")
    FileJournal(tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["tones.json"]


def test_the_journal_of_another_model_is_a_damaged_one(tmp_path: Path) -> None:
    journals = FileJournal(tmp_path)
    journals.write(Journal(model="chords"))
    (tmp_path / "chords.json").rename(tmp_path / "tones.json")
    with pytest.raises(ContractError) as caught:
        journals.read("tones")
    assert caught.value.code == "journal.corrupt"


def test_a_target_comes_back_as_it_was(tmp_path: Path) -> None:
    file = FileTarget(tmp_path / "target.json")
    assert file.read() is None
    target = Target(revision=7, issued_ms=1, pipelines=("gate",))
    file.write(target)
    assert file.read() == target
    (tmp_path / "target.json").write_bytes(b'{"revision": 7, "orders": "run"}')
    with pytest.raises(ContractError) as caught:
        file.read()
    assert caught.value.code == "target.corrupt"
