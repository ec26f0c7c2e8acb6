"""Battery, load, memory and the kind of network, from folders laid out as the kernel's."""

from pathlib import Path

import numpy as np
import pytest

from edge_agent.training.eligibility import Conditions
from edge_agent.training.file_samples_count import count_samples
from edge_agent.training.procfs_power import ProcfsPower
from edge_agent.training.settings import SampleFormat, SampleSettings
from shared.clock import SystemClock
from tests.support.manual_clock import ManualClock

ROUTES = "Iface Destination Gateway Flags RefCnt Use Metric Mask MTU Window IRTT\n"


def lay(folder: Path, **files: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name).write_text(text + "\n")


def read(root: Path) -> Conditions:
    return ProcfsPower(
        ManualClock(),
        proc=root / "proc",
        thermal=root / "thermal",
        power=root / "power",
        network=root / "net",
    ).read(is_clock_trusted=True)


def test_an_empty_machine_tells_nothing(tmp_path: Path) -> None:
    found = read(tmp_path)
    assert (found.is_on_battery, found.load, found.is_metered) == (None, None, None)
    assert (found.temperature_c, found.memory_free_bytes) == (None, None)


@pytest.mark.parametrize(
    ("online", "status", "is_on_battery"),
    [("1", "Discharging", False), ("0", "Discharging", True), ("0", "Charging", False)],
)
def test_a_battery_feeds_only_where_nothing_else_does(
    tmp_path: Path, online: str, status: str, is_on_battery: bool
) -> None:
    lay(tmp_path / "power" / "AC", type="Mains", online=online)
    lay(tmp_path / "power" / "BAT0", type="Battery", status=status, capacity="42", present="1")
    lay(tmp_path / "power" / "mouse", type="Battery", scope="Device", capacity="3")
    found = read(tmp_path)
    assert (found.is_on_battery, found.battery_share) == (is_on_battery, 0.42)


@pytest.mark.parametrize(
    ("lines", "interface", "is_metered"),
    [
        ("eth0 00000000 0101A8C0 0003 0 0 100 00000000 0 0 0\n", "eth0", False),
        (
            "eth0 00000000 0101A8C0 0003 0 0 700 00000000 0 0 0\n"
            "wwan0 00000000 0101A8C0 0003 0 0 100 00000000 0 0 0\n",
            "wwan0",
            True,
        ),
        ("ppp0 0001A8C0 00000000 0001 0 0 0 00FFFFFF 0 0 0\n", "", None),
        ("modem 00000000 0101A8C0 0003 0 0 100 00000000 0 0 0\n", "modem", True),
    ],
)
def test_the_default_route_tells_the_network(
    tmp_path: Path, lines: str, interface: str, is_metered: bool | None
) -> None:
    lay(tmp_path / "proc" / "net", route=ROUTES + lines)
    lay(tmp_path / "net" / "modem", uevent="DEVTYPE=wwan\nINTERFACE=modem")
    found = read(tmp_path)
    assert (found.network, found.is_metered) == (interface, is_metered)


def test_load_memory_and_temperature_are_read(tmp_path: Path) -> None:
    lay(tmp_path / "proc", loadavg="1.25 2 3 1/2 4", meminfo="MemAvailable:  2048 kB")
    lay(tmp_path / "thermal" / "thermal_zone0", temp="61500")
    found = read(tmp_path)
    assert (found.load, found.memory_free_bytes, found.temperature_c) == (1.25, 2 << 20, 61.5)


def test_this_machine_can_be_read() -> None:
    found = ProcfsPower(SystemClock()).read(is_clock_trusted=True)
    assert found.load is not None
    assert (found.memory_free_bytes or 0) > 0


def test_samples_are_counted_without_opening_them(tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        lay(tmp_path / "pictures" / name, **{"a.png": "", "b.JPG": "", "notes.txt": ""})
    np.savez(tmp_path / "s.npz", items=np.zeros((7, 3)), labels=np.zeros(7, np.int64))

    def count(name: str, kind: SampleFormat) -> int:
        entry = SampleSettings(model="digits", path=str(tmp_path / name), format=kind)
        return count_samples(entry).count

    assert count("pictures", SampleFormat.FOLDER) == 4
    assert count("s.npz", SampleFormat.NPZ) == 7
    assert count("none", SampleFormat.FOLDER) == 0
    assert count("none", SampleFormat.NPZ) == 0
