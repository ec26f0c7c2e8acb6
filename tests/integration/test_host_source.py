"""HostSource on files like those of a kernel, and on this machine."""

import math
import threading
from pathlib import Path

import numpy as np
import pytest

from edge_agent.sources.procfs_source import HostReadings, HostSource
from shared.errors import TransientError
from shared.pipeline.sources import HostChannel, HostSettings, WindowSettings
from tests.support.manual_clock import ManualClock

NEVER = threading.Event()
C = HostChannel


def write_machine(root: Path, *, busy: int, received: int, sectors: int) -> None:
    """Write what a machine of two cores would show; `busy` in hundredths of a second."""
    files = {
        "proc/stat": f"cpu  {busy} 0 0 5000 900 0 0 0 0 0\ncpu0 1 0 0 1\ncpu1 1 0 0 1\nintr 5\n",
        "proc/loadavg": "0.50 0.40 0.30 1/100 4242\n",
        "proc/meminfo": "MemTotal: 1000 kB\nMemFree: 10 kB\nMemAvailable: 750 kB\n",
        "proc/net/dev": (
            "Inter-| Receive\n face |bytes\n"
            "    lo: 99999 0 0 0 0 0 0 0 99999 0 0 0 0 0 0 0\n"
            f"  eth0: {received} 0 0 0 0 0 0 0 {2 * received} 0 0 0 0 0 0 0\n"
        ),
        "proc/diskstats": (
            f" 8 0 sda 1 0 {sectors} 0 1 0 {3 * sectors} 0 0 0 0\n"
            f" 8 1 sda1 1 0 {sectors} 0 1 0 {3 * sectors} 0 0 0 0\n"
            " 7 0 loop0 1 0 777 0 1 0 777 0 0 0 0\n"
        ),
        "sys/class/thermal/thermal_zone0/temp": "41500\n",
        "sys/class/thermal/thermal_zone1/temp": "-274000\n",
        "sys/block/sda/size": "1",
        "sys/block/loop0/size": "1",
    }
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def test_every_channel_and_the_rates_since_the_reading_before(tmp_path: Path) -> None:
    clock = ManualClock()
    readings = HostReadings(clock, proc=tmp_path / "proc", sys=tmp_path / "sys")
    write_machine(tmp_path, busy=1000, received=500, sectors=10)
    first = readings.read()
    assert set(first) == set(HostChannel)
    assert math.isnan(first[C.CPU_SHARE])
    assert (first[C.LOAD_1M], first[C.MEMORY_SHARE], first[C.TEMPERATURE_C]) == (0.5, 0.25, 41.5)
    clock.advance(2.0)
    write_machine(tmp_path, busy=1100, received=900, sectors=30)
    second = readings.read()
    assert second[C.CPU_SHARE] == pytest.approx(0.25)  # 1 s of two cores, in 2 s
    assert (second[C.NETWORK_IN_BYTES_S], second[C.NETWORK_OUT_BYTES_S]) == (200.0, 400.0)
    assert second[C.DISK_READ_BYTES_S] == 20 * 512 / 2
    assert second[C.DISK_WRITTEN_BYTES_S] == 60 * 512 / 2
    write_machine(tmp_path, busy=1100, received=0, sectors=30)
    clock.advance(1.0)
    assert math.isnan(readings.read()[C.NETWORK_IN_BYTES_S])  # The counter went back


@pytest.mark.parametrize("text", ["", "cpu\n", "cpu x y z a b c d e\nrubbish", "\x00" * 50])
def test_what_cannot_be_read_is_a_missing_value(tmp_path: Path, text: str) -> None:
    write_machine(tmp_path, busy=1, received=1, sectors=1)
    for path in (*(tmp_path / "proc").rglob("*"), *(tmp_path / "sys").rglob("temp")):
        if path.is_file():
            path.write_text(text)
    clock = ManualClock()
    readings = HostReadings(clock, proc=tmp_path / "proc", sys=tmp_path / "sys")
    readings.read()
    clock.advance(1.0)
    values = {name: value for name, value in readings.read().items() if not math.isnan(value)}
    assert all(value == 0.0 for value in values.values())


def test_a_channel_that_the_machine_does_not_have_is_named_when_it_is_opened(
    tmp_path: Path,
) -> None:
    write_machine(tmp_path, busy=1, received=1, sectors=1)
    (tmp_path / "sys/class/thermal/thermal_zone0/temp").unlink()
    places = {"proc": tmp_path / "proc", "sys": tmp_path / "sys"}

    def opened(*channels: HostChannel) -> HostSource:
        settings = HostSettings(channels=channels, window=WindowSettings(samples=1))
        source = HostSource(settings, ManualClock(), **places)
        source.open()
        return source

    with pytest.raises(TransientError) as caught:
        opened(C.CPU_SHARE, C.TEMPERATURE_C)
    assert "temperature_c" in caught.value.message
    assert "cpu_share" not in caught.value.message
    first = opened(C.CPU_SHARE, C.NETWORK_IN_BYTES_S, C.DISK_READ_BYTES_S).read(NEVER)
    assert first is not None  # With rates since it was opened
    (tmp_path / "proc/stat").write_text("")
    with pytest.raises(TransientError):
        opened(C.CPU_SHARE)


def test_this_machine_as_windows_at_a_rate() -> None:
    clock = ManualClock()
    settings = HostSettings(
        channels=(C.MEMORY_SHARE, C.LOAD_1M), window=WindowSettings(samples=3), rate_hz=2.0
    )
    source = HostSource(settings, clock)
    source.open()
    first, second = source.read(NEVER), source.read(NEVER)
    assert first is not None
    assert second is not None
    assert (first.sequence, second.sequence) == (0, 1)
    assert (first.captured_s, second.captured_s) == (1001.0, 1001.5)
    assert first.samples.shape == (3, 2)
    assert np.all((first.samples[:, 0] > 0.0) & (first.samples[:, 0] < 1.0))
    stop = threading.Event()
    stop.set()
    assert source.read(stop) is None
    source.close()
