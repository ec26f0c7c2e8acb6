"""ProcfsHost: numbers of the device itself, from /proc, /sys and the file system (Linux).

What cannot be read is told as 0 (memory, disk) or as unknown (temperature): a missing sensor must
not keep a device from telling the rest.
"""

import os
from pathlib import Path

from shared.clock import Clock
from shared.wire.records import HostRecord

PROC = Path("/proc")
THERMAL = Path("/sys/class/thermal")
ZONES_MAX = 32
PROCESSES_MAX = 256
CPU_SHARE_MAX = 1024.0  # The wire's, as are the bounds of a temperature
TEMPERATURE_C_MIN = -100.0
TEMPERATURE_C_MAX = 300.0
# /proc/<pid>/stat (proc(5)): fields 14 and 15, utime and stime, counted after the name's ")".
_UTIME, _STIME = 11, 12


class ProcfsHost:
    """Reads a HostRecord about the time since the last reading. Not thread-safe."""

    def __init__(
        self, disk: Path, clock: Clock, *, proc: Path = PROC, thermal: Path = THERMAL
    ) -> None:
        """Args: `disk` is any path on the file system whose free space counts."""
        self._disk, self._clock, self._proc, self._thermal = disk, clock, proc, thermal
        self._read_s = clock.monotonic_s()
        self._cpu_s = self._read_cpu_s()

    def read(self) -> HostRecord:
        """Return the numbers since the last call, or since the start."""
        now_s, cpu_s = self._clock.monotonic_s(), self._read_cpu_s()
        window_s, used_s = now_s - self._read_s, cpu_s - self._cpu_s
        self._read_s, self._cpu_s = now_s, cpu_s
        share = used_s / window_s if window_s > 0 else 0.0
        return HostRecord(
            window_s=max(0.0, window_s),
            cpu_share=min(max(share, 0.0), CPU_SHARE_MAX),
            rss_bytes=self._read_rss_bytes(),
            disk_free_bytes=self._read_disk_free_bytes(),
            temperature_c=self._read_temperature_c(),
        )

    def _read_cpu_s(self) -> float:
        """Return processor time of this process, all threads, in seconds."""
        return _cpu_s(self._proc / "self")

    def _read_rss_bytes(self) -> int:
        fields = _read(self._proc / "self" / "statm").split()
        return int(fields[1]) * os.sysconf("SC_PAGE_SIZE") if len(fields) > 1 else 0

    def _read_disk_free_bytes(self) -> int:
        try:
            status = os.statvfs(self._disk)
        except OSError:
            return 0
        return status.f_bavail * status.f_frsize

    def _read_temperature_c(self) -> float | None:
        """Return the hottest zone's temperature."""
        zones = sorted(self._thermal.glob("thermal_zone*/temp"))[:ZONES_MAX]
        readings = [t for t in (_celsius(_read(zone)) for zone in zones) if t is not None]
        return max(readings, default=None)


class ProcfsCpu:
    """Reads how much of a core other processes took since the last reading. Not thread-safe."""

    def __init__(self, clock: Clock, *, proc: Path = PROC) -> None:
        self._clock, self._proc = clock, proc
        self._read: dict[int, tuple[float, float]] = {}  # By pid: when, and its processor time

    def share(self, pid: int) -> float:
        """Return the share since the last call for this process; 0 the first time."""
        now_s, cpu_s = self._clock.monotonic_s(), _cpu_s(self._proc / str(pid))
        if pid not in self._read and len(self._read) >= PROCESSES_MAX:
            self._read.pop(next(iter(self._read)))  # The one first seen; most likely gone
        before_s, before_cpu_s = self._read.get(pid, (now_s, cpu_s))
        self._read[pid] = now_s, cpu_s
        window_s = now_s - before_s
        share = (cpu_s - before_cpu_s) / window_s if window_s > 0 else 0.0
        return min(max(share, 0.0), CPU_SHARE_MAX)


def _cpu_s(process: Path) -> float:
    """Return a process's processor time, all threads, in seconds; 0 if there is none."""
    fields = _read(process / "stat").rpartition(")")[2].split()
    if len(fields) <= _STIME:
        return 0.0
    return (int(fields[_UTIME]) + int(fields[_STIME])) / os.sysconf("SC_CLK_TCK")


def _celsius(text: str) -> float | None:
    """Return a zone's file (thousandths of a degree) in °C; None if it is no possible one."""
    try:
        degrees = int(text) / 1000
    except ValueError:
        return None
    return degrees if TEMPERATURE_C_MIN <= degrees <= TEMPERATURE_C_MAX else None


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
