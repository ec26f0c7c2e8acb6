"""The process that reads sources: strangers' bytes, and an end at any moment."""

import io
import os
import signal
import stat
import subprocess
import sys
import tarfile
import threading
import zipfile
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import psutil
import pytest

from cloud_hub.datasets.file_archive import unpack
from cloud_hub.datasets.service import DatasetService
from cloud_hub.datasets.settings import DatasetSettings
from cloud_hub.object_store import ObjectStore
from cloud_hub.sql_database import Database
from shared.errors import ContractError, RefusedError, TransientError
from tests.support.manual_clock import ManualClock
from tests.support.shape_sources import picture, write_pictures, zipped
from tests.support.small_disk import small_disk
from tests.support.waiting import wait_until

MODULE = "cloud_hub.datasets.opencv_import"
HUB = """
import sys
from pathlib import Path
from cloud_hub.datasets.service import DatasetService
from cloud_hub.object_store import ObjectStore
from cloud_hub.sql_database import Database
from shared.clock import SystemClock
folder = Path(sys.argv[1])
database = Database(f"sqlite:///{folder}/hub.db")
service = DatasetService(
    database, ObjectStore(str(folder / "objects")), SystemClock(), folder=folder / "datasets"
)
service.open()
service.import_file("noise", folder / "noise", by="anna")
"""
Fill = Callable[[zipfile.ZipFile], None]
only_sqlite = pytest.mark.parametrize("database_kind", ["sqlite"], indirect=True)


def open_service(
    database: Database, folder: Path, settings: DatasetSettings | None = None
) -> DatasetService:
    objects = ObjectStore(str(folder / "objects"))
    service = DatasetService(database, objects, ManualClock(), settings, folder=folder / "datasets")
    service.open()
    return service


def write_noise(folder: Path, *, count: int = 40, side: int = 860) -> Path:
    """Write pictures that make several packs."""
    folder.mkdir()
    random = np.random.default_rng(0)
    for index in range(count):
        pixels = random.integers(0, 256, (side, side, 3), dtype=np.uint8)
        data = cv2.imencode(".png", pixels, [cv2.IMWRITE_PNG_COMPRESSION, 0])[1]
        (folder / f"{index:03}.png").write_bytes(data.tobytes())
    return folder


def children_of(process: psutil.Process) -> list[psutil.Process]:
    return [child for child in process.children() if _is_importer(child)]


def _is_importer(process: psutil.Process) -> bool:
    try:
        return MODULE in process.cmdline()
    except psutil.Error:  # It has just ended
        return False


def _link(archive: zipfile.ZipFile) -> None:
    info = zipfile.ZipInfo("cat/way-out")
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    archive.writestr(info, "/etc/passwd")


ESCAPES: dict[str, Fill] = {
    "up": lambda archive: archive.writestr("../outside.png", b"x"),
    "deep up": lambda archive: archive.writestr("cat/../../outside.png", b"x"),
    "absolute": lambda archive: archive.writestr("/outside.png", b"x"),
    "backslashes": lambda archive: archive.writestr("..\\outside.png", b"x"),
    "drive": lambda archive: archive.writestr("C:\\outside.png", b"x"),
    "link": _link,
    "too deep": lambda archive: archive.writestr("a/" * 20 + "x.png", b"x"),
    "bomb": lambda archive: archive.writestr("cat/zeros.png", bytes(4 << 20)),
}


@pytest.mark.parametrize("name", ESCAPES)
def test_an_archive_that_leads_elsewhere_is_refused_whole(name: str, tmp_path: Path) -> None:
    file = tmp_path / "bad.zip"
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("cat/first.png", picture(1))
        ESCAPES[name](archive)
    inside = tmp_path / "deep" / "inside"
    inside.mkdir(parents=True)
    with pytest.raises(ContractError) as caught:
        unpack(file, inside, bytes_max=1 << 20)
    assert caught.value.code == "dataset.archive"
    assert not list(tmp_path.rglob("outside*"))
    assert not any(path.is_symlink() for path in tmp_path.rglob("*"))


@pytest.mark.parametrize("kind", ["link", "hard link", "device", "up", "twice", "cut", "text"])
def test_a_tar_that_leads_elsewhere_is_refused_whole(kind: str, tmp_path: Path) -> None:
    file = tmp_path / "bad.tar.gz"
    with tarfile.open(file, "w:gz") as archive:

        def add(name: str, *, data: bytes = b"x" * 5000, **changes: object) -> None:
            info = tarfile.TarInfo(name)
            info.size = 0 if changes else len(data)
            for field, value in changes.items():
                setattr(info, field, value)
            archive.addfile(info, io.BytesIO(data))

        add("cat/first.png")
        match kind:
            case "link":
                add("cat/out", type=tarfile.SYMTYPE, linkname="/etc/passwd")
            case "hard link":
                add("cat/out", type=tarfile.LNKTYPE, linkname="../../../etc/passwd")
            case "device":
                add("cat/zero", type=tarfile.CHRTYPE, devmajor=1, devminor=5)
            case "up":
                add("../outside.png")
            case "twice":
                add("cat/first.png")
    if kind == "cut":
        file.write_bytes(file.read_bytes()[:60])
    if kind == "text":
        file.write_text("This is no archive.")
    inside = tmp_path / "inside"
    inside.mkdir()
    with pytest.raises(ContractError) as caught:
        unpack(file, inside, bytes_max=1 << 20)
    assert caught.value.code == "dataset.archive"
    assert not list(tmp_path.rglob("outside*"))
    assert not any(path.is_symlink() for path in tmp_path.rglob("*"))


def test_a_full_disk_is_no_fault_of_the_archive(tmp_path: Path) -> None:
    file = tmp_path / "large.zip"
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("cat/zeros.png", bytes(4 << 20))
    with (
        small_disk(tmp_path / "small", size_bytes=1 << 20) as disk,
        pytest.raises(TransientError) as caught,
    ):
        unpack(file, disk.folder, bytes_max=1 << 30)
    assert caught.value.code.startswith("disk.")


def test_a_folder_that_wraps_the_source_is_looked_through(tmp_path: Path) -> None:
    write_pictures(tmp_path / "a" / "wrapped", count=1)
    (tmp_path / "b" / "normal").mkdir(parents=True)
    (tmp_path / "b" / "normal" / "1.png").write_bytes(picture(1))
    write_pictures(tmp_path / "c" / "train", count=1)
    found = []
    for name in "abc":
        inside = tmp_path / f"in-{name}"
        inside.mkdir()
        archive = zipped(tmp_path / name, tmp_path / f"{name}.zip")
        found.append(unpack(archive, inside, bytes_max=1 << 20).name)
    assert found == ["wrapped", "in-b", "in-c"]


@only_sqlite
@pytest.mark.slow
def test_a_source_that_is_none_says_so_and_leaves_nothing(
    database: Database, tmp_path: Path
) -> None:
    service = open_service(database, tmp_path)
    folder = tmp_path / "broken"
    folder.mkdir()
    for index in range(5):
        (folder / f"{index}.png").write_bytes(os.urandom(100 + index))
    bad = tmp_path / "bad.zip"
    with zipfile.ZipFile(bad, "w") as archive:
        archive.writestr("../out.png", picture(1))
    for source in (folder, bad, tmp_path / "nothing.csv"):
        with pytest.raises(ContractError):
            service.import_file("noise", source, by="anna")
    assert service.list() == ()
    assert ObjectStore(str(tmp_path / "objects")).paths("datasets") == ()
    assert list((tmp_path / "datasets" / "work").iterdir()) == []


@only_sqlite
@pytest.mark.slow
def test_a_source_that_needs_too_much_processor_time_ends_with_its_reason(
    database: Database, tmp_path: Path
) -> None:
    settings = DatasetSettings(import_s_max=10)
    service = open_service(database, tmp_path, settings)
    noise = write_noise(tmp_path / "noise", count=2)
    stopped: list[psutil.Process] = []

    def stop() -> None:
        wait_until(lambda: bool(children_of(psutil.Process())), seconds_max=20)
        for child in children_of(psutil.Process()):
            child.send_signal(signal.SIGXCPU)
            stopped.append(child)

    stopper = threading.Thread(target=stop)
    stopper.start()
    with pytest.raises(RefusedError, match="processor time") as caught:
        service.import_file("noise", noise, by="anna")
    stopper.join()
    assert stopped
    assert caught.value.code == "dataset.import_failed"
    assert caught.value.remedy


@only_sqlite
@pytest.mark.slow
def test_a_reader_killed_in_the_middle_leaves_nothing_that_stays(
    database: Database, tmp_path: Path
) -> None:
    service = open_service(database, tmp_path)
    objects = ObjectStore(str(tmp_path / "objects"))
    noise = write_noise(tmp_path / "noise")

    def kill() -> None:
        wait_until(lambda: bool(objects.paths("datasets/packs")), seconds_max=60)
        for child in children_of(psutil.Process()):
            child.kill()

    killer = threading.Thread(target=kill)
    killer.start()
    with pytest.raises(RefusedError, match="SIGKILL") as caught:
        service.import_file("noise", noise, by="anna")
    killer.join()
    assert caught.value.code == "dataset.import_failed"
    assert objects.paths("datasets/packs")
    assert service.list() == ()
    assert service.sweep() >= 1
    assert objects.paths("datasets") == ()
    assert list((tmp_path / "datasets" / "work").iterdir()) == []


@only_sqlite
@pytest.mark.slow
def test_a_hub_killed_in_the_middle_of_an_import_starts_clean_and_its_reader_ends(
    database: Database, tmp_path: Path
) -> None:
    write_noise(tmp_path / "noise")
    objects = ObjectStore(str(tmp_path / "objects"))
    with subprocess.Popen([sys.executable, "-c", HUB, str(tmp_path)]) as hub:
        wait_until(lambda: bool(objects.paths("datasets/packs")), seconds_max=60)
        readers = children_of(psutil.Process(hub.pid))
        hub.kill()
    assert len(readers) == 1
    wait_until(lambda: not readers[0].is_running(), seconds_max=60)
    assert list((tmp_path / "datasets" / "work").iterdir())
    service = open_service(database, tmp_path)  # As at the hub's next start
    assert service.list() == ()
    assert objects.paths("datasets") == ()
    assert list((tmp_path / "datasets" / "work").iterdir()) == []
    imported = service.import_file("noise", tmp_path / "noise", by="anna")
    assert imported.version.items_count == 40
