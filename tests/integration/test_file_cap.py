"""CappedFolder on a real disk."""

import shutil
from pathlib import Path

import pytest

from edge_agent.sinks.file_cap import RESCAN_S, CappedFolder, name_for
from shared.errors import RefusedError, TransientError
from tests.support.manual_clock import ManualClock

KB = 1024


def folder_for(path: Path, clock: ManualClock, **options: object) -> CappedFolder:
    limits = {"bytes_max": 10 * KB, "age_s_max": 3600.0, "free_bytes_min": 1, **options}
    return CappedFolder(path, suffixes=(".jpg",), clock=clock, **limits)  # type: ignore[arg-type]


def write(folder: CappedFolder, clock: ManualClock, *, size: int = 4 * KB) -> str:
    clock.advance(1.0)
    name = name_for(int(clock.now_s() * 1000), "gate", ("car",), suffix=".jpg")
    folder.write(name, b"x" * size)
    return name


def names(path: Path) -> list[str]:
    return sorted(file.name for file in path.iterdir())


def test_the_oldest_go_when_it_is_full(tmp_path: Path) -> None:
    clock = ManualClock()
    folder = folder_for(tmp_path, clock)
    written = [write(folder, clock) for _ in range(4)]
    assert names(tmp_path) == written[2:]
    assert folder.size_bytes == 8 * KB


def test_what_is_too_old_goes(tmp_path: Path) -> None:
    clock = ManualClock()
    folder = folder_for(tmp_path, clock)
    write(folder, clock, size=KB)
    clock.advance(3601.0)
    second = write(folder, clock, size=KB)
    assert names(tmp_path) == [second]


def test_nothing_is_written_where_the_disk_is_low_and_nothing_goes(tmp_path: Path) -> None:
    clock = ManualClock()
    first = write(folder_for(tmp_path, clock), clock)
    free = shutil.disk_usage(tmp_path).free
    low = folder_for(tmp_path, clock, free_bytes_min=free * 2)
    with pytest.raises(RefusedError) as caught:
        write(low, clock)
    assert caught.value.code == "disk.low"
    assert names(tmp_path) == [first]


def test_a_file_over_the_cap_is_refused(tmp_path: Path) -> None:
    clock = ManualClock()
    with pytest.raises(RefusedError):
        write(folder_for(tmp_path, clock), clock, size=11 * KB)


def test_a_start_finds_what_was_there_and_sweeps_what_is_half_written(tmp_path: Path) -> None:
    clock = ManualClock()
    before = [write(folder_for(tmp_path, clock), clock) for _ in range(2)]
    (tmp_path / f".{before[0]}.0a1b2c3d.tmp").write_bytes(b"half")
    (tmp_path / "20260101T000000.000Z_gate_car.webm").write_bytes(b"another sink's")
    (tmp_path / "holiday.jpg").write_bytes(b"z" * 20 * KB)  # Somebody else's
    after = write(folder_for(tmp_path, clock), clock)
    others = ["20260101T000000.000Z_gate_car.webm", "holiday.jpg"]
    assert names(tmp_path) == [before[1], after, *others]


def test_what_others_deleted_is_noticed(tmp_path: Path) -> None:
    clock = ManualClock()
    folder = folder_for(tmp_path / "deep" / "er", clock, age_s_max=1e9)
    write(folder, clock)
    shutil.rmtree(tmp_path / "deep")
    write(folder, clock)
    assert folder.size_bytes == 4 * KB
    next((tmp_path / "deep" / "er").iterdir()).unlink()
    clock.advance(RESCAN_S)
    write(folder, clock)
    assert folder.size_bytes == 4 * KB


def test_a_folder_that_is_a_file_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(TransientError):
        write(folder_for(tmp_path / "file", ManualClock()), ManualClock())


def test_names_say_when_where_and_what() -> None:
    name = name_for(1_700_000_000_123, "gate", ("traffic light", "../x"), suffix=".jpg")
    assert name == "20231114T221320.123Z_gate_traffic-light-x.jpg"
    assert len(name_for(0, "g" * 63, ("l" * 120,) * 4, suffix=".webm")) <= 125
